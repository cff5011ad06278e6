"""Thresholds and shares from calibration values, with a guarantee by patient.

A patient's films are alike, so they aren't exchangeable with another patient's one by one; patients
are. Each calibration film weighs 1 / (films of its patient x (patients + 1)), and the remaining
1 / (patients + 1) is the new film's own. A film of a new patient then exceeds the threshold with
probability at most the rate, whatever the scores look like.

Source: Lee, Barber and Willett, Distribution-free inference with hierarchical data, 2023, arXiv
2306.06342, section 3. With one film per patient this is split conformal prediction (Vovk et al.,
Algorithmic Learning in a Random World, 2005).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["by_patient", "film_weights", "held_out", "likely_rates", "limit", "shares"]

Floats = NDArray[np.float64]

ROUNDING = 1e-9
"""Tolerance of sums of weights."""

TIE = 1e-12
"""Difference below which a new value counts as equal to a calibration value."""


def by_patient(patients: NDArray[Any], rate: float) -> bool:
    """Whether there are enough patients for a guarantee by patient at this rate.

    Args:
        patients: (m,) patient of each calibration film.
        rate: above 0 and below 1.
    """
    return rate * (len(np.unique(patients)) + 1) >= 1 - ROUNDING


def film_weights(patients: NDArray[Any], rate: float) -> Floats:
    """Return (m,) weights of calibration films; they and the new film's own weight add to 1.

    With too few patients for the rate, films count singly, as if each were a patient's only one:
    the rate then holds for independent films alone.

    Args:
        patients: (m,) patient of each film.
        rate: above 0 and below 1.
    """
    if not by_patient(patients, rate):
        return np.full(len(patients), 1 / (len(patients) + 1))
    _, codes, films = np.unique(patients, return_inverse=True, return_counts=True)
    weights: Floats = 1 / (films[codes] * (len(films) + 1))
    return weights


def limit(values: Floats, weights: Floats, rate: float) -> float:
    """Return the value that a new one exceeds with probability at most `rate`.

    Args:
        values: (m,) calibration values, finite.
        weights: (m,) as `film_weights`.
        rate: above 0 and below 1.

    Returns:
        One of the values; infinity if there are too few for the rate.
    """
    order = np.argsort(-values, kind="stable")
    above = np.concatenate([[0.0], weights[order].cumsum()[:-1]])
    allowed = 1 - weights.sum() + above <= rate + ROUNDING
    return float(values[order][allowed].min()) if allowed.any() else float("inf")


def shares(values: Floats, weights: Floats, new: Floats) -> Floats:
    """Return (n,) weight of the calibration values that reach each new one, and of itself.

    Args:
        values: (m,) calibration values; those that are NaN have no part.
        weights: (m,) as `film_weights`.
        new: (n,) values; NaN gives NaN.
    """
    known = ~np.isnan(values)
    order = np.argsort(values[known], kind="stable")
    ascending, heavy = values[known][order], weights[known][order]
    own = 1 - weights.sum()
    reaching = np.concatenate([heavy[::-1].cumsum()[::-1], [0.0]])
    found = (own + reaching[np.searchsorted(ascending, new - TIE)]) / (own + heavy.sum())
    return np.where(np.isnan(new), np.nan, found)


def held_out(values: Floats, patients: NDArray[Any], rate: float) -> NDArray[np.bool_]:
    """Return whether each film exceeds a threshold that the other patients' films set.

    So many of them do as may of new films: of K patients' films those whose p, among the others, is
    at most rate x (K + 1) / K.

    Args:
        values: (m,) calibration values, finite.
        patients: (m,) patient of each film.
        rate: above 0 and below 1.
    """
    singly = not by_patient(patients, rate)
    _, codes, films = np.unique(
        np.arange(len(patients)) if singly else patients, return_inverse=True, return_counts=True
    )
    k, weights = len(films), 1 / films[codes]
    p = np.empty(len(values))
    for code in range(k):
        own = codes == code
        others = np.where(own, 0.0, weights) / k
        p[own] = 1 / k + (others[None] * (values[None] >= values[own, None])).sum(axis=1)
    held: NDArray[np.bool_] = p <= rate * (k + 1) / k + ROUNDING
    return held


def likely_rates(patients: NDArray[Any], rate: float) -> tuple[float, float]:
    """Return the range of a threshold's own rate in 95 of 100 calibrations.

    The rate holds on average over calibrations; the rate of one threshold depends on the films that
    set it. For one film each of m patients it has a beta distribution, which is used for patients
    with several films too: their films' scores may be as good as equal.

    Args:
        patients: (m,) patient of each calibration film.
        rate: above 0 and below 1.

    Source: Vovk, Conditional validity of inductive conformal predictors, ACML 2012.
    """
    from scipy import stats

    m = len(np.unique(patients)) if by_patient(patients, rate) else len(patients)
    over = int(np.floor(rate * (m + 1) + ROUNDING))
    own = stats.beta(over, m + 1 - over)
    return float(own.ppf(0.025)), float(own.ppf(0.975))
