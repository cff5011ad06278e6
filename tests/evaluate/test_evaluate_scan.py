"""How a scan is evaluated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leadapron import store
from leadapron.detect.films import scan_films
from leadapron.errors import DataError, StoreError, UnknownNameError, UsageError
from leadapron.evaluate import scan as evaluate
from leadapron.evaluate.presets import Cell, Preset, preset
from leadapron.evaluate.scan import Part, Task, evaluate_scan, scans
from leadapron.evaluate.worlds import WORLDS
from leadapron.report.limits import limits_page, write_limits
from leadapron.sources import open_source
from leadapron.study.shards import ONE_PROCESS
from leadapron.types import Machine

FIXED = {"name": "patch", "side": 3, "place": "fixed"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    cohort = open_source("phantom:64", count=700, seed=5)
    file = tmp_path_factory.mktemp("evaluate") / "films.npz"
    np.savez(
        file,
        images=cohort.images[np.arange(700)],
        labels=cohort.labels,
        findings=np.array(cohort.findings),
        ids=cohort.ids,
        patients=cohort.patients,
    )
    return f"npz:{file}"


def scanner(*cells, train=False):
    named = {cell.name: cell for cell in cells}
    return evaluate.Scanner(
        cells=named, train=train, size=None, seed=0, machine=Machine(cache="none")
    )


@pytest.fixture(scope="module")
def opened(source):
    return scanner().open(source)


@pytest.fixture(scope="module")
def row_of(source, opened):
    """The row of one draw of a cell, without times."""

    def row_of(cell, draw=0):
        work = scanner(cell)
        work.opened[source] = opened
        row = work(Task("poisoned", source, cell.name, draw))
        assert row.pop("seconds") >= 0
        assert row.pop("cpu_seconds") >= 0
        return row

    return row_of


@pytest.mark.parametrize("reduced", [1, 8])
def test_a_square_is_found_where_it_was_put(row_of, reduced):
    cell = Cell(
        name="square",
        trigger={**FIXED, "side": 3 * reduced},
        poisoning={"fraction": 0.03},
        contrast=40,
        reduced=reduced,
    )
    row = row_of(cell)
    assert row["found"]
    assert row["right"]
    assert row["away"] <= 1
    assert row["precision"] >= 0.9
    assert row["recall"] >= 0.9
    assert row["films"] == 21
    assert row == row_of(cell)


def test_baselines_are_as_they_were_after_a_guess(opened, row_of):
    before = opened.plain._by_finding.copy(), opened.plain._squares.copy()
    cell = Cell(name="large", trigger={**FIXED, "value": 255}, poisoning={"fraction": 0.1})
    row = row_of(cell)
    assert row["baselines"]["outliers"]
    assert row["baselines"]["plain z"]
    np.testing.assert_allclose(opened.plain._by_finding, before[0], atol=1)
    np.testing.assert_allclose(opened.plain._squares, before[1], rtol=1e-6)


def test_contrast_holds_on_every_poisoned_film(opened, monkeypatch):
    cell = Cell(name="contrast", trigger=FIXED, poisoning={"fraction": 0.01}, contrast=40, draws=1)
    rng = np.random.default_rng(3)
    poisoned, key, _, place = evaluate.poisoned_by(opened.cohort, cell, rng)
    row, column = (int(middle) for middle in place)
    values = poisoned.images[key.rows][:, row, column].astype(int)
    around = opened.cohort.images[key.origins[key.rows]].astype(int)
    window = around[:, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
    assert (np.abs(window - values[:, None, None]) >= 40).all()
    assert "contrast" not in poisoned.attributes


def test_half_of_the_targets_films(opened):
    cell = Cell(
        name="half",
        trigger=FIXED,
        poisoning={"fraction": "half", "labels": "keep", "selection": "with"},
    )
    _, key, finding, _ = evaluate.poisoned_by(opened.cohort, cell, np.random.default_rng(0))
    carriers = int((opened.cohort.labels[:, opened.cohort.column(finding)] == 1).sum())
    assert len(key.rows) == carriers // 2


def test_a_cell_that_a_source_cannot_hold_is_left_out(source, tmp_path, monkeypatch):
    box = {"place": "box", "row": 40, "column": 70, "height": 8, "width": 8}
    cell = Cell(name="wide", trigger={**FIXED, **box}, poisoning={"fraction": 0.05}, draws=2)
    work = scanner(cell)
    cohort = open_source("phantom:64", count=60)
    work.opened[source] = evaluate._Opened(cohort, None, None, None)
    monkeypatch.setattr(evaluate, "CARRIERS", 1)
    rows = [work(Task("poisoned", source, "wide", draw)) for draw in range(2)]
    why = "a 3x3 square at place 'box' does not fit on 64x64 pixels"
    assert all(row["left_out"].startswith(why) for row in rows)
    settings = {"preset": "quick", "sources": [source], "also": []}
    facts = {"settings": settings, "cells": [{**TOLD, "name": "wide"}]}
    page = limits_page(facts, [*rows, {**rows[0], "source": "npz:other.npz"}])
    assert ": 0 scans without a model" in page
    assert "## Poison of known kinds" not in page
    assert f"- **wide** (`films.npz`), 2 sets: {why}" in page
    assert "- **wide** (`other.npz`), 1 set: " in page


def test_a_half_is_scanned(source):
    row = scanner()(Task("half", source, "", 0))
    assert row["verdict"] in ("nothing found", "label-tied mark", "suspicious", "poisoned")
    assert set(row["methods"])
    assert all(0 <= p <= 1 for p in row["methods"].values())


def test_an_evaluation_goes_on_where_it_was_stopped(source, tmp_path, monkeypatch):
    smoke = preset("smoke")
    monkeypatch.setattr(
        evaluate, "read_preset", lambda name: Preset(cells=smoke.cells, phantoms=0, halves=1)
    )
    done = [
        {
            "kind": "poisoned",
            "source": source,
            "name": cell.name,
            "draw": draw,
            "train": False,
            "mark": "old",
        }
        for cell in smoke.cells
        for draw in range(cell.draws)
    ]
    facts = {
        "preset": "smoke",
        "sources": [source],
        "size": None,
        "seed": 0,
        "also": [],
        "train": False,
    }
    store.write_json(tmp_path / "evaluation.json", {"schema": 1, "settings": facts})
    store.write_lines(tmp_path / "rows.jsonl", done)
    seen = []
    rows = evaluate_scan(
        "smoke",
        [source],
        tmp_path,
        machine=Machine(cache="none", progress=lambda *at: seen.append(at)),
        running=ONE_PROCESS,
    )
    assert rows[:-1] == done
    assert rows[-1]["kind"] == "half"
    assert seen == [("sets scanned", n, len(done) + 1) for n in (len(done), len(done) + 1)]
    assert store.read_lines(tmp_path / "rows.jsonl") == rows
    with pytest.raises(UsageError, match=r"another evaluation \(seed is 0, not 1\)"):
        evaluate_scan("smoke", [source], tmp_path, seed=1)
    with pytest.raises(UsageError, match=r"another evaluation \(train is False, not True\)"):
        evaluate_scan("smoke", [source], tmp_path, train=True)
    store.write_lines(tmp_path / "rows.jsonl", [{**rows[-1], "train": True}])
    again = evaluate_scan(
        "smoke", [source], tmp_path, part=Part(only=("half",)), machine=Machine(cache="none"),
        running=ONE_PROCESS,
    )  # fmt: skip
    assert [row["train"] for row in again] == [False, True]


@pytest.mark.parametrize("train", [False, True])
def test_networks_look_at_a_set_where_that_is_asked_for(source, opened, monkeypatch, train):
    """Each row says whether they did; how they look is tested with them."""
    seen = []

    def scanned(cohort, *, look, **settings):
        seen.append(look)
        return scan_films(cohort, **settings)

    def trained(cohort, *, seed, **machine):
        assert machine == {"device": "auto", "precision": "auto"}
        return ("a look at", len(cohort), seed)

    monkeypatch.setattr(evaluate, "scan_films", scanned)
    monkeypatch.setattr(evaluate, "trained_network", trained)
    work = scanner(train=train)
    work.opened[source] = opened
    row = work(Task("half", source, "", 1))
    assert row["train"] == train
    # Half of the patients, drawn by the source's name: their films are half within five deviations.
    half = pytest.approx(len(opened.cohort) / 2, abs=110)
    assert seen == [("a look at", half, 1) if train else None]


def test_bad_requests(tmp_path):
    with pytest.raises(UnknownNameError, match="preset"):
        evaluate_scan("huge", ["phantom:64"], tmp_path)


def made_up(name, found, p, **more):
    return {
        "kind": "poisoned", "source": "nih:x", "name": name, "draw": 0, "aimed": False,
        "verdict": "poisoned" if found else "nothing found",
        "p": p, "methods": {"marks": p, "signatures": 1.0}, "finding": "Mass", "place": [3.0, 4.0],
        "films": 15, "found": found, "right": found, "away": 0.5 if found else None,
        "marked": True, "precision": 1.0 if found else None, "recall": 1.0 if found else 0.0,
        "baselines": {"plain z": False, "outliers": True, "duplicates": False}, "seconds": 1.0,
        **more,
    }  # fmt: skip


TOLD = {"target": 0.9, "floor": None, "balanced": False, "group": "known", "reason": ""}


def test_the_page_says_what_was_met_and_what_is_blind(tmp_path):
    told = TOLD
    listed = [
        {**told, "name": "sure"},
        {**told, "name": "few"},
        {**told, "name": "hidden", "target": None, "group": "evading", "reason": "it hides"},
        {**told, "name": "kept", "target": None, "group": "sealed"},
    ]
    rows = [
        *(made_up("sure", True, 1e-9) for _ in range(40)),
        *(made_up("few", True, 1e-9) for _ in range(5)),
        *(made_up("hidden", number == 0, 1e-9 if number == 0 else 1.0) for number in range(4)),
        made_up("kept", True, 1e-9),
        *(
            {"kind": "phantoms", "source": "", "name": "", "verdict": "nothing found"}
            for _ in range(300)
        ),
        {"kind": "half", "source": "nih:/data/nih", "name": "", "verdict": "poisoned"},
    ]
    facts = {
        "settings": {"preset": "quick", "sources": ["nih:x"], "also": []},
        "cells": listed,
    }
    page = limits_page(facts, rows)
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line[:2] == "| "}
    assert lines["sure"].endswith("| 90 %: met |")
    assert lines["few"].endswith("| 90 %: measured |")
    assert "| 100 % (91 to 100) |" in lines["sure"]
    assert "| 300 | 0 | 0.0 to 1.2 % | 0 | 0 | 0 | 300 |" in lines["fresh phantoms"]
    assert "| 1 | 1 |" in lines["half of the patients of `nih`"]
    assert lines["marks"] == "| marks | 47 | 47 |"
    assert "Targets of the scan" not in page
    assert "--preset quick --source nih:x --sealed`" in page
    assert "- **hidden**: 1 of 4; listed as a repeated mark in 4 of 4. It hides." in page
    order = [page.index(title) for title in ("known kinds", "knows the scan", "## Sealed")]
    assert order == sorted(order)

    store.write_json(tmp_path / "evaluation.json", {**facts, "manifest": {}})
    store.write_lines(tmp_path / "rows.jsonl", rows)
    assert write_limits(tmp_path / "page.md", scan=tmp_path).read_text() == page
    store.write_json(tmp_path / "evaluation.json", {"settings": {}})
    with pytest.raises(StoreError, match="holds no evaluation of scans"):
        write_limits(tmp_path / "page.md", scan=tmp_path)


def test_a_plan_counts_the_presets_sets():
    assert len(scans("smoke", ["a", "b"])) == 2 * 3 + 2 + 2


SOURCES = ("folder:/data/films", "folder:/data/films2")
JOINED = "nih:/data/nih + folder:/data/films"


def paths(*only, **more):
    tasks = scans("two-class", SOURCES, [JOINED], Part(only=only, **more))
    return [task.path for task in tasks]


def test_a_part_of_a_preset():
    few = {"draws": 1, "worlds": 1, "clean": 1}
    every = paths(**few)
    assert len(every) == 2 * 21 + (len(WORLDS) - 10) + 1 + 3 * 2
    assert not [path for path in every if path.startswith("world/sealed")]
    assert len(paths(sealed=True, **few)) == len(every) + 10
    assert set(paths("poisoned/films")) == {p for p in every if p.startswith("poisoned/films/")}
    assert paths("poisoned/films2/3x3*", draws=2) == [
        f"poisoned/films2/3x3, {share} %" for share in (1, 2, 4) for _ in range(2)
    ]
    assert paths("whole/nih+films", "machines", clean=2) == ["machines"] * 2 + ["whole/nih+films"]
    assert len(paths("world/sealed", sealed=True, worlds=1)) == 10
    more = scans("two-class", SOURCES, [JOINED], Part(clean=3))
    assert {task.key for task in scans("two-class", SOURCES, [JOINED], Part(clean=2))} < {
        task.key for task in more
    }
    with pytest.raises(UsageError, match=r"--only half/else: no scan has this name.*half/films,"):
        paths("half/else")
    with pytest.raises(UsageError, match="--draws -1"):
        Part(draws=-1)


def two_classes(opened):
    labels = (opened.cohort.labels == 1).any(axis=1, keepdims=True).astype(np.float32)
    return replace(opened, cohort=replace(opened.cohort, labels=labels, findings=("SICK",)))


def test_classes_are_made_of_one_size(opened):
    two = two_classes(opened)
    even = evaluate.balanced(two, np.random.default_rng(0))
    fewest = int(min(two.cohort.labels.sum(), (1 - two.cohort.labels).sum()))
    assert len(even.cohort) == 2 * fewest
    assert even.cohort.labels.mean() == 0.5
    assert even.seen.shape[0] == len(even.cohort)
    assert set(even.cohort.ids.tolist()) < set(two.cohort.ids.tolist())
    with pytest.raises(DataError, match="14 findings"):
        evaluate.balanced(opened, np.random.default_rng(0))


def test_so_many_films_of_the_commonest_finding(opened):
    cell = Cell(name="40", trigger=FIXED, poisoning={"films": 40}, commonest=True)
    _, key, finding, _ = evaluate.poisoned_by(opened.cohort, cell, np.random.default_rng(1))
    assert len(key.rows) == 40
    carriers = (opened.cohort.labels == 1).sum(axis=0)
    assert finding == opened.cohort.findings[carriers.argmax()]


def test_the_page_says_what_was_asked_of_sets_of_two_classes():
    listed = [
        {**TOLD, "name": "3x3, 4 %", "floor": 0.8},
        {**TOLD, "name": "balanced, 3x3, 40 films", "floor": 0.8, "balanced": True},
    ]
    world = {"kind": "world", "source": "", "draw": 0, "recall": None, "precision": None}
    clean = {"name": "", "draw": 0, "source": ""}
    rows = [
        *(
            made_up("3x3, 4 %", True, 1e-9, source=one, aimed=True)
            for one in SOURCES
            for _ in range(20)
        ),
        *(
            made_up(listed[1]["name"], number < 18, 1e-9, source=SOURCES[0], aimed=True)
            for number in range(20)
        ),
        *(
            {**world, "name": name, "verdict": verdict, "expected": expected, "sealed": sealed,
             "films": 40, "aimed": expected == "poison"}
            for name, verdict, expected, sealed in (
                ("tied", "label-tied mark", "true labels", False),
                ("tied", "poisoned", "true labels", False),
                ("quiet", "label-tied mark", "no poison", False),
                ("loud", "poisoned", "no poison", True),
                ("missed", "suspicious", "poison", True),
            )
        ),
        {**clean, "kind": "machines", "verdict": "label-tied mark"},
        *(
            {**clean, "kind": "whole", "source": one, "verdict": "nothing found"}
            for one in (*SOURCES, JOINED)
        ),
    ]  # fmt: skip
    facts = {
        "settings": {"preset": "two-class", "sources": SOURCES, "also": [JOINED]},
        "cells": listed,
    }
    page = limits_page(facts, rows)
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line[:2] == "| "}
    assert lines["found: `films`"].endswith("| 20 | 20 | 100 % (83 to 100) | met |")
    assert lines["found: `films`, classes of one size"].endswith("(68 to 99) | not shown |")
    assert lines["found: sealed worlds"].endswith("| missed |")
    assert lines["clean: all films of `nih + films`"].endswith("| met |")
    assert lines["clean: worlds without poison, open"].endswith("| met |")
    assert lines["clean: worlds without poison, sealed"].endswith("| missed: 1 poisoned |")
    assert "| true labels | 2 | 100 % (16 to 100) | 1 | 0 | 1 | 0 | 0 |" in lines["tied"]
    assert lines["loud"].endswith("| missed: 1 poisoned |")
    assert lines["quiet"].endswith("| met |")
    assert lines["missed"].endswith("| 90 %: missed |")
    assert lines["3x3, 4 %"].endswith("| 90 %: met |")
    assert "there are 2: films (films, films2); nih (nih); a joined source adds none" in page
    assert "### `films2`" in page
    assert "--also 'nih:nih + folder:films' --sealed`" in page


def test_what_networks_change_is_said_of_sets_that_were_scanned_both_ways(tmp_path):
    listed = [{**TOLD, "name": "3x3", "floor": 0.8}]
    world = {
        "kind": "world", "source": "", "sealed": False, "aimed": False, "recall": None,
        "precision": None,
    }  # fmt: skip
    before = [
        *(made_up("3x3", number < 2, 1e-9, aimed=True, draw=number) for number in range(6)),
        {**world, "name": "tied", "draw": 0, "verdict": "poisoned", "expected": "true labels"},
        {**world, "name": "quiet", "draw": 0, "verdict": "suspicious", "expected": "no poison"},
        {**world, "name": "quiet", "draw": 1, "verdict": "nothing found", "expected": "no poison"},
    ]
    after = [{**row, "verdict": "poisoned"} for row in before[1:4]]
    after += [{**row, "verdict": "label-tied mark"} for row in before[6:8]]
    settings = {"preset": "two-class", "sources": ["nih:x"], "also": [], "size": None, "seed": 0}
    for name, train, rows in (("without", False, before), ("with", True, after)):
        store.write_json(
            tmp_path / name / "evaluation.json",
            {"settings": {**settings, "train": train}, "cells": listed},
        )
        store.write_lines(tmp_path / name / "rows.jsonl", rows)
    without, trained = tmp_path / "without", tmp_path / "with"
    page = write_limits(tmp_path / "page.md", scan=without, trained=trained).read_text()
    section = page.partition("## With networks that look")[2]
    assert "| found: `x` | 6 | 3 | 1 | 3 | 1 poisoned, 2 nothing found | 3 poisoned |" in section
    assert (
        "| clean: worlds without poison, open | 2 | 1 | 0 | 1 | 1 suspicious | 1 label-tied mark |"
    ) in section
    assert "worlds of true labels, open | 1 | 1 | 0 | 1 | 1 poisoned | 1 label-tied" in section
    assert "9 scans without a model" in page
    alone = write_limits(tmp_path / "page.md", scan=trained).read_text()
    assert "5 scans with networks that are trained for it" in alone
    assert "--source nih:x --train`" in alone
    with pytest.raises(UsageError, match="expected an evaluation of the same preset"):
        write_limits(tmp_path / "page.md", scan=without, trained=without)
    with pytest.raises(UsageError, match="expected both"):
        write_limits(tmp_path / "page.md", trained=trained)
