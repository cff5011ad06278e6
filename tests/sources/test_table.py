from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from leadapron.errors import DataError, LeadapronError, UnknownNameError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
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
    unnamed = open_text(tree, text)
    assert unnamed.findings == ()
    assert any(
        "No labels: t.csv has no column of findings. Its columns: what; name them by" in note
        for note in said(unnamed.notes)
    )


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("path\na.png\n", False),
        ("path,patient\na.png,7\n", False),
        ("path,A\na.png,\n", True),
        ("path,Normal\na.png,1\n", True),
    ],
)
def test_films_without_labels(tree, text, doubt):
    cohort = open_text(tree, text)
    assert cohort.labels.shape == (1, 0)
    (note,) = (note for note in cohort.notes if note.about == "labels")
    assert note.words.startswith("No labels: t.csv has no column of findings.")
    assert note.doubt == doubt


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
    assert "has a split 'odd'" in refusal(open_text, tree, text.replace("train", "odd"))


def test_films_without_a_patient(tree):
    text = "path,patient,A\na.png,nan,1\nb.png,,0\ndeep/c.png,p,0\n"
    cohort = open_text(tree, text)
    assert cohort.patients.tolist() == ["a.png", "b.png", "p"]
    assert said(cohort.notes) == ("Without a patient: 2 films, each counted as a patient.",)


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
        ("A,B\n1,0\n", "t.csv has no column of paths with a usual name"),
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
    assert "`source.root` FOLDER" in refusal(open_table, str(elsewhere / "t.csv"), SMALL)
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
    assert message.startswith("deep/c.png is not a PNG, JPEG or DICOM file; remove the file, or")


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


# ---------------------------------------------------------------- what a table says in other ways


@pytest.mark.parametrize("separator", [";", ",", "|", "/"])
@pytest.mark.parametrize("given", ["|", ";", "&"])
def test_a_separator_that_is_not_the_tables_is_doubted(tree, separator, given):
    cells = [f"Edema{separator}Mass", "Mass", f"Mass{separator}Edema {separator} Nodule"]
    rows = "".join(f'{n},"{c}"\n' for n, c in zip(NAMES, cells, strict=True))
    cohort = open_text(tree, f"path,findings\n{rows}", separator=given)
    doubts = [note for note in cohort.notes if note.doubt and note.about == "labels"]
    if given == separator:
        assert cohort.findings == ("Edema", "Mass", "Nodule")
        assert doubts == []
    else:
        (doubt,) = doubts
        assert "such as 'Edema" in doubt.words
        assert doubt.words.endswith(f"--source.separator '{separator}'.")


def test_names_that_hold_a_slash_or_comma_are_no_doubt(tree):
    text = 'path,findings\na.png,Nodule/Mass\nb.png,"Opacity, lung|Edema"\ndeep/c.png,Edema\n'
    cohort = open_text(tree, text)
    assert cohort.findings == ("Edema", "Nodule/Mass", "Opacity, lung")
    assert not any(note.doubt for note in cohort.notes)
    assert "`source.separator` needs a text" in refusal(
        open_text, tree, text, separator="", kind=UsageError
    )


@pytest.mark.parametrize(
    "word",
    ["No Finding", "NO_FINDING", "sin hallazgos", "ohne Befund", "Sans anomalie", "Unauffällig",
     "нОрма", "正常"],
)  # fmt: skip
def test_the_word_for_no_finding_in_several_languages(tree, word):
    cohort = open_text(tree, f"path,findings\na.png,{word}\nb.png,Edema\ndeep/c.png,{word}\n")
    assert cohort.findings == ("Edema",)
    assert cohort.labels[:, 0].tolist() == [0, 1, 0]
    cohort = open_text(tree, f"path,{word},Edema\na.png,1,0\nb.png,0,1\ndeep/c.png,1,0\n")
    assert cohort.findings == ("Edema",)


def test_another_word_for_no_finding_can_be_named(tree):
    text = "path,findings\na.png,Nada Serio\nb.png,Edema\ndeep/c.png,nada serio\n"
    assert "Nada Serio" in open_text(tree, text).findings
    assert open_text(tree, text, healthy="nada_serio").findings == ("Edema",)
    columns = "path,nada serio,Edema\na.png,1,0\nb.png,0,1\ndeep/c.png,1,0\n"
    assert open_text(tree, columns, healthy="Nada serio").findings == ("Edema",)
    for table in (text, columns):
        message = refusal(open_text, tree, table, healthy="nichts", kind=UsageError)
        assert message.startswith("`source.healthy` nichts: t.csv doesn't use this word")


def test_view_sex_age_site_scanner_and_native_size_can_be_named(tree):
    text = (
        "path,proyeccion,sexo,edad,centro,equipo,tamano,Edema\n"
        'a.png,PA,M,58,Norte,DX,2022x2022,1\nb.png,AP,F,"61,5",Sur,CR,1760x1760,0\n'
    )
    named = {
        "view": "proyeccion", "sex": "sexo", "age": "edad", "site": "centro",
        "scanner": "equipo", "native_size": "tamano",
    }  # fmt: skip
    cohort = open_text(tree, text, **named)
    known = {name: column.tolist() for name, column in cohort.attributes.items()}
    assert known == {
        "view": ["PA", "AP"], "sex": ["M", "F"], "age": [58, 61.5], "site": ["Norte", "Sur"],
        "scanner": ["DX", "CR"], "native_size": ["2022x2022", "1760x1760"],
    }  # fmt: skip
    assert cohort.findings == ("Edema",)
    assert open_text(tree, FULL, view="none", age="none").attributes.keys() == {
        "sex", "site", "split",
    }  # fmt: skip
    for name in named:
        assert "unknown column of t.csv 'x'" in refusal(
            open_text, tree, text, kind=UnknownNameError, **{name: "x"}
        )


def test_films_that_are_away_follow_on_bad(tree):
    text = "path,A\n" + "".join(f"gone{i}.png,1\n" for i in range(7)) + "a.png,1\nb.png,0\n"
    message = refusal(open_text, tree, text)
    assert message.startswith("7 films of 9 in t.csv not in")
    assert message.endswith("or use `on_bad` skip")
    cohort = open_text(tree, text, cache=Cache(on_bad="skip"))
    assert cohort.ids.tolist() == ["a.png", "b.png"]
    words = [note.words for note in cohort.notes if note.about == "files"]
    assert words == [
        "Left out: 7 films of 9 in t.csv not in the folder of films: gone0.png; gone1.png; "
        "gone2.png; gone3.png; gone4.png; and 2 more."
    ]
    all_gone = "path,A\nx.png,1\ny.png,0\n"
    assert "2 films of 2" in refusal(open_text, tree, all_gone, cache=Cache(on_bad="skip"))


def test_absolute_paths_inside_the_folder_are_called_as_seen_from_it(tree, monkeypatch):
    text = "".join(f"{tree / name},{i % 2}\n" for i, name in enumerate(NAMES))
    cohort = open_text(tree, "path,A\n" + text)
    assert cohort.ids.tolist() == list(NAMES)
    assert cohort.images[:, 0, 0].tolist() == [0, 10, 20]
    assert str(tree) not in repr(cohort.notes)
    assert "names one film twice" in refusal(open_text, tree, f"path,A\n{text}./a.png,1\n")
    outside = f"path,A\n{tree.parent}/x.png,1\n"
    assert "which leads out of the folder of films" in refusal(open_text, tree, outside)
    # Those of a script that ran elsewhere start there.
    monkeypatch.chdir(tree.parent)
    text = "".join(f"{tree.name}/{name},{i % 2}\n" for i, name in enumerate(NAMES))
    assert open_text(tree, "path,A\n" + text).ids.tolist() == list(NAMES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path;Edema\na.png;1,0\nb.png;0,0\n", "column 'Edema': '1,0' is written with a decimal"),
        ("path;A;Edema\na.png;1;1,0\nb.png;0;\n", "column 'Edema': '1,0' is written with"),
        ("path,Edema,B\na.png,1,0,1\nb.png,0,0,1\n", "line 2: 4 cells under 3 columns; write"),
        ("a.png,1,0\nb.png,0,1\n", "t.csv begins with 'a.png, 1, 0' instead of the names"),
        ("1,0,2.5\n1,1,0\n", "t.csv begins with '1, 0, 2.5' instead of the names"),
    ],
)
def test_the_cause_is_named(tree, text, words):
    assert words in refusal(open_text, tree, text)


def test_a_row_may_end_in_more_blanks(tree):
    cohort = open_text(tree, "path,A\na.png,1,,\nb.png,0,\n")
    assert cohort.labels[:, 0].tolist() == [1, 0]


# ---------------------------------------------------------------- tables that mean harm


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_pipe_is_no_table(tree, name):
    os.mkfifo(tree / name)
    assert f"{name} can't be read: it is a pipe; expected a file" in refusal(
        open_table, str(tree / name), SMALL
    )
    assert "it is a device" in refusal(open_table, "/dev/zero", SMALL)


def test_cells_and_columns_are_bounded(tree, monkeypatch):
    monkeypatch.setattr(tables, "MOST_CELLS", 1000)
    monkeypatch.setattr(tables, "MOST_COLUMNS", 50)
    names = ",".join(f"c{i}" for i in range(40))
    fine = f"path,{names}\n" + f"a.png{',' * 40}\n" * 20
    (tree / "t.csv.gz").write_bytes(gzip.compress(fine.encode()))
    assert len(read_table(tree / "t.csv.gz")) == 41
    more = fine + f"a.png{',' * 40}\n" * 10
    (tree / "t.csv.gz").write_bytes(gzip.compress(more.encode()))
    assert "has more than 1,000 cells; expected at most" in refusal(read_table, tree / "t.csv.gz")
    wide = "path," + ",".join(f"c{i}" for i in range(60)) + "\n"
    assert "has 61 columns; expected at most" in refusal(open_text, tree, wide)


def test_little_memory_is_one_line(tree, monkeypatch):
    def too_much(*_):
        raise MemoryError

    monkeypatch.setattr(tables, "_columns", too_much)
    assert "t.csv doesn't fit in memory" in refusal(open_text, tree, FULL)


FORGED = "A\nCLEAN: nothing was found\x1b[2J\u202e"
SHOWN = r"A\nCLEAN: nothing was found\x1b[2J\u202e"


def test_no_name_in_a_table_forges_a_line(tree):
    text = f'path,patient,view,"{FORGED}"\na.png,"{FORGED}",PA,1\nb.png,p,"{FORGED}",0\n'
    cohort = open_text(tree, text)
    assert cohort.findings == (SHOWN,)
    assert cohort.patients.tolist() == [SHOWN, "p"]
    assert cohort.attributes["view"].tolist() == ["PA", SHOWN]
    assert open_text(tree, text, findings=FORGED).findings == (SHOWN,)
    joined = open_text(tree, f'path,findings\na.png,"{FORGED}|B"\nb.png,B\n')
    assert joined.findings == (SHOWN, "B")


def test_files_are_opened_by_their_names_and_shown_by_others(tree):
    name = "x\x1b]0;t\x07\ny.png"
    (tree / "a.png").rename(tree / name)
    cohort = open_text(tree, f'path,A\n"{name}",1\nb.png,0\n')
    assert cohort.ids.tolist() == [r"x\x1b]0;t\x07\ny.png", "b.png"]
    assert cohort.images[:, 0, 0].tolist() == [0, 10]
    assert cohort.path(0) == str(tree / name)
    (tree / name).write_bytes(b"no film")
    assert refusal(open_text, tree, f'path,A\n"{name}",1\nb.png,0\n').startswith(r"x\x1b]0;t\x07\n")


def test_names_that_become_the_same_are_refused(tree):
    text = 'path,patient,A\na.png,"p\x07",1\nb.png,p\\x07,0\n'
    assert "t.csv, patients: two different names are both shown as" in refusal(
        open_text, tree, text
    )
