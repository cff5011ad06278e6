"""What the metrics return, and the checks and ranks that they share."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadapron.errors import DataError
from leadapron.types import Estimate

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
Booleans = NDArray[np.bool_]
COVERAGE = 0.95
Z = NormalDist().inv_cdf((1 + COVERAGE) / 2)
TAILS = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)


class Macro(NamedTuple):
    """A macro average over `averaged` of `total` findings."""

    estimate: Estimate
    averaged: int
    total: int


class Difference(NamedTuple):
    """A paired difference a - b, its 95 % interval, and a two-sided p value."""

    value: float
    low: float
    high: float
    p: float


def checked_scores(
    labels: ArrayLike, scores: ArrayLike, *, dimensions: int
) -> tuple[Floats, Floats]:
    """Return labels and scores as float64, or raise."""
    truth, values = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if truth.shape != values.shape or truth.ndim != dimensions:
        shapes = f"labels have shape {truth.shape}, scores {values.shape}"
        raise DataError(f"{shapes}: expected the same, with {dimensions} dimension(s)")
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise DataError(f"{wrong} of {values.size} scores are NaN or infinite")
    odd = truth[~(np.isnan(truth) | (truth == 0) | (truth == 1))]
    if odd.size:
        raise DataError(f"{odd.size} labels are not 0, 1 or NaN, such as {odd[0]}")
    return truth, values


def patient_groups(patients: ArrayLike, films: int | None = None) -> Integers:
    """Number the patients from 0."""
    names = np.asarray(patients)
    if names.ndim != 1 or (films is not None and names.size != films):
        raise DataError(f"patients have shape {names.shape}, expected one per film ({films})")
    return np.unique(names, return_inverse=True)[1]


def midranks(values: Floats) -> Floats:
    """Ranks from 1, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def placements(positive: Booleans, scores: Floats) -> tuple[Floats, Floats]:
    """DeLong's structural components of positives and negatives: their means are the AUROC."""
    ranks = midranks(scores)
    ill, well = scores[positive], scores[~positive]
    of_ill = (ranks[positive] - midranks(ill)) / well.size
    return of_ill, 1 - (ranks[~positive] - midranks(well)) / ill.size


def enough_defined(resampled: Floats) -> Floats:
    """The defined resamples; none where they are fewer than half, or than two."""
    defined = resampled[~np.isnan(resampled)]
    return defined if defined.size >= max(resampled.size / 2, 2) else defined[:0]
