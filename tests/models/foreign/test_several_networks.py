"""Checkpoints that hold more than one network: all are named, none is taken silently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from foreign_models import as_torchvision, densenet, resnet
from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.foreign import open_model

FINDINGS = ("Effusion", "Mass", "Nodule")
SMALL = Preprocessing(size=32)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)


@pytest.fixture(scope="module")
def plain():
    state = resnet(channels=1).state_dict()
    return {n: v.half() if v.is_floating_point() else v for n, v in state.items()}


@pytest.fixture(scope="module")
def averaged(plain):
    """The same network, a little later."""
    return {
        name: value * 0.9 if value.is_floating_point() else value.clone()
        for name, value in plain.items()
    }


@pytest.fixture
def opened(tmp_path):
    def write(content, **options):
        path = tmp_path / "model.pt"
        torch.save(content, path)
        options = {"preprocessing": SMALL, "normalisation": "unit", "device": "cpu", **options}
        return open_model(path, FINDINGS, **options)

    return write


def behind(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


# How training loops keep them: the file of two state dicts, the key of the first, of the second,
# and which is called the one that is used.
KEPT = {
    "state_dict_ema": (
        lambda a, b: {"state_dict": a, "state_dict_ema": b},
        "state_dict", "state_dict_ema", 1,
    ),
    "model_ema": (lambda a, b: {"model": a, "model_ema": b}, "model", "model_ema", 1),
    "ema": (
        lambda a, b: {"model": a, "ema": {"module": b, "decay": 0.99}}, "model", "ema.module", 1
    ),
    "teacher": (lambda a, b: {"net": a, "teacher": b}, "net", "teacher", 1),
    "swa": (
        lambda a, b: {
            "model": a, "swa_model": {**behind("module.", b), "n_averaged": torch.tensor(3)}
        },
        "model", "swa_model.module", 1,
    ),
    "Lightning": (
        lambda a, b: {"state_dict": {**behind("model.", a), **behind("ema_model.", b)}, "epoch": 3},
        "state_dict.model", "state_dict.ema_model", 1,
    ),
    "Lightning, in a callback": (
        lambda a, b: {"state_dict": behind("net.", a),
                      "callbacks": {"EMA": {"ema_state_dict": behind("net.", b)}}},
        "state_dict.net", "callbacks.EMA.ema_state_dict.net", 1,
    ),
    "mean teacher in one": (
        lambda a, b: {**behind("student.", a), **behind("teacher.", b)}, "student", "teacher", 1,
    ),
    "itself and its average": (lambda a, b: {**a, **behind("ema.", b)}, ".", "ema", 1),
    "two that nothing tells apart": (
        lambda a, b: {"best": a, "last": b}, "best", "last", None,
    ),
    "a pair": (
        lambda a, b: {**behind("encoder_q.", a), **behind("encoder_k.", b)},
        "encoder_k", "encoder_q", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", KEPT)
def test_none_is_taken_silently(opened, plain, averaged, how):
    pack, first, second, used = KEPT[how]
    with pytest.raises(UsageError, match="holds 2 networks: ") as caught:
        opened(pack(plain, averaged))
    said = str(caught.value)
    assert f"{first} (resnet18" in said
    assert f"{second} (resnet18" in said
    if used is None:
        assert "usually" not in said
    else:
        assert f"{second} (resnet18, usually the deployed one)" in said
        assert said.endswith(f"choose one with `model.weights_key` {second}")


@pytest.mark.parametrize("how", ["ema", "itself and its average"])
def test_the_one_that_is_named_is_opened(opened, plain, averaged, how):
    pack, first, second, _ = KEPT[how]
    expected = {
        key: opened(state).classifier.logits(PIXELS)
        for key, state in ((first, plain), (second, averaged))
    }
    assert np.abs(expected[first] - expected[second]).max() > 0.01
    for key, other in ((first, second), (second, first)):
        found = opened(pack(plain, averaged), weights_key=key)
        assert np.array_equal(found.classifier.logits(PIXELS), expected[key])
        said = f"The file's weights {key} were opened; left out: {other} (another network)."
        assert said in found.notes


def test_the_beginning_of_a_key_is_enough(opened, plain, averaged):
    content = {"model": plain, "ema": {"module": averaged}}
    assert opened(content, weights_key="ema").classifier.findings == FINDINGS
    with pytest.raises(
        UnknownNameError, match=r"unknown weights key 'em'; known: ema\.module, model"
    ):
        opened(content, weights_key="em")
    assert opened({"state_dict": plain}, weights_key="state_dict").notes


def test_a_student_of_another_architecture_is_the_one_that_is_used(opened, plain):
    teacher = resnet("resnet34", channels=1).half().state_dict()
    content = {"student": plain, "teacher": teacher}
    with pytest.raises(UsageError, match=r"student \(resnet18, usually the deployed one\)"):
        opened(content)
    found = opened(content, weights_key="teacher").classifier
    assert found.architecture == "resnet34"
    # Where the architecture is named, only those of it may be meant.
    assert opened(content, architecture="resnet34").classifier.architecture == "resnet34"


def test_what_is_not_whole_is_said(opened, plain, averaged):
    few = {name: value for name, value in averaged.items() if "running" not in name}
    found = opened({"model": plain, "ema": few})
    said = "The file's weights model were opened; left out: ema (incomplete)."
    assert said in found.notes
    with pytest.raises(StoreError, match=r"bn1\.running_mean is missing"):
        opened({"model": plain, "ema": few}, weights_key="ema")


def test_in_safetensors_too(plain, averaged, tmp_path):
    path = tmp_path / "both.safetensors"
    save_file({**behind("model.", plain), **behind("ema_model.", averaged)}, path)
    with pytest.raises(
        UsageError, match=r"holds 2 networks: model .* `model.weights_key` ema_model"
    ):
        open_model(path, FINDINGS)
    assert open_model(path, FINDINGS, weights_key="model").classifier.architecture == "resnet18"


def test_files_of_one_network_have_no_key(module):
    with pytest.raises(UsageError, match=r"holds one network; leave `model\.weights_key` out"):
        open_model(module, FINDINGS, weights_key="ema")


def test_averaged_weights_alone(opened, averaged):
    """torch.optim.swa_utils.AveragedModel, saved by itself."""
    found = opened({**behind("module.", averaged), "n_averaged": torch.tensor(3)})
    assert found.classifier.architecture == "resnet18"


def test_look_alikes_are_assumed_away(opened, plain):
    """timm's resnetblur50 has the names and shapes of resnet50, and other strides."""
    found = opened(plain)
    (said,) = [note for note in found.notes if "strides" in note]
    assert said.startswith("ASSUMED: plain strides and ReLU, as in torchvision's resnet18")
    dense = opened(as_torchvision(densenet().state_dict()))
    assert not any("strides" in note for note in dense.notes)


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "one_network.py").write_text("def make():\n    return lambda x: x.mean((2, 3))\n")
    return "one_network:make"
