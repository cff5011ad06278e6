"""Label tables: CSV files of any common delimiter, and the meaning of their cells."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UsageError
from leadapron.reading import open_regular
from leadapron.sources.words import plain_reason
from leadapron.text import clean, clean_names, count, printable
from leadapron.types import Note

__all__ = [
    "ATTRIBUTES",
    "HEALTHY",
    "PARTS",
    "UNKNOWN",
    "LabelTable",
    "Stated",
    "ages",
    "inside",
    "is_healthy",
    "joined_labels",
    "label_column",
    "named_columns",
    "one_by_one",
    "read_columns",
    "read_table",
    "refuse_outside",
    "refuse_unknown_findings",
    "relative",
    "separator_doubts",
    "splits",
    "unknown_patients",
]

Stated = Literal["nan", "0", "1"]
Columns = dict[str, list[str]]

LARGEST_TABLE = 1 << 29
"""Most bytes of a table, uncompressed."""

LONGEST_LINE = 1 << 22
"""Most characters of a table's line."""

MOST_COLUMNS, MOST_CELLS = 10_000, 20_000_000
"""Limits of a table. The largest release (377,110 films, 14 findings) has 7 million cells."""

_MOST = f"expected at most {MOST_COLUMNS:,} columns and {MOST_CELLS:,} cells; leave some out"

ROWS_AT_ONCE = 512
"""Rows parsed in one batch: they stay in the processor's cache, a quarter faster than 4,096."""

DELIMITERS = ",;\t"

HEALTHY = frozenset((
    # English
    "no finding", "no findings", "normal", "normals", "healthy", "negative", "none",
    "no abnormality", "no abnormalities", "no abnormality detected", "nad", "unremarkable",
    # Spanish
    "sin hallazgo", "sin hallazgos", "sin hallazgos patológicos", "sin hallazgos patologicos",
    "sin alteraciones", "sano", "sana", "ninguno", "ninguna", "negativo", "negativa",
    # Portuguese
    "sem achado", "sem achados", "sem alterações", "sem alteracoes", "nenhum", "nenhuma",
    "saudável", "saudavel",
    # French
    "sans anomalie", "sans anomalies", "aucune anomalie", "aucun", "aucune", "normale", "sain",
    "saine", "ras", "rien à signaler",
    # German
    "ohne befund", "o.b.", "o. b.", "kein befund", "keine befunde", "normalbefund", "unauffällig",
    "unauffaellig", "gesund", "negativ", "keine", "keiner",
    # Italian
    "nessun reperto", "nessuno", "nessuna", "nella norma", "sano", "normale",
    # Dutch, Danish, Norwegian, Swedish
    "geen bevinding", "geen bevindingen", "geen afwijkingen", "normaal", "gezond", "ingen fund",
    "ingen funn", "inga fynd", "utan anmärkning", "frisk",
    # Polish, Czech, Turkish, Vietnamese
    "bez zmian", "prawidłowy", "prawidłowe", "bez nálezu", "bulgu yok", "bình thường",
    "không có bất thường",
    # Russian, Ukrainian
    "без патологии", "без патологий", "норма", "здоров", "без патології",
    # Chinese, Japanese, Korean
    "正常", "无异常", "無異常", "未见异常", "未見異常", "異常なし", "所見なし", "정상",
))  # fmt: skip
"""Names that mean "no finding", in the form that `is_healthy` compares."""

UNKNOWN = ("", "nan", "na", "n/a", "none", "null", "unknown")
"""Cells, in lower case, that mean "not stated"."""

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "patient": (
        "patient", "patient_id", "patientid", "patient id", "subject", "subject_id", "subjectid",
    ),
    "view": ("view", "view position", "view_position", "viewposition", "projection"),
    "sex": ("sex", "gender", "patient sex", "patient gender", "patientsex", "patientsex_dicom"),
    "age": ("age", "patient age", "patientage", "age_years"),
    "site": ("site", "hospital", "institution"),
    "scanner": ("scanner", "manufacturer", "manufacturermodelname", "device model"),
    "native_size": ("native_size", "native size", "original size", "original_size"),
    "split": ("split", "fold", "subset", "partition", "set"),
}  # fmt: skip
"""Usual names, in lower case, of the columns of each attribute."""

PARTS = {
    "train": "train", "training": "train", "train_val": "train",
    "val": "validation", "valid": "validation", "validate": "validation",
    "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Usual names of the parts of a split, in lower case."""

OLDEST = 120

LONGEST_ID = 1000
"""Most characters of a film's or patient's name; longer ones are cut."""

SEPARATORS = ";,|/"
"""Possible separators of findings in one cell."""

FILM_ENDINGS = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")

NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Labels, patients and attributes of films, row by row, without pixels.

    Args:
        name: the table's file name, or the name of another origin of the rows.
        labels: (n, k) float32 in {0, 1, NaN}, columns as `findings`.
        findings: the k findings' names.
        ids: (n,) the films' names.
        patients: (n,); the films' names where they are unknown, see `unknown_patients`.
        attributes: view, sex (text, "" where absent), age in years (float64, NaN where absent),
            split ("train", "validation", "test" or ""), and others; each where it exists.
        notes: irregularities, and what was left out.
    """

    name: str
    labels: NDArray[np.float32]
    findings: tuple[str, ...]
    ids: NDArray[np.str_]
    patients: NDArray[np.str_]
    attributes: Mapping[str, NDArray[Any]]
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def cleaned(self) -> Self:
        """Return the table with all its text made printable.

        Raises:
            DataError: two names become equal, or a finding has no name.
        """
        where = clean(self.name, LONGEST_ID)
        findings = _cleaned(self.findings, "findings", where)
        if not all(findings):
            raise DataError(f"{where} has a finding without a name")
        return replace(
            self,
            name=where,
            findings=tuple(findings),
            ids=_cleaned_column(self.ids, "ids", where),
            patients=_cleaned_column(self.patients, "patients", where),
            attributes={
                name: _cleaned_column(column, name, where) if column.dtype.kind == "U" else column
                for name, column in self.attributes.items()
            },
            notes=tuple(replace(note, words=printable(note.words)) for note in self.notes),
        )

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return some rows, in that order."""
        return replace(
            self,
            labels=self.labels[rows],
            ids=self.ids[rows],
            patients=self.patients[rows],
            attributes={name: column[rows] for name, column in self.attributes.items()},
        )


def _cleaned_column(column: NDArray[np.str_], what: str, where: str) -> NDArray[np.str_]:
    if _plain(column):
        return column
    return np.asarray(_cleaned(column.tolist(), what, where), dtype=np.str_)


def _plain(column: NDArray[np.str_]) -> bool:
    """Whether a whole column is visible ASCII, as in most tables; computed on code points."""
    width = column.dtype.itemsize // 4
    if not column.size or not 0 < width <= LONGEST_ID:
        return False
    codes = np.ascontiguousarray(column).view(np.uint32).reshape(len(column), width)
    seen = codes - np.uint32(0x21) <= 0x7E - 0x21  # smaller codes wrap around
    nothing = codes == 0  # padding after the last character, or in between
    inside = nothing[:, :-1] & seen[:, 1:]
    return bool((seen | nothing).all() and not inside.any())


def _cleaned(names: Sequence[str], what: str, where: str) -> list[str]:
    """The names, made printable."""
    distinct = list(dict.fromkeys(names))
    try:
        seen = dict(zip(distinct, clean_names(distinct, LONGEST_ID), strict=True))
    except ValueError as error:
        raise DataError(f"{where}, {what}: {error}") from None
    return [seen[name] for name in names]


def is_healthy(name: str, asked: str = "") -> bool:
    """Return whether a name means "no finding", ignoring case and underscores.

    Args:
        name: of a class, column or finding.
        asked: the only word that means it; the words of `HEALTHY` if left out.
    """
    return _folded(name) == _folded(asked) if asked else _folded(name) in HEALTHY


def _folded(name: str) -> str:
    return " ".join(re.sub("[-_ ]+", " ", name).casefold().split())


def read_columns(path: Path, choose: Callable[[list[str]], Mapping[str, int]]) -> Columns:
    """Read some columns of a CSV file, without blanks around cells.

    The file may be UTF-8 (with or without a byte order mark) or UTF-16 (with one), delimited by
    comma, semicolon or tab, and compressed as .gz. Cells are returned unchanged, since some are
    paths; the header's names are made printable.

    Args:
        path: the file.
        choose: takes the header and returns the position of each wanted column by name.

    Raises:
        DataError: a file that isn't such a table, or is too large; or an error of `choose`.
    """
    try:
        with _open_text(path) as stream:
            lines = _bounded(stream, path)
            first = next(lines, "")
            delimiter = max(DELIMITERS, key=first.count)
            reader = csv.reader(chain([first], lines), delimiter=delimiter)
            header = [clean(cell) for cell in next(reader, [])]
            if len(header) > MOST_COLUMNS:
                raise DataError(f"{path.name} has {len(header):,} columns; {_MOST}")
            positions = choose(header)
            return _columns(reader, len(header), positions, path.name)
    except FileNotFoundError:
        raise DataError(f"no {path.name} in {path.parent}") from None
    except UnicodeError:
        raise DataError(f"{path.name} isn't UTF-8; save it as that") from None
    except MemoryError:
        raise DataError(f"{path.name} doesn't fit in memory") from None
    except (OSError, EOFError, csv.Error, zlib.error) as error:
        raise DataError(f"{path.name} can't be read: {plain_reason(error)}") from None


def _columns(reader: Any, width: int, positions: Mapping[str, int], where: str) -> Columns:
    """The chosen cells of all rows as columns, transposed in batches to save memory."""
    columns: Columns = {name: [] for name in positions}
    rows, cells = _picked(reader, width, list(positions.values()), where), 0
    while part := list(islice(rows, ROWS_AT_ONCE)):
        cells += len(part) * len(positions)
        if cells > MOST_CELLS:
            raise DataError(f"{where} has more than {MOST_CELLS:,} cells; {_MOST}")
        for column, found in zip(columns.values(), zip(*part, strict=True), strict=False):
            column.extend(map(str.strip, found))
    return columns


def _picked(
    reader: Any, width: int, places: Sequence[int], where: str
) -> Iterator[tuple[str, ...]]:
    """Some cells of each non-empty row, and its first; rows of a wrong length are refused."""
    pick: Callable[[Sequence[str]], tuple[str, ...]] = itemgetter(*places, 0)
    last = max(places, default=0)
    for row in reader:
        if not any(row):
            continue
        if len(row) != width:
            if len(row) <= last:
                raise DataError(
                    f"{where}, line {reader.line_num}: too few columns; expected {width}"
                )
            if any(row[width:]):
                raise DataError(
                    f"{where}, line {reader.line_num}: {len(row)} cells under {width} columns; "
                    'write cells that hold the delimiter, as decimal commas, in quotes: "1,5"'
                )
        yield pick(row)


def named_columns(
    path: Path, needed: Mapping[str, tuple[str, ...]], optional: Mapping[str, tuple[str, ...]]
) -> Columns:
    """Read columns under our own names, each from any of its possible names in the file.

    Raises:
        DataError: as `read_columns`, or a needed column that isn't there.
    """

    def choose(header: list[str]) -> dict[str, int]:
        positions = {}
        for name, spellings in {**needed, **optional}.items():
            position = next((header.index(s) for s in spellings if s in header), None)
            if position is not None:
                positions[name] = position
        missing = [" or ".join(needed[name]) for name in needed if name not in positions]
        if missing:
            _refuse_headless(header, path)
            raise DataError(
                f"{path.name} has no column {', '.join(missing)}; "
                f"its columns: {', '.join(header[:12]) or 'none'}"
            )
        return positions

    return read_columns(path, choose)


def read_table(path: Path) -> Columns:
    """Read all columns under their names in the file.

    Raises:
        DataError: as `read_columns`; no rows; a name that two columns have.
    """

    def choose(header: list[str]) -> dict[str, int]:
        if not any(header):
            raise DataError(f"{path.name} is empty; expected a line with the columns' names")
        _refuse_headless(header, path)
        repeated = [name for name, n in Counter(header).items() if n > 1 and name]
        if repeated:
            raise DataError(f"{path.name} has two columns {repeated[0]!r}")
        return {name: i for i, name in enumerate(header) if name}

    columns = read_columns(path, choose)
    if not next(iter(columns.values())):
        raise DataError(f"{path.name} has no rows")
    return columns


def _refuse_headless(header: Sequence[str], path: Path) -> None:
    """Raise DataError for a table that begins with a film instead of its columns' names."""
    stated = [cell for cell in header if cell]
    names_film = any(cell.lower().endswith(FILM_ENDINGS) for cell in stated)
    if names_film or (len(stated) > 1 and all(NUMBER.fullmatch(cell) for cell in stated)):
        raise DataError(
            f"{path.name} begins with {', '.join(stated[:3])!r} instead of the names of its "
            "columns; "
            "add a first line such as path,patient,Edema,Mass"
        )


def _bounded(stream: TextIO, path: Path) -> Iterator[str]:
    """The lines of a table, which may be far larger uncompressed."""
    left = LARGEST_TABLE
    while line := stream.readline(LONGEST_LINE):
        left -= len(line)
        if left < 0:
            raise _too_large(path)
        if len(line) == LONGEST_LINE:
            raise DataError(f"{path.name} holds a line of more than {LONGEST_LINE >> 20} MB")
        yield line


def _too_large(path: Path) -> DataError:
    return DataError(f"{path.name} is larger than {LARGEST_TABLE >> 20:,} MB")


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    with ExitStack() as opened:
        file = opened.enter_context(open_regular(path))
        if os.fstat(file.fileno()).st_size > LARGEST_TABLE:
            raise _too_large(path)
        stream: BinaryIO = file
        if path.suffix == ".gz":
            stream = cast("BinaryIO", opened.enter_context(gzip.GzipFile(fileobj=file)))
        head = stream.read(2)
        stream.seek(0)
        encoding = "utf-16" if head in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        yield opened.enter_context(io.TextIOWrapper(stream, encoding=encoding, newline=""))


def label_column(cells: Iterable[str], *, uncertain: Stated, blank: Stated) -> list[float] | None:
    """Return the labels in the cells of one finding, or None if they aren't labels.

    Args:
        cells: "1", "0.0", "true", "negative", "-1" (uncertain), "" (blank) and the like.
        uncertain: what -1 is taken for.
        blank: what a blank is taken for.
    """
    meaning = {
        **dict.fromkeys(("1", "1.0", "true", "yes", "positive"), 1.0),
        **dict.fromkeys(("0", "0.0", "false", "no", "negative"), 0.0),
        **dict.fromkeys(("-1", "-1.0", "uncertain"), float(uncertain)),
        **dict.fromkeys(UNKNOWN, float(blank)),
    }
    try:
        return [meaning[cell.lower()] for cell in cells]
    except KeyError:
        return None


def joined_labels(
    texts: Sequence[str],
    findings: Sequence[str] | None,
    where: str,
    separator: str = "|",
    healthy: str = "",
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return labels (n, k) and findings from cells such as "Edema|Mass", of which few are distinct.

    Args:
        texts: the cells; a finding that isn't named is absent, a blank cell states nothing.
        findings: allowed findings; all that occur, in alphabetical order, if None.
        where: the table's name, for messages.
        separator: between findings.
        healthy: the word for "no finding"; the usual words if left out.

    Raises:
        DataError: a finding that isn't allowed, or a film with both "no finding" and a finding.
    """
    codes = {text: code for code, text in enumerate(dict.fromkeys(texts))}
    named = [[name.strip() for name in text.split(separator) if name.strip()] for text in codes]
    distinct = {name for names in named for name in names}
    healthy_names = {name for name in distinct if is_healthy(name, healthy)}
    found = sorted(distinct - healthy_names)
    columns = tuple(found if findings is None else findings)
    refuse_unknown_findings(found, columns, where)
    places = {name: place for place, name in enumerate(columns)}
    if len(codes) * len(columns) > MOST_CELLS:
        raise DataError(f"{where} names {len(columns):,} findings; {_MOST}")
    rows = np.zeros((len(codes), len(columns)), dtype=np.float32)
    for code, names in enumerate(named):
        well = [name for name in names if name in healthy_names]
        if well and len(set(names)) > 1:
            raise DataError(f"{where} has {'|'.join(names)!r}: both {well[0]} and a finding")
        if not names:
            rows[code] = np.nan
        elif not well:
            rows[code, [places[name] for name in names]] = 1
    labels: NDArray[np.float32] = rows[[codes[text] for text in texts]]
    return labels, columns


def separator_doubts(found: Sequence[str], separator: str, where: str) -> list[Note]:
    """Return a warning if findings seem to be joined by another separator.

    No finding's name contains ";" or "|". Some contain "," or "/", as "Nodule/Mass", so these count
    only if the parts are findings themselves, or if splitting doesn't increase the number of names.
    """
    notes = []
    for other in SEPARATORS.replace(separator, ""):
        held = [name for name in found if other in name]
        parts = [[part.strip() for part in name.split(other)] for name in found]
        distinct = {part for names in parts for part in names if part}
        whole = {names[0] for names in parts if len(names) == 1}
        again = any(not whole.isdisjoint(names) for names in parts if len(names) > 1)
        if held and (other in ";|" or again or len(distinct) <= len(found)):
            words = (
                f"{where} has {count(len(held), 'finding')} such as {held[0]!r}; if {other!r} "
                f"separates findings, use --source.separator '{other}'"
            )
            notes.append(Note("labels", f"{words}.", doubt=True))
    return notes


def refuse_unknown_findings(names: Iterable[str], known: Sequence[str], where: str) -> None:
    """Raise DataError for findings that aren't known."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise DataError(
            f"{where} holds {count(len(unknown), 'unknown finding')}, first "
            f"{unknown[0]!r}; known: {', '.join(known)}"
        )


def one_by_one(texts: Sequence[str], convert: Callable[[str], float]) -> NDArray[np.float64]:
    """Return `convert` of each text, called once for each distinct text."""
    values = {text: convert(text) for text in set(texts)}
    return np.asarray([values[text] for text in texts], dtype=np.float64)


def ages(texts: Sequence[str], notes: list[Note]) -> NDArray[np.float64]:
    """Return years from "58", "058Y" or "011M"; NaN from anything else and above 120."""
    years = one_by_one(texts, _years)
    absurd = years > OLDEST
    if absurd.any():
        years[absurd] = np.nan
        words = f"Taken as unknown: {count(int(absurd.sum()), 'age')} above {OLDEST} years."
        notes.append(Note("columns", words))
    return years


def _years(text: str) -> float:
    text = text.replace(",", ".", 1) if DECIMAL_COMMA.match(text) else text
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "Y")
    shares = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
    plain = number.replace(".", "", 1).isdigit() and number.isascii()
    return float(number) * shares[unit] if plain and unit in shares else float("nan")


def unknown_patients(ids: NDArray[np.str_], notes: list[Note]) -> NDArray[np.str_]:
    """Return a separate patient for each film, and add a note."""
    words = "Patients aren't known: each film counts as a patient, so splits may share patients."
    notes.append(Note("patients", words))
    return ids


def splits(texts: Sequence[str], where: str) -> NDArray[np.str_]:
    """Return "train", "validation", "test" or "" for each cell.

    Raises:
        DataError: a part of another name.
    """
    unknown = sorted({t for t in texts if t.lower() not in PARTS and t.lower() not in UNKNOWN})
    if unknown:
        raise DataError(f"{where} has a split {unknown[0]!r}; expected train, validation or test")
    return np.asarray([PARTS.get(text.lower(), "") for text in texts], dtype=np.str_)


def inside(root: Path, names: Sequence[str], where: str) -> list[str]:
    """Return the paths of files that a table names, all of them inside a folder.

    Raises:
        DataError: a path or link that leads out of the folder.
    """
    base = os.path.realpath(root)
    folders: dict[str, str] = {}
    paths = []
    for name in names:
        parts = name.replace("\\", "/").split("/")
        absolute = parts[0] == ""
        if ".." in parts or "\0" in name or ":" in parts[0]:
            raise _leads_out(name, where)
        folder, last = "/".join(parts[:-1]), parts[-1]
        if folder not in folders:
            start = "/" if absolute else base
            folders[folder] = os.path.realpath(os.path.join(start, folder))  # noqa: PTH118
        path = f"{folders[folder].rstrip(os.sep)}{os.sep}{last}"
        if os.path.islink(path):  # noqa: PTH114 (asked for every film)
            path = os.path.realpath(path)
        if not path.startswith(base.rstrip(os.sep) + os.sep):
            if absolute:
                raise _leads_out(name, where)
            raise DataError(
                f"{where} names {name!r}, a link that leads out of the folder of films; give the "
                "folder that it leads to"
            )
        paths.append(path)
    return paths


def _leads_out(name: str, where: str) -> DataError:
    return DataError(f"{where} names {name!r}, which leads out of the folder of films")


def relative(names: Sequence[str], root: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the names of files, with absolute paths made relative to a folder.

    Names appear on pages and in tables that others see; the location of the films shouldn't.

    Args:
        names: paths.
        root: the folder; the innermost common one if left out.
    """
    absolute = [name for name in names if os.path.isabs(name)]  # noqa: PTH117
    if not absolute:
        return list(names)
    if root is None:
        root = os.path.commonpath([os.path.dirname(name) for name in absolute])  # noqa: PTH120
    return [os.path.relpath(name, root) if os.path.isabs(name) else name for name in names]  # noqa: PTH117


def refuse_outside(name: str, option: str) -> None:
    """Raise UsageError for a file outside the source's folder."""
    path = Path(name)
    if path.is_absolute() or path.drive or ".." in path.parts:
        raise UsageError(f"{option} {name!r} leads out of the folder; name a file inside it")
