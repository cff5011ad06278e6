"""Films that the network learned earlier than others of their group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leadapron.detect.features.extraction import Features
from leadapron.detect.features.groups import LEAST, Floats, Group, by_group, check_least, robust_z
from leadapron.detect.scores import Scores
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort

__all__ = ["LossDynamics"]


@dataclass(frozen=True, kw_only=True)
class LossDynamics:
    """Films with a low loss in the first epochs, since a trigger is learned before anatomy.

    Args:
        least: films that a group has at least, 10 or more.

    Raises:
        UsageError: a value outside its range.

    Source: Li et al., Anti-Backdoor Learning, NeurIPS 2021, arXiv 2110.11571, section 3.2: the
    films of lowest loss after the first epochs are isolated. We differ: training is unchanged,
    without their local gradient ascent (which keeps other films' losses near 0.5); the losses are
    those during training, in the last recorded epoch; in a finding's group only that finding's loss
    counts, and among films without findings the mean over the stated ones.
    """

    least: int = LEAST

    def __post_init__(self) -> None:
        check_least(self.least)

    def score(self, cohort: Cohort, features: Features) -> Scores:
        """Return (n,) robust z-scores of the negated loss, the highest of a film's groups.

        Raises:
            UsageError: losses weren't recorded, or have other findings.
        """
        losses = features.losses
        if losses is None:
            raise UsageError(
                "loss dynamics need the films' losses in the first epochs; train with film_losses"
            )
        if losses.shape[2] != len(cohort.findings):
            raise UsageError(
                f"losses of {losses.shape[2]} findings; expected {len(cohort.findings)}"
            )

        recorded = np.flatnonzero(~np.isnan(losses).all(axis=(1, 2)))
        last = losses[recorded[-1] if len(recorded) else 0].astype(np.float64)  # (n, k)

        def group_scores(group: Group) -> Floats:
            some = last[group.rows]
            if group.finding is not None:
                some = some[:, [cohort.column(group.finding)]]
            stated = np.isfinite(some)  # an overflow carries no information
            count = stated.sum(axis=1)
            scores = np.full(len(some), np.nan)
            seen = count > 0
            scores[seen] = robust_z(-np.where(stated, some, 0)[seen].sum(axis=1) / count[seen])
            return scores

        values, notes = by_group(cohort, features, self.least, "loss dynamics", group_scores)
        return Scores(
            values, "standard deviations below the group's median loss, by its MAD", notes=notes
        )
