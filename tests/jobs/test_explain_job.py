"""The sheet of explanations: on a small study, and what can't be one."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from foreign_models import resnet
from leadapron import cli, metrics
from leadapron.errors import (
    DataError,
    StoreError,
    UnknownNameError,
    UsageError,
    VanishedTriggerError,
)
from leadapron.explainers import EXPLAINERS
from leadapron.jobs.explain import explain_sheet
from leadapron.models.classifier import load_classifier
from leadapron.models.foreign import open_model
from leadapron.models.stated import ModelSettings, Opening
from leadapron.report import explanations
from leadapron.report.sheet import Column, draw_sheet
from leadapron.sources import open_source
from leadapron.study import explained
from leadapron.study.run import run_study
from leadapron.types import Machine

TREE = {
    "source": {"name": "phantom", "count": 150},
    "size": 32,
    "epochs": 1,
    "trigger": {"name": "patch", "side": 4},
    "poisoning": {"fraction": 0.2},
    "evaluation": {"resamples": 20, "explained": 4},
}
MACHINE = Machine(device="cpu", precision="fp32", cache="none")
QUICK = ["layer-cam", "occlusion"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return run_study(TREE, tmp_path_factory.mktemp("study") / "out", machine=MACHINE)


@pytest.fixture
def sheet(study, tmp_path):
    def draw(place=study, **given):
        return explain_sheet(place, tmp_path / "maps.png", machine=MACHINE, **given)

    return draw


@pytest.fixture
def copy(study, tmp_path):
    return shutil.copytree(study, tmp_path / "copy")


def run_folder(study, role="backdoored"):
    return next(study.glob(f"runs/{role}-*"))


def test_all_methods_side_by_side(sheet, study, tmp_path):
    found = sheet(count=2)
    shown = [method.name for method in found.methods]
    assert found.skipped == {
        "authors-shortcut": "made for densenet121, not resnet9",
        "attention-rollout": "needs attention between all tokens; resnet9 has none",
    }
    assert shown == [name for name in EXPLAINERS if name not in found.skipped]
    assert (found.finding, found.target, found.films) == ("Atelectasis", "Atelectasis", 2)
    assert found.tolerance_px == 4
    assert found.run == run_folder(study).name
    layers = {method.name: method.layer for method in found.methods}
    assert (layers["layer-cam"], layers["smooth-grad"]) == ("stage scale2", "pixels")
    for method in found.methods:
        assert 0 <= method.backdoored <= 2
        assert 0 <= method.twin <= 2
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 13 * 184
        assert picture.height > 2 * 184
    assert [path.name for path in tmp_path.iterdir()] == ["maps.png"]


def test_hits_are_those_of_the_maps_of_both_models(sheet, study, monkeypatch):
    """Counted again from the films that the sheet was given."""
    kept = []
    monkeypatch.setattr(explanations, "draw_sheet", lambda *given: kept.append(given[2]) or blank())
    found = sheet(count=5, methods=QUICK, seed=3)
    clean, marked = (column.films for column in kept[0][:2])
    footprints = clean != marked
    assert footprints.any((1, 2)).all()
    assert (np.count_nonzero(footprints, (1, 2)) <= 16).all()
    for method, column in zip(found.methods, kept[0][2:], strict=True):
        for role, hits in (("backdoored", method.backdoored), ("twin", method.twin)):
            model = load_classifier(
                run_folder(study, role) / "classifier.safetensors", precision="fp32"
            )
            maps = EXPLAINERS[method.name](model, marked, ["Atelectasis"])[:, 0]
            near = metrics.pointing_hits(maps, footprints, 4)
            assert hits == near.sum()
            if role == "backdoored":
                assert np.array_equal(column.maps, maps)
                assert column.captions == ["peak hits" if hit else "peak misses" for hit in near]
                assert method.highest == pytest.approx(maps.max())


def blank():
    return Image.new("L", (1, 1))


def test_films_are_test_films_without_the_finding(study, monkeypatch, tmp_path):
    from leadapron.study.plan import plan
    from leadapron.study.run import divide, open_films
    from leadapron.study.settings import complete

    (run,) = plan(complete(TREE))
    test = divide(open_films(run, MACHINE), run.seed)["test"]
    without = test.images[np.flatnonzero(test.labels[:, test.column("Effusion")] == 0)]
    kept = []
    monkeypatch.setattr(explanations, "draw_sheet", lambda *given: kept.append(given[2]) or blank())
    given = {"finding": "Effusion", "methods": ["layer-cam"], "count": 6, "machine": MACHINE}
    for seed in (0, 0, 1):
        explain_sheet(study, tmp_path / "maps.png", seed=seed, **given)
    films = [columns[0].films for columns in kept]
    for film in films[0]:
        assert (film == without).all((1, 2)).any()
    assert len({film.tobytes() for film in films[0]}) == 6
    assert np.array_equal(films[0], films[1])
    assert not np.array_equal(films[0], films[2])


def test_a_run_or_its_model_may_be_named(sheet, study):
    first = sheet(count=1, methods=QUICK)
    assert sheet(run_folder(study), count=1, methods=QUICK) == first
    model = run_folder(study) / "classifier.safetensors"
    assert sheet(model, count=1, methods=QUICK) == first


def test_too_few_films_are_said(sheet, caplog):
    with caplog.at_level(logging.WARNING, "leadapron"):
        found = sheet(count=500, methods=["class-activation"])
    assert found.films < 40
    assert f"only {found.films} films to show, not 500" in caplog.text


def test_what_is_wrong_is_said(sheet, study, tmp_path):
    with pytest.raises(UsageError, match=r"maps\.jpg: expected a file ending in \.png"):
        explain_sheet(study, tmp_path / "maps.jpg")
    with pytest.raises(UsageError, match="`count` 0: expected 1 or more"):
        sheet(count=0)
    with pytest.raises(UnknownNameError, match="unknown explainer 'layercam'; did you mean layer-"):
        sheet(methods=["layercam"])
    with pytest.raises(UnknownNameError, match="did you mean Hernia"):
        sheet(finding="Hernja")
    with pytest.raises(UsageError, match="`methods`: authors-shortcut is made for densenet121"):
        sheet(methods=["authors-shortcut"])
    with pytest.raises(
        StoreError, match="isn't a study; expected a folder written by `leadapron study"
    ):
        sheet(tmp_path)
    with pytest.raises(StoreError, match="is a twin; expected a backdoored run"):
        sheet(run_folder(study, "twin"))
    assert not list(tmp_path.iterdir())


def test_studies_that_are_not_whole(sheet, copy):
    spec = run_folder(copy) / "spec.json"
    facts = json.loads(spec.read_text())
    spec.write_text(json.dumps({**facts, "cohort": "other"}))
    with pytest.raises(StoreError, match="the films of phantom changed since backdoored-"):
        sheet(copy)
    spec.write_text("[]")
    with pytest.raises(StoreError, match="isn't a run facts of schema 1"):
        sheet(run_folder(copy))
    (run_folder(copy) / "classifier.safetensors").unlink()
    with pytest.raises(StoreError, match="holds no finished backdoored run; `leadapron study"):
        sheet(copy)
    (copy / "study.yaml").write_text("- 1\n")
    with pytest.raises(StoreError, match=r"study\.yaml holds no settings"):
        sheet(copy)


def test_nothing_to_find_is_said(sheet, monkeypatch):
    monkeypatch.setattr(explained, "stamp", lambda test, rows, *_: [(rows, test.images[rows])])
    with pytest.raises(VanishedTriggerError, match="changes no pixel of any of"):
        sheet()


def test_no_film_without_the_finding(sheet, monkeypatch):
    def everything(whole, seed):
        return {"test": replace(whole, labels=np.ones_like(whole.labels))}

    monkeypatch.setattr(explained, "divide", everything)
    with pytest.raises(
        DataError, match="no test film on which the attack would change Atelectasis"
    ):
        sheet()


def test_colours_are_common_to_a_columns_films():
    films = np.zeros((2, 8, 8), np.uint8)
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0], maps[1] = 4, 2
    column = Column("name", "layer", films, ["a", "b"], [True, False], maps)
    strong, weak = (
        np.array(draw_sheet("t", ["note"], [Column("n", "l", f, ["a"], [True], m)])).max()
        for f, m in ((films[:1], maps[:1]), (films[1:], maps[1:]))
    )
    assert strong == weak  # alone, each goes to the end of the scale
    picture = np.array(draw_sheet("t", ["note"], [column]))
    cell = 8 * 23
    centre = picture.shape[0] - 20 - 24 - cell // 2, 20 + cell // 4
    below = picture[centre]
    above = picture[centre[0] - cell - 24 - 8, centre[1]]
    assert above.astype(int).sum() > below.astype(int).sum() > 0


def test_a_sheet_too_large():
    films = np.zeros((4000, 8, 8), np.uint8)
    column = Column("n", "l", films, [""] * 4000, [True] * 4000)
    with pytest.raises(UsageError, match="smaller --count"):
        draw_sheet("t", [], [column])


def test_16_bit_films_and_flat_maps():
    films = np.full((1, 8, 8), 65535, np.uint16)
    maps = np.zeros((1, 8, 8), np.float32)
    prints = np.zeros((1, 8, 8), np.bool_)
    column = Column(
        "a-very-long-name-of-a-method-that-wraps", "l", films, ["c"], [True], maps, prints
    )
    assert np.array(draw_sheet("t", [], [column])).max() == 255


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["leadapron", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    logging.getLogger("leadapron").handlers = []
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_on_the_command_line(study, tmp_path, monkeypatch, capsys):
    out = tmp_path / "maps.png"
    words = ["-q", "explain", study, "--count", 2, "--methods", "layer-cam,authors-shortcut",
             "--precision", "fp32", "--cache", "none", "--out", out]  # fmt: skip
    code, stdout, stderr = call(monkeypatch, capsys, *words)
    assert (code, stderr) == (0, "")
    lines = stdout.splitlines()
    assert lines[0].startswith("Atelectasis on 2 triggered films")
    assert lines[1].startswith("layer-cam (stage scale2)  backdoored ")
    assert lines[2] == "authors-shortcut: skipped, made for densenet121, not resnet9"
    assert lines[-1] == f"Picture: {out}"
    code, stdout, _ = call(monkeypatch, capsys, *words, "--json")
    facts = json.loads(stdout)
    assert (code, facts["schema"], facts["verdict"], facts["films"]) == (0, 1, "done", 2)
    assert facts["methods"][0]["name"] == "layer-cam"
    assert facts["skipped"] == {"authors-shortcut": "made for densenet121, not resnet9"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--count", "0"], 4, "count"),
        (["--methods", "gradcam"], 4, "did you mean grad-cam"),
        (["--methods", ","], 4, "--methods holds no name"),
        (["--finding", "Efusion"], 4, "did you mean Effusion"),
        (["--seed", "-1"], 4, "seed"),
    ],
)
def test_bad_input_is_one_line(study, tmp_path, monkeypatch, capsys, words, code, message):
    given = ["-q", "explain", study, *words, "--cache", "none", "--out", tmp_path / "maps.png"]
    left, stdout, stderr = call(monkeypatch, capsys, *given)
    assert (left, stdout, len(stderr.splitlines())) == (code, "", 1)
    assert message in stderr
    assert not list(tmp_path.iterdir())


def test_no_study_is_one_line(tmp_path, monkeypatch, capsys):
    given = ["-q", "explain", tmp_path / "nowhere", "--out", tmp_path / "maps.png"]
    left, _, stderr = call(monkeypatch, capsys, *given)
    assert (left, len(stderr.splitlines())) == (2, 1)
    assert "isn't a study" in stderr


# --- a model that is no study's

STATED = ModelSettings(size=48, aspect="squash", findings=("Mass", "Effusion", "Rare"))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "vendor.pt"
    torch.save(resnet(channels=1).state_dict(), path)
    return path


def test_maps_of_a_model_of_another_library(weights, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(explanations, "draw_sheet", lambda *given: kept.append(given) or blank())
    found = explain_sheet(
        weights, tmp_path / "maps.png", source="phantom:64", finding="Effusion", count=3,
        methods=["layer-cam", "class-activation", "authors-shortcut"], seed=1,
        opening=Opening(model=STATED), machine=MACHINE, source_seed=4, source_count=40,
    )  # fmt: skip
    assert found.labels == (True, True, False)  # two films of 40 have it
    assert found.skipped == {"authors-shortcut": "needs densenet121; this is resnet18"}
    model = open_model(weights, **STATED.given, device="cpu", precision="fp32").classifier
    films = open_source("phantom:64", preprocessing=model.preprocessing, seed=4, count=40)
    images = films.images[[films.ids.tolist().index(name) for name in found.films]]
    assert np.allclose(found.probabilities, model.probabilities(images)[:, 1])
    title, notes, (film, *columns) = kept[0]
    assert title == "Effusion: where vendor.pt looked"
    assert notes[-1] == "Not shown: authors-shortcut: needs densenet121; this is resnet18"
    assert np.array_equal(film.films, images)
    assert film.captions == [
        f"p {p:.2f}, {words}"
        for p, words in zip(found.probabilities, ("has it", "has it", "hasn't"), strict=True)
    ]
    for method, column in zip(found.methods, columns, strict=True):
        maps = EXPLAINERS[method.name](model, images, ["Effusion"])[:, 0]
        assert np.array_equal(column.maps, maps)
        assert [maps[i][peak] for i, peak in enumerate(method.peaks)] == maps.max((1, 2)).tolist()


def test_films_whose_labels_nobody_states(weights, tmp_path):
    found = explain_sheet(
        weights, tmp_path / "maps.png", source="phantom:64", finding="Rare", count=2,
        methods=["class-activation"], opening=Opening(model=STATED), machine=MACHINE,
        source_count=40,
    )  # fmt: skip
    assert found.labels == (None, None)
    assert found.file == str(tmp_path / "maps.png")
    with Image.open(found.file) as picture:
        assert picture.format == "PNG"


def test_a_model_on_the_command_line(weights, tmp_path, monkeypatch, capsys):
    out = tmp_path / "maps.png"
    words = ["-q", "explain", weights, "--source", "phantom:64", "--source.count", "40",
             "--model.size", "48", "--model.findings", "Mass,Effusion,Rare", "--count", "1",
             "--methods", "class-activation,authors-shortcut", "--cache", "none",
             "--out", out]  # fmt: skip
    code, stdout, _ = call(monkeypatch, capsys, *words)
    assert code == 0
    lines = stdout.splitlines()
    assert lines[0] == "Mass: maps of vendor.pt on 1 film"
    assert lines[1].endswith(", has it")
    assert lines[2:] == [
        "authors-shortcut: skipped, needs densenet121; this is resnet18", f"Picture: {out}",
    ]  # fmt: skip
    code, stdout, _ = call(monkeypatch, capsys, *words, "--json")
    assert json.loads(stdout)["methods"][0]["layer"] == "stage layer4"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--methods", "authors-shortcut"],
            "--methods: authors-shortcut needs densenet121; this is",
        ),
        (["--finding", "Effusoin"], "did you mean Effusion"),
        (["--model.findings", "A,B"], "has 3 outputs and 2 different names"),
    ],
)
def test_what_is_wrong_with_a_model_is_one_line(
    weights, tmp_path, monkeypatch, capsys, words, message
):
    given = ["-q", "explain", weights, "--source", "phantom:64", "--model.findings",
             "Mass,Effusion,Rare", *words, "--out", tmp_path / "maps.png"]  # fmt: skip
    code, _, stderr = call(monkeypatch, capsys, *given)
    *assumed, last = stderr.splitlines()
    assert code == 4
    assert message in last
    assert all("ASSUMED" in line for line in assumed)


def test_a_study_states_its_models_itself(study, tmp_path):
    opening = Opening(model=ModelSettings(size=48))
    with pytest.raises(
        UsageError, match=r"`model\.size`, `source\.source_count`: a study states this"
    ):
        explain_sheet(study, tmp_path / "maps.png", opening=opening, source_count=3)
