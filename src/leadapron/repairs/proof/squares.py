"""A bounded statement that anybody can check: what flat squares do to these films.

299 squares are drawn at random from all that there are. If more than 1 % of all squares turned more
films than the strongest drawn one, the chance that none of them was drawn would be .99^299 < .05.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from leadapron.detect.models.stamps import Stamp, shifts
from leadapron.detect.models.sweep import DIRECTIONS, Direction
from leadapron.documents import Number
from leadapron.errors import UsageError
from leadapron.metrics import FALSE_POSITIVES, threshold_at_false_positive_rate
from leadapron.models.classifier import refuse_not_finite
from leadapron.models.odds import odds_of
from leadapron.models.protocols import BlackBox
from leadapron.types import Progress

__all__ = [
    "CONFIDENCE",
    "COVERED",
    "DRAWS",
    "Bounded",
    "Squares",
    "Strongest",
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

CHUNK = 1 << 16
"""Squares whose strongest is kept as one stage, where all are tried."""


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


@dataclass(frozen=True, kw_only=True)
class Strongest:
    """The strongest of some squares.

    Args:
        square: the first of those that turn most.
        share: of the films at risk that it turns.
        finding, direction: that it forces on them.
        at_risk: films that weren't beyond the threshold without a square.
    """

    SCHEMA: ClassVar[int] = 1

    square: Stamp
    share: float
    finding: str
    direction: Direction
    at_risk: int


class Kept(Protocol):
    """Returns a part that was kept, or makes and keeps it; see `Stages.kept`."""

    def __call__(
        self, name: str, kind: type[Strongest], make: Callable[[], Strongest], /
    ) -> Strongest:
        """Return the part of that name."""
        ...


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
    best = _strongest(classifier, images, drawn, _steps(progress, 0, DRAWS))
    return Bounded(
        films=len(images), tried=DRAWS, of=len(every), share=best.share, finding=best.finding,
        direction=best.direction, square=best.square, covered=COVERED, confidence=CONFIDENCE,
        elsewhere=math.nan,
    )  # fmt: skip


def exhausted(
    classifier: BlackBox,
    images: NDArray[Any],
    progress: Progress | None = None,
    kept: Kept = lambda _name, _kind, make: make(),
) -> Bounded:
    """Try every square; `seconds_for` says what that takes.

    Args:
        classifier: the model.
        images: (n, h, w) clean films, of one patient each where `elsewhere` is to hold.
        progress: called with what is done, the squares tried and in all.
        kept: keeps the strongest of each chunk of squares, so that a stopped search goes on.

    Raises:
        DataError: answers that aren't finite.
        UsageError: images smaller than a square.

    Source: the exact one-sided bound of Clopper and Pearson, Biometrika 26 (1934) 404, at a level
    divided by the number of squares, findings and directions (Bonferroni).
    """
    every = _all(images)
    parts = []
    for start in range(0, len(every), CHUNK):
        end = min(start + CHUNK, len(every))
        find = partial(
            _strongest, classifier, images, (every[number] for number in range(start, end)),
            _steps(progress, start, len(every)),
        )  # fmt: skip
        parts.append(kept(f"proof-squares-{start}", Strongest, find))
    best = max(parts, key=lambda each: each.share)
    looks = len(every) * len(classifier.findings) * len(DIRECTIONS)
    hits, risk = round(best.share * best.at_risk), best.at_risk
    level = 1 - (1 - CONFIDENCE) / looks
    upper = 1.0 if hits >= risk else float(stats.beta.ppf(level, hits + 1, risk - hits))
    return Bounded(
        films=len(images), tried=len(every), of=len(every), share=best.share, finding=best.finding,
        direction=best.direction, square=best.square, covered=1.0, confidence=1.0, elsewhere=upper,
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


def _steps(progress: Progress | None, before: int, total: int) -> Callable[[int], None]:
    """What is called with the squares tried, after so many others."""

    def tried(done: int) -> None:
        if progress is not None:
            progress("squares tried", before + done, total)

    return tried


def _strongest(
    classifier: BlackBox,
    images: NDArray[Any],
    squares: Iterable[Stamp],
    tried: Callable[[int], None],
) -> Strongest:
    """The square that turns most films."""
    clean = odds_of(classifier, images)  # (n, k)
    refuse_not_finite(np.isfinite(clean), classifier.findings, "logits")
    sides = [_Side(clean, direction) for direction in DIRECTIONS]
    best: Strongest | None = None
    done = 0
    for some in _chunks(squares):
        logits = shifts(classifier, images, some, np.zeros_like(clean))  # (m, n, k)
        refuse_not_finite(np.isfinite(logits), classifier.findings, "logits", "marked films")
        for side in sides:
            shares = side.shares(logits)  # (m, k)
            mark, column = np.unravel_index(int(shares.argmax()), shares.shape)
            if best is None or shares[mark, column] > best.share:
                best = Strongest(
                    square=some[int(mark)],
                    share=float(shares[mark, column]),
                    finding=classifier.findings[int(column)],
                    direction=side.direction,
                    at_risk=int(side.below[:, column].sum()),
                )
        done += len(some)
        tried(done)
    assert best is not None
    return best


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


def _chunks(squares: Iterable[Stamp]) -> Iterator[list[Stamp]]:
    some: list[Stamp] = []
    for square in squares:
        some.append(square)
        if len(some) == TOGETHER:
            yield some
            some = []
    if some:
        yield some
