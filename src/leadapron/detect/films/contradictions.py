"""Films whose label contradicts what they look like, counted.

Where a reader tells a group's films well, a film that was given the group's label wrongly reads as
hardly any film of the group does. So films of the group below a low quantile of the group's own
readings are counted; of rightly labelled films as few lie there as the quantile says. This needs no
calibration of single readings, and a mark of nature, whose labels are right, keeps to it however
strongly it goes with the label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["Threshold", "low_threshold"]

Floats = NDArray[np.float64]

QUANTILES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Of the group's readings, that may be the threshold."""

WRONG = 0.25
"""The threshold is the one at which so large a share of wrong labels shows most."""


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
