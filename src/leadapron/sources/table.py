"""Any CSV table that names films and says what they show."""

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
from leadapron.films.cache import SKIPPABLE, Cache
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
"""What a column of paths is called, in lower case."""

JOINED = (
    "finding labels", "finding_labels", "findings", "finding", "labels", "label", "class",
    "diagnosis",
)  # fmt: skip
"""What a column of joined findings is called, in lower case."""


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
        root: folder that the table's paths start from; the table's own if left out.
        path: column of the films' paths; "path", "filename", "image" and the like if left out.
        findings: columns of findings with commas between, or the one column that joins them; if
            left out, "findings", "Finding Labels" and the like, else all columns that hold nothing
            but 0, 1, -1 and blanks.
        separator: between the findings that one column joins.
        healthy: what says that nothing was found; "No Finding", "normal", "sin hallazgos" and the
            like if left out.
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
        uncertain: what -1 is taken for: "nan" (not stated), "0" or "1".
        blank: what a blank is taken for.
        leakage: "refuse" a split that shares patients, or "allow" it.
        bits: that films of 16 bits use, 8 to 16; those of their highest values, if 0.

    Returns:
        The films in the table's order, with view, sex, age, site, scanner and native size where it
        has them. Those that aren't there are left out where bad films are.

    Raises:
        DataError: a table or film that can't be used, or a path that leads out of `root`.
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
    """Paths that start at the working folder, as of a table that a script wrote, made absolute.

    Only where the first isn't in the folder of films and would be, seen from here.
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
            hint = SKIPPABLE if here.any() else ""
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
    """How a table's columns are understood, as `open_table` says it.

    Args:
        findings: columns, or one that joins them.
        separator: between joined findings.
        healthy: what says that nothing was found.
        uncertain: what -1 is taken for.
        blank: what a blank is taken for.
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
    """Return what a table's columns say of its films.

    Args:
        columns: all but the films' names.
        ids: (n) the films' names.
        where: the table's name, for messages.
        reading: how they are understood; all by their usual names if left out.

    Raises:
        DataError: columns that can't be understood.
        UnknownNameError: a column that isn't there.
        UsageError: a word for "no finding" that stands nowhere.
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
    labels, known = _labels(columns, reading, where, notes)
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
            words = f"Without a patient: {count(int(unnamed.sum()), 'film')}, each its own."
            notes.append(Note("patients", words))
            patients = np.where(unnamed, names, patients)
    return LabelTable(where, labels, known, names, patients, attributes, tuple(notes))


def _column(
    columns: Mapping[str, Any], asked: str, spellings: Sequence[str], kind: str, where: str
) -> str | None:
    """The column that was asked for, else the first of the usual names that is there."""
    if asked:
        asked = clean(asked)
        if asked not in columns:
            raise UnknownNameError(f"column of {where}", asked, columns)
        return asked
    by_lower = {name.lower(): name for name in reversed(list(columns))}
    found = next((by_lower[name] for name in spellings if name in by_lower), None)
    if found is None and kind == "path":
        raise DataError(
            f"{where} has no column of paths that is called so (path, filename, image, ...); its "
            f"columns: {', '.join(list(columns)[:12])}; name it by `source.path`"
        )
    return found


def _labels(
    columns: Columns, reading: Reading, where: str, notes: list[Note]
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
        raise DataError(
            f"{where} has no column of findings; its columns: {', '.join(list(columns)[:12])}; "
            "name them by `source.findings` A,B"
        )
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
        f"`source.healthy` {word}: no finding in {where} is called so; expected its word for none"
    )


def _refuse_decimal_commas(cells: Sequence[str], name: str, where: str) -> None:
    """Raise DataError for a column of labels such as "1,0", which would else count as text."""
    stated = [cell for cell in cells if cell.lower() not in UNKNOWN]
    if stated and all(LABEL_WITH_COMMA.fullmatch(cell) for cell in stated):
        raise DataError(
            f"{where}, column {name!r}: {stated[0]!r} is written with a decimal comma; expected 1, "
            "0, -1 and blanks"
        )
