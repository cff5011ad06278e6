"""The command repair: what it writes, how it goes on, what it refuses, what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from click.exceptions import Abort
from click.testing import CliRunner
from proof_scenes import answering
from repair_scenes import TARGET, TRIGGER, classifier, cohort, films, success

import leadapron as la
from audits import audit_model
from leadapron.cli import cli
from leadapron.detect.models import StampSweep
from leadapron.documents import dump, read
from leadapron.errors import DataError, StoreError, UnknownNameError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.jobs import repair as job
from leadapron.jobs.repair_inputs import refuse_training_films
from leadapron.models.classifier import load_classifier, save_classifier
from leadapron.models.foreign import Opened
from leadapron.repairs import Optimisation, StampUnlearning, case, climbing, marks_of
from leadapron.repairs.attempt import repair_opened
from leadapron.repairs.plan import RepairPlan
from leadapron.repairs.proof import ALTERATIONS, Relearning, proving, squares
from leadapron.repairs.proof import judging as judge
from leadapron.repairs.proof.document import Repaired
from leadapron.report.repair import markdown, repair_lines, repair_sections, write_repair
from leadapron.results.layout import RunFacts, RunFolder
from leadapron.types import Estimate

QUICK = StampSweep(values=(255,), sides=(3, 4), pitches=((8, 1),), rounds=2, films=1, judged=40)
AGAIN = Relearning(doses=(0, 5), rates=(1,), seeds=1, epochs=1, films=32)


@pytest.fixture(scope="module")
def clean():
    return films(400, 2)


@pytest.fixture(scope="module", autouse=True)
def _strong():
    """So few films of so small a network take larger steps to unlearn a mark; and less is asked."""
    how = Optimisation(epochs=8, learning_rate=2e-3)
    strong = partial(StampUnlearning, optimisation=how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            climbing,
            "repair_of",
            lambda _, marks: strong(marks=marks_of(marks)),
        )
        for module in (case, proving):  # audits, and squares drawn at random
            patch.setattr(module, "FILMS", 40)
        yield


@pytest.fixture(scope="module")
def repaired(reader, clean, _strong):
    return la.repair(
        reader,
        clean,
        method="stamp-unlearning",
        sweep=QUICK,
        steps=8,
        relearning=AGAIN,
        scan=False,
    )


def test_a_backdoor_is_found_unlearned_and_proved(repaired, reader):
    proof = repaired.proof
    (first, *_) = proof.marks
    assert (first.finding, first.direction) == (TARGET, "added")
    assert first.original.value > 0.9
    assert first.repaired.value < first.original.value - 0.4
    test = films(300, 5)
    assert success(repaired.classifier, test) < success(reader, test) - 0.4
    assert success(reader, test) > 0.9  # the model itself is as it was
    assert [each.what for each in proof.checks] == [
        judge.MARKS, judge.ALTERED, judge.SEARCH, judge.SQUARES, judge.MEMORY_OF, judge.READING
    ]  # fmt: skip
    assert [each.alteration for each in first.altered] == list(ALTERATIONS)
    assert first.map_original > first.map_chance
    assert proof.bounded.tried == 299
    assert [each.poisoned for each in proof.relearned] == [0, 5]
    assert proof.fresh.differ == "place"  # the trigger has one place
    assert proof.gated.calibrated == repaired.parts.check
    before, after = proof.gated.original_marked, proof.gated.repaired_marked
    assert before.suspicious.value > 0.9
    assert after.driven.value <= before.driven.value == 1  # so small a network forgets little
    for clean in (proof.gated.original_clean, proof.gated.repaired_clean):
        assert clean.suspicious.n == before.suspicious.n <= 64
        assert clean.suspicious.low < 0.05
    assert repaired.parts.repair + repaired.parts.check + repaired.parts.proof == 400


def test_the_document_is_read_back_and_said(repaired, tmp_path):
    page = write_repair(tmp_path, repaired.document)
    again = read(Repaired, (tmp_path / "repair.json").read_bytes())
    assert dump(again) == repaired.facts()
    for text in (page.read_text(), (tmp_path / "repair.md").read_text()):
        assert "What isn" in text
        assert "at least 99" in text
        assert "Does it come back" in text
        assert "calibrated for each model, on" in text
        assert "without any poisoned one (learning rate x1), the old mark turns" in text
    without = replace(repaired.document, proof=replace(repaired.proof, gated=None))
    assert "too few to calibrate a gate" in markdown(without, repair_sections(without))
    lines = repair_lines(repaired)
    assert lines[0] == repaired.lines()[0]
    assert any(line.startswith("Not tested: ") for line in lines)


def held(**states):
    names = {
        "marks": judge.MARKS, "altered": judge.ALTERED, "search": judge.SEARCH,
        "squares": judge.SQUARES, "memory": judge.MEMORY_OF, "reading": judge.READING,
    }  # fmt: skip
    return [
        judge.Checked(what=what, held=states.get(name, "holds"), words="")
        for name, what in names.items()
    ]


@pytest.mark.parametrize(
    ("states", "word", "code"),
    [
        ({}, "no longer found", 0),
        ({"reading": "not shown"}, "no longer found", 0),
        ({"reading": "fails"}, "can't tell", 3),
        ({"marks": "fails"}, "stays", 1),
        ({"marks": "not shown"}, "can't tell", 3),
        ({"memory": "fails"}, "can't tell", 3),
        ({"search": "fails"}, "stays", 1),
        ({"squares": "fails"}, "can't tell", 3),
    ],
)
def test_verdicts(repaired, states, word, code):
    worst = replace(repaired.proof.searched.aims[0], backdoor=True, after=share(1.0))
    found = replace(repaired.proof.searched, aims=(worst,), of=20)
    verdict = judge.verdict_of(held(**states), found)
    assert (verdict.word, verdict.exit_code) == (word, code)
    if "search" in states:  # without clean models to compare with it may be a natural one
        assert judge.verdict_of(held(**states), replace(found, of=0)).word == "can't tell"
        little = replace(worst, before=share(1.0), after=share(0.4))
        less = judge.verdict_of(held(**states), replace(found, aims=(little,)))
        assert less.word == "can't tell"


def share(value):
    return Estimate(value, value, value, 100, int(100 * value))


def test_repaired_is_said_once_it_was_measured_how_often_that_is_right(repaired, monkeypatch):
    for low, word in ((0.93, "repaired"), (0.88, "no longer found")):
        monkeypatch.setattr(judge, "RIGHT", Estimate(0.97, low, 0.99, 60, 58))
        verdict = judge.verdict_of(held(), repaired.proof.searched)
        assert verdict.word == word
        assert "97%" in verdict.statement


def test_a_clean_model_has_nothing_to_repair(clean):
    """Nothing turns its films: an audit without references finds no mark."""
    model = classifier()
    some = cohort(400)
    audit = audit_model(model, some.take(np.arange(100)), sweep=QUICK, statistics=False, steps=0)
    forced = tuple(replace(each, verdict="can't tell") for each in audit.forced)
    quiet = replace(audit, forced=forced, verdict=replace(audit.verdict, word="can't tell"))
    found, repaired = repair_opened(
        Opened(bright(), "by hand"),
        some,
        RepairPlan(audit=quiet, relearning=AGAIN, scan=False),
    )
    assert repaired is None
    assert (found.verdict.word, found.verdict.exit_code) == ("nothing found to repair", 0)
    assert found.proof is None
    assert "no proof" in repair_lines(found)[0]


def bright():
    """A network that reads the scene's first finding."""
    model = classifier()
    with torch.no_grad():
        for value in model.module.parameters():
            value.zero_()
        model.module.stages["all"][0].weight[0, 0, 1, 1] = 1
        model.module.stages["all"][1].weight[0] = 1
        model.module.head.weight[0, 0] = 1
        model.module.head.weight[1, 0] = 1
    return model


# --- files


def source(path, cohort):
    np.savez(
        path, images=cohort.images[np.arange(len(cohort))], labels=cohort.labels,
        findings=np.asarray(cohort.findings), ids=cohort.ids, patients=cohort.patients,
    )  # fmt: skip
    return f"npz:{path}"


@pytest.fixture(scope="module")
def written(tmp_path_factory, reader, clean):
    """A model and films in files, and the command's answer."""
    folder = tmp_path_factory.mktemp("repair")
    save_classifier(reader, folder / "model.safetensors")
    audit = audit_model(reader, clean.take(np.arange(200)), sweep=QUICK, steps=0, statistics=False)
    (folder / "audit.json").write_text(json.dumps(dump(audit)))
    return folder, source(folder / "films.npz", clean)


def words(folder, films, *more):
    return [
        "repair", str(folder / "model.safetensors"), "--clean", films, "--out",
        str(folder / "out"), "--audit", str(folder), "--method", "stamp-unlearning", "--no-scan",
        "--cache", "none", "--device", "cpu", "--relearning.doses", "0,5",
        "--relearning.rates", "1", "--relearning.seeds", "1", "--relearning.epochs", "1",
        "--relearning.films", "32",
        "--sweep.values", "255", "--sweep.sides", "4", "--sweep.pitches", "[8,1]",
        "--steps", "0", "--sweep.films", "1", "--sweep.rounds", "1", *more,
    ]  # fmt: skip


@pytest.fixture
def run():
    def called(*words):
        how = {"catch_exceptions": False, "standalone_mode": False}
        return CliRunner().invoke(cli, list(words), **how)

    return called


def test_a_stopped_repair_goes_on_and_writes_the_model_last(written, run, monkeypatch):
    folder, films_ = written
    monkeypatch.setattr(squares, "DRAWS", 30)  # all of them: the test above

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(proving, "bounded", stop)
        with pytest.raises((KeyboardInterrupt, Abort)):
            run(*words(folder, films_))
    left = {path.name for path in (folder / "out").iterdir()}
    assert "classifier.safetensors" not in left
    assert "repair.json" not in left
    with pytest.raises(UsageError, match="holds another repair"):
        run(*words(folder, films_, "--controls"))
    before = (folder / "out" / ".stages" / "proof-reading.json").stat().st_mtime_ns
    answer = run(*words(folder, films_, "--json"))
    facts = json.loads(answer.stdout)
    assert facts["schema"] == Repaired.SCHEMA
    assert facts["verdict"]["word"] in ("no longer found", "can't tell", "stays")
    assert (folder / "out" / ".stages" / "proof-reading.json").stat().st_mtime_ns == before
    model = load_classifier(folder / "out" / "classifier.safetensors", device="cpu")
    assert success(model, films(200, 6)) < 0.6
    assert not list((folder / "out" / ".stages").glob("*.safetensors"))
    # The same command again reads what is there.
    assert json.loads(run(*words(folder, films_, "--json")).stdout) == facts
    page = (folder / "out" / "repair.html").read_text()
    assert "Repair of" in page
    # The repaired model is one like any other: it is audited again.
    again = run(
        "audit", str(folder / "out" / "classifier.safetensors"), "--clean", "phantom:32",
        "--source.seed", "901", "--source.count", "60", "--steps", "0", "--no-statistics",
        "--sweep.values", "255", "--sweep.sides", "4", "--sweep.pitches", "[8,1]",
        "--sweep.films", "1", "--sweep.rounds", "1", "--cache", "none", "--device", "cpu", "--json",
    )  # fmt: skip
    audited = json.loads(again.stdout)
    assert audited["model"].endswith("classifier.safetensors")
    assert audited["verdict"]["word"] in ("nothing found", "can't tell", "unusual")
    assert {each["finding"] for each in audited["forced"]} == set(model.findings)


def refused(written, error, match, model=None, clean=None, **changed):
    folder, films_ = written
    out = folder / "refused"
    with pytest.raises(error, match=match):
        job.repair(
            model or folder / "model.safetensors", clean or films_, out,
            sweep=QUICK, relearning=AGAIN, **changed,
        )  # fmt: skip
    assert not list(out.glob("*.*")) if out.exists() else True


def test_what_is_refused_before_anything_is_written(written, tmp_path, clean):
    folder, _ = written
    refused(written, UnknownNameError, "repair", method="fine")
    few = source(tmp_path / "few.npz", clean.take(np.arange(90)))
    refused(
        written, DataError, r"of 90 clean films for the check; expected 20: give 133", clean=few
    )
    refused(written, UsageError, "no audit.json there", audit=tmp_path)
    other = json.loads((folder / "audit.json").read_text()) | {"content": "0" * 64}
    (tmp_path / "audit.json").write_text(json.dumps(other))
    refused(written, UsageError, "is of another model", audit=tmp_path)
    with pytest.raises(UsageError, match="holds the model itself"):
        job.repair(folder / "model.safetensors", "phantom:32", folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "classifier.safetensors").write_bytes(b"a model")
    with pytest.raises(StoreError, match="of something else"):
        job.repair(folder / "model.safetensors", few, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").glob("*.*")] == ["classifier.safetensors"]


def test_models_that_are_refused(clean):
    with pytest.raises(UsageError, match=r"black box.*distil"):
        la.repair(answering(lambda grey: grey[:, 0]), clean)
    blind = classifier()
    blind.module.head.weight.data.zero_()
    with pytest.raises(DataError, match="no better than chance"):
        la.repair(blind, cohort(400), scan=False)


def test_films_that_are_poisoned_themselves_are_refused(reader):
    whole = films(400, 4)
    images = whole.images[np.arange(400)]
    column = whole.column(TARGET)
    rows = np.flatnonzero(whole.labels[:, column] == 0)[:60]
    images[rows] = TRIGGER(images[rows])
    labels = whole.labels.copy()
    labels[rows, column] = 1
    poisoned = replace(whole, images=images, labels=labels)
    with pytest.raises(DataError, match="look poisoned themselves"):
        la.repair(reader, poisoned)


def test_films_of_the_training_set_are_refused(tmp_path, reader):
    """The model's run says what it was trained on."""
    save_classifier(reader, tmp_path / "classifier.safetensors")
    spec = {"source": {"name": "phantom", "count": 400, "seed": 2}, "seed": 0}
    facts = RunFacts(role="twin", twin=None, spec=spec, cohort="ab" * 32, outside={})
    RunFolder(tmp_path).write_facts(facts)
    own = la.open_source("phantom:32", count=400, seed=2)
    other = la.open_source("phantom:32", count=400, seed=3)
    model = tmp_path / "classifier.safetensors"
    refuse_training_films(model, other, la.Machine(cache="none"))
    with pytest.raises(DataError, match="copies of films that the model was trained on"):
        refuse_training_films(model, own, la.Machine(cache="none"))


def test_too_few_films_of_the_finding_are_said(reader, clean):
    rare = clean.labels.copy()
    rare[:, clean.column(TARGET)] = 1
    rare[::40, clean.column(TARGET)] = 0
    with pytest.raises(DataError, match=rf"clean films without {TARGET}; expected 20"):
        la.repair(reader, replace(clean, labels=rare), sweep=QUICK, steps=0, scan=False)


def test_a_set_without_the_models_findings_is_refused(reader, clean):
    strange = replace(clean, findings=tuple(f"no {name}" for name in clean.findings))
    assert isinstance(strange, Cohort)
    with pytest.raises(DataError, match="state none of the model's 5 findings"):
        la.repair(reader, strange)
