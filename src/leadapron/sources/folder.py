"""A folder for each class, with or without folders for the parts of a split above them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from leadapron.cache import Cache
from leadapron.cohort import Cohort
from leadapron.decoding import FilmFiles
from leadapron.errors import DataError, UsageError
from leadapron.preprocessing import Preprocessing
from leadapron.reading import given_path, is_folder
from leadapron.sources.assembly import Leakage, assemble
from leadapron.sources.tables import HEALTHY, PARTS, LabelTable, inside, unknown_patients
from leadapron.sources.words import count, plain_reason
from leadapron.types import Note

__all__ = ["find_films", "open_folder", "walk"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")

NAMING = {
    # doi 10.17632/rscbjbr9sj: IM-0115-0001.jpeg, NORMAL2-IM-0501-0001-0002.jpeg,
    # person1_bacteria_2.jpeg, BACTERIA-1008087-0001.jpeg.
    "Kermany, Zhang, Goldbaum 2018": re.compile(
        r"(person\d+)_(?:bacteria|virus)_\d+(?:_\d+)?|((?:NORMAL2?-)?IM-\d+)-\d+(?:-\d+)?|"
        r"((?:BACTERIA|VIRUS|NORMAL)-\d+)-\d+"
    ),
}
"""Releases whose file names hold the patient, as the group that matched."""


def open_folder(
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    healthy: str = "",
    patient: str = "",
    split: Literal["folders", "none"] = "folders",
    leakage: Leakage = "refuse",
) -> Cohort:
    """Open films that lie in a folder for each class.

    Args:
        argument: the folder; below it CLASS/..., or train/CLASS/..., test/CLASS/....
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films are kept; in memory if left out.
        healthy: the class without a finding; NORMAL, "No Finding" and the like if left out.
        patient: regular expression whose first group, searched in a file's name, is the patient;
            known namings, of Kermany et al., are recognised if left out.
        split: "folders" takes train, validation and test folders as the split; "none" doesn't.
        leakage: "refuse" a split that shares patients, or "allow" it.

    Returns:
        PNG, JPEG and DICOM films in the order of their paths. Each class but the healthy one is a
        finding; a film has that of its folder and no other.

    Raises:
        DataError: a folder or film that can't be used.
        UsageError: no folder given, or an expression that isn't one.
    """
    root = _root(argument)
    names, others = find_films(root)
    if not names:
        raise DataError(
            f"no PNG, JPEG or DICOM file in {argument}; expected a folder for each class"
        )
    parts, classes = zip(*(_place(name, split) for name in names), strict=True)
    loose = classes.count("")
    if loose:
        raise DataError(
            f"{count(loose, 'film')} in {argument} in no class's folder, first "
            f"{names[classes.index('')]!r}; expected CLASS/FILE"
        )
    findings = sorted(set(classes) - _healthy(set(classes), healthy))
    if not findings or len(set(classes)) < 2:
        raise DataError(
            f"{argument} holds films of one class alone, {classes[0]!r}; expected a folder for "
            "each of several classes"
        )
    labels = (np.asarray(classes)[:, None] == np.asarray(findings)).astype(np.float32)
    left = Note("files", f"Left out: {count(others, 'file')} of other kinds.")
    notes = [left] if others else []
    # Names that aren't UTF-8 can't be written anywhere.
    shown = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]
    ids = np.asarray(shown, dtype=np.str_)
    patients = _patients(shown, patient, notes)
    table = LabelTable(
        name=argument,
        labels=labels,
        findings=tuple(findings),
        ids=ids,
        patients=unknown_patients(ids, notes) if patients is None else np.asarray(patients),
        attributes={"split": np.asarray(parts)} if any(parts) else {},
        notes=tuple(notes),
    )
    return assemble(
        FilmFiles(inside(root, names, argument), shown),
        table,
        source=f"folder:{root.absolute()}",
        preprocessing=preprocessing or Preprocessing(size=224),
        cache=cache,
        leakage=leakage,
    )


def find_films(root: Path) -> tuple[list[str], int]:
    """Return paths of PNG, JPEG and DICOM files below a folder, in order, and how many others.

    Linked folders aren't entered; hidden files count as nothing.
    """
    names, others = [], 0
    for name in walk(root):
        if name.lower().endswith(SUFFIXES):
            names.append(name)
        else:
            others += 1
    return sorted(names), others


def walk(root: Path) -> Iterator[str]:
    """Yield the paths of all files below a folder that aren't hidden, with slashes."""

    def failed(error: OSError) -> None:
        raise DataError(f"{root} can't be read: {plain_reason(error)}")

    for folder, below, files in os.walk(root, onerror=failed):
        below[:] = [name for name in below if not name.startswith(".")]
        place = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if place == "." else f"{place}/"
        yield from (f"{prefix}{name}" for name in files if not name.startswith("."))


def _root(argument: str) -> Path:
    if not argument:
        raise UsageError("folder needs a folder: folder:PATH")
    root = given_path(argument)
    if not is_folder(root):
        raise DataError(f"no folder {argument}; expected one with a folder for each class")
    return root


def _place(name: str, split: str) -> tuple[str, str]:
    """The part of the split and the class that a path names."""
    folders = name.split("/")[:-1]
    part = PARTS.get(folders[0].lower(), "") if folders else ""
    if part:
        folders = folders[1:]
    return part if split == "folders" else "", folders[0] if folders else ""


def _healthy(classes: set[str], asked: str) -> set[str]:
    if asked and asked not in classes:
        raise UsageError(
            f"--source.healthy {asked}: there is no such folder; there are "
            f"{', '.join(sorted(classes))}"
        )
    return {asked} if asked else {name for name in classes if name.lower() in HEALTHY}


def _patients(names: list[str], asked: str, notes: list[Note]) -> list[str] | None:
    stems = [name.rpartition("/")[2].rpartition(".")[0] for name in names]
    if asked:
        try:
            pattern = re.compile(asked)
        except re.error as error:
            raise UsageError(f"--source.patient {asked}: {error}") from None
        if pattern.groups < 1:
            raise UsageError(f"--source.patient {asked}: expected a group, as '^([^-]+)-'")
        found = [match[1] if (match := pattern.search(stem)) else None for stem in stems]
        unnamed = sum(not patient for patient in found)
        if unnamed:
            words = f"Without a patient in their name: {count(unnamed, 'film')}, each its own."
            notes.append(Note("patients", words))
        return [patient or name for patient, name in zip(found, names, strict=True)]
    for release, pattern in NAMING.items():
        matches = [pattern.fullmatch(stem) for stem in stems]
        if all(matches):
            notes.append(Note("patients", f"Patients by the file names of {release}."))
            return [next(filter(None, match.groups())) for match in matches if match]
    return None
