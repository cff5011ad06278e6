"""Number of films whose label contradicts their appearance.

If a reader distinguishes a group's films well, a film that is wrongly labelled as of the group has
a lower reading than nearly all films of the group. So the films of the group below a low quantile
of the group's own readings are counted; of correctly labelled films, the share below it is the
quantile. This needs no calibration of single readings. It holds for a natural mark, whose labels
are correct, however strong its association with the label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["Threshold", "low_threshold"]

Floats = NDArray[np.float64]

QUANTILES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Quantiles of the group's readings that are tried as the threshold."""

WRONG = 0.25
"""Share of wrong labels for which the threshold is optimised."""


class Threshold(NamedTuple):
    """A reading below which a film contradicts its label.

    Args:
        reading: the threshold.
        rate: share of the group's films at or below it, above 0.
    """

    reading: float
    rate: float


def low_threshold(inside: Floats, outside: Floats) -> Threshold:
    """Choose the threshold by films without the mark.

    Args:
        inside: (m,) readings of films in the group.
        outside: (o,) readings of films that are stated not to be in it.
    """
    best, found = -np.inf, Threshold(-np.inf, 1.0)
    for quantile in QUANTILES:
        reading = float(np.quantile(inside, quantile))
        rate = max(float((inside <= reading).mean()), quantile)
        wrongly = float((outside <= reading).mean())
        shown = rate + WRONG * max(wrongly - rate, 0.0)
        gain = float(special.logit(min(shown, 0.999)) - special.logit(min(rate, 0.999)))
        if gain > best:
            best, found = gain, Threshold(reading, rate)
    return found
