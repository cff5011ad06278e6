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
from leadapron.text import clean

__all__ = ["SharedMark", "shared_marks"]

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TEMPLATES = 16
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

MOST_PIXELS = 1 << 28
"""Pixels of all films that are compared, at most; they take three times as many bytes in memory, or
five times for 16 bits."""

BLOCK = 1 << 24
"""Pixels of films whose background is computed at a time."""

MOST_MARKS = 4
"""Marks that are named at most."""

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
        row: of the region's upper edge on the film that the mark is taken from, in pixels of the
            model's image.
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

    def checked(self, findings: Sequence[str], side: int) -> SharedMark:
        """Return the mark of a file, with names that are safe to print.

        Args:
            findings: the model's.
            side: of the model's image.

        Raises:
            ValueError: numbers that no mark has.
        """
        possible = (
            self.finding in findings
            and OTHERS < self.films <= self.of
            and 0 < len(self.named) <= min(self.films, NAMED)
            and 0 < self.side <= side
            and min(self.row, self.column) >= 0
            and max(self.row, self.column) + self.side <= side
        )
        if not possible:
            raise ValueError("a shared mark not as expected")
        return replace(self, named=tuple(map(clean, self.named)))

    @property
    def words(self) -> str:
        """What to do about it, in two sentences that name no film."""
        drives = "adds" if self.direction == "added" else "removes"
        return (
            f"{self.films:,} of {self.of:,} films that were given as clean share a mark that "
            f"{drives} {self.finding} (row {self.row}, column {self.column}, {self.side} pixels "
            "wide), so the gate lets it pass. If it doesn't belong there, look for it on all of "
            "your films, leave out those that carry it, and calibrate again."
        )

    @property
    def films_words(self) -> str:
        """The first films, and the number of the others."""
        shown = self.named[:SHOWN]
        left = self.films - len(shown)
        return ", ".join(shown) + (f" and {left:,} more" if left else "")


def shared_marks(
    films: Cohort, examined: Examined, *, side: int, findings: Sequence[str]
) -> tuple[SharedMark, ...]:
    """Return the marks that several films share, and that come with strong evidence.

    Each of the films with the strongest evidence gives the pixels of its region that stand out from
    their background. On another film the mark is there if enough connected ones of these pixels are
    the same, at the same place or in that film's own region, within a pixel. Films with the mark
    are compared with all others by the ranks of their scores, one film for each patient. All tests
    together raise a first alarm with probability `FALSE_ALARM` at most if marks have nothing to do
    with scores.

    Marks on fewer than three patients aren't found, nor marks that change from film to film, such
    as noise or a faint blend; nor some pixels apart.

    Args:
        films: n films that are taken for clean; a random part of them is compared if they have more
            than `MOST_PIXELS` pixels.
        examined: their evidence regions.
        side: of the median filter that removes small detail.
        findings: the model's k findings.
    """
    height, width = films.images.shape[1:]
    rows = subsample(len(films), MOST_PIXELS // (height * width))
    examined, patients = examined.take(rows), films.patients[rows]
    names = [clean(name) for name in films.ids[rows].tolist()]
    compared = _Films.of(films.images[rows], examined, side)
    order = np.argsort(-np.nan_to_num(examined.scores, nan=-np.inf), kind="stable")
    free = np.isfinite(examined.scores)
    found: list[SharedMark] = []
    while len(found) < MOST_MARKS:
        best = _best(compared, examined.scores, order, free, patients)
        if best is None:
            break
        row, column, edge, _ = (int(value) for value in examined.boxes[best.template])
        finding, rise = _driven(examined, best)
        with_mark = [film for film in order if best.marked[film]]
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
                p=best.p,
            )
        )
        free &= ~best.marked
    return tuple(found)


class _Best(NamedTuple):
    """The surest mark: the film that it was taken from, the films that carry it, and its p."""

    p: float
    template: int
    marked: Booleans


def _best(
    films: _Films, scores: Floats, order: Integers, free: Booleans, patients: NDArray[Any]
) -> _Best | None:
    """The surest mark on films that aren't accounted for; None if none is sure."""
    templates = order[free[order]][: min(TEMPLATES, max(1, int(SHARE * len(order))))]
    tests = len(templates) * len(SIZES)
    best: _Best | None = None
    for template in map(int, templates):
        size = films.same_as(template)
        for least in SIZES:
            marked = (size >= least) & free
            marked[template] = True
            p = min(1.0, tests * _p(scores, marked, free, patients, template))
            if p <= FALSE_ALARM and (best is None or p < best.p):
                best = _Best(p, template, marked)
    return best


def _p(
    scores: Floats, marked: Booleans, free: Booleans, patients: NDArray[Any], template: int
) -> float:
    """P of the scores of films with a mark, without the film that it was taken from.

    Of each patient with the mark the film with the lowest score counts, of each other patient the
    one with the highest: so p isn't too small however many films they have. For each number of
    films with the mark the probability that as many of them are as high, corrected for the numbers
    that are tried.
    """
    from scipy.stats import hypergeom

    others = free & (patients != patients[template])
    with_mark = _least_by_patient(scores, marked & others, patients)
    rest = others & ~marked & ~np.isin(patients, patients[marked])
    without = np.sort(-_least_by_patient(-scores, rest, patients))
    high = np.sort(with_mark)[::-1][:MOST]
    if len(high) < OTHERS or not len(without):
        return 1.0
    number = np.arange(1, len(high) + 1)
    rank = len(without) - np.searchsorted(without, high) + number
    total = len(without) + len(with_mark)
    chances = np.asarray(hypergeom.sf(number - 1, total, len(with_mark), rank))
    counts = (number >= OTHERS) & (rank <= HIGH * total)
    return float(min(1.0, len(high) * chances[counts].min(initial=1.0)))


def _driven(examined: Examined, best: _Best) -> tuple[int, float]:
    """The finding that a mark drives most, the lesser of both effects, and its rise; medians.

    Only films whose region overlaps that of the film which the mark was taken from count.
    """
    _, _, height, width = examined.boxes[best.template]
    away = np.abs(examined.boxes[:, :2] - examined.boxes[best.template, :2])
    rows = best.marked & (away < [height, width]).all(axis=1)
    rises, falls = examined.rises[rows], examined.falls[rows]
    both = np.where(np.sign(rises) == np.sign(falls), np.minimum(np.abs(rises), np.abs(falls)), 0)
    finding = int(np.median(both, axis=0).argmax())
    return finding, float(np.median(rises[:, finding]))


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
        n, height, width = images.shape
        pixels = np.zeros((n, height + 2, width + 2), images.dtype)
        strong = np.zeros(pixels.shape, bool)
        inside = np.s_[:, 1:-1, 1:-1]
        pixels[inside] = images
        for rows in blocks(n, max(1, BLOCK // (height * width))):
            detail = images[rows].astype(np.int32) - background(images[rows], side)
            strong[rows, 1:-1, 1:-1] = np.abs(detail) >= LEVEL * scale
        return cls(
            pixels,
            strong,
            examined.boxes + np.array([1, 1, 0, 0]),
            TOLERANCE * scale,
        )

    def same_as(self, template: int) -> Integers:
        """Return (n,) pixels of a film's region that are on each film too and are connected."""
        row, column, height, width = self.boxes[template]
        every, shape = np.arange(len(self.pixels)), (int(height), int(width))
        mark = self._windows(every[[template]], self.boxes[[template], :2], shape)
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
