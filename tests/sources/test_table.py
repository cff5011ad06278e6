from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from leadapron.cohort import Cohort
from leadapron.errors import DataError, LeadapronError, UnknownNameError, UsageError
from leadapron.preprocessing import Preprocessing
from leadapron.sources import open_source, tables
from leadapron.sources.table import labelled, open_table
from leadapron.sources.tables import read_table
from leadapron.types import said

SMALL = Preprocessing(size=8)
NAMES = ("a.png", "b.png", "deep/c.png")


@pytest.fixture
def tree(tmp_path):
    for i, name in enumerate(NAMES):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((9, 7), 10 * i, np.uint8)).save(path)
    return tmp_path


def open_text(tree: Path, text: str | bytes, name: str = "t.csv", **settings) -> Cohort:
    content = text.encode() if isinstance(text, str) else text
    (tree / name).write_bytes(content)
    return open_table(str(tree / name), SMALL, **settings)


def refusal(call, *arguments, kind: type[LeadapronError] = DataError, **settings) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **settings)
    assert str(caught.value).isprintable()
    return str(caught.value)


FULL = """Path,Patient ID,Sex,Age,View,Fold,Site,Edema,Mass,No Finding,Comment
a.png,p1,F,58,PA,train,H1,1,0,0,hello
b.png,p1,F,059Y,AP,train,H1,-1,,0,there
deep/c.png,p2,M,6M,,test,H2,0.0,1.0,,1
"""


def test_all_that_a_table_can_say(tree):
    cohort = open_text(tree, FULL)
    assert cohort.ids.tolist() == list(NAMES)
    assert cohort.patients.tolist() == ["p1", "p1", "p2"]
    assert cohort.findings == ("Edema", "Mass")
    np.testing.assert_array_equal(cohort.labels, [[1, 0], [np.nan, np.nan], [0, 1]])
    assert cohort.images[:, 0, 0].tolist() == [0, 10, 20]
    known = {name: column.tolist() for name, column in cohort.attributes.items()}
    assert known.pop("age") == [58, 59, 0.5]
    assert known == {
        "sex": ["F", "F", "M"], "view": ["PA", "AP", ""], "site": ["H1", "H1", "H2"],
        "split": ["train", "train", "test"],
    }  # fmt: skip
    assert said(cohort.notes) == ()


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace(",", " , ").encode(),
        lambda text: text.replace("hello", '"two\nlines, ""q"""').encode(),
        lambda text: (text + "\n,,,,,,,,,,\n\n").encode(),
        lambda text: gzip.compress(text.encode()),
    ],
)  # fmt: skip
def test_tables_of_every_kind(tree, encode):
    content = encode(FULL)
    name = "t.csv.gz" if content[:2] == b"\x1f\x8b" else "t.csv"
    cohort = open_text(tree, content, name)
    expected = open_text(tree, FULL)
    assert cohort.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("setting", "values"),
    [("nan", [1, 0, np.nan, np.nan]), ("0", [1, 0, 0, 0]), ("1", [1, 0, 1, 1])],
)
def test_what_is_uncertain_or_blank(tree, setting, values):
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(tree / "d.png")
    text = "path,Mass\na.png,true\nb.png,No\ndeep/c.png,-1\nd.png,nan\n"
    cohort = open_text(tree, text, uncertain=setting, blank=setting)
    np.testing.assert_array_equal(cohort.labels[:, 0], values)


def test_joined_findings(tree):
    text = "file,findings\na.png,Edema | Mass\nb.png,No Finding\ndeep/c.png,\n"
    cohort = open_text(tree, text)
    assert cohort.findings == ("Edema", "Mass")
    np.testing.assert_array_equal(cohort.labels, [[1, 1], [0, 0], [np.nan, np.nan]])
    other = open_text(tree, text.replace("|", "/"), separator="/")
    assert other.findings == cohort.findings
    text = "file,what\na.png,Edema\nb.png,normal\ndeep/c.png,Mass\n"
    assert open_text(tree, text, findings="what").findings == ("Edema", "Mass")
    assert "normal and a finding" in refusal(
        open_text, tree, text.replace("Edema", "normal|Edema"), findings="what"
    )
    assert "no column of findings; its columns: what" in refusal(open_text, tree, text)


def test_chosen_columns(tree):
    text = "film,number,A,B,C\na.png,7,1,0,0\nb.png,8,0,1,0\ndeep/c.png,9,0,0,1\n"
    cohort = open_text(tree, text, path="film", findings="C, A", patient="number")
    assert cohort.findings == ("C", "A")
    assert cohort.patients.tolist() == ["7", "8", "9"]
    plain = open_text(tree, text, path="film")
    assert plain.findings == ("A", "B", "C")  # numbers of 7 to 9 are no labels
    assert said(plain.notes)[0].startswith("Patients aren't known")
    for setting in ({"path": "flim"}, {"findings": "A,D"}, {"patient": "p"}, {"split": "s"}):
        message = refusal(
            open_text, tree, text, kind=UnknownNameError, **{"path": "film", **setting}
        )
        assert message.startswith("unknown column of t.csv")
    message = refusal(open_text, tree, text, path="film", findings="A,number")
    assert "column 'number': expected 1, 0, -1 and blanks" in message


def test_no_column_for_patient_or_split(tree):
    text = "path,patient,split,A\na.png,1,train,1\nb.png,1,test,0\ndeep/c.png,2,test,0\n"
    assert "1 patient on more than one side of the split" in refusal(open_text, tree, text)
    assert "split" not in open_text(tree, text, split="none").attributes
    unknown = open_text(tree, text, patient="none")
    assert unknown.patients.tolist() == list(NAMES)
    allowed = open_text(tree, text, leakage="allow")
    assert any(note.doubt and note.about == "split" for note in allowed.notes)
    assert "names a part 'odd'" in refusal(open_text, tree, text.replace("train", "odd"))


def test_films_without_a_patient(tree):
    text = "path,patient,A\na.png,nan,1\nb.png,,0\ndeep/c.png,p,0\n"
    cohort = open_text(tree, text)
    assert cohort.patients.tolist() == ["a.png", "b.png", "p"]
    assert said(cohort.notes) == ("Without a patient: 2 films, each its own.",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "t.csv is empty; expected a line with the columns' names"),
        ("\n\n", "t.csv is empty"),
        (",,\n", "t.csv is empty"),
        ("path,A\n", "t.csv has no rows"),
        ("path,A,A\na.png,1,0\n", "t.csv has two columns 'A'"),
        ("path,A\na.png,1\na.png,0\n", "names 1 film more than once, first 'a.png'"),
        ("path,A\na.png,1\n./a.png,0\n", "names one film twice: 'a.png' and './a.png'"),
        ("path,A,B\na.png,1\n", "t.csv, line 2: too few columns; expected 3"),
        ("path,A\n,1\na.png,0\n", "t.csv: 1 row without a path"),
        ("path,A\nx.png,1\na.png,0\n", "1 film of 2 in t.csv not in"),
        ("path,A\ndeep,1\n", "1 film of 1 in t.csv not in"),
        ("A,B\n1,0\n", "t.csv has no column of paths that is called so"),
        ("path\na.png\n", "t.csv has no column of findings"),
        ("path,A\na.png,\n", "t.csv has no column of findings"),
        ("path,Normal\na.png,1\n", "t.csv has no column of findings"),
        ("path,A\n../a.png,1\n", "names '../a.png', which leads out of the folder of films"),
        ("path,A\ndeep/../../a.png,1\n", "which leads out"),
        ("path,A\n..\\a.png,1\n", "which leads out"),
        ("path,A\n/etc/passwd,1\n", "names '/etc/passwd', which leads out"),
        ("path,A\nC:\\a.png,1\n", "which leads out"),
        ("path,A\nout.png,1\n", "names 'out.png', a link that leads out"),
        ("path,A\nout/a.png,1\n", "names 'out/a.png', a link that leads out"),
        ("path,A\n" + "x" * 3000 + ",1\n", "1 film of 1 in t.csv not in"),
        ("path,A\n" + "x" * 200_000 + ",1\n", "can't be read: field larger than"),
        ('path,A\n"a.png,1\n', "too few columns"),
        (b"path,A\n\xff.png,1\n", "t.csv isn't UTF-8"),
        (b"\xff\xfep", "t.csv isn't UTF-8"),
        ("pa\x1b[2Jth,A\u2028B\na.png,1\n", r"its columns: pa\x1b[2Jth, A\u2028B"),
    ],
)
def test_tables_that_make_no_sense(tree, tmp_path_factory, text, words):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "a.png").write_bytes((tree / "a.png").read_bytes())
    (tree / "out.png").symlink_to(outside / "a.png")
    (tree / "out").symlink_to(outside)
    assert words in refusal(open_text, tree, text)


def test_no_table(tree):
    assert "table:FILE.csv" in refusal(open_table, "", None, kind=UsageError)
    assert "no none.csv in" in refusal(open_table, str(tree / "none.csv"), SMALL)
    assert "can't be read" in refusal(open_table, str(tree), SMALL)
    (tree / "t.csv.gz").write_bytes(gzip.compress(FULL.encode())[:50])
    assert "can't be read" in refusal(open_table, str(tree / "t.csv.gz"), SMALL)


def test_tables_that_unpack_to_gigabytes(tree, monkeypatch):
    monkeypatch.setattr(tables, "LARGEST_TABLE", 3 << 20)
    monkeypatch.setattr(tables, "LONGEST_LINE", 1 << 20)
    rows = b"path,A\n" + b"a.png,1\n" * (1 << 19)
    assert "is larger than 3 MB" in refusal(open_text, tree, gzip.compress(rows), "t.csv.gz")
    assert "is larger than 3 MB" in refusal(open_text, tree, rows)
    line = gzip.compress(b"path," + b"A" * (2 << 20))
    assert "holds a line of more than 1 MB" in refusal(open_text, tree, line, "t.csv.gz")


def test_root(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("labels")
    (elsewhere / "t.csv").write_text(FULL)
    assert "--source.root FOLDER" in refusal(open_table, str(elsewhere / "t.csv"), SMALL)
    cohort = open_source(f"table:{elsewhere / 't.csv'}", preprocessing=SMALL, root=str(tree))
    assert cohort.ids.tolist() == list(NAMES)


def test_names_in_other_letters(tree):
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(tree / "Übersicht 1.png")
    cohort = open_text(tree, "path,Ödem\nÜbersicht 1.png,1\na.png,0\n")
    assert cohort.findings == ("Ödem",)
    assert len(cohort.fingerprint) == 64


def test_a_bad_film_is_called_as_in_the_table(tree):
    (tree / "deep" / "c.png").write_bytes(b"")
    message = refusal(open_text, tree, FULL)
    assert message.startswith("deep/c.png is not a PNG, JPEG or DICOM file; take it away, or")


# ---------------------------------------------------------------- anything


CELLS = st.one_of(
    st.sampled_from(["1", "0", "-1", "", "a.png", "b.png", "train", "58", "Mass|Edema", "..", "/"]),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
HEADERS = st.one_of(
    st.sampled_from(["path", "patient", "age", "split", "Mass", "findings", "No Finding", ""]),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
NEVER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@NEVER
@given(data=st.data())
def test_any_cells_give_labels_or_one_line(data):
    """Without pixels, so that a decoder isn't asked a hundred times."""
    header = data.draw(st.lists(HEADERS, min_size=1, max_size=5, unique=True))
    n = data.draw(st.integers(1, 4))
    column = st.lists(CELLS, min_size=n, max_size=n)
    columns = {name: data.draw(column) for name in header}
    try:
        table = labelled(columns, [f"film {i}" for i in range(n)], "t.csv")
    except LeadapronError as error:
        words = str(error)
    else:
        words = ""
        assert table.labels.shape == (n, len(table.findings))
        assert len(table) == n
    assert not words or words.isprintable()


@NEVER
@given(
    content=st.one_of(st.binary(max_size=200), st.lists(st.lists(CELLS)).map(repr).map(str.encode))
)
def test_any_bytes_give_columns_or_one_line(tmp_path, content):
    for name in ("t.csv", "t.csv.gz"):
        (tmp_path / name).write_bytes(content)
        try:
            columns = read_table(tmp_path / name)
        except LeadapronError as error:
            words = str(error)
        else:
            words = ""
            assert len({len(cells) for cells in columns.values()}) == 1
        assert not words or words.isprintable()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_table_gives_a_cohort_or_one_line(tree, data):
    import csv
    import io

    header = ["path", *data.draw(st.lists(HEADERS, max_size=4))]
    paths = st.one_of(st.sampled_from(["a.png", "b.png", "deep/c.png"]), CELLS)
    rows = [
        [data.draw(paths), *(data.draw(CELLS) for _ in header[1:])]
        for _ in range(data.draw(st.integers(0, 3)))
    ]
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    try:
        cohort = open_text(tree, text.getvalue())
    except LeadapronError as error:
        words = str(error)
    else:
        words = ""
        assert isinstance(cohort, Cohort)
    assert not words or words.isprintable()


def test_a_name_that_is_not_utf8_can_only_come_from_the_disk(tree):
    (tree / "a.png").rename(tree / os.fsdecode(b"\xff.png"))
    assert "1 film of 3" in refusal(open_text, tree, FULL)
