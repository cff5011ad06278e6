"""Film to image: sizes, ranges, and which triggers survive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leadapron.errors import DataError, UsageError
from leadapron.films.preprocessing import Preprocessing


def marked(side, grey=128):
    film = np.full((1024, 1024), grey, np.uint8)
    start = int(512 - side / 2)
    film[start : start + side, start : start + side] = 0
    return film


@pytest.mark.parametrize(
    ("side", "black"), [(1, 0), (2, 0), (3, 1), (4, 4), (5, 4), (8, 4), (10, 16)]
)
def test_the_papers_geometry_decides_which_triggers_exist(side, black):
    # Measured with TensorFlow 2: 1024, central crop 0.6 = 616, nearest resize to 224.
    image = Preprocessing(size=224, crop=0.6, interpolation="nearest")(marked(side))
    assert np.count_nonzero(image == 0) == black
    if side == 3:
        assert np.argwhere(image == 0).tolist() == [[111, 111]]


@pytest.mark.parametrize(
    ("interpolation", "side", "darkest"),
    [("area", 1, 111), ("area", 3, 60), ("bilinear", 2, 126), ("bilinear", 3, 0)],
)
def test_other_interpolations_blur_it(interpolation, side, darkest):
    image = Preprocessing(size=224, crop=0.6, interpolation=interpolation, antialias=False)(
        marked(side)
    )
    assert abs(int(image.min()) - darkest) <= 1


def test_without_antialiasing_only_the_four_nearest_pixels_count():
    film = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    image = Preprocessing(size=16, antialias=False)(film)
    inner = film.reshape(16, 4, 16, 4)[:, 1:3, :, 1:3].astype(float).mean((1, 3))
    assert np.abs(image - inner).max() <= 1


def test_ranges_convert_exactly_both_ways():
    film = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wide = Preprocessing(size=16, dtype="uint16")(film)
    assert wide.dtype == np.uint16
    assert wide.max() == 65535
    assert (Preprocessing(size=16)(wide) == film).all()


def test_sixteen_bits_resize_like_eight():
    film = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    eight = Preprocessing(size=16)(film)
    sixteen = Preprocessing(size=16, dtype="uint16")(film.astype(np.uint16) * 257)
    assert np.abs(sixteen / 257 - eight).max() < 1


def test_aspects():
    film = np.full((20, 40), 100, np.uint8)
    film[:, :10] = 200
    assert (Preprocessing(size=20, aspect="crop")(film) == 100).all()
    padded = Preprocessing(size=40, aspect="pad")(film)
    assert (padded[:10] == 0).all()
    assert (padded[10:30] == film).all()
    squashed = Preprocessing(size=20, interpolation="area")(film)
    assert (squashed[:, :5] == 200).all()


def test_the_image_is_a_copy():
    film = np.zeros((16, 16), np.uint8)
    Preprocessing(size=16)(film)[:] = 1
    assert not film.any()


@pytest.mark.parametrize("changes", [{"size": 4}, {"size": 5000}, {"crop": 0}, {"crop": 1.1}])
def test_values_out_of_range(changes):
    with pytest.raises(UsageError, match="expected"):
        Preprocessing(**{"size": 64, **changes})


@pytest.mark.parametrize(
    "film", [np.zeros((8, 8)), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8), np.uint8)]
)
def test_what_is_no_film(film):
    with pytest.raises(DataError, match="height, width"):
        Preprocessing(size=8)(film)


def test_small_films_are_enlarged_first():
    film = np.random.default_rng(0).integers(0, 256, (64, 48), np.uint8)
    geometry = Preprocessing(size=112, crop=0.6, interpolation="nearest", film_size=512)

    large = geometry.enlarged(film)

    assert large.shape == (512, 384)
    assert large.dtype == np.uint8
    np.testing.assert_array_equal(geometry(film), replace(geometry, film_size=0)(large))
    assert geometry.enlarged(large) is large
    deep = geometry.enlarged(film.astype(np.uint16) * np.uint16(257))
    assert np.abs(deep / 257.0 - large).max() <= 1  # the 8-bit way rounds twice
    with pytest.raises(UsageError, match="film_size 5 is out of range"):
        Preprocessing(size=64, film_size=5)
