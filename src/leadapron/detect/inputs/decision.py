"""The decision on a film: suspicious, can't tell, or pass, with the reasons.

It needs a gate, its model and images in memory, as in a service between archive and reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.gate import Gate, Judged, judge
from leadapron.detect.verdict import LEVELS, Level, ScreenWord
from leadapron.documents import Number, ShownPath
from leadapron.errors import DataError
from leadapron.models.classifier import BlackBox, squashed
from leadapron.types import Place

__all__ = ["Decision", "Reading", "decide", "decide_image", "decide_images"]

CHANGED = 5
"""Most findings whose probabilities are reported: those that the region changes most."""

UNTYPICAL = "out of the distribution of the calibration films, so its scores are unreliable"

NOT_SCORED = "a detector has no score for it"

NO_NUMBER = "the model's output for it isn't finite"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A finding's probability on a film, and with the evidence region removed."""

    finding: str
    probability: float
    without: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A gate's decision on one film.

    Args:
        verdict: verdict on the film.
        reason: reason of "can't tell", or a warning; or "".
        p: share of clean films with as high a score; None if it wasn't scored.
        drives: share of clean films whose region drives the reading as much; None if unknown.
        unlike: share of clean films as unlike the others as this film; None if unknown.
        clinic: number of the clinic whose thresholds decide, from 1, or that the film is least
            unlike; None if it wasn't scored.
        nearest: names of that clinic's films that look most like this one, the nearest first.
        score: fused score; above the gate's threshold the film is suspicious.
        typical: whether it is in the distribution of the calibration films; None if unknown.
        finding: finding that the region supports; None if there is none.
        region: the evidence region, in pixels of the image; None for a black-box model.
        readings: probabilities with and without the region, of the findings that change most.
        scores: scores by name; NaN where a detector has none.
    """

    verdict: ScreenWord
    reason: str = ""
    p: float | None = None
    drives: float | None = None
    unlike: float | None = None
    clinic: int | None = None
    nearest: tuple[ShownPath, ...] = ()
    score: float | None = None
    typical: bool | None = None
    finding: str | None = None
    region: Place | None = None
    readings: tuple[Reading, ...] = ()
    scores: Mapping[str, Number] = field(default_factory=dict)

    @property
    def level(self) -> Level:
        """The verdict's level, the same four for all commands."""
        return LEVELS["screen"][self.verdict]


def decide_image(gate: Gate, classifier: BlackBox, image: NDArray[Any]) -> Decision:
    """Return the decision on one film.

    Args:
        gate: the gate of this classifier.
        classifier: the model.
        image: (h, w) uint8 or uint16 of its preprocessing.
    """
    (decision,) = decide_images(gate, classifier, image[None])
    return decision


def decide_images(
    gate: Gate, classifier: BlackBox, images: NDArray[Any]
) -> tuple[Decision, ...]:  # fmt: skip
    """Return the decision on each of n films, independently of the others.

    Args:
        gate: the gate of this classifier.
        classifier: the model.
        images: (n, h, w) uint8 or uint16 of its preprocessing; n may be 0.
    """
    if not len(images):
        return ()
    try:
        return decide(gate, judge(gate, classifier, images))
    except DataError:
        if len(images) == 1:
            return (Decision(verdict="can't tell", reason=NO_NUMBER),)
    return tuple(decide_image(gate, classifier, image) for image in images)


def decide(gate: Gate, judged: Judged) -> tuple[Decision, ...]:
    """Return the decision on each film that was judged.

    A film that is out of distribution gets "can't tell", whatever its score, since the threshold
    says nothing about it. Of the others, one whose score exceeds the threshold is suspicious, and
    one that lacks a score that clean films have gets "can't tell".

    Args:
        gate: the gate that judged them.
        judged: its result for n films.
    """
    return tuple(_decision(gate, judged, row) for row in range(len(judged.fused)))


def _decision(gate: Gate, judged: Judged, row: int) -> Decision:
    typical = bool(judged.typical[row])
    verdict, reason = _verdict(
        suspicious=bool(judged.suspicious[row]), typical=typical, scored=bool(judged.scored[row])
    )
    region, finding, readings = _evidence(judged, row)
    clinic = int(judged.clinic[row])
    return Decision(
        verdict=verdict,
        reason=reason,
        p=float(judged.p[row]),
        drives=_known(judged.drives[row]),
        unlike=_known(judged.unlike[row]),
        clinic=clinic + 1,
        nearest=tuple(gate.clinics[clinic].references[near] for near in judged.nearest[row]),
        score=float(judged.fused[row]),
        typical=typical if gate.typical is not None else None,
        finding=finding,
        region=region,
        readings=readings,
        scores=dict(zip(gate.weights, map(float, judged.scores[row]), strict=True)),
    )


def _known(share: float) -> float | None:
    return None if np.isnan(share) else float(share)


def _verdict(*, suspicious: bool, typical: bool, scored: bool) -> tuple[ScreenWord, str]:
    """The verdict and its reason."""
    if not typical:
        return "can't tell", UNTYPICAL
    if suspicious:
        return "suspicious", ""
    return ("pass", "") if scored else ("can't tell", NOT_SCORED)


def _evidence(
    judged: Judged, row: int
) -> tuple[Place | None, str | None, tuple[Reading, ...]]:  # fmt: skip
    """The evidence region, the finding that it supports, and the probabilities that it changes."""
    seen = judged.examined
    if seen is None:
        return None, None, ()
    top, left, height, width = map(int, seen.boxes[row])
    region = Place(row=top, column=left, height=height, width=width)
    before, after = (
        squashed(logits[row : row + 1], judged.head, judged.operating_points)[0]
        for logits in (judged.readings.logits, seen.logits)
    )
    known = np.isfinite(before) & np.isfinite(after)
    moved = np.where(known, np.abs(before - after), -1.0)
    # If one finding is forced on and all others off, a rare one's fall is the largest in spreads;
    # but a reader sees probabilities.
    agree = np.sign(seen.falls[row]) == np.sign(seen.rises[row])
    findings, finding = judged.findings, None
    if seen.scores[row] > 0:
        finding = findings[int(np.where(agree, moved, -1.0).argmax())]
    order = sorted(np.flatnonzero(known), key=lambda c: (findings[c] != finding, -moved[c]))
    readings = tuple(
        Reading(finding=findings[c], probability=float(before[c]), without=float(after[c]))
        for c in order[:CHANGED]
    )
    return region, finding, readings
