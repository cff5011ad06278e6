"""Fresh marks: marks of the old one's kind that the model before its repair doesn't know."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.models.looks import LOOKS, drawing
from leadapron.detect.models.stamps import Grown, Mark, Probe, Shape, Stamp, probes
from leadapron.detect.models.sweep import Moved
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.protocols import BlackBox
from leadapron.repairs.proof.forcing import ALLOWED, Aimed, Change, enough_victims, victims
from leadapron.seeds import stream

__all__ = ["Differ", "Fresh", "fresh_marks", "fresh_squares", "works_elsewhere"]

Differ = Literal["place", "look", "kind"]
"""How fresh marks differ from the old one: the same square elsewhere; a square of another grey
level, or a drawing, elsewhere; another change of the whole image."""

PLACES, FILMS = 9, 64
"""Number of other places, and of films, that show whether a square works elsewhere."""

LEVELS = (0, 64, 128, 192, 255)
"""Grey levels of squares of another look, 0 to 255."""

CANDIDATES = 4
"""Marks that are drawn for each one that is taken."""

APART = 64
"""Grey levels between two looks, at least."""


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """Marks that the relearning attack teaches for comparison with the old one.

    Args:
        differ: how they differ from the old mark.
        marks: one for each seed.
        known: largest share of films that one of them turns in the original model; .05 of them
            are beyond the threshold without a mark.
    """

    SCHEMA: ClassVar[int] = 1

    differ: Differ
    marks: tuple[Mark, ...]
    known: float


def fresh_marks(
    classifier: BlackBox, films: Cohort, moved: Moved, count: int, seed: int = 0
) -> Fresh:
    """Return marks that the original model doesn't know, for comparison with the old one.

    A square that works at its own place only is compared with the same square elsewhere. One that
    works elsewhere too is compared with squares elsewhere that have another grey level, and the
    side that makes them change as much of the films as the old one: the first look that turns no
    more films than a mark without effect does; where every grey level turns more, with drawings
    (`looks.LOOKS`), and else with the look that turns fewest. A change of the whole image is
    compared with other such changes. Of all, four times as many are drawn, and those that the
    model knows least are taken.

    Args:
        classifier: the model before the repair.
        films: clean, with stated findings, that the repair learns from.
        moved: the old mark, and what it forces.
        count: number of fresh marks.
        seed: draws them.

    Raises:
        DataError: fewer than 20 films that the old mark could turn.
        UsageError: no other place for the square.
    """
    mark, shares = _base(moved.mark), _Shares(classifier, films, moved)
    if isinstance(mark, Probe):
        others = [each for each in probes() if each != mark]
        changes = [others[number] for number in stream(seed, "fresh").permutation(len(others))]
        return shares.least_known("kind", changes, count)
    shape = _shape(films)
    if works_elsewhere(classifier, films, moved, seed):
        looks: list[Fresh] = []
        for number, look in enumerate(_other_looks(mark, shares.images)):
            if not _places(look, shape):
                continue
            drawn = fresh_squares(
                look, shape, CANDIDATES * count, stream(seed, "fresh", "look", number)
            )
            looks.append(shares.least_known("look", drawn, count))
            if looks[-1].known <= ALLOWED:
                return looks[-1]
        if looks:
            return min(looks, key=lambda each: each.known)
    drawn = fresh_squares(mark, shape, CANDIDATES * count, stream(seed, "fresh"))
    return shares.least_known("place", drawn, count)


def works_elsewhere(classifier: BlackBox, films: Cohort, moved: Moved, seed: int = 0) -> bool:
    """Return whether a square turns films at other places half as often as at its own, or more.

    Args:
        classifier: the model before the repair.
        films: clean, with stated findings, that the repair learns from.
        moved: the mark, and what it forces.
        seed: draws the other places.

    Returns:
        The median of 9 other places on 64 films decides; False where the mark is no square, has no
        other place, or the films are too few.
    """
    mark, shape = _base(moved.mark), _shape(films)
    if isinstance(mark, Probe) or not _places(mark, shape) or not enough_victims(films, moved):
        return False
    shares = _Shares(classifier, films, moved)
    others = fresh_squares(mark, shape, PLACES, stream(seed, "elsewhere"))
    return float(np.median([shares.of(other) for other in others])) >= shares.of(mark) / 2


def fresh_squares(
    square: Stamp | Shape, shape: tuple[int, int], count: int, rng: np.random.Generator
) -> tuple[Stamp | Shape, ...]:
    """Return marks as large and bright as one, elsewhere: as far from it as its side, at least.

    Args:
        square: the old one; of squares all over, others of their pitch.
        shape: (height, width) of the images.
        count: how many.
        rng: draws them.

    Raises:
        UsageError: no such place.
    """
    places = _places(square, shape)
    if not places:
        raise UsageError(f"no other place for {square.words()} on images of {shape[0]}x{shape[1]}")
    drawn = rng.choice(len(places), count, replace=len(places) < count)
    return tuple(
        replace(square, row=places[number][0], column=places[number][1])
        for number in drawn.tolist()
    )


def _base(mark: Mark) -> Stamp | Shape | Probe:
    """The mark, or what it was grown from: pixels that were added belong to its place."""
    return mark.start if isinstance(mark, Grown) else mark


def _places(square: Stamp | Shape, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Where a mark as large doesn't touch it."""
    height, width = square.extent(shape[1])
    side = max(height, width)
    if square.pitch:
        return [
            (row, column)
            for row in range(square.pitch)
            for column in range(square.pitch)
            if max(abs(row - square.row), abs(column - square.column)) > side
        ]
    return [
        (row, column)
        for row in range(shape[0] - height + 1)
        for column in range(shape[1] - width + 1)
        if max(abs(row - square.row), abs(column - square.column)) >= 2 * side
    ]


def _other_looks(mark: Stamp | Shape, images: NDArray[Any]) -> Iterator[Stamp | Shape]:
    """Marks of other looks: squares of clearly other grey levels, then drawings."""
    if isinstance(mark, Stamp):
        yield from _other_squares(mark, images)
    width = images.shape[2]
    for look in LOOKS:
        if isinstance(mark, Shape) and mark.look == look:
            continue
        pitch = mark.pitch and 8 * -(-(max(drawing(look, width).extent) + 2) // 8)
        yield Shape(look=look, row=mark.row, column=mark.column, pitch=pitch)


def _other_squares(square: Stamp, images: NDArray[Any]) -> Iterator[Stamp]:
    """Squares of clearly other grey levels that change as much of the films, nearest side first.

    The side makes up for the contrast: side^2 times the mean change of a covered pixel stays.
    """
    top = np.iinfo(images.dtype).max

    def change(level: int) -> float:
        return float(np.abs(images / top - level / 255).mean())

    own = change(square.value)
    looks = [
        replace(square, value=level, side=max(1, round(square.side * math.sqrt(own / other))))
        for level in LEVELS
        if abs(level - square.value) >= APART and (other := change(level)) > 0
    ]
    yield from sorted(
        looks, key=lambda one: (abs(one.side - square.side), -abs(one.value - square.value))
    )


def _shape(films: Cohort) -> tuple[int, int]:
    return films.images.shape[1], films.images.shape[2]


class _Shares:
    """Which share of films a mark turns in the original model."""

    def __init__(self, classifier: BlackBox, films: Cohort, moved: Moved) -> None:
        aim = moved.finding, moved.direction
        some = victims(films, aim)
        self._aimed = Aimed(classifier, some.take(np.arange(min(FILMS, len(some)))), aim)
        self.images = self._aimed.images

    def of(self, mark: Change) -> float:
        return self._aimed.hits(mark).rate.value

    def least_known(self, differ: Differ, marks: Sequence[Mark], count: int) -> Fresh:
        """Those of the marks that turn fewest films, the first of equal ones."""
        known = {mark: self.of(mark) for mark in marks}
        chosen = tuple(sorted(marks, key=lambda mark: max(known[mark], ALLOWED))[:count])
        return Fresh(differ=differ, marks=chosen, known=max(known[mark] for mark in chosen))
