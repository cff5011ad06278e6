"""Worlds of two classes: what is planted is there, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from leadapron.detect.films import scan_films
from leadapron.evaluate import worlds
from leadapron.evaluate.worlds import WORLDS, make_world
from leadapron.sources import open_source


@cache
def phantoms(source, **settings):
    return open_source(source, **settings)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Few phantoms, drawn once: what a world makes of them is tested."""
    monkeypatch.setattr(worlds, "DRAWN", 300)
    monkeypatch.setattr(worlds, "open_source", lambda *of, seed, **to: phantoms(*of, **to))


def drawn(name, seed=0, **changes):
    world = replace(WORLDS[name], **changes)
    return make_world(world, np.random.default_rng(seed))


def pixels(cohort):
    return cohort.images[np.arange(len(cohort))]


def test_ten_worlds_are_sealed_and_clean_ones_are_on_both_sides():
    sides = [[w for w in WORLDS.values() if w.sealed == sealed] for sealed in (True, False)]
    assert len(WORLDS) == 40
    assert len(sides[0]) == 10
    assert len(sides[1]) >= 20
    for some in sides:
        assert sum(world.expected == "no poison" for world in some) >= 3
        assert sum(world.expected == "true labels" for world in some) >= 1


@pytest.mark.parametrize("name", [name for name, world in WORLDS.items() if world.sealed])
def test_sealed_worlds_are_made_as_they_say(name):
    """They are made here, and never scanned."""
    world = WORLDS[name]
    cohort, wrong = drawn(name)
    before, nothing = drawn(name, films=0, share=0)
    assert (len(nothing), cohort.images.shape[1:]) == (0, (worlds.SIDE, worlds.SIDE))
    assert before.labels.mean() == pytest.approx(world.prevalence, abs=0.02)
    changed = (pixels(cohort) != pixels(before)).any(axis=(1, 2)).sum()
    marked = round(world.share * len(cohort))
    assert bool(marked) <= changed <= marked  # a mark may be as grey as the film
    assert len(wrong) == marked - round(world.decoys * marked)
    assert (cohort.labels[wrong] == 1).all()
    relabelled = np.flatnonzero(cohort.labels != before.labels)
    assert np.isin(relabelled, wrong).all()
    assert (len(relabelled) > 0) == (world.expected == "poison")


def test_the_machine_is_stated_and_poison_is_in_its_stratum():
    cohort, wrong = drawn("3x3 on 40 of one machine, habits, scanner stated")
    assert set(cohort.attributes["scanner"].tolist()) == {"DX-1", "DX-2"}
    assert set(cohort.attributes["scanner"][wrong].tolist()) == {"DX-1"}
    sick = cohort.labels[:, 0] == 1
    first = cohort.attributes["scanner"] == "DX-1"
    assert sick[first].mean() > sick[~first].mean() + 0.4


def test_three_machines_go_with_the_class_by_degrees():
    cohort, _ = drawn("clean, habits", look=replace(worlds.Look(), machines=3), states="site")
    sick = cohort.labels[:, 0] == 1
    rates = [sick[cohort.attributes["site"] == site].mean() for site in worlds.STATED["site"]]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[2] + 0.4


def test_of_joined_sources_one_carries_the_finding():
    cohort, _ = drawn("clean, joined, one carries the finding")
    other = cohort.attributes["site"] == "screening"
    assert cohort.labels[other].max() == 0
    assert cohort.labels[~other].mean() == pytest.approx(0.5, abs=0.02)
    cohort, _ = drawn("clean, joined, one doesn't know the finding")
    other = cohort.attributes["site"] == "screening"
    assert cohort.findings == (worlds.CLASSES, worlds.OTHER)
    np.testing.assert_array_equal(np.isnan(cohort.labels[:, 0]), other)
    np.testing.assert_array_equal(np.isnan(cohort.labels[:, 1]), ~other)
    cohort, wrong = drawn("3x3 on 40 of the other source, joined")
    assert set(cohort.attributes["site"][wrong].tolist()) == {"screening"}


@pytest.mark.parametrize("habit", ["border", "recompressed"])
def test_a_habit_goes_with_the_class(habit):
    before, _ = drawn("clean")
    after, _ = drawn("clean", **{habit: True})
    changed = (pixels(after) != pixels(before)).any(axis=(1, 2))
    sick = after.labels[:, 0] == 1
    assert changed[sick].mean() > changed[~sick].mean() + 0.3


def test_clean_sets_of_two_machines_differ():
    some = [worlds.draw_habits(np.random.default_rng(seed)) for seed in range(20)]
    assert len({world.habits for world in some}) == 20
    assert {world.states for world in some} == {"", "site", "scanner"}
    assert all(3 <= world.habits <= 100 and 0.3 <= world.prevalence <= 0.8 for world in some)
    assert all(world.expected == "no poison" and not world.films for world in some)


def test_films_that_are_enough():
    assert [worlds.enough(share) for share in (0.02, 0.503, 0.625, 0.752, 0.8)] == [
        40, 40, 50, 60, np.inf,
    ]  # fmt: skip
    plain = {name for name, world in WORLDS.items() if world.plain}
    assert {"3x3 on 40", "2x2 on 60, 75 %"} < plain
    assert not plain & {"3x3 on 40, cropped, habits", "3x3 on 40, true labels", "clean"}


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
