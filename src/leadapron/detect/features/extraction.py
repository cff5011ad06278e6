"""The single pass of the network shared by all feature detectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort, Rows
from leadapron.seeds import stream

if TYPE_CHECKING:
    from leadapron.models.protocols import WhiteBox

__all__ = ["Features", "extract"]

FILMS = 256
"""Films per batch: 51 MB of last maps for DenseNet-121 at 224 pixels."""

TRIED = 1024
"""Most films used to select channels."""


@dataclass(frozen=True, eq=False)
class Features:
    """A network's features of n films.

    Args:
        values: (n, d) float32, input of the last layer: the last map's means with a pooled head.
        activations: (n, c, s) float32, c channels of the last map at its s places; None if not
            kept.
        losses: (epochs, n, k) float32, the films' losses for each finding in the first epochs of
            training, as `train` fills `film_losses`; NaN where not stated. None if not recorded.

    Raises:
        DataError: inconsistent shapes, or features that aren't finite.
    """

    values: NDArray[np.float32]
    activations: NDArray[np.float32] | None = None
    losses: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise DataError(f"features of shape {self.values.shape}; expected (films, d)")
        n = len(self.values)
        for name, array, axis in (("activations", self.activations, 0), ("losses", self.losses, 1)):
            if array is not None and (array.ndim != 3 or array.shape[axis] != n):
                raise DataError(f"{name} of shape {array.shape} for {n} films' features")
        for name, array in (("features", self.values), ("activations", self.activations)):
            if array is not None and not np.isfinite(array).all():
                raise DataError(f"{name} of some films are NaN or infinite")


def extract(
    classifier: WhiteBox,
    cohort: Cohort,
    *,
    channels: int = 32,
    losses: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> Features:
    """Run a network over the films once and keep the features that detectors need.

    Args:
        classifier: a network trained on the films, or on similar films.
        cohort: the films.
        channels: number of channels of the last map to keep for Gram matrices: those whose means
            vary most over up to 1,024 random films. 0 keeps none.
        losses: (epochs, n, k) losses recorded by `train`, passed on unchanged.
        seed: seed of the random films, 0 or more.

    Raises:
        UsageError: no films, or fewer than 0 channels.
        DataError: features that aren't finite.
    """
    if not len(cohort) or channels < 0:
        raise UsageError(f"{len(cohort)} films, {channels} channels; expected 1 and 0 at least")
    n = len(cohort)
    first = np.sort(stream(seed, "features").permutation(n)[:TRIED])
    rest = np.setdiff1d(np.arange(n), first)
    means, tried = _seen(classifier, cohort, first)
    varying = tried.mean(axis=2).var(axis=0, dtype=np.float64)
    chosen = np.sort(np.argsort(-varying, kind="stable")[:channels])
    values = np.empty((n, means.shape[1]), np.float32)
    kept = np.empty((n, len(chosen), tried.shape[2]), np.float32)
    values[first], kept[first] = means, tried[:, chosen]
    del tried
    for start in range(0, len(rest), FILMS):
        rows = rest[start : start + FILMS]
        values[rows], maps = _seen(classifier, cohort, rows)
        kept[rows] = maps[:, chosen]
    return Features(values, kept if channels else None, losses)


def _seen(
    classifier: WhiteBox, cohort: Cohort, rows: Rows
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(m, d) features and (m, c, places) last maps."""
    from leadapron.models.protocols import lacking

    images = cohort.images[rows]
    maps = classifier.activations(images)
    maps = maps.reshape(*maps.shape[:2], -1)
    # A pooled linear head reads the map's means, so no second pass is needed.
    pooled = not lacking(classifier, "pooled linear head")
    return maps.mean(axis=2) if pooled else classifier.features(images), maps
