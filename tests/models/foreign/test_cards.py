"""Model cards and other tools' files beside a model: what they state is taken, and said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from foreign_models import resnet
from leadapron.errors import StoreError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models import card as cards
from leadapron.models.card import ModelCard, card_for, read_card, write_card
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.companions import beside
from leadapron.models.foreign import open_model
from leadapron.models.networks import build_network
from leadapron.models.parsing.external import MARK, content_of
from leadapron.models.stated import IMAGE, ModelSettings, Opening
from leadapron.store import sha256_of

FINDINGS = ("Effusion", "Mass", "Nodule")
ALL = ModelSettings(
    size=96, crop=0.9, aspect="pad", interpolation="area", normalisation="0.4/0.2", head="sigmoid",
    findings=FINDINGS, operating_points=(0.9, 0.5, 0.25), architecture="resnet18",
)  # fmt: skip


@pytest.fixture(scope="module")
def state():
    """A ResNet-18 that names nothing."""
    return {
        n: v.half() if v.is_floating_point() else v
        for n, v in resnet(channels=1).state_dict().items()
    }


@pytest.fixture
def model(tmp_path, state):
    path = tmp_path / "bundle" / "models" / "vendor.pt"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return path


def card_of(model, settings=ALL, sha256=None):
    return ModelCard(
        file=model.name, sha256=sha256 or sha256_of(model), model=settings, basis={"size": "tried"}
    )


def opened(model, *words, **options):
    return open_model(model, *words, device="cpu", precision="fp32", **options)


def test_a_card_is_written_and_read_back(tmp_path, model):
    write_card(tmp_path / "card.yaml", card_of(model))
    assert read_card(tmp_path / "card.yaml") == card_of(model)
    assert "weights_key" not in (tmp_path / "card.yaml").read_text()


@pytest.mark.parametrize("name", ["vendor.yaml", "model.yaml"])
def test_the_card_beside_a_model_is_taken(model, name):
    write_card(model.with_name(name), card_of(model))
    found = opened(model)
    network = found.classifier
    assert network.findings == FINDINGS
    assert network.preprocessing == Preprocessing(
        size=96, crop=0.9, aspect="pad", interpolation="area"
    )
    assert (network.mean, network.std) == (0.4, 0.2)
    assert found.stated == ALL
    assert found.notes[0].startswith(f"Stated by the model card {name}: size 96, crop 0.9")
    assert not any("ASSUMED: images" in note for note in found.notes)


def test_options_override_the_card(model):
    write_card(model.with_name("vendor.yaml"), card_of(model))
    found = opened(model, size=64, aspect="crop")
    assert (found.classifier.preprocessing.size, found.classifier.preprocessing.crop) == (64, 0.9)
    assert found.stated.aspect == "crop"
    assert opened(model, FINDINGS, card=False).classifier.preprocessing.size == 224


def test_operating_points_become_a_half(model):
    write_card(model.with_name("vendor.yaml"), card_of(model))
    images = np.random.default_rng(0).integers(0, 256, (4, 96, 96), np.uint8)
    scaled = opened(model).classifier
    plain = opened(model, card=False, **{**ALL.given, "operating_points": None}).classifier
    given, wanted = plain.probabilities(images), scaled.probabilities(images)
    points = np.array(ALL.operating_points)
    below = given < points
    assert below.any()
    np.testing.assert_allclose(
        wanted,
        np.where(below, given / points / 2, 1 - (1 - given) / (1 - points) / 2),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(plain.logits(images), scaled.logits(images))


def test_the_card_of_another_file_is_ignored_if_found_and_refused_if_named(model):
    card = model.with_name("vendor.yaml")
    write_card(card, card_of(model, sha256="0" * 64))
    found = opened(model, FINDINGS)
    assert found.classifier.preprocessing.size == 224
    assert found.notes[0] == (
        "vendor.yaml beside it is the card of another file (vendor.pt): the SHA-256 differs; it "
        "was ignored."
    )
    with pytest.raises(StoreError, match=r"vendor\.yaml is the card of another file .* inspect"):
        opened(model, FINDINGS, card=card)
    with pytest.raises(StoreError, match=r"by: leadapron inspect vendor\.pt --out vendor\.yaml$"):
        opened(model, FINDINGS, card=card)
    card.write_text("epochs: 3\n")
    assert "is no model card; it was ignored" in opened(model, FINDINGS).notes[0]
    with pytest.raises(StoreError, match="is no model card; expected one that"):
        opened(model, FINDINGS, card=card)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"siz": 64}}, "unknown setting of model 'siz'; did you mean size"),
        ({"model": {"size": "many"}}, r"`model\.size` many: input should be a valid integer"),
        ({"model": {"size": 4}}, "size 4 is out of range"),
        ({"model": {"findings": ["A", "A\u200b", "A\\u200b"]}}, "both shown as"),
        ({"model": {"findings": ["A", "A"]}}, "empty or repeated"),
        ({"model": {"normalisation": "0.5/0"}}, "expected MEAN/STD"),
        ({"model": {"operating_points": [2]}}, "expected numbers above 0 and below 1"),
        ({"model": [1]}, "a section model"),
        ({"sha256": "abc"}, "64 hex digits"),
        ({"schema": 9}, "isn't a model card of schema 1"),
        ({"run": "me"}, "unknown entry 'run'"),
        ({"basis": 3}, "the section `basis`"),
    ],
)
def test_cards_that_are_broken_are_refused(model, change, words):
    card = model.with_name("vendor.yaml")
    write_card(card, card_of(model))
    facts = {**cards.read_yaml(card), **change}
    card.write_text(json.dumps(facts))  # which is YAML
    with pytest.raises(StoreError, match=words) as caught:
        opened(model, FINDINGS)
    assert "vendor.yaml" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch canary']",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b" + ", *b" * 60_000 + "]",
        "[" * 100,
        "a" * 1_100_000,
        "\x00",
    ],
)
def test_hostile_cards_run_nothing_and_take_one_line(model, text, monkeypatch):
    monkeypatch.chdir(model.parent)
    card = model.with_name("vendor.yaml")
    card.write_text(text)
    with pytest.raises(StoreError) as caught:
        opened(model, FINDINGS, card=card)
    assert "\n" not in str(caught.value)
    assert not model.with_name("canary").exists()
    assert "it was ignored" in card_for(model).notes[0]


def test_the_card_of_an_onnx_file_is_one_of_its_other_files_too(tmp_path):
    """Other weights are another model, though model.onnx is the same file."""
    model, weights = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    name = weights.name.encode()
    model.write_bytes(b"....." + MARK + bytes([len(name)]) + name)
    weights.write_bytes(b"these")
    write_card(tmp_path / "model.yaml", card_of(model, sha256=content_of(model)))
    assert content_of(model) != sha256_of(model)
    held = card_for(model)
    assert (held.settings, held.content) == (ALL, content_of(model))
    weights.write_bytes(b"other")
    held = card_for(model)
    assert held.settings == ModelSettings()
    assert "is the card of another file (model.onnx)" in held.notes[0]
    with pytest.raises(StoreError, match="is the card of another file"):
        card_for(model, tmp_path / "model.yaml")


def test_names_of_a_card_are_cleaned(model):
    named = ModelSettings(findings=("A\x1b[2J", "B\u202e", "C" * 300))
    write_card(model.with_name("vendor.yaml"), card_of(model, named))
    assert opened(model).classifier.findings == ("A\\x1b[2J", "B\\u202e", "C" * 197 + "...")


def test_a_file_of_this_package_agrees_with_its_card_or_is_refused(tmp_path):
    path = tmp_path / "own.safetensors"
    own = NetworkClassifier(
        build_network("resnet9", 3, 0).eval(), "resnet9", FINDINGS, Preprocessing(size=32),
        operating_points=(0.2, 0.5, 0.5),
    )  # fmt: skip
    save_classifier(own, path)
    write_card(tmp_path / "own.yaml", card_of(path, ModelSettings(size=32, findings=FINDINGS)))
    assert opened(path).classifier.operating_points == (0.2, 0.5, 0.5)
    with pytest.raises(UsageError, match="states its own size, crop, which differ"):
        opened(path, size=64, crop=0.5)


def test_what_is_wrong_is_told_with_what_to_type(model, tmp_path):
    with pytest.raises(UsageError, match=r"vendor\.pt doesn't name its 3 outputs; name them in"):
        opened(model)
    with pytest.raises(UsageError, match=r"has 3 outputs and 2 different names"):
        opened(model, FINDINGS[:2])
    with pytest.raises(UsageError, match=r"2 numbers for 3 findings; expected one for each"):
        opened(model, FINDINGS, operating_points=[0.1, 0.2])
    with pytest.raises(UsageError, match=r"`model\.gives` probabilities: vendor\.pt holds weights"):
        opened(model, FINDINGS, gives="probabilities")
    (model.parent / "other.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"folder that holds other\.onnx, vendor\.pt; name one"):
        opened(model.parent)
    with pytest.raises(UsageError, match="expected one of them"):
        opened(model, FINDINGS, preprocessing=Preprocessing(size=32), size=32)


# --- other tools' files


def test_a_monai_bundle_is_read(model):
    place = model.parent.parent / "configs" / "metadata.json"
    place.parent.mkdir()
    image = {"num_channels": 1, "spatial_shape": [96, 96], "value_range": [-1, 1]}
    names = {str(i): name for i, name in enumerate(FINDINGS)}
    facts = {
        "network_data_format": {
            "inputs": {"image": image},
            "outputs": {"pred": {"type": "probabilities", "format": "classes",
                                 "channel_def": names}},
        }
    }  # fmt: skip
    place.write_text(json.dumps(facts))
    found = opened(model)
    assert found.notes[0].startswith("ASSUMED, since metadata.json beside it says so: size 96")
    assert (found.classifier.findings, found.classifier.preprocessing.size) == (FINDINGS, 96)
    assert (found.classifier.mean, found.classifier.std) == (0.5, 0.5)
    facts["network_data_format"]["outputs"]["pred"]["format"] = "segmentation"
    place.write_text(json.dumps(facts))
    with pytest.raises(UsageError, match=r"metadata\.json .* says that it segments; expected a"):
        opened(model)


HUGGING_FACE = {
    "transformers": (
        {
            "id2label": {"0": "Effusion", "1": "Mass"},
            "image_size": 384,
            "problem_type": "multi_label_classification",
        },
        {
            "do_center_crop": True,
            "crop_size": {"height": 320, "width": 320},
            "image_mean": [0.5],
            "image_std": [0.25],
            "resample": 3,
        },
        ModelSettings(
            findings=("Effusion", "Mass"), size=320, head="sigmoid", normalisation="0.5/0.25",
            interpolation="bicubic", aspect="crop",
        ),
    ),
    "timm": (
        {
            "num_classes": 2,
            "label_names": ["Effusion", "Mass"],
            "pretrained_cfg": {
                "input_size": [3, 256, 256],
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
                "interpolation": "bicubic",
                "crop_pct": 0.875,
            },
        },
        None,
        ModelSettings(
            findings=("Effusion", "Mass"), size=256, interpolation="bicubic", crop=0.875,
            normalisation="0.485,0.456,0.406/0.229,0.224,0.225",
        ),
    ),
    "placeholders and nonsense": (
        {
            "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
            "image_size": "many",
            "pretrained_cfg": {"mean": ["x"], "std": [0], "crop_pct": 7, "input_size": [3, 1, 2]},
        },
        {"resample": [1], "size": {"shortest_edge": 10**30}, "image_mean": [1e999]},
        ModelSettings(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_a_hugging_face_folder_is_read(tmp_path, kind):
    config, processor, wanted = HUGGING_FACE[kind]
    (tmp_path / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert beside(tmp_path / "model.safetensors").settings == wanted


def test_settings_over_others_and_what_is_stated():
    some = ModelSettings(size=64, findings=("A",))
    assert some.over(ModelSettings(size=96, crop=0.5)).given == {
        "size": 64, "crop": 0.5, "findings": ("A",),
    }  # fmt: skip
    opening = Opening(model=some, trust_programs=True)
    assert opening.named == ("model.size", "model.findings", "trust_programs")
    assert set(IMAGE) <= set(ModelSettings.__dataclass_fields__)
