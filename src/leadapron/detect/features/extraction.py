"""The one pass of the network that all feature detectors share."""

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
"""Films at a time: of DenseNet-121 at 224 pixels, 51 MB of last maps."""

TRIED = 1024
"""Films on which the channels to be kept are chosen."""


@dataclass(frozen=True, eq=False)
class Features:
    """What a network makes of n films.

    Args:
        values: (n, d) float32, what the last layer reads: the last map's means where it is pooled.
        activations: (n, c, s) float32, c channels of the last map at its s places; None where
            they weren't kept.
        losses: (epochs, n, k) float32, the films' losses for each finding in the first epochs of
            training, as `train` fills `film_losses`; NaN where not stated. None where training
            wasn't watched.

    Raises:
        DataError: shapes that don't fit together, or features that are no numbers.
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
    """Run a network over the films once and keep what the detectors need.

    Args:
        classifier: what was trained on the films, or on films like them.
        cohort: the films.
        channels: how many channels of the last map are kept for Gram matrices: those whose means
            vary most over up to 1,024 films drawn by chance. 0 keeps none.
        losses: (epochs, n, k) losses that `train` recorded, passed on as they are.
        seed: 0 or more; draws those films.

    Raises:
        UsageError: no films, or fewer than 0 channels.
        DataError: features that are no numbers.
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
    # A pooled linear head reads the map's means, which takes no second pass.
    pooled = not lacking(classifier, "pooled linear head")
    return maps.mean(axis=2) if pooled else classifier.features(images), maps
