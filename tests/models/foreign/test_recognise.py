"""State dicts of other libraries: their names, their networks' answers, what is assumed aloud."""

from __future__ import annotations

import json
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from monai.networks.nets.unet import UNet
from safetensors.torch import save_file
from scipy.special import expit

from foreign_models import (
    GENUINE,
    as_2017,
    as_chexnet,
    as_torchvision,
    as_torchxrayvision,
    densenet,
    resnet,
)
from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.foreign import NORMALISATIONS, Normalisation, open_model
from leadapron.models.foreign.recognise import XRV_FINDINGS
from leadapron.models.networks import build_network

FINDINGS = ("Effusion", "Mass", "Nodule")
SMALL = Preprocessing(size=64)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
LARGE = np.random.default_rng(0).integers(0, 256, (2, 224, 224), np.uint8)


@pytest.fixture(scope="module")
def grey():
    return densenet()


@pytest.fixture(scope="module")
def colour():
    return densenet(channels=3)


@pytest.fixture
def opened(tmp_path):
    def open_(state, findings=FINDINGS, **options):
        path = tmp_path / "model.pth"
        torch.save(state, path)
        options = {"preprocessing": SMALL, "device": "cpu", "precision": "fp32", **options}
        return open_model(path, findings, **options)

    return open_


def answers(network, normalisation, channels):
    """What a network of another library says to the pixels, as its own users would ask."""
    scale = NORMALISATIONS[normalisation]
    mean, std = (torch.tensor(v).double()[:, None, None] for v in (scale.mean, scale.std))
    x = (torch.from_numpy(PIXELS).double()[:, None] / 255 - mean) / std
    with torch.inference_mode():
        return network(x.expand(-1, channels, -1, -1).float()).numpy()


def test_the_renamed_names_are_genuine(grey):
    state = grey.state_dict()
    made = {
        "torchvision": as_torchvision(state),
        "torchvision 2017": as_2017(state),
        "CheXNet": as_chexnet(state),
        "torchxrayvision": as_torchxrayvision(state),
        "MONAI": state,
        "ResNet": resnet().state_dict(),
    }
    assert set(made) == set(GENUINE)
    for library, names in GENUINE.items():
        assert set(names) <= set(made[library]), library


WRAPPED = {
    "torchvision": lambda s: as_torchvision(s),
    "of 2017": lambda s: as_2017(s),
    "CheXNet": lambda s: {"epoch": 3, "state_dict": as_chexnet(s), "optimizer": {"lr": 1e-3}},
    "DataParallel": lambda s: {f"module.{n}": v for n, v in as_torchvision(s).items()},
    "compiled": lambda s: {f"_orig_mod.{n}": v for n, v in as_torchvision(s).items()},
    "Lightning": lambda s: {
        "state_dict": {
            **{f"model.{n}": v for n, v in as_torchvision(s).items()},
            "criterion.pos_weight": torch.ones(3),
        },
        "pytorch-lightning_version": "2.0",
    },
    "backbone and head": lambda s: {
        n.replace("classifier.", "head.") if n.startswith("classifier") else f"backbone.{n}": v
        for n, v in as_torchvision(s).items()
    },
    "checkpoint": lambda s: {"model": as_torchvision(s), "best": 0.81},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers_are_taken_off(opened, grey, how):
    model = opened(WRAPPED[how](grey.state_dict()), normalisation="torchxrayvision").classifier
    assert isinstance(model, NetworkClassifier)
    expected = answers(grey, "torchxrayvision", 1)
    assert expected.std(0).min() > 1e-3
    np.testing.assert_allclose(model.logits(PIXELS), expected, atol=1e-3, rtol=1e-3)


def test_monai(opened, grey):
    found = opened(grey.state_dict())
    np.testing.assert_allclose(found.classifier.logits(PIXELS), answers(grey, "unit", 1), atol=1e-5)
    assert (
        "ASSUMED: the normalisation 'unit', since it looks like a model of MONAI" in found.notes[0]
    )


@pytest.mark.parametrize("network", ["densenet", "resnet18"])
def test_three_channels_become_one(opened, colour, network):
    theirs = colour if network == "densenet" else resnet("resnet18")
    found = opened(as_torchvision(theirs.state_dict()))
    assert any("summed over red, green and blue" in note for note in found.notes)
    assert any("torchvision or timm, judging only by its shape" in note for note in found.notes)
    expected, got = answers(theirs, "imagenet", 3), found.classifier.logits(PIXELS)
    # Exact but for the outermost pixels, which are many in an image of 64.
    assert np.abs(got - expected).max() < 0.2 * expected.std(0).max()
    one = opened(as_torchvision(theirs.state_dict()), normalisation="unit").classifier
    np.testing.assert_allclose(one.logits(PIXELS), answers(theirs, "unit", 3), atol=1e-4)


def test_the_constant_goes_into_the_batch_normalisation():
    """By hand: both networks' first two layers agree inside, where no padding is met."""
    from leadapron.models.foreign.recognise import _to_one_channel

    theirs = densenet(channels=3)
    trunk = {
        n.removeprefix("features."): v.clone()
        for n, v in theirs.state_dict().items()
        if n.startswith(("features.conv0", "features.norm0"))
    }
    mean, std = _to_one_channel(trunk, NORMALISATIONS["imagenet"], "m", [])
    scale = NORMALISATIONS["imagenet"]
    x = torch.rand(2, 1, 40, 40, dtype=torch.float64)
    wide = (x - torch.tensor(scale.mean)[:, None, None]) / torch.tensor(scale.std)[:, None, None]
    norm = theirs.features.norm0.double()
    expected = norm(torch.nn.functional.conv2d(wide, theirs.features.conv0.weight.double()))
    norm.running_mean.copy_(trunk["norm0.running_mean"])
    got = norm(torch.nn.functional.conv2d((x - mean) / std, trunk["conv0.weight"].double()))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnets(opened, name):
    theirs = resnet(name, channels=1)
    found = opened(theirs.state_dict(), normalisation="unit")
    assert found.classifier.architecture == name
    expected = answers(theirs, "unit", 1)
    np.testing.assert_allclose(
        found.classifier.logits(PIXELS), expected, atol=1e-4 * np.abs(expected).max()
    )


def test_monais_resnet_keeps_its_stride_and_its_biases(opened):
    theirs = resnet(channels=1, stride=1, bias=True)
    with torch.no_grad():
        theirs.layer2[0].downsample[0].bias.fill_(0.7)
    found = opened(theirs.state_dict())
    assert found.classifier.architecture == "resnet18-stride1"
    assert "stride 1, MONAI's default" in found.notes[0]
    expected = answers(theirs, "unit", 1)
    np.testing.assert_allclose(
        found.classifier.logits(PIXELS), expected, atol=1e-4 * np.abs(expected).max()
    )
    other = opened(theirs.state_dict(), architecture="resnet18")
    assert other.classifier.architecture == "resnet18"
    assert not any("stride" in note for note in other.notes)


def test_torchxrayvision(opened):
    theirs = densenet(outputs=18)
    state = as_torchxrayvision(theirs.state_dict(), [0.1] * 14 + [np.nan] * 4)
    found = opened(state, None, preprocessing=None)
    model = found.classifier
    assert model.findings == XRV_FINDINGS
    assert (model.preprocessing.size, model.preprocessing.aspect) == (224, "crop")
    extremes = model.normalise(torch.tensor([[[0, 255]]], dtype=torch.uint8)).ravel()
    np.testing.assert_allclose(extremes, [-1024, 1024])
    said = " ".join(found.notes)
    assert "default_pathologies" in said
    assert "op_threshs) are applied" in said
    assert "no operating point for Lung Lesion, Fracture, Lung Opacity, Enlarged" in said
    probabilities, logits = model.probabilities(LARGE), model.logits(LARGE)
    plain = expit(logits.astype(np.float64))
    # By hand, for an operating point of 0.1: a probability of 0.1 becomes 0.5, and 0 and 1 stay.
    expected = np.where(plain < 0.1, plain * 5, 0.5 + (plain - 0.1) / 1.8)
    np.testing.assert_allclose(probabilities[:, :14], expected[:, :14], atol=1e-6)
    assert (probabilities[:, 14:] == 0.5).all()
    for broken in ([0.0] * 18, [1.5] * 18, [np.inf] * 18):
        with pytest.raises(StoreError, match=r"op_threshs holds .*; expected probabilities"):
            opened(as_torchxrayvision(theirs.state_dict(), broken), None)
    with pytest.raises(UsageError, match="18 findings with a softmax head; expected one between"):
        opened(state, None, head="softmax")


def test_torchxrayvisions_resnet(opened):
    theirs = resnet("resnet50", channels=1, outputs=18)
    state = {f"model.{n}": v for n, v in theirs.state_dict().items()}
    state["op_threshs"] = torch.full((18,), 0.2)
    assert opened(state, None, preprocessing=None).classifier.preprocessing.size == 512
    model = opened(state, None).classifier
    assert model.operating_points == pytest.approx([0.2] * 18)
    assert model.findings == XRV_FINDINGS
    expected = answers(theirs, "torchxrayvision", 1)
    np.testing.assert_allclose(model.logits(PIXELS), expected, atol=1e-3 * np.abs(expected).max())


def test_findings_come_from_the_file_or_the_caller(opened, grey, tmp_path):
    state = as_torchvision(grey.state_dict())
    own = opened({"state_dict": state, "class_names": list(FINDINGS)}, None)
    assert own.classifier.findings == FINDINGS
    own = opened({"state_dict": state, "hyper_parameters": {"labels": "A, B,C"}}, None)
    assert own.classifier.findings == ("A", "B", "C")
    given = opened({"state_dict": state, "classes": ["A", "B", "C"]})
    assert given.classifier.findings == FINDINGS
    assert any("the file names its outputs A, B, C" in note for note in given.notes)
    path = tmp_path / "m.safetensors"
    save_file(state, path, {"pathologies": json.dumps(FINDINGS)})
    assert open_model(path, device="cpu").classifier.findings == FINDINGS
    for wrong in (("A", "B"), ("A", "B", "C", "D")):
        with pytest.raises(UsageError, match=r"3 outputs and . different names of findings given"):
            opened(state, wrong)
    with pytest.raises(UsageError, match="a name is empty or repeated"):
        opened(state, ("A", "A", "B"))


def test_files_of_torch_1_5(grey, tmp_path):
    path = tmp_path / "old.pth.tar"
    state = as_2017(grey.state_dict())
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    model = open_model(path, FINDINGS, preprocessing=SMALL, device="cpu").classifier
    assert model.findings == FINDINGS


def test_settings_that_do_not_fit(opened, grey):
    state = as_torchvision(grey.state_dict())
    with pytest.raises(UsageError, match="takes one channel"):
        opened(state, normalisation="imagenet")
    with pytest.raises(UnknownNameError, match="did you mean imagenet"):
        opened(state, normalisation="imagnet")
    with pytest.raises(UnknownNameError, match="unknown network"):
        opened(state, architecture="vgg16")
    with pytest.raises(StoreError, match="don't fit resnet18"):
        opened(state, architecture="resnet18")
    for mean, std in (((0.5, 0.5), (1, 1)), ((0.5,), (0,)), ((0.5,), (1, 1, 1))):
        with pytest.raises(UsageError, match="expected one number each"):
            Normalisation(mean, std)
    model = opened(state, normalisation=Normalisation((0.3,), (0.2,)), head="softmax").classifier
    assert (model.mean, model.std, model.head) == (0.3, 0.2, "softmax")


def test_leadaprons_own(tmp_path):
    own = NetworkClassifier(build_network("resnet9", 3, 0).eval(), "resnet9", FINDINGS, SMALL)
    path = tmp_path / "classifier.safetensors"
    save_classifier(own, path)
    found = open_model(path, device="cpu", precision="fp32")
    assert found.notes == ()
    assert found.origin == "leadapron's own resnet9"
    np.testing.assert_allclose(found.classifier.logits(PIXELS), own.logits(PIXELS), atol=1e-6)
    assert open_model(path, FINDINGS, preprocessing=SMALL).classifier.findings == FINDINGS
    for wrong in (
        {"findings": ("A", "B", "C")},
        {"architecture": "densenet121"},
        {"head": "softmax"},
        {"normalisation": "unit"},
        {"preprocessing": Preprocessing(size=32)},
    ):
        with pytest.raises(UsageError, match="states its own"):
            open_model(path, **wrong)


def test_a_foreign_network_is_saved_and_found_again(opened, grey, tmp_path):
    model = opened(as_torchxrayvision(grey.state_dict(), (0.1, np.nan, 0.7))).classifier
    save_classifier(model, tmp_path / "own.safetensors")
    again = open_model(tmp_path / "own.safetensors", device="cpu", precision="fp32").classifier
    assert np.array_equal(again.logits(PIXELS), model.logits(PIXELS))
    assert np.array_equal(again.probabilities(PIXELS), model.probabilities(PIXELS))
    assert np.isnan(again.operating_points[1])


def test_half_precision_is_read(opened, grey):
    state = as_torchvision(grey.state_dict())
    half = {n: v.half() if v.is_floating_point() else v for n, v in state.items()}
    model = opened(half, normalisation="unit").classifier
    assert model.module.head.weight.dtype == torch.float32
    assert np.abs(model.logits(PIXELS) - answers(grey, "unit", 1)).max() < 0.05


def test_other_kinds_of_networks_are_named(opened, tmp_path):
    words = {"bert.embeddings.word_embeddings.weight": torch.zeros(9, 4)}
    with pytest.raises(
        StoreError, match=r"is a text model, since it holds bert\.emb.*; expected a"
    ):
        opened(words)
    with pytest.raises(UsageError, match=r"has 1 output and 2 different names of findings given"):
        opened(as_torchvision(densenet(outputs=1).state_dict()), ("A", "B"))
    torch.save(UNet(2, 1, 2, (4, 8), (2,)), tmp_path / "unet.pt")
    with pytest.raises(
        StoreError, match=r"holds a monai\.networks\.nets\.unet\.UNet, with \d+ ten.*segmentation m"
    ):
        open_model(tmp_path / "unet.pt", device="cpu")
    named = {"encoder.0.weight": torch.zeros(4, 4), "segmentation_head.0.weight": torch.zeros(2, 4)}
    with pytest.raises(StoreError, match=r"draws masks, as far as its layers tell"):
        opened(named)
    with pytest.raises(StoreError, match=r"that belong to no DenseNet-121"):
        opened({"conv.weight": torch.zeros(4, 1, 3, 3), "fc.weight": torch.zeros(2, 4)})


def test_parts_of_a_model_and_archives_around_one_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "vendor.zip", "w") as archive:
        archive.writestr("v1/readme.txt", "x")
        archive.writestr("v1/model.pt", "x")
    words = r"vendor\.zip is a zip archive that holds '.*model\.pt'; unpack it, and name that file"
    with pytest.raises(StoreError, match=words):
        open_model(tmp_path / "vendor.zip", FINDINGS)
    (tmp_path / "parts").mkdir()
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (tmp_path / "parts" / name).write_bytes(b"x")
        with pytest.raises(UsageError, match=r"-of-00002\.safetensors is one of 2 parts of a mod"):
            open_model(tmp_path / "parts" / name, FINDINGS)
    with pytest.raises(UsageError, match=r"model-00001-of-00002\.safetensors is one of 2 parts"):
        open_model(tmp_path / "parts", FINDINGS)
    (tmp_path / "a.gpg").write_bytes(b"\x85\x01\x0c\x03" + bytes(60))
    with pytest.raises(StoreError, match=r"a\.gpg is encrypted by PGP; decrypt it first"):
        open_model(tmp_path / "a.gpg", FINDINGS)


@pytest.mark.parametrize(
    "kind",
    ["SegformerForSemanticSegmentation", "BertForSequenceClassification", "LlamaForCausalLM",
     "DetrForObjectDetection", "GPT2LMHeadModel"],
)  # fmt: skip
def test_models_of_transformers_for_something_else_are_named(tmp_path, kind):
    torch.save({"a.weight": torch.zeros(2, 2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [kind]}))
    words = rf"^config\.json beside the model says that it is a {kind}; expected a classifier of im"
    with pytest.raises(UsageError, match=words):
        open_model(tmp_path, FINDINGS)


def of_chexpert(network, places):
    """A checkpoint with the keys that the CheXpert group's code writes."""
    state = as_torchvision(network.state_dict())
    return {
        "ckpt_info": {"epoch": 1, "iteration": 336000}, "model_name": "DenseNet121",
        "task_sequence": OrderedDict(places),
        "model_state": {f"module.model.{name}": value for name, value in state.items()},
    }  # fmt: skip


def shown_to_chexpert(network):
    """Its logits for what torchxrayvision would show it, -2 for black to 2 for white."""
    grey = torch.from_numpy(np.float32(PIXELS) / np.float32(255))[:, None]
    with torch.inference_mode():
        return network(((grey * 2048 - 1024) / 512).repeat(1, 3, 1, 1)).numpy()


def test_a_network_of_the_chexpert_group(opened, colour):
    file = of_chexpert(colour, {"Mass": 1, "Pleural Effusion": 0, "Edema": 2})
    model = opened(file, None)
    assert model.classifier.findings == ("Pleural Effusion", "Mass", "Edema")
    np.testing.assert_allclose(
        model.classifier.logits(PIXELS), shown_to_chexpert(colour), rtol=0, atol=1e-5
    )
    assert model.given is not None
    whole = opened(file, None, preprocessing=None).classifier.preprocessing
    assert (whole.size, whole.aspect) == (320, "crop")


def test_a_network_that_models_uncertainty_gives_one_logit_for_each_finding(opened, colour):
    model = opened(of_chexpert(colour, {"Cardiomegaly": 0}), None)
    uncertain_absent_present = torch.from_numpy(shown_to_chexpert(colour))
    expected = uncertain_absent_present[:, 1:].softmax(1)[:, 1:]
    assert model.classifier.findings == ("Cardiomegaly",)
    np.testing.assert_allclose(model.classifier.probabilities(PIXELS), expected, atol=1e-6)
    assert any("present minus absent" in note for note in model.notes)
    assert model.given is None  # three rows can't be told from their difference


@pytest.mark.parametrize(
    "places", [{"A": 0, "B": 2, "C": 3}, {"A": 0, "B": 0, "C": 1}, {"A": 0.0, "B": 1, "C": 2}]
)
def test_indices_that_are_no_order_name_nothing(opened, colour, places):
    with pytest.raises(UsageError, match="doesn't name its 3 outputs"):
        opened({"state_dict": as_torchvision(colour.state_dict()), "class_to_idx": places}, None)


def test_a_trunk_below_layers_of_its_own_is_no_known_network(opened, grey):
    state = {f"backbone.{n}": v for n, v in as_torchvision(grey.state_dict()).items()
             if not n.startswith("classifier")}  # fmt: skip
    state["fc_0.weight"] = torch.zeros(1, 2048, 1, 1)
    with pytest.raises(StoreError, match=r"1 tensors that belong to no known network, first fc_0"):
        opened(state)
