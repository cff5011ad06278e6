"""Marks that come again, in small cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from film_scenes import events
from scipy import stats

from leadapron.detect.films.repeats import (
    MOST,
    UNLIKELY,
    _around,
    anywhere,
    at_places,
    textures,
)

N = 400
OWN = np.arange(N)  # one film for each patient


def scattered(count, seed=0, **fields):
    """Blobs of all films, levels and places."""
    rng = np.random.default_rng(seed)
    drawn = zip(
        rng.integers(0, N, count),
        rng.integers(0, 32, (count, 2)),
        rng.integers(60, 256, count),
        strict=True,
    )
    return [
        {"film": film, "row": row, "column": column, "level": level, **fields}
        for film, (row, column), level in drawn
    ]


def marks(films, row=10, column=20, **fields):
    return [{"film": film, "row": row, "column": column, **fields} for film in films]


# ---------------------------------------------------------------- at one place


def test_a_mark_at_one_place():
    planted = marks(range(50, 58), level=255)
    found = at_places(events(N, blobs=scattered(300) + planted), OWN)
    best = found[0]
    assert best.films.tolist() == list(range(50, 58))
    assert (best.row, best.column, best.side, best.bright) == (10, 20, 1, True)
    assert best.levels == (255, 255)
    assert best.patients == 8
    assert best.p < 1e-6
    assert best.usual < 0.1
    # By Poisson's distribution, for the cells of all ranges: 1, 16, 17, 64 and 65 of 32 x 32.
    cells = (1 + 16 + 17 + 64 + 65) * 32 * 32
    assert best.p == pytest.approx(stats.poisson.sf(7, best.usual) * cells, rel=1e-9)
    assert [repeat.p for repeat in found] == sorted(repeat.p for repeat in found)


def test_rates_come_from_the_neighbours():
    """The mark's place has 5 beside a neighbour's 3: the mean over 72 places, adjoining not."""
    near = marks([1, 2, 3], row=10, column=17, level=255)
    adjoining = marks([4, 5, 6], row=11, column=20, level=255)
    planted = marks([7, 8, 9, 10, 11], level=255)
    found = at_places(events(N, blobs=near + adjoining + planted), OWN)
    mark = next(one for one in found if (one.row, one.column) == (10, 20))
    assert mark.usual == pytest.approx(3 / 72)


@pytest.mark.parametrize(("row", "column"), [(10, 16), (14, 24), (6, 20), (12, 20)])
def test_recurrence_must_beat_every_neighbour(row, column):
    planted = marks(range(10, 15), level=255)

    def places(count):
        beside = marks(range(50, 50 + count), row=row, column=column, level=255)
        found = at_places(events(N, blobs=planted + beside), OWN)
        return {(one.row, one.column) for one in found}

    assert (10, 20) in places(4)
    assert places(5) == set()
    assert places(6) == {(row, column)}


@pytest.mark.parametrize(("row", "column"), [(10, 15), (15, 20), (11, 21), (10, 21)])
def test_what_adjoins_or_lies_far_away_is_no_neighbour(row, column):
    planted = marks(range(10, 15), level=255)
    beside = marks(range(50, 60), row=row, column=column, level=255)
    found = at_places(events(N, blobs=planted + beside), OWN)
    assert {(one.row, one.column) for one in found} == {(10, 20), (row, column)}


def test_three_patients_at_least():
    for films, count in ((range(2), 0), (range(3), 1)):
        found = at_places(events(N, blobs=marks(films)), OWN)
        assert len(found) == count
    patients = OWN.copy()
    patients[:9] = [0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert at_places(events(N, blobs=marks(range(9))), patients) == []
    patients[8] = 2
    (found,) = at_places(events(N, blobs=marks(range(9))), patients)
    assert found.patients == 3
    assert found.films.tolist() == list(range(9))


@pytest.mark.parametrize("first", [True, False])
def test_a_patients_other_blobs_do_not_hide_a_mark(first):
    """Each patient has a film with the mark, and another with a blob of nature's there."""
    patients = OWN // 2
    planted = marks(range(1, 20, 2) if first else range(0, 20, 2), level=255)
    natural = [
        {"film": film, "row": 10, "column": 20, "level": 60 + 7 * number}
        for number, film in enumerate(range(0, 20, 2) if first else range(1, 20, 2))
    ]
    found = at_places(events(N, blobs=natural + planted), patients)
    mark = next(one for one in found if one.levels == (255, 255))
    assert mark.patients == 10
    assert mark.films.tolist() == [blob["film"] for blob in planted]


def test_one_set_of_films_is_one_repeat():
    """A black 3x3 square of all films' holds no 1x1 blob, but a white one on two scales does."""
    films = range(20, 27)
    blobs = marks(films, level=255) + marks(films, row=5, column=10, scale=2, side=3, level=254)
    found = at_places(events(N, blobs=blobs), OWN)
    assert len(found) == 1
    more = blobs + marks([30], row=5, column=10, scale=2, side=3, level=254)
    assert len(at_places(events(N, blobs=more), OWN)) == 2


def test_places_and_sides_are_in_pixels_of_the_image():
    blobs = marks(range(6), row=5, column=7, scale=4, side=3, bright=False, level=3)
    (found,) = at_places(events(N, (128, 128), blobs=blobs), OWN)
    assert (found.row, found.column, found.side, found.bright) == (20, 28, 12, False)


def test_levels_near_a_border_are_one_range():
    """Levels 14 to 17 lie on either side of 16, and in one of the ranges moved by a half."""
    blobs = [{"film": film, "row": 10, "column": 20, "level": 14 + film % 4} for film in range(20)]
    found = at_places(events(N, blobs=blobs), OWN)
    assert any(one.levels == (14, 17) and one.patients == 20 for one in found)


def test_bright_and_dark_are_kinds_of_their_own():
    blobs = marks(range(4), level=100) + marks(range(4, 8), level=100, bright=False)
    found = at_places(events(N, blobs=blobs), OWN)
    assert {one.bright: one.films.tolist() for one in found} == {
        True: [0, 1, 2, 3],
        False: [4, 5, 6, 7],
    }


def test_no_more_than_are_kept():
    blobs = [
        blob
        for number, (row, column) in enumerate(np.ndindex(23, 23))
        for blob in marks(range(number, number + 3), row=8 * row, column=8 * column)
    ]
    found = at_places(events(600, (200, 200), blobs=blobs), np.arange(600))
    assert len(found) == MOST < 23 * 23


def test_nothing_seen_nothing_repeated():
    empty = events(N)
    assert at_places(empty, OWN) == anywhere(empty, OWN) == []
    assert textures(empty, OWN, placed=True) == textures(empty, OWN, placed=False) == []


def test_neighbours_by_hand():
    counts = np.random.default_rng(0).integers(0, 9, (2, 12, 15))
    usual, worst = (
        values.reshape(counts.shape) for values in _around(counts, np.arange(counts.size))
    )
    for at in np.ndindex(counts.shape):
        ring = [
            int(counts[at[0], y, x])
            for y in range(max(at[1] - 4, 0), min(at[1] + 5, 12))
            for x in range(max(at[2] - 4, 0), min(at[2] + 5, 15))
            if max(abs(y - at[1]), abs(x - at[2])) > 1
        ]
        assert usual[at] == pytest.approx(sum(ring) / 72)
        assert worst[at] == max(ring)


# ---------------------------------------------------------------- anywhere


def test_a_kind_of_mark_anywhere():
    rng = np.random.default_rng(0)
    planted = [
        {"film": film, "row": row, "column": column, "side": 3, "level": 255}
        for film, (row, column) in zip(range(60, 80), rng.integers(0, 29, (20, 2)), strict=True)
    ]
    natural = scattered(40, side=3, spread=9) + scattered(40, seed=1, side=3)
    found = anywhere(events(N, blobs=natural + planted), OWN)
    best = found[0]
    assert set(range(60, 80)) <= set(best.films.tolist())
    assert len(best.films) <= 22
    assert (best.row, best.column, best.side) == (None, None, 3)
    assert best.levels[0] >= 252
    assert best.p <= UNLIKELY
    assert not anywhere(events(N, blobs=natural), OWN)


def test_uneven_blobs_are_a_kind_of_their_own():
    rng = np.random.default_rng(0)
    places = rng.integers(0, 29, (30, 2))
    blobs = [
        {
            "film": film,
            "row": row,
            "column": column,
            "side": 3,
            "level": 200,
            "spread": 2 if film < 15 else 3,
        }
        for film, (row, column) in enumerate(places)
    ]
    found = anywhere(events(N, blobs=blobs), OWN)
    assert {tuple(one.films.tolist()) for one in found} == {
        tuple(range(15)),
        tuple(range(15, 30)),
    }


def test_a_patient_counts_once_anywhere():
    rng = np.random.default_rng(0)
    blobs = [
        {"film": film, "row": row, "column": column, "side": 3, "level": 255}
        for film, (row, column) in enumerate(rng.integers(0, 29, (20, 2)))
    ]
    (found,) = anywhere(events(N, blobs=blobs), np.maximum(OWN - 10, 0))
    assert found.patients == 10
    assert found.films.tolist() == list(range(20))
    assert anywhere(events(N, blobs=blobs), np.maximum(OWN - 18, 0)) == []


def test_levels_that_are_all_as_frequent_do_not_stand_out():
    blobs = [
        {"film": number % N, "row": number % 29, "column": number % 23, "side": 3, "level": level}
        for number, level in enumerate(np.repeat(np.arange(20, 240), 10))
    ]
    assert anywhere(events(N, blobs=blobs), OWN) == []


# ---------------------------------------------------------------- textures


def rough(seed):
    return np.random.default_rng(seed).integers(0, 256, 9).astype(np.uint8)


def test_textures_at_one_place_and_anywhere():
    here = [(film, 3, 4, rough(0)) for film in (9, 5, 7)]
    about = [(film, film, 2 * film, rough(1)) for film in (1, 2, 8, 6)]
    seen = events(N, textures=here + about)
    (placed,) = textures(seen, OWN, placed=True)
    assert placed.films.tolist() == [5, 7, 9]
    assert (placed.row, placed.column, placed.side, placed.bright) == (3, 4, 3, None)
    assert placed.levels == (rough(0).min(), rough(0).max())
    assert placed.patients == 3
    assert np.isnan(placed.p)
    assert np.isnan(placed.usual)
    first, second = textures(seen, OWN, placed=False)
    assert first.films.tolist() == [1, 2, 6, 8]
    assert second.films.tolist() == [5, 7, 9]
    assert first.row is first.column is None


def test_textures_that_differ_by_one_level_are_others():
    other = rough(0)
    other[8] ^= 1
    spots = [(film, 3, 4, rough(0) if film < 2 else other) for film in range(4)]
    assert textures(events(N, textures=spots), OWN, placed=False) == []
    # Nor is the order of the levels the same.
    spots = [(film, 3, 4, np.roll(rough(0), film)) for film in range(4)]
    assert textures(events(N, textures=spots), OWN, placed=False) == []
    swapped = [(film, 3 + film % 2, 4 + (film + 1) % 2, rough(0)) for film in range(4)]
    assert textures(events(N, textures=swapped), OWN, placed=True) == []


@pytest.mark.parametrize("placed", [True, False])
def test_a_patients_textures_count_once(placed):
    spots = [(film, 3, 4, rough(0)) for film in (0, 1, 2, 3, 0)]
    assert textures(events(N, textures=spots), OWN // 2, placed=placed) == []
    spots.append((8, 3, 4, rough(0)))
    (found,) = textures(events(N, textures=spots), OWN // 2, placed=placed)
    assert found.patients == 3
    assert found.films.tolist() == [0, 1, 2, 3, 8]


@pytest.mark.parametrize("placed", [True, False])
def test_one_set_of_films_is_one_texture(placed):
    spots = [(film, 3 + part, 4, rough(part)) for part in range(5) for film in (10, 11, 12, 13)]
    assert len(textures(events(N, textures=spots), OWN, placed=placed)) == 1
    spots += [(14, 3, 4, rough(0))]
    assert [len(one.films) for one in textures(events(N, textures=spots), OWN, placed=placed)] == [
        5,
        4,
    ]
