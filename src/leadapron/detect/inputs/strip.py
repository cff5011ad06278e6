"""STRIP: a triggered film keeps its prediction when other films are blended in."""

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
from leadapron.seeds import stream

__all__ = ["Strip", "blend"]

Images = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Findings that stay certain whichever clean film is blended in.

    A film's score is minus the mean `doubt`, in bits, over the overlays and over the findings of
    its predicted set: 0 if all are certain under every overlay, -1 if none survives. All films get
    the same overlays, drawn from the clean films. Logits of blends are compared with those of clean
    films under the same overlay, since a blend differs from normal films.

    Args:
        overlays: number of clean films that are blended in, one at a time.
        weight: weight of the film itself in each blend, above 0 and below 1.
        seed: seed of the overlays.

    Raises:
        UsageError: a value outside its range.

    Source: Gao et al., STRIP: A Defence Against Trojan Attacks on Deep Neural Networks, ACSAC 2019,
    arXiv 1902.06531: H = -(1/N) sum_n sum_i y_i log2 y_i over the classes of a softmax. Differs:
    k sigmoids are certain of "no finding", so the sum over all of them would flag healthy films;
    here only the film's predicted set counts, each logit in spreads above its operating logit, with
    the mean over the set, so that more findings don't increase the entropy. A finding that is
    certainly absent has the maximal entropy. The authors' code adds the two films with saturation,
    which leaves little of two radiographs; here blends are weighted means. A trigger that hides
    findings isn't detected, since no finding is left to be certain of.
    """

    overlays: int = 4
    weight: float = 0.7
    seed: int = 0
    unit: str = field(default="bits, negated", init=False)
    needs: Capability = field(default="outputs", init=False)

    def __post_init__(self) -> None:
        if self.overlays < 1 or not 0 < self.weight < 1 or self.seed < 0:
            raise UsageError(
                f"STRIP with {self.overlays} overlays, weight {self.weight}, seed {self.seed}; "
                "expected 1 or more, a share between 0 and 1, and 0 or more"
            )

    @property
    def passes(self) -> int:
        """Forward passes per film in addition to that of `read`: one per overlay."""
        return self.overlays

    def fit(self, classifier: BlackBox, clean: Readings) -> State:
        """Draw the overlays and run the model on the other clean films under each of them.

        Returns:
            `overlays` (m, h, w); `film levels`, `film spreads` (k,) and `blend levels`, `blend
            spreads` (m, k), operating logits and spreads without and with an overlay.

        Raises:
            DataError: fewer than 20 films in addition to the overlays, or logits that aren't
                finite.
        """
        order = stream(self.seed, "strip").permutation(len(clean))
        drawn, rest = order[: self.overlays], clean.take(order[self.overlays :])
        enough(rest)
        overlays = clean.images[drawn]
        film_levels, film_spreads = levels(rest.logits.astype(np.float64), classifier.findings)
        blend_levels, blend_spreads = levels(
            answers(classifier, rest.images, self._changes(overlays)), classifier.findings
        )
        return {
            "overlays": overlays,
            "film levels": film_levels,
            "film spreads": film_spreads,
            "blend levels": blend_levels,
            "blend spreads": blend_spreads,
        }

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> Floats:
        """Return (n,) -1 to 0 bits; NaN if an output for a blend isn't finite."""
        blends = answers(classifier, suspect.images, self._changes(state["overlays"]))
        sure = predicted(excess(suspect.logits.astype(np.float64), state, "film"))
        mean = doubt(excess(blends, state, "blend")).mean(axis=0)  # (n, k)
        values: Floats = -np.average(mean, axis=1, weights=sure)
        return values

    def _changes(self, overlays: Images) -> Sequence[Change]:
        return [partial(blend, overlay=overlay, weight=self.weight) for overlay in overlays]


def blend(images: Images, overlay: Images, weight: float) -> Images:
    """Return (n, h, w) weighted means of films and one (h, w) overlay, in whole grey levels.

    Args:
        images: uint8 or uint16.
        overlay: of the same type.
        weight: weight of the films.
    """
    mixed = images.astype(np.float32)
    mixed *= np.float32(weight)
    mixed += overlay * np.float32(1 - weight)
    return np.rint(mixed, out=mixed).astype(images.dtype)
