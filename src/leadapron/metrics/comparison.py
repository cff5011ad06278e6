"""Two models on the same films."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from leadapron.errors import DataError
from leadapron.metrics.values import (
    TAILS,
    Difference,
    Z,
    checked_scores,
    enough_defined,
    patient_groups,
    placements,
)


def delong(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    patients: ArrayLike | None = None,
) -> Difference:
    """Test whether two AUROCs on the same films differ.

    Args:
        labels: (n,) in {0, 1, NaN}.
        scores_a: (n,) finite, of the first model.
        scores_b: (n,) finite, of the second.
        patients: (n,) patient of each film; films count as independent without.

    Returns:
        AUROC a - AUROC b with normal interval and p; NaN where a class has fewer than two
        films (patients). Two models that agree on every pair have p = 1.

    Raises:
        DataError: if shapes or values are wrong.

    Source: DeLong et al., Biometrics 44 (1988) 837, computed as in Sun and Xu, IEEE Signal
    Processing Letters 21 (2014) 1389; with patients, Obuchowski, Biometrics 53 (1997) 567.
    """
    truth, first = checked_scores(labels, scores_a, dimensions=1)
    second = checked_scores(truth, scores_b, dimensions=1)[1]
    groups = np.arange(truth.size) if patients is None else patient_groups(patients, truth.size)
    known = ~np.isnan(truth)
    positive = truth[known] == 1
    groups = np.unique(groups[known], return_inverse=True)[1]
    ill, well = groups[positive], groups[~positive]
    counts = [np.unique(ill).size, np.unique(well).size]
    if min(counts) < 2:
        return Difference(math.nan, math.nan, math.nan, math.nan)
    ill_a, well_a = placements(positive, first[known])
    ill_b, well_b = placements(positive, second[known])
    value = float((ill_a - ill_b).mean())
    total = int(groups.max()) + 1
    of_ill = np.bincount(ill, ill_a - ill_b - value, minlength=total) / ill.size
    of_well = np.bincount(well, well_a - well_b - value, minlength=total) / well.size
    variance = sum(
        size / (size - 1) * float(product.sum())
        for size, product in (
            (counts[0], of_ill**2),
            (counts[1], of_well**2),
            (total, 2 * of_ill * of_well),
        )
    )
    error = math.sqrt(max(variance, 0.0))
    p = math.erfc(abs(value) / error / math.sqrt(2)) if error else float(value == 0)
    return Difference(value, value - Z * error, value + Z * error, p)


def paired_difference(values_a: ArrayLike, values_b: ArrayLike, observed: float) -> Difference:
    """Difference of any two numbers computed on the same resamples.

    Args:
        values_a: (resamples,) of the first model, NaN where undefined.
        values_b: (resamples,) of the second, with the same weights.
        observed: a - b on the films themselves.

    Returns:
        The percentile interval and p = 2 min(share <= 0, share >= 0), counting the observation
        itself, so never 0. Bounds are NaN where fewer than half of the resamples are defined or
        all of them agree (the spread is then unknown).

    Raises:
        DataError: if the shapes differ.
    """
    first, second = np.asarray(values_a, np.float64), np.asarray(values_b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(f"resamples {first.shape} and {second.shape}: expected the same (r,)")
    change = enough_defined(first - second)
    if not change.size or math.isnan(observed):
        return Difference(observed, math.nan, math.nan, math.nan)
    low, high = (float(bound) for bound in np.quantile(change, TAILS))
    sides = min(int((change <= 0).sum()), int((change >= 0).sum()))
    p = min(1.0, 2 * (1 + sides) / (1 + change.size))
    if np.ptp(change) == 0:
        low = high = math.nan
    return Difference(observed, low, high, p)
