"""Films of another kind are told; a trigger is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from leadapron.attacks.triggers import Patch
from leadapron.detect.inputs import Readings, Typicality
from leadapron.detect.inputs.typical import _described, _squared
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
    assert share(marked) <= share(films[800:]) + 0.015  # three of 200 films
    assert share(marked) <= 0.03


def test_a_mark_inside_ignored_cells_changes_nothing(films, state):
    """Grey level and fine detail of a mark stay in its cells; edges are blurred over the border."""
    film = films[800:801]
    marked = film.copy()
    marked[0, 18:22, 18:22] = 255 if film[0, 18:22, 18:22].mean() < 128 else 0
    before, after = (_described(x) for x in (film, marked))
    for name in ("grey", "edges", "detail"):
        moved = (before[name] != after[name]).any(axis=2)
        assert moved[0, 2 * 8 + 2]
        assert moved.sum() <= 9
    all_cells = Typicality(ignored=0)
    plain, whole = (
        [how.score(None, readings(x), state)[0] for x in (film, marked)]
        for how in (Typicality(), all_cells)
    )
    assert abs(plain[1] - plain[0]) < abs(whole[1] - whole[0]) / 2


def test_descriptions_by_hand():
    """A ramp of 4 grey levels a row: 8 cells of 5 rows, edges down alone, no second differences."""
    film = np.arange(40, dtype=np.uint8)[None, :, None].repeat(40, axis=2) * 4
    found = _described(film)
    cells = found["grey"].reshape(8, 8)
    np.testing.assert_allclose(cells[:, 0], 8 + 20 * np.arange(8))
    assert (cells == cells[:, :1]).all()
    # The median cell has 78; 80 % of the cells lie between 8 and 148.
    np.testing.assert_allclose(found["relative"], (found["grey"] - 78) / 140)
    # Down is a quarter of a turn: halfway between directions 1 and 2. Levels two rows apart differ
    # by 8; half counts for each.
    inner = found["edges"].reshape(8, 8, 6)[2:-2, 2:-2]
    np.testing.assert_allclose(inner[..., [1, 2]], np.log(0.5 + 4), rtol=1e-6)
    np.testing.assert_allclose(inner[..., [0, 3, 4, 5]], np.log(0.5))
    np.testing.assert_allclose(found["detail"].reshape(8, 8, 4)[1:-1], np.log(0.5))


def test_a_distance_leaves_out_the_cells_that_differ_most():
    """Cells 3, 1 and 2 apart; without the first, the distance to the film is sqrt(1 + 4)."""
    value, film = np.array([[[3.0], [1.0], [2.0]]]), np.zeros((1, 3, 1))
    assert _squared(value, film, 1).item() == pytest.approx(5)
    assert _squared(value, film, 0).item() == pytest.approx(14)


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
    with pytest.raises(UsageError, match="neighbours 0"):
        Typicality(neighbours=0)
    with pytest.raises(UsageError, match="ignored 64"):
        Typicality(ignored=64)
