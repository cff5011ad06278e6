"""Pictures and arrays of 16 bits that use fewer: spread over all levels, or doubted."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from leadapron.errors import DataError, UsageError
from leadapron.films.preprocessing import Preprocessing, spread
from leadapron.interop import from_monai
from leadapron.sources import open_source
from leadapron.types import said

N, SIDE = 6, 16
PLAIN = Preprocessing(size=SIDE)
DEEP = Preprocessing(size=SIDE, dtype="uint16")


def films(*bits: int) -> np.ndarray:
    """(n, side, side) of uint16, the brightest pixel of each at the end of its bits."""
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 1 << each, (SIDE, SIDE)) for each in bits]
    for each, film in zip(bits, made, strict=True):
        film[0, 0] = (1 << each) - 1
    return np.stack(made).astype(np.uint16)


def as_folder(place, pixels):
    for number, film in enumerate(pixels):
        folder = place / "films" / ("NORMAL", "MASS")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(film).save(folder / f"{number}.png")
    return f"folder:{place / 'films'}"


def as_table(place, pixels):
    as_folder(place, pixels)
    rows = [f"films/{('NORMAL', 'MASS')[i % 2]}/{i}.png,{i % 2},p{i}" for i in range(len(pixels))]
    (place / "films.csv").write_text("\n".join(["path,Mass,patient", *rows]))
    return f"table:{place / 'films.csv'}"


def as_npz(place, pixels):
    labels = np.arange(len(pixels)) % 2
    np.savez(place / "films.npz", images=pixels, labels=labels, findings=["Mass"])
    return f"npz:{place / 'films.npz'}"


def opened(how, place, pixels, preprocessing=DEEP, **options):
    """The films, in the order in which they were given."""
    place.mkdir(exist_ok=True)
    if how == "monai":
        items = [{"image": film, "label": ["Mass"][: i % 2]} for i, film in enumerate(pixels)]
        return from_monai(items, ["Mass"], preprocessing=preprocessing, **options)
    source = {"folder": as_folder, "table": as_table, "npz": as_npz}[how](place, pixels)
    cohort = open_source(source, preprocessing=preprocessing, cache=place / "cache", **options)
    if how == "folder":
        cohort = cohort.take(np.argsort([int(name.split("/")[1][:-4]) for name in cohort.ids]))
    return cohort


HOW = ["folder", "table", "npz", "monai"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("bits", [8, 12])
def test_bits_that_no_film_uses_are_not_counted(tmp_path, how, bits):
    pixels = films(*[bits] * (N - 1), bits - 1)
    unit = pixels / ((1 << bits) - 1)
    for preprocessing, most in ((DEEP, 65535), (PLAIN, 255)):
        cohort = opened(how, tmp_path, pixels, preprocessing)
        found = cohort.images[np.arange(N)].astype(float)
        np.testing.assert_allclose(found, unit * most, atol=0.51)
        assert np.abs(cohort.films[1] - unit[1] * 65535).max() < 0.51
        assert cohort.bits == bits
        assert any(f"--source.bits {bits} does" in note for note in said(cohort.notes))
        assert not any(note.doubt for note in cohort.notes)


@pytest.mark.parametrize("how", HOW)
def test_films_that_use_all_bits_stay_as_they_are(tmp_path, how):
    pixels = films(*[16] * N)
    cohort = opened(how, tmp_path, pixels)
    np.testing.assert_array_equal(cohort.images[np.arange(N)], pixels)
    assert cohort.bits == 16
    assert not any(note.doubt for note in cohort.notes)


@pytest.mark.parametrize("how", HOW)
def test_a_mixture_is_doubted(tmp_path, how):
    for bits, taken in ((16, 16), (12, 12)):
        pixels = films(*[bits] * (N - 2), 10, 9)
        cohort = opened(how, tmp_path / str(bits), pixels)
        levels = pixels * (65535 / ((1 << taken) - 1))
        np.testing.assert_allclose(cohort.images[np.arange(N)], levels, atol=0.51)
        doubts = [note for note in cohort.notes if note.doubt]
        assert len(doubts) == 1
        assert "2 films of 6 with 16 bits use at most 10" in doubts[0].words
        assert doubts[0].about == "pixels"


def test_a_few_dark_films_are_no_mixture(tmp_path):
    cohort = opened("npz", tmp_path, films(*[12] * 30, 9))
    assert cohort.bits == 12
    assert not any(note.doubt for note in cohort.notes)


@pytest.mark.parametrize(("bits", "words"), [(15, "use --source.bits 15"), (5, "Nearly black")])
def test_what_may_be_so_stays_and_is_doubted(tmp_path, bits, words):
    pixels = films(*[bits] * N)
    cohort = opened("npz", tmp_path, pixels)
    np.testing.assert_array_equal(cohort.images[np.arange(N)], pixels)
    assert words in said(cohort.notes)[0]
    assert cohort.bits == 16


@pytest.mark.parametrize("how", HOW)
def test_bits_that_are_stated(tmp_path, how):
    pixels = films(*[11] * N)
    found = {
        bits: opened(how, tmp_path, pixels, bits=bits).images[np.arange(N)] for bits in (16, 12, 11)
    }
    np.testing.assert_array_equal(found[16], pixels)  # nor does the cache mix them up
    np.testing.assert_allclose(found[12], pixels * (65535 / 4095), atol=0.51)
    np.testing.assert_allclose(found[11], pixels * (65535 / 2047), atol=0.51)
    for bits in (7, 17, -1):
        with pytest.raises(UsageError, match=f"`source.bits` {bits}: expected 8 to 16"):
            opened(how, tmp_path, pixels, bits=bits)
    with pytest.raises(DataError, match=r"holds values up to 2,047, too large for 10 bits"):
        opened(how, tmp_path, pixels, bits=10)


def test_eight_bits_are_no_matter(tmp_path):
    pixels = (films(*[8] * N) // 2).astype(np.uint8)
    for bits in (0, 12):
        cohort = opened("folder", tmp_path, pixels, PLAIN, bits=bits)
        np.testing.assert_array_equal(cohort.images[np.arange(N)], pixels)
        assert cohort.bits == 0


def test_two_sources_of_other_bits(tmp_path):
    for bits in (12, 10):
        (tmp_path / str(bits)).mkdir()
    twelve = as_npz(tmp_path / "12", films(*[12] * N))
    ten = as_npz(tmp_path / "10", films(*[10] * N))
    alike = open_source(f"{twelve} + {twelve}", preprocessing=DEEP, cache="none")
    assert alike.bits == 12
    assert not any(note.doubt for note in alike.notes)
    joined = open_source(f"{twelve} + {ten}", preprocessing=DEEP, cache="none")
    assert joined.images[np.array([N])].max() == 65535  # each is right by itself
    assert joined.bits == 16
    assert "16-bit films use 10 or 12" in said(joined.notes)[0]


def test_spreading_reaches_both_ends_and_keeps_the_order():
    for bits in range(8, 17):
        values = np.arange(1 << bits, dtype=np.uint16)[None]
        levels = spread(values, bits)
        assert (levels[0, 0], levels[0, -1], levels.dtype) == (0, 65535, np.uint16)
        assert (np.diff(levels[0].astype(int)) > 0).all()
