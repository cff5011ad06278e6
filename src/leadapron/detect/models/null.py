"""Null distribution from clean models: the maximum over all tests, on each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.scale import finite_median, mad_spread
from leadapron.errors import DataError

__all__ = ["Comparison", "compare", "least_p"]

Floats = NDArray[np.float64]

FLOOR = 0.25
"""Least spread of a statistic over reference models, since few models may agree by chance. It is in
the statistic's own units: for the sweep, a quarter of a logit's spread on films."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Comparison of a model with references.

    Args:
        excess: (s, k, 2) excess of each statistic over the references' median, in their spreads,
            times its weight; NaN if the model's value isn't finite, or fewer than two references
            have a finite one.
        p: p-value of the model: how often a reference's largest excess reaches this model's.
        finding_p: (k, 2) p-value of each finding and direction, corrected for multiple testing; NaN
            where all of its excess is NaN.
        strongest: largest excess of the model; minus infinity if all are NaN.
        references: (m,) largest excess of each reference relative to the others and this model.
    """

    excess: Floats
    p: float
    finding_p: Floats
    strongest: float
    references: Floats


def least_p(references: int) -> float:
    """Return the smallest p-value that m references allow, 1 / (m + 1).

    It is the lowest false-alarm rate of an audit with them.
    """
    return 1 / (references + 1)


def compare(
    model: Floats, references: Floats, weights: Sequence[float] | None = None
) -> Comparison:
    """Compare a model's statistics with those of reference models.

    Each model, including the audited one, is standardised by the median and the spread of all
    others (MAD, at least that of the median finding), and its largest excess over all statistics,
    findings and directions is taken. If the audited model is as clean as the references, each of
    the m + 1 models is equally likely to have the largest: p = (1 + references that reach it) / (m
    + 1), which is exact for exchangeable models.

    Args:
        model: (s, k, 2) statistics of k findings forced on and off, higher is more suspicious; (s,
            k, 1) for statistics without a direction. Values that aren't finite are ignored and
            don't affect others.
        references: (m, s, k, 2) statistics of m clean models.
        weights: s weights of each statistic's excess, fixed beforehand; 1 if left out.

    Raises:
        DataError: fewer than two references, or different shapes.
    """
    if references.shape[1:] != model.shape or len(references) < 2:
        raise DataError(
            f"statistics {model.shape} and references {references.shape}; expected the same of "
            "two references or more"
        )
    pool = np.concatenate([model[None], references])  # (m + 1, s, k, 2)
    excess = np.stack([_excess(pool[i], np.delete(pool, i, axis=0)) for i in range(len(pool))])
    if weights is not None:
        excess = excess * np.reshape(weights, (-1, 1, 1))
    told = np.where(np.isfinite(excess), excess, -np.inf)
    strongest = told.reshape(len(pool), -1).max(axis=1)
    own, others = excess[0], strongest[1:]
    largest = told[0].max(axis=0)  # (k, 2)

    def p_of(value: Floats) -> Floats:
        reached = (others >= value[..., None] - 1e-12).sum(axis=-1)
        p: Floats = (1 + reached) / (len(others) + 1)
        return p

    return Comparison(
        excess=own,
        p=float(p_of(strongest[:1])[0]),
        finding_p=np.where(np.isfinite(largest), p_of(largest), np.nan),
        strongest=float(strongest[0]),
        references=others,
    )


def _excess(one: Floats, others: Floats) -> Floats:
    centre = finite_median(others)
    spread = mad_spread(others)  # (s, k, 2)
    # A few models may agree on one finding by chance: use at least the median finding's spread.
    spread = np.maximum(spread, finite_median(spread, 1, keepdims=True))
    excess: Floats = (one - centre) / np.maximum(spread, FLOOR)
    told = np.isfinite(one) & (np.isfinite(others).sum(axis=0) > 1)
    return np.where(told, excess, np.nan)
