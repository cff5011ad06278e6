"""Films that shift the features of their group in one direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.features.extraction import Features
from leadapron.detect.features.groups import (
    LEAST,
    Floats,
    Group,
    by_group,
    check_least,
    residuals,
    robust_z,
)
from leadapron.detect.features.linear import inverse_root, top_directions
from leadapron.detect.scores import Scores
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort

__all__ = ["SpectralSignatures", "Spectre", "quantum_entropy", "spectral_scores"]

UNIT = "standard deviations from the group's median, by its MAD"

STEPS = 5
"""Number of steps in which outlying films are removed from the covariance."""

ITERATIONS = 12
"""Iterations of the power method for the direction of largest variance."""


@dataclass(frozen=True, kw_only=True)
class SpectralSignatures:
    """Films that are outliers along a group's direction of largest variance.

    Args:
        least: films that a group has at least, 10 or more.

    Raises:
        UsageError: a value outside its range.

    Source: Tran, Li and Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018, arXiv
    1811.00636, algorithm 1: the squared projection of the *centred* features. We differ in the
    groups (see `residuals`) and in the score, a robust z-score within the group, so that groups are
    comparable; no film is removed.
    """

    least: int = LEAST

    def __post_init__(self) -> None:
        check_least(self.least)

    def score(self, cohort: Cohort, features: Features) -> Scores:
        """Return (n,) robust z-scores of the squared projection, the highest of a film's groups."""

        def group_scores(group: Group) -> Floats:
            return robust_z(spectral_scores(residuals(cohort, features, group)))

        values, notes = by_group(cohort, features, self.least, "spectral signatures", group_scores)
        return Scores(values, UNIT, notes=notes)


def spectral_scores(values: NDArray[Any]) -> Floats:
    """Return (m,) squared projections of (m, d) centred features on their top direction."""
    squared: Floats = (values @ top_directions(values, 1)).astype(np.float64).sum(axis=1) ** 2
    return squared


@dataclass(frozen=True, kw_only=True)
class Spectre:
    """Films that are outliers after whitening by a robust covariance of the group.

    Args:
        share: largest share of a group's films that may be poisoned, above 0 and at most 0.25.
        alpha: weight of the directions of largest variance in the score; 0 is the plain distance,
            infinity the top direction alone.
        most: most principal directions.
        least: films that a group has at least, 10 or more.

    Raises:
        UsageError: a value outside its range.

    Source: Hayase, Kong, Somani and Oh, SPECTRE, ICML 2021, arXiv 2104.11315: algorithms 1
    (robust estimation), 2 (QUE scores, alpha 4, 1.5 times the share removed) and 3 (the number of
    directions is the one after whose removals all films' mean QUE score is highest). We differ in
    the filter behind the covariance: as in Diakonikolas et al. 2017 it finds the quadratic form of
    largest variance and removes the films with the largest values, up to twice the share. We remove
    a fixed number at a time, until the variance is that of normal films by chance; they solve for a
    threshold. Directions: 1, 4, 9, ... up to `most` (theirs: 100) and to
    a tenth of the group's films.
    """

    share: float = 0.05
    alpha: float = 4.0
    most: int = 36
    least: int = LEAST

    def __post_init__(self) -> None:
        check_least(self.least)
        if not 0 < self.share <= 0.25 or self.alpha < 0 or self.most < 1:
            raise UsageError(
                f"share {self.share}, alpha {self.alpha}, most {self.most}; expected a share "
                "above 0 and at most 0.25, alpha 0 or more, most 1 or more"
            )

    def score(self, cohort: Cohort, features: Features) -> Scores:
        """Return (n,) robust z-scores of the QUE score, the highest of a film's groups."""

        def group_scores(group: Group) -> Floats:
            return robust_z(self.group(residuals(cohort, features, group)))

        values, notes = by_group(cohort, features, self.least, "SPECTRE", group_scores)
        return Scores(values, UNIT, notes=notes)

    def group(self, values: NDArray[Any]) -> Floats:
        """Return (m,) QUE scores of (m, d) centred features, at the best number of directions."""
        most = min(self.most, max(len(values) // 10, 1))
        projected = (values @ top_directions(values, most)).astype(np.float64)
        removed = int(np.ceil(1.5 * self.share * len(values)))
        best, highest = np.zeros(len(values)), -np.inf
        for count in [i * i for i in range(1, int(projected.shape[1] ** 0.5) + 1)]:
            some = projected[:, :count]
            mean, covariance = _robust_moments(some, int(np.ceil(2 * self.share * len(values))))
            scores = quantum_entropy(some, mean, covariance, self.alpha)
            kept = projected[np.argsort(scores, kind="stable")[: len(scores) - removed]]
            whole = quantum_entropy(projected, kept.mean(axis=0), _covariance(kept), self.alpha)
            if whole.mean() > highest:
                best, highest = scores, float(whole.mean())
        return best


def quantum_entropy(points: Floats, mean: Floats, covariance: Floats, alpha: float) -> Floats:
    """Return (m,) quantum-entropy scores of (m, k) points.

    With x the points whitened by mean and covariance and S the covariance of all x, it is
    x' Q x / trace Q with Q = exp(alpha (S - 1) / (largest eigenvalue of S - 1)): between the
    distance from the mean (alpha 0) and the projection on the top direction (alpha large).

    Source: arXiv 2104.11315, equation of QUE scores; after Dong, Hopkins and Li 2019.
    """
    white = (points - mean) @ inverse_root(covariance)
    spread, directions = np.linalg.eigh(_covariance(white))
    excess = max(float(spread[-1]) - 1, 1e-6)
    weights = np.exp(np.clip(alpha * (spread - 1) / excess, -50, 50))
    scores: Floats = (white @ directions) ** 2 @ weights / weights.sum()
    return scores


def _covariance(points: Floats) -> Floats:
    centred = points - points.mean(axis=0)
    covariance: Floats = centred.T @ centred / len(points)
    return covariance


def _robust_moments(points: Floats, limit: int) -> tuple[Floats, Floats]:
    """Mean and covariance of points without up to `limit` outliers from a normal distribution."""
    kept = points
    k = points.shape[1]
    form = np.eye(k)
    while len(points) - len(kept) < limit:
        white = (kept - kept.mean(axis=0)) @ inverse_root(_covariance(kept))
        for _ in range(ITERATIONS):
            values = _quadratic(white, form)
            form = (white * values[:, None]).T @ white / len(white)
            form /= max(float(np.linalg.norm(form)), 1e-300)
        values = _quadratic(white, form)
        # For normal points a form of norm 1 has variance 2; the maximum over k (k + 1) / 2 is
        # larger.
        chance = 2 * (1 + np.sqrt(k * (k + 1) / 2 / len(white))) ** 2
        if values.var() <= chance:
            break
        taken = min(-(-limit // STEPS), limit - (len(points) - len(kept)))
        order = np.argsort(np.abs(values), kind="stable")
        kept = kept[np.sort(order[: len(kept) - taken])]
    return kept.mean(axis=0), _covariance(kept)


def _quadratic(white: Floats, form: Floats) -> Floats:
    """(m,) values of a quadratic form, minus its mean."""
    values: Floats = ((white @ form) * white).sum(axis=1)
    values -= values.mean()
    return values
