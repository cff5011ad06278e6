from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from dicom_files import SECRETS, header, with_pixels, write
from leadapron.errors import DataError, LeadapronError, StoreError, UnknownNameError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import open_source
from leadapron.sources.dicom import open_dicom
from leadapron.types import said

SMALL = Preprocessing(size=8)


def film(i: int) -> np.ndarray:
    return np.full((9, 9), 10 * i, np.uint8)


@pytest.fixture
def tree(tmp_path):
    """Three films of two patients, whose names and paths tell who they are."""
    root = tmp_path / "DOE^JOHN of Elm Street"
    for i, (name, patient) in enumerate(
        [
            ("PAT-4711-X/DOE^JOHN_19700413.dcm", SECRETS[1]),
            ("PAT-4711-X/deep/second", SECRETS[1]),
            ("other/b.IMA", "PAT-2"),
        ]
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, with_pixels(film(i), PatientID=patient, SOPInstanceUID=f"1.2.3.{i}"))
    return root


def open_tree(tree: Path, tmp_path: Path, **settings) -> Cohort:
    return open_dicom(str(tree), SMALL, Cache(folder=tmp_path / "cache"), **settings)


def refusal(call, *arguments, kind: type[LeadapronError] = DataError, **settings) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **settings)
    assert str(caught.value).isprintable()
    return str(caught.value)


def told(words: str) -> list[str]:
    return [secret for secret in (*SECRETS, "1.2.3.") if secret in words]


def test_films_by_their_paths_and_patients_by_their_hash(tree, tmp_path):
    cohort = open_tree(tree, tmp_path)
    assert cohort.images[:, 0, 0].tolist() == [0, 10, 20]
    assert all(name.startswith("dicom-") and len(name) == 18 for name in cohort.ids.tolist())
    first, second, third = cohort.patients.tolist()
    assert first == second != third
    assert cohort.attributes["view"].tolist() == ["PA"] * 3
    assert cohort.attributes["sex"].tolist() == ["F"] * 3
    assert cohort.attributes["age"].tolist() == [58] * 3
    assert cohort.attributes["scanner"].tolist() == [""] * 3
    assert cohort.findings == ()
    np.testing.assert_array_equal(cohort.films[2], film(2))


def test_the_scanner_is_manufacturer_and_model_fit_to_be_shown(tmp_path):
    (tmp_path / "films").mkdir()
    for name, maker in (("a", "Siemens"), ("b", "Si\x1b[31memens")):
        dataset = with_pixels(film(1), Manufacturer=maker, ManufacturerModelName="AXIOM Aristos")
        write(tmp_path / "films" / f"{name}.dcm", dataset)
    cohort = open_dicom(str(tmp_path / "films"), SMALL)
    plain, odd = sorted(cohort.attributes["scanner"].tolist(), key=len)
    assert plain == "Siemens AXIOM Aristos"
    assert odd.isprintable()


def test_the_salt_is_kept_in_the_cache(tree, tmp_path):
    first = open_tree(tree, tmp_path)
    again = open_tree(tree, tmp_path)
    assert again.ids.tolist() == first.ids.tolist()
    assert again.patients.tolist() == first.patients.tolist()
    salt = tmp_path / "cache" / "salt"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    assert stat.S_IMODE(salt.parent.stat().st_mode) == 0o700
    assert len(salt.read_bytes()) == 32
    assert [p.name for p in salt.parent.iterdir() if p.name.startswith(".salt")] == []
    elsewhere = open_dicom(str(tree), SMALL, Cache(folder=tmp_path / "elsewhere"))
    forgotten = open_dicom(str(tree), SMALL)
    for other in (elsewhere, forgotten):
        assert not set(other.ids) & set(first.ids)
        assert not set(other.patients) & set(first.patients)
    salt.write_bytes(b"short")
    assert "is damaged; remove the file" in refusal(open_tree, tree, tmp_path, kind=StoreError)


def test_nothing_of_the_patient_leaves_the_files(tree, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    (tree / "PAT-4711-X" / "19700413.dcm").write_bytes(b"DOE^JOHN")
    multi = with_pixels(film(1), NumberOfFrames=2, PatientComments="DOE^JOHN")
    write(tree / "PAT-4711-X" / "more.dcm", multi)
    odd = with_pixels(film(1), PatientSex="DOE^JOHN", ViewPosition="Elm Street")
    odd.PhotometricInterpretation = "PAT-4711-X"
    write(tree / "19700413.dcm", odd)
    kept = Cache(folder=tmp_path / "cache", on_bad="skip")
    cohort = open_dicom(str(tree), SMALL, kept)
    assert len(cohort) == 3
    columns = [cohort.ids, cohort.patients, *cohort.attributes.values(), said(cohort.notes)]
    assert not told(repr([np.asarray(column).tolist() for column in columns]))
    assert said(cohort.notes)[-1].startswith(
        "Left out: 3 films that can't be decoded: DICOM file 1 of 6"
    )
    messages = [refusal(open_dicom, str(tree), SMALL)]
    messages.append(refusal(open_source, f"dicom:{tree}", cache=tmp_path / "cache"))
    assert not told(" ".join(messages))
    assert not told(caplog.text)
    assert not told("".join(capfd.readouterr()))
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) >= 4
    for path in files:
        assert not told(str(path.relative_to(tmp_path)))
        assert not told(path.read_bytes().decode("latin-1"))


def test_a_bad_film_is_called_by_number_and_hash(tree, tmp_path):
    ids = open_tree(tree, tmp_path).ids
    path = tree / "PAT-4711-X" / "deep" / "second"
    path.write_bytes(path.read_bytes()[:-50])
    message = refusal(open_tree, tree, tmp_path)
    assert message.startswith(f"DICOM file 2 of 3 ({ids[1]}) holds damaged pixels (ValueError)")


def test_a_link_out_is_refused_without_its_name(tree, tmp_path):
    write(tmp_path / "secret.dcm", with_pixels(film(0)))
    (tree / "DOE^JOHN.dcm").symlink_to(tmp_path / "secret.dcm")
    message = refusal(open_tree, tree, tmp_path)
    assert message == "DICOM file 1 of 4 is a link that leads out of the folder"


def test_which_files_count(tree, tmp_path):
    (tree / "notes.txt").write_text("DOE^JOHN")
    (tree / ".hidden.dcm").write_bytes(b"")
    os.mkfifo(tree / "pipe")
    os.mkfifo(tree / "pipe.dcm")
    write(tree / "report.dcm", header())
    bare = with_pixels(film(3))
    bare.save_as(tree / "old", implicit_vr=True, little_endian=True)
    big = with_pixels(film(4))
    big.save_as(tree / "older", implicit_vr=False, little_endian=False)
    cohort = open_tree(tree, tmp_path)
    assert sorted(cohort.images[:, 0, 0].tolist()) == [0, 10, 20, 30, 40]
    assert "Left out: 1 DICOM file without pixels." in said(cohort.notes)


def test_no_films(tmp_path):
    assert "dicom:PATH" in refusal(open_dicom, "", None, kind=UsageError)
    assert "no folder" in refusal(open_dicom, str(tmp_path / "none"), None)
    assert "no DICOM file in" in refusal(open_dicom, str(tmp_path), None)
    write(tmp_path / "report.dcm", header())
    assert refusal(open_dicom, str(tmp_path), None) == "none of the 1 DICOM file holds a film"


def test_windows(tmp_path):
    stored = np.arange(81, dtype=np.uint16).reshape(9, 9) * 50
    values = {"BitsStored": 12, "WindowCenter": [2000, 100], "WindowWidth": [4000, 50]}
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.dcm", with_pixels(stored, **values))
    seen = {}
    for window in ("header", "header:2", "full", "film", "2000/100", "-5/1.5"):
        cohort = open_tree(tmp_path / "in", tmp_path, window=window)
        seen[window] = cohort.images[0].tobytes()
        (note,) = [note for note in said(cohort.notes) if note.startswith("Windows: ")]
        assert note.count("1 film") == 1
    assert len(set(seen.values())) == 6
    assert "centre 2000, width 4000 (1 film)" in " ".join(
        said(open_tree(tmp_path / "in", tmp_path).notes)
    )
    assert "has no window 3" in refusal(open_tree, tmp_path / "in", tmp_path, window="header:3")
    for window in ("", "wide", "header:0", "1/", "1/2/3", "1e3/5"):
        message = refusal(open_tree, tmp_path / "in", tmp_path, window=window, kind=UsageError)
        assert "expected header, header:2, full, film, or CENTRE/WIDTH" in message


def test_notes_of_doubt(tmp_path):
    (tmp_path / "in").mkdir()
    body = np.full((40, 40), 150, np.uint8)
    body[:6, :8], body[:6, -8:] = 20, 20
    facts = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}
    write(tmp_path / "in" / "a.dcm", with_pixels(body, PixelSpacing=[2, 1], **facts))
    notes = said(open_tree(tmp_path / "in", tmp_path).notes)
    for start in (
        "MONOCHROME1, inverted: 1 film.", "Enlarged along one side", "DOUBT: 1 film whose",
        "DOUBT: 1 film brighter in the upper corners",
    ):  # fmt: skip
        assert any(note.startswith(start) for note in notes)


# ---------------------------------------------------------------- label tables


def table(tmp_path: Path, text: str) -> str:
    (tmp_path / "labels.csv").write_text(text)
    return str(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("file", ["DOE^JOHN_19700413.dcm", "second", "b.IMA"]),
        ("image_id", ["DOE^JOHN_19700413", "second", "b"]),
        ("path", ["PAT-4711-X/DOE^JOHN_19700413.dcm", "PAT-4711-X/deep/second", "other/b.IMA"]),
        ("SOPInstanceUID", ["1.2.3.0", "1.2.3.1", "1.2.3.2"]),
    ],
)
def test_labels_by_name_path_or_uid(tree, tmp_path, column, cells):
    rows = [f"{cell},{i % 2},{-(i % 2)}" for i, cell in enumerate(cells)]
    text = "\n".join([f"{column},Mass,Edema", rows[2], "gone,1,1", rows[0], rows[1]])
    cohort = open_tree(tree, tmp_path, table=table(tmp_path, text))
    assert cohort.findings == ("Mass", "Edema")
    assert cohort.labels[:, 0].tolist() == [0, 1, 0]
    np.testing.assert_array_equal(cohort.labels[:, 1], [0, np.nan, 0])
    assert cohort.images[:, 0, 0].tolist() == [0, 10, 20]
    assert len(np.unique(cohort.patients)) == 2
    assert said(cohort.notes)[0] == "Left out: 1 row without a film."
    assert not told(repr(cohort.ids.tolist()) + repr(cohort.patients.tolist()))
    assert not any("Patients aren't known" in note for note in said(cohort.notes))


def test_labels_by_absolute_path(tree, tmp_path):
    paths = sorted(path for path in tree.rglob("*") if path.is_file())[:2]
    text = "\n".join(["path,Mass", *(f"{path},1" for path in paths), "/elsewhere/x.dcm,1"])
    cohort = open_tree(tree, tmp_path, table=table(tmp_path, text))
    assert 0 < len(cohort) <= 2
    assert str(tree) not in repr(cohort.notes)


def test_films_without_a_row_are_left_out(tree, tmp_path):
    text = "image,findings,age\nsecond,Mass|Edema,58\nb,No Finding,999\n"
    cohort = open_tree(tree, tmp_path, table=table(tmp_path, text))
    assert cohort.findings == ("Edema", "Mass")
    assert cohort.labels.tolist() == [[1, 1], [0, 0]]
    assert cohort.images[:, 0, 0].tolist() == [10, 20]
    assert "Left out: 1 film without a row in labels.csv." in said(cohort.notes)
    assert "Taken as unknown: 1 age above 120 years." in said(cohort.notes)
    np.testing.assert_array_equal(cohort.films[1], film(2))


def test_patients_of_the_table_where_headers_have_none(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for i in range(3):
        write(root / f"{i}.dcm", with_pixels(film(i), PatientID=""))
    assert said(open_tree(root, tmp_path).notes)[0].startswith("Patients aren't known")
    text = "id,patient,split,Mass\n0,DOE^JOHN,train,1\n1,DOE^JOHN,train,0\n2,p,test,0\n"
    cohort = open_tree(root, tmp_path, table=table(tmp_path, text))
    first, second, third = cohort.patients.tolist()
    assert first == second != third
    assert len(first) == 12
    assert not told(repr(cohort.patients.tolist()))
    assert not any("Patients aren't known" in note for note in said(cohort.notes))
    leaking = text.replace("1,DOE^JOHN,train", "1,DOE^JOHN,test")
    message = refusal(open_tree, root, tmp_path, table=table(tmp_path, leaking))
    assert "1 patient on more than one side" in message


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("name,Mass\nsecond,1\n", UsageError, "labels.csv has no column that names films; its"),
        ("file,Mass\nelse,1\n", DataError, "column file: it names no film of the folder"),
        ("file,Mass\nsecond,1\nsecond,0\n", DataError, "names a film more than once"),
        ("file,Mass\nsecond,1\n1.2.3.1,0\n", DataError, "names a film more than once"),
    ],
)
def test_tables_that_make_no_sense(tree, tmp_path, text, kind, words):
    message = refusal(open_tree, tree, tmp_path, table=table(tmp_path, text), kind=kind)
    assert words in message
    assert not told(message)


def test_settings_of_the_table(tree, tmp_path):
    text = "number,what\nsecond,A/B\nb,A\n"
    settings = {"key": "number", "findings": "what", "separator": "/"}
    cohort = open_tree(tree, tmp_path, table=table(tmp_path, text), **settings)
    assert cohort.findings == ("A", "B")
    settings["findings"] = "wat"
    refusal(
        open_tree, tree, tmp_path, table=table(tmp_path, text), kind=UnknownNameError, **settings
    )
    settings["key"] = "nummer"
    refusal(open_tree, tree, tmp_path, table=table(tmp_path, text), kind=UsageError, **settings)


def test_a_name_that_two_films_have_names_neither_but_a_path_does(tree, tmp_path):
    write(tree / "other" / "second", with_pixels(film(5)))
    by_name = table(tmp_path, "file,Mass\nsecond,1\nb,0\n")
    assert len(open_tree(tree, tmp_path, table=by_name)) == 1
    write(tree / "b", with_pixels(film(6)))
    by_path = table(tmp_path, "path,Mass\nother/second,1\nb,1\n")
    cohort = open_tree(tree, tmp_path, table=by_path)
    assert sorted(cohort.images[:, 0, 0].tolist()) == [50, 60]
