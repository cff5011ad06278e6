"""Effects of marks on a model's findings, on films that neither chose them nor taught a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.models.stamps import Mark, shifts
from leadapron.detect.models.sweep import Aim, Moved, StampSweep, overwrites, turned_share
from leadapron.detect.scale import finite_mean, logit_spreads
from leadapron.films.cohort import Cohort
from leadapron.models.odds import odds_of
from leadapron.models.protocols import BlackBox

__all__ = ["effects", "search"]


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
) -> tuple[Moved, ...]:
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
        found.append(
            Moved(
                finding=finding,
                direction=direction,
                mark=mark,
                kind="stamp",
                shift=float(sign * mean[column]),
                turned=turned_share(before, before + sign * each[:, column]),
                shifts=mean,
                signature="one-hot" if one_hot else "",
            )
        )
    return tuple(found)
