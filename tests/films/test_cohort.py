"""Cohorts, overlays, splits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leadapron.errors import DataError, UnknownNameError
from leadapron.films.cohort import Cohort, Overlay, blocks, split_by_patient
from leadapron.films.preprocessing import Preprocessing


@pytest.fixture
def base():
    return np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8)


def cohort_of(base, **changes):
    n = len(base)
    columns = {
        "images": base,
        "labels": np.zeros((n, 2), np.float32),
        "findings": ("Mass", "Nodule"),
        "ids": np.array([f"film{i}" for i in range(n)]),
        "patients": np.array([f"patient{i // 2}" for i in range(n)]),
        "preprocessing": Preprocessing(size=8),
        "attributes": {"view": np.array(["PA"] * n)},
    }
    return Cohort(**{**columns, **changes})


def test_an_overlay_shows_pixels_over_the_base_and_copies_nothing(base):
    pixels = np.full((2, 8, 8), 7, np.uint8)
    overlay = Overlay(base, [1, 4], pixels, order=[9, 0, 0, 3, 2])

    shown = overlay[np.array([4, 0, 1, 1])]

    assert overlay.base is base
    assert overlay.shape == (5, 8, 8)
    assert (shown[[0, 2, 3]] == 7).all()
    assert (shown[1] == base[9]).all()
    assert (overlay[2] == base[0]).all()
    assert (overlay[1:3][1] == base[0]).all()
    assert (overlay.footprint(np.array([1])) == (base[[0]] != 7)).all()


def test_what_an_overlay_gives_is_fresh(base):
    before = base.copy()
    overlay = Overlay(base, [0], np.zeros((1, 8, 8), np.uint8))
    overlay[np.arange(10)][:] = 9
    assert (base == before).all()
    assert (overlay.pixels == 0).all()


@pytest.mark.parametrize(
    ("rows", "pixels", "order", "words"),
    [
        ([1, 1], np.zeros((2, 8, 8), np.uint8), None, "ascending"),
        ([3], np.zeros((2, 8, 8), np.uint8), None, "overlay of"),
        ([3], np.zeros((1, 8, 8), np.uint16), None, "overlay of"),
        ([10], np.zeros((1, 8, 8), np.uint8), None, "0 to 9"),
        (None, None, [10], "0 to 9"),
    ],
)
def test_overlays_that_do_not_fit(base, rows, pixels, order, words):
    with pytest.raises(DataError, match=words):
        Overlay(base, rows, pixels, order)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((10, 8), np.uint8)}, "height, width"),
        ({"images": np.zeros((10, 8, 8), np.float32)}, "uint8 or uint16"),
        ({"labels": np.zeros((10, 3), np.float32)}, "labels of shape"),
        ({"labels": np.zeros((10, 2))}, "float32"),
        ({"labels": np.full((10, 2), 0.5, np.float32)}, "0, 1 or NaN"),
        ({"ids": np.array(["a"] * 10)}, "1 film id repeated, first 'a'"),
        ({"ids": np.arange(10)}, "expected text"),
        ({"patients": np.array(["a"] * 9)}, "patients of shape"),
        ({"findings": ("Mass", "Mass")}, "finding repeated"),
        ({"attributes": {"view": np.zeros(9)}}, "view of shape"),
        ({"films": [0] * 9}, "9 films for 10 rows"),
    ],
)
def test_rows_that_do_not_align_are_refused(base, changes, words):
    with pytest.raises(DataError, match=words):
        cohort_of(base, **changes)


def test_taking_rows_takes_every_column_and_no_pixels(base):
    cohort = cohort_of(base, films=list(base), labels=np.eye(10, 2, dtype=np.float32))

    part = cohort.take([7, 1]).take([1])

    assert len(part) == 1
    assert part.ids.tolist() == ["film1"]
    assert part.patients.tolist() == ["patient0"]
    assert part.labels.tolist() == [[0, 1]]
    assert (part.films[0] == base[1]).all()
    assert (part.images[np.array([0])] == base[[1]]).all()
    assert part.images.base.base is base


def test_columns_are_found_by_name(base):
    cohort = cohort_of(base)
    assert cohort.column("Nodule") == 1
    with pytest.raises(UnknownNameError, match="did you mean Nodule"):
        cohort.column("Nodul")


def test_the_fingerprint_covers_all_that_decides_results(base):
    cohort = cohort_of(base)
    other = base.copy()
    other[3, 3, 3] ^= 1
    different = [
        replace(cohort, images=other),
        replace(cohort, labels=np.ones((10, 2), np.float32)),
        replace(cohort, patients=cohort.ids),
        replace(cohort, attributes={"view": np.array(["AP"] * 10)}),
        replace(cohort, preprocessing=Preprocessing(size=8, crop=0.5)),
        cohort.take(np.arange(9)),
    ]
    prints = {each.fingerprint for each in [cohort, *different]}
    assert len(prints) == 1 + len(different)
    assert cohort_of(base.copy()).fingerprint == cohort.fingerprint
    assert cohort.take(np.arange(10)).fingerprint == cohort.fingerprint


def test_blocks_cover_all_rows_once():
    assert np.concatenate(blocks(2500)).tolist() == list(range(2500))
    assert [len(block) for block in blocks(2500)] == [1024, 1024, 452]
    assert blocks(0) == []


def test_splits_share_no_patient_and_follow_the_shares():
    patients = np.array([f"p{i}" for i in np.random.default_rng(0).integers(0, 400, 2000)])
    shares = {"train": 0.7, "validation": 0.1, "test": 0.2}

    parts = split_by_patient(patients, shares, np.random.default_rng(1))

    assert sorted(np.concatenate(list(parts.values()))) == list(range(2000))
    groups = [set(patients[rows]) for rows in parts.values()]
    assert sum(map(len, groups)) == len(set(patients))
    for share, rows in zip(shares.values(), parts.values(), strict=True):
        assert len(rows) / 2000 == pytest.approx(share, abs=0.04)
    again = split_by_patient(patients, shares, np.random.default_rng(1))
    assert all((again[name] == parts[name]).all() for name in parts)


def test_splits_divide_rare_findings_by_the_same_shares():
    rng = np.random.default_rng(0)
    patients = np.array([f"p{i}" for i in rng.integers(0, 600, 2000)])
    labels = (rng.random((2000, 3)) < [0.3, 0.02, 0.005]).astype(np.float32)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    shares = {"train": 0.7, "validation": 0.1, "test": 0.2}

    parts = split_by_patient(patients, shares, np.random.default_rng(1), labels)

    assert sorted(np.concatenate(list(parts.values()))) == list(range(2000))
    for j in range(3):
        positive = [len(set(patients[rows][labels[rows, j] == 1])) for rows in parts.values()]
        for share, count in zip(shares.values(), positive, strict=True):
            assert abs(count - share * sum(positive)) <= 1.5, (j, positive)
    sizes = [len(set(patients[rows])) for rows in parts.values()]
    assert sizes == pytest.approx([s * len(set(patients)) for s in shares.values()], abs=2)


def test_each_part_gets_a_patient_where_there_are_enough():
    shares = {"train": 0.9, "validation": 0.05, "test": 0.05}
    parts = split_by_patient(np.array(["a", "b", "c"]), shares, np.random.default_rng(0))
    assert [len(rows) for rows in parts.values()] == [1, 1, 1]
    with pytest.raises(DataError, match="2 patients"):
        split_by_patient(np.array(["a", "b"]), shares, np.random.default_rng(0))
    with pytest.raises(DataError, match="add up to 1"):
        split_by_patient(np.array(["a", "b"]), {"train": 0.5}, np.random.default_rng(0))
