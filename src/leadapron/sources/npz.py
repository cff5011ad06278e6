"""Images, and labels if there are any, in one .npz file of arrays."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import ATTRIBUTES, Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.reading import given_path, there
from leadapron.sources.arrays import ArrayFilms, read_array, read_shapes
from leadapron.sources.assembly import Leakage, assemble
from leadapron.sources.tables import LabelTable, splits, unknown_patients
from leadapron.types import Note

__all__ = ["open_npz"]


def open_npz(
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    findings: str = "",
    leakage: Leakage = "refuse",
    bits: int = 0,
) -> Cohort:
    """Open an .npz file.

    Args:
        argument: the file: `images` (n, h, w) or (n, h, w, 1), uint8 or uint16; and optionally
            `labels` (n, k) or (n,) in 0, 1 and NaN, `findings` (k), `ids`, `patients`, `split`,
            `view`, `sex`, `site`, `scanner`, `native_size` (n) as text and `age` (n) in years.
        preprocessing: how films become images; the film's own size if left out.
        cache: where decoded films are kept; in memory if left out.
        findings: names of the labels, separated by commas, if the file doesn't hold them.
        leakage: "refuse" a split that shares patients, or "allow" it.
        bits: that films of 16 bits use, 8 to 16; those of their highest values, if 0.

    Raises:
        DataError: a file or arrays that can't be used, such as Python objects, which are never
            read.
        UsageError: no file given, or names that don't fit.
    """
    if not argument:
        raise UsageError("npz needs a file: npz:FILE.npz")
    file = given_path(argument)
    if not there(file):
        raise DataError(f"no file {argument}")
    shapes = read_shapes(file)
    if "images" not in shapes:
        raise DataError(f"{file.name} has no array 'images'; it has {', '.join(shapes)}")
    films = ArrayFilms(file, ["images"], cache)
    n, notes = len(films), list[Note]()
    if "labels" in shapes:
        labels = _labels(file, shapes["labels"], n)
    else:
        labels = np.zeros((n, 0), np.float32)
        notes.append(Note("labels", f"No labels: {file.name} has no array 'labels'."))
    k = labels.shape[1]
    names = [name.strip() for name in findings.split(",") if name.strip()]
    stated = len(names)
    if not names and k and "findings" in shapes:
        stated = math.prod(shapes["findings"][0])
        names = _text(file, "findings", shapes["findings"]).ravel().tolist() if stated == k else []
    if stated != k:
        raise UsageError(
            f"{file.name} has labels of {k} findings and {stated} names; "
            "name them by `source.findings` A,B"
        )
    columns = {name: _column(file, name, shapes[name], n) for name in COLUMNS if name in shapes}
    ids = columns.pop("ids", np.asarray([f"film-{i}" for i in range(n)], dtype=np.str_))
    patients = columns.pop("patients", None)
    attributes: dict[str, NDArray[Any]] = dict(columns)
    if "split" in attributes:
        attributes["split"] = splits(attributes["split"].tolist(), file.name)
    if "age" in shapes:
        attributes["age"] = _ages(file, shapes["age"], n)
    table = LabelTable(
        name=file.name,
        labels=labels,
        findings=tuple(names),
        ids=ids,
        patients=unknown_patients(ids, notes) if patients is None else patients,
        attributes=attributes,
        notes=tuple(notes),
    )
    return assemble(
        films,
        table,
        source=f"npz:{file.absolute()}",
        preprocessing=preprocessing or Preprocessing(size=max(films.size)),
        cache=cache,
        leakage=leakage,
        bits=bits,
    )


COLUMNS = ("ids", "patients", *(name for name in ATTRIBUTES if name != "age"))

MOST_LABELS = 100_000_000
"""Most labels (films times findings)."""

WIDEST_TEXT = 1 << 18
"""Most bytes of a name; all names take as many as the longest."""

Labels = NDArray[np.float32]
Form = tuple[tuple[int, ...], np.dtype[Any]]


def _ages(file: Path, form: Form, n: int) -> NDArray[np.float64]:
    shape, dtype = form
    if shape != (n,) or dtype.kind not in "iuf":
        raise DataError(f"{file.name}: age of shape {shape}; expected {n} numbers")
    return read_array(file, "age").astype(np.float64)


def _labels(file: Path, form: Form, n: int) -> Labels:
    shape, dtype = form
    if len(shape) not in (1, 2) or shape[0] != n or dtype.kind not in "biuf":
        raise DataError(
            f"{file.name}: labels of shape {shape} and type {dtype} for {n} images; "
            f"expected ({n}, findings) numbers"
        )
    if math.prod(shape) > MOST_LABELS:
        raise DataError(f"{file.name}: labels of shape {shape}; expected at most {MOST_LABELS:,}")
    stated = read_array(file, "labels").reshape(n, math.prod(shape[1:]))
    if np.any((stated != 0) & (stated != 1) & ~np.isnan(stated)):
        raise DataError(f"{file.name}: labels must be 0, 1 or NaN (not stated)")
    return stated.astype(np.float32)


def _column(file: Path, name: str, form: Form, n: int) -> NDArray[np.str_]:
    if form[0] != (n,):
        raise DataError(f"{file.name}: {name} of shape {form[0]}; expected {n} of them")
    return _text(file, name, form)


def _text(file: Path, name: str, form: Form) -> NDArray[np.str_]:
    dtype = form[1]
    if dtype.kind not in "SUiu" or dtype.itemsize > WIDEST_TEXT:
        raise DataError(f"{file.name}: {name} of type {dtype}; expected text")
    column = read_array(file, name)
    try:
        return np.char.decode(column, "utf-8") if dtype.kind == "S" else column.astype(np.str_)
    except UnicodeError:
        raise DataError(f"{file.name}: {name} of type {dtype}; expected text in UTF-8") from None
