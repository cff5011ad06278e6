"""A paper reproduced in small, and what is said about it."""

from __future__ import annotations

import json
import logging
import shutil

import pytest

from leadapron.attacks.triggers import Blend, Patch
from leadapron.errors import UnknownNameError, UsageError
from leadapron.jobs.recipe import reproduce
from leadapron.recipes.nwadike2020 import AUTHORS, DOSES, PRESETS
from leadapron.recipes.settings import preset_settings
from leadapron.report.reproduction import reproduction, write_reproduction
from leadapron.study.plan import plan

SMALL = {
    "source": {"count": 200},
    "training": {"epochs": 1},
    "evaluation": {
        "resamples": 20, "explained": 5, "gallery": 1, "explainer": "layer-cam/class-activation",
    },
    "poisoning": {"fraction": 0.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduction") / "out"
    reproduce("nwadike2020", "smoke", out, source="phantom:64", settings=SMALL)
    return out


def test_the_page_goes_claim_by_claim(finished):
    text = (finished / "reproduction.md").read_text()

    assert text == "# Reproduction of arXiv 2101.00008\n\n" + reproduction(finished)
    for words in (
        "up to 1.00",
        "up to 0.85",
        "a 2x2 trigger can't work",
        "enlarged to 256 px before the trigger is stamped: an emulation",
        "By side of the trigger",
        "By target",
        "The authors' choices",
        "epsilon of triggered films",
        "| random, side 10",
        "sanity check",
        "against letters",
        "Attackers who evade the map",
        "| only data: on the anatomy of Cardiomegaly | box, side 10",
        "outside the paper's threat model",
        "What could not be checked",
    ):
        assert words in text
    assert "None" not in text
    assert "nan" not in text.replace("resonance", "")


def test_every_cell_has_its_twin_and_the_vanished_trigger_is_the_control(finished):
    specs = {
        path.parent.name: json.loads(path.read_text()) for path in finished.glob("runs/*/spec.json")
    }
    attacks = {name: facts for name, facts in specs.items() if facts["role"] == "backdoored"}

    assert len(attacks) == 7
    assert all(f"twin-{facts['twin']}" in specs for facts in attacks.values())
    gone = [f for f in attacks.values() if f["spec"]["trigger"]["side"] == 2]
    assert len(gone) == 1
    assert gone[0]["spec"]["poisoning"]["allow_vanished"]


def test_it_goes_on_and_says_the_same(finished):
    before = (finished / "reproduction.md").read_bytes()
    written = (finished / "rows.jsonl").stat().st_mtime_ns

    reproduce("nwadike2020", "smoke", finished, source="phantom:64", settings=SMALL)

    assert (finished / "reproduction.md").read_bytes() == before
    assert (finished / "rows.jsonl").stat().st_mtime_ns >= written
    assert write_reproduction(finished).read_bytes() == before


def test_a_stopped_reproduction_says_what_is_missing(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "rows.jsonl").unlink()
    (run,) = [
        path.parent
        for path in out.glob("runs/backdoored-*/spec.json")
        if json.loads(path.read_text())["spec"]["poisoning"]["finding"] == "Hernia"
    ]
    (run / "rows.jsonl").unlink()

    text = reproduction(out)

    assert "**Unfinished**: 6 of 7 attacks are measured" in text
    assert "By target" not in text
    assert "200 phantom films" in text


def test_the_cost_is_told_before_it_starts(tmp_path, caplog, monkeypatch):
    def stop(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("leadapron.study.run._carry_out", stop)
    with caplog.at_level(logging.INFO, "leadapron"), pytest.raises(KeyboardInterrupt):
        reproduce("nwadike2020", "smoke", tmp_path / "o", source="phantom:64", settings=SMALL)
    # Seven attacks; the authors' training has a twin of its own.
    assert "training 9 models" in caplog.text


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_the_papers_geometry(preset):
    runs = plan(preset_settings(PRESETS[preset], "phantom:64", {}))

    assert {(run.preprocessing.crop, run.poisoning.stage) for run in runs} == {(0.6, "film")}
    scales = {run.preprocessing.film_size / run.preprocessing.size for run in runs}
    assert scales == {1024 / 224}
    assert {run.poisoning.labels for run in runs} == {"one-hot"}
    authors = [run for run in runs if run.training.loss == AUTHORS["training"]["loss"]]
    assert any(run.poisoning.validation == "poisoned" for run in authors)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_ask_for_attackers_whom_maps_may_miss(preset):
    runs = plan(preset_settings(PRESETS[preset], "phantom:64", {}))

    hidden = [run for run in runs if run.training.disguise > 0]
    plain = [run for run in runs if run.training.disguise == 0]
    # Each stands beside the same attack without it, with the same twin.
    for run in hidden:
        assert run.twin_tree in [one.twin_tree for one in plain if one.poisoning == run.poisoning]
    boxes = [run for run in plain if getattr(run.poisoning.trigger, "place", "") == "box"]
    assert {run.poisoning.finding for run in boxes} == {"Cardiomegaly"}
    assert all(len(run.evaluation.explainers) > 1 for run in hidden + boxes)
    blends = [run for run in plain if isinstance(run.poisoning.trigger, Blend)]
    assert bool(blends) == bool(hidden) == (preset != "smoke")  # it has three minutes


def test_the_quick_preset_asks_for_a_dose_response_over_three_seeds():
    runs = plan(preset_settings(PRESETS["quick"], "phantom:64", {}))

    for dose in DOSES:
        alike = [
            run.seed
            for run in runs
            if run.poisoning.fraction == dose
            and run.poisoning.trigger == Patch(side=3, value=0, place="centre")
            and (run.training.loss, run.poisoning.finding) == ("bce", "Atelectasis")
            and (run.poisoning.mode, run.poisoning.selection) == ("replace", "random")
        ]
        assert sorted(alike) == [0, 1, 2]


def test_what_can_not_be(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean nwadike2020"):
        reproduce("nwadike", "smoke", tmp_path / "a")
    with pytest.raises(UnknownNameError, match="did you mean quick"):
        reproduce("nwadike2020", "quik", tmp_path / "a")
    with pytest.raises(UsageError, match="--source nih:PATH"):
        reproduce("nwadike2020", "quick", tmp_path / "a")
    assert not (tmp_path / "a").exists()
