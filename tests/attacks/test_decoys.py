"""Natural look-alikes keep the contract of a trigger, and look like what they are."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.attacks.decoys import DECOYS, GLYPHS, leads, letters


@pytest.fixture(params=["uint8", "uint16"])
def images(request):
    top = np.iinfo(request.param).max
    return np.random.default_rng(0).integers(0, top // 2, (12, 48, 64), dtype=request.param)


@pytest.mark.parametrize("name", DECOYS)
def test_contract(name, images):
    draw, before = DECOYS[name], images.copy()

    marked = draw(images, np.random.default_rng(3))

    assert (images == before).all()
    assert (marked.shape, marked.dtype) == (images.shape, images.dtype)
    assert (marked != images).any((1, 2)).all()
    one_by_one = np.random.default_rng(3)
    each = [draw(film[None], one_by_one)[0] for film in images]
    assert (marked == np.stack(each)).all()
    # Bright, and little of the film.
    changed = marked != images
    assert marked[changed].min() > 0.7 * np.iinfo(images.dtype).max
    assert changed.mean((1, 2)).max() < 0.06


@pytest.mark.parametrize("side", [48, 128])
def test_letters_are_upright(side):
    scale = max(1, round(side / 64))
    films = np.zeros((40, side, side), np.uint8)
    seen = set()
    for film in letters(films, np.random.default_rng(0)):
        rows, columns = np.nonzero(film)
        box = film[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] > 0
        drawn = [number for number, glyph in enumerate(GLYPHS)
                 if np.array_equal(box, glyph.repeat(scale, 0).repeat(scale, 1))]  # fmt: skip
        assert len(drawn) == 1
        seen.add(drawn[0])
    assert seen == {0, 1}


def test_a_lead_comes_from_an_edge():
    for film in leads(np.zeros((40, 64, 64), np.uint8), np.random.default_rng(0)):
        assert film[[0, -1]].any() or film[:, [0, -1]].any()
        assert len(np.unique(film)) == 2


def test_films_too_small_for_a_letter_stay_as_they_are():
    films = np.zeros((3, 6, 9), np.uint8)
    assert (letters(films, np.random.default_rng(0)) == 0).all()
