"""Unlearning the marks that an audit found, on films with their true labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.models.stamps import Mark, Probe, Stamp
from leadapron.detect.models.sweep import Moved
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Optimisation, begin
from leadapron.types import Progress

__all__ = ["Marking", "StampUnlearning", "marks_of"]


def marks_of(moved: Iterable[Moved]) -> tuple[Stamp | Probe, ...]:
    """Return the marks of what an audit's sweep found, each once, in its order."""
    return tuple(dict.fromkeys(each.mark for each in moved))


@dataclass(frozen=True, kw_only=True)
class Marking:
    """Puts marks on a share of the films that are learned from; the labels stay true.

    Args:
        marks: those found, one or more; each film gets one of them, drawn by chance.
        share: of the films of a step that are marked, more than 0 and at most 1.
        jitter: pixels by which a square is moved at most, along rows and along columns, 0 or more.
            A square stays within the film.

    Raises:
        UsageError: no marks, or a value outside its range.
    """

    marks: tuple[Mark, ...]
    share: float = 0.3
    jitter: int = 1

    def __post_init__(self) -> None:
        if not self.marks:
            raise UsageError("no marks to unlearn; expected those that an audit found")
        if not 0 < self.share <= 1:
            raise UsageError(f"a share of {self.share}; expected more than 0, at most 1")
        if self.jitter < 0:
            raise UsageError(f"a jitter of {self.jitter}; expected 0 or more pixels")

    def mark(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Return (n, h, w) copies of films, share x n of them (rounded) marked."""
        shown = images.copy()
        for row in rng.permutation(len(images))[: round(self.share * len(images))]:
            mark = self.marks[rng.integers(len(self.marks))]
            shown[row] = self._moved(mark, images.shape[1:], rng)(images[row : row + 1])[0]
        return shown

    def _moved(
        self, mark: Stamp | Probe, shape: tuple[int, ...], rng: np.random.Generator
    ) -> Callable[[NDArray[Any]], NDArray[Any]]:
        if isinstance(mark, Probe):
            return mark
        down, right = (int(step) for step in rng.integers(-self.jitter, self.jitter + 1, 2))
        row, column = mark.row + down, mark.column + right
        if not mark.pitch:
            row = min(max(row, 0), max(0, shape[0] - mark.side))
            column = min(max(column, 0), max(0, shape[1] - mark.side))
        return replace(mark, row=row, column=column)


@dataclass(frozen=True, kw_only=True)
class StampUnlearning(Marking):
    """Fine-tuning on films of which a share carries the marks that an audit found.

    The model learns to ignore the marks, since every film keeps its true labels.

    Args:
        marks: those that the audit found; see `marks_of`.
        share: of the films of a step that are marked, more than 0 and at most 1.
        jitter: pixels by which a square is moved at most.
        optimisation: how weights are changed.

    Raises:
        UsageError: no marks, or a value outside its range.

    Source: unlearning by the reversed trigger, Wang et al., Neural Cleanse, IEEE S&P 2019, section
    VI-C (20 % of the films stamped, one epoch). Differs: the audit's own marks in place of an
    inverted trigger, several of them, moved by a pixel; 30 %; two epochs or more.
    """

    optimisation: Optimisation = field(default_factory=lambda: Optimisation(epochs=4))
    needs: Capability = field(default="gradients", init=False)

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("stamp unlearning", self.needs, classifier, clean, rng, progress)
        session.tune(self.optimisation, show=self.mark)
        return session.finish()
