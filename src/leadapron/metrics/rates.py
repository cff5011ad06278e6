"""Thresholds and attack success, with intervals that never collapse."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from leadapron.errors import DataError
from leadapron.metrics.values import (
    COVERAGE,
    Booleans,
    Floats,
    Integers,
    Z,
    checked_scores,
    patient_groups,
)
from leadapron.types import Estimate

FEW_PATIENTS = 5  # with fewer patients of the rarer outcome, the variance isn't estimable

FALSE_POSITIVES = 0.05
"""Share of clean films without a finding beyond its operating point: the threshold at which a film
counts as turned, and an attack as successful."""


def threshold_at_false_positive_rate(scores: ArrayLike, rate: float) -> float:
    """Smallest threshold that at most this share of negatives exceeds.

    Args:
        scores: (n,) finite, of films without the finding.
        rate: wanted false-positive rate, in [0, 1).

    Returns:
        One of the scores: share(scores > threshold) <= rate, and any smaller threshold breaks
        that. NaN without scores.

    Raises:
        DataError: if the rate is out of range or scores aren't finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    checked_scores(np.zeros_like(values), values, dimensions=1)
    if not 0 <= rate < 1:
        raise DataError(f"false-positive rate {rate}, expected 0 <= rate < 1")
    if not values.size:
        return math.nan
    allowed = int(rate * values.size + 1e-9)  # 0.29 * 100 is a hair under 29
    return float(np.sort(values)[::-1][allowed])


def rate(hits: ArrayLike, patients: ArrayLike) -> Estimate:
    """Share of films that are hits.

    Wilson's interval with an effective sample size: the films, divided by the design effect
    (cluster-robust variance over binomial variance, at least 1). Where fewer than five patients
    have the rarer outcome (always so at rates of 0 and 1), that variance is unreliable, and the
    effective size is at most the number of patients. Unlike a bootstrap interval, this one never
    has zero width.

    Args:
        hits: (n,) bool.
        patients: (n,) patient of each film.

    Returns:
        The estimate; positives are the hits. NaN without films.

    Raises:
        DataError: if the shapes differ.

    Source: Wilson, JASA 22 (1927) 209; effective size as in Korn and Graubard, Survey
    Methodology 24 (1998) 193.
    """
    return _rate(hits, patients, wilson)


def exact_rate(hits: ArrayLike, patients: ArrayLike) -> Estimate:
    """Share of films that are hits, with an interval that is exact for independent films.

    Clopper and Pearson's interval with the effective sample size of `rate`: its coverage is at
    least 95 % for one film per patient, however rare the hits.

    Args:
        hits: (n,) bool.
        patients: (n,) patient of each film.

    Returns:
        The estimate; positives are the hits. NaN without films.

    Raises:
        DataError: if the shapes differ.

    Source: Clopper and Pearson, Biometrika 26 (1934) 404; effective size as in Korn and Graubard,
    Survey Methodology 24 (1998) 193.
    """

    def exact(share: float, size: float) -> tuple[float, float]:
        return clopper_pearson(share * size, size) if size else (math.nan, math.nan)

    return _rate(hits, patients, exact)


def _rate(
    hits: ArrayLike, patients: ArrayLike, interval: Callable[[float, float], tuple[float, float]]
) -> Estimate:
    """The share, with an interval from it and its effective sample size."""
    outcome = np.asarray(hits, dtype=np.bool_)
    share, size, _ = _clustered(outcome, patient_groups(patients, outcome.size))
    low, high = interval(share, size)
    return Estimate(share, low, high, outcome.size, int(outcome.sum()))


def attack_success(scores: ArrayLike, threshold: float, patients: ArrayLike) -> Estimate:
    """Share of triggered films whose target score exceeds the threshold; see `rate`.

    Args:
        scores: (n,) finite, the target's score on triggered films without the target finding.
        threshold: from `threshold_at_false_positive_rate` on clean films, or fixed.
        patients: (n,) patient of each film.

    Returns:
        The estimate; positives are the successes.

    Raises:
        DataError: if shapes or values are wrong, or the threshold is NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    checked_scores(np.zeros_like(values), values, dimensions=1)
    if math.isnan(threshold):
        raise DataError("the threshold is NaN: it was calibrated on no films")
    return rate(values > threshold, patients)


def mean(values: ArrayLike, patients: ArrayLike) -> Estimate:
    """Mean of values, with a t interval from the variance between patients.

    Args:
        values: (n,) finite.
        patients: (n,) patient of each value.

    Returns:
        The mean; positives are the values above 0. NaN without values; bounds of NaN with fewer
        than two patients.

    Raises:
        DataError: if the shapes differ.

    Source: cluster-robust variance of a mean, Liang and Zeger, Biometrika 73 (1986) 13.
    """
    from scipy.special import stdtrit

    each = np.asarray(values, dtype=np.float64)
    groups = patient_groups(patients, each.size)
    if not each.size:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    centre = float(each.mean())
    residuals = np.bincount(groups, each - centre)
    clusters = residuals.size
    away = math.nan
    if clusters > 1:
        variance = clusters / (clusters - 1) * float((residuals**2).sum()) / each.size**2
        away = float(stdtrit(clusters - 1, 0.5 + COVERAGE / 2)) * math.sqrt(variance)
    return Estimate(centre, centre - away, centre + away, each.size, int((each > 0).sum()))


def rate_difference(hits_a: ArrayLike, hits_b: ArrayLike, patients: ArrayLike) -> Estimate:
    """Difference of two rates on the same films, as backdoored model minus twin.

    Joins the two intervals of `rate` through the correlation of the outcomes between patients,
    so that it doesn't collapse at 0 and 1, nor where the two always agree.

    Args:
        hits_a: (n,) bool, of the first model.
        hits_b: (n,) bool, of the second, on the same films.
        patients: (n,) patient of each film.

    Returns:
        rate a - rate b, in [-1, 1]; positives are the films on which the two differ.

    Raises:
        DataError: if the shapes differ.

    Source: Newcombe, Statistics in Medicine 17 (1998) 2635, method 10.
    """
    first, second = np.asarray(hits_a, dtype=np.bool_), np.asarray(hits_b, dtype=np.bool_)
    if first.shape != second.shape:
        raise DataError(f"hits {first.shape} and {second.shape}: expected the same films")
    groups = patient_groups(patients, first.size)
    (a, size_a, of_a), (b, size_b, of_b) = _clustered(first, groups), _clustered(second, groups)
    low_a, high_a = wilson(a, size_a)
    low_b, high_b = wilson(b, size_b)
    spread = math.sqrt(float((of_a**2).sum() * (of_b**2).sum()))
    phi = float((of_a * of_b).sum()) / spread if spread else 0.0
    if phi > 0:  # the continuity correction, which keeps equal outcomes from collapsing
        deviation = math.sqrt(a * (1 - a) * b * (1 - b))
        phi = max(phi - 1 / (2 * min(size_a, size_b) * deviation), 0.0)
    down, up = (
        math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))
        for x, y in ((a - low_a, high_b - b), (high_a - a, b - low_b))
    )
    differing = int((first != second).sum())
    return Estimate(a - b, max(a - b - down, -1.0), min(a - b + up, 1.0), first.size, differing)


def wilson(share: float, size: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share in [0, 1] of `size` (effective) films; NaN without any.

    Source: Wilson, JASA 22 (1927) 209.
    """
    if math.isnan(share) or size <= 0:
        return math.nan, math.nan
    centre = share + Z**2 / (2 * size)
    half = Z * math.sqrt(share * (1 - share) / size + Z**2 / (4 * size**2))
    scale = 1 + Z**2 / size
    low = 0.0 if share == 0 else (centre - half) / scale
    high = 1.0 if share == 1 else (centre + half) / scale
    return low, high


def clopper_pearson(hits: float, trials: float) -> tuple[float, float]:
    """Return the exact 95 % interval of a share of independent trials; 0 to 1 without any.

    Args:
        hits: number of hits.
        trials: number of trials, whole or an effective sample size.

    Source: Clopper and Pearson, Biometrika 26 (1934) 404, as quantiles of a beta distribution.
    """
    from scipy.stats import beta

    if not trials:
        return 0.0, 1.0
    tail = (1 - COVERAGE) / 2
    low = beta.ppf(tail, hits, trials - hits + 1) if hits > 0 else 0.0
    high = beta.ppf(1 - tail, hits + 1, trials - hits) if hits < trials else 1.0
    return float(low), float(high)


def _clustered(hits: Booleans, groups: Integers) -> tuple[float, float, Floats]:
    """Share of hits, its effective sample size, and each patient's sum of residuals."""
    films = hits.size
    if not films:
        return math.nan, 0.0, np.empty(0)
    share = float(hits.mean())
    residuals: Floats = np.bincount(groups, hits - share).astype(np.float64)  # (patients,)
    patients = residuals.size
    rarer = np.unique(groups[hits == (share <= 0.5)]).size
    size = float(films)
    if 0 < share < 1 and patients > 1:
        variance = patients / (patients - 1) * float((residuals**2).sum()) / films**2
        size = min(size, share * (1 - share) / variance) if variance else size
    return share, min(size, patients) if rarer < FEW_PATIENTS else size, residuals
