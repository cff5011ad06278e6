"""Marks that come again, as a method of the scan: are their films' labels shifted?

How marks are listed is another matter (`repeats`), and so is what nature may do (`ties`).
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
"""What isn't less likely than this where nature ties no mark to any label isn't judged further."""

JUDGED = 4
"""Groups that a mark is judged for, those that its films are tied to most."""

SIZES = (1, 2, 5)
"""Upper ends of the sizes of marks that are ranked by themselves: single pixels, 2x2, up to 5x5,
and larger."""

CLEAR = 5
"""Grey levels between a mark and its surroundings, so that a film is said to carry it."""


@dataclass(frozen=True)
class Repeated:
    """Marks that come again, each judged beside the others.

    Args:
        listing: (what was seen, each film's patient) to the marks, the least likely first.
    """

    listing: Callable[[Observed, Rows], Sequence[Repeat]]

    def marks(self, seen: Observed, patients: Rows) -> Sequence[Repeat]:
        """Return the marks that come again."""
        return self.listing(seen, patients)

    def find(self, films: Films) -> Iterator[Found]:
        """Judge each mark for the groups that its films' labels are tied to most."""
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
            # Of several that are evidence the one that chance explains least: a film with one
            # finding alone has that finding too.
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
    """Return the number of a side's size, see `SIZES`."""
    return int(np.searchsorted(SIZES, side))


def mark_kind(method: str, side: int, levels: tuple[int, int]) -> str:
    """Say which marks are each other's first controls: of one method, size and regularity.

    Args:
        method: that listed the mark.
        side: of the mark in pixels.
        levels: its lowest and highest grey level.
    """
    loose = "loose" if levels[1] - levels[0] > WIDTHS[2] else "even"
    return f"{method}, {size_of(side)}, {loose}"


def _weighted(marks: Sequence[Mark]) -> Iterator[tuple[Mark, float]]:
    """Each with the factor that corrects its p-value.

    The chance of a false alarm is divided equally among the sizes, and within a size by rank: the
    i-th of m gets a share of 1/i of what is left after the sum of 1/1 to 1/m. The ranking doesn't
    look at labels, so strong repetition may cost less (weighted Bonferroni: Holm, 1979; Genovese,
    Roeder and Wasserman, Biometrika 93 (2006) 509).
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
    """Return a group's films with a mark: those it was found on, and those where it is fainter.

    Where the mark's grey levels are known closely, films are looked at again at its place alone.

    Args:
        films: all films.
        repeat: the mark.
        group: whose films are named.
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
    """(n, side * side) pixels of the square, and (n, m) of the ring around it."""
    ring = np.zeros(images.shape[1:], dtype=np.bool_)
    ring[max(row - 1, 0) : row + side + 1, max(column - 1, 0) : column + side + 1] = True
    ring[row : row + side, column : column + side] = False
    square = images[:, row : row + side, column : column + side].reshape(len(images), -1)
    return square.astype(np.float64), images[:, ring].astype(np.float64)
