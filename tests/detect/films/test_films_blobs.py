"""Isolated blobs against their definition, square by square."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.detect.films.blobs import BLOB, GAP, SCALES, SIDES, find_blobs, grey, running, shrunk


def by_definition(images, scales=tuple(SCALES)):
    """Every square of every scale, each with all pixels of its ring."""
    found = set()
    for scale in scales:
        sides = SCALES[scale]
        small = images.astype(int)
        if scale > 1:
            if min(images.shape[1:]) // scale < 32:
                continue
            n, height, width = (len(small), *(side // scale for side in small.shape[1:]))
            squares = small[:, : height * scale, : width * scale]
            squares = squares.reshape(n, height, scale, width, scale)
            small = np.floor(squares.mean(axis=(2, 4)) + 0.5).astype(int)
        for film, image in enumerate(small):
            for side in sides:
                for row in range(image.shape[0] - side + 1):
                    for column in range(image.shape[1] - side + 1):
                        square = image[row : row + side, column : column + side]
                        ring = ring_of(image, row, column, side)
                        place = (film, row, column, scale, side)
                        spread = int(square.max() - square.min())
                        # Beyond the film's edge all is as dark, or as bright, as can be.
                        up = int(square.min() - max(ring, default=0))
                        down = int(min(ring, default=255) - square.max())
                        if up >= GAP:
                            found.add((*place, True, int(square.min()), up, spread))
                        if down >= GAP:
                            found.add((*place, False, int(square.max()), down, spread))
    return found


def ring_of(image, row, column, side):
    height, width = image.shape
    return [
        int(image[y, x])
        for y in range(max(row - 1, 0), min(row + side + 1, height))
        for x in range(max(column - 1, 0), min(column + side + 1, width))
        if not (row <= y < row + side and column <= x < column + side)
    ]


def as_set(blobs):
    rows = [tuple(blob.tolist()) for blob in blobs]
    assert len(set(rows)) == len(rows)
    return set(rows)


def films(rng, n, height, width, kind):
    """Random films: of few extreme levels, of all levels, or smooth with squares at any place."""
    if kind == "extremes":
        return rng.choice(np.array([0, 1, 9, 10, 245, 246, 255], np.uint8), (n, height, width))
    if kind == "levels":
        return rng.integers(0, 256, (n, height, width), dtype=np.uint8)
    images = rng.integers(100, 104, (n, height, width), dtype=np.uint8)
    for film in np.repeat(np.arange(n), 2 + height * width // 500):
        side = rng.integers(1, min(height, width, 10) + 1)
        row, column = rng.integers(-2, height), rng.integers(-2, width)
        level = rng.choice([0, 60, 150, 255])
        images[film, max(row, 0) : row + side, max(column, 0) : column + side] = level
    return images


@pytest.mark.parametrize("kind", ["extremes", "levels", "squares"])
@pytest.mark.parametrize(("height", "width"), [(9, 12), (6, 5), (3, 17), (1, 1), (2, 7)])
def test_blobs_are_those_of_the_definition(kind, height, width):
    rng = np.random.default_rng([height, width])
    found = 0
    for n in (1, 8):
        images = films(rng, n, height, width, kind)
        before = images.copy()
        blobs = find_blobs(images)
        assert as_set(blobs) == by_definition(images)
        np.testing.assert_array_equal(images, before)
        found += len(blobs)
    assert found


def test_blobs_of_smaller_copies_are_those_of_the_definition():
    """65 x 66 pixels are looked at in full and at half the size, the last row left out."""
    images = films(np.random.default_rng(5), 1, 65, 66, "squares")
    blobs = find_blobs(images)
    assert set(np.unique(blobs["scale"])) == {1, 2}
    assert as_set(blobs[blobs["scale"] == 2]) == by_definition(images, (2,))


@pytest.mark.parametrize("background", [0, 128, 255])
@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (30, 61), (0, 20), (17, 33)])
def test_a_square_is_one_blob_of_its_side(background, value, row, column):
    for side in SIDES:
        image = np.full((1, 64, 64), background, np.uint8)
        at = (min(row, 64 - side), min(column, 64 - side))
        image[0, at[0] : at[0] + side, at[1] : at[1] + side] = value
        blobs = find_blobs(image)
        exact = blobs[(blobs["scale"] == 1) & (blobs["side"] == side)]
        if value == background:
            assert not len(blobs)
            continue
        assert len(exact) == 1
        blob = exact[0]
        assert (blob["row"], blob["column"]) == at
        assert blob["bright"] == (value > background)
        assert (blob["level"], blob["spread"]) == (value, 0)
        assert blob["contrast"] == abs(value - background)


@pytest.mark.parametrize(("side", "scale"), [(6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 4)])
def test_large_squares_are_blobs_of_smaller_copies(side, scale):
    image = np.full((1, 128, 128), 90, np.uint8)
    image[0, 24 : 24 + side, 40 : 40 + side] = 200
    blobs = find_blobs(image, first=7)
    exact = blobs[(blobs["scale"] == scale) & (blobs["side"] == side // scale)]
    assert exact["film"].tolist() == [7]
    assert exact["row"].tolist() == [24 // scale]
    assert exact["column"].tolist() == [40 // scale]
    assert exact["level"].tolist() == [200]


def test_a_blob_needs_ten_grey_levels_to_every_pixel_of_its_ring():
    image = np.full((4, 9, 9), 100, np.uint8)
    image[:, 4, 4] = [109, 110, 90, 91]
    assert as_set(find_blobs(image)) == {
        (1, 4, 4, 1, 1, True, 110, 10, 0),
        (2, 4, 4, 1, 1, False, 90, 10, 0),
    }
    image[1, 5, 5] = 101
    image[2, 5, 5] = 99
    assert not len(find_blobs(image))


def test_films_do_not_touch_each_other():
    """A film's last row and the next one's first are no neighbours, nor are a row's two ends."""
    images = np.full((3, 5, 5), 100, np.uint8)
    images[1, 0, 0] = 255
    images[0, 4, 4] = 255
    images[2, 2, 4], images[2, 3, 0] = 255, 255
    ones = find_blobs(images)
    ones = ones[ones["side"] == 1]
    assert {(b["film"], b["row"], b["column"]) for b in ones} == {
        (0, 4, 4),
        (1, 0, 0),
        (2, 2, 4),
        (2, 3, 0),
    }


def test_flat_films_have_no_blobs():
    blobs = find_blobs(np.full((2, 40, 40), 77, np.uint8))
    assert blobs.dtype == BLOB
    assert not len(blobs)


def test_shrunk_rounds_means_of_squares():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 11, 14), dtype=np.uint8)
    assert shrunk(images, 1) is images
    for scale in (2, 4):
        small = shrunk(images, scale)
        assert small.shape == (3, 11 // scale, 14 // scale)
        assert small.dtype == np.uint8
        for film, row, column in np.ndindex(small.shape):
            square = images[film, row * scale :][:scale, column * scale :][:, :scale]
            assert small[film, row, column] == int(square.mean() + 0.5)
    assert shrunk(np.full((1, 8, 8), 255, np.uint8), 4).min() == 255


def test_grey_keeps_the_upper_bits():
    eight = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert grey(eight) is eight
    sixteen = eight.astype(np.uint16) * 257
    np.testing.assert_array_equal(grey(sixteen), eight)
    assert grey(sixteen).dtype == np.uint8
    assert grey(np.full((1, 2, 2), 65535, np.uint16)).max() == 255


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("combine", [np.maximum, np.minimum, np.add])
def test_running(combine, length, step):
    values = np.random.default_rng(length).integers(-50, 50, 40)
    before = values.copy()
    found = running(combine, values, length, step)
    wanted = [
        combine.reduce(values[at : at + length * step : step])
        for at in range(40 - (length - 1) * step)
    ]
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(values, before)
