"""Simple baselines for comparison with a scan: one guess each, without correction or verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.blobs import grey
from leadapron.detect.films.observe import Observed, raised
from leadapron.detect.films.repeats import textures
from leadapron.films.cohort import Cohort, Rows, blocks

__all__ = ["Plain"]

NEAR = 2
"""Largest distance in pixels between a correct guess and the middle of the mark, down or across."""


class Plain:
    """Baselines that guess one place; there is no threshold.

    Args:
        cohort: the clean films.
        seen: observations of them.
    """

    def __init__(self, cohort: Cohort, seen: Observed) -> None:
        self._cohort = cohort
        shape = seen.shape[1:]
        self._sum, self._squares = np.zeros(shape), np.zeros(shape)
        self._by_finding = np.zeros((len(cohort.findings), *shape))
        for rows in blocks(len(cohort)):
            self._add(raised(grey(cohort.images[rows])), cohort.labels[rows], 1)
        self._outliers = self._counted(seen)

    def _add(self, values: NDArray[np.int16], labels: NDArray[np.float32], sign: int) -> None:
        exact = values.astype(np.float32)
        self._sum += sign * exact.sum(axis=0)
        self._squares += sign * np.square(exact).sum(axis=0)
        present = (labels == 1).astype(np.float32)
        self._by_finding += sign * np.tensordot(present.T, exact, axes=1)

    @staticmethod
    def _counted(seen: Observed) -> NDArray[np.int64]:
        _, height, width = seen.shape
        cells = seen.outliers[seen.outliers < 2 * height * width]  # the narrower tails, both ends
        counts: NDArray[np.int64] = np.bincount(cells, minlength=2 * height * width)
        return counts.reshape(2, height, width)

    def found(
        self,
        poisoned: Cohort,
        seen: Observed,
        rows: Rows,
        finding: str,
        place: Sequence[float] | None,
    ) -> dict[str, bool] | None:
        """Return whether each baseline's guess is correct; None for poison without a place.

        Args:
            poisoned: the films with poison.
            seen: observations of them.
            rows: rows of the films that differ from the clean ones.
            finding: the target.
            place: (row, column) of the middle of the mark.

        Returns:
            "plain z": the largest z of a high-passed pixel between a finding's films and all
            others, with the right finding; "outliers": the pixel whose count of outliers rose most;
            "duplicates": the rough spot that most films share.
        """
        if place is None:
            return None
        before = raised(grey(self._cohort.images[rows]))
        after = raised(grey(poisoned.images[rows]))
        self._add(before, self._cohort.labels[rows], -1)
        self._add(after, poisoned.labels[rows], 1)
        n = len(poisoned)
        carriers = (poisoned.labels == 1).sum(axis=0)[:, None, None]
        spread = np.sqrt(np.maximum(self._squares / n - (self._sum / n) ** 2, 1e-9))
        others = (self._sum - self._by_finding) / np.maximum(n - carriers, 1)
        z = (self._by_finding / np.maximum(carriers, 1) - others) / spread
        z *= np.sqrt(np.maximum(carriers * (n - carriers) / n, 0))
        best = [int(axis) for axis in np.unravel_index(np.abs(z).argmax(), z.shape)]
        self._add(after, poisoned.labels[rows], -1)
        self._add(before, self._cohort.labels[rows], 1)
        more = self._counted(seen) - self._outliers
        risen = [int(axis) for axis in np.unravel_index(more.argmax(), more.shape)]
        patients = np.unique(poisoned.patients, return_inverse=True)[1]
        spots = textures(seen, patients, placed=True)
        return {
            "plain z": _near(best[1:], place) and poisoned.findings[best[0]] == finding,
            "outliers": _near(risen[1:], place),
            "duplicates": bool(spots)
            and _near([(spots[0].row or 0) + 1, (spots[0].column or 0) + 1], place),
        }


def _near(guess: Sequence[int], place: Sequence[float]) -> bool:
    return all(abs(a - b) <= NEAR for a, b in zip(guess, place, strict=True))
