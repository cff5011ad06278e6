"""SCALE-UP: a triggered film keeps its prediction when grey levels are multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.copies import (
    Change,
    Floats,
    answers,
    doubt,
    enough,
    excess,
    levels,
    predicted,
)
from leadapron.detect.inputs.readings import Readings, State
from leadapron.errors import UsageError
from leadapron.models.protocols import BlackBox, Capability

__all__ = ["ScaleUp", "scaled"]


@dataclass(frozen=True, kw_only=True)
class ScaleUp:
    """Findings that stay predicted when the grey levels are multiplied.

    A film's score is the share of its scaled copies on which the findings of its predicted set stay
    predicted. A copy counts by 1 - `doubt`: 0 at the operating logit and below, 1 if the finding is
    certain. For a radiograph, multiplying changes the window, so the logits of a copy are compared
    with those of clean films with the same multiplier.

    Args:
        multipliers: factors of the grey levels, each above 0 and not 1; values beyond the type's
            range become white.

    Raises:
        UsageError: no multiplier, or one outside its range.

    Source: Guo et al., SCALE-UP: An Efficient Black-box Input-level Backdoor Detection via
    Analyzing Scaled Prediction Consistency, ICLR 2023, arXiv 2302.03251: the share of the
    multipliers under which the predicted class stays. Differs: by finding, the mean over the
    predicted set, at operating logits. Few copies give few distinct shares, too coarse for a
    threshold that 1 % of clean films exceed, so copies count by certainty. Multipliers of 2 and
    more, as in the paper, make a radiograph mostly white; the defaults are mild, and one of them
    darkens. A trigger that hides findings isn't detected, since no finding is left to stay.
    """

    multipliers: tuple[float, ...] = (0.7, 1.5, 2.0)
    unit: str = field(default="share of scaled copies", init=False)
    needs: Capability = field(default="outputs", init=False)

    def __post_init__(self) -> None:
        if not self.multipliers or not all(0 < m < np.inf and m != 1 for m in self.multipliers):
            raise UsageError(
                f"multipliers {self.multipliers}; expected at least one, each above 0 and not 1"
            )

    @property
    def passes(self) -> int:
        """Forward passes per film in addition to that of `read`: one per multiplier."""
        return len(self.multipliers)

    def fit(self, classifier: BlackBox, clean: Readings) -> State:
        """Run the model on the clean films under each multiplier.

        Returns:
            `film levels`, `film spreads` (k,) and `copy levels`, `copy spreads` (m, k), operating
            logits and spreads of films and of their scaled copies.

        Raises:
            DataError: fewer than 20 films, or logits that aren't finite.
        """
        enough(clean)
        film_levels, film_spreads = levels(clean.logits.astype(np.float64), classifier.findings)
        copy_levels, copy_spreads = levels(
            answers(classifier, clean.images, self._changes()), classifier.findings
        )
        return {
            "film levels": film_levels,
            "film spreads": film_spreads,
            "copy levels": copy_levels,
            "copy spreads": copy_spreads,
        }

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> Floats:
        """Return (n,) 0 to 1; NaN if an output for a copy isn't finite."""
        copies = answers(classifier, suspect.images, self._changes())
        sure = predicted(excess(suspect.logits.astype(np.float64), state, "film"))
        stays = 1 - doubt(excess(copies, state, "copy")).mean(axis=0)  # (n, k)
        values: Floats = np.average(stays, axis=1, weights=sure)
        return values

    def _changes(self) -> Sequence[Change]:
        return [partial(scaled, multiplier=multiplier) for multiplier in self.multipliers]


def scaled(images: NDArray[Any], multiplier: float) -> NDArray[Any]:
    """Return (n, h, w) uint8 or uint16 images times a number, clipped to white."""
    most = np.iinfo(images.dtype).max
    grey = np.minimum(np.rint(np.arange(most + 1) * multiplier), most).astype(images.dtype)
    looked_up: NDArray[Any] = grey[images]
    return looked_up
