from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from leadapron.errors import DataError, LeadapronError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import arrays, npz, open_source
from leadapron.sources.arrays import ArrayFilms, read_array
from leadapron.sources.npz import open_npz
from leadapron.types import said

SMALL = Preprocessing(size=8)
RNG = np.random.default_rng(0)
FILMS = RNG.integers(0, 256, (30, 10, 10), np.uint8)
LABELS = RNG.integers(0, 2, (30, 2))


def save(path: Path, *, compressed: bool = True, **columns: object) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **columns)
    return path


def open_arrays(tmp_path: Path, cache: Cache | None = None, **columns: object) -> Cohort:
    facts = {"images": FILMS, "labels": LABELS, "findings": np.array(["A", "B"]), **columns}
    path = save(tmp_path / "a.npz", **{n: c for n, c in facts.items() if c is not None})
    return open_npz(str(path), None, cache)


def refusal(call, *arguments, kind: type[LeadapronError] = DataError, **settings) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **settings)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_stream_gives_what_numpy_loads(tmp_path, compressed, dtype):
    images = RNG.integers(0, np.iinfo(dtype).max + 1, (50, 10, 10), dtype)
    path = save(tmp_path / "a.npz", compressed=compressed, images=images, labels=np.ones(50))
    own = Preprocessing(size=10, dtype=np.dtype(dtype).name)
    for cache in (None, Cache(folder=tmp_path / "cache")):
        cohort = open_npz(str(path), own, cache, findings="A")
        np.testing.assert_array_equal(cohort.images, images)
        for row in (0, 49, 7, 8, 7, 30):
            film = cohort.films[row]
            np.testing.assert_array_equal(film, images[row])
            film[:] = 0
        np.testing.assert_array_equal(cohort.films[7], images[7])


def test_all_columns(tmp_path):
    cohort = open_arrays(
        tmp_path,
        images=FILMS[..., None],
        ids=np.array([f"f{i}" for i in range(30)]),
        patients=np.arange(30) // 2,
        split=np.array(["train"] * 20 + ["val"] * 4 + ["test"] * 6),
        view=np.array([b"PA"] * 30),
        age=np.arange(30.0),
        other=np.arange(3),
    )
    np.testing.assert_array_equal(cohort.images, FILMS)
    np.testing.assert_array_equal(cohort.labels, LABELS)
    assert cohort.findings == ("A", "B")
    assert cohort.ids[:2].tolist() == ["f0", "f1"]
    assert cohort.patients[:3].tolist() == ["0", "0", "1"]
    assert cohort.attributes["split"][[0, 20, 29]].tolist() == ["train", "validation", "test"]
    assert cohort.attributes["view"][0] == "PA"
    assert cohort.attributes["age"][29] == 29
    assert said(cohort.notes) == ()


def test_few_columns(tmp_path):
    labels = np.where(RNG.random(30) < 0.3, np.nan, 1)
    path = save(tmp_path / "a.npz", images=FILMS, labels=labels)
    cohort = open_source(f"npz:{path}", findings="Mass", cache=tmp_path / "cache")
    np.testing.assert_array_equal(cohort.labels[:, 0], labels)
    assert cohort.ids[3] == "film-3"
    assert said(cohort.notes)[0].startswith("Patients aren't known")
    assert "labels of 1 findings and 2 names" in refusal(
        open_npz, str(path), None, kind=UsageError, findings="A,B"
    )


def test_without_labels(tmp_path):
    path = save(tmp_path / "a.npz", images=FILMS, findings=np.array(["A"]))
    cohort = open_npz(str(path), None, Cache(folder=tmp_path / "cache"))
    assert (cohort.findings, cohort.labels.shape) == ((), (30, 0))
    assert "No labels: a.npz has no array 'labels'." in said(cohort.notes)


def test_films_that_are_not_square(tmp_path):
    images = RNG.integers(0, 256, (5, 10, 14), np.uint8)
    path = save(tmp_path / "a.npz", images=images, labels=np.ones(5))
    cohort = open_npz(str(path), None, Cache(folder=tmp_path / "cache"), findings="A")
    assert cohort.images.shape == (5, 14, 14)
    np.testing.assert_array_equal(cohort.films[3], images[3])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"images": None}, "a.npz has no array 'images'"),
        ({"images": FILMS[0]}, "images of shape (10, 10) and type uint8; expected (n, height"),
        ({"images": FILMS.astype(np.int32)}, "type int32; expected"),
        ({"images": FILMS.astype(">u2")}, "type >u2; expected"),
        ({"images": np.zeros((30, 10, 10, 3), np.uint8)}, "of shape (30, 10, 10, 3)"),
        ({"images": np.zeros((30, 0, 10), np.uint8)}, "of shape (30, 0, 10)"),
        ({"images": FILMS[:0], "labels": LABELS[:0]}, "images states 0 films"),
        ({"labels": LABELS[:7]}, "labels of shape (7, 2) and type int64 for 30 images"),
        ({"labels": LABELS + 1}, "labels must be 0, 1 or NaN"),
        ({"labels": np.where(LABELS, np.inf, 0)}, "labels must be 0, 1 or NaN"),
        ({"labels": LABELS.astype(str)}, "labels of shape (30, 2) and type <U"),
        ({"ids": np.array(["a"] * 30)}, "a.npz names 1 film more than once, first 'a'"),
        ({"ids": np.arange(5)}, "ids of shape (5,); expected 30"),
        ({"patients": np.array([b"\xff"] * 30)}, "patients of type |S1; expected text"),
        ({"patients": np.arange(30) * 1.5}, "patients of type float64; expected text"),
        ({"ids": np.zeros(30, "U70000")}, "ids of type <U70000; expected text"),
        ({"split": np.array(["odd"] * 30)}, "has a split 'odd'"),
        ({"age": np.array(["old"] * 30)}, "age of shape (30,)"),
        ({"findings": np.array(["A", "A"])}, "1 finding repeated, first 'A'"),
        ({"images": np.array([FILMS, None], dtype=object)}, "Python objects, which may run code"),
        ({"ids": np.array(["a", 1] * 15, dtype=object)}, "Python objects, which may run code"),
        ({"images": np.zeros((3, 5, 5), [("a", "u1")])}, "expected (n, height, width)"),
        ({"images": np.asfortranarray(FILMS)}, "in Fortran order; save it in C order"),
    ],
)
def test_arrays_that_make_no_sense(tmp_path, columns, words):
    assert words in refusal(open_arrays, tmp_path, **columns)


def test_a_split_that_shares_patients(tmp_path):
    columns = {"patients": np.zeros(30, int), "split": np.array(["train", "test"] * 15)}
    assert "1 patient on more than one side" in refusal(open_arrays, tmp_path, **columns)


def test_no_file(tmp_path):
    assert "npz:FILE.npz" in refusal(open_npz, "", None, kind=UsageError)
    assert "no file" in refusal(open_npz, str(tmp_path / "none.npz"), None)
    for content in (b"", b"PK\3\4 and more", b"\x93NUMPY"):
        (tmp_path / "a.npz").write_bytes(content)
        assert "a.npz is not a readable .npz file" in refusal(
            open_npz, str(tmp_path / "a.npz"), None
        )


def raw_npz(path: Path, header: bytes, content: bytes = b"", version: bytes = b"\1\0") -> Path:
    """A file whose `images` has a header of one's own."""
    save(path, labels=np.ones(30))
    with zipfile.ZipFile(path, "a") as archive:
        head = b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header
        archive.writestr("images.npy", head + content)
    return path


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("(30, 8, 8)", "the file ends before its last film"),
        ("(100_000_000, 8, 8)", "states 100,000,000 films"),
        ("(1, 100_000, 100_000)", "films of 100000x100000 pixels"),
        ("(-30, 8, 8)", "an invalid shape"),
        ("(30, -8, -8)", "an invalid shape"),
        ("(True, 8, 8)", "an invalid shape"),
        ("(1e3, 8, 8)", "not a readable .npz"),
        ("('a', 8)", "not a readable .npz"),
        ("(" * 3000, "not a readable .npz"),
        ("(" + "9" * 6000 + ", 8, 8)", "not a readable .npz|states"),
    ],
)
def test_shapes_that_the_file_cannot_hold(tmp_path, header, words):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {header}, }}\n"
    path = raw_npz(tmp_path / "a.npz", text.encode(), bytes(100))
    message = refusal(open_npz, str(path), None, findings="A")
    assert any(word in message for word in words.split("|"))


@pytest.mark.parametrize("name", ["labels", "ids"])
def test_columns_that_claim_gigabytes(tmp_path, name):
    path = tmp_path / "a.npz"
    save(path, images=FILMS)
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3_000_000_000,), }\n"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text)
        if name == "ids":
            archive.write(save(path.with_name("l.npz"), labels=LABELS), "nested.npz")
    with pytest.raises(DataError, match="is larger than 1 GB"):
        read_array(path, name)


def test_versions_of_arrays(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 8, 8), }\n"
    path = raw_npz(tmp_path / "a.npz", header, bytes(64), b"\7\0")
    assert "not a readable .npz" in refusal(open_npz, str(path), None, findings="A")


def test_cut_off_or_damaged_anywhere(tmp_path):
    path = save(tmp_path / "a.npz", images=FILMS, labels=LABELS, findings=np.array(["A", "B"]))
    whole = path.read_bytes()
    for end in range(0, len(whole), 331):
        path.write_bytes(whole[:end])
        refusal(open_npz, str(path), None)
    decoded = 0
    for place in range(0, len(whole), 67):
        content = bytearray(whole)
        content[place] ^= 0x55
        path.write_bytes(content)
        try:
            open_npz(str(path), SMALL)
        except LeadapronError as error:
            words = str(error)
        else:
            words, decoded = "", decoded + 1
        assert not words or words.isprintable()
    assert decoded < len(whole) // 67 // 2


def test_a_truncated_array_is_not_read_again_for_each_film(tmp_path, monkeypatch):
    images = RNG.integers(0, 256, (300, 10, 10), np.uint8)
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (300, 10, 10), }\n"
    path = raw_npz(tmp_path / "a.npz", header, images[:100].tobytes())
    films = ArrayFilms(path, ["images"], None)
    opened = []
    real = ArrayFilms._open
    monkeypatch.setattr(
        ArrayFilms, "_open", lambda self, name: opened.append(name) or real(self, name)
    )
    for row in range(300):
        if row < 100:
            films.image(row, SMALL)
        else:
            message = refusal(films.image, row, SMALL)
            assert message == f"a.npz, film {row}: the file ends before its last film"
    assert len(opened) <= 2


def test_films_that_are_passed_by_are_kept_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "KEPT", 1000)
    films = ArrayFilms(save(tmp_path / "a.npz", images=FILMS, labels=LABELS), ["images"], None)
    for row in RNG.permutation(30).tolist():
        np.testing.assert_array_equal(films[row], FILMS[row])
        assert len(films._passed) <= 10


def test_some_rows_left_out_after_a_truncation(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (30, 10, 10), }\n"
    path = raw_npz(tmp_path / "a.npz", header, FILMS[:20].tobytes())
    for folder in (None, tmp_path / "cache"):
        cohort = open_npz(str(path), None, Cache(folder=folder, on_bad="skip"), findings="A")
        assert len(cohort) == 20
        assert cohort.ids.tolist() == [f"film-{i}" for i in range(20)]
        np.testing.assert_array_equal(cohort.images[np.arange(20)], FILMS[:20])
        assert said(cohort.notes)[-1].startswith(
            "Left out: 10 films that can't be decoded: a.npz, film 20"
        )
        with pytest.raises(DataError, match="film 20"):
            open_npz(str(path), None, Cache(folder=folder), findings="A")


# ---------------------------------------------------------------- files that mean harm


def test_a_pipe_is_no_npz(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    for name in ("npz", "chestmnist"):
        message = refusal(open_source, f"{name}:{tmp_path / 'a.npz'}", cache="none")
        assert "a.npz is not a readable .npz file: it is a pipe; expected a file" in message


def test_no_name_in_an_npz_forges_a_line(tmp_path):
    forged, shown = "A\nCLEAN: nothing\x1b[2J\u200b", r"A\nCLEAN: nothing\x1b[2J\u200b"
    names = [f"{i}{forged}" for i in range(30)]
    cohort = open_arrays(
        tmp_path,
        findings=np.array([forged, "B"]),
        ids=np.array(names),
        patients=np.array([name.encode() for name in names]),
        site=np.array(names),
    )
    assert cohort.findings == (shown, "B")
    for column in (cohort.ids, cohort.patients, cohort.attributes["site"]):
        assert column.tolist() == [f"{i}{shown}" for i in range(30)]
    assert "two different names are both shown as" in refusal(
        open_arrays, tmp_path, findings=np.array(["A\x07", r"A\x07"])
    )
    assert "has a finding without a name" in refusal(
        open_arrays, tmp_path, findings=np.array(["A", " "])
    )


def coded(*points: int) -> np.ndarray:
    """Text of one character each, by its number, which may be none of Unicode's."""
    return np.array(points, np.uint32).view("U1")


@pytest.mark.parametrize("name", ["ids", "patients", "findings", "view", "split"])
@pytest.mark.parametrize("point", [0xD800, 0xDFFF, 0x110000, 0xFFFFFFFF])
def test_text_that_no_character_stands_for(tmp_path, name, point):
    n = 2 if name == "findings" else 30
    column = coded(*range(0x4E00, 0x4E00 + n - 1), point)
    if point > 0x10FFFF:
        words = "text with invalid characters"
        assert words in refusal(open_arrays, tmp_path, **{name: column})
        assert words in refusal(open_arrays, tmp_path, **{name: column.astype(">U1")})
    elif name == "split":
        assert "has a split" in refusal(open_arrays, tmp_path, split=column)
    else:  # surrogates are written out
        cohort = open_arrays(tmp_path, **{name: column})
        shown = [*cohort.ids, *cohort.patients, *cohort.findings]
        assert all(text.isprintable() for text in [*shown, *cohort.attributes.get("view", [])])


def test_shapes_are_compared_before_anything_is_read(tmp_path, monkeypatch):
    read = []
    real = npz.read_array
    monkeypatch.setattr(npz, "read_array", lambda file, name: read.append(name) or real(file, name))
    for columns in (
        {"labels": np.zeros((31, 2))},
        {"labels": np.zeros((30, 2, 2))},
        {"labels": np.zeros((30, 2), "U3")},
    ):
        refusal(open_arrays, tmp_path, **columns)
    assert read == []
    monkeypatch.setattr(npz, "MOST_LABELS", 59)
    assert "labels of shape (30, 2); expected at most 59" in refusal(open_arrays, tmp_path)
    assert read == []
    monkeypatch.undo()
    assert "2 findings and 900 names" in refusal(
        open_arrays, tmp_path, findings=np.full((30, 30), "A"), kind=UsageError
    )


@pytest.mark.parametrize("dtype", ["U0", "S0", "V0"])
def test_arrays_without_width_have_no_endless_rows(tmp_path, dtype):
    header = f"{{'descr': '|{dtype}', 'fortran_order': False, 'shape': (10**9, 9), }}\n"
    header = header.replace("10**9", "1000000000")
    path = save(tmp_path / "a.npz", images=FILMS, labels=LABELS)
    with zipfile.ZipFile(path, "a") as archive:
        head = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()
        archive.writestr("ids.npy", head)
    with pytest.raises(DataError, match="is larger than 1 GB"):
        read_array(path, "ids")


def test_headers_of_gigabytes_are_not_read(tmp_path):
    path = save(tmp_path / "a.npz", labels=np.ones(30))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        head = b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
        archive.writestr("images.npy", head)
    assert "an array of version (2, 0); expected (1, 0)" in refusal(
        open_npz, str(path), None, findings="A"
    )


def test_lists_of_files_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "LARGEST_LIST", 4000)
    path = save(tmp_path / "a.npz", images=FILMS, labels=LABELS)
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(100):
            archive.writestr(f"{i}.npy", b"")
    assert "lists far more files than an archive" in refusal(open_npz, str(path), None)
    path.write_bytes(path.read_bytes() + b"more")
    assert "its end isn't that of an archive of arrays" in refusal(open_npz, str(path), None)


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = save(tmp_path / "a.npz", images=FILMS, labels=LABELS)
    films = ArrayFilms(path, ["images"], None)
    save(path, images=FILMS.astype(np.uint16), labels=LABELS)
    assert "it changed while it was read" in refusal(films.image, 0, SMALL)
