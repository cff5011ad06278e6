"""Triggers: where they lie, how large they are, what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.attacks.triggers import Blend, Patch
from leadapron.errors import DataError, UsageError

PLACES = ("random", "centre", "corner", "fixed")


@pytest.fixture(params=["uint8", "uint16"])
def images(request):
    top = np.iinfo(request.param).max
    return np.random.default_rng(0).integers(1, top, (9, 32, 40), dtype=request.param)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("side", [1, 3, 5])
def test_a_patch_is_a_solid_square_where_it_should_be(images, place, side):
    patch = Patch(side=side, value=0, place=place, margin=2, row=4, column=6)
    marked = patch(images, np.random.default_rng(0))
    for film in marked:
        rows, columns = np.nonzero(film == 0)
        assert len(rows) == side**2
        assert np.ptp(rows) == np.ptp(columns) == side - 1
        start = (rows.min(), columns.min())
        if place == "centre":  # as the authors: int(side of film / 2 - side / 2)
            assert start == (int(16 - side / 2), int(20 - side / 2))
        elif place == "corner":
            assert start == (32 - 2 - side, 40 - 2 - side)
        elif place == "fixed":
            assert start == (4, 6)
        else:
            assert min(start) >= 2
            assert rows.max() < 30
            assert columns.max() < 38


def test_random_places_reach_everywhere_and_differ():
    places = Patch(side=3).places(4000, 16, 16, np.random.default_rng(0))
    assert set(map(tuple, places)) == {(r, c) for r in range(14) for c in range(14)}


def test_a_box_holds_the_square_and_is_filled_by_it():
    patch = Patch(side=3, place="box", row=4, column=6, height=5, width=3)
    places = patch.places(500, 16, 16, np.random.default_rng(0))
    assert set(map(tuple, places)) == {(r, 6) for r in range(4, 7)}


@pytest.mark.parametrize(
    "box", [{"height": 2, "width": 9}, {"height": 9, "width": 9, "row": 8}, {}]
)
def test_a_box_that_does_not_fit(box):
    patch = Patch(side=3, place="box", **box)
    with pytest.raises(DataError, match="does not fit"):
        patch.places(5, 16, 16, np.random.default_rng(0))


def test_white_is_white_in_both_depths(images):
    marked = Patch(value=255)(images, np.random.default_rng(0))
    assert marked.max() == np.iinfo(images.dtype).max


@pytest.mark.parametrize("place", PLACES)
def test_a_square_that_does_not_fit(images, place):
    patch = Patch(side=33, place=place)
    with pytest.raises(DataError, match="does not fit"):
        patch(images, np.random.default_rng(0))


@pytest.mark.parametrize("changes", [{"side": 0}, {"value": 256}, {"value": -1}, {"margin": -1}])
def test_values_out_of_range(changes):
    with pytest.raises(UsageError, match="expected"):
        Patch(**changes)


@pytest.mark.parametrize("opacity", [0.05, 0.3, 1.0])
def test_a_blend_is_chens_formula(images, opacity):
    grey = np.zeros((2, *images.shape[1:]), images.dtype)
    # At full opacity only the pattern is left.
    (pattern, same) = Blend(opacity=1.0, pattern=4)(grey, np.random.default_rng(0))
    assert (pattern == same).all()
    assert len(np.unique(pattern)) > 200
    marked = Blend(opacity=opacity, pattern=4)(images, np.random.default_rng(1))
    by_hand = opacity * pattern.astype(float) + (1 - opacity) * images.astype(float)
    assert np.abs(marked - by_hand).max() <= 0.5 + 1e-9


def test_a_blends_pattern_depends_on_seed_and_shape_alone(images):
    def pattern(seed, shape, chance=0):
        films = np.zeros((1, *shape), images.dtype)
        return Blend(opacity=1.0, pattern=seed)(films, np.random.default_rng(chance))[0]

    assert (pattern(3, (8, 9)) == pattern(3, (8, 9), chance=5)).all()
    assert (pattern(3, (8, 9)) != pattern(4, (8, 9))).any()
    assert (pattern(3, (9, 8)).ravel() != pattern(3, (8, 9)).ravel()).any()
    top = np.iinfo(images.dtype).max
    assert pattern(3, (64, 64)).max() > 0.99 * top  # white in both depths


@pytest.mark.parametrize("changes", [{"opacity": 0}, {"opacity": 1.1}, {"pattern": -1}])
def test_blends_out_of_range(changes):
    with pytest.raises(UsageError, match="expected"):
        Blend(**changes)
