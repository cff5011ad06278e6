"""NIH ChestX-ray14 in its original layout: label table, lists, boxes, PNG films.

docs/reference/sources.md lists the files that are read and the irregularities that are tolerated.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.decoding import FilmFiles
from leadapron.films.preprocessing import Preprocessing
from leadapron.reading import given_path, is_folder, read_regular, there
from leadapron.sources.assembly import Leakage, assemble
from leadapron.sources.tables import (
    LabelTable,
    ages,
    joined_labels,
    named_columns,
    one_by_one,
    refuse_outside,
    refuse_unknown_findings,
)
from leadapron.sources.words import plain_reason
from leadapron.text import count
from leadapron.types import Note

__all__ = [
    "FINDINGS",
    "NWADIKE2020_FIRST_TEST_PATIENT",
    "RELEASE",
    "Boxes",
    "LabelTable",
    "open_nih",
    "read_boxes",
    "read_labels",
]

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""The 14 findings in NIH's order; "No Finding" is a row of zeros."""

RELEASE: Mapping[str, str | int] = {
    "name": "NIH ChestX-ray14",
    "films": 112_120,
    "patients": 30_805,
    "citation": (
        "Wang, Peng, Lu, Lu, Bagheri, Summers: ChestX-ray8: Hospital-scale chest X-ray database "
        "and benchmarks on weakly-supervised classification and localization of common thorax "
        "diseases. CVPR 2017"
    ),
    "terms": (
        "No restrictions on use. Cite the paper, link the download page, name the NIH Clinical "
        "Center as the provider."
    ),
    "page": "https://nihcc.app.box.com/v/ChestXray-NIHCC",
}
"""Facts of the release."""

Split = Literal["lists", "nwadike2020", "none"]

_SPLITS = ("lists", "nwadike2020", "none")
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
NWADIKE2020_FIRST_TEST_PATIENT = 26_811
_TABLES = (
    "Data_Entry_2017_v2020.csv",
    "Data_Entry_2017_v2020.csv.gz",
    "Data_Entry_2017.csv",
    "Data_Entry_2017.csv.gz",
)
LARGEST_LIST = 64 << 20
"""Most bytes of a list of films; the list of the whole release has 1.6 million."""

_BOXES = "BBox_List_2017.csv"
_NEEDED = {
    "id": ("Image Index",),
    "findings": ("Finding Labels",),
    "patient": ("Patient ID",),
}
_OPTIONAL = {
    "view": ("View Position",),
    "sex": ("Patient Sex", "Patient Gender"),
    "age": ("Patient Age",),
    "follow_up": ("Follow-up #",),
    # "OriginalImage[Width,Height]" holds a comma, so a CSV reader sees two names.
    "width": ("OriginalImage[Width", "OriginalImageWidth"),
    "height": ("Height]", "OriginalImageHeight"),
}
# "Bbox [x,y,w,h],,," holds commas, so a CSV reader sees four names.
_BOX_COLUMNS = {
    "id": ("Image Index",),
    "finding": ("Finding Label",),
    "x": ("Bbox [x",),
    "y": ("y",),
    "w": ("w",),
    "h": ("h]",),
}
_IMAGE_FOLDER = re.compile(r"images(_\d{3})?")
_IMAGE_FOLDER_DEPTH = 2


@dataclass(frozen=True, eq=False)
class Boxes:
    """Radiologists' boxes around findings; a film may have several.

    Args:
        ids: (m,) the films' file names.
        findings: (m,) names among `FINDINGS`.
        boxes: (m, 4) float64: left, top, width, height in pixels of the 1024x1024 originals.
    """

    ids: NDArray[np.str_]
    findings: NDArray[np.str_]
    boxes: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)


def open_nih(
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    split: Split = "lists",
    table: str | None = None,
    leakage: Leakage = "refuse",
    bits: int = 0,
) -> Cohort:
    """Open NIH ChestX-ray14 in its original layout.

    Args:
        argument: the folder with the label table; the films are in it, in images/, or in
            images_001/ to images_012/.
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films are kept; in memory if left out.
        split: "lists" uses train_val_list.txt and test_list.txt; "nwadike2020" uses the test set of
            arXiv 2101.00008, patients 26811 and up; "none" states no split.
        table: the label table's path inside the folder; if left out, the 2020 table or else the
            2017 one.
        leakage: "refuse" lists that share patients, or "allow" it.
        bits: that films of 16 bits use, 8 to 16; those of their highest values, if 0.

    Returns:
        The films that have both a row and a file, in the table's order.

    Raises:
        DataError: a table, list or film that can't be used, or no films.
        UsageError: no folder given, or a table outside it.
    """
    preprocessing = preprocessing or Preprocessing(size=224)
    folder = _folder(argument)
    _check_split(split)
    rows = _read_table(_find_table(folder, table))
    places = _find_films(folder)

    present = np.asarray([name in places for name in rows.ids.tolist()], dtype=np.bool_)
    found, missing = int(present.sum()), int((~present).sum())
    if not found:
        raise DataError(
            f"none of the {len(rows)} films in {rows.name} is in {folder}; "
            "searched it, images/ and images_001/ to images_012/"
        )
    notes = []
    if missing:
        words = f"{count(missing, 'row')} of {len(rows):,} in {rows.name} without a film"
        notes.append(Note("files", f"Left out: {words}."))
    if len(places) > found:
        words = f"{count(len(places) - found, 'PNG file')} without a row in {rows.name}"
        notes.append(Note("files", f"Left out: {words}."))
    rows = _with_split(rows.take(np.flatnonzero(present)), folder, split, leakage)

    return assemble(
        FilmFiles([f"{places[name]}{os.sep}{name}" for name in rows.ids.tolist()]),
        replace(rows, notes=(*rows.notes, *notes)),
        source=f"nih:{os.path.abspath(folder)}",  # noqa: PTH100 (links stay as they are)
        preprocessing=preprocessing,
        cache=cache,
        leakage=leakage,
        bits=bits,
    )


def read_labels(
    path: str | os.PathLike[str], *, split: Split = "lists", table: str | None = None
) -> LabelTable:
    """Read only the label table, without searching for films.

    Args:
        path: the folder with the label table, or the table itself (.csv or .csv.gz).
        split: as `open_nih`; lists are searched for next to the table.
        table: as `open_nih`, if `path` is a folder.

    Returns:
        All rows of the table.

    Raises:
        DataError: a table or list that can't be used.
        UsageError: a table outside the folder.
    """
    _check_split(split)
    path = Path(path)
    if path.is_file():
        return _with_split(_read_table(path), path.parent, split).cleaned()
    folder = _folder(str(path))
    return _with_split(_read_table(_find_table(folder, table)), folder, split).cleaned()


def read_boxes(folder: str | os.PathLike[str]) -> Boxes:
    """Read BBox_List_2017.csv.

    Args:
        folder: the folder with the file.

    Returns:
        Its boxes, in the file's order.

    Raises:
        DataError: no such file, or boxes that can't be used.
    """
    columns = named_columns(_folder(str(folder)) / _BOXES, _BOX_COLUMNS, {})
    # The release says "Infiltrate" here and "Infiltration" in the label table.
    findings = ["Infiltration" if f == "Infiltrate" else f for f in columns["finding"]]
    refuse_unknown_findings(findings, FINDINGS, _BOXES)
    try:
        boxes = np.asarray([columns[name] for name in "xywh"], dtype=np.float64).T  # (m, 4)
    except ValueError:
        raise DataError(f"{_BOXES} holds a box that isn't four numbers") from None
    if not (np.all(np.isfinite(boxes)) and np.all(boxes >= 0)):
        raise DataError(f"{_BOXES} holds a box with a negative or infinite side")
    return Boxes(
        np.asarray(columns["id"], dtype=np.str_), np.asarray(findings, dtype=np.str_), boxes
    )


def _folder(argument: str) -> Path:
    if not argument:
        raise UsageError("nih needs a folder: nih:PATH")
    folder = given_path(argument)
    if not there(folder):
        raise DataError(f"no folder {argument}; expected NIH ChestX-ray14 in its original layout")
    if not is_folder(folder):
        raise DataError(f"{argument} is not a folder; give the folder that holds {_TABLES[0]}")
    return folder


def _check_split(split: str) -> None:
    if split not in _SPLITS:
        raise UnknownNameError("split", split, _SPLITS)


# ---------------------------------------------------------------- tables and lists


def _find_table(folder: Path, table: str | None) -> Path:
    if table is not None:
        refuse_outside(table, "table")
        if not (folder / table).is_file():
            raise DataError(f"no label table {table} in {folder}")
        return folder / table
    for name in _TABLES:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"no label table in {folder}; expected {_TABLES[0]} or {_TABLES[2]} (.gz too), "
        "or name one: `source.table` NAME"
    )


def _read_table(path: Path) -> LabelTable:
    columns = named_columns(path, _NEEDED, _OPTIONAL)
    ids, patients = columns["id"], columns["patient"]
    if not ids:
        raise DataError(f"{path.name} has no rows")
    for name in _NEEDED:
        blank = columns[name].count("")
        if blank:
            raise DataError(f"{path.name}: {count(blank, 'row')} without {_NEEDED[name][0]}")
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(
            f"{path.name} names {count(len(repeated), 'film')} more than once, "
            f"first {repeated[0]!r}; each must have one row"
        )

    notes = []
    absent = [" or ".join(_OPTIONAL[name]) for name in _OPTIONAL if name not in columns]
    if absent:
        notes.append(Note("columns", f"{path.name} has no column {', '.join(absent)}."))
    attributes: dict[str, NDArray[Any]] = {
        name: np.asarray(columns[name], dtype=np.str_)
        for name in ("view", "sex")
        if name in columns
    }
    if "age" in columns:
        attributes["age"] = ages(columns["age"], notes)
    if "width" in columns and "height" in columns:
        sizes = zip(columns["width"], columns["height"], strict=True)
        attributes["native_size"] = np.asarray(
            [f"{width}x{height}" for width, height in sizes], dtype=np.str_
        )
    if "follow_up" in columns:
        attributes["follow_up"] = one_by_one(columns["follow_up"], _number)
    return LabelTable(
        name=path.name,
        labels=joined_labels(columns["findings"], FINDINGS, path.name)[0],
        findings=FINDINGS,
        ids=np.asarray(ids, dtype=np.str_),
        patients=np.asarray(patients, dtype=np.str_),
        attributes=attributes,
        notes=tuple(notes),
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _with_split(
    rows: LabelTable, folder: Path, split: Split, leakage: Leakage = "refuse"
) -> LabelTable:
    """The table with its split attribute, or with a note why it has none."""
    if split == "lists":
        column, notes = _listed_split(rows, folder, leakage)
    elif split == "nwadike2020":
        column, notes = _nwadike2020_split(rows)
    else:
        column, notes = None, []
    attributes = rows.attributes if column is None else {**rows.attributes, "split": column}
    return replace(rows, attributes=attributes, notes=(*rows.notes, *notes))


def _listed_split(
    rows: LabelTable, folder: Path, leakage: Leakage
) -> tuple[NDArray[np.str_] | None, list[Note]]:
    missing = [name for name in _LISTS.values() if not (folder / name).is_file()]
    if len(missing) == len(_LISTS):
        return None, [Note("split", f"No split: neither {' nor '.join(missing)} exists.")]
    ids = rows.ids.tolist()
    inside = {}
    for part, name in _LISTS.items():
        listed = set() if name in missing else _read_list(folder / name)
        inside[part] = np.asarray([film in listed for film in ids], dtype=np.bool_)
    shared = np.intersect1d(rows.patients[inside["train"]], rows.patients[inside["test"]])
    if len(shared) and leakage == "refuse":
        raise DataError(
            f"{' and '.join(_LISTS.values())} share "
            f"{count(len(shared), 'patient')}, first {str(shared[0])!r}; "
            "correct them, or use `source.split` none or `source.leakage` allow"
        )
    column = np.where(inside["test"], "test", np.where(inside["train"], "train", ""))
    notes = [Note("split", f"{name} is missing.") for name in missing]
    outside = int(np.sum(column == ""))
    if outside:
        words = f"Split not stated: {count(outside, 'film')} in neither list."
        notes.append(Note("split", words))
    return column, notes


def _read_list(path: Path) -> set[str]:
    try:
        text = read_regular(path, LARGEST_LIST).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} can't be read: {plain_reason(error)}") from None
    return {line.strip() for line in text.splitlines()}


def _nwadike2020_split(rows: LabelTable) -> tuple[NDArray[np.str_] | None, list[Note]]:
    try:
        numbers = np.asarray([int(patient) for patient in rows.patients.tolist()])
    except ValueError:
        raise DataError(
            f"split nwadike2020 needs numbers as patients' names; {rows.name} has other names"
        ) from None
    test = numbers >= NWADIKE2020_FIRST_TEST_PATIENT
    if not test.any():
        words = (
            "No split: nwadike2020 tests on patients "
            f"{NWADIKE2020_FIRST_TEST_PATIENT} and up, and the table has none."
        )
        return None, [Note("split", words)]
    return np.where(test, "test", "train"), []


# ---------------------------------------------------------------- films


def _find_films(folder: Path) -> dict[str, str]:
    """Each PNG file's folder by its name."""
    places: dict[str, str] = {}
    try:
        for name, place in _scan(str(folder), _IMAGE_FOLDER_DEPTH):
            if name in places:
                both = sorted(os.path.relpath(p, folder) for p in (places[name], place))
                raise DataError(f"film {name!r} is in both {both[0]} and {both[1]}; keep one")
            places[name] = place
    except OSError as error:
        raise DataError(f"{folder} can't be read: {plain_reason(error)}") from None
    return places


def _scan(folder: str, depth: int) -> Iterator[tuple[str, str]]:
    """Names and folders of PNG files, in image folders down to `depth`; no stat per file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.lower().endswith(".png"):
                # Archives made on a Mac hold a "._NAME" next to each file.
                if not name.startswith(".") and entry.is_file():
                    yield name, folder
            elif depth and _IMAGE_FOLDER.fullmatch(name) and entry.is_dir():
                yield from _scan(entry.path, depth - 1)
