"""A bounded statement that anybody can check: what flat squares do to these films.

299 squares are drawn at random from all that there are. If more than 1 % of all squares turned more
films than the strongest drawn one, the chance that none of them was drawn would be .99^299 < .05.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from leadapron.detect.models.stamps import Stamp, shifts
from leadapron.detect.models.sweep import DIRECTIONS, Direction
from leadapron.documents import Number
from leadapron.errors import UsageError
from leadapron.metrics import FALSE_POSITIVES, threshold_at_false_positive_rate
from leadapron.models.classifier import refuse_not_finite
from leadapron.models.protocols import BlackBox
from leadapron.types import Progress

__all__ = [
    "CONFIDENCE",
    "COVERED",
    "DRAWS",
    "Bounded",
    "Squares",
    "bounded",
    "exhausted",
    "seconds_for",
]

COVERED, CONFIDENCE = 0.99, 0.95
"""Of all squares, the share that the statement is about; and how sure it is."""

DRAWS = 299
"""The fewest for that: .99^299 is .0495."""

FILMS = 256
"""Films that each square is put on, at most."""

GREYS = 256
TOGETHER = 64
"""Squares between two reports of progress."""


@dataclass(frozen=True)
class Squares:
    """All flat squares on images of one size: every side, place and grey level, numbered.

    Args:
        height: of the images, in pixels.
        width: of the images.
        sides: of the squares, in pixels, ascending.
    """

    height: int
    width: int
    sides: tuple[int, ...] = (1, 2, 3, 4, 5)

    def __len__(self) -> int:
        return sum(self._of_side(side) for side in self.sides)

    def __getitem__(self, number: int) -> Stamp:
        if not 0 <= number < len(self):
            raise IndexError(number)
        for side in self.sides:
            if number < self._of_side(side):
                break
            number -= self._of_side(side)
        place, value = divmod(number, GREYS)
        row, column = divmod(place, self.width - side + 1)
        return Stamp(side=side, value=value, row=row, column=column)

    def _of_side(self, side: int) -> int:
        return max(0, self.height - side + 1) * max(0, self.width - side + 1) * GREYS


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """What the strongest of some squares does.

    Args:
        films: that each was put on.
        tried: squares.
        of: squares that there are.
        share: of the films, at most turned by any square that was tried, for any finding and
            direction: carried across the threshold that 5 % of them exceed, among those not beyond
            it before.
        finding, direction: for which that was.
        square: that did it.
        covered: of all squares, the share that turns no larger share of these films, with
            `confidence`; 1 where all were tried.
        confidence: .95, or 1 where all were tried.
        elsewhere: where all were tried, the share of other such films that none of them exceeds,
            with 95 % for all of them at once; undefined where they were drawn.
    """

    SCHEMA: ClassVar[int] = 1

    films: int
    tried: int
    of: int
    share: Number
    finding: str
    direction: Direction
    square: Stamp
    covered: float
    confidence: float
    elsewhere: Number


def bounded(
    classifier: BlackBox,
    images: NDArray[Any],
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> Bounded:
    """Return what at least 99 % of all squares stay below, with 95 % confidence.

    Args:
        classifier: the model.
        images: (n, h, w) clean films.
        rng: draws the squares.
        progress: called with what is done, the squares tried and in all.

    Raises:
        DataError: answers that aren't finite.
        UsageError: images smaller than a square.

    Source: the largest of n draws as an upper tolerance limit, Wilks, Annals of Mathematical
    Statistics 12 (1941) 91.
    """
    every = _all(images)
    drawn = [every[int(number)] for number in rng.integers(0, len(every), DRAWS)]
    best, share, aim, _ = _strongest(classifier, images, drawn, DRAWS, progress)
    return Bounded(
        films=len(images), tried=DRAWS, of=len(every), share=share, finding=aim[0],
        direction=aim[1], square=best, covered=COVERED, confidence=CONFIDENCE, elsewhere=math.nan,
    )  # fmt: skip


def exhausted(
    classifier: BlackBox, images: NDArray[Any], progress: Progress | None = None
) -> Bounded:
    """Try every square; `seconds_for` says what that takes.

    Args:
        classifier: the model.
        images: (n, h, w) clean films, of one patient each where `elsewhere` is to hold.
        progress: called with what is done, the squares tried and in all.

    Raises:
        DataError: answers that aren't finite.
        UsageError: images smaller than a square.

    Source: the exact one-sided bound of Clopper and Pearson, Biometrika 26 (1934) 404, at a level
    divided by the number of squares, findings and directions (Bonferroni).
    """
    every = _all(images)
    squares = (every[number] for number in range(len(every)))
    best, share, aim, at_risk = _strongest(classifier, images, squares, len(every), progress)
    looks = len(every) * len(classifier.findings) * len(DIRECTIONS)
    hits = round(share * at_risk)
    level = 1 - (1 - CONFIDENCE) / looks
    upper = 1.0 if hits >= at_risk else float(stats.beta.ppf(level, hits + 1, at_risk - hits))
    return Bounded(
        films=len(images), tried=len(every), of=len(every), share=share, finding=aim[0],
        direction=aim[1], square=best, covered=1.0, confidence=1.0, elsewhere=upper,
    )  # fmt: skip


def seconds_for(classifier: BlackBox, images: NDArray[Any], squares: int) -> float:
    """Return about how many seconds it takes to try so many squares on these films.

    Args:
        classifier: is asked for up to 512 images, to time it.
        images: (n, h, w).
        squares: how many.
    """
    some = images[: min(len(images), 512)]
    classifier.logits(some[:32])  # the first call makes what later ones find
    began = time.perf_counter()
    classifier.logits(some)
    return (time.perf_counter() - began) / len(some) * len(images) * squares


def _all(images: NDArray[Any]) -> Squares:
    every = Squares(*images.shape[1:])
    if not len(every):
        raise UsageError(f"images of {images.shape[1]}x{images.shape[2]} pixels hold no square")
    return every


def _strongest(
    classifier: BlackBox,
    images: NDArray[Any],
    squares: Sequence[Stamp] | Iterator[Stamp],
    total: int,
    progress: Progress | None,
) -> tuple[Stamp, float, tuple[str, Direction], int]:
    """The square that turns most films, how many, whither, and the films that could be turned."""
    clean = classifier.logits(images)  # (n, k)
    refuse_not_finite(np.isfinite(clean), classifier.findings, "logits")
    sides = [_Side(clean, direction) for direction in DIRECTIONS]
    best: tuple[float, Stamp, tuple[str, Direction], int] | None = None
    done = 0
    for some in _chunks(squares):
        logits = shifts(classifier, images, some, np.zeros_like(clean))  # (m, n, k)
        refuse_not_finite(np.isfinite(logits), classifier.findings, "logits", "marked films")
        for side in sides:
            shares = side.shares(logits)  # (m, k)
            mark, column = np.unravel_index(int(shares.argmax()), shares.shape)
            if best is None or shares[mark, column] > best[0]:
                aim = classifier.findings[int(column)], side.direction
                at_risk = int(side.below[:, column].sum())
                best = float(shares[mark, column]), some[int(mark)], aim, at_risk
        done += len(some)
        if progress is not None:
            progress("squares tried", done, total)
    assert best is not None
    return best[1], best[0], best[2], best[3]


class _Side:
    """All findings in one direction: thresholds, and films that aren't beyond them yet."""

    def __init__(self, clean: NDArray[np.float32], direction: Direction) -> None:
        self.direction = direction
        self.sign = np.float32(1 if direction == "added" else -1)
        scores = self.sign * clean
        self.thresholds = np.array(
            [threshold_at_false_positive_rate(column, FALSE_POSITIVES) for column in scores.T],
            np.float32,
        )
        self.below = scores <= self.thresholds  # (n, k)

    def shares(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        turned = (self.sign * logits > self.thresholds) & self.below  # (m, n, k)
        shares: NDArray[np.float64] = turned.sum(axis=1) / self.below.sum(axis=0)
        return shares


def _chunks(squares: Sequence[Stamp] | Iterator[Stamp]) -> Iterator[list[Stamp]]:
    some: list[Stamp] = []
    for square in squares:
        some.append(square)
        if len(some) == TOGETHER:
            yield some
            some = []
    if some:
        yield some
