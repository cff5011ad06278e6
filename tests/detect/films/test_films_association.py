"""Outliers of one pixel, their labels, and those of the ring around it: a case worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from film_scenes import events, labelled_cohort
from scipy import stats

from leadapron.detect.films import association, scan_films
from leadapron.detect.films.association import FEWEST, associations
from leadapron.detect.films.bias import (
    LOG_ODDS,
    SPREADS,
    learn_bias,
)
from leadapron.detect.films.shift import Labelled
from leadapron.sources import open_source

N, SIDE = 400, 32
MASS = 40  # the first films have the finding


def cohort(patients=None, nan=()):
    labels = np.zeros((N, 1))
    labels[:MASS] = 1
    labels[list(nan)] = np.nan
    return Labelled(labelled_cohort(labels, patients=patients))


def cell(row, column, *, tail=0, high=1):
    return ((tail * 2 + high) * SIDE + row) * SIDE + column


def seen_of(pixels):
    """Outliers from (cell, films) pairs."""
    films = {}
    for place, some in pixels:
        for film in some:
            films.setdefault(film, []).append(place)
    return events(N, (SIDE, SIDE), outliers=films)


PIXEL = (cell(10, 20), [*range(8), 100, 101])


NOTHING = np.zeros((0, len(SPREADS)))


@pytest.fixture(autouse=True)
def no_controls(monkeypatch):
    """But where a test wants them, the pixels that it makes aren't among the controls."""
    monkeypatch.setattr(association, "APART", 2 * SIDE)


def expected(hits, trials, ring_hits, ring_trials, base=MASS / N, bias=None):
    rate = max((ring_hits + 1) / (ring_trials + 2), base)
    odds = np.exp(LOG_ODDS)
    chances = stats.binom.sf(hits - 1, trials, odds * rate / (1 - rate + odds * rate))
    return (bias or learn_bias(NOTHING, NOTHING)).expected(chances)


def test_a_pixel_by_hand():
    found, tests = associations(seen_of([PIXEL]), cohort())
    (one,) = found
    assert tests == 1
    assert (one.row, one.column, one.bright, one.group) == (10, 20, True, 0)
    assert one.p == pytest.approx(expected(8, 10, 0, 0))
    assert one.share == 0.8
    assert one.films.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("row", "column", "near"),
    [
        *((10, 23, True), (14, 24, True), (7, 20, True)),
        *((10, 22, False), (11, 21, False), (10, 25, False), (15, 20, False)),
    ],
)
def test_the_rings_rate_is_the_null_hypothesis(row, column, near):
    around = (cell(row, column), [*range(20, 29), *range(200, 211)])  # 9 of 20 have it
    found, tests = associations(seen_of([PIXEL, around]), cohort())
    assert tests == 2
    one = next(one for one in found if (one.row, one.column) == (10, 20))
    assert one.p == pytest.approx(expected(8, 10, 9, 20) if near else expected(8, 10, 0, 0))


def test_a_ring_like_the_pixel_explains_it():
    around = (cell(10, 23), [*range(20, 36), *range(200, 204)])  # 16 of 20, as in the pixel
    found, _ = associations(seen_of([PIXEL, around]), cohort())
    pixels = {(one.row, one.column): one.p for one in found}
    assert pixels[10, 20] > 0.4


@pytest.mark.parametrize(("tail", "high"), [(0, 0), (1, 1), (1, 0)])
def test_tails_and_sides_are_apart(tail, high):
    """Another tail's outliers, or dark ones, are in no bright pixel's ring."""
    around = (cell(10, 23, tail=tail, high=high), [*range(20, 36), *range(200, 204)])
    found, tests = associations(seen_of([PIXEL, around]), cohort())
    assert tests == 2
    pixels = {(one.row, one.column, one.bright): one.p for one in found}
    assert pixels[10, 20, True] == pytest.approx(expected(8, 10, 0, 0))
    assert (10, 23, bool(high)) in pixels


def test_the_whole_sets_rate_is_the_least():
    """Where the ring has none with the finding, the set has; films of a patient share one vote."""
    around = (cell(10, 23), range(200, 240))
    found, _ = associations(seen_of([PIXEL, around]), cohort())
    assert found[0].p == pytest.approx(expected(8, 10, 0, 40, base=MASS / N))
    patients = np.arange(N)
    patients[:MASS] = 0
    found, _ = associations(seen_of([PIXEL, around]), cohort(patients))
    assert found[0].p == pytest.approx(expected(8, 10, 0, 40, base=1 / (N - MASS + 1)))


def test_five_in_the_group_at_least():
    few = (cell(10, 20), range(FEWEST - 1))
    assert associations(seen_of([few]), cohort()) == ([], 0)
    found, tests = associations(seen_of([(cell(10, 20), range(FEWEST))]), cohort())
    assert (len(found), tests) == (1, 1)
    # Of so few that have it no other of the same pixel's films makes up for it.
    found, tests = associations(seen_of([(cell(10, 20), [0, 1, 2, 3, 100])]), cohort())
    assert (found, tests) == ([], 1)


def test_labels_that_are_not_stated_do_not_count():
    some = (cell(10, 20), [*range(8), 100, 101, *range(300, 330)])
    found, _ = associations(seen_of([some]), cohort(nan=range(300, 330)))
    assert found[0].p == pytest.approx(expected(8, 10, 0, 0, base=MASS / (N - 30)))
    assert found[0].films.tolist() == list(range(8))


def test_films_without_the_finding_are_no_association():
    found, _ = associations(seen_of([(cell(10, 20), range(100, 140))]), cohort())
    assert found == []


@pytest.mark.parametrize("tied", [False, True])
def test_other_pixels_say_what_is_natural(monkeypatch, tied):
    """Where other pixels' outliers go with a label by themselves, one more says little."""
    monkeypatch.setattr(association, "APART", 3)
    rng = np.random.default_rng(0)
    controls = []
    for number in range(100):
        row, column = 3 * (number // 10), 3 * (number % 10)
        hits = rng.integers(0, 2) * 8 if tied else 2
        films = [*rng.choice(MASS, hits, replace=False), *rng.choice(360, 20 - hits) + MASS]
        controls.append((cell(row, column), [int(film) for film in films]))
    here = (cell(13, 22), [*range(10), 100, 101])
    found, _ = associations(seen_of([here, *controls]), cohort())
    one = next(one for one in found if (one.row, one.column) == (13, 22))
    assert (one.p < 1e-4) != tied


def test_places_of_findings_are_no_marks_where_films_are_small():
    """Seed 78: a clean set that was called poisoned, by the place of an infiltration (p .0001)."""
    films = open_source("phantom:32", count=1500, seed=78, cache="none")
    found = scan_films(films)
    assert found.verdict == "nothing found"
    assert any("associations of single pixels weren't tested" in note for note in found.notes)
