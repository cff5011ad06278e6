"""Networks that timm itself made, opened from their state dicts; `make test-timm` runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from audits import audit_model
from foreign_models import settled
from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL, WEIGHTS, calibrate, judge
from leadapron.detect.models import StampSweep
from leadapron.errors import UnknownNameError, UsageError
from leadapron.explainers import EXPLAINERS
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs.inspect import inspect
from leadapron.models.classifier import load_classifier, save_classifier
from leadapron.models.foreign import open_model
from leadapron.models.protocols import lacking
from leadapron.models.stated import ModelSettings, Opening
from leadapron.repairs import REPAIRS, Optimisation
from leadapron.sources import open_source
from leadapron.types import Machine

timm = pytest.importorskip("timm")
pytestmark = [pytest.mark.timm, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SIDE = 64
QUICK = StampSweep(values=(0, 255), sides=(3,), pitches=((8, 1),), rounds=1, films=1, judged=20)
FINDINGS = ("Effusion", "Mass", "Nodule")
# Blocks, since to deep networks films of noise are all alike.
FILMS = np.kron(
    np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8), np.ones((8, 8), np.uint8)
)

# Whether their class activation maps are exact, and the layer of their last map.
READ = {
    "convnext_atto": (False, "norm_pre"),
    "convnextv2_atto": (False, "norm_pre"),
    "vit_tiny_patch16_224": (False, "blocks.11.norm1"),
    "deit3_small_patch16_224": (False, "blocks.11.norm1"),
    "swin_tiny_patch4_window7_224": (True, "norm"),
    "efficientnet_b0": (True, "bn2"),
    "tf_efficientnetv2_b0": (True, "bn2"),
    "mobilenetv3_small_050": (False, "blocks"),
    "regnety_002": (True, "final_conv"),
    "resnet10t": (True, "layer4"),
    "resnetv2_18": (False, "norm"),
    "densenet121": (True, "features"),
    "mobilevit_xxs": (True, "final_conv"),
    "ghostnet_050": (False, "blocks"),
}
SIDES = {"swin_tiny_patch4_window7_224": 56}
FIXED = ("vit", "deit", "swin")


def made(name, channels, side):
    """The library's network, with no weight that hides an error."""
    torch.manual_seed(1)
    sized = {"img_size": side} if name.startswith(FIXED) else {}
    network = timm.create_model(name, num_classes=3, in_chans=channels, **sized)
    for part in network.parameters():
        if part.abs().max() < 1e-3:  # biases, tokens and scales that start at nothing
            nn.init.normal_(part, std=0.1)
    return settled(network)


def opened(network, name, folder, side=SIDE, **settings):
    torch.save(network.state_dict(), folder / "model.pt")
    return open_model(
        folder / "model.pt", FINDINGS, architecture=f"timm:{name}", size=side, device="cpu",
        precision="fp32", **settings,
    )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", READ)
def test_logits_are_timms(tmp_path, name, channels):
    side = SIDES.get(name, SIDE)
    network = made(name, channels, side)
    found = opened(network, name, tmp_path, side, normalisation="unit")
    films = FILMS[:, :side, :side]
    grey = torch.from_numpy(films / np.float32(255))[:, None]
    with torch.inference_mode():
        expected = network(grey.expand(-1, channels, -1, -1)).numpy()
        pooled = network.forward_head(network.forward_features(
            grey.expand(-1, channels, -1, -1)), pre_logits=True).numpy()  # fmt: skip
    model = found.classifier
    assert expected.std(0).min() > 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(
        model.logits(films), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )
    features = model.features(films)
    np.testing.assert_allclose(features, pooled, rtol=0, atol=1e-4 * np.abs(pooled).max())
    exact, layer = READ[name]
    assert model.module.layer == f"body.{layer}"
    assert (lacking(model, "pooled linear head") == "") == exact
    assert any(f"{'exact' if exact else 'no exact'} class activation" in n for n in found.notes)


@pytest.mark.parametrize("name", READ)
def test_attention_rollout_is_of_timms_attention(tmp_path, name):
    """timm computes it again without its fused kernel; what passes its dropout is watched."""
    side = SIDES.get(name, SIDE)
    network = made(name, 3, side)
    model = opened(network, name, tmp_path, side, normalisation="unit").classifier
    assert (lacking(model, "attention") == "") == name.startswith(("vit", "deit"))
    if lacking(model, "attention"):
        return
    seen = []
    for block in network.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *call: seen.append(call[2].mean(1)))
    grey = torch.from_numpy(FILMS / np.float32(255))[:, None].expand(-1, 3, -1, -1)
    joint = torch.eye(1 + (side // 16) ** 2)
    with torch.inference_mode():
        network(grey)
        for weights in seen:
            joint = (weights + torch.eye(len(joint[-1]))) / 2 @ joint
    maps = EXPLAINERS["attention-rollout"](model, FILMS, FINDINGS, enlarge=False)
    expected = joint[:, 0, 1:].reshape(len(FILMS), 1, side // 16, side // 16)
    assert expected.std() > 0
    np.testing.assert_allclose(maps, expected.expand(-1, 3, -1, -1), atol=1e-6)


@pytest.fixture(scope="module")
def films():
    return open_source(f"phantom:{SIDE}", count=60)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_convnext"])
def test_every_method_runs_or_says_why_not(tmp_path, films, name):
    torch.manual_seed(1)
    sized = {"img_size": SIDE} if name == "test_vit" else {}
    network = settled(timm.create_model(name, num_classes=len(films.findings), **sized))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    settings = {"architecture": f"timm:{name}", "size": SIDE, "normalisation": "imagenet"}
    model = open_model(
        tmp_path / "model.pt", films.findings, device="cpu", precision="fp32", **settings
    ).classifier
    opening = Opening(model=ModelSettings(findings=films.findings, **settings))
    seen = inspect(tmp_path / "model.pt", clean=f"phantom:{SIDE}", count=120, opening=opening,
                   machine=Machine(cache="none", device="cpu", precision="fp32"))  # fmt: skip
    assert seen.networks[0].architecture == model.architecture
    assert [each.value for each in seen.settings if each.name == "size"] == [str(SIDE)]
    assert len(seen.outputs) == len(films.findings)
    for method in ("class-activation", "grad-cam", "layer-cam", "integrated-gradients-black"):
        if method == "class-activation" and lacking(model, "pooled linear head"):
            with pytest.raises(UsageError, match=f"class-activation needs .*; timm:{name}"):
                EXPLAINERS[method](model, films.images[:2], films.findings[:1])
            continue
        maps = EXPLAINERS[method](model, films.images[:2], films.findings[:5])
        assert maps.shape == (2, 5, SIDE, SIDE)
        assert maps.any()
    report = audit_model(model, films, name="model", sweep=QUICK, steps=2, statistics=True)
    assert report.inverted
    said = " ".join(report.notes)
    assert f"it needs stages that run one after another; {model.architecture} has" in said
    gate = calibrate(model, films, INPUT_DETECTORS, WEIGHTS, typical=TYPICAL, false_alarm=0.2)
    assert np.isfinite(judge(gate, model, films.images[:4]).fused).all()
    many = open_source(f"phantom:{SIDE}", count=240)
    tuning = REPAIRS["fine-tuning"](optimisation=Optimisation(epochs=1, most_films=240))
    repaired = tuning.repair(model, many, np.random.default_rng(0))
    save_classifier(repaired, tmp_path / "own.safetensors")
    again = load_classifier(tmp_path / "own.safetensors", device="cpu", precision="fp32")
    np.testing.assert_array_equal(again.logits(films.images[:4]), repaired.logits(films.images[:4]))
    assert not np.array_equal(repaired.logits(films.images[:4]), model.logits(films.images[:4]))


def test_a_folder_of_the_hub_opens_without_options(tmp_path):
    network = made("convnext_atto", 3, SIDE)
    facts = {
        "architecture": "convnext_atto", "num_classes": 3, "label_names": list(FINDINGS),
        "pretrained_cfg": {"input_size": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3,
                           "interpolation": "bicubic", "crop_pct": 0.95},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(facts))
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    model = open_model(tmp_path, device="cpu", precision="fp32").classifier
    assert model.preprocessing == Preprocessing(size=SIDE, crop=0.95, interpolation="bicubic")
    scaled = torch.from_numpy(FILMS / np.float32(127.5) - 1)[:, None].expand(-1, 3, -1, -1)
    with torch.inference_mode():
        expected = network(scaled).numpy()
    np.testing.assert_allclose(model.logits(FILMS), expected, atol=1e-5 * np.abs(expected).max())


def test_what_timm_does_not_have(tmp_path):
    network = made("test_resnet", 3, SIDE)
    with pytest.raises(UnknownNameError, match="network of timm 'convnext_tinny'; did you mean"):
        opened(network, "convnext_tinny", tmp_path)
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3)
    with pytest.raises(UsageError, match="no single layer gives its logits"):
        opened(distilled, "deit_tiny_distilled_patch16_224", tmp_path, 224)
