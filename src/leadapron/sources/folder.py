"""One folder per class, optionally below folders for the parts of a split; or unlabelled films."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from leadapron.errors import DataError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.decoding import FilmFiles
from leadapron.films.preprocessing import Preprocessing
from leadapron.reading import given_path, is_folder
from leadapron.sources.assembly import Leakage, assemble
from leadapron.sources.tables import PARTS, LabelTable, inside, is_healthy, unknown_patients
from leadapron.sources.words import AND, LISTED, listed, plain_reason
from leadapron.text import count
from leadapron.types import Note

__all__ = ["find_films", "open_folder", "walk"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")

NO_CLASS = re.compile(
    r"[a-z]|(?i:\d+|png|jpe?g|dcm|dicoms?|ima|img|images?|films?|pictures?|files?|data|dataset|raw|masks?|"
    r"scans?|x-?rays?|cxr|new folder|copy|misc|tmp|export|"
    r"(images?|batch|part|folder|dir|site|hospital|cent(er|re)|patient|pat|study|series|subject|"
    r"case|person|group|set|vol|dis[ck]|cd|p|s)[-_ ]*\d+)"
)
"""Names of folders that don't stand for a class."""

NAMING = {
    # doi 10.17632/rscbjbr9sj: IM-0115-0001.jpeg, NORMAL2-IM-0501-0001-0002.jpeg,
    # person1_bacteria_2.jpeg, BACTERIA-1008087-0001.jpeg.
    "Kermany, Zhang, Goldbaum 2018": re.compile(
        r"(person\d+)_(?:bacteria|virus)_\d+(?:_\d+)?|((?:NORMAL2?-)?IM-\d+)-\d+(?:-\d+)?|"
        r"((?:BACTERIA|VIRUS|NORMAL)-\d+)-\d+"
    ),
}
"""File names of releases, with the patient as the group that matches."""


def open_folder(
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    healthy: str = "",
    patient: str = "",
    split: Literal["folders", "none"] = "folders",
    leakage: Leakage = "refuse",
    bits: int = 0,
) -> Cohort:
    """Open films in one folder per class, or in folders that don't stand for classes.

    Args:
        argument: the folder; below it CLASS/..., or train/CLASS/..., test/CLASS/.... Without a
            folder for each of several classes, the films have no labels.
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films are kept; in memory if left out.
        healthy: the class without a finding; NORMAL, "No Finding" and the like if left out.
        patient: regular expression, searched in a file's name, whose first group is the patient; if
            left out, the known file names of Kermany et al. are recognised.
        split: "folders" takes the split from train, validation and test folders; "none" doesn't.
        leakage: "refuse" a split that shares patients, or "allow" it.
        bits: that films of 16 bits use, 8 to 16; those of their highest values, if 0.

    Returns:
        PNG, JPEG and DICOM films in the order of their paths. Each class but the healthy one is a
        finding; a film has the finding of its folder and no other.

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
    places = [_place(name) for name in names]
    classes = [place.of_class for place in places]
    well = _healthy(set(classes), healthy)
    _refuse_nested(places, argument)
    left = Note("files", f"Left out: {count(others, 'file')} of other kinds.")
    notes = [left] if others else []
    findings: list[str] = []
    if len(set(classes)) > 1:
        _refuse_loose(names, classes, argument)
        findings = sorted(set(classes) - well)
        notes += _doubts(places, findings)
    if not findings:
        words = "No labels: there is no folder for each of several classes."
        notes.append(Note("labels", words))
    labels = (np.asarray(classes)[:, None] == np.asarray(findings, np.str_)).astype(np.float32)
    parts = [place.part if split == "folders" else "" for place in places]
    # Names that aren't UTF-8 can't be written to results.
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
        bits=bits,
    )


def find_films(root: Path) -> tuple[list[str], int]:
    """Return the paths of PNG, JPEG and DICOM files below a folder, and the number of other files.

    Paths are in order. Linked folders aren't entered; hidden files are ignored.
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


class _Place(NamedTuple):
    """The parts of a path.

    Args:
        part: of the split, or "".
        above: the folders down to the class's.
        of_class: the class, or "".
        below: the folders inside the class's.
    """

    part: str
    above: str
    of_class: str
    below: tuple[str, ...]


def _place(name: str) -> _Place:
    folders = name.split("/")[:-1]
    part = PARTS.get(folders[0].lower(), "") if folders else ""
    start = 1 if part else 0
    of_class = folders[start] if len(folders) > start else ""
    return _Place(part, "/".join(folders[: start + 1]), of_class, tuple(folders[start + 1 :]))


def _refuse_loose(names: Sequence[str], classes: Sequence[str], argument: str) -> None:
    """Raise DataError for films outside the folders of the other films' classes."""
    if loose := classes.count(""):
        raise DataError(
            f"{count(loose, 'film')} in {argument} outside any class's folder, first "
            f"{names[classes.index('')]!r}; expected CLASS/FILE"
        )


def _refuse_nested(places: Sequence[_Place], argument: str) -> None:
    """Raise DataError for a class or a part of the split inside a class's folder.

    Otherwise an archive that unpacks into itself would make "chest_xray" a finding, and folders of
    hospitals above the classes would make each hospital a finding.
    """
    classes = {place.of_class.casefold() for place in places}
    found: dict[str, str] = {}
    for place in sorted(set(places)):
        own = place.of_class.casefold()
        folders = (place.of_class, *place.below)
        for depth, folder in enumerate(folders):
            is_part = folder.lower() in PARTS
            other = folder.casefold() != own and depth > 0
            if is_part or (other and (folder.casefold() in classes or is_healthy(folder))):
                outer = "/".join((place.above, *place.below[:depth])).rpartition("/")[0]
                if is_part and depth == len(place.below):  # A/train/FILE
                    hint = f"put parts above classes, as {folder}/{place.above}/FILE"
                    raise DataError(_nested(argument, outer, folder, "a part of the split", hint))
                found.setdefault(outer, folder)
                break
    if found:
        outer, folder = next(iter(found.items()))
        what = "a part of the split" if folder.lower() in PARTS else "a class"
        give = AND.join(f"folder:{argument.rstrip('/')}/{name}" for name in list(found)[:LISTED])
        more = " and so on" if len(found) > LISTED else ""
        hint = f"give {give}{more}, or remove {outer}"
        raise DataError(_nested(argument, outer, folder, what, hint))


def _nested(argument: str, outer: str, folder: str, what: str, hint: str) -> str:
    return (
        f"{argument}: {outer}/{folder} has the name of {what}, and {outer} would become a class; "
        f"{hint}"
    )


def _healthy(classes: set[str], asked: str) -> set[str]:
    found = {name for name in classes if is_healthy(name, asked)}
    if asked and not found:
        raise UsageError(
            f"`source.healthy` {asked}: there is no such folder; there are "
            f"{', '.join(sorted(classes))}"
        )
    return found


def _doubts(places: Sequence[_Place], findings: Sequence[str]) -> list[Note]:
    """Warnings about folders whose names don't look like classes."""
    notes = []
    odd = [name for name in findings if NO_CLASS.fullmatch(name)]
    if odd:
        words = (
            f"These folders were taken as classes: {listed(odd)}. If they aren't classes, give "
            "labels "
            "in a table: table:FILE.csv, or dicom:FOLDER --source.table FILE.csv."
        )
        notes.append(Note("labels", words, doubt=True))
    inner: dict[str, set[str]] = {}
    for place in set(places):
        if place.below:
            inner.setdefault(place.below[0], set()).add(place.of_class)
    shared = sorted(name for name, classes in inner.items() if len(classes) > 1)
    if len(shared) > 1:
        words = (
            f"Several classes hold folders {listed(shared)}; all films in them count as films of "
            "their class."
        )
        notes.append(Note("labels", words, doubt=True))
    return notes


def _patients(names: list[str], asked: str, notes: list[Note]) -> list[str] | None:
    stems = [name.rpartition("/")[2].rpartition(".")[0] for name in names]
    if asked:
        try:
            pattern = re.compile(asked)
        except re.error as error:
            raise UsageError(f"`source.patient` {asked}: {error}") from None
        if pattern.groups < 1:
            raise UsageError(f"`source.patient` {asked}: expected a group, as '^([^-]+)-'")
        found = [match[1] if (match := pattern.search(stem)) else None for stem in stems]
        unnamed = sum(not patient for patient in found)
        if unnamed:
            words = (
                f"Without a patient in the name: {count(unnamed, 'film')}, each counted as a "
                "patient."
            )
            notes.append(Note("patients", words))
        return [patient or name for patient, name in zip(found, names, strict=True)]
    for release, pattern in NAMING.items():
        matches = [pattern.fullmatch(stem) for stem in stems]
        if all(matches):
            notes.append(Note("patients", f"Patients are taken from the file names of {release}."))
            return [next(filter(None, match.groups())) for match in matches if match]
    return None
