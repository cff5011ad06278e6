"""Copies of films: found when altered, and never seen where there are none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from leadapron.films import duplicates
from leadapron.films.duplicates import components, digests, identical, near_pairs, thumbnails
from leadapron.sources import open_source

COUNT, SIDE, COPIES = 300, 128, 60


@pytest.fixture(scope="module")
def cohort():
    return open_source(f"phantom:{SIDE}", count=COUNT)


@pytest.fixture(scope="module")
def thumbs(cohort):
    return thumbnails(cohort.images[np.arange(COUNT)])


def recompressed(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def brightened(image):
    return np.clip(image.astype(int) + 12, 0, 255).astype(np.uint8)


def stamped(image):
    image = image.copy()
    image[-8:, -8:] = 255
    return image


def halved(image):
    small = Image.fromarray(image).resize((SIDE // 2,) * 2, Image.Resampling.BILINEAR)
    return np.asarray(small.resize((SIDE,) * 2, Image.Resampling.BILINEAR))


@pytest.mark.parametrize("change", [recompressed, brightened, stamped, halved])
def test_altered_copies_are_found_and_no_films_of_other_patients(cohort, thumbs, change):
    rows = np.random.default_rng(1).choice(COUNT, COPIES, replace=False)
    copies = thumbnails(np.stack([change(image) for image in cohort.images[rows]]))
    pairs = near_pairs(np.concatenate([thumbs, copies]))
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    wanted = {(int(row), COUNT + i) for i, row in enumerate(rows)}
    assert len(found & wanted) >= 0.98 * COPIES  # measured: all, but halved 59
    patients = np.concatenate([cohort.patients, cohort.patients[rows]])
    assert (patients[pairs.first] == patients[pairs.second]).all()
    assert (pairs.correlation >= duplicates.CORRELATION).all()


def test_copies_moved_by_a_pixel_of_224_are_found():
    films = open_source("phantom:224", count=COPIES)
    images = films.images[np.arange(COPIES)]
    moved = np.pad(images, ((0, 0), (1, 0), (1, 0)), mode="edge")[:, :224, :224]
    pairs = near_pairs(thumbnails(np.concatenate([images, moved])))
    assert pairs.first.tolist() == list(range(COPIES))
    assert pairs.second.tolist() == list(range(COPIES, 2 * COPIES))


def test_films_of_different_patients_are_no_pairs(cohort, thumbs):
    assert len(near_pairs(thumbs)) == 0
    # Not for want of looking: all pairs together stay below the threshold.
    unit = duplicates._units(thumbs)
    alike = unit @ unit.T
    others = cohort.patients[:, None] != cohort.patients
    assert alike[others].max() < duplicates.CORRELATION - 0.03


def test_the_search_finds_what_comparing_all_pairs_finds(thumbs):
    rng = np.random.default_rng(2)
    noisy = thumbs[:150] + rng.normal(0, rng.uniform(0, 6, (150, 1, 1)), (150, 32, 32))
    both = np.concatenate([thumbs, noisy.astype(np.float32)])
    unit = duplicates._units(both)
    first, second = np.nonzero(np.triu(unit @ unit.T >= duplicates.CORRELATION, k=1))
    pairs = near_pairs(both)
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    expected = set(zip(first.tolist(), second.tolist(), strict=True))
    assert found <= expected
    assert len(found) >= 0.95 * len(expected)  # the hash misses some that are barely alike
    assert 50 < len(expected) < 150


def test_candidates_agree_in_a_band_and_in_most_bits():
    rng = np.random.default_rng(3)
    bits = rng.random((200, 448)) < 0.5
    bits[1] = bits[0]
    bits[1, rng.choice(448, 21, replace=False)] ^= True  # the pigeonhole's promise
    bits[2] = ~bits[0]
    first, second = duplicates._candidates(bits)
    assert (0, 1) in set(zip(first.tolist(), second.tolist(), strict=True))
    assert ((bits[first] != bits[second]).sum(axis=1) <= duplicates.DISTANCE).all()
    assert 2 not in first
    assert 2 not in second


def test_crowds_are_compared_with_their_neighbours_alone(monkeypatch):
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 3)
    key = np.zeros(50, np.int64)
    met = [
        pair
        for first, second in duplicates._meeting(key, np.arange(50, dtype=np.uint64))
        for pair in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert sorted(met) == sorted((i, i + step) for step in (1, 2, 3) for i in range(50 - step))


def test_equal_images_and_they_alone_are_identical():
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (6, 16, 16), dtype=np.uint8)
    images[3] = images[5] = images[0]
    images[4] = images[1]
    images[2] = images[1]
    images[2, 0, 0] ^= 1
    first, second = identical(digests(images))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 3), (1, 4), (0, 5)]
    groups = components(6, first, second)
    assert [group.tolist() for group in groups] == [[0, 3, 5], [1, 4]]


def test_chains_form_one_group():
    groups = components(7, np.array([1, 3, 5]), np.array([3, 6, 2]))
    assert [group.tolist() for group in groups] == [[1, 3, 6], [2, 5]]
    assert components(3, np.zeros(0, np.int64), np.zeros(0, np.int64)) == []


@pytest.mark.parametrize("side", [28, 32, 100])
def test_thumbnails_are_means_over_areas(side):
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (2, side, side), dtype=np.uint8)
    # Enlarged 32 times by copying, every thumbnail's pixel is a whole number of pixels.
    large = image.repeat(32, axis=1).repeat(32, axis=2).astype(float)
    expected = large.reshape(2, 32, side, 32, side).mean(axis=(2, 4))
    assert thumbnails(image) == pytest.approx(expected, abs=1e-3)
    deep = image.astype(np.uint16) * np.uint16(257)
    assert thumbnails(deep) == pytest.approx(expected, abs=1e-3)


def test_films_without_contrast_are_passed_over():
    flat = np.zeros((4, 32, 32), np.float32)
    assert len(near_pairs(flat)) == 0
    assert len(near_pairs(flat[:0])) == 0
    assert len(near_pairs(flat, np.array([0]))) == 0


@pytest.mark.real_data("nih1024", "nih128")
def test_real_films_shrunk_by_another_are_found(real_data):
    large = open_source(f"nih:{real_data / 'nih1024'}", cache="none")
    small = open_source(f"nih:{real_data / 'nih128'}")
    wanted = {(str(name),) * 2 for name in np.intersect1d(large.ids, small.ids)}
    ids = np.concatenate([small.ids, large.ids])
    thumbs = np.concatenate([thumbnails(c.images[np.arange(len(c))]) for c in (small, large)])
    pairs = near_pairs(thumbs)
    found = {(str(a), str(b)) for a, b in zip(ids[pairs.first], ids[pairs.second], strict=True)}
    assert len(wanted) == 60
    assert found == wanted
