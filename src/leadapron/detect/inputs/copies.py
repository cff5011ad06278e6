"""Changed copies of films, and the model's outputs for them compared with clean copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.readings import (
    Readings,
    State,
    operating_logits,
)
from leadapron.detect.scale import LEAST_FILMS, logit_spreads
from leadapron.errors import DataError
from leadapron.models.classifier import BlackBox, refuse_not_finite

__all__ = [
    "Change",
    "Floats",
    "answers",
    "doubt",
    "enough",
    "excess",
    "levels",
    "predicted",
]

Floats = NDArray[np.float64]

Change = Callable[[NDArray[Any]], NDArray[Any]]
"""(n, h, w) images to (n, h, w) of the same type, film by film; the input is unchanged."""


@dataclass(frozen=True, eq=False)
class _Copies:
    """Every film under every change, computed on access; an `ImageArray`."""

    images: NDArray[Any]
    changes: Sequence[Change]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.changes) * len(self.images), *self.images.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.images.dtype

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[Any]:
        which, film = np.divmod(np.asarray(rows), len(self.images))
        copies = np.empty((len(which), *self.images.shape[1:]), self.dtype)
        for each in np.unique(which):
            copies[which == each] = self.changes[each](self.images[film[which == each]])
        return copies


def answers(classifier: BlackBox, images: NDArray[Any], changes: Sequence[Change]) -> Floats:
    """Return (changes, n, k) logits of every film under every change, from one call.

    Values that aren't finite become NaN. Copies are made in the classifier's batches, so they are
    never all in memory.

    Args:
        classifier: run on changes times n images.
        images: (n, h, w) uint8 or uint16.
        changes: the changes, each applied separately.
    """
    logits = classifier.logits(_Copies(images, changes))
    table = logits.reshape(len(changes), len(images), -1).astype(np.float64)
    return np.where(np.isfinite(table), table, np.nan)


def levels(logits: Floats, findings: Sequence[str]) -> tuple[Floats, Floats]:
    """Return (..., k) operating logits and (..., k) spreads of (..., n, k) logits of clean films.

    Spreads are `logit_spreads`.

    Raises:
        DataError: a finding's logits aren't finite.
    """
    refuse_not_finite(np.isfinite(logits), findings, "logits", "changed clean films")
    return operating_logits(logits), logit_spreads(logits)


def excess(logits: Floats, state: State, of: str) -> Floats:
    """Return the excess of (..., n, k) logits over the operating logits of `state`, in spreads.

    Rare findings have low logits, far below a probability of 0.5; these units make findings
    comparable.

    Args:
        logits: of the films, or of their copies.
        state: holds `<of> levels` and `<of> spreads`, each (..., k).
        of: prefix of the entries in `state`.
    """
    operating, spread = state[f"{of} levels"], state[f"{of} spreads"]
    return np.asarray((logits - operating[..., None, :]) / spread[..., None, :], np.float64)


def predicted(films: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return (n, k) the predicted set of each film, never empty.

    Args:
        films: (n, k) `excess` of the unchanged films. Findings above 0 are predicted; if there are
            none, the strongest one is.
    """
    chosen = films > 0
    chosen[np.arange(len(films)), films.argmax(axis=1)] = True
    return chosen


def doubt(above: Floats) -> Floats:
    """Return the entropy of a predicted finding, in bits: 1 at its operating logit and below.

    Args:
        above: excess of the logit over the operating logit, in spreads.
    """
    odds = np.exp(-np.maximum(above, 0))  # against the finding, 0 to 1
    share = 1 / (1 + odds)
    bits: Floats = (np.log1p(odds) + odds * share * np.maximum(above, 0)) / np.log(2)
    return bits


def enough(clean: Readings) -> None:
    """Raise DataError if there are too few clean films to fit."""
    if len(clean) < LEAST_FILMS:
        raise DataError(f"{len(clean)} clean films; expected {LEAST_FILMS} or more to compare with")
