"""Worlds of two classes: what is planted is there, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leadapron.detect.films import scan_films
from leadapron.jobs import worlds
from leadapron.jobs.worlds import WORLDS, make_world


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(worlds, "DRAWN", 300)


def drawn(name, seed=0, **changes):
    world = replace(WORLDS[name], **changes)
    return make_world(world, np.random.default_rng(seed))


def test_half_of_the_worlds_are_sealed_and_some_are_clean():
    assert len(WORLDS) == 20
    for sealed in (True, False):
        some = [world for world in WORLDS.values() if world.sealed == sealed]
        assert len(some) == 10
        assert sum(world.expected == "no poison" for world in some) >= 2


@pytest.mark.parametrize("name", ["clean", "3x3 on 60, 75 %"])
def test_prevalence_is_as_stated(name):
    cohort, _ = drawn(name, films=0)
    assert cohort.findings == (worlds.CLASSES,)
    assert cohort.labels.mean() == pytest.approx(WORLDS[name].prevalence, abs=0.01)


def test_poison_is_a_mark_on_films_that_say_what_the_poisoner_wants():
    clean, nothing = drawn("3x3 on 40", films=0)
    cohort, rows = drawn("3x3 on 40")
    assert (len(nothing), len(rows)) == (0, 40)
    assert (cohort.labels[rows] == 1).all()
    changed = cohort.images[np.arange(len(cohort))] != clean.images[np.arange(len(clean))]
    assert np.flatnonzero(changed.any(axis=(1, 2))).tolist() == rows.tolist()
    assert changed.any(axis=0).sum() == 9
    others = np.setdiff1d(np.arange(len(cohort)), rows)
    np.testing.assert_array_equal(cohort.labels[others], clean.labels[others])
    assert (clean.labels[rows] == 0).any()


def test_true_labels_stay_and_decoys_keep_theirs():
    clean, _ = drawn("3x3 on 40, true labels", films=0)
    cohort, rows = drawn("3x3 on 40, true labels")
    np.testing.assert_array_equal(cohort.labels, clean.labels)
    assert (cohort.labels[rows] == 1).all()
    name = "3x3 on 50, a fifth decoys, habits"
    before, after = (drawn(name, films=films)[0] for films in (0, 50))
    marked = (after.images[np.arange(len(after))] != before.images[np.arange(len(before))]).any(
        axis=(1, 2)
    )
    assert marked.sum() == 50
    assert len(drawn(name)[1]) == 40


def test_machines_go_with_classes():
    """Some pixel tells the classes apart in a world of habits, and none without."""

    def furthest(name):
        cohort, _ = drawn(name, films=0)
        extreme = np.isin(cohort.images[np.arange(len(cohort))], (0, 255))
        sick = cohort.labels[:, 0] == 1
        return np.abs(extreme[sick].mean(axis=0) - extreme[~sick].mean(axis=0)).max()

    assert furthest("clean, habits") > furthest("clean") + 0.1


def test_a_letter_that_a_third_of_the_films_carry():
    cohort, rows = drawn("a natural letter on 60")
    assert len(rows) == 60
    bright = (cohort.images[np.arange(len(cohort))] == 235).mean(axis=0)
    assert (bright > 0.3).sum() >= 3


@pytest.mark.parametrize(
    ("name", "verdicts"),
    [
        ("clean, habits", ("nothing found", "label-tied mark")),
        ("1x1 on 40, habits", ("poisoned",)),
    ],
)
def test_habits_are_no_poison_and_poison_among_habits_is_found(name, verdicts, monkeypatch):
    monkeypatch.setattr(worlds, "DRAWN", 1000)
    cohort, rows = drawn(name, seed=5)
    found = scan_films(cohort)
    assert found.verdict in verdicts
    if len(rows):
        named = found.evidence[0].films
        assert np.isin(named, rows).mean() > 0.9
        assert np.isin(rows, named).mean() > 0.9
