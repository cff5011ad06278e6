"""Repeated marks, as a method of the scan: are their films' labels shifted?

Module `repeats` lists the marks; module `ties` accounts for natural associations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.blobs import grey, shrunk
from leadapron.detect.films.method import Films, Found, Mark
from leadapron.detect.films.observe import Observed
from leadapron.detect.films.repeats import WIDTHS, Repeat
from leadapron.detect.films.shift import Group
from leadapron.films.cohort import Rows, blocks

__all__ = ["SIZES", "Repeated", "carriers", "mark_kind", "size_of"]

WORTHWHILE = 0.5
"""Largest corrected p-value against chance at which a mark is judged further."""

JUDGED = 4
"""Most groups that a mark is judged for, those with the strongest association."""

SIZES = (1, 2, 5)
"""Largest side in pixels of each size class of marks; a last class has larger ones. Each class is
ranked separately."""

CLEAR = 5
"""Smallest difference in grey levels between a mark and its surroundings on a film that carries
it."""


@dataclass(frozen=True)
class Repeated:
    """Repeated marks, each judged with the others as negative controls.

    Args:
        listing: a function of the observations and each film's patient. It returns the marks, the
            strongest repetition first.
    """

    listing: Callable[[Observed, Rows], Sequence[Repeat]]

    def marks(self, seen: Observed, patients: Rows) -> Sequence[Repeat]:
        """Return the repeated marks."""
        return self.listing(seen, patients)

    def find(self, films: Films) -> Iterator[Found]:
        """Judge each mark for the groups with which its association is strongest."""
        labelled = films.labelled
        for mark, weight in _weighted(films.marks):
            likely = sorted(
                labelled.shifts(mark.repeat.films, 1.0), key=lambda shift: (shift.p, -shift.share)
            )
            factor = len(likely) * weight
            rate = films.rate / max(factor, 1)
            ties = [
                films.controls.judge(mark.control, shift.group, rate)
                for shift in likely[:JUDGED]
                if shift.p * factor <= WORTHWHILE
            ]
            # Several groups may be evidence, since a film with one finding alone has that finding
            # too. The one with the smallest p-value against chance is named.
            strong = [each for each in ties if each.p <= rate]
            tie = min(
                strong or ties,
                key=lambda each: (0.0 if strong else each.p, each.facts.chance),
                default=None,
            )
            yield Found(
                p=1.0 if tie is None else min(1.0, tie.p * factor),
                chance=1.0 if tie is None else min(1.0, tie.facts.chance * factor),
                group=None if tie is None else labelled.groups[tie.group],
                share=0.0 if tie is None else tie.facts.share,
                expected=0.0 if tie is None else tie.facts.expected,
                films=mark.repeat.films,
                what=_words(mark.repeat),
                place=mark.control.place,
                mark=mark,
                tie=None if tie is None else tie.facts,
                tested=frozenset(shift.group for shift in likely),
            )


def size_of(side: int) -> int:
    """Return the number of a side's size class, see `SIZES`."""
    return int(np.searchsorted(SIZES, side))


def mark_kind(method: str, side: int, levels: tuple[int, int]) -> str:
    """Return a mark's kind: its method, size class and range of grey levels.

    Marks of one kind are the preferred negative controls for each other.

    Args:
        method: the method that listed the mark.
        side: of the mark in pixels.
        levels: its lowest and highest grey level.
    """
    loose = "loose" if levels[1] - levels[0] > WIDTHS[2] else "even"
    return f"{method}, {size_of(side)}, {loose}"


def _weighted(marks: Sequence[Mark]) -> Iterator[tuple[Mark, float]]:
    """Marks, each with the factor that corrects its p-value.

    The false-alarm rate is divided equally among the size classes, and within a class by rank: the
    i-th mark gets a share in proportion to 1/i. The ranking doesn't use labels, so strong
    repetition may have a smaller factor (weighted Bonferroni: Holm, 1979; Genovese, Roeder and
    Wasserman, Biometrika 93 (2006) 509).
    """
    by_size = defaultdict[int, list[Mark]](list)
    for mark in marks:
        by_size[size_of(mark.repeat.side)].append(mark)
    for some in by_size.values():
        harmonic = float((1 / np.arange(1, len(some) + 1)).sum())
        for rank, mark in enumerate(some, 1):
            yield mark, rank * harmonic * len(by_size)


def _words(repeat: Repeat) -> str:
    shade = "rough" if repeat.bright is None else "bright" if repeat.bright else "dark"
    low, high = repeat.levels
    levels = f"grey level {low}" if low == high else f"grey levels {low} to {high}"
    where = "anywhere" if repeat.row is None else f"at row {repeat.row}, column {repeat.column}"
    return (
        f"a {shade} mark of {repeat.side}x{repeat.side} pixels {where}, {levels}, on "
        f"{len(repeat.films)} films"
    )


def carriers(films: Films, repeat: Repeat, group: Group) -> Rows:
    """Return a group's films with a mark, including those on which it is fainter.

    If the mark's range of grey levels is narrow, the films are searched again at its place.

    Args:
        films: all films.
        repeat: the mark.
        group: the group whose films are returned.
    """
    members = films.labelled.members[:, films.labelled.groups.index(group)]
    found = repeat.films[members[repeat.films]]
    row, column, side = repeat.row, repeat.column, repeat.side
    low, high = repeat.levels
    if row is None or column is None or repeat.bright is None or high - low > max(WIDTHS[1:]):
        return found
    scale = next(factor for factor in (1, 2, 4) if side // factor <= 5)
    more = []
    for part in blocks(len(members)):
        rows = part[members[part]]
        if not len(rows):
            continue
        square, ring = _square_and_ring(
            shrunk(grey(films.cohort.images[rows]), scale),
            row // scale,
            column // scale,
            side // scale,
        )
        spread = WIDTHS[2] // 2
        fits = (square.min(axis=1) >= low - spread) & (square.max(axis=1) <= high + spread)
        away = np.abs(square.mean(axis=1) - ring.mean(axis=1))
        more.append(rows[fits & (away > CLEAR)])
    return np.union1d(found, np.concatenate(more) if more else found)


def _square_and_ring(
    images: NDArray[np.uint8], row: int, column: int, side: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, side * side) pixels of the square, and (n, m) pixels of the ring around it."""
    ring = np.zeros(images.shape[1:], dtype=np.bool_)
    ring[max(row - 1, 0) : row + side + 1, max(column - 1, 0) : column + side + 1] = True
    ring[row : row + side, column : column + side] = False
    square = images[:, row : row + side, column : column + side].reshape(len(images), -1)
    return square.astype(np.float64), images[:, ring].astype(np.float64)
