"""Repetition: marks on more films than comparable marks, at one place or at any place.

The search doesn't use labels. The labels of the marks that it lists are tested afterwards; if
nothing is planted, repetition and labels are independent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.observe import Observed
from leadapron.films.cohort import Rows

__all__ = ["Repeat", "anywhere", "at_places", "squares", "textures"]

FEWEST = 3
"""Fewest patients with a mark that counts as repeated."""

MOST = 500
"""Most marks that one search returns, those with the smallest p-values."""

WIDTHS = (256, 16, 4)
"""Widths of the ranges of grey levels that marks are grouped by: any level (only at one place),
+-8, +-2."""

UNLIKELY = 0.01
"""Largest p-value at which a kind of mark counts as repeated, corrected for the number of tests."""

NEIGHBOURS = 4
"""Distance up to which neighbouring places, except adjoining ones, give the expected number."""

FLAT = 2
"""Largest range of the grey levels of a solid mark."""


@dataclass(frozen=True, eq=False)
class Repeat:
    """A repeated mark.

    Args:
        films: (m,) rows with the mark, ascending.
        row: of its upper left pixel, in pixels of the image; None for any place.
        column: the same.
        side: in pixels of the image.
        bright: whether it is brighter than its surroundings, on most films; None for a texture.
        levels: lowest and highest grey level of the mark, 0 to 255.
        patients: number of patients whose films carry it.
        usual: number expected from its neighbours.
        p: Poisson p-value of `patients` where `usual` is expected, corrected for all places and
            kinds tested.
    """

    films: Rows
    row: int | None
    column: int | None
    side: int
    bright: bool | None
    levels: tuple[int, int]
    patients: int
    usual: float
    p: float


class _Kind(NamedTuple):
    scale: int
    side: int
    bright: bool | None


def at_places(seen: Observed, patients: Rows) -> list[Repeat]:
    """Return blobs on more films at one place than at any of the neighbouring places.

    Args:
        seen: observations of the films.
        patients: (n,) number of each film's patient.

    Returns:
        At most 500, in order of their p-values. Of marks on the same films only one is kept.
    """
    found, cells = list[_Found](), 0
    _, height, width = seen.shape
    for kind, some in _by_kind(seen.blobs, shades=True):
        rows, columns = height // kind.scale, width // kind.scale
        owners = patients[some["film"]].astype(np.int64)
        for levels in _binnings(kind):
            size = levels.ranges * rows * columns
            cell = (levels(some["level"]) * rows + some["row"]) * columns + some["column"]
            # Each patient counts once.
            single = np.unique(owners * size + cell) % size
            counts = np.bincount(single, minlength=size)
            cells += counts.size
            at = np.flatnonzero(counts >= FEWEST)
            usual, worst = _around(counts.reshape(-1, rows, columns), at)
            usual = np.maximum(usual, counts.mean())
            chances = _poisson(counts[at], usual)
            order = np.argsort(cell, kind="stable")
            ends = np.searchsorted(cell[order], at, side="right")
            starts = np.searchsorted(cell[order], at)
            beyond = np.flatnonzero(counts[at] > worst)
            for number in beyond[np.argsort(chances[beyond], kind="stable")[:MOST]]:
                here = some[order[starts[number] : ends[number]]]
                found.append(
                    _Found(
                        float(chances[number]),
                        float(usual[number]),
                        int(counts[at[number]]),
                        here,
                        kind,
                    )
                )
    return _kept(found, cells, placed=True)


def anywhere(seen: Observed, patients: Rows) -> list[Repeat]:
    """Return kinds of blobs, at any place, on more films than similar kinds.

    A kind is a side, bright or dark, solid or uneven, and a range of grey levels. Similar kinds
    have neighbouring ranges.

    Args:
        seen: observations of the films.
        patients: (n,) number of each film's patient.

    Returns:
        At most 500, in order of their p-values.
    """
    found, cells = list[_Found](), 0
    for kind, every in _by_kind(seen.blobs, shades=False):
        for solid in (True, False):
            if kind.side == 1 and not solid:
                continue
            some = every[(every["spread"] <= FLAT) == solid]
            for levels in _binnings(None):
                bins = levels(some["level"])
                pairs = np.unique(np.stack([bins, patients[some["film"]]], axis=1), axis=0)
                counts = np.bincount(pairs[:, 0], minlength=levels.ranges)
                cells += counts.size
                at = np.flatnonzero(counts >= FEWEST)
                near = np.abs(np.arange(counts.size) - at[:, None])
                beside = (near >= 2) & (near <= 2 + NEIGHBOURS)
                mean = (beside @ counts) / np.maximum(beside.sum(axis=1), 1)
                usual = np.maximum(mean, counts.mean() / 10)
                for number, rate, chance in zip(
                    at, usual, _poisson(counts[at], usual), strict=True
                ):
                    here = some[bins == number]
                    found.append(
                        _Found(float(chance), float(rate), int(counts[number]), here, kind)
                    )
    return _kept(found, cells, placed=False)


def textures(seen: Observed, patients: Rows, *, placed: bool) -> list[Repeat]:
    """Return rough spots of 3x3 pixels with identical grey levels on several films.

    Args:
        seen: observations of the films.
        patients: (n,) number of each film's patient.
        placed: whether they must lie at the same place.

    Returns:
        At most 500, those of most patients first. The expected number is unknown: `usual` and `p`
        are NaN.
    """
    spots = seen.textures
    key = spots["pixels"].astype(np.uint64) @ _ODD
    if placed:
        place = spots["row"].astype(np.uint64) * np.uint64(65536) + spots["column"].astype(
            np.uint64
        )
        key += (place + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    order = np.lexsort((patients[spots["film"]], key))
    key, owner = key[order], patients[spots["film"]][order]
    if not len(key):
        return []
    fresh = np.concatenate([[True], key[1:] != key[:-1]])
    another = fresh | np.concatenate([[True], owner[1:] != owner[:-1]])
    starts = np.flatnonzero(fresh)
    counts = np.add.reduceat(another, starts)
    ends = np.append(starts[1:], len(key))
    kept, known = list[Repeat](), set[bytes]()
    for group in np.argsort(-counts, kind="stable"):
        if counts[group] < FEWEST or len(kept) == MOST:
            break
        some = spots[order[starts[group] : ends[group]]]
        films = np.unique(some["film"]).astype(np.int64)
        if films.tobytes() in known:
            continue
        known.add(films.tobytes())
        first = some[0]
        kept.append(
            Repeat(
                films=films,
                row=int(first["row"]) if placed else None,
                column=int(first["column"]) if placed else None,
                side=3,
                bright=None,
                levels=(int(first["pixels"].min()), int(first["pixels"].max())),
                patients=int(counts[group]),
                usual=float("nan"),
                p=float("nan"),
            )
        )
    return kept


def squares(seen: Observed, repeat: Repeat) -> NDArray[np.int64]:
    """Return the places of a mark on the films that carry it.

    Args:
        seen: observations of the films.
        repeat: a mark with a place or without.

    Returns:
        (m, 4) film, row, column and side in pixels, film by film. Other marks of the same size,
        shade and levels on a film are included.
    """
    if repeat.row is not None and repeat.column is not None:
        fixed = np.array([repeat.row, repeat.column, repeat.side])
        return np.concatenate(
            [repeat.films[:, None], np.tile(fixed, (len(repeat.films), 1))], axis=1
        )
    low, high = repeat.levels
    if repeat.bright is None:
        some = seen.textures[np.isin(seen.textures["film"], repeat.films)]
        pixels = some["pixels"]
        some = some[(pixels.min(axis=1) == low) & (pixels.max(axis=1) == high)]
        scale, side = np.ones(len(some), np.int64), np.full(len(some), repeat.side)
    else:
        some = seen.blobs[np.isin(seen.blobs["film"], repeat.films)]
        level, size = some["level"], some["side"].astype(np.int64) * some["scale"]
        some = some[(size == repeat.side) & (level >= low) & (level <= high)]
        some = some[some["bright"] == repeat.bright]
        scale = some["scale"].astype(np.int64)
        side = np.full(len(some), repeat.side)
    found = np.stack([some["film"], some["row"] * scale, some["column"] * scale, side], axis=1)
    return found[np.argsort(found[:, 0], kind="stable")].astype(np.int64)


_ODD = np.array(
    [int(power) | 1 for power in np.random.default_rng(0).integers(2**40, 2**63, 9)],
    dtype=np.uint64,
)
"""Multipliers that hash nine grey levels into one number."""


class _Found(NamedTuple):
    chance: float
    usual: float
    patients: int
    blobs: NDArray[np.void]
    kind: _Kind


class _Levels(NamedTuple):
    """Grey levels in ranges of `width`, the first one `short` levels short."""

    width: int
    short: int

    def __call__(self, levels: NDArray[np.uint8]) -> NDArray[np.int64]:
        bins: NDArray[np.int64] = (levels.astype(np.int64) + self.short) // self.width
        return bins

    @property
    def ranges(self) -> int:
        return (255 + self.short) // self.width + 1


def _binnings(kind: _Kind | None) -> Iterator[_Levels]:
    """Ranges of levels: each narrow width gives two sets, the second shifted by half the width.

    So no level lies at the border of a range in both sets. A mark of one level may be brighter
    than one film and darker than another, so its shade is free; marks of any level must all be
    bright, or all dark.
    """
    for width in WIDTHS:
        if width == WIDTHS[0]:
            if kind is not None and kind.bright is not None:
                yield _Levels(width, 0)
        elif kind is None or kind.bright is None:
            yield _Levels(width, 0)
            yield _Levels(width, width // 2)


def _by_kind(blobs: NDArray[np.void], *, shades: bool) -> Iterator[tuple[_Kind, NDArray[np.void]]]:
    """Blobs by scale, side and shade; with `shades` by scale and side alone as well."""
    code = (blobs["scale"].astype(np.int64) * 256 + blobs["side"]) * 2 + blobs["bright"]
    for divisor in (1, 2) if shades else (1,):
        order = np.argsort(code // divisor, kind="stable")
        edges = np.flatnonzero(np.diff((code // divisor)[order])) + 1
        for part in np.split(order, edges) if len(order) else []:
            first = blobs[part[0]]
            bright = bool(first["bright"]) if divisor == 1 else None
            yield _Kind(int(first["scale"]), int(first["side"]), bright), blobs[part]


def _around(
    counts: NDArray[np.int64], cells: Rows
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean and maximum over the places around some cells, without those that adjoin them."""
    padded = np.pad(counts, ((0, 0), (NEIGHBOURS, NEIGHBOURS), (NEIGHBOURS, NEIGHBOURS)))
    ranges, rows, columns = np.unravel_index(cells, counts.shape)
    side = np.arange(2 * NEIGHBOURS + 1)
    away = np.maximum.outer(np.abs(side - NEIGHBOURS), np.abs(side - NEIGHBOURS)) > 1
    down, across = np.nonzero(away)
    ring = padded[ranges[:, None], rows[:, None] + down, columns[:, None] + across]
    return ring.mean(axis=1), ring.max(axis=1, initial=0)


def _poisson(counts: NDArray[np.int64], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy import stats

    return np.asarray(stats.poisson.sf(counts - 1, usual))


def _kept(found: list[_Found], cells: int, *, placed: bool) -> list[Repeat]:
    """The marks with the smallest p-values; of those on the same films only the first."""
    kept, seen = list[Repeat](), set[bytes]()
    if not placed:
        found = [each for each in found if each.chance * cells <= UNLIKELY]
    for each in sorted(found, key=lambda one: (one.chance, -one.patients)):
        films = np.unique(each.blobs["film"]).astype(np.int64)
        if films.tobytes() in seen:
            continue
        seen.add(films.tobytes())
        first = each.blobs[0]
        kept.append(
            Repeat(
                films=films,
                row=int(first["row"]) * each.kind.scale if placed else None,
                column=int(first["column"]) * each.kind.scale if placed else None,
                side=each.kind.side * each.kind.scale,
                bright=bool(each.blobs["bright"].mean() >= 0.5),
                levels=(int(each.blobs["level"].min()), int(each.blobs["level"].max())),
                patients=each.patients,
                usual=each.usual,
                p=min(1.0, each.chance * cells),
            )
        )
        if len(kept) == MOST:
            break
    return kept
