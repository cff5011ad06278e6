"""DICOM files in a folder of any depth; nothing that identifies a patient leaves them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, StoreError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.decoding import FilmFiles, hashed, read_headers
from leadapron.films.decoding.films import WINDOW
from leadapron.films.preprocessing import Preprocessing
from leadapron.reading import given_path, is_folder
from leadapron.sources.assembly import Leakage, assemble
from leadapron.sources.folder import walk
from leadapron.sources.table import Reading, labelled
from leadapron.sources.tables import (
    Columns,
    LabelTable,
    Stated,
    inside,
    read_table,
    relative,
    unknown_patients,
)
from leadapron.sources.words import plain_reason
from leadapron.text import count
from leadapron.types import Note

__all__ = ["check_window", "may_be_dicom", "open_dicom"]

SUFFIXES = (".dcm", ".dicom", ".ima")
KEYS = (
    "sopinstanceuid", "sop_instance_uid", "dicom_id", "image_id", "imageid", "file", "filename",
    "path", "image", "id",
)  # fmt: skip
"""Usual names, in lower case, of a table's column that names films."""


def open_dicom(  # noqa: PLR0913 (settings, by keyword)
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    window: str = "header",
    table: str = "",
    key: str = "",
    findings: str = "",
    separator: str = "|",
    healthy: str = "",
    uncertain: Stated = "nan",
    blank: Stated = "nan",
    leakage: Leakage = "refuse",
) -> Cohort:
    """Open DICOM files.

    Args:
        argument: the folder; all DICOM files below it are opened, whatever their names.
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films and the salt of the hashes are kept; in memory, with a temporary
            salt, if left out.
        window: "header" (the VOI table or first window; without either, "full" for 8 bits and
            "film" for more), "header:N" (the Nth window), "full" (the whole range of the stored
            bits), "film" (the film's lowest to highest value), or "CENTRE/WIDTH".
        table: a CSV table of labels; without one, no labels are stated.
        key: the table's column that names films, by file name with or without ending, by path in
            the folder or by SOP Instance UID; "image_id", "SOPInstanceUID", "path" and the like
            if left out.
        findings: as of the source "table".
        separator: as of the source "table".
        healthy: as of the source "table".
        uncertain: as of the source "table".
        blank: as of the source "table".
        leakage: "refuse" a split that shares patients, or "allow" it.

    Returns:
        Single-frame films in the order of their paths; ids and patients are hashes.

    Raises:
        DataError: a folder, table or film that can't be used. Messages name a film by its number in
            the order of paths and its hash, since paths may name patients.
        UsageError: no folder given, or a window that isn't one.
        StoreError: a salt that can't be kept.
    """
    if not argument:
        raise UsageError("dicom needs a folder: dicom:PATH")
    root = given_path(argument)
    if not is_folder(root):
        raise DataError(f"no folder {argument}; expected one with DICOM files")
    check_window(window)
    salt = _salt(cache or Cache())
    files = [name for name in walk(root) if may_be_dicom(root / name)]
    if not files:
        raise DataError(f"no DICOM file in {argument}")
    files.sort()
    names, places, headers, notes = _with_pixels(root, files, salt, cache or Cache())
    ids = np.asarray([f"dicom-{hashed(name, salt)}" for name in names], dtype=np.str_)
    known = _known(headers, ids, notes)
    if table:
        known = _with_labels(
            known, root, names, headers, salt, given_path(table), key,
            Reading(
                findings=findings, separator=separator, healthy=healthy, uncertain=uncertain,
                blank=blank,
            ),
        )  # fmt: skip
    rows = np.flatnonzero(np.isin(ids, known.ids))
    paths = [places[row] for row in rows]
    calls = [f"DICOM file {row + 1} of {len(names)} ({ids[row]})" for row in rows]
    return assemble(
        FilmFiles(paths, calls, window),
        known,
        source=f"dicom folder {hashed(str(root.absolute()), salt)}",
        preprocessing=preprocessing or Preprocessing(size=224),
        cache=cache,
        leakage=leakage,
    )


def check_window(window: str) -> None:
    """Raise UsageError for a window that isn't one."""
    if WINDOW.fullmatch(window) is None:
        raise UsageError(
            f"`source.window` {window}: expected header, header:2, full, film, or CENTRE/WIDTH"
        )


def _salt(cache: Cache) -> bytes:
    """The secret salt of the hashes, without which nobody can recover identifiers by guessing."""
    if cache.folder is None:
        return secrets.token_bytes(32)
    path = cache.folder / "salt"
    try:
        cache.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # Linked into place, so that if two processes create a salt, the first wins.
            part = cache.folder / f".salt.{os.getpid()}.{secrets.token_hex(4)}"
            part.touch(mode=0o600)
            part.write_bytes(secrets.token_bytes(32))
            try:
                path.hardlink_to(part)
            except FileExistsError:
                pass
            finally:
                part.unlink()
        salt = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"can't keep the hashes' salt in the cache: {plain_reason(error)}"
        ) from error
    if len(salt) != 32:
        raise StoreError(f"{path} is damaged; remove the file, after which all hashes will be new")
    return salt


def may_be_dicom(path: Path) -> bool:
    """Return whether a file may be DICOM.

    The test is the name's ending, the mark after the preamble, or a first tag of old files.
    """
    if not path.is_file():  # a pipe would block
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or head[:2] in (b"\x08\x00", b"\x02\x00", b"\x00\x08")


def _with_pixels(
    root: Path, files: Sequence[str], salt: bytes, cache: Cache
) -> tuple[list[str], list[str], list[Mapping[str, Any]], list[Note]]:
    """The files that hold films, their paths and headers, and what was left out."""
    names: list[str] = []
    places: list[str] = []
    headers: list[Mapping[str, Any]] = []
    others = 0
    paths = _paths(root, files)
    for row, header in enumerate(read_headers(paths, {"salt": salt.hex()})):
        if cache.progress is not None:
            cache.progress("reading headers", row + 1, len(files))
        if isinstance(header, DataError):
            # Kept: decoding will report the error, and stop or skip.
            header = {"pixels": True}
        if header.get("pixels"):
            names.append(files[row])
            places.append(paths[row])
            headers.append(header)
        else:
            others += 1
    if not names:
        raise DataError(f"none of the {count(len(files), 'DICOM file')} holds a film")
    left = Note("files", f"Left out: {count(others, 'DICOM file')} without pixels.")
    return names, places, headers, [left] if others else []


def _paths(root: Path, files: Sequence[str]) -> list[str]:
    paths = []
    for row, name in enumerate(files):
        try:
            paths += inside(root, [name], "the folder")
        except DataError:  # its message quotes the path
            raise DataError(
                f"DICOM file {row + 1} of {len(files)} is a link that leads out of the folder"
            ) from None
    return paths


def _known(
    headers: Sequence[Mapping[str, Any]], ids: NDArray[np.str_], notes: list[Note]
) -> LabelTable:
    """The attributes in the headers; no findings."""

    def column(name: str) -> list[str]:
        return [str(header.get(name) or "") for header in headers]

    patients = np.asarray(column("patient"), dtype=np.str_)
    unnamed = patients == ""
    if unnamed.all():
        patients = unknown_patients(ids, notes)
    elif unnamed.any():
        words = (
            f"Without a patient: {count(int(unnamed.sum()), 'film')}, each counted as a patient."
        )
        notes.append(Note("patients", words))
        patients = np.where(unnamed, ids, patients)
    years = [header.get("age") for header in headers]
    age = np.asarray([np.nan if y is None else float(y) for y in years], dtype=np.float64)
    attributes: dict[str, NDArray[Any]] = {
        "view": np.asarray(column("view"), dtype=np.str_),
        "sex": np.asarray(column("sex"), dtype=np.str_),
        "age": age,
        "scanner": np.asarray(column("scanner"), dtype=np.str_),
    }
    return LabelTable(
        name="DICOM headers",
        labels=np.zeros((len(ids), 0), dtype=np.float32),
        findings=(),
        ids=ids,
        patients=patients,
        attributes=attributes,
        notes=tuple(notes),
    )


def _with_labels(
    known: LabelTable,
    root: Path,
    names: Sequence[str],
    headers: Sequence[Mapping[str, Any]],
    salt: bytes,
    file: Path,
    key: str,
    reading: Reading,
) -> LabelTable:
    """The films that a label table names, with its labels and, where it has them, attributes."""
    columns = read_table(file)
    by_lower = {name.lower(): name for name in reversed(list(columns))}
    column = key or next((by_lower[name] for name in KEYS if name in by_lower), "")
    if column not in columns:
        raise UsageError(
            f"{file.name} has no column {column or 'that names films'}; its columns: "
            f"{', '.join(list(columns)[:12])}; name it by `source.key`"
        )
    cells = relative(columns.pop(column), root.absolute())
    rows = _matched(cells, names, headers, salt)
    found = [i for i, row in enumerate(rows) if row is not None]
    if not found:
        raise DataError(f"{file.name}, column {column}: it names no film of the folder")
    kept: Columns = {name: [values[i] for i in found] for name, values in columns.items()}
    films = np.asarray([rows[i] for i in found], dtype=np.int64)
    if len(np.unique(films)) < len(films):
        raise DataError(f"{file.name} names a film more than once; each must have one row")
    said = labelled(kept, known.ids[films].tolist(), file.name, reading)
    patients, attributes = known.patients[films], known.take(films).attributes
    notes = list(known.notes)
    if any(patients == known.ids[films]) and any(said.patients != said.ids):
        # Take all patients from the table: the header has other names for the same people.
        patients = np.asarray([hashed(patient, salt) for patient in said.patients.tolist()])
        notes = [note for note in notes if note.about != "patients"]
        notes += said.notes
    else:
        notes += [note for note in said.notes if note.about != "patients"]
    left = len(names) - len(films)
    if left:
        words = f"{count(left, 'film')} without a row in {file.name}"
        notes.append(Note("files", f"Left out: {words}."))
    if len(cells) > len(films):
        words = f"{count(len(cells) - len(films), 'row')} without a film"
        notes.append(Note("files", f"Left out: {words}."))
    order = np.argsort(films)
    return LabelTable(
        name=file.name,
        labels=said.labels,
        findings=said.findings,
        ids=said.ids,
        patients=patients,
        attributes={**attributes, **said.attributes},
        notes=tuple(notes),
    ).take(order)


def _matched(
    cells: Sequence[str],
    names: Sequence[str],
    headers: Sequence[Mapping[str, Any]],
    salt: bytes,
) -> list[int | None]:
    """The film that each cell names, if any."""
    places: dict[str, int | None] = {}
    for row, (name, header) in enumerate(zip(names, headers, strict=True)):
        base = name.rpartition("/")[2]
        film = header.get("film")
        for text in {base, base.rpartition(".")[0], f"#{film}" if film else ""} - {""}:
            places[text] = None if text in places else row  # ambiguous names match no film
    places.update((name, row) for row, name in enumerate(names))
    return [
        places.get(cell, places.get(f"#{hashed(cell, salt)}")) if cell else None for cell in cells
    ]
