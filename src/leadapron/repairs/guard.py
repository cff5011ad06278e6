"""Loss of accuracy of a repaired model on held-out films."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.metrics import PatientBootstrap
from leadapron.models.odds import log_odds
from leadapron.models.protocols import BlackBox

__all__ = ["GREAT_HARM", "HARM", "LEAST_PATIENTS", "Guard", "Judged", "prefers"]

HARM, GREAT_HARM = 0.01, 0.03
"""Accepted loss of macro AUROC, and the limit however few the films."""

LEAST_PATIENTS = 3
"""Fewest patients with and without a finding for its AUROC to be used."""

RESAMPLES = 200
"""Their standard deviation is within a tenth of the standard error."""


class Judged(NamedTuple):
    """A repair's cost on the guard's films.

    Args:
        change: change in macro AUROC.
        accepted: whether the change is accepted.
    """

    change: float
    accepted: bool


def prefers(now: Judged, kept: Judged) -> bool:
    """Return whether a later epoch is kept in place of an earlier one.

    The last accepted epoch is kept, or the one that costs least where none is accepted.
    """
    return now.accepted or (not kept.accepted and now.change >= kept.change)


@dataclass(frozen=True, eq=False)
class Guard:
    """Held-out films, and the original's accuracy on them.

    They are used to choose epochs and thresholds; triggers, marks and answer keys aren't.

    Args:
        original: the model before the repair.
        films: the films, with the model's findings.
        bootstrap: resamples of their patients.

    Raises:
        DataError: no finding with 3 patients who have it and 3 who don't, or a model whose outputs
            aren't finite.
    """

    original: BlackBox
    films: Cohort
    bootstrap: PatientBootstrap

    def __post_init__(self) -> None:
        if not self.columns:
            raise DataError(
                f"{len(self.films)} of the clean films are kept to watch what the repair costs, "
                f"and no finding has {LEAST_PATIENTS} patients with and without it among them; "
                "add clean films"
            )
        if np.isnan(self._before).all():
            raise DataError("the model's answers to clean films aren't finite; nothing to repair")

    @cached_property
    def columns(self) -> list[int]:
        """The findings that are counted."""
        labels, patients = self.films.labels, self.films.patients
        return [
            j
            for j in range(labels.shape[1])
            if all(
                len(np.unique(patients[labels[:, j] == stated])) >= LEAST_PATIENTS
                for stated in (0, 1)
            )
        ]

    @cached_property
    def _before(self) -> NDArray[np.float64]:
        return self._macro(self.original.logits(self.films.images))

    @cached_property
    def _draws(self) -> PatientBootstrap:
        """The films as they are, then the resamples."""
        once = np.ones((len(self.films), 1), np.uint8)
        return PatientBootstrap(
            self.bootstrap.groups, np.hstack([once, self.bootstrap.weights.T]).T
        )

    def judge(self, logits: NDArray[np.float32]) -> Judged:
        """Return the repaired model's change in macro AUROC, and whether it is accepted.

        A change is accepted above -(.01 + half its standard error) and above -.015, half of the
        largest acceptable loss of .03. With 90 to 300 films a loss of .01 can't be excluded:
        standard errors are .003 to .012 on phantoms. Requiring the lower end of the 95 % interval
        above -.01 would refuse most harmless repairs, and refused repairs are weakened; an accepted
        harmful repair is still detected on films that no repair used.

        Args:
            logits: (n, k) of the repaired model for the films.
        """
        change, error = self.change(logits)
        return Judged(change, change > -min(HARM + error / 2, GREAT_HARM / 2))

    def change(self, logits: NDArray[np.float32]) -> tuple[float, float]:
        """Return the change in macro AUROC, -inf where answers aren't finite; its standard error.

        Args:
            logits: (n, k) of the repaired model for the films.
        """
        after = self._macro(logits)
        if np.isnan(after).all():
            return -math.inf, 0.0
        changes = (after - self._before)[1:]
        told = changes[np.isfinite(changes)]
        return float(after[0] - self._before[0]), float(told.std()) if len(told) else 0.0

    def _macro(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """(1 + resamples,) macro AUROC of the films as they are, then of the resamples."""
        odds = log_odds(torch.from_numpy(logits), self.original.head).numpy()[:, self.columns]
        if not np.isfinite(odds).all():
            return np.full(1, np.nan)
        labels = self.films.labels[:, self.columns]
        return metrics.macro_resamples(metrics.finding_resamples(labels, odds, self._draws))
