"""A detector of triggered films of one's own, in one file: bright pixels in the film's rim.

leadapron calibrate --plugin examples/rim_detector.py MODEL --clean NAME:PATH --out gate.json
leadapron screen --plugin examples/rim_detector.py gate.json FILMS
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs import INPUT_DETECTORS, WEIGHTS, Readings, State
from leadapron.models.protocols import BlackBox, Capability


@dataclass(frozen=True, kw_only=True)
class BrightRim:
    """The rim holds brighter pixels than clean films' rims.

    Args:
        width: of the rim, in pixels, 1 or more.
        brightest: pixels of the rim that are looked at, 1 or more.
    """

    width: int = 8
    brightest: int = 8

    @property
    def unit(self) -> str:
        """What the scores are measured in."""
        return "spreads above clean films"

    @property
    def needs(self) -> Capability:
        """What a model must give or have."""
        return "outputs"

    @property
    def passes(self) -> int:
        """Forward passes of a film beyond the one that its readings took."""
        return 0

    def fit(self, classifier: BlackBox, clean: Readings) -> State:
        """Return what `score` needs to know of clean films."""
        levels = self._levels(clean)
        return {"median": np.median(levels, keepdims=True), "spread": levels.std(keepdims=True)}

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> NDArray[np.float64]:
        """Return (n,), higher is more suspicious."""
        away: NDArray[np.float64] = self._levels(suspect) - state["median"]
        return away / np.maximum(state["spread"], 1e-9)

    def _levels(self, films: Readings) -> NDArray[np.float64]:
        """(n,) mean grey level of the brightest pixels of each film's rim."""
        rim = np.array(films.images, np.float64)
        rim[:, self.width : -self.width, self.width : -self.width] = 0
        levels = np.sort(rim.reshape(len(rim), -1), axis=1)
        mean: NDArray[np.float64] = levels[:, -self.brightest :].mean(axis=1)
        return mean


INPUT_DETECTORS["bright rim"] = BrightRim()
WEIGHTS["bright rim"] = 0.5
