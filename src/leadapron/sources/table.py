"""Any CSV table with films and their labels."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.decoding import FilmFiles
from leadapron.films.preprocessing import Preprocessing
from leadapron.reading import given_path, there
from leadapron.sources.assembly import Leakage, assemble
from leadapron.sources.tables import (
    ATTRIBUTES,
    UNKNOWN,
    Columns,
    LabelTable,
    Stated,
    ages,
    inside,
    is_healthy,
    joined_labels,
    label_column,
    read_table,
    relative,
    separator_doubts,
    splits,
    unknown_patients,
)
from leadapron.sources.words import listed
from leadapron.text import clean, count
from leadapron.types import Note

__all__ = ["Reading", "labelled", "open_table"]

LABEL_WITH_COMMA = re.compile(r"-?[01],0+")

PATHS = (
    "path", "file", "filename", "file_name", "filepath", "image", "image_path", "image path",
    "image index", "image_id", "imageid", "dicom_id", "img", "id",
)  # fmt: skip
"""Usual names of a column of paths, in lower case."""

JOINED = (
    "finding labels", "finding_labels", "findings", "finding", "labels", "label", "class",
    "diagnosis",
)  # fmt: skip
"""Usual names of a column of joined findings, in lower case."""


def open_table(  # noqa: PLR0913 (settings, by keyword)
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    root: str = "",
    path: str = "",
    findings: str = "",
    separator: str = "|",
    healthy: str = "",
    patient: str = "",
    split: str = "",
    view: str = "",
    sex: str = "",
    age: str = "",
    site: str = "",
    scanner: str = "",
    native_size: str = "",
    uncertain: Stated = "nan",
    blank: Stated = "nan",
    leakage: Leakage = "refuse",
    bits: int = 0,
) -> Cohort:
    """Open films that a CSV table names.

    Args:
        argument: the table: UTF-8 or UTF-16, with commas, semicolons or tabs; .gz too.
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films are kept; in memory if left out.
        root: folder that the table's paths are relative to; the table's own folder if left out.
        path: column of the films' paths; "path", "filename", "image" and the like if left out.
        findings: columns of findings, separated by commas, or the single column that joins them; if
            left out, "findings", "Finding Labels" and the like, or else all columns that hold only
            0, 1, -1 and blanks. Without any, the films have no labels.
        separator: separator of the findings in a joined column.
        healthy: the word for "no finding"; "No Finding", "normal", "sin hallazgos" and the like if
            left out.
        patient: column of the patients; "patient", "subject_id" and the like if left out, and
            "none" for no column.
        split: column that says train, validation or test; "split", "fold" and the like if left
            out, and "none" for no column.
        view: column of the projection; "view" and the like if left out, and "none" for no column.
        sex: column of the sex, as `view`.
        age: column of the age in years, as `view`.
        site: column of the hospital, as `view`.
        scanner: column of the machine's manufacturer or model, as `view`.
        native_size: column of the film's size before it was made smaller, as `view`.
        uncertain: meaning of -1: "nan" (not stated), "0" or "1".
        blank: meaning of a blank.
        leakage: "refuse" a split that shares patients, or "allow" it.
        bits: that films of 16 bits use, 8 to 16; those of their highest values, if 0.

    Returns:
        The films in the table's order, with view, sex, age, site, scanner and native size if it has
        them. Missing files are left out if unreadable films are.

    Raises:
        DataError: a table or film that can't be used, or a path outside `root`.
        UsageError: no table given, or a column that it doesn't have.
    """
    if not argument:
        raise UsageError("table needs a file: table:FILE.csv")
    file = given_path(argument)
    folder = given_path(root) if root else file.parent
    columns = read_table(file)
    names = _paths(columns, path, file.name, folder)
    reading = Reading(
        findings=findings, separator=separator, healthy=healthy, uncertain=uncertain, blank=blank,
        chosen={
            "patient": patient, "split": split, "view": view, "sex": sex, "age": age, "site": site,
            "scanner": scanner, "native_size": native_size,
        },
    )  # fmt: skip
    table = labelled(columns, relative(names, folder.absolute()), file.name, reading)
    table, paths = _with_files(table, inside(folder, names, file.name), folder, cache or Cache())
    return assemble(
        FilmFiles(paths, table.ids.tolist()), table, source=f"table:{file.absolute()}",
        preprocessing=preprocessing or Preprocessing(size=224),
        cache=cache, leakage=leakage, bits=bits,
    )  # fmt: skip


def _paths(columns: Columns, path: str, where: str, folder: Path) -> list[str]:
    """The films' paths, taken out of the columns."""
    names = columns.pop(_column(columns, path, PATHS, "path", where) or "")
    if blanks := names.count(""):
        raise DataError(f"{where}: {count(blanks, 'row')} without a path")
    return _from_here(names, folder)


def _from_here(names: list[str], folder: Path) -> list[str]:
    """Paths relative to the working folder, as in a table that a script wrote, made absolute.

    Only if the first path doesn't exist in the folder of films but does from here.
    """
    here = os.path.abspath(names[0])  # noqa: PTH100
    base = os.path.realpath(folder)
    if there(folder / names[0]) or not there(here):
        return names
    if not os.path.realpath(here).startswith(base.rstrip(os.sep) + os.sep):
        return names
    return [os.path.abspath(name) for name in names]  # noqa: PTH100


def _with_files(
    table: LabelTable, paths: Sequence[str], folder: Path, cache: Cache
) -> tuple[LabelTable, list[str]]:
    """The films that are there, each once; others stop the run, or are left out and listed."""
    here = np.asarray([os.path.isfile(path) for path in paths], dtype=np.bool_)  # noqa: PTH113
    if not here.all():
        missing = table.ids[~here].tolist()
        words = f"{count(len(missing), 'film')} of {len(table):,} in {table.name} not in"
        if cache.on_bad == "stop" or not here.any():
            hint = ", or use `on_bad` skip" if here.any() else ""
            raise DataError(
                f"{words} {folder}, first {missing[0]!r}; `source.root` FOLDER says where paths "
                f"start{hint}"
            )
        note = Note("files", f"Left out: {words} the folder of films: {listed(missing)}.")
        rows = np.flatnonzero(here)
        table = replace(table.take(rows), notes=(*table.notes, note))
        paths = [paths[row] for row in rows.tolist()]
    _refuse_twice(table, paths)
    return table, list(paths)


def _refuse_twice(table: LabelTable, paths: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for name, path in zip(table.ids.tolist(), paths, strict=True):
        if first.setdefault(path, name) != name:
            raise DataError(f"{table.name} names one film twice: {first[path]!r} and {name!r}")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a table's columns are interpreted; see `open_table`.

    Args:
        findings: columns, or the one that joins them.
        separator: between joined findings.
        healthy: the word for "no finding".
        uncertain: meaning of -1.
        blank: meaning of a blank.
        chosen: columns for attributes that the user named, "" and "none" among them.
    """

    findings: str = ""
    separator: str = "|"
    healthy: str = ""
    uncertain: Stated = "nan"
    blank: Stated = "nan"
    chosen: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.separator:
            raise UsageError("`source.separator` needs a text; expected one such as ;")


def labelled(
    columns: Columns, ids: Sequence[str], where: str, reading: Reading | None = None
) -> LabelTable:
    """Return the labels and attributes of films from a table's columns.

    Args:
        columns: all but the films' names.
        ids: (n) the films' names.
        where: the table's name, for messages.
        reading: how they are interpreted; by their usual names if left out.

    Raises:
        DataError: columns that can't be interpreted.
        UnknownNameError: no such column.
        UsageError: the word for "no finding" doesn't occur.
    """
    reading = reading or Reading()
    notes: list[Note] = []
    found: dict[str, list[str]] = {}
    for name, spellings in ATTRIBUTES.items():
        asked = reading.chosen.get(name, "")
        column = None if asked == "none" else _column(columns, asked, spellings, name, where)
        if column is not None:
            found[name] = columns[column]
            columns = {n: cells for n, cells in columns.items() if n != column}
    names = np.asarray(ids, dtype=np.str_)
    labels, known = _labels(columns, len(names), reading, where, notes)
    attributes: dict[str, NDArray[Any]] = {}
    for name, cells in found.items():
        if name == "age":
            attributes[name] = ages(cells, notes)
        elif name == "split":
            attributes[name] = splits(cells, where)
        elif name != "patient":
            attributes[name] = np.asarray(cells, dtype=np.str_)
    if "patient" not in found:
        patients = unknown_patients(names, notes)
    else:
        patients = np.asarray(found["patient"], dtype=np.str_)
        unnamed = np.isin(np.char.lower(patients), UNKNOWN)
        if unnamed.any():
            words = (
                f"Without a patient: {count(int(unnamed.sum()), 'film')}, each counted as a "
                "patient."
            )
            notes.append(Note("patients", words))
            patients = np.where(unnamed, names, patients)
    return LabelTable(where, labels, known, names, patients, attributes, tuple(notes))


def _column(
    columns: Mapping[str, Any], asked: str, spellings: Sequence[str], kind: str, where: str
) -> str | None:
    """The requested column, or else the first that has a usual name."""
    if asked:
        asked = clean(asked)
        if asked not in columns:
            raise UnknownNameError(f"column of {where}", asked, columns)
        return asked
    by_lower = {name.lower(): name for name in reversed(list(columns))}
    found = next((by_lower[name] for name in spellings if name in by_lower), None)
    if found is None and kind == "path":
        raise DataError(
            f"{where} has no column of paths with a usual name (path, filename, image, ...); its "
            f"columns: {', '.join(list(columns)[:12])}; name it by `source.path`"
        )
    return found


def _labels(
    columns: Columns, rows: int, reading: Reading, where: str, notes: list[Note]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    chosen = [clean(name) for name in reading.findings.split(",") if name.strip()]
    for name in chosen:
        if name not in columns:
            raise UnknownNameError(f"column of {where}", name, columns)
    if not chosen:
        joined = _column(columns, "", JOINED, "findings", where)
        if joined is not None:
            chosen = [joined]
    stated = {
        name: label_column(columns[name], uncertain=reading.uncertain, blank=reading.blank)
        for name in (chosen or columns)
    }
    if len(chosen) == 1 and stated[chosen[0]] is None:
        return _joined(columns[chosen[0]], reading, where, notes)
    for name, cells in stated.items():
        if cells is None:
            _refuse_decimal_commas(columns[name], name, where)
            if chosen:
                raise DataError(
                    f"{where}, column {name!r}: expected 1, 0, -1 and blanks, or the names of "
                    "columns that hold them as `source.findings` A,B"
                )
    well = [name for name in stated if is_healthy(name, reading.healthy)]
    if reading.healthy and not well:
        raise _no_such_word(reading.healthy, where)
    kept = {
        name: cells
        for name, cells in stated.items()
        if cells is not None and name not in well and (chosen or np.isfinite(cells).any())
    }
    if not kept:
        words = f"No labels: {where} has no column of findings."
        if columns:
            names = ", ".join(list(columns)[:12])
            words += f" Its columns: {names}; name them by `source.findings` A,B."
        notes.append(Note("labels", words, doubt=bool(columns)))
        return np.zeros((rows, 0), np.float32), ()
    return np.asarray(list(kept.values()), dtype=np.float32).T, tuple(kept)


def _joined(
    cells: Sequence[str], reading: Reading, where: str, notes: list[Note]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Labels and findings of cells that join them."""
    separator, word = reading.separator, reading.healthy
    if word and not any(is_healthy(n, word) for c in set(cells) for n in c.split(separator)):
        raise _no_such_word(word, where)
    labels, findings = joined_labels(cells, None, where, separator, word)
    notes += separator_doubts(findings, separator, where)
    return labels, findings


def _no_such_word(word: str, where: str) -> UsageError:
    return UsageError(
        f"`source.healthy` {word}: {where} doesn't use this word; expected its word for no finding"
    )


def _refuse_decimal_commas(cells: Sequence[str], name: str, where: str) -> None:
    """Raise DataError for labels such as "1,0", which would otherwise count as text."""
    stated = [cell for cell in cells if cell.lower() not in UNKNOWN]
    if stated and all(LABEL_WITH_COMMA.fullmatch(cell) for cell in stated):
        raise DataError(
            f"{where}, column {name!r}: {stated[0]!r} is written with a decimal comma; expected 1, "
            "0, -1 and blanks"
        )
