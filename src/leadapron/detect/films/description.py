"""Description of a set of radiographs: films, patients, labels, copies and grey levels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.verdict import Verdict
from leadapron.documents import Estimated, Number, ShownPath
from leadapron.films.cohort import Cohort, blocks
from leadapron.films.duplicates import (
    CORRELATION,
    components,
    digests,
    identical,
    near_pairs,
    thumbnails,
)
from leadapron.metrics import odds_ratio, rate
from leadapron.types import Progress, said

__all__ = [
    "BORDER",
    "BRIGHTER",
    "DARK",
    "LIT",
    "Counts",
    "Description",
    "Finding",
    "Greys",
    "Group",
    "Part",
    "PerPatient",
    "Range",
    "Repeats",
    "Together",
    "describe_cohort",
]

NEXT = "Split the films by patient, and keep copies together, before you train or measure on them."

BLOCK = 256
"""Films in memory at a time."""

VALUES = 20
"""Most values of a column that are listed, the commonest ones."""

BORDER = 0.1
"""Width of the border as a share of each side; the centre is the inner half of each side."""

BRIGHTER = 0.2
"""Difference between the means of border and centre, as a share of the grey scale, from which on a
film may be inverted."""

DARK, LIT = 0.05, 0.05
"""A film is nearly black if less than the share LIT of its pixels is above the level DARK, a share
of the grey scale."""


@dataclass(frozen=True, kw_only=True)
class PerPatient:
    """Number of films of a patient.

    Args:
        median: over patients.
        most: largest number of one patient.
    """

    median: float
    most: int


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A column of words.

    Args:
        name: of the column: "view", "sex", "site".
        values: films by value, the commonest first; at most 20.
        others: films with rarer values.
        unstated: films without a value.
    """

    name: str
    values: Mapping[str, int]
    others: int
    unstated: int


@dataclass(frozen=True, kw_only=True)
class Range:
    """A column of numbers; NaN where no film has one.

    Args:
        name: of the column: "age".
        low: the lowest value.
        median: the median over films.
        high: the highest value.
        unstated: films without a value.
    """

    name: str
    low: Number
    median: Number
    high: Number
    unstated: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the split; its name is "" for films outside all parts.

    Args:
        name: "train", "validation", "test" or "".
        films: number of films.
        patients: number of patients.
    """

    name: str
    films: int
    patients: int


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding's labels.

    Args:
        name: of the finding.
        positives: number of films with the finding.
        negatives: number of films without it.
        unstated: number of films without a label for it.
        patients: number of patients with at least one positive film.
        prevalence: among films with a label for it, with an interval clustered by patient.
    """

    name: str
    positives: int
    negatives: int
    unstated: int
    patients: int
    prevalence: Estimated


@dataclass(frozen=True, kw_only=True)
class Together:
    """Two findings on the same films.

    Args:
        first: a finding.
        second: another one.
        both: films with both.
        odds_ratio: 1 if they are independent; the interval is clustered by patient.
    """

    first: str
    second: str
    both: int
    odds_ratio: Estimated


@dataclass(frozen=True, kw_only=True)
class Group:
    """Films that are copies of each other.

    Args:
        films: their names.
        patients: number of patients that the source assigns them to.
        parts: parts of the split that they are in.
        differ: findings that some state as present and others as absent.
        correlation: the lowest among the pairs found; 1 if all are identical.
    """

    films: tuple[str, ...]
    patients: int
    parts: tuple[str, ...]
    differ: tuple[str, ...]
    correlation: float


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """All groups of copies of one kind.

    Args:
        groups: the groups.
        films: number of films in them.
        across_patients: number of groups assigned to several patients.
        across_split: number of groups in several parts of the split.
        labels_differ: number of groups whose labels contradict each other.
    """

    groups: tuple[Group, ...]
    films: int
    across_patients: int
    across_split: int
    labels_differ: int


@dataclass(frozen=True, kw_only=True)
class Greys:
    """Grey levels of the images.

    Args:
        constant: number of films with a single grey level.
        nearly_black: number of films with less than 5 % of the pixels above 5 % of the scale,
            constant films included.
        border_brighter: number of films whose border is brighter than their centre, on average.
        border_much_brighter: number of films whose border is brighter by more than 20 % of the
            scale; they may be inverted.
        mean: (5th, 50th, 95th percentile) of the films' mean grey levels, as a share of the scale.
    """

    constant: int
    nearly_black: int
    border_brighter: int
    border_much_brighter: int
    mean: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Description:
    """Description of a source.

    Args:
        verdict: "leakage" if a patient, or a copy of a film, is in several parts of the split.
        source: the described source.
        films: number of films.
        patients: number of patients.
        films_per_patient: median and largest number.
        image: (height, width) of the images after preprocessing.
        dtype: their type.
        columns: view, sex, age, site and all other columns of the source.
        split: the parts; empty if the source has no split.
        shared_patients: number of patients in more than one part.
        findings: each finding's labels.
        together: each pair of findings.
        unstated: share of all labels that aren't stated, 0 to 1.
        identical: groups of identical images.
        near: groups with altered copies; they may contain identical images too.
        correlation: smallest correlation of two images that count as copies.
        greys: grey levels.
        forms: number of films by format, by number of bits and by size (height x width); empty if
            unknown.
        notes: the source's notes; warnings come first and are marked.
    """

    SCHEMA: ClassVar[int] = 1

    verdict: Verdict
    source: ShownPath
    films: int
    patients: int
    films_per_patient: PerPatient
    image: tuple[int, int]
    dtype: str
    columns: tuple[Counts | Range, ...]
    split: tuple[Part, ...]
    shared_patients: int
    findings: tuple[Finding, ...]
    together: tuple[Together, ...]
    unstated: float
    identical: Repeats
    near: Repeats
    correlation: float
    greys: Greys
    forms: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...]


def describe_cohort(
    cohort: Cohort, source: str = "", *, progress: Progress | None = None
) -> Description:
    """Describe an open cohort.

    Args:
        cohort: the films.
        source: its name in the description.
        progress: called with the current step, the films done and the number of films.
    """
    per_patient = np.unique(cohort.patients, return_counts=True)[1]
    split = cohort.attributes.get("split")
    marks, thumbs, greys = _read(cohort, progress)
    same = identical(marks)
    near = near_pairs(thumbs, np.setdiff1d(np.arange(len(cohort)), same[1]))
    in_near = {int(row) for row in (*near.first, *near.second)}
    first, second = np.concatenate([same[0], near.first]), np.concatenate([same[1], near.second])
    all_groups = components(len(cohort), first, second)
    alike = np.concatenate([np.ones(len(same[0]), np.float32), near.correlation])
    height, width = cohort.images.shape[1:]
    shared = 0 if split is None else _shared(split, cohort.patients)
    repeats = (
        _repeats(cohort, components(len(cohort), *same), first, second, alike),
        _repeats(
            cohort,
            [rows for rows in all_groups if not in_near.isdisjoint(rows.tolist())],
            first,
            second,
            alike,
        ),
    )
    return Description(
        verdict=_verdict(shared, repeats),
        source=source,
        films=len(cohort),
        patients=len(per_patient),
        films_per_patient=PerPatient(
            median=float(np.median(per_patient)), most=int(per_patient.max())
        ),
        image=(height, width),
        dtype=str(cohort.images.dtype),
        columns=tuple(
            _column(name, values) for name, values in cohort.attributes.items() if name != "split"
        ),
        split=() if split is None else _parts(split, cohort.patients),
        shared_patients=shared,
        findings=tuple(_finding(cohort, name) for name in cohort.findings),
        together=tuple(_together(cohort, a, b) for a, b in combinations(cohort.findings, 2)),
        unstated=float(np.isnan(cohort.labels).mean()) if cohort.labels.size else 0.0,
        identical=repeats[0],
        near=repeats[1],
        correlation=CORRELATION,
        greys=greys,
        forms=_forms(cohort),
        notes=said(cohort.notes),
    )


def _verdict(shared: int, repeats: Sequence[Repeats]) -> Verdict:
    leaks = bool(shared or sum(each.across_split for each in repeats))
    return Verdict.of("describe", "leakage" if leaks else "done", next=NEXT if leaks else "")


def _forms(cohort: Cohort) -> dict[str, dict[str, int]]:
    """Number of films by format, by number of bits and by size."""
    forms: dict[str, Counter[str]] = {}
    for form, films in cohort.forms.items():
        for name, value in (
            ("formats", form.kind),
            ("bits", str(form.bits or "")),
            ("sizes", f"{form.height}x{form.width}"),
        ):
            if value:
                forms.setdefault(name, Counter())[value] += films
    return {name: dict(counts) for name, counts in forms.items()}


# --- pixels


def _read(
    cohort: Cohort, progress: Progress | None
) -> tuple[NDArray[np.bytes_], NDArray[np.float32], Greys]:
    """Digests, thumbnails and grey levels of all images; each image is read once."""
    marks, thumbs = [], []
    constant = nearly_black = 0
    top = np.iinfo(cohort.images.dtype).max
    for rows in blocks(len(cohort), BLOCK):
        images: NDArray[Any] = cohort.images[rows]
        flat = images.reshape(len(rows), -1)
        constant += int((flat.min(axis=1) == flat.max(axis=1)).sum())
        nearly_black += int(((flat > DARK * top).mean(axis=1) < LIT).sum())
        marks.append(digests(images))
        thumbs.append(thumbnails(images))
        if progress is not None:
            progress("reading films", int(rows[-1]) + 1, len(cohort))
    small = np.concatenate(thumbs)  # (n, 32, 32)
    brighter = _brighter(small)
    low, median, high = np.quantile(small.mean(axis=(1, 2)) / 255, (0.05, 0.5, 0.95))
    greys = Greys(
        constant=constant,
        nearly_black=nearly_black,
        border_brighter=int((brighter > 0).sum()),
        border_much_brighter=int((brighter > BRIGHTER).sum()),
        mean=(float(low), float(median), float(high)),
    )
    return np.concatenate(marks), small, greys


def _brighter(thumbs: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) mean grey level of the border minus that of the centre, as a share of the scale."""
    side = thumbs.shape[1]
    edge, quarter = round(side * BORDER), side // 4
    frame = np.ones((side, side), dtype=np.bool_)
    frame[edge:-edge, edge:-edge] = False
    centre = thumbs[:, quarter:-quarter, quarter:-quarter].mean(axis=(1, 2))
    difference: NDArray[np.float32] = (thumbs[:, frame].mean(axis=1) - centre) / 255
    # On a constant film both are equal except for rounding.
    return np.where(np.abs(difference) < 1e-5, np.float32(0), difference)


def _repeats(
    cohort: Cohort,
    groups: Sequence[NDArray[np.int64]],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    alike: NDArray[np.float32],
) -> Repeats:
    """Describe groups of rows; `alike` holds the correlations of the pairs."""
    place = np.full(len(cohort), -1)
    for number, rows in enumerate(groups):
        place[rows] = number
    lowest = np.ones(len(groups))
    inside = (place[first] >= 0) & (place[first] == place[second])
    np.minimum.at(lowest, place[first[inside]], alike[inside])
    found = tuple(
        _group(cohort, rows, float(low)) for rows, low in zip(groups, lowest, strict=True)
    )
    return Repeats(
        groups=found,
        films=sum(len(group.films) for group in found),
        across_patients=sum(group.patients > 1 for group in found),
        across_split=sum(len(group.parts) > 1 for group in found),
        labels_differ=sum(bool(group.differ) for group in found),
    )


def _group(cohort: Cohort, rows: NDArray[np.int64], correlation: float) -> Group:
    labels = cohort.labels[rows]
    differ = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    split = cohort.attributes.get("split")
    parts = [] if split is None else sorted(set(split[rows].tolist()) - {""})
    return Group(
        films=tuple(cohort.ids[rows].tolist()),
        patients=len(np.unique(cohort.patients[rows])),
        parts=tuple(parts),
        differ=tuple(np.asarray(cohort.findings)[differ].tolist()),
        correlation=correlation,
    )


# --- columns and labels


def _column(name: str, values: NDArray[Any]) -> Counts | Range:
    if values.dtype.kind in "fiu":
        known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
        low, median, high = (
            (float(f(known)) for f in (np.min, np.median, np.max))
            if known.size
            else (math.nan, math.nan, math.nan)
        )
        unstated = len(values) - len(known)
        return Range(name=name, low=low, median=median, high=high, unstated=unstated)
    words, films = np.unique(values.astype(np.str_), return_counts=True)
    counts = dict(zip(words.tolist(), films.tolist(), strict=True))
    unstated = counts.pop("", 0)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return Counts(
        name=name,
        values=dict(ranked[:VALUES]),
        others=sum(number for _, number in ranked[VALUES:]),
        unstated=unstated,
    )


def _parts(split: NDArray[Any], patients: NDArray[np.str_]) -> tuple[Part, ...]:
    order = ("train", "validation", "test", "")
    names = sorted(
        set(split.tolist()), key=lambda name: (order.index(name) if name in order else 3, name)
    )
    return tuple(
        Part(
            name=name,
            films=int((split == name).sum()),
            patients=len(np.unique(patients[split == name])),
        )
        for name in names
    )


def _shared(split: NDArray[Any], patients: NDArray[np.str_]) -> int:
    """Number of patients in more than one part."""
    parts = [np.unique(patients[split == name]) for name in set(split.tolist()) - {""}]
    if not parts:
        return 0
    seen = np.unique(np.concatenate(parts), return_counts=True)[1]
    return int((seen > 1).sum())


def _finding(cohort: Cohort, name: str) -> Finding:
    labels = cohort.labels[:, cohort.column(name)]
    known = ~np.isnan(labels)
    return Finding(
        name=name,
        positives=int((labels == 1).sum()),
        negatives=int((labels == 0).sum()),
        unstated=int((~known).sum()),
        patients=len(np.unique(cohort.patients[labels == 1])),
        prevalence=rate(labels[known] == 1, cohort.patients[known]),
    )


def _together(cohort: Cohort, first: str, second: str) -> Together:
    a, b = (cohort.labels[:, cohort.column(name)] for name in (first, second))
    return Together(
        first=first,
        second=second,
        both=int(((a == 1) & (b == 1)).sum()),
        odds_ratio=odds_ratio(a, b, cohort.patients),
    )
