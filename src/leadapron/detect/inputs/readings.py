"""A model's outputs for unchanged films, computed once for all input detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import ImageArray
from leadapron.metrics import FALSE_POSITIVES
from leadapron.models.classifier import refuse_not_finite
from leadapron.models.protocols import BlackBox, Capability, WhiteBox

__all__ = [
    "InputDetector",
    "Readings",
    "State",
    "operating_logits",
    "read",
]

Floats = NDArray[np.float32]

State = Mapping[str, NDArray[Any]]
"""Fitted state of a detector: arrays only, so that a safetensors file can hold it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Readings:
    """Films, and the model's outputs for them.

    Args:
        images: (n, h, w) uint8 or uint16 of the classifier's preprocessing.
        logits: (n, k) float32.
        features: (n, d) float32, input of the last layer; None for a black-box model.
    """

    images: NDArray[Any]
    logits: Floats
    features: Floats | None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.int64]) -> Readings:
        """Return some of the films, in the order of `rows`."""
        features = None if self.features is None else self.features[rows]
        return Readings(images=self.images[rows], logits=self.logits[rows], features=features)


class InputDetector(Protocol):
    """A detector of triggered films: a frozen dataclass of its parameters.

    `fit` uses clean films once; `score` then treats films independently, so that a film's score
    doesn't depend on the others in a batch.
    """

    @property
    def unit(self) -> str:
        """Unit of the scores."""
        ...

    @property
    def needs(self) -> Capability:
        """Capability that a model must have."""
        ...

    @property
    def passes(self) -> int:
        """Forward passes per film in addition to that of `read`; backward passes count as two."""
        ...

    def fit(self, classifier: BlackBox, clean: Readings) -> State:
        """Return the state that `score` needs."""
        ...

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> NDArray[np.float64]:
        """Return (n,), higher is more suspicious; NaN is "not scored", never "clean"."""
        ...


def read(classifier: BlackBox, images: ImageArray) -> Readings:
    """Run a model on films, in one pass.

    Args:
        classifier: the model; its features are kept if it has them.
        images: (n, h, w) uint8 or uint16 of its preprocessing.

    Raises:
        UsageError: no images.
        DataError: logits or features that aren't finite.
    """
    held = np.asarray(images[np.arange(images.shape[0])])
    if not len(held):
        raise UsageError("no images; expected at least one")
    features: Floats | None = None
    if isinstance(classifier, WhiteBox):
        outputs = classifier.outputs(held)
        logits, features = outputs.logits, outputs.features
    else:
        logits = classifier.logits(held)
    refuse_not_finite(np.isfinite(logits), classifier.findings, "logits")
    if features is not None and not np.isfinite(features).all():
        raise DataError("the model's features are not finite")
    return Readings(images=held, logits=logits, features=features)


def operating_logits(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return (..., k) operating logits, which 5 % of n clean films exceed, of (..., n, k) logits.

    A film's predicted set has the findings above their operating logits. No labels are needed, and
    it also works for rare findings that never reach a probability of 0.5.
    """
    levels: NDArray[np.float64] = np.quantile(
        logits.astype(np.float64), 1 - FALSE_POSITIVES, axis=-2
    )
    return levels
