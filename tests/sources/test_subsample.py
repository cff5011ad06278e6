"""Sources of which a few films are drawn: no other is decoded, and they are the same ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from dicom_files import ramp, with_pixels, write
from leadapron.films.cohort import subsample
from leadapron.films.decoding import FilmFiles
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import open_source
from leadapron.sources.arrays import ArrayFilms
from leadapron.sources.phantom import source as phantom
from nih_tree import Row, write_tree

SMALL = Preprocessing(size=8)
N, MOST = 12, 5


def folder(root):
    rng = np.random.default_rng(1)
    for i in range(N):
        path = root / ("NORMAL" if i % 3 else "TB") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 9), np.uint8)).save(path)
    return f"folder:{root}"


def table(root):
    folder(root)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    lines = [f"{name},{int('TB' in name)},p{i // 2}" for i, name in enumerate(names)]
    (root / "films.csv").write_text("\n".join(["path,TB,patient", *lines]))
    return f"table:{root / 'films.csv'}"


def npz(root):
    rng = np.random.default_rng(2)
    images, labels = rng.integers(0, 255, (N, 9, 9), np.uint8), rng.integers(0, 2, (N, 2))
    np.savez(root / "films.npz", images=images, labels=labels, findings=np.array(["Edema", "TB"]))
    return f"npz:{root / 'films.npz'}"


def nih(root):
    rows = [
        Row(f"{i:08}_000.png", "Mass" if i % 2 else "No Finding", patient=str(i)) for i in range(N)
    ]
    write_tree(root, rows, lists={})
    return f"nih:{root}"


def dicom(root):
    for i in range(N):
        write(root / f"{i:02}.dcm", with_pixels(ramp(8)[:, ::-1] if i % 2 else ramp(8)))
    return f"dicom:{root}"


SOURCES = {each.__name__: each for each in (folder, table, npz, nih, dicom)}
OPTIONS = {"nih": {"split": "none"}}


@pytest.fixture
def decoded(monkeypatch):
    """How many films were decoded, or made."""
    counts = Counter()

    def counted(kind, method):
        make = getattr(kind, method)

        def image(self, *given):
            counts["films"] += 1
            return make(self, *given)

        monkeypatch.setattr(kind, method, image)

    counted(FilmFiles, "image")
    counted(ArrayFilms, "image")
    render = phantom.render

    def rendered(rows, **how):
        counts["films"] += len(rows)
        return render(rows, **how)

    monkeypatch.setattr(phantom, "render", rendered)
    return counts


@pytest.mark.parametrize("name", SOURCES)
def test_the_drawn_films_alone_are_decoded(name, decoded, tmp_path):
    (tmp_path / "films").mkdir()
    source = SOURCES[name](tmp_path / "films")
    how = {"preprocessing": SMALL, "cache": tmp_path / "cache", **OPTIONS.get(name, {})}
    few = open_source(source, most=MOST, **how)
    assert decoded["films"] == len(few) == MOST
    everything = open_source(source, **how)
    assert decoded["films"] == MOST + N
    # The same films as if all had been decoded before, one by one too.
    expected = everything.take(subsample(N, MOST))
    assert few.fingerprint == expected.fingerprint
    assert [few.path(row) for row in range(MOST)] == [expected.path(row) for row in range(MOST)]
    np.testing.assert_array_equal(few.films[3], expected.films[3])
    # They are kept by themselves: others aren't taken for them.
    before = decoded["films"]
    again, other = (open_source(source, most=most, **how) for most in (MOST, MOST + 1))
    assert decoded["films"] == before + MOST + 1
    assert again.fingerprint == few.fingerprint
    assert other.fingerprint == everything.take(subsample(N, MOST + 1)).fingerprint
    assert len(open_source(source, most=N + 1, **how)) == N


@pytest.mark.parametrize("preprocessing", [None, SMALL])
def test_phantoms_that_are_not_drawn_are_not_made(decoded, preprocessing):
    how = {"count": 30, "seed": 4, "preprocessing": preprocessing}
    few = open_source("phantom:32", most=MOST, **how)
    assert decoded["films"] == MOST
    expected = open_source("phantom:32", **how).take(subsample(30, MOST))
    assert few.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(few.films[3], expected.films[3])
    np.testing.assert_array_equal(few.masks[np.array([2])], expected.masks[np.array([2])])


def test_of_several_sources_films_are_drawn_from_all(decoded, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    source = f"{npz(tmp_path / 'a')} + {folder(tmp_path / 'b')} + phantom:32"
    how = {"preprocessing": SMALL, "cache": "none", "count": 6}
    few = open_source(source, most=9, **how)
    assert decoded["films"] == len(few) == 9
    expected = open_source(source, **how).take(subsample(2 * N + 6, 9))
    assert few.fingerprint == expected.fingerprint
    assert len(np.unique(few.attributes["site"])) == 3
