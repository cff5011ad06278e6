"""A repaired model comes back as the state dict that it was given as."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from repair_scenes import classifier
from safetensors.torch import load_file, save_file

import leadapron as la
from foreign_models import as_chexnet, densenet, resnet
from leadapron.documents import parsed
from leadapron.errors import StoreError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs import repair as job
from leadapron.models.copying import copied_network
from leadapron.models.foreign import open_model
from leadapron.models.foreign.returning import write_as_given
from leadapron.models.stated import ModelSettings, Opening
from leadapron.repairs import returned
from leadapron.repairs.proof.document import Repaired

DOCUMENTS = Path(__file__).parents[1] / "fixtures" / "documents"
FINDINGS = ("Effusion", "Mass", "Nodule")
HOW = {"preprocessing": Preprocessing(size=32), "device": "cpu", "precision": "fp32"}
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
IDS = np.array(["a", "b", "c"])
CLEAN = Cohort(PIXELS, np.eye(3, dtype=np.float32), FINDINGS, IDS, IDS, HOW["preprocessing"])


def noted(state, **entries):
    return {"state_dict": state, **entries}


def wrapped(state):
    return {f"model.{n}": v for n, v in state.items()} | {"op_threshs": torch.full((3,), 0.3)}


def halved(state):
    return {n: v.half() if v.is_floating_point() else v for n, v in state.items()}


GIVEN = {
    "torchvision's ResNet, three channels": ("safetensors", lambda: resnet().state_dict()),
    "torchxrayvision's ResNet with MONAI's biases": (
        "pt", lambda: wrapped(resnet(channels=1, bias=True).state_dict())
    ),
    "CheXNet's in half precision": (
        "pt", lambda: noted(halved(as_chexnet(densenet(3).state_dict())), epoch=7)
    ),
}  # fmt: skip
"""Kind of file, and what is saved."""


def written(folder, saved, kind):
    path = folder / f"given.{kind}"
    if kind == "safetensors":
        save_file(saved, path, {"findings": '["Effusion", "Mass", "Nodule"]', "licence": "none"})
    else:
        torch.save(saved, path)
    return path


def repaired_of(opened, strength=0.02):
    """A copy whose weights and statistics are all changed, as a repair changes them."""
    made = copied_network(opened.classifier, "a test")
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in made.module.state_dict().values():
            if value.is_floating_point():
                value.mul_(1 + strength * torch.rand(value.shape, generator=draws))
    return made


@pytest.mark.parametrize("which", GIVEN)
def test_the_repaired_weights_come_back_under_the_names_they_had(tmp_path, which):
    kind, make = GIVEN[which]
    saved = make()
    state = saved.get("state_dict", saved)
    source = written(tmp_path, saved, kind)
    opened = open_model(source, FINDINGS, **HOW)
    repaired = repaired_of(opened)
    found = returned(opened, source, repaired, CLEAN, tmp_path / "model-as-given")
    assert found.file == tmp_path / f"model-as-given.{kind}"
    back = torch.load(found.file, weights_only=True) if kind == "pt" else load_file(found.file)
    assert list(back) == list(state) if kind == "pt" else set(back) == set(state)
    for name, value in state.items():
        assert (back[name].shape, back[name].dtype) == (value.shape, value.dtype), name
    again = open_model(found.file, FINDINGS, **HOW)
    logits = repaired.logits(PIXELS)
    # Of the largest logit, up to 200 here: processors round differently.
    tolerance = 0.02 if "half precision" in which else 1e-5 * max(1, np.abs(logits).max())
    assert np.abs(again.classifier.logits(PIXELS) - logits).max() < tolerance
    assert np.abs(opened.classifier.logits(PIXELS) - logits).max() > 100 * 1e-5
    assert "opened again" in found.notes[0]
    colours = next(value for name, value in state.items() if "conv0" in name or "conv1" in name)
    assert len(found.notes) == (2 if colours.shape[1] == 3 else 1)
    if kind == "safetensors":
        assert again.classifier.findings == FINDINGS


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """A state dict of three channels, its file, and the model opened."""
    state = resnet().state_dict()
    source = written(tmp_path_factory.mktemp("given"), state, "pt")
    return state, source, open_model(source, FINDINGS, **HOW)


def test_weights_that_were_not_changed_come_back_as_they_were(tmp_path, colour):
    state, source, opened = colour
    file = write_as_given(
        opened.given, opened.content, source, opened.classifier.module, tmp_path / "same"
    )
    back = torch.load(file, weights_only=True)
    for name, value in state.items():
        if name == "bn1.running_mean":  # it absorbed the constant, and gives it back
            assert torch.allclose(back[name], value, atol=1e-6)
        else:
            assert torch.equal(back[name], value), name


def test_what_the_format_has_no_place_for_is_said(tmp_path):
    state = {name: value for name, value in resnet().state_dict().items() if name != "fc.bias"}
    source = written(tmp_path, state, "pt")
    opened = open_model(source, FINDINGS, **HOW)
    repaired, file = repaired_of(opened), tmp_path / "model-as-given"
    repaired.module.head.bias.data.fill_(0.1)
    found = returned(opened, source, repaired, CLEAN, file)
    assert found.file is None
    assert "no place for the last layer's bias, so the repaired model is in" in found.notes[0]
    found = returned(opened, source, classifier(), CLEAN, file)
    assert "given.pt has no place for the layers of a tests' stages" in found.notes[0]
    large = repaired_of(opened, 0)
    large.module.head.bias.data.zero_()
    large.module.head.weight.data.fill_(float("inf"))
    found = returned(opened, source, large, CLEAN, file)
    assert "values that aren't finite" in found.notes[0]
    assert not list(tmp_path.glob("model-as-given*"))
    torch.save({**state, "fc.bias": torch.ones(3)}, source)
    with pytest.raises(StoreError, match="was changed since it was opened"):
        write_as_given(opened.given, opened.content, source, repaired.module, file)
    own = opened._replace(given=None)  # this package's own
    assert returned(own, source, repaired, CLEAN, file) == (None, ())


def test_the_command_writes_both(tmp_path, monkeypatch, colour):
    """The repair itself is another test's: here its model is one that was changed by hand."""
    released = parsed(Repaired, (DOCUMENTS / f"repair-{Repaired.SCHEMA}.json").read_text())
    state, source, _ = colour
    np.savez(tmp_path / "films.npz", images=PIXELS, labels=np.eye(3, dtype=np.float32),
             findings=np.asarray(FINDINGS))  # fmt: skip

    def prepared(opened, *_, **__):
        return SimpleNamespace(opened=opened, films=SimpleNamespace(proof=CLEAN))

    monkeypatch.setattr(job, "prepare", prepared)
    monkeypatch.setattr(job, "repair_case", lambda case: (released, repaired_of(case.opened)))
    made = job.repair(
        source, f"npz:{tmp_path / 'films.npz'}", tmp_path / "out",
        opening=Opening(model=ModelSettings(findings=FINDINGS, size=32)),
        machine=job.Machine(device="cpu", cache="none"),
    )  # fmt: skip
    assert made.as_given == str(tmp_path / "out" / "model-as-given.pt")
    assert any("opened again, its logits of 3 clean films" in note for note in made.notes)
    assert (tmp_path / "out" / "classifier.safetensors").is_file()
    back = torch.load(made.as_given, weights_only=True)
    assert list(back) == list(state)


def test_in_python_it_is_written_too(tmp_path, colour):
    released = parsed(Repaired, (DOCUMENTS / f"repair-{Repaired.SCHEMA}.json").read_text())
    state, source, opened = colour
    made = la.RepairResult(released, repaired_of(opened), opened, source)
    file = made.save_as_given(tmp_path / "repaired")
    assert file == tmp_path / "repaired.pt"
    assert list(torch.load(file, weights_only=True)) == list(state)
    for other, match in (
        ((released, made.classifier, opened, None), "wasn't given as a file"),
        ((released, None, opened, source), "nothing was repaired"),
        ((released, classifier(), opened, source), r"given\.pt has no place for the layers"),
    ):
        with pytest.raises(UsageError, match=match):
            la.RepairResult(*other).save_as_given(tmp_path / "other")
    assert not list(tmp_path.glob("other*"))
