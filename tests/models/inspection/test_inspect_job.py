"""The command inspect: what it says of a model, and the card that other commands take."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import leadapron as la
from foreign_models import resnet
from leadapron.cli import cli
from leadapron.documents import read
from leadapron.errors import UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs.inspect import inspect
from leadapron.models.card import read_card
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.foreign import open_model
from leadapron.models.inspection import choosing, inspecting
from leadapron.models.inspection.document import Inspected
from leadapron.models.networks import build_network
from leadapron.models.stated import ModelSettings, Opening
from leadapron.types import Machine

MACHINE = Machine(cache="none", device="cpu", precision="fp32")
MADE = """
import torch
from pathlib import Path

def vendor():
    here = Path(__file__).parent
    return torch.load(here / "whole.pt", weights_only=False)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory, clean):
    path = tmp_path_factory.mktemp("films") / "clean.npz"
    np.savez(
        path, images=clean.images, labels=clean.labels, ids=clean.ids, patients=clean.patients,
        findings=np.asarray(clean.findings),
    )  # fmt: skip
    return f"npz:{path}"


@pytest.fixture
def vendor(tmp_path, small, monkeypatch):
    """A function that returns the network, of which nothing is known."""
    torch.save(small.module, tmp_path / "whole.pt")
    (tmp_path / "vendor_of_a_model.py").write_text(MADE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(inspecting, "SIZES", (32, 64))
    monkeypatch.setattr(inspecting, "TRIED", ("unit", "0.5/0.5"))
    monkeypatch.setattr(choosing, "COARSE", (32,))
    return "vendor_of_a_model:vendor"


@pytest.fixture
def weights(tmp_path):
    state = resnet(channels=1, outputs=2).state_dict()
    half = {n: v.half() if v.is_floating_point() else v for n, v in state.items()}
    other = {n: v.clone() for n, v in half.items()}
    torch.save({"state_dict": half, "state_dict_ema": other}, tmp_path / "vendor.pt")
    return tmp_path / "vendor.pt"


def by_name(found):
    return {each.name: each for each in found.settings}


def test_a_model_of_which_nothing_is_known(vendor, source):
    found = inspect(vendor, clean=source, machine=MACHINE)
    settings = by_name(found)
    assert (settings["size"].value, settings["size"].basis) == ("32", "tried")
    assert (settings["normalisation"].value, settings["normalisation"].basis) == ("unit", "tried")
    assert (settings["findings"].value, settings["findings"].basis) == ("Disc, Stripes", "tried")
    assert (settings["head"].value, settings["head"].basis) == ("sigmoid", "labels")
    assert settings["channels"].basis == "file"
    # The films are square: how others become square isn't known.
    assert found.missing == ("--model.aspect",)
    assert found.known.given == {
        "size": 32, "normalisation": "unit", "findings": ("Disc", "Stripes"), "head": "sigmoid",
    }  # fmt: skip
    assert found.trials[0].macro.low > 0.9
    assert [each.finding for each in found.outputs] == ["Disc", "Stripes"]
    assert all(each.error < 0.2 for each in found.outputs)
    assert found.views[0].images.shape == (4, 32, 32)


def test_by_the_command_line_with_page(vendor, source, tmp_path):
    words = ["-q", "inspect", vendor, "--clean", source, "--model.aspect", "squash",
             "--model.findings", "Disc,Stripes", "--cache", "none",
             "--page", str(tmp_path / "page.html")]  # fmt: skip
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.exception is None
    assert not result.return_value
    said = result.stdout.splitlines()
    assert said[0] == "SETTLED: nothing has to be stated"
    assert not any(line.startswith("Note: ASSUMED: the normalisation") for line in said)
    assert any("32 px, unit, squash: AUROC" in line for line in said)
    page = (tmp_path / "page.html").read_text()
    assert "pixels of patients" in page
    assert page.count("<img ") == 8  # four films, with the best size and the next
    result = CliRunner().invoke(cli, [*words[:-2], "--json"], standalone_mode=False)
    facts = json.loads(result.stdout)
    assert (facts["schema"], facts["verdict"]) == (1, "settled")
    assert "images" not in facts["views"][0]


def test_a_file_without_films(weights, tmp_path):
    card = tmp_path / "vendor.yaml"
    found = inspect(weights, out=card, machine=MACHINE)
    settings = by_name(found)
    assert [(n.key, n.architecture, n.outputs, n.opened) for n in found.networks] == [
        ("state_dict", "resnet18", 2, False), ("state_dict_ema", "resnet18", 2, True),
    ]  # fmt: skip
    assert settings["weights_key"].value == "state_dict_ema"
    assert settings["findings"].words == "the file doesn't name its 2 outputs"
    assert set(found.missing) == {
        "--model.weights-key", "--model.size", "--model.aspect", "--model.normalisation",
        "--model.findings",
    }  # fmt: skip
    assert read_card(card).model == ModelSettings()
    stated = ModelSettings(
        weights_key="state_dict", size=96, aspect="pad", normalisation="unit", findings=("A", "B")
    )
    found = inspect(weights, out=card, opening=Opening(model=stated), machine=MACHINE)
    assert (found.verdict, found.missing, found.card) == ("settled", (), str(card))
    opened = open_model(weights, device="cpu")
    assert (opened.stated, opened.classifier.findings) == (stated, ("A", "B"))
    assert opened.classifier.preprocessing == Preprocessing(size=96, aspect="pad")


def test_a_file_of_this_package_states_all(tmp_path, small, source):
    path = tmp_path / "own.safetensors"
    save_classifier(small, path)
    found = inspect(path, clean=source, machine=MACHINE)
    assert (found.verdict, found.tried) == ("settled", 1)
    assert {each.basis for each in found.settings} == {"file"}
    assert found.trials[0].macro.low > 0.9


def test_films_without_its_findings_try_nothing(tmp_path, source):
    path = tmp_path / "own.safetensors"
    model = NetworkClassifier(
        build_network("resnet9", 1, 0).eval(), "resnet9", ("Hernia",), Preprocessing(size=32)
    )
    save_classifier(model, path)
    found = inspect(path, clean=source, machine=MACHINE)
    assert (found.tried, found.trials) == (0, ())
    assert found.doubts == (
        "The films state none of its findings, so that nothing could be tried.",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.findings", "A,B,C", "--model.weights-key", "state_dict"],
         "has 2 outputs and 3 different names of findings given; expected 2"),
        (["--model.findings", "A,B", "--model.weights-key", "state_dict", "--model.size", "4"],
         "size 4 is out of range"),
        (["--model.normalisation", "0.5/x"], "--model.normalisation 0.5/x: expected MEAN/STD"),
        (["--model.weights-key", "teacher"], "unknown weights key 'teacher'"),
    ],
)  # fmt: skip
def test_what_is_wrong_takes_one_line(weights, words, message, capsys):
    from leadapron.cli import run

    assert run(["inspect", str(weights), *words]) in (2, 4)
    said = capsys.readouterr().err.splitlines()
    assert message in said[-1]


def test_a_size_below_the_networks_least(tmp_path):
    from foreign_models import as_torchvision, densenet

    path = tmp_path / "dense.pt"
    torch.save(as_torchvision(densenet().state_dict()), path)
    with pytest.raises(UsageError, match=r"`model\.size` 16: dense\.pt is a densenet121, which "
                       r"takes \d\d pixels or more"):  # fmt: skip
        open_model(path, ("A", "B", "C"), size=16, device="cpu")


def test_in_python(tmp_path, small, weights, clean):
    path = tmp_path / "own.safetensors"
    save_classifier(small, path)
    found = la.inspect(path, clean, tmp_path / "own.yaml", machine=MACHINE)
    assert str(found) == "SETTLED: nothing has to be stated"
    assert found.trials[0].macro.low > 0.9
    assert read(Inspected, found.to_json()).settings == found.settings
    assert read_card(tmp_path / "own.yaml").sha256 == found.content
    assert "<img " in found.report(tmp_path / "own.html").read_text()
    # Without films; what is known is stated.
    found = la.inspect(weights, known={"weights_key": "state_dict", "size": 96}, machine=MACHINE)
    assert str(found) == (
        "CAN'T TELL: state --model.aspect squash|pad|crop, --model.normalisation NAME|MEAN/STD and "
        "--model.findings NAME,NAME"
    )
    with pytest.raises(UsageError, match=r"images have no labels; expected a source, or Cohort"):
        la.inspect(weights, np.zeros((4, 32, 32), np.uint8))
    with pytest.raises(UsageError, match=r"unknown setting of known 'siz'; did you mean size"):
        la.inspect(weights, known={"siz": 96})
