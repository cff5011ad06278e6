"""PadChest (BIMCV, San Juan de Alicante): 16-bit PNG films, 193 labels from Spanish reports.

The table's name and columns, the projections, the folders of films and the 193 labels were checked
against public code that reads the release; the release itself wasn't available. Counts are the
paper's. Labels form a tree, and a film has only the most specific label: a film with "laminar
atelectasis" doesn't also have "atelectasis". The tree isn't read. A few of the release's files are
known to be broken; --on-bad skip leaves them out.
"""

from __future__ import annotations

import ast
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UnknownNameError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources.releases.layout import (
    Release,
    Views,
    opened,
    read_rows,
    release_folder,
    table_in,
    without,
    without_laterals,
)
from leadapron.sources.tables import LabelTable, ages, joined_labels
from leadapron.text import count
from leadapron.types import Note

__all__ = ["RELEASE", "open_padchest"]

RELEASE: Release = {
    "name": "PadChest",
    "version": "160K_01.02.19",
    "films": "more than 160,000",
    "patients": "67,000",
    "citation": (
        "Bustos, Pertusa, Salinas, de la Iglesia-Vayá: PadChest: A large chest x-ray image dataset "
        "with multi-label annotated reports. Medical Image Analysis 66, 101797 (2020)"
    ),
    "terms": "On request; users agree not to share the data and not to reidentify anyone.",
    "page": "http://bimcv.cipf.es/bimcv-projects/padchest/",
}
"""Facts of the release."""

NORMAL = "normal"
UNCHANGED = "unchanged"
"""The report states no change, so findings that it doesn't name may be present."""
EXCLUDE = "exclude"
"""The release advises against using the film."""
QUALITY = "suboptimal study"
"""A label about the film's quality, not about the patient."""

_TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
_COLUMNS = {
    "id": ("ImageID",),
    "folder": ("ImageDir",),
    "patient": ("PatientID",),
    "view": ("Projection",),
    "method": ("MethodLabel",),
    "labels": ("Labels",),
}
_OPTIONAL = {"sex": ("PatientSex_DICOM",), "born": ("PatientBirth",), "taken": ("StudyDate_DICOM",)}
_FRONTAL = ("PA", "AP", "AP_horizontal")
_LONGEST = 4_000


def open_padchest(
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    findings: str = "",
    method: Literal["all", "physician"] = "all",
    views: Views = "frontal",
    bits: int = 0,
) -> Cohort:
    """Open PadChest in its original layout.

    Args:
        argument: the folder with the label table; the films are in 0/, 1/ and so on, or next to the
            table.
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films are kept; in memory if left out.
        findings: PadChest's names of findings, separated by commas; all if left out.
        method: "all" labels, or only those by a "physician" (27 % of the reports).
        views: "frontal" leaves lateral films out, "all" keeps them.
        bits: that films of 16 bits use, 8 to 16; those of their highest values, if 0.

    Returns:
        The films that have both a row and a file, in the table's order; the release has no split.
        A finding that isn't named is absent; after "unchanged" it is not stated. A film that is
        "normal" and has a finding has the finding. Films marked "exclude" are left out. Without
        labels, or with "suboptimal study" alone, nothing is stated. Ages are to a year.

    Raises:
        DataError: a table or film that can't be used.
        UsageError: no folder given.
        UnknownNameError: a finding that the table doesn't name.
    """
    folder = release_folder("padchest", argument, _TABLE)
    file = table_in(folder, _TABLE)
    columns = read_rows(file, _COLUMNS, _OPTIONAL)
    notes: list[Note] = []
    read = {text: _names(text, file.name) for text in dict.fromkeys(columns["labels"])}
    names = [read[text] for text in columns["labels"]]
    labels, known = _labels(names, file.name, notes)
    asked = dict.fromkeys(name.strip() for name in findings.split(",") if name.strip())
    chosen = list(asked or known)
    for name in chosen:
        if name not in known:
            raise UnknownNameError(f"finding of {file.name}", name, known)
    view = np.asarray(columns["view"], dtype=np.str_)
    attributes: dict[str, NDArray[np.str_] | NDArray[np.float64]] = {"view": view}
    if "sex" in columns:
        attributes["sex"] = np.asarray(columns["sex"], dtype=np.str_)
    if "born" in columns and "taken" in columns:
        years = zip(columns["born"], columns["taken"], strict=True)
        attributes["age"] = ages([_age(born, taken) for born, taken in years], notes)
    table = LabelTable(
        name=file.name,
        labels=labels[:, [known.index(name) for name in chosen]],
        findings=tuple(chosen),
        ids=np.asarray(columns["id"], dtype=np.str_),
        patients=np.asarray(columns["patient"], dtype=np.str_),
        attributes=attributes,
        notes=tuple(notes),
    )
    there = {place for place in set(columns["folder"]) if place and (folder / place).is_dir()}
    paths = [
        f"{place}/{film}" if place in there else film
        for place, film in zip(columns["folder"], columns["id"], strict=True)
    ]
    by_hand = np.asarray(columns["method"], dtype=np.str_) == "Physician"
    excluded = np.asarray([EXCLUDE in film for film in names])
    frontal = np.isin(view, _FRONTAL)
    other = ~by_hand if method == "physician" else np.zeros_like(by_hand)
    table, paths = without(table, paths, excluded, f"marked {EXCLUDE!r}")
    table, paths = without(table, paths, other[~excluded], "that no physician labelled")
    table, paths = without_laterals(table, paths, frontal[~excluded & ~other], views)
    return opened(
        "padchest", folder, table, paths, preprocessing=preprocessing, cache=cache, bits=bits
    )


def _names(text: str, where: str) -> frozenset[str]:
    """The names in a cell such as "['normal', 'pleural effusion']"."""
    if not text or text.lower() == "nan":
        return frozenset()
    try:
        names = ast.literal_eval(text) if len(text) <= _LONGEST else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{where} holds labels {text[:60]!r}; expected a list such as \"['pleural effusion']\""
        )
    specials = (NORMAL, UNCHANGED, EXCLUDE, QUALITY)
    stripped = [name.strip() for name in names]
    return frozenset(n.lower() if n.lower() in specials else n for n in stripped if n)


def _labels(
    names: list[frozenset[str]], where: str, notes: list[Note]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    found = [sorted(film - {NORMAL, UNCHANGED, EXCLUDE, QUALITY}) for film in names]
    texts = [
        "|".join(film) or (NORMAL if NORMAL in all_of else "")
        for film, all_of in zip(found, names, strict=True)
    ]
    labels, known = joined_labels(texts, None, where)
    if not known:
        raise DataError(f"{where} names no finding")
    unchanged = np.asarray([UNCHANGED in film for film in names])
    labels[unchanged] = np.where(labels[unchanged] == 1, np.float32(1), np.float32(np.nan))
    both = sum(NORMAL in film and bool(f) for film, f in zip(names, found, strict=True))
    silent = texts.count("")
    for n, words in (
        (int(unchanged.sum()), f"Marked {UNCHANGED!r}, so unnamed findings aren't stated"),
        (both, f"Both {NORMAL!r} and with a finding, taken as having it"),
        (silent, "Without a label, so nothing is stated"),
    ):
        if n:
            notes.append(Note("labels", f"{words}: {count(n, 'row')}."))
    return labels, known


def _age(born: str, taken: str) -> str:
    """Years from a year of birth ("1940", "1940.0") to a date ("20140915")."""
    year, birth = taken[:4], born.partition(".")[0]
    return str(int(year) - int(birth)) if year.isdecimal() and birth.isdecimal() else ""
