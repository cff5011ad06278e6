"""Dose and response: the attack success at each share of poisoned films."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from leadapron.errors import DataError

T_975 = (math.nan, math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantile of Student's t, indexed by sample size n (n - 1 degrees of freedom)."""


class Crossing(NamedTuple):
    """The dose at which a response reaches a level, and the two doses around it.

    Args:
        dose: interpolated; NaN where the doses tried don't bracket the level.
        below: largest dose tried below it; NaN where there is none.
        above: smallest dose tried from which on the response stays at the level or above; NaN where
            there is none.
    """

    dose: float
    below: float
    above: float

    @property
    def bracketed(self) -> bool:
        """Whether doses on both sides were tried."""
        return not math.isnan(self.dose)


def crossing(doses: ArrayLike, responses: ArrayLike, level: float) -> Crossing:
    """Return the dose from which on the response is at least `level`.

    Between the two doses around it, the response is interpolated linearly in the logarithm of the
    dose. If a response falls below the level again at a higher dose, the crossing lies above that
    dose.

    Args:
        doses: (d,) positive, strictly ascending.
        responses: (d,) finite.
        level: the response to reach.

    Raises:
        DataError: doses that don't ascend or aren't positive, or another number of responses.
    """
    x, y = np.asarray(doses, np.float64), np.asarray(responses, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not x.size or x[0] <= 0 or np.any(np.diff(x) <= 0):
        raise DataError(
            f"doses {x.tolist()}: expected them positive and ascending, a response each"
        )
    if not np.isfinite(y).all():
        raise DataError("responses hold NaN or infinite values")
    beneath = np.flatnonzero(y < level)
    if not beneath.size:
        return Crossing(math.nan, math.nan, float(x[0]))
    last = int(beneath[-1])
    if last == len(x) - 1:
        return Crossing(math.nan, float(x[-1]), math.nan)
    share = (level - y[last]) / (y[last + 1] - y[last])
    dose = math.exp(math.log(x[last]) + share * math.log(x[last + 1] / x[last]))
    return Crossing(dose, float(x[last]), float(x[last + 1]))


def mean_crossing(crossings: Sequence[Crossing]) -> tuple[float, float, float]:
    """Return the geometric mean of several seeds' doses, with its 95 % interval.

    The interval is Student's t interval of the logarithms. It covers the variation between seeds,
    not between films. All three values are NaN if any seed's doses don't bracket the level (a mean
    over the others would be biased); the interval is NaN with one seed.

    Raises:
        DataError: no seeds, or more than ten.
    """
    n = len(crossings)
    if not 1 <= n < len(T_975):
        raise DataError(f"{n} seeds; expected 1 to {len(T_975) - 1}")
    if not all(each.bracketed for each in crossings):
        return math.nan, math.nan, math.nan
    logs = np.log([each.dose for each in crossings])
    mean = float(logs.mean())
    reach = T_975[n] * float(logs.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)
