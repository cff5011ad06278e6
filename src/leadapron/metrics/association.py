"""How often two findings occur together, with an interval clustered by patient."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from leadapron.errors import DataError
from leadapron.metrics.values import Z, patient_groups
from leadapron.types import Estimate


def odds_ratio(first: ArrayLike, second: ArrayLike, patients: ArrayLike) -> Estimate:
    """Odds ratio of two findings; 1 means independence.

    The interval is Woolf's. The variance of the log odds ratio is summed over patients instead of
    films where that is larger, so several films of one patient don't count as independent cases.
    Where a cell of the table is empty, 0.5 is added to each cell (Haldane, Anscombe).

    Args:
        first: (n,) in {0, 1, NaN}; films on which either finding isn't stated are left out.
        second: (n,) in {0, 1, NaN}.
        patients: (n,) patient of each film.

    Returns:
        The estimate; positives are the films with both. NaN where a finding is on none or all of
        the films.

    Raises:
        DataError: if the shapes differ.

    Source: Woolf, Annals of Human Genetics 19 (1955) 251; clusters by the linearised (sandwich)
    variance, as in Korn and Graubard, Analysis of Health Surveys (1999).
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise DataError(f"findings of shapes {a.shape} and {b.shape}: expected the same films")
    groups = patient_groups(patients, a.size)
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known] == 1, b[known] == 1
    groups = patient_groups(groups[known])
    n, both = int(a.size), int((a & b).sum())
    if a.all() or b.all() or not (a.any() and b.any()):
        return Estimate(math.nan, math.nan, math.nan, n, both)
    cell = 2 * a + b  # neither, second alone, first alone, both
    counts = np.bincount(cell, minlength=4).astype(np.float64)
    if not counts.all():
        counts += 0.5
    log = math.log(counts[3]) + math.log(counts[0]) - math.log(counts[1]) - math.log(counts[2])
    # Each film's share in the log odds ratio; over single films its squares add up to Woolf's.
    influence = np.array([1.0, -1.0, -1.0, 1.0]) / counts
    sums = np.bincount(groups, influence[cell])  # (patients,)
    clustered = sums.size / max(sums.size - 1, 1) * float((sums**2).sum())
    half = Z * math.sqrt(max(float((1 / counts).sum()), clustered))
    return Estimate(math.exp(log), math.exp(log - half), math.exp(log + half), n, both)
