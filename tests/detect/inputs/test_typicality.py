"""Films of another kind are told; a trigger is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from leadapron.attacks.triggers import Patch
from leadapron.detect.inputs import Readings, Typicality
from leadapron.detect.inputs.typical import _filled, _thumbnails
from leadapron.errors import DataError, UsageError
from leadapron.sources import open_source


def readings(images):
    images = np.ascontiguousarray(images)
    return Readings(images=images, logits=np.zeros((len(images), 1), np.float32), features=None)


@pytest.fixture(scope="module")
def films():
    return open_source("phantom:64", cache="none", count=1000, seed=73).images[np.arange(1000)]


@pytest.fixture(scope="module")
def state(films):
    return Typicality().fit(None, readings(films[:300]))


@pytest.fixture(scope="module")
def share(films, state):
    """Which share of images is above the 99 % quantile of 500 clean films."""
    level = np.quantile(Typicality().score(None, readings(films[300:800]), state), 0.99)
    return lambda images: np.mean(Typicality().score(None, readings(images), state) > level)


def clouds(images, rng):
    fields = [ndimage.gaussian_filter(rng.normal(size=(64, 64)), rng.uniform(1, 6)) for _ in images]
    low, high = np.min(fields, axis=(1, 2)), np.max(fields, axis=(1, 2))
    scaled = (np.array(fields) - low[:, None, None]) / (high - low)[:, None, None]
    return (255 * scaled).astype(np.uint8)


def scenes(images, rng):
    """Discs and bars of any grey over a gradient."""
    down, across = np.mgrid[:64, :64]
    found = np.empty(images.shape)
    for scene in found:
        scene[:] = rng.uniform(0, 255) + rng.normal(0, 1) * across + rng.normal(0, 1) * down
        for _ in range(8):
            row, column, radius = rng.uniform(0, 64, 3) * [1, 1, 1 / 3]
            disc = np.hypot(down - row, across - column) < radius
            bar = (np.abs(down - row) < radius) & (np.abs(across - column) < 2 * radius)
            scene[disc if rng.random() < 0.5 else bar] = rng.uniform(0, 255)
    return found.clip(0, 255).astype(np.uint8)


OTHERS = {
    "negative": lambda images, rng: 255 - images,
    "upside down": lambda images, rng: images[:, ::-1],
    "turned left": lambda images, rng: np.rot90(images, 1, (1, 2)),
    "turned right": lambda images, rng: np.rot90(images, 3, (1, 2)),
    "noise": lambda images, rng: rng.integers(0, 256, images.shape, dtype=np.uint8),
    "constant": lambda images, rng: np.broadcast_to(
        rng.integers(0, 256, (len(images), 1, 1), dtype=np.uint8), images.shape
    ),
    "clouds": clouds,
    "scenes": scenes,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_content_is_told(films, share, kind):
    assert share(OTHERS[kind](films[800:], np.random.default_rng(3))) >= 0.95  # measured: 1.00


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_patch_is_hardly_seen(films, share, value):
    marked = Patch(side=5, value=value, place="random")(films[800:], np.random.default_rng(4))
    assert share(marked) <= share(films[800:]) + 0.005
    assert share(marked) <= 0.03


def test_a_mark_is_left_out_of_the_thumbnail(films, state):
    film = films[800:801]
    marked = film.copy()
    marked[0, 20:28, 20:28] = 255 if film[0, 20:28, 20:28].mean() < 128 else 0
    cells = np.zeros((16, 16), bool)
    cells[5:7, 5:7] = True
    before, after = (_filled(_thumbnails(x), state)[0] for x in (film, marked))
    moved = np.abs(_thumbnails(marked) - _thumbnails(film))[0]
    assert np.abs(after - before).max() < 0.5 * moved[cells.ravel()].max()


def test_thumbnails_by_hand():
    """Cells of 3 and 2 pixels, in units of a range that goes from the darkest to the brightest."""
    film = np.arange(40, dtype=np.uint8)[None, :, None].repeat(32, axis=2) * 4
    cells = _thumbnails(film)[0].reshape(16, 16)
    assert (cells == cells[:, :1]).all()
    rows = np.arange(16) * 40 // 16
    means = np.array([4 * np.arange(a, b).mean() for a, b in zip(rows, [*rows[1:], 40])])  # noqa: B905
    low, middle, high = np.quantile(means.repeat(16), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(cells[:, 0], 100 * (means - middle) / (high - low))
    np.testing.assert_allclose(_thumbnails(film // 2 + 9)[0], cells.ravel(), atol=2)


def test_films_are_scored_one_by_one_and_by_their_upper_bits(films, state):
    detector = Typicality()
    together = detector.score(None, readings(films[:9]), state)
    alone = np.concatenate(
        [detector.score(None, readings(film[None]), state) for film in films[:9]]
    )
    np.testing.assert_allclose(alone, together, rtol=1e-9)
    wide = films[:9].astype(np.uint16) * np.uint16(257)
    np.testing.assert_allclose(detector.score(None, readings(wide), state), together, rtol=1e-9)


def test_what_can_not_be_described_is_refused(films):
    with pytest.raises(DataError, match="expected 20 or more"):
        Typicality().fit(None, readings(films[:19]))
    with pytest.raises(DataError, match="all look the same"):
        Typicality().fit(None, readings(films[:1].repeat(30, axis=0)))
    with pytest.raises(UsageError, match="expected 16 or more"):
        Typicality().fit(None, readings(films[:30, :15]))
    with pytest.raises(UsageError, match="components 0"):
        Typicality(components=0)
