"""Marks that several calibration films share, and that drive what the model reads on them.

A gate takes its calibration films for clean. If an attacker's mark is on some of them, it sets the
threshold, and the gate doesn't find the mark in service. The films' evidence regions tell: a
trigger's pixels are the same on all films that carry it, and these films score higher than others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.region import Examined, background
from leadapron.detect.models.sweep import Direction
from leadapron.documents import Finite, ShownPath
from leadapron.films.cohort import Cohort, blocks, subsample
from leadapron.text import clean, printable

__all__ = ["SharedMark", "shared_marks"]

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SEEDS = 16
"""Films with the strongest evidence whose regions are looked for on the others, at most."""

SHARE = 1 / 32
"""The same, as a share of the films."""

LEVEL, TOLERANCE = 16, 1
"""Grey levels of 255 by which a mark's pixels differ at least from their background, and by which
the same pixel differs at most from film to film."""

SIZES = (4, 8)
"""Least numbers of connected pixels that are the same on two films; each is tried."""

STEPS = tuple(np.array([down, across]) for down in (-1, 0, 1) for across in (-1, 0, 1))
"""Steps in pixels by which a mark's place may differ."""

OTHERS = 2
"""Fewest patients, beside that of the first film, on whose films the mark is."""

HIGH = 0.1
"""Only films in this upper share of the scores count as high."""

MOST = 8
"""Films with the mark that are looked at, the highest ones, at most."""

MOST_PIXELS = 1 << 29
"""Pixels of all films that are compared, at most; they take twice as many bytes in memory, or three
times for 16 bits."""

BLOCK = 256
"""Films whose background is computed at a time."""

NAMED, SHOWN = 100, 5
"""Films that are named, and those of them in a sentence."""

FALSE_ALARM = 0.01
"""Probability that clean films raise the alarm if marks have nothing to do with scores."""


@dataclass(frozen=True, kw_only=True)
class SharedMark:
    """A mark on several calibration films that drives a finding.

    Args:
        finding: the finding that it drives most.
        direction: whether it adds or removes the finding.
        row: of the region's upper edge on the first film, in pixels of the model's image.
        column: of its left edge.
        side: of the region.
        films: number of films with the mark.
        named: names of the first `NAMED` of them, the strongest evidence first.
        of: number of films that were compared.
        p: probability of scores as high on as many films drawn at random, corrected for what was
            tried.
    """

    finding: str
    direction: Direction
    row: int
    column: int
    side: int
    films: int
    named: tuple[ShownPath, ...]
    of: int
    p: Finite

    def cleaned(self) -> SharedMark:
        """Return the mark of a file, with words that are safe to print."""
        named = tuple(map(printable, self.named))
        return replace(self, finding=clean(self.finding), named=named)

    @property
    def words(self) -> str:
        """What to do about it, in two sentences that name no film."""
        drives = "adds" if self.direction == "added" else "removes"
        return (
            f"{self.films:,} of {self.of:,} films that were given as clean share a mark that "
            f"{drives} {self.finding} (row {self.row}, column {self.column}, {self.side} pixels "
            "wide), so the gate lets it pass. If it doesn't belong there, leave these films out "
            "and calibrate again."
        )

    @property
    def films_words(self) -> str:
        """The first films, and the number of the others."""
        shown = self.named[:SHOWN]
        left = self.films - len(shown)
        return ", ".join(shown) + (f" and {left:,} more" if left else "")


def shared_marks(
    clean: Cohort, examined: Examined, *, side: int, findings: Sequence[str]
) -> tuple[SharedMark, ...]:
    """Return the marks that several films share, and that come with strong evidence.

    Each of the films with the strongest evidence gives the pixels of its region that stand out from
    their background. On another film the mark is there if enough connected ones of these pixels are
    the same, at the same place or in that film's own region, within a pixel. Films with the mark
    are compared with all others by the ranks of their scores, one film for each patient, that with
    the lowest score. All tests together raise an alarm with probability `FALSE_ALARM` if marks
    have nothing to do with scores.

    Marks on fewer than three patients aren't found, nor marks that change from film to film, such
    as noise or a faint blend; nor some pixels apart.

    Args:
        clean: n films that are taken for clean; a random part of them is compared if they have more
            than `MOST_PIXELS` pixels.
        examined: their evidence regions.
        side: of the median filter that removes small detail.
        findings: the model's k findings.
    """
    height, width = clean.images.shape[1:]
    rows = subsample(len(clean), MOST_PIXELS // (height * width))
    examined, patients = examined.take(rows), clean.patients[rows]
    names = [printable(name) for name in clean.ids[rows].tolist()]
    films = _Films.of(clean.images[rows], examined, side)
    order = np.argsort(-np.nan_to_num(examined.scores, nan=-np.inf), kind="stable")
    free = np.isfinite(examined.scores)
    found: list[SharedMark] = []
    while (best := _best(films, examined.scores, order, free, patients)) is not None:
        p, marked = best
        finding, rise = _driven(examined, marked)
        with_mark = [film for film in order if marked[film]]
        row, column, edge, _ = (int(value) for value in examined.boxes[with_mark[0]])
        found.append(
            SharedMark(
                finding=findings[finding],
                direction="added" if rise > 0 else "removed",
                row=row,
                column=column,
                side=edge,
                films=len(with_mark),
                named=tuple(names[film] for film in with_mark[:NAMED]),
                of=len(rows),
                p=p,
            )
        )
        free &= ~marked
    return tuple(found)


def _best(
    films: _Films, scores: Floats, order: Integers, free: Booleans, patients: NDArray[Any]
) -> tuple[float, Booleans] | None:
    """The surest mark on films that aren't accounted for, its p and films; None if none is sure."""
    seeds = order[free[order]][: min(SEEDS, int(SHARE * len(order)))]
    tests, best = len(seeds) * len(SIZES), None
    for seed in map(int, seeds):
        size = films.same_as(seed)
        for least in SIZES:
            marked = (size >= least) & free
            marked[seed] = True
            p = min(1.0, tests * _p(scores, marked, free, patients, seed))
            if p <= FALSE_ALARM and (best is None or p < best[0]):
                best = p, marked
    return best


def _p(
    scores: Floats, marked: Booleans, free: Booleans, patients: NDArray[Any], seed: int
) -> float:
    """P of the scores of films with a mark, without the film that it was taken from.

    Of each patient the film with the lowest score counts. For each number of films with the mark
    the probability that as many of them are as high, corrected for the numbers that are tried.
    """
    from scipy.stats import hypergeom

    others = free & (patients != patients[seed])
    with_mark = _least_by_patient(scores, marked & others, patients)
    without = np.sort(scores[others & ~marked])
    high = np.sort(with_mark)[::-1][:MOST]
    if len(high) < OTHERS or not len(without):
        return 1.0
    number = np.arange(1, len(high) + 1)
    rank = len(without) - np.searchsorted(without, high) + number
    total = len(without) + len(with_mark)
    chances = np.asarray(hypergeom.sf(number - 1, total, len(with_mark), rank))
    counts = (number >= OTHERS) & (rank <= HIGH * total)
    return float(min(1.0, len(high) * chances[counts].min(initial=1.0)))


def _driven(examined: Examined, marked: Booleans) -> tuple[int, float]:
    """The finding that regions drive most, the lesser of both effects, and its mean rise."""
    rises, falls = examined.rises[marked], examined.falls[marked]
    both = np.where(np.sign(rises) == np.sign(falls), np.minimum(np.abs(rises), np.abs(falls)), 0)
    finding = int(both.mean(axis=0).argmax())
    return finding, float(rises[:, finding].mean())


def _least_by_patient(scores: Floats, chosen: Booleans, patients: NDArray[Any]) -> Floats:
    rows = np.flatnonzero(chosen)
    _, codes = np.unique(patients[rows], return_inverse=True)
    least = np.full(codes.max(initial=-1) + 1, np.inf)
    np.minimum.at(least, codes, scores[rows])
    return least


class _Windows(NamedTuple):
    """Equally large windows of films, and which of their pixels stand out from the background."""

    pixels: NDArray[np.int32]
    strong: Booleans


@dataclass(frozen=True, eq=False)
class _Films:
    """Films with a border of a pixel that doesn't stand out.

    Args:
        pixels: (n, h, w) uint8 or uint16.
        strong: (n, h, w) whether a pixel stands out from the background.
        boxes: (n, 4) regions, in pixels of the films with the border.
        tolerance: grey levels by which the same pixel differs at most.
    """

    pixels: NDArray[Any]
    strong: Booleans
    boxes: Integers
    tolerance: float

    @classmethod
    def of(cls, images: NDArray[Any], examined: Examined, side: int) -> _Films:
        """Return films, given as `shared_marks`."""
        scale = np.iinfo(images.dtype).max / 255
        strong = np.empty(images.shape, bool)
        for rows in blocks(len(images), BLOCK):
            detail = images[rows].astype(np.int32) - background(images[rows], side)
            strong[rows] = np.abs(detail) >= LEVEL * scale
        border = ((0, 0), (1, 1), (1, 1))
        return cls(
            np.pad(images, border),
            np.pad(strong, border),
            examined.boxes + np.array([1, 1, 0, 0]),
            TOLERANCE * scale,
        )

    def same_as(self, seed: int) -> Integers:
        """Return (n,) pixels of a film's region that are on each film too and are connected."""
        row, column, height, width = self.boxes[seed]
        every, shape = np.arange(len(self.pixels)), (int(height), int(width))
        mark = self._windows(every[[seed]], self.boxes[[seed], :2], shape)
        there = np.tile([row, column], (len(every), 1))
        sizes = np.zeros(len(every), np.int64)
        for places in (there, self.boxes[:, :2]):
            for step in STEPS:
                films = self._windows(every, places + step, shape)
                same = np.abs(films.pixels - mark.pixels) <= self.tolerance
                sizes = np.maximum(sizes, _largest_parts(same & films.strong & mark.strong))
        return sizes

    def _windows(self, films: Integers, places: Integers, shape: tuple[int, int]) -> _Windows:
        """Windows of films, one of each, with these rows and columns of their upper left pixels."""
        rows = places[:, 0, None, None] + np.arange(shape[0])[:, None]
        columns = places[:, 1, None, None] + np.arange(shape[1])
        where = films[:, None, None], rows, columns
        return _Windows(self.pixels[where].astype(np.int32), self.strong[where])


def _largest_parts(masks: Booleans) -> Integers:
    """(n,) pixels of the largest connected part of each of n masks."""
    from scipy.ndimage import generate_binary_structure, label

    within = np.zeros((3, 3, 3), bool)  # parts of one mask have no neighbours in another
    within[1] = generate_binary_structure(2, 1)
    numbers, parts = label(masks, within)
    sizes = np.bincount(numbers.ravel(), minlength=parts + 1)
    sizes[0] = 0
    largest: Integers = sizes[numbers].max(axis=(1, 2), initial=0)
    return largest
