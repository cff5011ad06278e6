"""Harm: the effect of a mark on the sensitivity of findings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leadapron.detect.models.sweep import Moved
from leadapron.films.cohort import Cohort
from leadapron.metrics import FALSE_POSITIVES, threshold_at_false_positive_rate
from leadapron.models.classifier import BlackBox
from leadapron.models.odds import odds_of

__all__ = ["LEAST_POSITIVES", "Harm", "harm"]

LEAST_POSITIVES = 10
"""Fewest films with a finding, and without it, for stating its sensitivity."""


@dataclass(frozen=True, kw_only=True)
class Harm:
    """Effect of a mark at the threshold that 5 % of films without a finding exceed.

    Args:
        finding: name of the finding.
        positives: number of clean films with it.
        sensitivity: sensitivity on the unmarked films.
        triggered: sensitivity on the same films with the mark.
        missed: additional findings missed in 1,000 films with the mark, at these films' prevalence.
    """

    finding: str
    positives: int
    sensitivity: float
    triggered: float
    missed: float


def harm(classifier: BlackBox, clean: Cohort, mark: Moved) -> tuple[Harm, ...]:
    """Return the effect of a mark on the sensitivity of each labelled finding.

    Findings with an output that isn't finite on a labelled film are left out.

    Args:
        classifier: the model.
        clean: films with labels.
        mark: the mark, put on all films.
    """
    shared = [name for name in classifier.findings if name in clean.findings]
    images = np.asarray(clean.images[np.arange(len(clean))])
    before, after = odds_of(classifier, images), odds_of(classifier, mark.mark(images))
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
