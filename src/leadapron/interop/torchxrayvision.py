"""Data sets of torchxrayvision (Cohen et al., MIDL 2022): .pathologies, .labels, .csv and items.

Both libraries use NaN for "not stated". Their images are float32 (1, h, w), -1024 for black and
1024 for white.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.interop.pixels import (
    ItemFilms,
    picture,
    refuse_other_labels,
    scaled,
    shareable,
)
from leadapron.sources.assembly import Leakage, assemble
from leadapron.sources.tables import PARTS, UNKNOWN, LabelTable, splits, unknown_patients
from leadapron.text import count
from leadapron.types import Note, OnBad, Progress

__all__ = ["CohortDataset", "as_torchxrayvision", "from_torchxrayvision"]

LIMITS = (-1024.0, 1024.0)

ID_COLUMNS = (
    "id", "Image Index", "ImageID", "image_id", "dicom_id", "imageid", "ImageId", "filename",
    "file_name", "image_name", "fname", "Path",
)  # fmt: skip
"""Columns by which their data sets identify a film, ours first."""


def from_torchxrayvision(
    dataset: Any,
    *,
    preprocessing: Preprocessing | None = None,
    progress: Progress | None = None,
    on_bad: OnBad = "stop",
    leakage: Leakage = "refuse",
) -> Cohort:
    """Return the cohort of a torchxrayvision data set, or of a merged or filtered one.

    All images are read once and kept in memory, n x size x size bytes; `cohort.films` has them at
    the data set's own size. The global random generators, which their data sets reseed at every
    item, are restored.

    Args:
        dataset: an object with `pathologies`, `labels` (n, k), items with "img", and optionally
            `csv`.
        preprocessing: how their images, of any size, become ours; if left out, 224x224, or none for
            images from a cohort.
        progress: called with the name of the step, the films done, and the total.
        on_bad: "stop" at the first item that can't be read, or "skip" and list it in the notes.
        leakage: "refuse" a column "split" that shares patients, or "allow" it.

    Returns:
        Findings under their names (pathologies without a name are left out), patients by
        `csv.patientid`, and view, sex and age if known. In a merged data set the names of films and
        patients are prefixed with the part's name, which is also the attribute "site".

    Raises:
        DataError: labels, rows or pixels that don't fit together, or a split that leaks.
        UsageError: a data set that alters its images at random.
    """
    if _augmented(dataset):
        raise UsageError(
            "the data set's data_aug alters images at random; set it to None, then make the cohort"
        )
    n, notes = len(dataset), list[Note]()
    labels, findings = _labels(dataset, n, notes)
    pre = preprocessing or getattr(dataset, "preprocessing", None) or Preprocessing(size=224)
    columns = _Columns(getattr(dataset, "csv", None), n)
    sites = _sites(dataset)
    ids = _ids(columns, sites, n, notes)

    def read(row: int) -> Any:
        item = dataset[row]
        stated = np.asarray(item.get("lab", dataset.labels[row]), dtype=np.float32)
        if not np.array_equal(stated, np.float32(dataset.labels[row]), equal_nan=True):
            raise DataError(f"the labels of item {row} differ from row {row} of .labels")
        return item["img"]

    films = ItemFilms(n, read, LIMITS, pre.dtype)
    table = LabelTable(
        name=type(dataset).__name__,
        labels=labels,
        findings=findings,
        ids=ids,
        patients=_patients(columns, sites, ids, notes),
        attributes=_attributes(columns, sites),
        notes=tuple(notes),
    )
    cohort = assemble(
        films,
        table,
        source=f"torchxrayvision:{table.name}",
        preprocessing=pre,
        cache=Cache(progress=progress, on_bad=on_bad),
        leakage=leakage,
    )
    return replace(cohort, notes=(*cohort.notes, *films.warnings()))


def as_torchxrayvision(
    cohort: Cohort,
    *,
    transform: Callable[[Any], Any] | None = None,
    data_aug: Callable[[Any], Any] | None = None,
) -> CohortDataset:
    """Return a cohort as a data set for torchxrayvision's tools and training loops.

    Args:
        cohort: the films; pixels are read on access.
        transform: applied to each image (1, h, w), for example their XRayResizer.
        data_aug: applied after `transform`.
    """
    return CohortDataset(cohort, transform, data_aug)


class CohortDataset:
    """The interface of torchxrayvision's data sets, without importing torchxrayvision.

    It has `pathologies` (k), `labels` (n, k), `csv` (a DataFrame; it needs pandas) and items of
    "idx", "lab" and "img" (1, h, w) float32 from -1024 to 1024. Their `relabel_dataset` edits it in
    place, as with theirs; the cohort is unchanged.
    """

    def __init__(
        self,
        cohort: Cohort,
        transform: Callable[[Any], Any] | None = None,
        data_aug: Callable[[Any], Any] | None = None,
    ) -> None:
        self.pathologies = list(cohort.findings)
        self.labels = cohort.labels.copy()
        self.transform, self.data_aug = transform, data_aug
        height, width = cohort.images.shape[1:]
        dtype: Any = str(np.dtype(cohort.images.dtype))
        self.preprocessing = Preprocessing(size=height, dtype=dtype) if height == width else None
        self._images = shareable(cohort.images)
        self._columns = _csv_columns(cohort)

    @cached_property
    def csv(self) -> Any:
        """A DataFrame with `id`, `patientid` and the attributes, under torchxrayvision's names.

        Raises:
            UsageError: pandas isn't installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise UsageError(
                'a DataFrame needs pandas: pip install "leadapron[xrv]", or pandas alone'
            ) from None
        return pd.DataFrame(self._columns)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        idx = range(len(self))[idx]
        image: Any = (2 * scaled(picture(self._images, idx)) - 1.0) * 1024  # as their normalize()
        for change in (self.transform, self.data_aug):
            image = image if change is None else change(image)
        return {"idx": idx, "lab": self.labels[idx], "img": image}

    def totals(self) -> dict[str, dict[float, int]]:
        """Return the counts of each label for each pathology."""
        stated = [column[~np.isnan(column)].tolist() for column in self.labels.T]
        return {
            name: dict(Counter(values).most_common())
            for name, values in zip(self.pathologies, stated, strict=True)
        }

    def string(self) -> str:
        """Return the name and the number of films, in torchxrayvision's format."""
        return f"{type(self).__name__} num_samples={len(self)}"

    __repr__ = string


class _Columns:
    """The columns of a DataFrame, or of a mapping; empty for None."""

    def __init__(self, csv: Any, n: int) -> None:
        self.csv: Any = {} if csv is None else csv
        self.n = n

    def __contains__(self, name: str) -> bool:
        return name in self.csv

    def values(self, name: str) -> NDArray[Any]:
        """Return a column by position, ignoring the table's index."""
        values = np.asarray(self.csv[name])
        if values.shape != (self.n,):
            raise DataError(f".csv has {len(values):,} rows for {count(self.n, 'item')}")
        return values

    def text(self, name: str) -> NDArray[np.str_]:
        """Return a column as text, "" where not stated; all "" if the column is missing."""
        if name not in self:
            return np.full(self.n, "", dtype=np.str_)
        cells = [str(value).strip() for value in self.values(name).tolist()]
        return np.asarray([cell if _states(cell) else "" for cell in cells], dtype=np.str_)


def _states(cell: str) -> bool:
    return cell.lower() not in (*UNKNOWN, "<na>")


def _labels(dataset: Any, n: int, notes: list[Note]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    names = [str(name) for name in dataset.pathologies]
    labels = np.asarray(dataset.labels, dtype=np.float32)
    if labels.shape != (n, len(names)):
        raise DataError(
            f".labels of shape {labels.shape} for {count(n, 'item')} and {len(names)} pathologies"
        )
    named = [i for i, name in enumerate(names) if name]
    if len(named) < len(names):
        words = f"Left out: {len(names) - len(named)} pathologies without a name."
        notes.append(Note("labels", words))
    refuse_other_labels(labels)
    return labels[:, named], tuple(names[i] for i in named)


def _children(dataset: Any) -> list[Any]:
    """The parts of a merged, filtered or covariate data set."""
    below = [getattr(dataset, name, None) for name in ("dataset", "d1", "d2")]
    return [*getattr(dataset, "datasets", ()), *(child for child in below if child is not None)]


def _augmented(dataset: Any) -> bool:
    return getattr(dataset, "data_aug", None) is not None or any(
        map(_augmented, _children(dataset))
    )


def _sites(dataset: Any) -> NDArray[np.str_] | None:
    """The part of a merged data set that each item is from; parts don't share patients."""
    children = _children(dataset)
    if len(children) == 1 and hasattr(dataset, "idxs"):
        below = _sites(children[0])
        return None if below is None else below[np.asarray(dataset.idxs)]
    if len(children) < 2:
        return None
    names = [f"{i}-{type(child).__name__}" for i, child in enumerate(children)]
    if hasattr(dataset, "d1"):
        return np.asarray([names[site] for site in dataset.site], dtype=np.str_)
    parts = [
        [f"{name}/{inner}" for inner in inner_sites.tolist()]
        if (inner_sites := _sites(child)) is not None
        else [name] * len(child)
        for name, child in zip(names, children, strict=True)
    ]
    return np.asarray([site for part in parts for site in part], dtype=np.str_)


def _prefixed(names: Iterable[str], sites: NDArray[np.str_] | None) -> list[str]:
    if sites is None:
        return list(names)
    return [f"{s}/{n}" if n else "" for s, n in zip(sites.tolist(), names, strict=True)]


def _ids(
    columns: _Columns, sites: NDArray[np.str_] | None, n: int, notes: list[Note]
) -> NDArray[np.str_]:
    """Names from the first column that is unique, or else all columns, or else numbers."""
    known = [columns.text(name).tolist() for name in ID_COLUMNS if name in columns]
    either = [next(filter(None, cells), "") for cells in zip(*known, strict=True)]
    for cells in (*known, either):
        names = _prefixed(cells, sites)
        if all(names) and len(set(names)) == len(names) == n:
            return np.asarray(names, dtype=np.str_)
    words = "Films are named by number, since no column of .csv has unique names."
    notes.append(Note("columns", words))
    return np.asarray([f"film-{row}" for row in range(n)], dtype=np.str_)


def _patients(
    columns: _Columns, sites: NDArray[np.str_] | None, ids: NDArray[np.str_], notes: list[Note]
) -> NDArray[np.str_]:
    if "patientid" not in columns:
        return unknown_patients(ids, notes)
    names = np.asarray(_prefixed(columns.text("patientid").tolist(), sites), dtype=np.str_)
    unnamed = names == ""
    if unnamed.any():
        words = (
            f"Without a patient: {count(int(unnamed.sum()), 'film')}, each counted as a patient."
        )
        notes.append(Note("patients", words))
    return np.where(unnamed, ids, names)


def _attributes(columns: _Columns, sites: NDArray[np.str_] | None) -> dict[str, NDArray[Any]]:
    attributes: dict[str, NDArray[Any]] = {
        name: columns.text(name) for name in ("view", "sex", "site") if name in columns
    }
    if "sex" not in columns and {"sex_male", "sex_female"} <= set(columns.csv):
        male, female = (columns.text(name) == "True" for name in ("sex_male", "sex_female"))
        attributes["sex"] = np.where(male, "M", np.where(female, "F", ""))
    if "age_years" in columns:
        attributes["age"] = columns.values("age_years").astype(np.float64)
    parts = columns.text("split").tolist()
    if "split" in columns and all(part.lower() in PARTS for part in parts if part):
        attributes["split"] = splits(parts, ".csv")
    if sites is not None:
        attributes["site"] = sites
    return attributes


def _csv_columns(cohort: Cohort) -> dict[str, Sequence[Any]]:
    columns: dict[str, Any] = {"id": cohort.ids.tolist(), "patientid": cohort.patients.tolist()}
    for name, values in cohort.attributes.items():
        if name == "view":
            columns[name] = [view or "UNKNOWN" for view in values.tolist()]
        elif name == "age":
            columns["age_years"] = values.tolist()
        else:
            columns[name] = values.tolist()
    if "sex" in cohort.attributes:
        first = [str(sex)[:1].upper() for sex in cohort.attributes["sex"].tolist()]
        columns["sex_male"] = [letter == "M" for letter in first]
        columns["sex_female"] = [letter == "F" for letter in first]
    return columns
