"""Patients drawn with replacement, and AUROC under all draws at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadapron.errors import DataError
from leadapron.metrics.values import Booleans, Floats, Integers, checked_scores, patient_groups

BLOCK_BYTES = 1 << 22  # weights gathered at once, so that they stay in the processor's cache


@dataclass(frozen=True, eq=False)
class PatientBootstrap:
    """Resamples of patients, as one weight per film; metrics that share one can be paired.

    Args:
        groups: (n,) the patient of each film, as integers from 0.
        weights: (resamples, n) how often each film is in each resample. `draw` makes them uint8
            with one film's weights contiguous, which is the layout that is read fastest.
    """

    groups: Integers
    weights: NDArray[Any]

    @classmethod
    def draw(
        cls, patients: ArrayLike, rng: np.random.Generator, *, resamples: int = 1000
    ) -> PatientBootstrap:
        """Draw as many patients as there are, with replacement, `resamples` times.

        Args:
            patients: (n,) patient of each film, any sortable dtype.
            rng: source of randomness.
            resamples: number of resamples, at least 1.

        Returns:
            The resamples of these n films.

        Raises:
            DataError: if there are no films or no resamples.
        """
        groups = patient_groups(patients)
        if not groups.size or resamples < 1:
            raise DataError(f"a bootstrap of {groups.size} films, {resamples} resamples: need >= 1")
        count = int(groups.max()) + 1
        # Up to 255 patients a uint8 can't overflow; beyond, 256 draws of one patient never happen.
        drawn = np.empty((count, resamples), dtype=np.uint8)
        for start in range(0, resamples, 64):
            width = min(64, resamples - start)
            picks = rng.integers(0, count, size=(width, count)) + count * np.arange(width)[:, None]
            tally = np.bincount(picks.ravel(), minlength=width * count).reshape(width, count)
            drawn[:, start : start + width] = tally.T
        return cls(groups, drawn[groups].T)

    def select(self, rows: ArrayLike) -> PatientBootstrap:
        """Return the same resamples for some films (indices or mask, at least one film)."""
        chosen = np.asarray(rows)
        groups = np.unique(self.groups[chosen], return_inverse=True)[1]
        return PatientBootstrap(groups, self.weights.T[chosen].T)


def bootstrap_auroc(labels: ArrayLike, scores: ArrayLike, weights: NDArray[Any]) -> Floats:
    """AUROC under each row of weights, from one sort; ties count half.

    Args:
        labels: (n,) or (n, k) in {0, 1, NaN}; a table's cells are pooled (micro average).
        scores: the same shape, finite.
        weights: (resamples, n) non-negative integers or floats, of the films.

    Returns:
        (resamples,) float64 in [0, 1]; NaN where a resample lacks a class.

    Raises:
        DataError: if shapes or values are wrong.
    """
    truth, values = checked_scores(labels, scores, dimensions=2 if np.ndim(labels) == 2 else 1)
    if weights.ndim != 2 or weights.shape[1] != len(truth):
        raise DataError(f"weights have shape {weights.shape}, expected (resamples, {len(truth)})")
    known = ~np.isnan(truth)
    return resampled_auroc(truth[known] == 1, values[known], np.nonzero(known)[0], weights)


def resampled_auroc(
    positive: Booleans, scores: Floats, rows: Integers, weights: NDArray[Any]
) -> Floats:
    """AUROC of the cells under the weights of their films `rows`: (resamples,).

    The commoner class is summed between the distinct scores of the rarer one, so that only the
    rarer class's cells meet all resamples in wide arithmetic. Integer weights are exact.
    """
    result = np.full(weights.shape[0], np.nan)
    swapped = 2 * int(positive.sum()) > positive.size
    order = np.argsort(scores, kind="stable")
    rare, scores, rows = (positive ^ swapped)[order], scores[order], rows[order]
    if not rare.any():
        return result
    levels, first = np.unique(scores[rare], return_index=True)  # (g,)
    common = scores[~rare]
    below = np.searchsorted(common, levels, side="left")
    upto = np.searchsorted(common, levels, side="right")
    starts = np.unique(np.concatenate([[0], below, upto]))
    starts = starts[starts < common.size]  # (s,)
    below, upto = np.searchsorted(starts, below), np.searchsorted(starts, upto)

    films = weights.T  # (n, resamples)
    kind = np.dtype(np.int32 if weights.dtype == np.uint8 else np.float64)
    width = max(32, BLOCK_BYTES // (common.size * weights.itemsize))
    for begin in range(0, weights.shape[0], width):
        part = slice(begin, begin + width)
        mass = np.add.reduceat(films[rows[~rare], part], starts, axis=0, dtype=kind)
        mass = np.concatenate([np.zeros_like(mass[:1]), np.cumsum(mass, axis=0, dtype=kind)])
        own = np.add.reduceat(films[rows[rare], part], first, axis=0, dtype=kind)  # (g, width)
        own = own.astype(np.float64)
        wins = np.einsum("gr,gr->r", own, mass[below] + mass[upto], dtype=np.float64)
        pairs = 2.0 * own.sum(axis=0) * mass[-1]
        np.divide(wins, pairs, out=result[part], where=pairs > 0)
    return 1 - result if swapped else result
