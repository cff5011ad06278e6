"""Images and labels in one .npz file of arrays."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.cache import Cache
from leadapron.cohort import Cohort
from leadapron.errors import DataError, UsageError
from leadapron.preprocessing import Preprocessing
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
        argument: the file: `images` (n, h, w) or (n, h, w, 1), uint8 or uint16; `labels` (n, k) or
            (n,) in 0, 1 and NaN; if there are any, `findings` (k), `ids`, `patients`, `split`,
            `view`, `sex`, `site` (n) as text and `age` (n) in years.
        preprocessing: how films become images; the film's own size if left out.
        cache: where decoded films are kept; in memory if left out.
        findings: the labels' names with commas between, where the file doesn't hold them.
        leakage: "refuse" a split that shares patients, or "allow" it.
        bits: that films of 16 bits use, 8 to 16; those of their highest values, if 0.

    Raises:
        DataError: a file or arrays that can't be used; Python objects in it aren't read.
        UsageError: no file given, or names that don't fit.
    """
    if not argument:
        raise UsageError("npz needs a file: npz:FILE.npz")
    file = Path(argument).expanduser()
    if not file.is_file():
        raise DataError(f"no file {argument}")
    shapes = read_shapes(file)
    for name in ("images", "labels"):
        if name not in shapes:
            raise DataError(f"{file.name} has no array {name!r}; it has {', '.join(shapes)}")
    films = ArrayFilms(file, ["images"], cache)
    n, notes = len(films), list[Note]()
    labels = _labels(read_array(file, "labels"), n, file.name)
    names = [name.strip() for name in findings.split(",") if name.strip()]
    if not names and "findings" in shapes:
        listed = read_array(file, "findings").ravel()
        names = _as_text(listed, "findings", file.name).tolist()
    if len(names) != labels.shape[1]:
        raise UsageError(
            f"{file.name} has labels of {labels.shape[1]} findings and {len(names)} names; "
            "name them by --source.findings A,B"
        )
    columns = {name: _text(file, name, n) for name in shapes if name in COLUMNS}
    ids = columns.pop("ids", np.asarray([f"film-{i}" for i in range(n)], dtype=np.str_))
    patients = columns.pop("patients", None)
    attributes: dict[str, NDArray[Any]] = dict(columns)
    if "split" in attributes:
        attributes["split"] = splits(attributes["split"].tolist(), file.name)
    if "age" in shapes:
        age = read_array(file, "age")
        if age.shape != (n,) or age.dtype.kind not in "iuf":
            raise DataError(f"{file.name}: age of shape {age.shape}; expected {n} numbers")
        attributes["age"] = age.astype(np.float64)
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


COLUMNS = ("ids", "patients", "split", "view", "sex", "site")


def _labels(labels: NDArray[Any], n: int, where: str) -> NDArray[np.float32]:
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.ndim != 2 or len(labels) != n or labels.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: labels of shape {labels.shape} and type {labels.dtype} for {n} images; "
            f"expected ({n}, findings) numbers"
        )
    stated: NDArray[np.float32] = labels.astype(np.float32)
    if np.any((stated != 0) & (stated != 1) & ~np.isnan(stated)):
        raise DataError(f"{where}: labels must be 0, 1 or NaN (not stated)")
    return stated


def _text(file: Path, name: str, n: int) -> NDArray[np.str_]:
    column = read_array(file, name)
    if column.shape != (n,):
        raise DataError(f"{file.name}: {name} of shape {column.shape}; expected {n} of them")
    return _as_text(column, name, file.name)


def _as_text(column: NDArray[Any], name: str, where: str) -> NDArray[np.str_]:
    if column.dtype.kind == "S":
        with contextlib.suppress(UnicodeError):
            return np.char.decode(column, "utf-8")
    if column.dtype.kind not in "Uiu":
        raise DataError(f"{where}: {name} of type {column.dtype}; expected text")
    return column.astype(np.str_)
