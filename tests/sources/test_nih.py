from __future__ import annotations

import logging
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.films import cache
from leadapron.films.cohort import Cohort
from leadapron.films.decoding import FilmFiles
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import open_source
from leadapron.sources.nih import FINDINGS, RELEASE, open_nih, read_boxes, read_labels
from leadapron.types import Form, said
from nih_tree import HEADER_2017, LISTS, ROWS, Row, film, write_film, write_table, write_tree

SMALL = Preprocessing(size=8)


def open_tree(folder: Path, **settings) -> Cohort:
    return open_nih(str(folder), SMALL, **settings)


def positives(labels: np.ndarray) -> list[list[str]]:
    return [[FINDINGS[k] for k in np.flatnonzero(row)] for row in labels]


def refusal(call, *arguments, kind: type[Exception] = DataError, **settings) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    "places",
    [
        ["images"],
        ["."],
        ["images_001", "images_012"],
        ["images_001/images", "images_002/images", "images_003/images"],
    ],
)
def test_films_are_found_in_every_layout(tmp_path, places):
    cohort = open_tree(write_tree(tmp_path, places=places))
    assert cohort.ids.tolist() == [row.name for row in ROWS]
    assert said(cohort.notes) == ("Taken as unknown: 1 age above 120 years.",)
    for i in range(len(ROWS)):
        np.testing.assert_array_equal(cohort.images[i], SMALL(film(i)))
        np.testing.assert_array_equal(cohort.films[i], film(i))


def test_rows_carry_what_the_table_says(tmp_path):
    cohort = open_tree(write_tree(tmp_path))
    assert cohort.findings == FINDINGS
    assert positives(cohort.labels) == [
        ["Cardiomegaly"],
        ["Cardiomegaly", "Emphysema"],
        [],
        ["Hernia"],
        ["Atelectasis", "Infiltration"],
    ]
    assert cohort.patients.tolist() == ["1", "1", "2", "26811", "30805"]
    assert cohort.attributes["view"].tolist() == ["PA", "AP", "PA", "PA", "AP"]
    assert cohort.attributes["sex"].tolist() == ["M", "M", "F", "F", "F"]
    assert cohort.attributes["follow_up"].tolist() == [0, 1, 0, 0, 0]
    assert cohort.attributes["native_size"].tolist() == ["2682x2749"] * 5
    np.testing.assert_allclose(
        cohort.attributes["age"], [58, 58, 11 / 12, np.nan, np.nan], equal_nan=True
    )


def test_the_images_are_224_pixels_wide_unless_told(tmp_path):
    assert open_source(f"nih:{write_tree(tmp_path)}").images.shape == (5, 224, 224)


def test_settings_pass_through_open_source(tmp_path):
    tree = write_tree(tmp_path)
    cohort = open_source(f"nih:{tree}", preprocessing=SMALL, split="nwadike2020")
    assert cohort.attributes["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert "split" in refusal(open_source, f"nih:{tree}", kind=UsageError, split="random")


def test_order_follows_the_table(tmp_path):
    tree = write_tree(tmp_path)
    write_table(tree / "Data_Entry_2017_v2020.csv", ROWS[::-1])
    cohort = open_tree(tree)
    assert cohort.ids.tolist() == [row.name for row in ROWS[::-1]]
    np.testing.assert_array_equal(cohort.films[0], film(len(ROWS) - 1))


def test_missing_films_and_films_without_a_row_are_counted(tmp_path):
    tree = write_tree(tmp_path)
    (tree / "images" / ROWS[1].name).unlink()
    (tree / "images" / ROWS[4].name).unlink()
    write_film(tree / "images" / "more.png", film(0))
    (tree / "images" / "._more.png").write_bytes(b"from a Mac")
    (tree / "images" / "Thumbs.db").write_bytes(b"from elsewhere")
    (tree / "images" / ROWS[4].name).symlink_to("nowhere.png")
    cohort = open_tree(tree)
    assert cohort.ids.tolist() == [ROWS[i].name for i in (0, 2, 3)]
    assert cohort.attributes["split"].tolist() == ["train", "train", "test"]
    assert "Left out: 2 rows of 5 in Data_Entry_2017_v2020.csv without a film." in said(
        cohort.notes
    )
    assert "Left out: 1 PNG file without a row in Data_Entry_2017_v2020.csv." in said(cohort.notes)


def test_no_films_at_all(tmp_path):
    tree = write_tree(tmp_path)
    (tree / "images").rename(tree / "pictures")
    message = refusal(open_tree, tree)
    assert "none of the 5 films" in message
    assert str(tree) in message


def test_a_film_in_two_folders_is_refused(tmp_path):
    tree = write_tree(tmp_path, places=["images_001"])
    write_tree(tmp_path, ROWS[:1], places=["images_002"])
    write_table(tree / "Data_Entry_2017_v2020.csv")
    message = refusal(open_tree, tree)
    assert message == ("film '00000001_000.png' is in both images_001 and images_002; keep one")


def test_a_path_that_is_no_folder(tmp_path):
    assert "nih:PATH" in refusal(open_nih, "", None, kind=UsageError)
    assert "no folder" in refusal(open_tree, tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "not a folder" in refusal(open_tree, tmp_path / "file")


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(
    "name",
    [
        "Data_Entry_2017.csv",
        "Data_Entry_2017.csv.gz",
        "Data_Entry_2017_v2020.csv",
        "Data_Entry_2017_v2020.csv.gz",
    ],
)
def test_every_table_is_read(tmp_path, name):
    write_table(tmp_path / name)
    rows = read_labels(tmp_path)
    assert rows.name == name
    assert len(rows) == 5
    assert rows.attributes["sex"].tolist() == ["M", "M", "F", "F", "F"]
    assert len(read_labels(tmp_path / name)) == 5


def test_the_2020_table_comes_first_unless_one_is_named(tmp_path):
    write_table(tmp_path / "Data_Entry_2017.csv", ROWS[:2])
    write_table(tmp_path / "Data_Entry_2017_v2020.csv.gz", ROWS)
    (tmp_path / "own").mkdir()
    write_table(tmp_path / "own" / "table.csv", ROWS[:3])
    assert len(read_labels(tmp_path)) == 5
    assert len(read_labels(tmp_path, table="Data_Entry_2017.csv")) == 2
    assert len(read_labels(tmp_path, table="own/table.csv")) == 3


@pytest.mark.parametrize("table", ["../table.csv", "own/../../table.csv", "/etc/passwd"])
def test_a_table_outside_the_folder_is_refused(tmp_path, table):
    write_table(tmp_path / "table.csv")
    tree = write_tree(tmp_path / "tree")
    assert "leads out of the folder" in refusal(open_tree, tree, kind=UsageError, table=table)


def test_missing_tables_name_what_was_expected(tmp_path):
    assert "expected Data_Entry_2017_v2020.csv" in refusal(open_tree, tmp_path)
    assert "no label table mine.csv" in refusal(read_labels, tmp_path, table="mine.csv")


def test_missing_columns_are_named(tmp_path):
    path = tmp_path / "Data_Entry_2017.csv"
    write_table(path, header=HEADER_2017.replace("Finding Labels", "Labels").replace("ID", "No"))
    message = refusal(read_labels, tmp_path)
    assert message.startswith("Data_Entry_2017.csv has no column Finding Labels, Patient ID;")
    path.write_bytes(b"")
    assert "no column Image Index" in refusal(read_labels, tmp_path)


def test_columns_that_can_be_missed_are_noted(tmp_path):
    (tmp_path / "t.csv").write_text("Patient ID,Image Index,Finding Labels\n7,a.png,Mass\n\n,,\n")
    rows = read_labels(tmp_path / "t.csv", split="none")
    assert rows.patients.tolist() == ["7"]
    assert dict(rows.attributes) == {}
    assert said(rows.notes) == (
        "t.csv has no column View Position, Patient Sex or Patient Gender, Patient Age, "
        "Follow-up #, OriginalImage[Width or OriginalImageWidth, Height] or OriginalImageHeight.",
    )


def test_byte_order_mark_carriage_returns_and_spaces_are_tolerated(tmp_path):
    path = tmp_path / "Data_Entry_2017.csv"
    write_table(path)
    content = (
        path.read_bytes().replace(b"\n", b"\r\n").replace(b"Cardiomegaly|", b"Cardiomegaly | ")
    )
    path.write_bytes(b"\xef\xbb\xbf" + content.replace(b",PA,", b", PA ,"))
    rows = read_labels(tmp_path)
    assert positives(rows.labels)[1] == ["Cardiomegaly", "Emphysema"]
    assert rows.attributes["view"][0] == "PA"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (Row("a.png", "Cardiomegalie"), "1 unknown finding, first 'Cardiomegalie'"),
        (Row("a.png", "No Finding|Mass"), "No Finding and a finding"),
        (Row("a.png", ""), "1 row without Finding Labels"),
        (Row("a.png", patient=" "), "1 row without Patient ID"),
        (ROWS[0], "names 1 film more than once, first '00000001_000.png'"),
    ],
)
def test_rows_that_make_no_sense_are_refused(tmp_path, row, complaint):
    write_table(tmp_path / "Data_Entry_2017.csv", [*ROWS, row])
    message = refusal(read_labels, tmp_path)
    assert complaint in message
    assert "Data_Entry_2017.csv" in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfe\x00", "isn't UTF-8"),
        (b"Image Index,Finding Labels,Patient ID\na.png,Mass\n", "line 2: too few columns"),
        (b"Image Index,Finding Labels,Patient ID\n", "has no rows"),
    ],
)
def test_broken_tables_are_refused(tmp_path, content, complaint):
    path = tmp_path / "Data_Entry_2017.csv"
    path.write_bytes(content)
    assert complaint in refusal(read_labels, path)


def test_broken_archives_are_refused(tmp_path):
    path = tmp_path / "Data_Entry_2017.csv.gz"
    write_table(path)
    path.write_bytes(path.read_bytes()[:60])
    assert "Data_Entry_2017.csv.gz can't be read" in refusal(read_labels, tmp_path)
    path.write_bytes(b"Image Index")
    assert "Data_Entry_2017.csv.gz can't be read" in refusal(read_labels, tmp_path)


@pytest.mark.parametrize(
    ("text", "years"),
    [("058Y", 58), ("58", 58), ("006M", 0.5), ("014D", 14 / 365.25), ("", None), ("old", None)],
)
def test_ages_are_years(tmp_path, text, years):
    write_table(tmp_path / "Data_Entry_2017.csv", [replace(ROWS[0], age=text)])
    age = read_labels(tmp_path).attributes["age"]
    np.testing.assert_allclose(age, [np.nan if years is None else years], equal_nan=True)


# ---------------------------------------------------------------- splits


def test_lists_split_by_patient(tmp_path):
    tree = write_tree(tmp_path)
    assert open_tree(tree).attributes["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert "split" not in open_tree(tree, split="none").attributes
    assert "split" in refusal(read_labels, tree, kind=UnknownNameError, split="list")


def test_no_lists_no_split(tmp_path):
    cohort = open_tree(write_tree(tmp_path, lists={}))
    assert "split" not in cohort.attributes
    assert "No split: neither train_val_list.txt nor test_list.txt exists." in said(cohort.notes)


def test_films_in_neither_list_are_counted(tmp_path):
    lists = {"test_list.txt": ["", "elsewhere.png", *LISTS["test_list.txt"]]}
    cohort = open_tree(write_tree(tmp_path, lists=lists))
    assert cohort.attributes["split"].tolist() == ["", "", "", "test", "test"]
    assert said(cohort.notes)[-2:] == (
        "train_val_list.txt is missing.",
        "Split not stated: 3 films in neither list.",
    )


@pytest.mark.parametrize("leak", [ROWS[0].name, ROWS[1].name])
def test_a_patient_in_both_lists_is_refused(tmp_path, leak):
    train = ["00000001_000.png", "00000002_000.png"]  # the first also in the test list, or not
    lists = {"train_val_list.txt": train, "test_list.txt": [leak, ROWS[3].name]}
    message = refusal(open_tree, write_tree(tmp_path, lists=lists))
    assert "share 1 patient, first '1'" in message


def test_lists_that_share_patients_may_be_allowed(tmp_path):
    lists = {"train_val_list.txt": [ROWS[0].name], "test_list.txt": [ROWS[1].name]}
    cohort = open_tree(write_tree(tmp_path, lists=lists), leakage="allow")
    assert cohort.attributes["split"].tolist() == ["train", "test", "", "", ""]
    assert any(note.doubt and note.about == "split" for note in cohort.notes)


def test_nwadike2020_needs_its_patients(tmp_path):
    cohort = open_tree(write_tree(tmp_path / "few", ROWS[:3]), split="nwadike2020")
    assert "split" not in cohort.attributes
    assert said(cohort.notes)[-1].startswith("No split: nwadike2020 tests on patients 26811 and up")
    tree = write_tree(tmp_path / "named", [replace(ROWS[0], patient="Ann")])
    assert "numbers as patients' names" in refusal(open_tree, tree, split="nwadike2020")


# ---------------------------------------------------------------- films


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_colour_becomes_grey_and_is_counted(tmp_path, mode):
    tree = write_tree(tmp_path)
    write_film(tree / "images" / ROWS[2].name, film(2), mode)
    cohort = open_tree(tree)
    np.testing.assert_array_equal(cohort.films[2], film(2))
    np.testing.assert_array_equal(cohort.images[2], SMALL(film(2)))
    assert said(cohort.notes)[-1] == (
        "Converted to grey: 1 film in colour, with transparency or in black and white."
    )


def test_a_palette_with_transparency_does_not_warn(tmp_path):
    picture = Image.fromarray(film(0)).convert("P")
    picture.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    np.testing.assert_array_equal(FilmFiles([str(tmp_path / "a.png")])[0], film(0))


def test_black_and_white_spans_the_range(tmp_path):
    Image.fromarray(film(0) > 40).save(tmp_path / "a.png")
    pixels = FilmFiles([str(tmp_path / "a.png")])[0]
    np.testing.assert_array_equal(pixels, np.where(film(0) > 40, 255, 0))
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_sixteen_bits_are_kept_if_asked_for(tmp_path, dtype):
    tree = write_tree(tmp_path)
    deep = film(0).astype(np.uint16) * 257
    write_film(tree / "images" / ROWS[0].name, deep)
    preprocessing = Preprocessing(size=8, dtype=dtype)
    cohort = open_nih(str(tree), preprocessing)
    assert cohort.images.dtype == dtype
    assert cohort.films[0].dtype == np.uint16
    np.testing.assert_array_equal(cohort.films[0], deep)
    np.testing.assert_array_equal(cohort.images[0], preprocessing(deep))
    assert said(cohort.notes)[-1] == "16 bits a pixel: 1 film."


def test_films_are_fresh_arrays(tmp_path):
    cohort = open_tree(write_tree(tmp_path))
    cohort.films[0][:] = 0
    np.testing.assert_array_equal(cohort.films[0], film(0))
    assert len(cohort.films) == 5
    np.testing.assert_array_equal(cohort.take([3, 1]).films[0], film(3))


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "flipped"])
def test_a_bad_film_is_named_without_its_folder(tmp_path, damage):
    tree = write_tree(tmp_path)
    path = tree / "images" / ROWS[3].name
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    write_film(path, noise)
    content = path.read_bytes()
    damaged = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "other": b"GIF89a" + content,
        "flipped": content[:200] + bytes([content[200] ^ 255]) + content[201:],
    }
    path.write_bytes(damaged[damage])
    message = refusal(open_tree, tree)
    words = {"empty": "is not a PNG, JPEG or DICOM file", "other": "is not a PNG, JPEG or DICOM"}
    assert message.startswith(
        f"00026811_000.png {words.get(damage, 'is not a readable PNG file (')}"
    )
    assert str(tmp_path) not in message


def test_of_several_bad_films_the_first_is_named(tmp_path):
    rows = [Row(f"{i:08}_000.png", patient=str(i)) for i in range(100)]
    tree = write_tree(tmp_path, rows, lists={})
    for i in (97, 41, 40):
        (tree / "images" / rows[i].name).write_bytes(b"")
    assert "00000040_000.png" in refusal(open_tree, tree)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    tree = write_tree(tmp_path)
    path = tree / "images" / ROWS[0].name
    header = b"IHDR" + struct.pack(">IIBBBBB", 10_001, 10_000, 8, 0, 0, 0, 0)
    content = bytearray(path.read_bytes())
    content[12:33] = header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(content)
    message = refusal(open_tree, tree)
    assert message == (
        "00000001_000.png has 10001x10000 pixels; expected at most 100 megapixels; "
        "remove the file, or use `on_bad` skip"
    )


def test_a_film_that_vanished_since(tmp_path):
    cohort = open_tree(write_tree(tmp_path))
    (tmp_path / "images" / ROWS[0].name).unlink()
    message = refusal(cohort.films.__getitem__, 0)
    assert message == "00000001_000.png can't be read (No such file or directory)"


def test_ctrl_c_stops_the_decoding(tmp_path, monkeypatch):
    rows = [Row(f"{i:08}_000.png", patient=str(i)) for i in range(200)]
    tree = write_tree(tmp_path, rows, lists={})
    decoded = []

    def slow(self: FilmFiles, row: int, preprocessing: Preprocessing) -> tuple[np.ndarray, Form]:
        decoded.append(row)
        if len(decoded) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)
        return preprocessing(film(0)), Form(height=8, width=8)

    # What runs in the background of a shell ignores Ctrl-C, unless it is told otherwise.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(FilmFiles, "image", slow)
    monkeypatch.setattr(cache, "processors", lambda: 2)
    try:
        with pytest.raises(KeyboardInterrupt):
            open_tree(tree)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(decoded) < 20


def test_progress_goes_to_the_log(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="leadapron")
    open_tree(write_tree(tmp_path))
    assert "decoding 5 films" in caplog.text


# ---------------------------------------------------------------- boxes and facts


def test_boxes(tmp_path):
    lines = [
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        "00000001_000.png,Cardiomegaly,225.5,547.0,86.5,79.2,,,",
        "00000001_000.png,Infiltrate,0,1,2,3",
    ]
    (tmp_path / "BBox_List_2017.csv").write_text("\n".join(lines))
    boxes = read_boxes(tmp_path)
    assert len(boxes) == 2
    assert boxes.ids.tolist() == ["00000001_000.png"] * 2
    assert boxes.findings.tolist() == ["Cardiomegaly", "Infiltration"]
    assert boxes.boxes.tolist() == [[225.5, 547.0, 86.5, 79.2], [0, 1, 2, 3]]


def test_boxes_that_make_no_sense(tmp_path):
    assert "no BBox_List_2017.csv in" in refusal(read_boxes, tmp_path)
    path = tmp_path / "BBox_List_2017.csv"
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
    path.write_text(header)
    assert read_boxes(tmp_path).boxes.shape == (0, 4)
    for line in ("a.png,Mass,1,2,wide,4", "a.png,Mass,1,2,-3,4", "a.png,Lump,1,2,3,4"):
        path.write_text(header + line)
        assert "BBox_List_2017.csv holds" in refusal(read_boxes, tmp_path)


def test_importing_the_sources_loads_neither_pandas_nor_torch():
    code = "import sys, leadapron.sources; print('pandas' in sys.modules, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


# ---------------------------------------------------------------- the release itself


@pytest.mark.real_data("nih_metadata")
def test_the_release_splits_as_the_paper_did(real_data):
    start = time.perf_counter()
    rows = read_labels(real_data / "nih_metadata", split="nwadike2020")
    assert time.perf_counter() - start < 5
    assert len(rows) == RELEASE["films"] == 112_120
    assert len(np.unique(rows.patients)) == RELEASE["patients"] == 30_805
    test = rows.attributes["split"] == "test"
    assert int(test.sum()) == 11_174
    assert len(np.unique(rows.patients[test])) == 3_995
    counts = [1156, 303, 1442, 2271, 542, 635, 124, 771, 424, 178, 337, 67, 334, 22]
    assert rows.labels[test].sum(axis=0).tolist() == counts
    assert int((rows.labels[test].sum(axis=1) == 0).sum()) == 5_709
    assert not set(rows.patients[test]) & set(rows.patients[~test])
    assert said(rows.notes) == ()


@pytest.mark.real_data("nih128")
def test_small_films_of_the_release(real_data):
    cohort = open_nih(str(real_data / "nih128"), Preprocessing(size=16))
    assert len(cohort) == 5_142
    assert len(np.unique(cohort.patients)) == 1_294
    parts, counts = np.unique(cohort.attributes["split"], return_counts=True)
    assert dict(zip(parts.tolist(), counts.tolist(), strict=True)) == {"test": 965, "train": 4177}
    assert said(cohort.notes) == ()
    boxes = read_boxes(real_data / "nih128")
    assert set(boxes.ids) <= set(cohort.ids)


@pytest.mark.real_data("nih1024")
def test_originals_of_the_release(real_data):
    cohort = open_nih(str(real_data / "nih1024"), Preprocessing(size=64))
    assert len(cohort) == 62
    assert cohort.films[0].shape == (1024, 1024)
    assert any(note.startswith("Converted to grey: ") for note in said(cohort.notes))
