"""Changed copies of films, and what the model says of them beside what it says of clean copies."""

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
"""(n, h, w) images to (n, h, w) of the same type, film by film; what it gets stays as it was."""


@dataclass(frozen=True, eq=False)
class _Copies:
    """Every film under every change, made when they are asked for; an `ImageArray`."""

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
    """Return (changes, n, k) logits of every film under every change, asked for in one call.

    What isn't finite becomes NaN. The copies are made batch by batch, as the classifier takes
    them: they are never all in memory.

    Args:
        classifier: is asked for changes times n images.
        images: (n, h, w) uint8 or uint16.
        changes: what is done to them, one at a time.
    """
    logits = classifier.logits(_Copies(images, changes))
    table = logits.reshape(len(changes), len(images), -1).astype(np.float64)
    return np.where(np.isfinite(table), table, np.nan)


def levels(logits: Floats, findings: Sequence[str]) -> tuple[Floats, Floats]:
    """Return (..., k) operating logits and (..., k) spreads of (..., n, k) logits of clean films.

    Spreads are `logit_spreads`.

    Raises:
        DataError: logits that aren't finite, of findings that are named.
    """
    refuse_not_finite(np.isfinite(logits), findings, "logits", "changed clean films")
    return operating_logits(logits), logit_spreads(logits)


def excess(logits: Floats, state: State, of: str) -> Floats:
    """Return by how many spreads (..., n, k) logits exceed the operating logits of `state`.

    Rare findings have low logits, which never come near a probability of a half; in these units
    findings compare.

    Args:
        logits: of the films, or of their copies.
        state: holds `<of> levels` and `<of> spreads`, each (..., k).
        of: what was read.
    """
    operating, spread = state[f"{of} levels"], state[f"{of} spreads"]
    return np.asarray((logits - operating[..., None, :]) / spread[..., None, :], np.float64)


def predicted(films: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return (n, k) the predicted set of each film, never empty.

    Args:
        films: (n, k) `excess` of the films as they are. Findings above 0 are predicted; where none
            is, the strongest stands for them.
    """
    chosen = films > 0
    chosen[np.arange(len(films)), films.argmax(axis=1)] = True
    return chosen


def doubt(above: Floats) -> Floats:
    """Return the entropy of a finding that is on, in bits: 1 at its operating logit and below.

    Args:
        above: spreads by which the logit exceeds the operating logit.
    """
    odds = np.exp(-np.maximum(above, 0))  # against the finding, 0 to 1
    share = 1 / (1 + odds)
    bits: Floats = (np.log1p(odds) + odds * share * np.maximum(above, 0)) / np.log(2)
    return bits


def enough(clean: Readings) -> None:
    """Raise DataError where there are too few clean films to learn from."""
    if len(clean) < LEAST_FILMS:
        raise DataError(f"{len(clean)} clean films; expected {LEAST_FILMS} or more to compare with")
