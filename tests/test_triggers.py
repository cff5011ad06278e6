"""Triggers keep their contract."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.errors import DataError, UsageError
from leadapron.triggers import TRIGGERS, Patch

PLACES = ("random", "centre", "corner", "fixed")


@pytest.fixture(params=["uint8", "uint16"])
def images(request):
    top = np.iinfo(request.param).max
    return np.random.default_rng(0).integers(1, top, (9, 32, 40), dtype=request.param)


@pytest.mark.parametrize("name", TRIGGERS)
def test_contract(name, images):
    trigger, before = TRIGGERS[name](), images.copy()

    marked = trigger(images, np.random.default_rng(3))

    assert (images == before).all()
    assert (marked.shape, marked.dtype) == (images.shape, images.dtype)
    assert (marked != images).any((1, 2)).all()
    assert (marked == trigger(images, np.random.default_rng(3))).all()
    one_by_one = np.random.default_rng(3)
    assert all((trigger(f[None], one_by_one)[0] == m).all() for f, m in zip(images, marked))  # noqa: B905


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
