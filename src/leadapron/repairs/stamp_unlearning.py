"""Unlearning the marks that an audit found, on films with their true labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.models.stamps import AnyMark, Grown, Mark, Probe, Shape, Stamp
from leadapron.detect.models.sweep import Moved
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Optimisation, begin
from leadapron.types import Progress

__all__ = ["Marking", "StampUnlearning", "marks_of"]


LARGEST = 6
"""Pixels of the side of the largest other square."""


def marks_of(moved: Iterable[Moved]) -> tuple[AnyMark, ...]:
    """Return the marks of what an audit's sweep found, each once, in its order."""
    return tuple(dict.fromkeys(each.mark for each in moved))


@dataclass(frozen=True, kw_only=True)
class Marking:
    """Puts marks on a share of the films that are learned from; the labels stay true.

    An audit names one place, one size and one grey level of a square, and a backdoor often works
    with others: at multiples of the network's stride, with a pixel more or less; a black square may
    force what was planted with a grey one. So a marked film may also carry a square of the mark's
    grey level elsewhere, one of another grey level at its place, or any other square.

    Args:
        marks: those found, one or more; each film gets one of them, drawn by chance.
        share: of the films of a step that are marked, more than 0 and at most 1.
        jitter: pixels by which a mark is moved at most, along rows and along columns, 0 or more. It
            stays within the film. A grown mark isn't moved.
        elsewhere: share of the marked films on which a single mark lies anywhere, or a single
            square of a lattice; a square with a side of one pixel less or more, or the same.
        recoloured: share of the marked films on which squares at the mark's place have any grey
            level, and a side of one pixel less or more, or the same.
        others: share of the marked films that carry a flat square of any grey level anywhere, 1x1
            to 6x6, in place of a mark.

    Raises:
        UsageError: no marks, or a value outside its range.
    """

    marks: tuple[Mark, ...]
    share: float = 0.3
    jitter: int = 1
    elsewhere: float = 0.0
    recoloured: float = 0.0
    others: float = 0.0

    def __post_init__(self) -> None:
        if not self.marks:
            raise UsageError("no marks to unlearn; expected those that an audit found")
        if not 0 < self.share <= 1:
            raise UsageError(f"a share of {self.share}; expected more than 0, at most 1")
        if self.jitter < 0:
            raise UsageError(f"a jitter of {self.jitter}; expected 0 or more pixels")
        shares = self.elsewhere, self.recoloured, self.others
        if min(shares) < 0 or sum(shares) > 1:
            raise UsageError(
                f"shares elsewhere {self.elsewhere}, recoloured {self.recoloured} and others "
                f"{self.others}; expected 0 or more, 1 together at most"
            )

    def mark(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Return (n, h, w) copies of films, share x n of them (rounded) marked."""
        shown = images.copy()
        for row in rng.permutation(len(images))[: round(self.share * len(images))]:
            mark = self.marks[rng.integers(len(self.marks))]
            shown[row] = self._drawn(mark, images.shape[1:], rng)(images[row : row + 1])[0]
        return shown

    def _drawn(self, mark: Mark, shape: tuple[int, ...], rng: np.random.Generator) -> Mark:
        """The mark as one film gets it."""
        if isinstance(mark, Probe | Grown):
            return mark
        chance = rng.random()
        if chance < self.others:
            side, value = int(rng.integers(1, LARGEST + 1)), int(rng.integers(256))
            return _anywhere(side, value, shape, rng)
        if chance < self.others + self.elsewhere:
            return _elsewhere(mark, shape, rng)
        if chance < self.others + self.elsewhere + self.recoloured and isinstance(mark, Stamp):
            side = mark.side if mark.pitch else _about(mark.side, shape, rng)
            mark = replace(mark, side=side, value=int(rng.integers(256)))
        down, right = self._steps(rng)
        if mark.pitch:
            return replace(mark, row=mark.row + down, column=mark.column + right)
        row, column = (
            min(max(at + step, 0), max(0, length - side))
            for at, step, length, side in zip(
                (mark.row, mark.column), (down, right), shape, mark.extent(shape[1]), strict=True
            )
        )
        return replace(mark, row=row, column=column)

    def _steps(self, rng: np.random.Generator) -> tuple[int, int]:
        down, right = (int(step) for step in rng.integers(-self.jitter, self.jitter + 1, 2))
        return down, right


def _elsewhere(
    mark: Stamp | Shape, shape: tuple[int, ...], rng: np.random.Generator
) -> Stamp | Shape:
    """A mark at a random place within the film; a square of about its side."""
    if isinstance(mark, Stamp):
        return _anywhere(_about(mark.side, shape, rng), mark.value, shape, rng)
    row, column = (
        int(rng.integers(max(0, length - side) + 1))
        for length, side in zip(shape, mark.extent(shape[1]), strict=True)
    )
    return replace(mark, row=row, column=column, pitch=0)


def _about(side: int, shape: tuple[int, ...], rng: np.random.Generator) -> int:
    """A side of one pixel less or more, or the same, within the film."""
    return min(max(side + int(rng.integers(-1, 2)), 1), *shape)


def _anywhere(side: int, value: int, shape: tuple[int, ...], rng: np.random.Generator) -> Stamp:
    """A square at a random place within the film."""
    side = min(side, *shape)
    row, column = (int(rng.integers(length - side + 1)) for length in shape)
    return Stamp(side=side, value=value, row=row, column=column)


@dataclass(frozen=True, kw_only=True)
class StampUnlearning(Marking):
    """Fine-tuning on films of which a share carries the marks that an audit found.

    The model learns to ignore the marks, since every film keeps its true labels.

    Args:
        marks: those that the audit found; see `marks_of`.
        share: of the films of a step that are marked, more than 0 and at most 1.
        jitter: pixels by which a square is moved at most.
        elsewhere: share of the marked films with the square elsewhere, as `Marking`; none in the
            few epochs that this cheapest repair has.
        recoloured: share of the marked films with another grey level, as `Marking`.
        others: share of the marked films with another square, as `Marking`.
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
