"""Spread of values on clean films: the unit of scores and shifts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_FILMS", "finite_mean", "finite_median", "logit_spreads", "mad_spread"]

Floats = NDArray[np.float64]

LEAST_FILMS = 20
"""Fewest clean films: with fewer, the logit that 5 % of them exceed is their maximum."""

MAD = 1.4826
"""Factor from median absolute deviation to standard deviation, for a normal distribution."""

SPREAD_FLOOR = 1e-3
"""Least spread of a finding's logit, as a share of the median finding's spread."""


def finite_mean(values: NDArray[Any], axis: int = 0) -> Floats:
    """Return the float64 mean of finite values along an axis; NaN where there are none.

    Args:
        values: of any shape.
        axis: the axis to reduce.
    """
    finite = np.isfinite(values)
    count = finite.sum(axis=axis)
    total = np.where(finite, values, 0).sum(axis=axis, dtype=np.float64)
    mean: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def finite_median(values: NDArray[Any], axis: int = 0, *, keepdims: bool = False) -> Floats:
    """Return the median of finite values along an axis; NaN where there are none.

    Args:
        values: of any shape.
        axis: the axis to reduce.
        keepdims: keep the axis with length 1.
    """
    finite = np.isfinite(values)
    if finite.all():
        plain: Floats = np.median(values, axis=axis, keepdims=keepdims)
        return plain
    ordered = np.sort(np.where(finite, values, np.nan), axis=axis)  # NaN comes last
    count = finite.sum(axis=axis, keepdims=True)
    low, high = (
        np.take_along_axis(ordered, np.maximum(place, 0), axis)
        for place in ((count - 1) // 2, np.minimum(count // 2, values.shape[axis] - 1))
    )
    middle: Floats = low / 2 + high / 2
    return middle if keepdims else middle.squeeze(axis)


def mad_spread(values: NDArray[Any], axis: int = 0) -> Floats:
    """Return the standard deviation along an axis, estimated by the MAD; 0 if most values agree.

    Values that aren't finite are left out; the result is NaN where there are no others.

    Args:
        values: of any shape.
        axis: the axis to reduce.
    """
    away = np.abs(values - finite_median(values, axis, keepdims=True))
    spread: Floats = MAD * finite_median(away, axis)
    return spread


def logit_spreads(logits: NDArray[Any]) -> Floats:
    """Return (..., k) standard deviations of (..., n, k) logits over the n films, never 0.

    A finding with a constant logit has a thousandth of the median finding's spread. Logits that
    aren't finite are left out; a finding without finite logits has NaN.
    """
    exact = logits.astype(np.float64)
    finite = np.isfinite(exact)
    if finite.all():
        spread = exact.std(axis=-2)
    else:
        away = np.where(finite, exact, np.nan) - finite_mean(exact, -2)[..., None, :]
        spread = np.sqrt(finite_mean(np.square(away), -2))
    middle = finite_median(spread, -1, keepdims=True)
    floored: Floats = np.maximum(spread, SPREAD_FLOOR * np.maximum(middle, 1e-6))
    return floored
