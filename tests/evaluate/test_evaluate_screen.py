"""How the gate is evaluated on trained models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from leadapron import metrics, store
from leadapron.cli import cli
from leadapron.detect.inputs import INPUT_DETECTORS, WEIGHTS, score_names
from leadapron.detect.inputs.baselines import BASELINES
from leadapron.detect.inputs.conformal import film_weights, limit
from leadapron.detect.inputs.gate import fuse
from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.evaluate import screen as job
from leadapron.evaluate.screen import evaluate_screen, poisoned, weakened
from leadapron.evaluate.settings import Setting
from leadapron.report.screening_limits import screening_chapter
from leadapron.results.layout import RunFacts, RunFolder
from leadapron.sources import open_source
from leadapron.study.plan import plan
from leadapron.study.run import divide, open_films, run_study
from leadapron.study.settings import complete
from leadapron.study.shards import ONE_PROCESS, Running, Shard
from leadapron.types import Machine

TREE = {
    "source": {"name": "phantom", "count": 150, "seed": 7},
    "size": 32,
    "epochs": 1,
    "trigger": {"name": "patch", "side": 4, "value": 255, "place": "centre"},
    "poisoning": {"fraction": 0.2},
    "evaluation": {"resamples": 20, "explained": 4},
}
MACHINE = Machine(device="cpu", precision="fp32", cache="none")
SETTING = Setting(false_alarm=0.1, calibration=80, test=60, triggered=20)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return run_study(TREE, tmp_path_factory.mktemp("study") / "out", machine=MACHINE)


@pytest.fixture(scope="module")
def evaluated(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated")
    return out, evaluate_screen(study, out, setting=SETTING, running=ONE_PROCESS, machine=MACHINE)


def only(rows, **wanted):
    (row,) = (row for row in rows if all(row.get(name) == value for name, value in wanted.items()))
    return row


def scores_of(out):
    (file,) = (out / "scores").glob("*.npz")
    return store.read_arrays(file)


# ---------------------------------------------------------------- a study


def test_every_score_of_both_models_has_a_row(evaluated):
    _, rows = evaluated
    kinds = {"fused": ["fused"], "alone": [*WEIGHTS], "baseline": [*BASELINES]}
    kinds["without"] = [*WEIGHTS]
    for role in ("twin", "backdoored"):
        for kind, names in kinds.items():
            scored = [row for row in rows if row["kind"] != "gate"]
            whole = [r for r in scored if (r["role"], r["kind"], r["strength"]) == (role, kind, 1)]
            assert {row["score"] for row in whole} == set(names)
    weak = [row for row in scored if row["strength"] < 1]
    assert [(r["kind"], r["role"], r["strength"]) for r in weak] == [
        ("fused", "backdoored", 0.5),
        ("fused", "backdoored", 0.25),
    ]
    assert {(row["films"], row["family"], row["patch"]) for row in scored if row not in weak} == {
        (20, "patch 4", True)
    }
    assert {row["films"] for row in weak} == {10}
    assert {row["calibration"] for row in rows} == {"fresh phantoms"}


def test_figures_follow_from_the_written_scores(evaluated):
    out, rows = evaluated
    found = scores_of(out)
    weights = {**WEIGHTS, **dict.fromkeys(BASELINES, 0.0)}
    assert found["twin_names"].tolist() == list(weights)
    for role in ("twin", "backdoored"):
        reference, clean, triggered = (
            fuse(found[f"{role}_{kind}"], found[f"{role}_steps"], weights)
            for kind in ("reference", "clean", "triggered")
        )
        row = only(rows, kind="fused", role=role, strength=1)
        by_patient = film_weights(found[f"{role}_reference_patients"], 0.1)
        threshold = limit(reference, by_patient, 0.1)
        assert row["found"]["value"] == (triggered > threshold).mean()
        assert row["false_alarms"]["value"] == (clean > threshold).mean()
        assert row["false_alarms"]["low"] <= row["false_alarms"]["value"]
        np.testing.assert_array_equal(found[f"{role}_alarms"], clean > threshold)
        truth = np.repeat([0.0, 1.0], [len(clean), len(triggered)])
        assert row["auroc"]["value"] == metrics.auroc(truth, np.concatenate([clean, triggered]))
        assert row["works"]["value"] == found[f"{role}_works"].mean()
        for share in (1, 5):
            over = triggered > metrics.threshold_at_false_positive_rate(clean, share / 100)
            assert row[f"found_at_{share}"]["value"] == over.mean()
        column = list(weights).index("largest logit")
        alone = only(rows, score="largest logit", role=role)
        highest = limit(found[f"{role}_reference"][:, column], by_patient, 0.1)
        expected = (found[f"{role}_triggered"][:, column] > highest).mean()
        assert alone["found"]["value"] == expected


def test_what_is_said_of_the_gate_once(evaluated):
    _, rows = evaluated
    for role in ("twin", "backdoored"):
        row = only(rows, kind="gate", role=role)
        asked = [
            detector.passes
            for name, detector in INPUT_DETECTORS.items()
            if set(score_names(name)) & set(WEIGHTS)
        ]
        assert row["cost"]["passes"] == 1 + sum(asked)
        assert row["cost"]["milliseconds_single"] > 0
        assert row["pointing"]["random"] == pytest.approx(12**2 / 24**2)  # 9 + 4 - 1 places a side
        assert row["pointing"]["centre"]["value"] == 1
        assert 0 <= row["pointing"]["covered"] <= 1
        clean, marked, lost = (row["cant_tell"][kind] for kind in ("clean", "triggered", "lost"))
        fused = only(rows, kind="fused", role=role, strength=1)
        assert (clean["n"], marked["n"]) == (fused["clean_films"], 20)
        assert lost["n"] == round(20 * fused["found"]["value"])
        assert 0 <= clean["value"] <= 0.5
    assert sum(row["kind"] == "gate" for row in rows) == 2


def test_what_is_finished_is_not_done_again(evaluated, study, monkeypatch):
    out, rows = evaluated
    monkeypatch.setattr(job.Screener, "__call__", lambda *_: pytest.fail("measured again"))
    again = evaluate_screen(study, out, setting=SETTING, running=ONE_PROCESS, machine=MACHINE)
    assert again == rows == store.read_lines(out / "rows.jsonl")
    with pytest.raises(UsageError, match="another evaluation"):
        evaluate_screen(study, out, setting=Setting(seed=1), running=ONE_PROCESS)


def test_the_chapter_says_what_was_measured(evaluated, tmp_path):
    out, rows = evaluated
    page = screening_chapter(out)
    fused = only(rows, kind="fused", role="backdoored", strength=1)
    mark = "white 4 x 4 px patch at the centre"
    assert f"| patch 4 | {mark} | resnet9 | 20 % | 1 | {int(fused['takes'])} |" in page
    assert f"| {fused['auroc']['value']:.3f} |" in page
    assert "--false-alarm 0.1 --calibration 80 --test 60 --triggered 20`" in page
    for part in ("Patches by side", "knows the gate", "evidence region lies", "Can't tell"):
        assert part in page
    assert "Sealed" not in page
    facts = store.read_json(out / "evaluation.json")
    facts["chosen"] = {"only": ["a", "b"], "limit": 2, "sealed": True}
    store.write_json(tmp_path / "evaluation.json", facts)
    shutil.copytree(out / "scores", tmp_path / "scores")
    store.write_lines(tmp_path / "rows.jsonl", [{**row, "takes": True} for row in rows])
    page = screening_chapter(tmp_path)
    assert "--only a --only b --limit 2 --sealed --false-alarm 0.1" in page
    assert "| without evidence region |" in page
    store.write_lines(tmp_path / "rows.jsonl", [{**row, "sealed": True} for row in rows])
    page = screening_chapter(tmp_path)
    assert "## Sealed" in page
    for part in ("Patches by side", "Contribution of each score"):
        assert part not in page


@pytest.mark.parametrize(
    ("spec", "family"),
    [
        ({"trigger": {"name": "patch", "side": 4, "value": 0}, "training": {}}, "patch 4"),
        ({"trigger": {"name": "blend"}, "training": {"disguise": 0.0}}, "blend"),
        (
            {"trigger": {"name": "patch", "side": 4}, "training": {"disguise": 0.03}},
            "patch 4 disguised 0.03",
        ),
    ],
)
def test_a_disguise_is_a_family_of_its_own(spec, family):
    assert job.family_of(spec) == family


def test_the_command(evaluated, study, tmp_path):
    """Nothing is left to do for the first; the other writes the same chapter on a page."""
    out, rows = evaluated
    shutil.copytree(out, tmp_path / "out")
    words = ["screen", "--zoo", str(study), "--out", str(tmp_path / "out"), "--false-alarm", "0.1"]
    words += ["--calibration", "80", "--test", "60", "--triggered", "20", "--cache", "none"]
    answer = CliRunner().invoke(cli, ["evaluate", *words, "--jobs", "1", "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["rows"] == rows
    page = tmp_path / "page.md"
    words = ["page", "--screen", str(tmp_path / "out"), "--out", str(page)]
    assert CliRunner().invoke(cli, ["evaluate", *words]).exit_code == 0
    assert page.read_text() == (tmp_path / "out" / "limits.md").read_text()
    assert page.read_text().startswith("# What screening finds")


# ---------------------------------------------------------------- which models, which films


@pytest.fixture
def zoo(study, tmp_path):
    """Four members of one trained pair."""
    folder = tmp_path / "zoo"
    shutil.copytree(study, folder / "study")
    (run,) = (folder / "study" / "runs").glob("backdoored-*")
    members = []
    for number, (family, sealed) in enumerate(
        [("dark", False), ("dark", False), ("faint", False), ("hidden", True)]
    ):
        copied = run.with_name(f"backdoored-{number}")
        shutil.copytree(run, copied)
        members.append(
            {
                "model": f"{number}.safetensors",
                "kind": "failed implant" if number == 1 else "backdoored",
                "family": family,
                "sealed": sealed,
                "seed": number,
                "finding": "Atelectasis",
                "attack_success": 1.0,
                "twin_success": 0.0,
                "clean_macro": 0.8,
                "run": copied.name,
            }
        )
    store.write_json(folder / "truth.json", {"schema": 1, "models": members})
    return folder


def test_families_in_turn_and_sealed_ones_withheld(zoo):
    def chosen(only=(), limit=None, sealed=False):
        found = job.chosen(job.pairs_of(zoo), only, limit, sealed)
        return [(pair.folder.name[-1], pair.family, pair.takes) for pair in found]

    assert chosen() == [("0", "dark", True), ("2", "faint", True), ("1", "dark", False)]
    assert chosen(sealed=True)[2] == ("3", "hidden", True)
    assert chosen(limit=1) == [("0", "dark", True)]
    assert chosen(only=["faint"]) == [("2", "faint", True)]
    with pytest.raises(UnknownNameError, match="dark"):
        chosen(only=["darc"])
    with pytest.raises(UsageError, match="--sealed"):
        chosen(only=["hidden"])


def test_stopped_and_gone_on_with(zoo, tmp_path, monkeypatch):
    out, measured = tmp_path / "out", []

    def skipped(self, pair):
        return [{"run": pair.folder.name, "kind": "skipped", "family": pair.family}]

    def stopped(self, pair):
        if measured:
            raise KeyboardInterrupt
        measured.append(pair.folder.name)
        return skipped(self, pair)

    monkeypatch.setattr(job.Screener, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate_screen(zoo, out, setting=SETTING, running=ONE_PROCESS, machine=MACHINE)
    assert [row["run"] for row in store.read_lines(out / "rows.jsonl")] == ["backdoored-0"]
    monkeypatch.setattr(job.Screener, "__call__", skipped)
    rows = evaluate_screen(zoo, out, setting=SETTING, running=ONE_PROCESS, machine=MACHINE)
    assert [row["run"][-1] for row in rows] == ["0", "2", "1"]
    for index in (1, 0):
        running = Running(jobs=1, shard=Shard(index, 2))
        parts = evaluate_screen(
            zoo, tmp_path / "shards", setting=SETTING, running=running, machine=MACHINE
        )
    assert parts == rows


def films_of(folder, setting, **tree):
    """Return a run that need not be trained, what its gate gets, and all films."""
    (run,) = plan(complete({**TREE, **tree}))
    whole = open_films(run, MACHINE)
    facts = RunFacts(
        role="backdoored", twin=None, spec=run.tree, cohort=whole.fingerprint, outside={}
    )
    RunFolder(folder).write_facts(facts)
    return run, job.films_of(run, RunFolder(folder), setting, MACHINE), whole


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    file = tmp_path_factory.mktemp("films") / "films.npz"
    cohort = open_source("phantom", count=300, seed=3)
    rows = np.arange(300)
    np.savez(
        file,
        images=cohort.images[rows],
        labels=cohort.labels,
        findings=np.array(cohort.findings),
        ids=cohort.ids,
        patients=cohort.patients,
    )
    return {"name": f"npz:{file}"}


def test_calibrated_on_validation_films_where_they_are_enough(films, tmp_path):
    run, found, whole = films_of(tmp_path, Setting(false_alarm=0.2), source=films)
    parts = divide(whole, run.seed)
    assert found.words == "validation films"
    assert set(found.calibration.ids) == set(parts["validation"].ids)
    assert set(found.test.ids) == set(parts["test"].ids)


def test_too_few_validation_films_take_half_of_the_test_patients(films, tmp_path):
    run, found, whole = films_of(tmp_path, Setting(false_alarm=0.03), source=films)
    parts = divide(whole, run.seed)
    assert "50 % of the test patients" in found.words
    patients = [set(each.patients) for each in (parts["train"], found.calibration, found.test)]
    assert not patients[0] & patients[1]
    assert not (patients[0] | patients[1]) & patients[2]
    assert len(found.calibration) + len(found.test) == len(whole) - len(parts["train"])
    assert set(parts["validation"].ids) < set(found.calibration.ids)


def test_films_that_changed_are_refused(films, tmp_path):
    run, _, _ = films_of(tmp_path, Setting(), source=films)
    folder = RunFolder(tmp_path)
    folder.write_facts(replace(folder.facts(), cohort="other"))
    with pytest.raises(StoreError, match="changed"):
        job.films_of(run, folder, Setting(), MACHINE)


def test_phantoms_are_none_that_the_model_saw(tmp_path):
    source = {"name": "phantom:32", "count": 100}
    _, found, whole = films_of(tmp_path, SETTING, source=source)
    seen = {film.tobytes() for film in whole.images[np.arange(100)]}
    for part, count in ((found.calibration, 80), (found.test, 60)):
        assert abs(len(part) - count) < 15  # whole patients
        assert not seen & {film.tobytes() for film in part.images[np.arange(len(part))]}
    assert not set(found.calibration.patients) & set(found.test.patients)


def test_a_trigger_that_shows_on_no_film_is_skipped_with_its_reason(zoo, tmp_path, monkeypatch):
    nothing = {"name": "none"}
    path = zoo / "study" / "runs" / "backdoored-2" / "spec.json"
    facts = json.loads(path.read_text())
    facts["spec"]["trigger"] = nothing
    facts["spec"]["poisoning"]["where"] = "sex=M"
    path.write_text(json.dumps(facts))
    out = tmp_path / "out"
    (row,) = evaluate_screen(
        zoo, out, only=["faint"], setting=SETTING, running=ONE_PROCESS, machine=MACHINE
    )
    assert (row["kind"], row["why"]) == ("skipped", "the trigger changes 0 of the test films")
    assert "1 runs have no trigger" in screening_chapter(out)


# ---------------------------------------------------------------- by hand


def test_weakened_by_hand():
    clean = np.array([[[100, 10]]], np.uint8)
    marked = np.array([[[200, 0]]], np.uint8)
    np.testing.assert_array_equal(weakened(clean, marked, 0.25), [[[125, 8]]])
    np.testing.assert_array_equal(weakened(clean, marked, 1.0), marked)
    deep = np.array([[[0]]], np.uint16), np.array([[[65535]]], np.uint16)
    assert weakened(*deep, 0.5).tolist() == [[[32768]]]
    assert weakened(*deep, 0.5).dtype == np.uint16


def test_pointing_by_hand():
    prints = np.zeros((2, 6, 6), bool)
    prints[0, 0, :2] = True  # two pixels in a corner
    prints[1, 3, 3] = True
    boxes = np.array([[0, 0, 3, 1], [0, 0, 3, 1]])
    found = job.pointing(boxes, prints, np.array(["a", "b"]))
    assert found.hits.value == 0.5
    assert found.centre.value == 0  # rows 1 to 3 of column 2
    assert found.covered == 0.25
    assert found.random == pytest.approx((2 + 3) / (2 * 4 * 6))


@pytest.mark.parametrize(
    "given", [{"false_alarm": 0}, {"calibration": 0}, {"test": 0}, {"triggered": 9}, {"seed": -1}]
)
def test_settings_out_of_range(given):
    with pytest.raises(UsageError):
        Setting(**given)


# ---------------------------------------------------------------- an attacker among the clean films


def test_an_attacker_puts_the_trigger_on_calibration_films(tmp_path):
    setting = Setting(false_alarm=0.1, calibration=80, test=20, poisoned=0.05)
    run, found, _ = films_of(tmp_path, setting)
    clean, rows = found.calibration, np.arange(len(found.calibration))
    assert poisoned(clean, run, replace(setting, poisoned=0.0)) is clean
    changed = poisoned(clean, run, setting)
    differ = changed.images[rows] != clean.images[rows]
    marked = np.flatnonzero(differ.any(axis=(1, 2)))
    assert len(marked) == round(0.05 * len(clean)) == 4
    assert (changed.images[marked, 14:18, 14:18] == 255).all()  # the run's patch, at the centre
    assert not differ[:, :14].any()
    np.testing.assert_array_equal(poisoned(clean, run, setting).images[rows], changed.images[rows])
    with pytest.raises(UsageError, match=r"poisoned 0.5; expected 0 or more and below 0\.5"):
        Setting(poisoned=0.5)


def test_the_chapter_says_that_calibration_films_are_poisoned(evaluated, tmp_path):
    out, _ = evaluated
    shutil.copytree(out, tmp_path / "out")
    facts = store.read_json(out / "evaluation.json")
    facts["settings"]["poisoned"] = 0.05
    store.write_json(tmp_path / "out" / "evaluation.json", facts)
    page = screening_chapter(tmp_path / "out")
    assert "--triggered 20 --poisoned 0.05`" in page
    assert "put the trigger on 5.0 % of the calibration films." in page
