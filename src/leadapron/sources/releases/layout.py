"""Shared code of the published releases: folders, tables, labels, views, films."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.decoding import FilmFiles
from leadapron.films.preprocessing import Preprocessing
from leadapron.reading import given_path, is_folder
from leadapron.sources.assembly import Leakage, assemble
from leadapron.sources.tables import (
    Columns,
    LabelTable,
    Stated,
    inside,
    label_column,
    named_columns,
)
from leadapron.text import count
from leadapron.types import Note

__all__ = [
    "NO_FINDING",
    "Release",
    "Views",
    "agreed",
    "find_table",
    "grouped",
    "opened",
    "read_rows",
    "release_folder",
    "reported_labels",
    "stated",
    "table_in",
    "without",
    "without_laterals",
]

Release = Mapping[str, str | int]
"""Facts of a release: name, version, films, citation, terms, page; patients where known."""

Views = Literal["frontal", "all"]

NO_FINDING = "No Finding"
DEVICES = "Support Devices"
"""The one finding that "No Finding" doesn't exclude."""


def release_folder(name: str, argument: str, holds: str) -> Path:
    """Return the folder of a release.

    Args:
        name: the source's name.
        argument: the folder.
        holds: its contents, for messages.

    Raises:
        DataError: no such folder.
        UsageError: no folder given.
    """
    if not argument:
        raise UsageError(f"{name} needs a folder: {name}:PATH")
    folder = given_path(argument)
    if not is_folder(folder):
        raise DataError(f"no folder {argument}; expected the one that holds {holds}")
    return folder


def find_table(folder: Path, *names: str) -> Path | None:
    """Return the first of some files that exists, uncompressed or as .gz."""
    files = [folder / f"{name}{end}" for name in names for end in ("", ".gz")]
    return next((file for file in files if file.is_file()), None)


def table_in(folder: Path, *names: str) -> Path:
    """Return the first of some files that exists, uncompressed or as .gz.

    Raises:
        DataError: none is.
    """
    file = find_table(folder, *names)
    if file is None:
        raise DataError(f"no {' or '.join(names)} in {folder} (.gz too)")
    return file


def read_rows(
    file: Path,
    needed: Mapping[str, tuple[str, ...]],
    optional: Mapping[str, tuple[str, ...]] | None = None,
) -> Columns:
    """Return columns under our own names, as `named_columns`.

    Raises:
        DataError: as `named_columns`, or no rows.
    """
    columns = named_columns(file, needed, optional or {})
    if not next(iter(columns.values())):
        raise DataError(f"{file.name} has no rows")
    return columns


def stated(
    cells: Sequence[str],
    where: str,
    column: str,
    *,
    uncertain: Stated = "nan",
    blank: Stated = "nan",
) -> NDArray[np.float32]:
    """Return a column of labels, (n,) in {0, 1, NaN}.

    Raises:
        DataError: a cell that isn't 1, 0, -1 or blank.
    """
    values = label_column(cells, uncertain=uncertain, blank=blank)
    if values is None:
        raise DataError(f"{where}, column {column!r}: expected 1, 0, -1 and blanks")
    return np.asarray(values, dtype=np.float32)


def reported_labels(
    columns: Columns,
    findings: Sequence[str],
    where: str,
    notes: list[Note],
    *,
    uncertain: Stated,
    blank: Stated,
) -> NDArray[np.float32]:
    """Return labels (n, k) from a labeler of reports: 1, 0, -1, and a blank for "not mentioned".

    If "No Finding" is 1, blanks of the other findings except the support devices are 0.

    Args:
        columns: the columns of the findings and of "No Finding".
        findings: the k findings.
        where: the table's name, for messages.
        notes: the interpretation of uncertain and blank labels is added to them.
        uncertain: meaning of -1.
        blank: meaning of other blanks.

    Raises:
        DataError: a cell that isn't 1, 0, -1 or blank.
    """
    healthy = stated(columns[NO_FINDING], where, NO_FINDING) == 1
    labels = np.empty((len(healthy), len(findings)), dtype=np.float32)
    doubts = 0
    for k, name in enumerate(findings):
        cells = np.asarray(columns[name], dtype=np.str_)
        labels[:, k] = stated(columns[name], where, name, uncertain=uncertain, blank=blank)
        doubts += int(np.char.startswith(cells, "-").sum())
        if name != DEVICES:
            labels[healthy & (cells == ""), k] = 0
    taken = {"nan": "not stated", "0": "absent", "1": "present"}
    taken_for = (
        f"{where}, uncertain, taken as {taken[uncertain]}: {count(doubts, 'label')}.",
        f"{where}, {NO_FINDING}: {count(int(healthy.sum()), 'row')}; findings that their reports "
        "don't "
        f"mention are taken as absent, except {DEVICES}. In other rows: {taken[blank]}.",
    )
    notes.extend(Note("labels", words) for words in taken_for)
    return labels


def grouped(names: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct names, in order, and for each of `names` its position among them."""
    places = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return list(places), np.asarray([places[name] for name in names], dtype=np.int64)


def agreed(
    names: Sequence[str], values: NDArray[np.float32], where: str
) -> tuple[list[str], NDArray[np.float32]]:
    """Return the films and labels of a table that may have several rows for a film.

    Args:
        names: (m) films, with repetitions.
        values: (m,) their labels.
        where: the table's name, for messages.

    Raises:
        DataError: a film with two labels.
    """
    films, rows = grouped(names)
    labels = np.empty(len(films), dtype=np.float32)
    labels[rows] = values
    wrong = np.flatnonzero((labels[rows] != values) & np.isfinite(values))
    if len(wrong):
        raise DataError(f"{where} states two labels for film {names[int(wrong[0])]!r}")
    return films, labels


def without(
    table: LabelTable, paths: Sequence[str], out: NDArray[np.bool_], why: str
) -> tuple[LabelTable, list[str]]:
    """Return a table and its films' paths without some rows, with a note about them.

    Args:
        table: (n) films.
        paths: (n) the films' paths.
        out: (n,) bool, rows to leave out.
        why: the reason, such as "without a file".

    Raises:
        DataError: no row is left.
    """
    if not out.any():
        return table, list(paths)
    left = f"{count(int(out.sum()), 'film')} of {len(out):,} {why}"
    if out.all():
        raise DataError(f"no film is left of {table.name}: {left}")
    rows = np.flatnonzero(~out)
    notes = (*table.notes, Note("files", f"Left out: {left}."))
    kept = replace(table.take(rows), notes=notes)
    return kept, [paths[row] for row in rows.tolist()]


def without_laterals(
    table: LabelTable, paths: Sequence[str], frontal: NDArray[np.bool_], views: Views
) -> tuple[LabelTable, list[str]]:
    """Return a table and its films' paths without lateral films, unless those are wanted.

    Raises:
        DataError: no film is frontal.
    """
    out = ~frontal if views == "frontal" else np.zeros_like(frontal)
    return without(table, paths, out, "that aren't frontal; --source.views all keeps them")


def opened(
    name: str,
    folder: Path,
    table: LabelTable,
    paths: Sequence[str],
    *,
    preprocessing: Preprocessing | None,
    cache: Cache | None,
    window: str = "header",
    leakage: Leakage = "refuse",
    bits: int = 0,
) -> Cohort:
    """Decode the films of a release whose files exist, and return their cohort.

    Args:
        name: the source's name.
        folder: the release's.
        table: (n) films.
        paths: (n) the films' paths inside the folder.
        preprocessing: how films become images; 224x224 if left out.
        cache: as `assemble`.
        window: as `FilmFiles`.
        leakage: as `assemble`.
        bits: as `assemble`.

    Raises:
        DataError: no film exists, a film named twice, a path that leads out, or as `assemble`.
        StoreError: as `assemble`.
    """
    repeated = [film for film, n in Counter(table.ids.tolist()).items() if n > 1]
    if repeated:
        raise DataError(
            f"{table.name} names {count(len(repeated), 'film')} more than once, first "
            f"{repeated[0]!r}; each must have one row"
        )
    places = dict(zip(paths, inside(folder, paths, table.name), strict=True))
    absent = np.asarray([not os.path.isfile(places[path]) for path in paths])  # noqa: PTH113
    if absent.all():
        raise DataError(
            f"none of the {count(len(paths), 'film')} in {table.name} is in {folder}, first "
            f"{paths[0]!r}; give the folder that these paths are relative to"
        )
    table, paths = without(table, paths, absent, "without a file")
    return assemble(
        FilmFiles([places[path] for path in paths], table.ids.tolist(), window),
        table,
        source=f"{name}:{folder.absolute()}",
        preprocessing=preprocessing or Preprocessing(size=224),
        cache=cache,
        leakage=leakage,
        bits=bits,
    )
