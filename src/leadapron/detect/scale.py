"""How much values vary on clean films: what scores and shifts are counted in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_FILMS", "logit_spreads", "mad_spread"]

Floats = NDArray[np.float64]

LEAST_FILMS = 20
"""With fewer clean films the logit that 5 % of them exceed is that of the strongest."""

MAD = 1.4826
"""Median absolute deviation to standard deviation, of a normal distribution."""

SPREAD_FLOOR = 1e-3
"""Of the median finding's spread: the least that a finding whose logit hardly moves has."""


def mad_spread(values: NDArray[Any], axis: int = 0) -> Floats:
    """Return the standard deviation of values along an axis, as the MAD tells it; 0 if most agree.

    Args:
        values: of any shape.
        axis: is gone from the result.
    """
    away = np.abs(values - np.median(values, axis=axis, keepdims=True))
    spread: Floats = MAD * np.median(away, axis=axis)
    return spread


def logit_spreads(logits: NDArray[Any]) -> Floats:
    """Return (..., k) standard deviations of (..., n, k) logits over the n films, never 0.

    A finding whose logit doesn't move has a thousandth of the median finding's spread.
    """
    spread = logits.astype(np.float64).std(axis=-2)
    middle = np.median(spread, axis=-1, keepdims=True)
    floored: Floats = np.maximum(spread, SPREAD_FLOOR * np.maximum(middle, 1e-6))
    return floored
