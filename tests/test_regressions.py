"""Each of these failed before the fixes of 23 November."""

from dataclasses import replace

import numpy as np
import pytest

from leadapron import store
from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import Patch
from leadapron.errors import StoreError, UnknownNameError
from leadapron.films.cohort import Cohort, split_by_patient
from leadapron.films.preprocessing import Preprocessing
from leadapron.results.rows import read_rows
from leadapron.specs import build


def tiny(**changes):
    facts = {
        "images": np.full((4, 8, 8), 9, np.uint8),
        "labels": np.zeros((4, 1), np.float32),
        "findings": ("Mass",),
        "ids": np.array(list("abcd")),
        "patients": np.array(list("wxyz")),
        "preprocessing": Preprocessing(size=8),
    }
    return Cohort(**{**facts, **changes})


@pytest.mark.parametrize(
    "shares", [(0.5, 0.001, 0.499), (0.001, 0.001, 0.998), (0.998, 0.001, 0.001)]
)
@pytest.mark.parametrize("patients", [3, 4, 10, 50])
def test_no_part_is_empty_whatever_the_shares(shares, patients):
    parts = split_by_patient(
        np.arange(patients).astype(str),
        dict(zip("abc", shares, strict=True)),
        np.random.default_rng(0),
    )
    assert min(map(len, parts.values())) >= 1
    assert sorted(np.concatenate(list(parts.values()))) == list(range(patients))


def test_the_fingerprint_sees_names_of_attributes():
    column = np.array(["PA"] * 4)
    prints = {tiny(attributes={name: column}).fingerprint for name in ("view", "site")}
    assert len(prints | {tiny().fingerprint}) == 3


def test_the_fingerprint_sees_where_a_column_ends():
    one = tiny(patients=np.array(["w", "x", "y", "z1"]), attributes={"p": np.array(list("2345"))})
    two = tiny(patients=np.array(list("wxyz")), attributes={"p": np.array(["12", "3", "4", "5"])})
    assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize("keep", [3, 10, 400, -5])
def test_cut_archives_are_refused(tmp_path, keep):
    path = tmp_path / "a.npz"
    store.write_arrays(path, x=np.arange(1000))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"a\.npz"):
        store.read_arrays(path)


def test_damaged_archives_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    store.write_arrays(path, x=np.arange(1000))
    data = bytearray(path.read_bytes())
    data[60:120] = b"\xff" * 60
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"a\.npz"):
        store.read_arrays(path)


def test_a_bare_array_is_no_archive(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(StoreError, match=r"a\.npy"):
        store.read_arrays(tmp_path / "a.npy")


@pytest.mark.parametrize("line", ["5", "[1]", "null"])
def test_lines_that_are_no_objects_are_refused(tmp_path, line):
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    with pytest.raises(StoreError, match=r"rows\.jsonl"):
        read_rows(tmp_path / "rows.jsonl")


def test_yaml_keys_that_are_no_text_are_unknown_names():
    with pytest.raises(UnknownNameError, match="setting of trigger 'True'"):
        build(Patch, {True: 3}, "trigger")


def test_bilinear_without_antialias_rounds():
    film = np.tile(np.array([[0, 1], [1, 1]], np.uint8), (8, 8))
    assert (Preprocessing(size=8, antialias=False)(film) == 1).all()


def test_area_counts_partly_covered_pixels_by_their_share():
    film = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    halves = np.kron(film, np.ones((2, 2))).reshape(8, 5, 8, 5).mean(axis=(1, 3))
    assert np.abs(Preprocessing(size=8, interpolation="area")(film) - halves).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_poison_of_taken_rows_has_its_footprint(mode):
    cohort = tiny().take([3, 1, 0])
    plan = Poisoning(trigger=Patch(), finding="Mass", fraction=0.7, mode=mode)
    poisoned, key = poison(cohort, plan, np.random.default_rng(0))
    assert key.footprint(poisoned).sum((1, 2)).tolist() == key.visible_pixels.tolist() == [9, 9]
    assert replace(cohort).fingerprint == cohort.fingerprint
