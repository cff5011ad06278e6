"""A Gaussian of few films with many values each: its covariance shrunk, distances to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError

__all__ = ["distances", "most_steps", "scales", "shrunk_gaussian"]

Values = NDArray[np.float64]

PARTS = ("mean", "basis", "variances", "rest")


def shrunk_gaussian(values: NDArray[Any], name: str = "") -> dict[str, Values]:
    """Fit a Gaussian whose covariance is drawn towards a multiple of the identity.

    Only the directions in which the films differ are kept; in all others the shrunk covariance
    has the same variance, so nothing of a (d, d) matrix is needed.

    Args:
        values: (n, d), n at least 2.
        name: what the parts' names begin with, where a state holds several.

    Returns:
        "mean" (d,), "basis" (d, r) and "variances" (r,) of the kept directions, "rest" (1,) the
        variance in all others; r is at most n - 1 and d. If all variances are alike, r may be 0.

    Raises:
        DataError: a single film, values that aren't finite, or films that are all the same.

    Source: Ledoit and Wolf, Journal of Multivariate Analysis 88 (2004) 365, section 3.
    """
    values = np.asarray(values, dtype=np.float64)
    n, d = values.shape
    if n < 2:
        raise DataError(f"{n} clean film to learn from; expected 2 or more")
    if not np.isfinite(values).all():
        raise DataError("clean films' values that are not finite")
    mean = values.mean(axis=0)
    centred = values - mean
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / n
    level = variances.sum() / d
    if level <= 1e-12 * max(1.0, float(np.square(mean).mean())):
        raise DataError("clean films that all look the same; expected films that differ")
    squares = np.square(variances).sum()
    # How far the sample covariance is from the identity's multiple, and how much of that is chance.
    distance = squares / d - level**2
    chance = (np.square(np.square(centred).sum(axis=1)).mean() - squares) / (n * d)
    shrinkage = float(np.clip(chance / distance, 0.0, 1.0)) if distance > 0 else 1.0
    # Nothing is known of a direction without spread: it has the rest's variance, never none.
    rest = max(shrinkage * level, 1e-6 * level)
    kept = variances > 1e-12 * variances[0]
    held = np.maximum((1 - shrinkage) * variances[kept] + shrinkage * level, rest)
    parts = (mean, directions[kept].T, held, np.array([rest]))
    return {name + part: value for part, value in zip(PARTS, parts, strict=True)}


def distances(values: NDArray[Any], gaussian: Mapping[str, NDArray[Any]], name: str = "") -> Values:
    """Return (n,) Mahalanobis distances of (n, d) values to a Gaussian of `shrunk_gaussian`."""
    mean, basis, variances, rest = (gaussian[name + part] for part in PARTS)
    centred = np.asarray(values, dtype=np.float64) - mean
    inside = centred @ basis  # (n, r)
    outside = np.square(centred).sum(axis=1) - np.square(inside).sum(axis=1)
    squared = (np.square(inside) / variances).sum(axis=1) + np.maximum(outside, 0.0) / rest
    found: Values = np.sqrt(squared)
    return found


def scales(
    measured: Mapping[str, Values], tail: float, least: Mapping[str, float]
) -> dict[str, Values]:
    """Return what `most_steps` counts in: of each measure, clean films' median and a step's length.

    Args:
        measured: (n,) of clean films, by name.
        tail: the quantile that lies one step above the median.
        least: lengths of a step, at least, by name.
    """
    found = {}
    for name, values in measured.items():
        median, high = np.quantile(values, [0.5, tail])
        found[f"{name} scale"] = np.array([median, max(high - median, least[name])])
    return found


def most_steps(measured: Mapping[str, Values], state: Mapping[str, NDArray[Any]]) -> Values:
    """Return (n,) by how many steps films lie beyond clean ones, in the measure that is farthest.

    Args:
        measured: (n,) by name.
        state: with what `scales` returned.
    """
    every = []
    for name, values in measured.items():
        median, length = state[f"{name} scale"]
        every.append((values - median) / length)
    most: Values = np.max(every, axis=0)
    return most
