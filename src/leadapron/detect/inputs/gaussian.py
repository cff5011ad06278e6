"""A Gaussian of few films with many values: shrunk covariance and Mahalanobis distances."""

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
    """Fit a Gaussian with a covariance shrunk towards a multiple of the identity.

    Only the directions in which the films differ are stored; in all others the shrunk covariance
    has the same variance, so no (d, d) matrix is needed.

    Args:
        values: (n, d), n at least 2.
        name: prefix of the entries' names, for a state with several Gaussians.

    Returns:
        "mean" (d,), "basis" (d, r) and "variances" (r,) of the stored directions, and "rest" (1,),
        the variance in all others; r is at most n - 1 and d. If all variances are equal, r may be
        0.

    Raises:
        DataError: a single film, values that aren't finite, or equal films.

    Source: Ledoit and Wolf, Journal of Multivariate Analysis 88 (2004) 365, section 3.
    """
    values = np.asarray(values, dtype=np.float64)
    n, d = values.shape
    if n < 2:
        raise DataError(f"{n} clean film to fit; expected 2 or more")
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
    # The sample covariance's distance from a multiple of the identity, and the part due to chance.
    distance = squares / d - level**2
    chance = (np.square(np.square(centred).sum(axis=1)).mean() - squares) / (n * d)
    shrinkage = float(np.clip(chance / distance, 0.0, 1.0)) if distance > 0 else 1.0
    # A direction without spread is unknown: it gets the rest's variance, never 0.
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
    """Return the scale of `most_steps`: for each measure, clean films' median and step length.

    Args:
        measured: (n,) of clean films, by name.
        tail: the quantile one step above the median.
        least: smallest step lengths, by name.
    """
    found = {}
    for name, values in measured.items():
        median, high = np.quantile(values, [0.5, tail])
        found[f"{name} scale"] = np.array([median, max(high - median, least[name])])
    return found


def most_steps(measured: Mapping[str, Values], state: Mapping[str, NDArray[Any]]) -> Values:
    """Return (n,) steps above clean films' median, the largest over the measures.

    Args:
        measured: (n,) by name.
        state: includes the result of `scales`.
    """
    every = []
    for name, values in measured.items():
        median, length = state[f"{name} scale"]
        every.append((values - median) / length)
    most: Values = np.max(every, axis=0)
    return most
