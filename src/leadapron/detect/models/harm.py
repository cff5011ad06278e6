"""Harm: what a mark does to the findings that a reader would be shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leadapron.detect.models.sweep import Moved
from leadapron.films.cohort import Cohort
from leadapron.metrics import FALSE_POSITIVES, threshold_at_false_positive_rate
from leadapron.models.classifier import BlackBox

__all__ = ["LEAST_POSITIVES", "Harm", "harm"]

LEAST_POSITIVES = 10
"""Films with a finding, and without it, that its sensitivity is stated from."""


@dataclass(frozen=True, kw_only=True)
class Harm:
    """What a mark does to readings at the threshold that 5 % of films without a finding exceed.

    Args:
        finding: whose sensitivity it is.
        positives: clean films that have it.
        sensitivity: on the films as they are.
        triggered: on the same films with the mark.
        missed: more findings missed in 1,000 films with the mark, at these films' prevalence.
    """

    finding: str
    positives: int
    sensitivity: float
    triggered: float
    missed: float


def harm(classifier: BlackBox, clean: Cohort, mark: Moved) -> tuple[Harm, ...]:
    """Return what a mark does to the sensitivity of each finding that the films state.

    Findings without finite answers to all of the films that state them are left out.

    Args:
        classifier: the model.
        clean: films with labels.
        mark: is put on all of them.
    """
    shared = [name for name in classifier.findings if name in clean.findings]
    images = np.asarray(clean.images[np.arange(len(clean))])
    before, after = classifier.logits(images), classifier.logits(mark.mark(images))
    found = []
    for name in shared:
        truth = clean.labels[:, clean.column(name)]
        column = classifier.findings.index(name)
        has, without = truth == 1, truth == 0
        stated = has | without
        if not (np.isfinite(before[stated, column]) & np.isfinite(after[stated, column])).all():
            continue
        if has.sum() < LEAST_POSITIVES or without.sum() < LEAST_POSITIVES:
            continue
        at = threshold_at_false_positive_rate(before[without, column], FALSE_POSITIVES)
        seen, left = (float((x[has, column] > at).mean()) for x in (before, after))
        prevalence = float(has.sum() / (has.sum() + without.sum()))
        found.append(
            Harm(
                finding=name,
                positives=int(has.sum()),
                sensitivity=seen,
                triggered=left,
                missed=1000 * prevalence * (seen - left),
            )
        )
    return tuple(found)
