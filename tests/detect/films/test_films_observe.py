"""What is seen of films, against plain loops; and that blocks, threads and order don't matter."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from scipy import fft

from leadapron.detect.films.observe import (
    ROUGH,
    TAILS,
    TRACES,
    _textures,
    fine_structure,
    grey_levels,
    limits,
    observe,
    raised,
)
from leadapron.films.cohort import Overlay

observing = importlib.import_module("leadapron.detect.films.observe")  # not the function


def films(n, height=24, width=40, seed=0, dtype=np.uint8):
    """Smooth films with noise, some with rough squares and extreme levels."""
    rng = np.random.default_rng(seed)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    waves = np.sin(rows / 6 + rng.random((n, 1, 1)) * 6) + np.cos(columns / 9 + rng.random())
    images = 120 + 40 * waves + rng.normal(0, 3, (n, height, width))
    for film in range(0, n, 3):
        row, column = rng.integers(0, height - 5), rng.integers(0, width - 5)
        images[film, row : row + 5, column : column + 5] = rng.choice([0, 255], (5, 5))
    images = np.clip(images, 0, 255).astype(np.uint8)
    return images if dtype == np.uint8 else images.astype(np.uint16) * 257


def assert_equal(one, other):
    """The same, but for the order of a film's blobs and textures."""
    assert one.shape == other.shape
    for name in ("blobs", "textures"):
        first, second = (np.sort(getattr(each, name)) for each in (one, other))
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(one.starts, other.starts)
    np.testing.assert_array_equal(one.outliers, other.outliers)
    assert one.traces.keys() == other.traces.keys() == set(TRACES)
    for name, values in one.traces.items():
        np.testing.assert_array_equal(values, other.traces[name])
        assert values.dtype == np.float32


# ---------------------------------------------------------------- against plain loops


@pytest.mark.parametrize(("height", "width"), [(7, 9), (3, 3), (1, 6), (5, 1), (2, 2)])
def test_raised_is_the_pixel_above_its_ring(height, width):
    rng = np.random.default_rng(height)
    images = rng.choice(np.array([0, 1, 100, 254, 255], np.uint8), (3, height, width))
    images[2] = rng.integers(0, 256, (height, width))
    found = raised(images)
    assert found.shape == images.shape
    for film, row, column in np.ndindex(images.shape):
        ring = [
            int(images[film, np.clip(row + y, 0, height - 1), np.clip(column + x, 0, width - 1)])
            for y in range(-2, 3)
            for x in range(-2, 3)
            if max(abs(y), abs(x)) == 2
        ]
        assert found[film, row, column] == 16 * int(images[film, row, column]) - sum(ring)


def test_raised_holds_the_extremes():
    images = np.zeros((2, 9, 9), np.uint8)
    images[1] = 255
    images[:, 4, 4] = [255, 0]
    assert raised(images)[:, 4, 4].tolist() == [16 * 255, -16 * 255]


def rough_spots(images, first):
    found = []
    values = images.astype(int)
    for film, row, column in np.ndindex(images.shape):
        if not (0 < row < images.shape[1] - 1 and 0 < column < images.shape[2] - 1):
            continue
        here = 2 * values[film, row, column]
        across = abs(here - values[film, row, column - 1] - values[film, row, column + 1])
        down = abs(here - values[film, row - 1, column] - values[film, row + 1, column])
        if across + down >= ROUGH:
            square = values[film, row - 1 : row + 2, column - 1 : column + 2]
            found.append((film + first, row - 1, column - 1, square.ravel().tolist()))
    return found


@pytest.mark.parametrize(("height", "width"), [(7, 9), (3, 3), (3, 12), (12, 3)])
def test_textures_are_bends(height, width):
    rng = np.random.default_rng(width)
    images = rng.choice(np.array([0, 20, 128, 235, 255], np.uint8), (4, height, width))
    images[3] = rng.integers(0, 40, (height, width))
    wanted = rough_spots(images, 11)
    assert wanted
    found = [
        (spot["film"], spot["row"], spot["column"], spot["pixels"].tolist())
        for spot in _textures(images, 11)
    ]
    assert sorted(found) == sorted(wanted)


def test_a_bend_of_ninety_nine_is_not_rough():
    images = np.full((2, 5, 5), 100, np.uint8)
    images[:, 2, 2] = [124, 125]  # bends of 4 x 24 and 4 x 25
    assert _textures(images, 0)["film"].tolist() == [1]
    assert not len(_textures(np.zeros((3, 16, 16), np.uint8), 0))


def test_fine_structure_of_one_square_by_hand():
    """8 x 8 pixels: the transform's sizes are their own means; there are no steps to neighbours."""
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (2, 16, 16)).astype(np.float32)
    found = fine_structure(squares)
    assert found.shape == (2, 144)
    assert found.dtype == np.float32
    u, x = np.arange(8)[:, None], np.arange(8)
    cosine = np.cos((2 * x + 1) * u * np.pi / 16) * np.where(u == 0, np.sqrt(1 / 8), 0.5)
    for film, image in enumerate(squares):
        sizes = []
        for row in (0, 8):
            for column in (0, 8):
                part = image[row : row + 8, column : column + 8].astype(np.float64)
                by_hand = cosine @ part @ cosine.T
                np.testing.assert_allclose(by_hand, fft.dctn(part, norm="ortho"), atol=1e-9)
                sizes.append(np.abs(by_hand))
        np.testing.assert_allclose(
            found[film, :64], np.log(0.1 + np.mean(sizes, axis=0)).ravel(), atol=1e-4
        )
        np.testing.assert_allclose(
            found[film, 64:128], np.mean(np.array(sizes) < 1, axis=0).ravel(), atol=1e-6
        )
        across = [np.mean(np.abs(image[:, at + 1] - image[:, at])) for at in range(8)]
        down = [np.mean(np.abs(image[at + 1] - image[at])) for at in range(8)]
        np.testing.assert_allclose(found[film, 128:136], np.log(0.1 + np.array(across)), atol=1e-5)
        np.testing.assert_allclose(found[film, 136:], np.log(0.1 + np.array(down)), atol=1e-5)


def test_fine_structure_leaves_out_what_fills_no_square():
    images = films(2, 29, 37).astype(np.float32)
    found = fine_structure(images)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(
        found[:, :128], fine_structure(images[:, :24, :32])[:, :128], atol=1e-5
    )


def test_grey_levels_against_their_surroundings():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 20, 20), dtype=np.uint8)
    images[1] = np.minimum(images[1] // 2 * 2, 250)
    found = grey_levels(images)
    assert found.shape == (2, 256)
    for film, image in enumerate(images):
        logs = [np.log(1 + int((image == level).sum())) for level in range(256)]
        # Mirrored at both ends, as scipy's filter does.
        wide = logs[3::-1] + logs + logs[:-5:-1]
        means = [np.mean(wide[level : level + 9]) for level in range(256)]
        np.testing.assert_allclose(found[film], np.array(logs) - means, atol=1e-5)
    assert found[1, 100] > 0 > found[1, 101]


# ---------------------------------------------------------------- limits and outliers


def test_limits_are_order_statistics():
    images = films(600)
    bounds = limits(images, np.random.default_rng(0))
    ordered = np.sort(raised(images), axis=0)
    for tail, share in enumerate(TAILS):
        rank = int(share * 600)
        np.testing.assert_array_equal(bounds.low[tail], ordered[rank])
        np.testing.assert_array_equal(bounds.high[tail], ordered[599 - rank])
    again = limits(images, np.random.default_rng(1))
    np.testing.assert_array_equal(bounds.low, again.low)  # all films are in any sample


def test_limits_of_many_films_go_by_a_thousand(monkeypatch):
    monkeypatch.setattr(observing, "SAMPLE", 100)
    images = films(300)
    bounds = limits(images, np.random.default_rng(3))
    rows = np.random.default_rng(3).permutation(300)[:100]
    ordered = np.sort(raised(images[rows]), axis=0)
    np.testing.assert_array_equal(bounds.low, ordered[[0, 2]])
    np.testing.assert_array_equal(bounds.high, ordered[[99, 97]])
    again = limits(images, np.random.default_rng(3))
    np.testing.assert_array_equal(bounds.high, again.high)


def test_outliers_are_the_pixels_beyond_their_limits():
    images = films(60)
    bounds = limits(images[:40], np.random.default_rng(0))
    seen = observe(images, bounds)
    values = raised(images)
    for film in range(60):
        wanted = []
        for tail in range(len(TAILS)):
            for high in (False, True):
                limit = (bounds.high if high else bounds.low)[tail]
                beyond = values[film] > limit if high else values[film] < limit
                for row, column in np.argwhere(beyond):
                    wanted.append(((tail * 2 + high) * 24 + row) * 40 + column)
        found = seen.outliers[seen.starts[film] : seen.starts[film + 1]]
        assert sorted(found.tolist()) == sorted(wanted)
    assert seen.starts[-1] == len(seen.outliers) > 0


# ---------------------------------------------------------------- blocks, threads, order


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_and_threads_change_nothing(monkeypatch, block):
    images = films(45)
    bounds = limits(images[:30], np.random.default_rng(0))
    seen = observe(images, bounds)
    assert min(len(seen.blobs), len(seen.textures), len(seen.outliers)) > 0
    monkeypatch.setattr(observing, "BLOCK", block)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    done = []
    again = observe(images, bounds, progress=lambda words, films, of: done.append((films, of)))
    assert_equal(seen, again)
    assert done[-1] == (45, 45)
    assert [films for films, _ in done] == sorted({films for films, _ in done})
    other = limits(images[:30], np.random.default_rng(0))
    np.testing.assert_array_equal(bounds.low, other.low)
    np.testing.assert_array_equal(bounds.high, other.high)


def test_sixteen_bits_and_overlays_are_seen_as_eight_bits_are():
    images, wide = films(40), films(40, dtype=np.uint16)
    bounds = limits(images[:30], np.random.default_rng(0))
    seen = observe(images, bounds)
    np.testing.assert_array_equal(limits(wide[:30], np.random.default_rng(0)).low, bounds.low)
    assert_equal(seen, observe(wide, bounds))
    assert_equal(seen, observe(Overlay(images[::-1].copy(), order=np.arange(40)[::-1]), bounds))


def test_replaced_equals_observing_again():
    images, others = films(50), films(50, seed=1)
    bounds = limits(images[:30], np.random.default_rng(0))
    seen = observe(images, bounds)
    for rows in ([0, 7, 8, 49], [12], range(50)):
        rows = np.array(rows)
        mixed = images.copy()
        mixed[rows] = others[rows]
        again = seen.replaced(rows, observe(others[rows], bounds))
        assert_equal(again, observe(mixed, bounds))
    none = np.array([], dtype=np.int64)
    assert_equal(seen.replaced(none, seen.take(none)), seen)
    assert_equal(seen, observe(images, bounds))  # left as it was


def test_take_equals_observing_again():
    images = films(50)
    bounds = limits(images[:30], np.random.default_rng(0))
    seen = observe(images, bounds)
    for rows in (np.arange(50), np.array([3]), np.random.default_rng(0).permutation(50)[:30]):
        assert_equal(seen.take(rows), observe(images[rows], bounds))
    nothing = seen.take(np.array([], dtype=np.int64))
    assert nothing.shape == (0, 24, 40)
    assert not len(nothing.blobs) + len(nothing.textures) + len(nothing.outliers)
    assert nothing.starts.tolist() == [0]


def test_events_of_a_kind_come_film_by_film():
    """As they do when they are seen at once, so that nothing hangs on where they came from."""
    images, others = films(50), films(50, seed=1)
    bounds = limits(images, np.random.default_rng(0))
    seen = observe(images, bounds)
    rows = np.array([1, 4, 9])
    replaced = seen.replaced(rows, observe(others[rows], bounds))
    for one in (seen, replaced, seen.take(np.arange(50)[::-1])):
        kind = one.blobs[(one.blobs["side"] == 1) & one.blobs["bright"]]
        for events in (kind, one.textures):
            assert len(np.unique(events["film"])) > 5
            assert np.all(np.diff(events["film"]) >= 0)
