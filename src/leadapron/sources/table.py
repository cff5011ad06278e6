"""Any CSV table that names films and says what they show."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.cache import Cache
from leadapron.cohort import Cohort
from leadapron.decoding import FilmFiles
from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.preprocessing import Preprocessing
from leadapron.reading import given_path
from leadapron.sources.assembly import Leakage, assemble
from leadapron.sources.tables import (
    ATTRIBUTES,
    HEALTHY,
    UNKNOWN,
    Columns,
    LabelTable,
    Stated,
    ages,
    inside,
    joined_labels,
    label_column,
    read_table,
    splits,
    unknown_patients,
)
from leadapron.sources.words import count
from leadapron.types import Note

__all__ = ["labelled", "open_table"]

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
    patient: str = "",
    split: str = "",
    uncertain: Stated = "nan",
    blank: Stated = "nan",
    leakage: Leakage = "refuse",
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
        patient: column of the patients; "patient", "subject_id" and the like if left out, and
            "none" for no column.
        split: column that says train, validation or test; "split", "fold" and the like if left
            out, and "none" for no column.
        uncertain: what -1 is taken for: "nan" (not stated), "0" or "1".
        blank: what a blank is taken for.
        leakage: "refuse" a split that shares patients, or "allow" it.

    Returns:
        The films in the table's order, with view, sex, age and site where it has them.

    Raises:
        DataError: a table or film that can't be used, or a path that leads out of `root`.
        UsageError: no table given, or a column that it doesn't have.
    """
    if not argument:
        raise UsageError("table needs a file: table:FILE.csv")
    file = given_path(argument)
    folder = given_path(root) if root else file.parent
    columns = read_table(file)
    where = file.name
    names = columns.pop(_column(columns, path, PATHS, "path", where) or "")
    if blanks := names.count(""):
        raise DataError(f"{where}: {count(blanks, 'row')} without a path")
    table = labelled(
        columns,
        names,
        where,
        findings=findings,
        separator=separator,
        chosen={"patient": patient, "split": split},
        uncertain=uncertain,
        blank=blank,
    )
    paths = inside(folder, names, where)
    missing = [name for name, p in zip(names, paths, strict=True) if not os.path.isfile(p)]  # noqa: PTH113
    if missing:
        raise DataError(
            f"{count(len(missing), 'film')} of {len(names):,} in {where} not in {folder}, first "
            f"{missing[0]!r}; --source.root FOLDER says where paths start"
        )
    where_first: dict[str, str] = {}
    for name, p in zip(names, paths, strict=True):
        if where_first.setdefault(p, name) != name:
            raise DataError(f"{where} names one film twice: {where_first[p]!r} and {name!r}")
    return assemble(
        FilmFiles(paths, names),
        table,
        source=f"table:{file.absolute()}",
        preprocessing=preprocessing or Preprocessing(size=224),
        cache=cache,
        leakage=leakage,
    )


def labelled(
    columns: Columns,
    ids: Sequence[str],
    where: str,
    *,
    findings: str = "",
    separator: str = "|",
    chosen: Mapping[Literal["patient", "split"], str] | None = None,
    uncertain: Stated = "nan",
    blank: Stated = "nan",
) -> LabelTable:
    """Return what a table's columns say of its films.

    Args:
        columns: all but the films' names.
        ids: (n) the films' names.
        where: the table's name, for messages.
        findings: as `open_table`.
        separator: as `open_table`.
        uncertain: as `open_table`.
        blank: as `open_table`.
        chosen: columns for attributes that the user named, "" and "none" among them.

    Raises:
        DataError: columns that can't be understood.
        UnknownNameError: a column that isn't there.
    """
    notes: list[Note] = []
    found: dict[str, list[str]] = {}
    for name, spellings in ATTRIBUTES.items():
        asked = (chosen or {}).get(name, "")  # type: ignore[call-overload]
        column = None if asked == "none" else _column(columns, asked, spellings, name, where)
        if column is not None:
            found[name] = columns[column]
            columns = {n: cells for n, cells in columns.items() if n != column}
    names = np.asarray(ids, dtype=np.str_)
    labels, known = _labels(columns, findings, separator, where, uncertain, blank)
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
        if asked not in columns:
            raise UnknownNameError(f"column of {where}", asked, columns)
        return asked
    by_lower = {name.lower(): name for name in reversed(list(columns))}
    found = next((by_lower[name] for name in spellings if name in by_lower), None)
    if found is None and kind == "path":
        raise DataError(
            f"{where} has no column of paths that is called so (path, filename, image, ...); its "
            f"columns: {', '.join(list(columns)[:12])}; name it by --source.path"
        )
    return found


def _labels(
    columns: Columns,
    asked: str,
    separator: str,
    where: str,
    uncertain: Stated,
    blank: Stated,
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    chosen = [name.strip() for name in asked.split(",") if name.strip()]
    for name in chosen:
        if name not in columns:
            raise UnknownNameError(f"column of {where}", name, columns)
    if not chosen:
        joined = _column(columns, "", JOINED, "findings", where)
        if joined is not None:
            chosen = [joined]
    single = len(chosen) == 1
    stated = {
        name: label_column(columns[name], uncertain=uncertain, blank=blank)
        for name in (chosen or columns)
    }
    if single and stated[chosen[0]] is None:
        return joined_labels(columns[chosen[0]], None, where, separator)
    wrong = [name for name in chosen if stated[name] is None]
    if wrong:
        raise DataError(
            f"{where}, column {wrong[0]!r}: expected 1, 0, -1 and blanks, or the names of columns "
            "that hold them as --source.findings A,B"
        )
    healthy = [n for n, c in stated.items() if c is not None and n.lower() not in HEALTHY]
    kept = [name for name in healthy if np.isfinite(np.asarray(stated[name])).any() or chosen]
    if not kept:
        raise DataError(
            f"{where} has no column of findings; its columns: {', '.join(list(columns)[:12])}; "
            "name them by --source.findings A,B"
        )
    return np.asarray([stated[name] for name in kept], dtype=np.float32).T, tuple(kept)
