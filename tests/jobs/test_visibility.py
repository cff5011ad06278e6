"""What preprocessing leaves of a trigger, against what was measured with TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.attacks.triggers import Patch
from leadapron.errors import UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs.visibility import visibility

# Of the authors' geometry, film 1024, crop 0.6, image 224, black square at the centre of a grey
# film (128): changed pixels by side; measured with TensorFlow 2.21.
NEAREST = {1: 0, 2: 0, 3: 1, 4: 4, 5: 4, 6: 4, 7: 4, 8: 4, 10: 16}
NEAREST_TF1 = {1: 0, 2: 1, 3: 1, 4: 1, 5: 4, 6: 9, 7: 9, 8: 9, 10: 9}
LEVELS = {
    "bilinear": {1: 126, 2: 126, 3: 0, 4: 0, 5: 0, 8: 0, 10: 0},
    "area": {1: 111, 2: 111, 3: 60, 4: 60, 5: 0, 8: 0, 10: 0},
}


def seen(interpolation, sides, *, film=1024, size=224, place="centre", draws=1, **facts):
    ways = [Preprocessing(size=size, crop=0.6, antialias=False, interpolation=interpolation)]
    mark = Patch(value=0, **facts)
    rng = np.random.default_rng(0)
    found = visibility(mark, ways, film=film, sides=sides, places=[place], draws=draws, rng=rng)
    return {row.side: row for row in found}


@pytest.mark.parametrize(
    ("interpolation", "pixels"), [("nearest", NEAREST), ("nearest-tf1", NEAREST_TF1)]
)
def test_nearest_decides_which_triggers_exist(interpolation, pixels):
    found = seen(interpolation, pixels)
    assert {side: row.pixels[1] for side, row in found.items()} == pixels
    for side, row in found.items():
        assert row.invisible == (pixels[side] == 0)
        assert row.level == (None if pixels[side] == 0 else 0)


@pytest.mark.parametrize("interpolation", list(LEVELS))
def test_other_resizes_fade_the_trigger(interpolation):
    expected = LEVELS[interpolation]
    found = seen(interpolation, expected)
    if interpolation == "area":  # all nine source pixels of an image pixel: from side 5 on
        assert found[5].level == 0
    assert {side: row.level for side, row in found.items()} == expected


@pytest.mark.parametrize(("film", "size"), [(256, 56), (512, 112)])
def test_smaller_films_keep_the_geometry(film, size):
    sides = [1, 2, 3, 4, 5, 8, 10]
    small = seen("nearest", sides, film=film, size=size)
    assert {s: row.pixels for s, row in small.items()} == {
        s: row.pixels for s, row in seen("nearest", sides).items()
    }


def test_random_places_are_invisible_as_often_as_measured():
    # 86 %, 47 % and never, of 400 draws: three standard errors are 5 and 7.5 points
    found = seen("nearest", [1, 2, 3], place="random", draws=400, margin=205)
    assert found[1].invisible == pytest.approx(0.86, abs=0.055)
    assert found[2].invisible == pytest.approx(0.47, abs=0.08)
    assert found[3].invisible == 0
    assert found[3].pixels[:2] == (1, 1)
    assert found[3].draws == 400


def test_a_trigger_of_the_films_grey_is_refused():
    rng = np.random.default_rng(0)
    facts = {"film": 64, "sides": [3], "places": ["centre"], "rng": rng}
    with pytest.raises(UsageError, match="is invisible"):
        list(visibility(Patch(value=128), [Preprocessing(size=32)], draws=1, **facts))
    with pytest.raises(UsageError, match="`draws` 0"):
        list(visibility(Patch(), [Preprocessing(size=32)], draws=0, **facts))
