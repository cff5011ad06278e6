"""What a model says of films as they are: asked once, and read by every input detector."""

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
"""What `fit` keeps of clean films: numbers only, so that it can lie in a safetensors file."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Readings:
    """Films, and what the model says of them.

    Args:
        images: (n, h, w) uint8 or uint16 of the classifier's preprocessing.
        logits: (n, k) float32.
        features: (n, d) float32, what the last layer reads; None of a model that can only be asked.
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

    `fit` looks at clean films once; `score` then looks at films one by one, so that a film's score
    doesn't depend on which others are screened with it.
    """

    @property
    def unit(self) -> str:
        """What the scores are measured in."""
        ...

    @property
    def needs(self) -> Capability:
        """What a model must give or have."""
        ...

    @property
    def passes(self) -> int:
        """Forward passes of a film beyond that of `read`; backward passes count as two."""
        ...

    def fit(self, classifier: BlackBox, clean: Readings) -> State:
        """Return what `score` needs to know of clean films."""
        ...

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> NDArray[np.float64]:
        """Return (n,), higher is more suspicious; NaN is "not scored", never "clean"."""
        ...


def read(classifier: BlackBox, images: ImageArray) -> Readings:
    """Ask a model about films, in one pass.

    Args:
        classifier: features are kept too where it shows them.
        images: (n, h, w) uint8 or uint16 of its preprocessing.

    Raises:
        UsageError: no images.
        DataError: logits that aren't finite, of findings that are named; or such features.
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
    """Return (..., k) what 5 % of the n clean films exceed of (..., n, k) logits, by finding.

    A film's predicted set is the findings above it: no labels are needed, and a rare finding that
    never reaches a probability of a half has one too.
    """
    levels: NDArray[np.float64] = np.quantile(
        logits.astype(np.float64), 1 - FALSE_POSITIVES, axis=-2
    )
    return levels
