"""The result of a scan as a document: the films' names and how often labels state a finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.scan import Method, Scan
from leadapron.detect.scores import Direction, Evidence, EvidenceKind, LabelTie
from leadapron.detect.verdict import Verdict
from leadapron.documents import Number, ShownPath
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing

__all__ = [
    "LabelShift",
    "NamedEvidence",
    "NamedRanking",
    "RankedFilm",
    "ScanDocument",
    "Suspect",
    "named_evidence",
    "ranked_films",
    "suspects_of",
]

RANKED = 100
"""Most films that a ranking lists."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A film that evidence of poison names.

    Args:
        rank: from 1, the most suspicious first.
        id: the film's name.
        path: its file; "" if the source has no separate file for it.
        score: -log10 of the smallest p-value of the evidence that names it.
        finding: the finding of the strongest evidence; "" if that concerns several findings.
        row: of the mark's upper left pixel in the scanned image; None if unknown.
        column: as `row`.
        reasons: a short description of each piece of evidence, the strongest first.
    """

    rank: int
    id: str
    path: ShownPath
    score: float
    finding: str
    row: int | None
    column: int | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LabelShift:
    """Prevalence of a finding among the films of a piece of evidence and among all others.

    Args:
        finding: its name.
        films: share of the stated labels that are positive, 0 to 1; NaN if none is stated.
        others: the same for all other films.
    """

    finding: str
    films: Number
    others: Number


@dataclass(frozen=True, kw_only=True)
class NamedEvidence:
    """A piece of evidence, its films by name; otherwise as `Evidence`."""

    kind: EvidenceKind
    method: str
    p: Number
    finding: str | None
    direction: Direction | None
    place: tuple[int, int, int] | None
    films: tuple[str, ...]
    tested: bool
    tie: LabelTie | None
    words: str
    labels: tuple[LabelShift, ...]


@dataclass(frozen=True, kw_only=True)
class RankedFilm:
    """A film and its score in a ranking."""

    id: str
    score: float


@dataclass(frozen=True, kw_only=True)
class NamedRanking:
    """A detector's ranking of the films by a network's features. It has no false-alarm rate.

    Args:
        name: of `FEATURE_DETECTORS`.
        unit: of the scores.
        scored: number of films with a score.
        films: those with the highest scores.
        evidence: findings beyond single films.
        notes: films left out, or the reason for an empty ranking.
    """

    name: str
    unit: str
    scored: int
    films: tuple[RankedFilm, ...]
    evidence: tuple[NamedEvidence, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ScanDocument:
    """The result of a scan: scan.json, and the output of --json.

    Args:
        verdict: on the films.
        source: the scanned source.
        films: number of films.
        patients: number of patients.
        findings: names of the labels' findings.
        image: (height, width) of the scanned images.
        dtype: their type.
        preprocessing: the preprocessing that made them.
        p: as `Scan`.
        false_alarm: as `Scan`.
        seconds: duration, without opening the source.
        methods: the methods that were tried.
        least: as `Scan`.
        evidence: as `Scan`.
        suspects: films that evidence of poison names, the most suspicious first.
        rankings: of the feature detectors; empty if no network was used.
        notes: what couldn't be tested, and the reason.
    """

    SCHEMA: ClassVar[int] = 1

    verdict: Verdict
    source: ShownPath
    films: int
    patients: int
    findings: tuple[str, ...]
    image: tuple[int, int]
    dtype: str
    preprocessing: Preprocessing
    p: float
    false_alarm: float
    seconds: float
    methods: tuple[Method, ...]
    least: Mapping[str, int | None]
    evidence: tuple[NamedEvidence, ...]
    suspects: tuple[Suspect, ...]
    rankings: tuple[NamedRanking, ...]
    notes: tuple[str, ...]

    @property
    def poison(self) -> tuple[NamedEvidence, ...]:
        """The evidence of poison, the strongest first."""
        return tuple(one for one in self.evidence if one.kind == "poison")

    @property
    def rest(self) -> tuple[NamedEvidence, ...]:
        """Marks and shortcuts that aren't evidence of poison."""
        return tuple(one for one in self.evidence if one.kind != "poison")


def suspects_of(found: Scan, cohort: Cohort) -> tuple[Suspect, ...]:
    """Return the films that evidence of poison names, by score and then by name."""
    poison = [one for one in found.evidence if one.kind == "poison"]
    naming: dict[int, list[Evidence]] = {}
    for one in poison:
        for row in one.films.tolist():
            naming.setdefault(row, []).append(one)
    ranked = sorted(naming, key=lambda row: (-found.scores[row], str(cohort.ids[row])))
    suspects = []
    for rank, row in enumerate(ranked, 1):
        strongest = min(naming[row], key=lambda one: one.p)
        place = next((one.place for one in naming[row] if one.place is not None), None)
        suspects.append(
            Suspect(
                rank=rank,
                id=str(cohort.ids[row]),
                path=cohort.path(row),
                score=float(found.scores[row]),
                finding=strongest.finding or "",
                row=None if place is None else place[0],
                column=None if place is None else place[1],
                reasons=tuple(
                    dict.fromkeys(_reason(one) for one in sorted(naming[row], key=lambda e: e.p))
                ),
            )
        )
    return tuple(suspects)


def _reason(one: Evidence) -> str:
    what = " ".join(filter(None, (one.finding, one.direction)))
    return f"{one.method}: {what}" if what else one.method


def named_evidence(evidence: Sequence[Evidence], cohort: Cohort) -> tuple[NamedEvidence, ...]:
    """Return evidence with its films' names and the prevalence of each finding."""
    return tuple(_named(one, cohort) for one in evidence)


def _named(one: Evidence, cohort: Cohort) -> NamedEvidence:
    within = np.zeros(len(cohort), dtype=np.bool_)
    within[one.films] = True
    return NamedEvidence(
        kind=one.kind,
        method=one.method,
        p=one.p,
        finding=one.finding,
        direction=one.direction,
        place=None if one.place is None else (one.place[0], one.place[1], one.place[2]),
        films=tuple(cohort.ids[one.films].tolist()),
        tested=one.tested,
        tie=one.tie,
        words=one.words,
        labels=tuple(
            LabelShift(
                finding=finding,
                films=_share(cohort.labels[within, column]),
                others=_share(cohort.labels[~within, column]),
            )
            for column, finding in enumerate(cohort.findings)
        ),
    )


def _share(labels: NDArray[np.float32]) -> float:
    """Share of the stated labels that are positive; NaN if none is stated."""
    stated = labels[~np.isnan(labels)]
    return float((stated == 1).mean()) if stated.size else float("nan")


def ranked_films(scores: NDArray[np.float64], cohort: Cohort) -> tuple[RankedFilm, ...]:
    """Return the films with the highest scores, without those that have no score."""
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:RANKED]
    return tuple(
        RankedFilm(id=str(cohort.ids[row]), score=float(scores[row]))
        for row in order
        if not np.isnan(scores[row])
    )
