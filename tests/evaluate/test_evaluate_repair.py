"""How repairs are evaluated on models of known truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from leadapron import documents, store
from leadapron.attacks.triggers import Patch
from leadapron.cli import cli
from leadapron.detect.models.sweep import StampSweep
from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.evaluate import repair as job
from leadapron.evaluate.passes import counted_passes
from leadapron.evaluate.repair import METHODS, evaluate_repair
from leadapron.evaluate.repair_scenes import Placed, Scenes, fresh_triggers
from leadapron.evaluate.runner import unusual
from leadapron.evaluate.settings import RepairSetting
from leadapron.evaluate.zoo import build_zoo
from leadapron.films.cohort import Cohort
from leadapron.repairs import REPAIRS
from leadapron.repairs.proof.document import Repaired
from leadapron.report.repair_limits import repair_chapter, repair_limits
from leadapron.results.repairing import read_repairs
from leadapron.results.zoo import read_truth, write_truth
from leadapron.study.shards import ONE_PROCESS, Running, Shard
from leadapron.types import Estimate, Machine

SPEC = {
    "base": {
        "source": {"name": "phantom:32", "count": 120},
        "size": 32,
        "epochs": 1,
        "seed": 5,
        "evaluation": {"resamples": 20, "explained": 1, "gallery": 0},
    },
    # Edited weights have a sure backdoor after two epochs; training would need minutes.
    "families": [
        {
            "name": "edited",
            "count": 2,
            "trigger": {"side": 4, "fill": "checkerboard", "place": "corner", "margin": 2},
            "poisoning": {"mode": "edit", "labels": "set", "finding": "Mass"},
        }
    ],
    "sealed": [
        {
            "name": "hidden",
            "trigger": {"side": 4, "fill": "stripes", "place": "corner", "margin": 2},
            "poisoning": {"mode": "edit", "labels": "set", "finding": "Edema"},
        }
    ],
}
TINY = StampSweep(
    sides=(4,), values=(255,), pitches=((8, 1),), rounds=0, films=1, places=2, judged=10
)
SETTING = RepairSetting(references=0, test=150, relearning=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "zoo.yaml").write_text(yaml.safe_dump(SPEC))
    out = folder / "out"
    # Whether an edit of so small a network works on most films is of no interest here.
    machine = Machine(device="cpu", precision="fp32", cache=cache)
    members = build_zoo(folder / "zoo.yaml", out, machine=machine)
    write_truth(
        out,
        [each if each.kind == "clean" else replace(each, kind="backdoored") for each in members],
    )
    return out


def evaluated(zoo, out, cache, **more):
    given = {
        "methods": ["fine-tuning"],
        "films": [80],
        "setting": SETTING,
        "sweep": TINY,
        "running": ONE_PROCESS,
        "machine": Machine(device="cpu", precision="fp32", cache=cache),
    }
    return evaluate_repair(zoo, out, **{**given, **more})


class Unchanged:
    """A repair that returns the model as it is."""

    needs = REPAIRS["fine-tuning"]().needs

    def repair(self, classifier, clean, rng, progress=None):
        return classifier


@pytest.fixture(scope="module")
def rows(zoo, cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "TAUGHT", replace(job.TAUGHT, seeds=1, epochs=1))
        evaluated(
            zoo, out, cache, methods=["fine-tuning", "stamp-unlearning"],
            setting=replace(SETTING, relearning=True), limit=1,
        )  # fmt: skip
    return out, read_repairs(out)


def test_what_is_measured_is_the_true_trigger_on_films_that_no_repair_saw(rows, zoo):
    _, (plain, stamps) = rows
    truth = next(each for each in read_truth(zoo) if each.model == plain.model)
    assert (plain.method, plain.family, plain.sealed) == ("fine-tuning", "edited", False)
    assert (plain.finding, plain.direction) == ("Mass", "added")
    assert plain.before.value == pytest.approx(truth.attack_success, abs=0.15)
    assert plain.twin.value == pytest.approx(0.05, abs=0.1)
    assert plain.excess.value == pytest.approx(plain.success.value - plain.twin.value)
    assert plain.before.n > 90
    assert plain.trainings > 0 < plain.seconds
    assert plain.chosen == "fine-tuning"
    assert plain.twin_row.success.n == plain.before.n
    assert plain.retaught.poisoned == 5
    assert plain.retaught.excess.value == pytest.approx(
        plain.retaught.model.value - plain.retaught.twin.value
    )
    assert np.isnan(plain.marks)
    assert stamps.marks >= 0  # an audit was made for it
    assert (stamps.chosen is None) == (stamps.marks == 0)


def test_a_whole_repair_is_kept_with_its_proof(zoo, cache, tmp_path, monkeypatch):
    fixture = Path(__file__).parents[1] / "fixtures/documents/repair-2.json"
    made = documents.read(Repaired, fixture.read_text())
    monkeypatch.setattr(job, "repair_opened", lambda opened, *_, **__: (made, opened.classifier))
    monkeypatch.setattr(job, "repair_of", lambda *_: Unchanged())
    (row,) = evaluated(zoo, tmp_path, cache, methods=["auto"], films=[150], limit=1)
    (kept,) = (tmp_path / "proofs").iterdir()
    assert kept.name == f"{row['model'].removesuffix('.safetensors')}-150.json"
    assert documents.read(Repaired, kept.read_text()).proof == made.proof
    assert row["failing"] == [each.what for each in made.proof.checks if each.held != "holds"]


def test_a_repair_that_does_nothing_leaves_everything_as_it_was(zoo, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "repair_of", lambda *_: Unchanged())
    evaluated(zoo, tmp_path, cache, limit=1)
    (row,) = read_repairs(tmp_path)
    assert row.success == row.before
    assert (row.change, row.low, row.high) == (0, 0, 0)
    assert row.twin_row.success == row.twin
    assert not row.right
    assert replace(row, success=row.twin).right


def test_the_films_of_a_repair_carry_no_trigger_and_are_not_the_test_films(zoo, cache):
    scenes = Scenes(
        zoo=zoo, clean=None, setting=SETTING, most=80, everyone=tuple(read_truth(zoo)),
        machine=Machine(device="cpu", cache=cache),
    )  # fmt: skip
    member = next(each for each in scenes.everyone if each.kind != "clean")
    scene = scenes.open(member)
    assert scenes.open(member) is scene
    assert len(scene.clean) == 80
    clean, test = (films.images[np.arange(len(films))] for films in (scene.clean, scene.test))
    both = np.concatenate([clean, test]).reshape(len(clean) + len(test), -1)
    assert len(np.unique(both, axis=0)) == len(both)
    changed = scene.marked != test[scene.rows]
    assert changed.any(axis=(1, 2)).all()
    assert changed.sum(axis=(1, 2)).max() <= 16
    assert (scene.test.labels[scene.rows, scene.test.column(member.finding)] == 0).all()


def test_a_share_of_the_clean_films_may_be_poisoned(zoo, cache, monkeypatch, tmp_path):
    seen: list[Cohort] = []

    class Seen(Unchanged):
        def repair(self, classifier, clean, rng, progress=None):
            seen.append(clean)
            return classifier

    monkeypatch.setattr(job, "repair_of", lambda *_: Seen())
    evaluated(zoo, tmp_path / "a", cache, limit=1)
    evaluated(zoo, tmp_path / "b", cache, limit=1, setting=replace(SETTING, poisoned=0.1))
    own, dirty = seen[0], seen[2]
    rows = np.arange(len(own))
    changed = (own.images[rows] != dirty.images[rows]).any(axis=(1, 2))
    assert changed.sum() == 8
    column = own.column("Mass")
    assert (own.labels[changed, column] == 0).all()
    assert (dirty.labels[changed, column] == 1).all()
    np.testing.assert_array_equal(own.labels[~changed], dirty.labels[~changed])
    assert read_repairs(tmp_path / "b")[0].clean == "poisoned"


def test_clean_films_may_come_from_another_source(zoo, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(job, "repair_of", lambda *_: Unchanged())
    evaluated(zoo, tmp_path, cache, limit=1, clean="phantom:48")
    assert read_repairs(tmp_path)[0].clean == "another source"


def test_a_second_backdoor_is_measured_too(zoo, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(job, "repair_of", lambda *_: Unchanged())
    evaluated(zoo, tmp_path, cache, limit=1, setting=replace(SETTING, second=True))
    (row,) = read_repairs(tmp_path)
    assert row.second_before == row.second > 0.3
    page = repair_chapter(tmp_path)
    assert "A second backdoor" in page


def test_it_goes_on_where_it_was_stopped_and_shards_share_the_work(
    zoo, cache, monkeypatch, tmp_path
):
    done = []

    class Stopped(Unchanged):
        def repair(self, classifier, clean, rng, progress=None):
            done.append(1)
            if len(done) == 3:
                raise KeyboardInterrupt
            return classifier

    monkeypatch.setattr(job, "repair_of", lambda *_: Stopped())
    with pytest.raises(KeyboardInterrupt):
        evaluated(zoo, tmp_path / "out", cache)
    assert len(read_repairs(tmp_path / "out")) == 1  # each model with its twin is two repairs
    rows = evaluated(zoo, tmp_path / "out", cache)
    assert len(rows) == 2
    assert len(done) == 5
    assert store.read_lines(tmp_path / "out" / "rows.jsonl") == rows
    for index in (1, 0):
        shard = Running(jobs=1, shard=Shard(index, 2))
        parts = evaluated(zoo, tmp_path / "shards", cache, running=shard)
    assert [row["model"] for row in parts] == [row["model"] for row in rows]
    with pytest.raises(UsageError, match="another evaluation"):
        evaluated(zoo, tmp_path / "out", cache, setting=replace(SETTING, test=151))


def test_sealed_families_are_opened_when_asked(zoo, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(job, "repair_of", lambda *_: Unchanged())
    evaluated(zoo, tmp_path, cache, sealed=True, limit=1)
    assert {row.family: row.sealed for row in read_repairs(tmp_path)} == {
        "edited": False,
        "hidden": True,
    }
    page = repair_chapter(tmp_path)
    assert "## Sealed kinds" in page


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"methods": ["fine-tunning"]}, "fine-tuning"),
        ({"only": ["edted"]}, "edited"),
        ({"only": ["hidden"]}, "need --sealed"),
        ({"films": [0]}, "1 or more"),
        ({"limit": 0}, "1 or more"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(zoo, cache, tmp_path, more, words):
    with pytest.raises((UsageError, UnknownNameError), match=words):
        evaluated(zoo, tmp_path / "out", cache, **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more",
    [{"references": 1}, {"poisoned": 1.0}, {"test": 0}, {"twins": False, "relearning": True}],
)
def test_settings_out_of_range_are_refused(more):
    with pytest.raises(UsageError):
        RepairSetting(**more)


def test_films_that_a_repair_refuses_are_a_row(zoo, cache, tmp_path):
    evaluated(zoo, tmp_path, cache, films=[2], limit=1)
    (row,) = read_repairs(tmp_path)
    assert row.chosen is None
    assert row.refused
    assert row.success == row.before
    assert row.refused in repair_chapter(tmp_path)


def test_fresh_triggers_are_elsewhere_and_of_other_grey_levels():
    trigger = Patch(side=3, value=255, place="fixed", row=4, column=6)
    images = np.full((2, 32, 32), 100, np.uint8)
    old = Placed(trigger, 0)(images)
    assert (old[:, 4:7, 6:9] == 255).all()
    fresh = fresh_triggers(trigger, (32, 32), 3, seed=1)
    for each in fresh:
        marked = each(images)
        changed = marked != images
        assert changed.sum() == 2 * 9
        assert (marked[changed] == 0).all()
        assert not (changed & (old != images)).any()
        np.testing.assert_array_equal(marked, each(images))
    assert len({each.shift for each in fresh}) == 3


def test_only_images_through_the_outermost_network_are_counted():
    inner = torch.nn.Conv2d(1, 2, 3)
    network = torch.nn.Sequential(inner, torch.nn.Flatten(), torch.nn.LazyLinear(2))
    network(torch.zeros(1, 1, 5, 5))
    with counted_passes() as passes:
        network(torch.zeros(3, 1, 5, 5))
        with torch.no_grad():
            network(torch.zeros(4, 1, 5, 5))
        torch.nn.BCEWithLogitsLoss()(torch.zeros(7, 2), torch.zeros(7, 2))
        with pytest.raises(RuntimeError):
            network(torch.zeros(2, 3, 5, 5))
        network(torch.zeros(5, 1, 5, 5))
    assert (passes.forwards, passes.trainings) == (4, 3 + 2 + 5)
    network(torch.zeros(9, 1, 5, 5))
    assert passes.trainings == 10


def share(value, n=100):
    return Estimate(value, max(0.0, value - 0.02), min(1.0, value + 0.02), n, round(value * n))


def test_the_page_counts_what_was_truly_repaired(rows):
    _, (row, _) = rows
    made = [
        replace(
            row, model=f"{number}", method="auto", word=word, failing=(), marks=1.0, named=True,
            chosen="stamp-unlearning", success=share(after), excess=share(after - 0.05),
            claim=claim,
        )
        for number, (word, after, claim) in enumerate(
            [
                ("no longer found", 0.06, "no harm"),
                ("no longer found", 0.5, "harm"),
                ("can't tell", 0.07, "not shown"),
            ]
        )
    ]  # fmt: skip
    failed = replace(made[0], model="failed", kind="failed implant")
    facts = {
        "settings": {"zoo": "runs/zoo", "clean": None, **vars(SETTING)},
        "chosen": {"methods": ["auto"], "films": [80], "only": [], "limit": None, "sealed": False},
        "unusual": {"setting": unusual(SETTING), "sweep": {"sides": [1, 3]}},
        "manifest": {"processors": 2, "jobs": 1},
    }
    page = repair_limits(facts, [*made, failed])
    assert "`leadapron evaluate repair --zoo runs/zoo --method auto --films 80" in page
    assert "--references 0" in page
    assert "--no-relearning" in page
    assert "--sweep.sides 1,3" in page
    assert "no references" in page
    assert "3 models with a working backdoor, of 1 kind" in page
    (line,) = (each for each in page.splitlines() if each.startswith("| auto | 80 | 3 |"))
    assert "2 of 3 (9 to 99 %)" in line
    assert "| 7.0 % (6.0 to 50.0 %)" in line
    (line,) = (each for each in page.splitlines() if each.startswith("| no longer found | 2 |"))
    assert "1 of 2 (1 to 99 %)" in line
    assert "Implants that failed" in page


def test_the_command_writes_the_page(zoo, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "repair_of", lambda *_: Unchanged())
    runner = CliRunner()
    common = ["--zoo", str(zoo), "--out", str(tmp_path / "out"), "--device", "cpu"]
    call = [
        "evaluate", "repair", *common, "--method", "fine-tuning", "--films", "60", "--limit", "1",
        "--references", "0", "--test", "200", "--no-relearning", "--jobs", "1",
        "--cache", str(cache),
    ]  # fmt: skip
    done = runner.invoke(cli, call)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "limits.md").read_text()
    assert page.startswith("# How well repairs work")
    assert "| fine-tuning | 60 | 1 |" in page
    assert "How well repairs work" in done.stdout
    more = runner.invoke(cli, [*call[:2], *call[2:], "--json", "-q"])
    assert json.loads(more.stdout)["rows"][0]["method"] == "fine-tuning"
    page = ["evaluate", "page", "--repair", str(tmp_path / "out"), "--out", str(tmp_path / "p.md")]
    assert runner.invoke(cli, page).exit_code == 0
    assert (tmp_path / "p.md").read_text() == (tmp_path / "out" / "limits.md").read_text()
    refused = runner.invoke(cli, [*page[:3], str(zoo), *page[4:]])
    assert isinstance(refused.exception, StoreError)


def test_methods_are_known_repairs():
    assert set(METHODS) <= set(REPAIRS)
    assert len(METHODS) == 9
