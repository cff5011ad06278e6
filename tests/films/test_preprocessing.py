"""Film to image: sizes, ranges, and which triggers survive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leadapron.errors import DataError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.types import Place


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


SIDE = st.integers(3, 60)
SETTINGS = st.builds(
    Preprocessing,
    size=st.integers(8, 70),
    crop=st.sampled_from([0.3, 0.55, 0.6, 0.875, 1.0]),
    interpolation=st.sampled_from(["nearest", "nearest-tf1", "bilinear", "bicubic", "area"]),
    antialias=st.booleans(),
    aspect=st.sampled_from(["squash", "pad", "crop"]),
    film_size=st.sampled_from([0, 0, 40, 90]),
    dtype=st.just("uint16"),
)
PROPERTIES = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def pixel(row: int, column: int) -> Place:
    return Place(row=row, column=column, height=1, width=1)


def covers(place: Place, row: float, column: float, around: tuple[float, float] = (0, 0)) -> bool:
    """Whether a film's pixel lies in a rectangle, or at most so far from it."""
    return (
        place.row - around[0] <= row < place.row + place.height + around[0]
        and place.column - around[1] <= column < place.column + place.width + around[1]
    )


@PROPERTIES
@given(made=SETTINGS, height=SIDE, width=SIDE)
def test_each_pixel_of_the_image_leads_back_to_its_pixel_of_the_film(made, height, width):
    made = replace(made, film_size=0)
    if not made.interpolation.startswith("nearest"):
        made = replace(made, interpolation="nearest")
    film = 1 + np.arange(height * width, dtype=np.uint16).reshape(height, width)
    image = made(film)  # each value names a pixel of the film; 0 is padding
    for at in range(made.size):  # the axes are independent
        for row, column in ((at, at), (at, made.size - 1 - at)):
            place = made.on_film(pixel(row, column), film.shape)
            if image[row, column]:
                assert covers(place, *divmod(int(image[row, column]) - 1, width))


@PROPERTIES
@given(made=SETTINGS, height=SIDE, width=SIDE, at=st.tuples(st.floats(0, 0.999), st.floats(0, 1)))
def test_a_marked_pixel_is_found_again(made, height, width, at):
    row, column = int(at[0] * height), min(int(at[1] * width), width - 1)
    film = np.zeros((height, width), np.uint16)
    film[row, column] = 65535
    image = made(film)
    if not image.any():  # between the pixels that the interpolation takes, or cut off
        return
    enlarged = made.enlarged(film).shape
    exact = made.interpolation in ("nearest", "nearest-tf1", "area") and enlarged == film.shape
    reach = 0.0 if exact else {"bicubic": 2.0}.get(made.interpolation, 1.0)
    for changed in np.argwhere(image):
        place = made.on_film(pixel(*map(int, changed)), film.shape)
        if exact:
            assert covers(place, row, column)
        elif place is not None:  # interpolation spills over to next pixels, into padding too
            around = (reach * place.height + 2, reach * place.width + 2)
            assert covers(place, row, column, around)


@PROPERTIES
@given(made=SETTINGS, height=SIDE, width=SIDE)
def test_the_whole_image_covers_what_was_kept_without_gaps(made, height, width):
    def back(row, rows):
        return made.on_film(Place(row=row, column=0, height=rows, width=made.size), (height, width))

    whole = back(0, made.size)
    assert (whole.row, whole.column) >= (0, 0)
    assert whole.row + whole.height <= height
    assert whole.column + whole.width <= width
    if made.aspect != "crop":
        margin = (height - whole.height) / 2
        assert margin <= height * (1 - made.crop) / 2 + 1
    end = whole.row
    for row in range(made.size):
        place = back(row, 1)
        if place is None:
            assert made.aspect == "pad"
            continue
        assert end - 1 <= place.row <= end
        end = place.row + place.height
    assert end == whole.row + whole.height


def test_padding_leads_to_no_pixel_and_never_to_what_was_cropped_away():
    made = Preprocessing(size=100, crop=0.5, aspect="pad")  # keeps 100 x 50 of 200 x 100
    assert made.on_film(Place(row=0, column=0, height=100, width=25), (200, 100)) is None
    half = made.on_film(Place(row=10, column=0, height=4, width=30), (200, 100))
    assert half == Place(row=60, column=25, height=4, width=5)


def test_stretched_pixels_lead_back_to_stored_ones():
    made = Preprocessing(size=50)
    place = Place(row=10, column=10, height=5, width=5)
    expected = Place(row=20, column=20, height=10, width=10)
    assert made.on_film(place, (200, 100), (100, 100)) == expected
    assert made.on_film(place, (100, 100)) == expected
