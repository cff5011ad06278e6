"""Folders that transformers itself wrote, opened as white boxes; `make test-timm` runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from foreign_models import settled
from leadapron.errors import StoreError, UsageError
from leadapron.explainers import EXPLAINERS
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.architectures import OF_TRANSFORMERS
from leadapron.models.classifier import load_classifier, save_classifier
from leadapron.models.foreign import open_model
from leadapron.models.protocols import lacking

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.timm, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SIDE = 64
FINDINGS = ("Effusion", "Mass", "Nodule")
# Blocks, since to deep networks films of noise are all alike.
FILMS = np.kron(
    np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8), np.ones((8, 8), np.uint8)
)
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
         "intermediate_size": 96, "image_size": SIDE}  # fmt: skip
STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}

# Settings that make a network small, whether its class activation maps are exact, and its layer.
MADE = {
    "vit": (SMALL, False, "vit.layers.1.layernorm_before"),
    "deit": (SMALL, False, "deit.layers.1.layernorm_before"),
    "dinov2": ({**SMALL, "mlp_ratio": 4, "patch_size": 16}, False, "dinov2.layernorm"),
    "beit": (SMALL, False, "beit.layernorm"),
    "convnext": (STAGES, False, "convnext.encoder.stages.3"),
    "convnextv2": (STAGES, False, "convnextv2.encoder.stages.3"),
    "swin": ({"image_size": SIDE, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 3],
              "window_size": 4}, True, "swin.layernorm"),
    "swinv2": ({"image_size": SIDE, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 3],
                "window_size": 4}, True, "swinv2.layernorm"),
    "resnet": ({**STAGES, "embedding_size": 16, "layer_type": "basic"}, True,
               "resnet.encoder.stages.3"),
    "regnet": ({**STAGES, "embedding_size": 16, "groups_width": 8}, True,
               "regnet.encoder.stages.3"),
    "mobilenet_v2": ({"image_size": SIDE, "depth_multiplier": 0.25}, True, "mobilenet_v2.conv_1x1"),
    "poolformer": ({**STAGES, "depths": [1, 1, 1, 1]}, True, "norm"),
}  # fmt: skip


def made(kind, folder, channels=3, **facts):
    torch.manual_seed(1)
    config = transformers.CONFIG_MAPPING[kind](
        **MADE[kind][0], num_channels=channels, id2label=dict(enumerate(FINDINGS)),
        problem_type="multi_label_classification", architectures=[], **facts,
    )  # fmt: skip
    network = transformers.AutoModelForImageClassification.from_config(config)
    for part in network.parameters():
        if part.ndim > 1:  # as they start, some networks give every film the same
            nn.init.kaiming_normal_(part)
        elif part.abs().max() < 1e-3:
            nn.init.normal_(part, std=0.1)
    settled(network).save_pretrained(folder)
    return network


def test_every_type_that_is_offered_is_tested():
    assert sorted(MADE) == sorted(OF_TRANSFORMERS)


@pytest.mark.parametrize("kind", MADE)
def test_logits_are_the_librarys(tmp_path, kind):
    network = made(kind, tmp_path)
    found = open_model(tmp_path, size=SIDE, normalisation="unit", device="cpu", precision="fp32")
    model = found.classifier
    grey = torch.from_numpy(FILMS / np.float32(255))[:, None].expand(-1, 3, -1, -1)
    with torch.inference_mode():
        expected = network(pixel_values=grey).logits.numpy()
    assert expected.std(0).min() > 1e-3 * np.abs(expected).max()
    np.testing.assert_allclose(
        model.logits(FILMS), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )
    assert model.findings == FINDINGS
    assert model.head == "sigmoid"
    exact, layer = MADE[kind][1:]
    assert model.module.layer == f"body.{layer}"
    assert (lacking(model, "pooled linear head") == "") == exact
    assert EXPLAINERS["layer-cam"](model, FILMS, FINDINGS).max() > 0


@pytest.mark.parametrize("kind", MADE)
def test_attention_rollout_is_of_the_attention_that_the_library_returns(tmp_path, kind):
    network = made(kind, tmp_path)
    model = open_model(
        tmp_path, size=SIDE, normalisation="unit", device="cpu", precision="fp32"
    ).classifier
    assert (lacking(model, "attention") == "") == (kind in ("vit", "deit", "dinov2", "beit"))
    if lacking(model, "attention"):
        return
    grey = torch.from_numpy(FILMS / np.float32(255))[:, None].expand(-1, 3, -1, -1)
    network.set_attn_implementation("eager")
    with torch.inference_mode():
        seen = network(pixel_values=grey, output_attentions=True).attentions
    joint = torch.eye(seen[0].shape[-1])
    for weights in seen:
        joint = (weights.mean(1) + torch.eye(len(joint[-1]))) / 2 @ joint
    read = {"beit": joint[:, 1:], "dinov2": joint}.get(kind, joint[:, :1])  # means, class token
    grid = read.mean(1)[:, model.module.tokens :]
    side = int(grid.shape[1] ** 0.5)
    maps = EXPLAINERS["attention-rollout"](model, FILMS, FINDINGS[:1], enlarge=False)
    np.testing.assert_allclose(maps[:, 0], grid.reshape(len(FILMS), side, side), atol=1e-6)


def test_the_preprocessor_states_the_input_and_one_channel_is_taken(tmp_path):
    network = made("vit", tmp_path, channels=1)
    processor = {"size": {"height": SIDE, "width": SIDE}, "resample": 3, "do_normalize": True,
                 "image_mean": [0.5], "image_std": [0.25]}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = open_model(tmp_path / "model.safetensors", device="cpu", precision="fp32").classifier
    assert model.preprocessing == Preprocessing(size=SIDE, interpolation="bicubic")
    scaled = torch.from_numpy((FILMS / np.float32(255) - 0.5) / 0.25)[:, None]
    with torch.inference_mode():
        expected = network(pixel_values=scaled.float()).logits.numpy()
    np.testing.assert_allclose(model.logits(FILMS), expected, atol=1e-5 * np.abs(expected).max())

    save_classifier(model, tmp_path / "own.safetensors")
    again = load_classifier(tmp_path / "own.safetensors", device="cpu", precision="fp32")
    np.testing.assert_array_equal(again.logits(FILMS), model.logits(FILMS))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 40}, r"hidden_size \(40\) is not a multiple|can't be built|don't fit"),
        ({"hidden_size": 10**9}, "hidden_size 1000000000; expected at most 100,000"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers 1000000; expected at most 200"),
        ({"auto_map": {"AutoConfig": "evil.Config"}}, r"code of its own \(evil.Config"),
        ({"hidden_act": "no_such"}, "transformers:vit can't be built"),
        ({"model_type": "timm_wrapper"}, "belong to no"),
    ],
)
def test_descriptions_that_are_wrong_or_hostile(tmp_path, changes, words):
    made("vit", tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(facts | changes))
    with pytest.raises((UsageError, StoreError), match=words) as caught:
        open_model(tmp_path, device="cpu", precision="fp32")
    assert "\n" not in str(caught.value)


def test_nothing_is_fetched(tmp_path, monkeypatch):
    made("vit", tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    facts |= {"_attn_implementation": "kernels-community/x", "quantization_config": {"a": 1}}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    monkeypatch.setattr("socket.socket.connect", None)
    assert open_model(tmp_path, device="cpu", precision="fp32").classifier.findings == FINDINGS
