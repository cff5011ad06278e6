"""Distance of a film from clean films in the network's features."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.gaussian import distances, shrunk_gaussian
from leadapron.detect.inputs.readings import Readings, State
from leadapron.errors import DataError, UsageError
from leadapron.models.protocols import BlackBox, Capability

__all__ = ["Mahalanobis", "NearestNeighbours"]

BLOCK = 1024
"""Films per batch of distances to all clean films."""


@dataclass(frozen=True, kw_only=True)
class Mahalanobis:
    """Mahalanobis distance of a film's features from those of clean films.

    Source: Lee et al., NeurIPS 2018, arXiv 1807.03888, equation 2. Differs: one Gaussian instead of
    one per class, since films have several findings or none; only the last features; the covariance
    shrunk by Ledoit and Wolf, so that a few hundred films suffice for 1,024 features.
    """

    unit: str = field(default="Mahalanobis distance to clean films' features", init=False)
    needs: Capability = field(default="features", init=False)
    passes: int = field(default=0, init=False)

    def fit(self, classifier: BlackBox, clean: Readings) -> State:  # noqa: ARG002
        """Return the Gaussian of clean films' features.

        Raises:
            UsageError: readings without features.
            DataError: a single film, or films with equal features.
        """
        return shrunk_gaussian(_features(clean))

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> NDArray[np.float64]:  # noqa: ARG002
        """Return (n,) distances.

        Raises:
            UsageError: readings without features.
        """
        return distances(_features(suspect), state)


@dataclass(frozen=True, kw_only=True)
class NearestNeighbours:
    """Distance of a film to its nearest clean films, in features of norm 1.

    Args:
        neighbours: rank of the neighbour whose distance counts, 1 or more.

    Raises:
        UsageError: fewer than 1 neighbour.

    Source: Sun et al., Deep nearest neighbors, ICML 2022, arXiv 2204.06507, section 3.
    """

    neighbours: int = 5
    unit: str = field(
        default="distance to the farthest of these neighbours, features of length 1", init=False
    )
    needs: Capability = field(default="features", init=False)
    passes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise UsageError(f"neighbours {self.neighbours}; expected 1 or more")

    def fit(self, classifier: BlackBox, clean: Readings) -> State:  # noqa: ARG002
        """Return clean films' features, each scaled to length 1.

        Raises:
            UsageError: readings without features.
            DataError: fewer clean films than neighbours.
        """
        if len(clean) < self.neighbours:
            raise DataError(f"{len(clean)} clean films; expected {self.neighbours} or more")
        return {"bank": _unit_length(_features(clean)).astype(np.float32)}

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> NDArray[np.float64]:  # noqa: ARG002
        """Return (n,) distances, 0 to 2.

        Raises:
            UsageError: readings without features.
        """
        bank = state["bank"].astype(np.float64)
        features = _unit_length(_features(suspect))
        lengths = np.square(bank).sum(axis=1)
        scores = np.empty(len(features))
        for start in range(0, len(features), BLOCK):
            part = features[start : start + BLOCK]
            squared = np.square(part).sum(axis=1)[:, None] + lengths - 2 * part @ bank.T
            nearest = np.partition(squared, self.neighbours - 1, axis=1)[:, self.neighbours - 1]
            scores[start : start + BLOCK] = np.sqrt(np.maximum(nearest, 0.0))
        return scores


def _features(readings: Readings) -> NDArray[np.float32]:
    if readings.features is None:
        raise UsageError("distances need features; the model only gives outputs")
    return readings.features


def _unit_length(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows scaled to norm 1; a row of zeros is unchanged."""
    exact = features.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = exact / np.where(lengths > 0, lengths, 1.0)
    return scaled
