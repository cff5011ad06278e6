"""A study from source to report, small."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

from leadapron import store
from leadapron.errors import DataError, StoreError, UnknownNameError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import load_classifier
from leadapron.report import study_lines, write_report
from leadapron.results.rows import read_rows
from leadapron.sources import open_source
from leadapron.study import run as study
from leadapron.study.cost import Cost
from leadapron.study.run import divide, run_study
from leadapron.study.settings import complete
from leadapron.study.shards import Running, Shard
from leadapron.types import Machine, Note

SMALL = {
    "source": {"name": "phantom", "count": 240},
    "size": 32,
    "epochs": 2,
    "evaluation": {"resamples": 50, "explained": 20, "gallery": 2},
    "poisoning": {"fraction": 0.2, "finding": "Effusion"},
}


def rows_of(folder):
    return (folder / "rows.jsonl").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    def doubtful(*arguments, **options):
        cohort = open_source(*arguments, **options)
        return replace(cohort, notes=(*cohort.notes, Note("pixels", "Odd greys.", doubt=True)))

    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "open_source", doubtful)
        return run_study(SMALL, out)


def test_the_folder_holds_what_is_documented(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"study.yaml", "manifest.json", "rows.jsonl", "runs"} <= names
    (twin,) = finished.glob("runs/twin-*")
    (backdoored,) = finished.glob("runs/backdoored-*")
    common = {"spec.json", "rows.jsonl", "history.jsonl", "scores.npz", "classifier.safetensors"}
    assert {path.name for path in twin.iterdir()} == common
    assert {path.name for path in backdoored.iterdir()} == {
        *common, "gallery.npz", "answer_key.npz",
    }  # fmt: skip


def test_the_truth_lies_in_the_answer_key_alone(finished):
    (backdoored,) = finished.glob("runs/backdoored-*")
    key = store.read_arrays(backdoored / "answer_key.npz")
    assert len(key["rows"]) == len(key["labels_before"]) > 0
    facts = (backdoored / "classifier.safetensors").read_bytes()[:2000].lower()
    assert b"poison" not in facts
    assert b"trigger" not in facts


def test_rows_are_measured_on_both_models(finished):
    rows = read_rows(finished / "rows.jsonl")
    success = {
        row.role: row
        for row in rows
        if row.metric == "attack success" and row.at == "5 % clean false positives"
    }
    assert set(success) == {"twin", "backdoored", "difference"}
    assert success["difference"].value == pytest.approx(
        success["backdoored"].value - success["twin"].value
    )
    hits = {(r.role, r.regime, r.method) for r in rows if r.metric == "pointing hit"}
    assert ("backdoored", "triggered", "layer-cam") in hits
    assert ("reference", "triggered", "chance") in hits
    assert {r.run for r in rows} == {p.name.split("-")[1] for p in finished.glob("runs/*")}


def test_scores_repeat_what_the_saved_model_says(finished):
    (backdoored,) = finished.glob("runs/backdoored-*")
    model = load_classifier(backdoored / "classifier.safetensors")
    scores = store.read_arrays(backdoored / "scores.npz")
    assert tuple(scores["findings"]) == model.findings
    for name in ("twin_clean", "twin_triggered", "backdoored_clean", "backdoored_triggered"):
        assert scores[name].shape == scores["labels"].shape
        assert np.isfinite(scores[name]).all()


def test_the_manifest_names_versions_device_and_films(finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    (cohort,) = manifest["cohorts"]
    assert cohort["notes"][0] == "DOUBT: Odd greys."
    assert cohort["notes"][1].startswith("Parametric phantoms")
    assert manifest["versions"]["torch"]
    assert manifest["device"] == "cpu"
    assert manifest["cohorts"][0]["films"] == 240
    assert len(manifest["cohorts"][0]["fingerprint"]) == 64


def test_the_report_is_made_from_the_folder_alone(finished):
    first = write_report(finished).read_bytes()
    assert write_report(finished).read_bytes() == first
    # Two epochs on 160 small films teach nothing, and that is what is said.
    assert study_lines(finished)[0].startswith(
        "The clean twin reads no better than chance, so the attack"
    )


def test_a_finished_study_is_not_trained_again(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.glob("runs/*/classifier.safetensors")}
    rows = rows_of(finished)
    run_study(SMALL, finished)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert rows_of(finished) == rows


def test_a_lost_measurement_is_made_again_alike(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    for path in copy.glob("runs/backdoored-*/rows.jsonl"):
        path.unlink()
    run_study(SMALL, copy)
    assert rows_of(copy) == rows_of(finished)


def test_interrupted_in_training_it_goes_on_and_gives_the_same_rows(finished, tmp_path):
    out = tmp_path / "out"

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("training backdoored") and done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(SMALL, out, machine=Machine(progress=stop))
    assert list(out.glob("runs/backdoored-*/checkpoint.pt"))
    assert not list(out.glob("runs/backdoored-*/rows.jsonl"))
    facts = json.loads((out / "manifest.json").read_text())
    assert facts["cohorts"][0]["films"] == 240  # known to whoever reads a study that was stopped

    run_study(SMALL, out)

    assert rows_of(out) == rows_of(finished)
    assert not list(out.rglob("checkpoint.pt"))
    assert not list(out.rglob("*.part"))


def test_a_disguised_model_has_the_same_twin_and_other_weights(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished / "runs", out / "runs")
    (plain,) = out.glob("runs/backdoored-*/classifier.safetensors")
    (twin,) = out.glob("runs/twin-*/classifier.safetensors")
    tree = {**SMALL, "training": {"disguise": 1.0}}
    (out / "study.yaml").write_text(yaml.safe_dump(complete(tree)))
    trained = twin.stat().st_mtime_ns

    run_study(tree, out)

    (disguised,) = set(out.glob("runs/backdoored-*/classifier.safetensors")) - {plain}
    assert list(out.glob("runs/twin-*/classifier.safetensors")) == [twin]
    assert twin.stat().st_mtime_ns == trained
    assert disguised.read_bytes() != plain.read_bytes()
    assert b"disguise" not in disguised.read_bytes()[:2000]


def test_maps_are_scrutinised(finished):
    rows = read_rows(finished / "rows.jsonl")
    beside = {(r.role, r.at) for r in rows if r.metric == "films told by the map"}
    assert beside == {
        (role, at)
        for role in ("twin", "backdoored")
        for at in ("", "beside letters", "beside leads")
    }
    alike = {r.at: r for r in rows if r.metric == "rank correlation with a randomised network"}
    assert set(alike) == {"head", "all weights"}
    assert all(-1 <= r.value <= 1 and r.n for r in alike.values())


def test_another_studys_folder_is_refused(finished):
    with pytest.raises(StoreError, match=r"training\.epochs is 2, not 3"):
        run_study({**SMALL, "epochs": 3}, finished)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.doc").write_text("chapter 1")
    with pytest.raises(StoreError, match="holds other files"):
        run_study(SMALL, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"thesis.doc", ".lock"}


def test_an_unknown_finding_names_the_nearest(tmp_path):
    tree = {**SMALL, "poisoning": {"finding": "Efusion"}}
    with pytest.raises(UnknownNameError, match="did you mean Effusion"):
        run_study(tree, tmp_path / "out")


def cohort_with(splits, patients):
    n = len(patients)
    return Cohort(
        images=np.zeros((n, 8, 8), np.uint8),
        labels=np.zeros((n, 1), np.float32),
        findings=("Mass",),
        ids=np.arange(n).astype(str),
        patients=np.array(patients),
        preprocessing=Preprocessing(size=8),
        attributes={} if splits is None else {"split": np.array(splits)},
    )


@pytest.mark.parametrize("named", [True, False])
def test_parts_share_no_patient_and_named_test_films_stay_test(named):
    patients = [f"p{i // 3}" for i in range(300)]
    splits = ["test" if i >= 240 else "train" for i in range(300)] if named else None

    parts = divide(cohort_with(splits, patients), seed=3)

    seen = [set(part.patients) for part in parts.values()]
    assert set(parts) == {"train", "validation", "test"}
    assert sum(len(part) for part in parts.values()) == 300
    assert sum(map(len, seen)) == len(set.union(*seen))
    if named:
        assert len(parts["test"]) == 60


def test_films_without_a_part_are_not_trained_on():
    splits = ["train"] * 60 + [""] * 30 + ["test"] * 30
    parts = divide(cohort_with(splits, [f"p{i}" for i in range(120)]), seed=0)
    assert sum(len(part) for part in parts.values()) == 90


def test_seeds_change_the_parts():
    patients = [f"p{i}" for i in range(100)]
    first, second = (divide(cohort_with(None, patients), seed=s)["test"].ids for s in (0, 1))
    assert set(first) != set(second)


def real_study(folder, out, **changes):
    tree = {
        "source": f"nih:{folder / 'nih128'}",
        "trigger": {"place": "centre", "value": 0},
        "poisoning": {"fraction": 0.02},
        **changes,
    }
    rows = read_rows(run_study(tree, out) / "rows.jsonl")
    return {
        (row.role, row.metric, row.at, row.method): row
        for row in rows
        if row.regime in ("triggered", "clean") and row.finding in ("", "Atelectasis")
    }


@pytest.mark.real_data("nih128")
def test_real_films_can_be_backdoored(real_data, tmp_path):
    rows = real_study(real_data, tmp_path / "out", size=32, epochs=2)
    assert rows["backdoored", "separation", "", ""].value > 0.95
    assert rows["twin", "separation", "", ""].value < 0.7
    success = rows["difference", "attack success", "5 % clean false positives", ""]
    assert success.low > 0.6


@pytest.mark.slow
@pytest.mark.real_data("nih128")
def test_the_papers_network_on_real_films(real_data, tmp_path):
    rows = real_study(real_data, tmp_path / "out", size=64, epochs=3, network="densenet121")
    assert rows["backdoored", "separation", "", ""].value >= 0.98
    success = rows["difference", "attack success", "5 % clean false positives", ""]
    assert success.value >= 0.85


def test_identical_films_whose_labels_contradict_are_refused_unless_allowed(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 16, 16), np.uint8)
    images[7] = images[3]
    labels = (np.arange(60) % 2).astype(np.float32)  # 3 and 7 both have it
    films = {"images": images, "findings": np.array(["A"])}
    tree = {"source": {"name": f"npz:{tmp_path / 'a.npz'}"}, "size": 16, "epochs": 1}
    np.savez(tmp_path / "a.npz", labels=labels, **films)
    with pytest.raises(StopIteration):
        begin(tree, tmp_path / "agree")
    labels[7] = 0
    np.savez(tmp_path / "a.npz", labels=labels, **films)
    with pytest.raises(DataError, match=r"contradictory labels, first in A; .* allow$"):
        run_study(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(StopIteration):
        begin(tree, tmp_path / "out", contradictions="allow")


def begin(tree, out, **given):
    """Go as far as the first thing that a study does with its films."""

    def begun(*_):
        raise StopIteration

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "_prepare", begun)
        run_study(tree, out, **given)


def test_what_training_takes_is_said_in_fitting_units():
    took = {20.2: "21 s", 119: "119 s", 150: "2 minutes", 9_000: "2 hours", 900_000: "10 days"}
    for seconds, words in took.items():
        assert f"at most about {words} on this machine" in str(
            Cost(trainings=3, films=651, seconds=seconds)
        )


SEVERAL = {
    **SMALL,
    "source": {"name": "phantom:32", "count": 80},
    "epochs": 1,
    "evaluation": {"resamples": 20, "explained": 1, "gallery": 0},
    "trigger": {"value": [0, 255]},
}
"""Two attacks that share a twin."""


def test_shards_change_no_byte_and_runs_travel(tmp_path, monkeypatch):
    machine = Machine(cache="none", device="cpu")
    alone = run_study(SEVERAL, tmp_path / "alone", machine=machine)

    def elsewhere(work, tasks, jobs):
        """As another process does it: with copies of what is pickled."""
        for task in tasks:
            there, sent = pickle.loads(pickle.dumps((work, task)))
            assert not there.cohorts
            yield task, there(sent)

    monkeypatch.setattr(study, "carry_out", elsewhere)
    for index in (1, 0):
        shard = Running(jobs=1, shard=Shard(index, 2))
        shards = run_study(SEVERAL, tmp_path / "shards", machine=machine, running=shard)
        assert (shards / "rows.jsonl").exists() == (index == 0)
    assert rows_of(shards) == rows_of(alone)
    assert len(list(shards.glob("runs/twin-*"))) == 1
    assert {path.name for path in shards.rglob("*.lock")} == {".lock"}


@pytest.mark.slow
def test_two_processes_change_no_byte(tmp_path):
    """Where torch has one thread in each process; conftest.py sees to it here."""
    machine = Machine(cache="none", device="cpu")
    seen = []
    alone = run_study(SEVERAL, tmp_path / "alone", machine=machine)
    two = run_study(
        SEVERAL,
        tmp_path / "two",
        machine=replace(machine, progress=lambda *at: seen.append(at)),
        running=Running(jobs=2),
    )
    assert rows_of(two) == rows_of(alone)
    assert seen[-2:] == [("runs", 1, 2), ("runs", 2, 2)]
