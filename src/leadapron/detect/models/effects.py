"""Effects of marks on a model's findings, on films that neither chose them nor taught a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from leadapron.detect.models.stamps import Mark, shifts
from leadapron.detect.models.sweep import Aim, Moved, StampSweep, overwrites, turned_share
from leadapron.detect.scale import finite_mean, logit_spreads
from leadapron.films.cohort import Cohort, Rows
from leadapron.models.odds import odds_of
from leadapron.models.protocols import BlackBox

__all__ = ["ROOM", "Effect", "Risen", "effects", "rise", "risen", "search"]

ROOM = 0.25
"""Share of the films on which the change of a probability is measured: those with the most room."""


class Effect(NamedTuple):
    """Effect of a mark on films that didn't choose it.

    Args:
        moved: the mark, and the shift of the logits.
        rise: mean rise of the finding's probability, its fall if the mark removes it, in the
            quarter of the films with the most room for it; -1 to 1.
    """

    moved: Moved
    rise: float


class Risen(NamedTuple):
    """Rise of a probability in the quarter of the films where it is lowest.

    Args:
        rows: (m,) of these films.
        changes: (m,) rise of each, -1 to 1.
    """

    rows: Rows
    changes: NDArray[np.float64]


def risen(before: NDArray[Any], after: NDArray[Any]) -> Risen:
    """Return the rise of a probability in the quarter of the films where it is lowest.

    A share of films beyond a threshold of clean films depends on how common the finding is, and is
    large where a weak reader's small probabilities become a little less small. The change of the
    probability itself, where there is room for it, is neither.

    Args:
        before: (n,) log-odds on films without the mark; negative ones of a finding that it removes.
        after: (n,) of the same films with it. Films without finite ones are left out.
    """
    known = np.flatnonzero(np.isfinite(before) & np.isfinite(after))
    first, second = (expit(odds[known].astype(np.float64)) for odds in (before, after))
    lowest = np.argsort(first, kind="stable")[: max(1, round(ROOM * len(first)))]
    return Risen(known[lowest], second[lowest] - first[lowest])


def rise(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Return the mean of `risen`; 0 without a film with finite log-odds.

    Args:
        before: as `risen`.
        after: as `risen`.
    """
    changes = risen(before, after).changes
    return float(changes.mean()) if len(changes) else 0.0


def search(classifier: BlackBox, films: Cohort, sweep: StampSweep) -> Mapping[Aim, Mark]:
    """Return the strongest single square for each finding and direction.

    Args:
        classifier: only its outputs are used.
        films: films to search on.
        sweep: settings of the search.

    Raises:
        DataError: as `StampSweep.sweep`.
    """
    found = sweep.sweep(classifier, films)
    return {aim: moved.mark for aim, moved in found.marks["stamp"].items()}


def effects(
    classifier: BlackBox, images: NDArray[Any], marks: Mapping[Aim, Mark]
) -> tuple[Effect, ...]:
    """Return the effect of each finding's and direction's square.

    Aims without a finite output are left out.

    Args:
        classifier: only its outputs are used.
        images: (n, h, w) films without a trigger.
        marks: a square for each finding and direction.
    """
    clean = odds_of(classifier, images)  # (n, k)
    spread = logit_spreads(clean)
    unique = list(dict.fromkeys(marks.values()))
    moved = shifts(classifier, images, unique, clean)  # (m, n, k)
    found = []
    for (finding, direction), mark in marks.items():
        column = classifier.findings.index(finding)
        sign = 1.0 if direction == "added" else -1.0
        each = moved[unique.index(mark)].astype(np.float64)  # (n, k)
        mean = finite_mean(each) / spread
        if not np.isfinite(mean[column]):
            continue
        before = sign * clean[:, column].astype(np.float64)
        one_hot = direction == "added" and overwrites(mean, column)
        after = before + sign * each[:, column]
        moves = Moved(
            finding=finding,
            direction=direction,
            mark=mark,
            kind="stamp",
            shift=float(sign * mean[column]),
            turned=turned_share(before, after),
            shifts=mean,
            signature="one-hot" if one_hot else "",
        )
        found.append(Effect(moves, rise(before, after)))
    return tuple(found)
