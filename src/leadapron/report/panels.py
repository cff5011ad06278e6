"""The pixels that show a scan's evidence: means of films, and cut-outs around a mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.scanned import Scanned
from leadapron.films.cohort import Cohort, Rows, blocks
from leadapron.report.scan import Panel
from leadapron.seeds import stream

__all__ = ["panels_of"]

PANELS = 6
"""Pieces of evidence that are drawn, and films and others for each."""

DRAWN = (12, 6)


@dataclass
class _Sums:
    """Sums of films as they go by."""

    films: int = 0
    pixels: NDArray[np.float64] | float = field(default=0.0)

    def add(self, images: NDArray[np.uint8]) -> None:
        self.films += len(images)
        self.pixels = self.pixels + images.sum(axis=0, dtype=np.float64)

    def mean(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        mean: NDArray[np.float64] = np.broadcast_to(self.pixels, shape) / max(self.films, 1)
        return np.rint(mean).astype(np.uint8)


def panels_of(found: Scanned, seed: int) -> list[Panel]:
    """Return pixels for each piece of evidence of poison; all films are read once.

    Args:
        found: the scan.
        seed: of the films that are drawn beside the suspected ones.
    """
    cohort = found.cohort
    poison = [one for one in found.scan.evidence if one.kind == "poison"][:PANELS]
    if not poison:
        return []
    named = np.zeros((len(poison), len(cohort)), dtype=np.bool_)
    for number, one in enumerate(poison):
        named[number, one.films] = True
    sums = [(_Sums(), _Sums()) for _ in poison]
    for rows in blocks(len(cohort)):
        images = _grey(cohort, rows)
        for (theirs, rest), here in zip(sums, named[:, rows], strict=True):
            theirs.add(images[here])
            rest.add(images[~here])
    panels = []
    for number, one in enumerate(poison):
        order = np.lexsort((one.films, -found.scan.scores[one.films]))
        films: Rows = one.films[order][: DRAWN[0]]
        free = np.flatnonzero(~named.any(axis=0))
        others = np.sort(stream(seed, "others", number).permutation(free)[: DRAWN[1]])
        top, left, height, width = _window(one.place, cohort.images.shape[1:])
        cut = np.s_[..., top : top + height, left : left + width]
        mean, other_mean = (each.mean(cohort.images.shape[1:]) for each in sums[number])
        panels.append(
            Panel(
                place=one.place,
                window=(top, left, height, width),
                named=mean,
                others=other_mean,
                films=_grey(cohort, films)[cut],
                ids=tuple(cohort.ids[films].tolist()),
                other_films=_grey(cohort, others)[cut],
            )
        )
    return panels


def _grey(cohort: Cohort, rows: Rows) -> NDArray[np.uint8]:
    images: NDArray[Any] = cohort.images[rows]
    return (images >> 8).astype(np.uint8) if images.dtype == np.uint16 else images


def _window(place: tuple[int, int, int] | None, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is cut out around a mark; all of it without one."""
    height, width = shape
    if place is None:
        return 0, 0, height, width
    row, column, side = place
    wide = min(max(16, 4 * side), height, width)
    top = int(np.clip(row + side // 2 - wide // 2, 0, height - wide))
    left = int(np.clip(column + side // 2 - wide // 2, 0, width - wide))
    return top, left, wide, wide
