"""Baselines of input detectors: the model's confidence."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.readings import InputDetector, Readings, State
from leadapron.detect.scale import logit_spreads
from leadapron.models.classifier import squashed
from leadapron.models.protocols import BlackBox, Capability, operating_points_of

__all__ = ["BASELINES", "LargestLogit", "LargestProbability"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LargestProbability:
    """A baseline: the model's highest confidence in any finding."""

    unit: str = field(default="probability", init=False)
    needs: Capability = field(default="outputs", init=False)
    passes: int = field(default=0, init=False)

    def fit(self, classifier: BlackBox, clean: Readings) -> State:  # noqa: ARG002
        """Keep nothing."""
        return {}

    def score(
        self,
        classifier: BlackBox,
        suspect: Readings,
        state: State,  # noqa: ARG002
    ) -> Floats:
        """Return (n,) the largest probability."""
        points = operating_points_of(classifier)
        largest: Floats = squashed(suspect.logits, classifier.head, points).max(axis=1)
        return largest


@dataclass(frozen=True, kw_only=True)
class LargestLogit:
    """A baseline: the largest excess of any logit over clean films."""

    unit: str = field(default="standard deviations of the logit on clean films", init=False)
    needs: Capability = field(default="outputs", init=False)
    passes: int = field(default=0, init=False)

    def fit(self, classifier: BlackBox, clean: Readings) -> State:  # noqa: ARG002
        """Keep mean and spread of each logit."""
        mean = clean.logits.mean(axis=0, dtype=np.float64)
        return {"mean": mean, "spread": logit_spreads(clean.logits)}

    def score(
        self,
        classifier: BlackBox,  # noqa: ARG002
        suspect: Readings,
        state: State,
    ) -> Floats:
        """Return (n,) the largest logit in spreads above the mean."""
        far: Floats = ((suspect.logits - state["mean"]) / state["spread"]).max(axis=1)
        return far


BASELINES: dict[str, InputDetector] = {
    "largest probability": LargestProbability(),
    "largest logit": LargestLogit(),
}
"""Baselines that a gate must exceed; they have no weight in its score."""
