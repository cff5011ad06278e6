"""Share of some films' labels that contradict the films' appearance.

A reader predicts the probability that each film is in a group from the film's appearance. If all
labels are correct, the readings have the distribution of the group's films; if labels were changed
at random, they have that of any films. The share of wrong labels is estimated by a mixture of the
two, with an interval. If even the interval's upper end lies far below the share that random
relabelling gives, the labels agree with the films: the mark is a shortcut, or clean-label poison.

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
"""Number of shares of wrong labels that are tried, 0 to 1."""

DROP = 2.706
"""Drop of twice the log likelihood from its maximum to the interval's ends. It is the 90 % quantile
of the chi-squared distribution with one degree of freedom, so each end errs in 5 % of the cases."""


def wrong_labels(reads: Floats, rate: float, weights: Floats, natural: float) -> WrongLabels:
    """Estimate the share of wrong labels.

    Args:
        reads: (m,) calibrated probability that a film is in the group, above 0 and below 1, for
            films labelled as in the group.
        rate: share of the group among the films that the readings were calibrated on.
        weights: (m,) of the films; those of one patient add up to 1.
        natural: share of the group among comparable films without the mark.
    """
    ratio = special.logit(reads) - special.logit(np.clip(rate, 1e-4, 1 - 1e-4))
    wrong = np.linspace(0.0, 1.0, STEPS)
    with np.errstate(divide="ignore"):
        logs = np.logaddexp(
            np.log(wrong), (np.log1p(-wrong) + ratio[:, None])
        )  # each film is either wrongly or correctly labelled
    likelihood = weights @ logs
    inside = wrong[2 * (likelihood.max() - likelihood) <= DROP]
    return WrongLabels(
        share=float(wrong[likelihood.argmax()]),
        low=float(inside.min()),
        high=float(inside.max()),
        random=1 - natural,
    )
