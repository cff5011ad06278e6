"""MONAI's data lists: one dictionary per film, with image, labels and attributes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UsageError
from leadapron.films.cache import Cache, default_folder
from leadapron.films.cohort import ATTRIBUTES, Cohort, blocks
from leadapron.films.decoding import FilmFiles
from leadapron.films.preprocessing import Preprocessing
from leadapron.interop.pixels import ItemFilms, refuse_other_labels, undisturbed
from leadapron.reading import given_path
from leadapron.sources.assembly import Leakage, assemble
from leadapron.sources.tables import (
    LabelTable,
    inside,
    is_healthy,
    refuse_unknown_findings,
    relative,
    splits,
    unknown_patients,
)
from leadapron.types import Note, OnBad, Progress

__all__ = ["as_monai", "from_monai"]

WHERE = "the data list"


def from_monai(  # noqa: PLR0913 (settings, by keyword)
    items: Sequence[Mapping[str, Any]],
    findings: Sequence[str] | None = None,
    *,
    image_key: str = "image",
    label_key: str = "label",
    id_key: str = "id",
    patient_key: str = "patient",
    root: str | os.PathLike[str] | None = None,
    image_range: tuple[float, float] = (0, 1),
    preprocessing: Preprocessing | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    on_bad: OnBad = "stop",
    leakage: Leakage = "refuse",
    bits: int = 0,
) -> Cohort:
    """Return the cohort of a MONAI data list, or of a data set whose items are such dictionaries.

    Args:
        items: (n) dictionaries, read by index; lazy ones are read twice.
        findings: names of a label vector's k entries; not needed if labels are names.
        image_key: key of a PNG, JPEG or DICOM file, decoded as in `sources`; or of pixels (h, w),
            (1, h, w) or (h, w, 1), uint8, uint16 or floating point. Either all items have files, or
            all have pixels.
        label_key: key of a vector (k,) of 0, 1 and NaN (not stated); or of names of the present
            findings; or of a mapping from names to 0, 1 and NaN. None or no key: not stated.
        id_key: key of the film's name; if missing, the file's path or a number.
        patient_key: key of the patient's name; if missing, each film counts as a patient.
        root: folder that paths are relative to and may not lead out of; any path if left out.
        image_range: black and white in floating point pixels; LoadImage's PNG, JPEG: (0, 255).
        preprocessing: how films become images; if left out, 224x224 for files, and none for pixels
            if the first image is square.
        cache: as `open_source`, for files only.
        progress: called with the name of the step, the films done, and the total.
        on_bad: "stop" at the first film that can't be read, or "skip" and list it in the notes.
        leakage: "refuse" a key "split" that shares patients, or "allow" it.
        bits: bits in use in 16-bit films, 8 to 16; 0 takes the bits of their highest value.

    Returns:
        The films in the list's order, with the columns of `ATTRIBUTES` that items have.

    Raises:
        DataError: items that can't be used.
        UsageError: label vectors without names.
    """
    with undisturbed():
        known = [{k: v for k, v in items[i].items() if k != image_key} for i in range(len(items))]
    if not known:
        raise DataError(f"{WHERE} is empty")
    labels, names = _labels([item.get(label_key) for item in known], findings)
    first = _image(items, 0, image_key)
    notes = [TURNED] if "filename_or_obj" in getattr(first, "meta", ()) else []
    films: FilmFiles | ItemFilms
    if isinstance(first, str | os.PathLike):
        paths = [_path(items, i, image_key) for i in range(len(items))]
        files = paths if root is None else inside(given_path(root), paths, WHERE)
        paths = relative(paths)
        films, pre = FilmFiles(files, paths), preprocessing or Preprocessing(size=224)
        folder = default_folder(cache)
    else:
        paths = [f"film-{i}" for i in range(len(items))]
        pre = preprocessing or _as_it_is(first)
        films = ItemFilms(
            len(items), lambda i: _pixels(items, i, image_key), image_range, pre.dtype
        )
        folder = None
    ids = _text([item.get(id_key) for item in known], paths)
    patients = _patients([item.get(patient_key) for item in known], ids, notes)
    cohort = assemble(
        films,
        LabelTable(WHERE, labels, names, ids, patients, _attributes(known), tuple(notes)),
        source="monai",
        preprocessing=pre,
        cache=Cache(folder=folder, progress=progress, on_bad=on_bad),
        leakage=leakage,
        bits=bits,
    )
    warnings = films.warnings() if isinstance(films, ItemFilms) else []
    return replace(cohort, notes=(*cohort.notes, *warnings))


def _patients(named: Sequence[Any], ids: NDArray[np.str_], notes: list[Note]) -> NDArray[np.str_]:
    """The patients' names; where nobody has one, each film counts as a patient."""
    if any(name is not None for name in named):
        return _text(named, ids.tolist())
    return unknown_patients(ids, notes)


TURNED = Note(
    "pixels",
    "these pixels were read by MONAI, whose LoadImage rotates PNG and JPEG files by 90 degrees "
    "unless reverse_indexing=False; give paths in place of pixels to avoid it.",
    doubt=True,
)


def as_monai(cohort: Cohort) -> list[dict[str, Any]]:
    """Return a cohort as a MONAI data list: one dictionary per film.

    The list holds all n x h x w pixels in memory; `as_dataset` reads them on access.

    Args:
        cohort: the films; `cohort.findings` names the labels.

    Returns:
        "image" (1, h, w) of the cohort's type, "label" (k,) float32 with NaN for "not stated",
        "id", "patient", and the cohort's attributes.
    """
    items = []
    for rows in blocks(len(cohort)):
        images = cohort.images[rows]
        for place, row in enumerate(rows.tolist()):
            more = {name: values[row].item() for name, values in cohort.attributes.items()}
            items.append(
                {
                    **more,
                    "image": images[place][None],
                    "label": cohort.labels[row].copy(),
                    "id": str(cohort.ids[row]),
                    "patient": str(cohort.patients[row]),
                }
            )
    return items


def _image(items: Sequence[Mapping[str, Any]], row: int, key: str) -> Any:
    with undisturbed():
        item = items[row]
    if key not in item:
        raise DataError(f"item {row} has no {key!r}; it has {', '.join(map(str, item))}")
    return item[key]


def _path(items: Sequence[Mapping[str, Any]], row: int, key: str) -> str:
    path = _image(items, row, key)
    if not isinstance(path, str | os.PathLike):
        raise DataError(f"item {row}: {key!r} is {type(path).__name__}, item 0's is a path")
    return os.fspath(path)


def _pixels(items: Sequence[Mapping[str, Any]], row: int, key: str) -> Any:
    pixels = _image(items, row, key)
    if isinstance(pixels, str | os.PathLike | list | tuple):
        raise DataError(f"item {row}: {key!r} is {type(pixels).__name__}; expected an array")
    return pixels


def _as_it_is(image: Any) -> Preprocessing:
    """The preprocessing that leaves square images unchanged; 224x224 for others."""
    if isinstance(image, list | tuple):
        raise DataError(
            f"item 0: an image of type {type(image).__name__}; expected a path or array"
        )
    pixels = np.asarray(image)
    sides = [side for side in pixels.shape if side != 1]
    square = len(sides) == 2 and sides[0] == sides[1]
    dtype: Any = "uint16" if pixels.dtype == np.uint16 else "uint8"
    return Preprocessing(size=sides[0] if square else 224, dtype=dtype)


def _labels(
    stated: Sequence[Any], findings: Sequence[str] | None
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Labels (n, k) and findings, from vectors, names or mappings."""
    told = [_by_name(value) for value in stated]
    named = sorted({name for names in told if names is not None for name in names})
    if findings is None and not named:
        raise UsageError("label vectors need names: from_monai(items, findings=[...])")
    columns = tuple(named if findings is None else findings)
    refuse_unknown_findings(named, columns, WHERE)
    labels = np.full((len(stated), len(columns)), np.nan, dtype=np.float32)
    for row, (value, names) in enumerate(zip(stated, told, strict=True)):
        if names is not None:
            labels[row] = np.nan if isinstance(value, Mapping) else 0
            for name, number in names.items():
                labels[row, columns.index(name)] = number
        elif value is not None:
            labels[row] = _vector(value, row, len(columns), findings is None)
    refuse_other_labels(labels)
    return labels, columns


def _by_name(value: Any) -> dict[str, float] | None:
    """Labels from a mapping or a list of names; None for anything else."""
    if isinstance(value, Mapping):
        return {str(name): float(number) for name, number in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and all(isinstance(v, str) for v in value):
        return {name: 1.0 for name in value if not is_healthy(name)}
    return None


def _vector(value: Any, row: int, k: int, nameless: bool) -> NDArray[np.float32]:
    if nameless:
        raise DataError(f"item {row}: a label vector among names; name its entries by findings=")
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise DataError(
            f"item {row}: a label of type {type(value).__name__}; expected {k} numbers or "
            "names of findings"
        ) from None
    if vector.shape != (k,) and not (vector.size == 1 == k):
        raise DataError(
            f"item {row}: a label of shape {vector.shape}; expected ({k},), one number for each "
            "finding; the number of a class isn't enough"
        )
    return vector.reshape(k)


def _text(values: Sequence[Any], otherwise: Sequence[str]) -> NDArray[np.str_]:
    named = [o if v is None else str(v) for v, o in zip(values, otherwise, strict=True)]
    return np.asarray(named, dtype=np.str_)


def _attributes(items: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    attributes: dict[str, NDArray[Any]] = {}
    for name in ATTRIBUTES:
        values = [item.get(name) for item in items]
        if all(value is None for value in values):
            continue
        if name == "age":
            attributes[name] = np.asarray([np.nan if v is None else float(v) for v in values])
        else:
            texts = _text(values, [""] * len(values))
            attributes[name] = splits(texts.tolist(), WHERE) if name == "split" else texts
    return attributes
