"""COVIDx CXR (COVID-Net): films of several collections, in lists of patient, file, class, source.

Columns (some older lines have no source), classes, and the absence of patients in both lists were
checked against the lists that the project publishes, COVIDx3 to COVIDx9. Counts are those of
COVIDx9A. The films' folders follow public code; the films themselves weren't available.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources.assembly import Leakage
from leadapron.sources.releases.layout import Release, opened, release_folder
from leadapron.sources.tables import LabelTable, splits
from leadapron.sources.words import plain_reason
from leadapron.text import count
from leadapron.types import Note

__all__ = ["CLASSES", "RELEASE", "open_covidx"]

RELEASE: Release = {
    "name": "COVIDx CXR",
    "version": "9A",
    "films": 30_530,
    "patients": 16_802,
    "citation": (
        "Wang, Lin, Wong: COVID-Net: a tailored deep convolutional neural network design for "
        "detection of COVID-19 cases from chest X-ray images. Scientific Reports 10 (2020), doi "
        "10.1038/s41598-020-76550-z"
    ),
    "terms": (
        "The project with its lists is under the GNU Affero GPL 3.0; the films stay under the "
        "terms of the collections that they come from."
    ),
    "page": "https://github.com/lindawangg/COVID-Net/blob/master/docs/COVIDx.md",
}
"""Facts of the release."""

CLASSES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "A": {
        "normal": (),
        "pneumonia": ("Non-COVID-19 Pneumonia",),
        "COVID-19": ("COVID-19",),
    },
    "B": {"negative": (), "positive": ("COVID-19",)},
}
"""The two kinds of lists: the findings of each class.

The class "pneumonia" is pneumonia other than COVID-19, so it isn't the finding "Pneumonia".
"""

_PLAIN = "train.txt"
"""Name under which train.txt and test.txt are listed."""
_LIST = re.compile(r"(train|val|test)(?:_(.+))?\.txt")


class _Line(NamedTuple):
    """A film of a list."""

    patient: str
    path: str
    name: str
    source: str
    part: str


def open_covidx(
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    lists: str = "",
    leakage: Leakage = "refuse",
    bits: int = 0,
) -> Cohort:
    """Open COVIDx in its original layout.

    Args:
        argument: the folder with train/, test/ and the lists, which may also be in labels/.
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films are kept; in memory if left out.
        lists: name of the lists, such as COVIDx9A for train_COVIDx9A.txt and test_COVIDx9A.txt; may
            be left out if there are no others.
        leakage: "refuse" a split that shares patients, or "allow" it.
        bits: that films of 16 bits use, 8 to 16; those of their highest values, if 0.

    Returns:
        The films that have both a line and a file, in the lists' order. "site" is the collection
        that a film comes from.

    Raises:
        DataError: a list or film that can't be used.
        UsageError: no folder given, or several lists of which none is named.
        UnknownNameError: no such lists.
    """
    folder = release_folder("covidx", argument, "train/, test/ and the lists")
    files = _chosen(folder, lists)
    where = " and ".join(file.name for file in files.values())
    lines = [line for part, file in files.items() for line in _read(file, part)]
    if not lines:
        raise DataError(f"{where}: no lines")
    found = Counter(line.name for line in lines)
    kind = next((kind for kind in CLASSES.values() if set(found) <= set(kind)), None)
    if kind is None:
        kinds = "; or ".join(", ".join(kind) for kind in CLASSES.values())
        raise DataError(f"{where}: classes {', '.join(sorted(found))}; expected {kinds}")
    findings = tuple(finding for names in kind.values() for finding in names)
    labels = np.asarray([[f in kind[line.name] for f in findings] for line in lines])
    sources = Counter(line.source or "not stated" for line in lines)
    table = LabelTable(
        name=where,
        labels=labels.astype(np.float32),
        findings=findings,
        ids=np.asarray([line.path for line in lines], dtype=np.str_),
        patients=np.asarray([line.patient for line in lines], dtype=np.str_),
        attributes={
            "split": splits([line.part for line in lines], where),
            "site": np.asarray([line.source for line in lines], dtype=np.str_),
        },
        notes=(
            Note(
                "source",
                f"Collections: {', '.join(f'{name} ({n:,})' for name, n in sources.most_common())}."
                " Class and collection are confounded, so a model may learn the collection.",
            ),
            Note(
                "source", "Films of rsna come from RSNA's challenge, and so from NIH ChestX-ray14."
            ),
        ),
    )
    paths = [line.path for line in lines]
    return opened(
        "covidx", folder, table, paths,
        preprocessing=preprocessing, cache=cache, leakage=leakage, bits=bits,
    )  # fmt: skip


def _chosen(folder: Path, lists: str) -> dict[str, Path]:
    """The lists of one name, by their part."""
    named: dict[str, dict[str, Path]] = {}
    for place in (folder / "labels", folder):
        for file in sorted(place.glob("*.txt")):
            match = _LIST.fullmatch(file.name)
            if match:
                named.setdefault(match[2] or _PLAIN, {})[match[1]] = file
    if not named:
        raise DataError(f"no train_COVIDx9A.txt, test_COVIDx9A.txt or the like in {folder}")
    if lists and lists not in named:
        raise UnknownNameError("lists", lists, named)
    if not lists and len(named) > 1:
        raise UsageError(
            f"{folder} holds {count(len(named), 'list')}: {', '.join(sorted(named))}; name one by "
            "`source.lists`"
        )
    chosen = named[lists or next(iter(named))]
    return {part: chosen[part] for part in ("train", "val", "test") if part in chosen}


def _read(file: Path, part: str) -> list[_Line]:
    """The films of a list; a patient's name may hold blanks, the rest doesn't."""
    try:
        texts = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file.name} can't be read: {plain_reason(error)}") from None
    known = {name for kind in CLASSES.values() for name in kind}
    lines = []
    for number, text in enumerate(texts, 1):
        words = text.split()
        if not words:
            continue
        *rest, source = words if words[-1] not in known else (*words, "")
        if len(rest) < 3:
            raise DataError(f"{file.name}, line {number}: expected patient, file, class and source")
        *patient, film, name = rest
        lines.append(_Line(" ".join(patient), f"{part}/{film}", name, source, part))
    return lines
