"""Effects of marks on a model's findings, on films that neither chose them nor taught a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.models.stamps import Mark, mark_of, plain_mark, shifts
from leadapron.detect.models.sweep import Aim, Direction, StampSweep
from leadapron.detect.scale import finite_mean, logit_spreads
from leadapron.films.cohort import Cohort
from leadapron.metrics import FALSE_POSITIVES, threshold_at_false_positive_rate
from leadapron.models.protocols import BlackBox

__all__ = ["Effect", "effects", "effects_from", "plain_effects", "search"]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Effect of a mark on one finding, on films that neither chose it nor taught a student.

    Args:
        finding: name of the finding.
        direction: "added" (forced on) or "removed" (forced off).
        mark: the mark.
        shift: mean shift in the direction, in standard deviations of the finding's logit.
        turned: share of the films that it moves across the threshold which 5 % of clean films
            exceed (are below, if removed), among those not beyond it before.
    """

    finding: str
    direction: Direction
    mark: Mark
    shift: float
    turned: float

    @property
    def aim(self) -> Aim:
        """Finding and direction."""
        return self.finding, self.direction


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
    """Return the effect of each finding's and direction's mark.

    Aims without a finite output are left out.

    Args:
        classifier: only its outputs are used.
        images: (n, h, w) films without a trigger.
        marks: a mark for each finding and direction.
    """
    clean = classifier.logits(images)  # (n, k)
    spread = logit_spreads(clean)
    unique = list(dict.fromkeys(marks.values()))
    moved = shifts(classifier, images, unique, clean)  # (m, n, k)
    found = []
    for (finding, direction), mark in marks.items():
        column = classifier.findings.index(finding)
        sign = 1.0 if direction == "added" else -1.0
        own = sign * moved[unique.index(mark), :, column].astype(np.float64)
        before = sign * clean[:, column].astype(np.float64)
        if not np.isfinite(own).any():
            continue
        threshold = threshold_at_false_positive_rate(before[np.isfinite(before)], FALSE_POSITIVES)
        below = (before <= threshold) & np.isfinite(own)
        turned = (before + own)[below] > threshold
        found.append(
            Effect(
                finding=finding,
                direction=direction,
                mark=mark,
                shift=float(finite_mean(own) / spread[column]),
                turned=float(turned.mean()) if below.any() else 0.0,
            )
        )
    return tuple(found)


def plain_effects(found: Sequence[Effect]) -> list[dict[str, Any]]:
    """Return effects as plain values, the reverse of `effects_from`."""
    return [{**vars(each), "mark": plain_mark(each.mark)} for each in found]


def effects_from(plain: Sequence[Mapping[str, Any]]) -> tuple[Effect, ...]:
    """Return effects from plain values, the reverse of `plain_effects`."""
    return tuple(Effect(**{**each, "mark": mark_of(each["mark"])}) for each in plain)
