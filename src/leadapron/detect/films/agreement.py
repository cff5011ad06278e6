"""How many of some films' labels contradict what the films look like.

A reader says how likely each film is in a group, going by what it looks like. If all the labels are
right, readings are those of the group's films; if labels were changed at random, they are those of
any films. The share of wrong labels in between that fits the readings best is estimated, with its
interval. Where even the interval's upper end leaves far fewer wrong labels than a relabelling of
films drawn at random would have made, the labels agree with the films: the mark is a shortcut, or
poison with true labels.

Source: a mixture of two known densities, fitted by maximum likelihood, with a profile likelihood
interval: Murphy and van der Vaart, Journal of the American Statistical Association 95 (2000) 449.
The ratio of the densities is that of the calibrated reading's odds and the base rate's odds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from leadapron.detect.scores import WrongLabels

__all__ = ["wrong_labels"]

Floats = NDArray[np.float64]

STEPS = 201
"""Shares that are tried, 0 to 1."""

DROP = 2.706
"""Of twice the log likelihood, from its maximum to the interval's ends: each end errs in 5 % of the
cases. (The 90 % quantile of the chi-squared distribution with one degree of freedom.)"""


def wrong_labels(reads: Floats, rate: float, weights: Floats, natural: float) -> WrongLabels:
    """Estimate how many labels are wrong.

    Args:
        reads: (m,) calibrated chance that a film is in the group, above 0 and below 1, of films
            that are labelled so.
        rate: share of the group among the films that the readings were calibrated on.
        weights: (m,) of the films; those of one patient share a weight of 1.
        natural: share of the group among comparable films without the mark.
    """
    ratio = special.logit(reads) - special.logit(np.clip(rate, 1e-4, 1 - 1e-4))
    wrong = np.linspace(0.0, 1.0, STEPS)
    with np.errstate(divide="ignore"):
        logs = np.logaddexp(
            np.log(wrong), (np.log1p(-wrong) + ratio[:, None])
        )  # of a film: wrongly labelled, or rightly
    likelihood = weights @ logs
    inside = wrong[2 * (likelihood.max() - likelihood) <= DROP]
    return WrongLabels(
        share=float(wrong[likelihood.argmax()]),
        low=float(inside.min()),
        high=float(inside.max()),
        random=1 - natural,
    )
