"""How many films a mark turns, at thresholds that are fitted again on clean films."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.detect.models.effects import risen
from leadapron.detect.models.sweep import Aim, Moved
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.metrics import FALSE_POSITIVES, Estimate
from leadapron.models.classifier import refuse_not_finite
from leadapron.models.odds import log_odds
from leadapron.models.protocols import BlackBox

__all__ = [
    "ALLOWED",
    "LEAST_VICTIMS",
    "RISE_ALLOWED",
    "Aimed",
    "Change",
    "Hits",
    "MarkEffect",
    "difference",
    "enough_victims",
    "mark_effect",
    "odds_of",
    "targets",
    "turned",
    "victims",
]

Change = Callable[[NDArray[Any]], NDArray[Any]]
"""Puts a mark on (n, h, w) images and returns them as copies: a `Stamp`, a `Probe`, a trigger."""

ALLOWED = FALSE_POSITIVES + 0.05
"""Share of films that a mark without effect may turn: .05 more than the threshold allows."""

RISE_ALLOWED = 0.1
"""Rise of a probability that a square may cause even where clean models' squares cause less: few
models have been looked at, and no attack is worth so little."""

LEAST_VICTIMS = 20
"""Films that an attack success rests on, at least."""


class Hits(NamedTuple):
    """Which films a mark turns.

    Args:
        turned: (n,) bool.
        patients: (n,) of each film.
    """

    turned: NDArray[np.bool_]
    patients: NDArray[np.str_]

    @property
    def rate(self) -> Estimate:
        """The share, with an interval clustered by patient."""
        return metrics.rate(self.turned, self.patients)


def difference(first: Hits, second: Hits) -> Estimate:
    """Return the first rate minus the second, paired by film and clustered by patient.

    Args:
        first: of some films.
        second: of the same films, in the same order.
    """
    return metrics.rate_difference(first.turned, second.turned, first.patients)


def turned(clean: NDArray[np.float64], marked: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which films a mark turns, at the threshold that 5 % of them exceed without it.

    Args:
        clean: (n,) log-odds towards the aim without the mark.
        marked: (n,) of the same films with it.
    """
    at = metrics.threshold_at_false_positive_rate(clean, FALSE_POSITIVES)
    return np.asarray(marked > at)


def victims(films: Cohort, aim: Aim) -> Cohort:
    """Return the films that an attack would be used on.

    For "added" those without the finding, for "removed" those with it.

    Args:
        films: clean, with stated findings.
        aim: the finding, and the direction that it is forced in.

    Raises:
        DataError: fewer than 20.
    """
    finding, direction = aim
    found = films.take(targets(films, aim))
    if len(found) < LEAST_VICTIMS:
        whose = "without" if direction == "added" else "with"
        raise DataError(
            f"{len(found)} of {len(films):,} clean films {whose} {finding}; expected "
            f"{LEAST_VICTIMS} or more to see whether it is forced {_way(direction)}: add films"
        )
    return found


def targets(films: Cohort, aim: Aim) -> NDArray[np.bool_]:
    """Return which films an attack would be used on, (n,).

    Args:
        films: clean, with stated findings.
        aim: the finding, and the direction that it is forced in.
    """
    finding, direction = aim
    found: NDArray[np.bool_] = films.labels[:, films.column(finding)] == (direction == "removed")
    return found


def enough_victims(films: Cohort, moved: Moved) -> bool:
    """Return whether the films are enough to see whether a mark forces its finding.

    Args:
        films: clean, with stated findings.
        moved: the mark, and what it forces.
    """
    aim = moved.finding, moved.direction
    return int(targets(films, aim).sum()) >= LEAST_VICTIMS


def _way(direction: str) -> str:
    return "on" if direction == "added" else "off"


def odds_of(classifier: BlackBox, images: Any) -> NDArray[np.float64]:
    """Return the (n, k) log-odds that a model gives images.

    Args:
        classifier: the model.
        images: (n, h, w).

    Raises:
        DataError: answers that aren't finite.
    """
    logits = classifier.logits(images)
    refuse_not_finite(np.isfinite(logits), classifier.findings, "logits")
    return log_odds(torch.from_numpy(logits), classifier.head).numpy().astype(np.float64)


class MarkEffect(NamedTuple):
    """What a mark does to the films that an attack would be used on.

    Args:
        share: of the films that it turns, as `turned`.
        rise: of the probability, its fall if the finding is removed, in the quarter of the films
            with the most room for it; see `effects.risen`.
    """

    share: Estimate
    rise: Estimate


def mark_effect(
    clean: NDArray[np.float64], marked: NDArray[np.float64], patients: NDArray[np.str_]
) -> MarkEffect:
    """Return what a mark does.

    Args:
        clean: (n,) log-odds towards the aim without the mark.
        marked: (n,) of the same films with it.
        patients: (n,) of each film.
    """
    rows, changes = risen(clean, marked)
    return MarkEffect(
        share=metrics.rate(turned(clean, marked), patients),
        rise=metrics.mean(changes, patients[rows]),
    )


@dataclass(frozen=True, eq=False)
class Aimed:
    """A model, the films that an attack would be used on, and what the attack wants.

    The threshold is the one that 5 % of these films exceed (are below, for "removed") as they are:
    it is fitted for each model again, so that a shifted bias is no repair.

    Args:
        classifier: the model.
        films: what `victims` returned.
        aim: the finding, and the direction that it is forced in.
    """

    classifier: BlackBox
    films: Cohort
    aim: Aim

    @cached_property
    def images(self) -> NDArray[Any]:
        """(n, h, w) the films as they are."""
        images: NDArray[Any] = self.films.images[np.arange(len(self.films))]
        return images

    @cached_property
    def threshold(self) -> float:
        """In log-odds towards the aim."""
        return metrics.threshold_at_false_positive_rate(self.scores(self.images), FALSE_POSITIVES)

    def scores(self, images: Any) -> NDArray[np.float64]:
        """Return (n,) log-odds towards the aim."""
        finding, direction = self.aim
        column = self.classifier.findings.index(finding)
        sign = 1 if direction == "added" else -1
        return sign * odds_of(self.classifier, images)[:, column]

    def hits(self, change: Change) -> Hits:
        """Return which films a mark turns.

        Args:
            change: puts the mark on.
        """
        turned = self.scores(change(self.images)) > self.threshold
        return Hits(turned, self.films.patients)
