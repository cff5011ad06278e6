"""A scan's observations of each film: marks, textures, outliers and traces, without labels.

The films are read once, in blocks and in as many threads as there are cores.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.blobs import find_blobs, grey, running
from leadapron.films.cohort import ImageArray, Rows, blocks
from leadapron.types import Progress

__all__ = [
    "CELLS",
    "TAILS",
    "TEXTURE",
    "TRACES",
    "Limits",
    "Observed",
    "cell_edges",
    "fine_structure",
    "from_afar",
    "grey_levels",
    "limits",
    "observe",
    "raised",
]


BLOCK = 128
"""Films in memory at a time, in each thread."""

TEXTURE = np.dtype(
    [("film", np.int32), ("row", np.int16), ("column", np.int16), ("pixels", np.uint8, (9,))]
)
"""A rough spot: its film, the upper left pixel of its 3x3 pixels, and their grey levels."""

ROUGH = 100
"""Smallest sum of the absolute second differences of the grey level, across and down, at a rough
spot. Letters and noise reach it, but hardly any anatomy does."""

TAILS = (0.005, 0.02)
"""Shares of the films, at either end of the distribution, that are a pixel's outliers."""

SAMPLE = 1000
"""Largest number of films that a pixel's limits are estimated from."""

CELLS = 16
"""Cells on each side of a film at low resolution."""

TRACES = ("fine structure", "grey levels")
"""The descriptions of a whole film, see `fine_structure` and `grey_levels`."""


class Limits(NamedTuple):
    """Limits beyond which a pixel is an outlier: (tails, height, width) int16, see `raised`."""

    low: NDArray[np.int16]
    high: NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Observed:
    """Observations of n films.

    Args:
        shape: (n, height, width).
        blobs: (b,) of `BLOB`, by block of films.
        textures: (t,) of `TEXTURE`, by block of films.
        outliers: (o,) int32, pixel and tail of each outlier:
            ((tail * 2 + high) * height + row) * width + column; film by film.
        starts: (n + 1,) index of each film's first outlier.
        traces: by name of `TRACES`, (n, d) float32.
        afar: (n, 256) float32, see `from_afar`.
    """

    shape: tuple[int, int, int]
    blobs: NDArray[np.void]
    textures: NDArray[np.void]
    outliers: NDArray[np.int32]
    starts: Rows
    traces: dict[str, NDArray[np.float32]]
    afar: NDArray[np.float32]

    def replaced(self, rows: Rows, other: Observed) -> Observed:
        """Return a copy with some films replaced.

        Args:
            rows: (m,) rows, ascending, of the m films in `other`.
            other: observations of these films.
        """
        n = self.shape[0]
        keep = np.ones(n, dtype=np.bool_)
        keep[rows] = False

        def merged(mine: NDArray[np.void], theirs: NDArray[np.void]) -> NDArray[np.void]:
            theirs = theirs.copy()
            theirs["film"] = rows[theirs["film"]]
            return _by_film(np.concatenate([mine[keep[mine["film"]]], theirs]))

        lengths = np.diff(self.starts)
        lengths[rows] = np.diff(other.starts)
        films = np.repeat(np.arange(n), np.diff(self.starts))
        theirs = np.repeat(rows, np.diff(other.starts))
        owner = np.concatenate([films[keep[films]], theirs])
        every = np.concatenate([self.outliers[keep[films]], other.outliers])
        traces = {name: values.copy() for name, values in self.traces.items()}
        for name, values in other.traces.items():
            traces[name][rows] = values
        afar = self.afar.copy()
        afar[rows] = other.afar
        return Observed(
            shape=self.shape,
            blobs=merged(self.blobs, other.blobs),
            textures=merged(self.textures, other.textures),
            outliers=every[np.argsort(owner, kind="stable")],
            starts=np.concatenate([[0], np.cumsum(lengths)]),
            traces=traces,
            afar=afar,
        )

    def take(self, rows: Rows) -> Observed:
        """Return the observations of some films, in the order of `rows`, each at most once."""
        new = np.full(self.shape[0], -1, dtype=np.int64)
        new[rows] = np.arange(len(rows))

        def some(events: NDArray[np.void]) -> NDArray[np.void]:
            chosen: NDArray[np.void] = events[new[events["film"]] >= 0]
            chosen["film"] = new[chosen["film"]]
            return _by_film(chosen)

        parts = [self.outliers[self.starts[row] : self.starts[row + 1]] for row in rows]
        return Observed(
            shape=(len(rows), *self.shape[1:]),
            blobs=some(self.blobs),
            textures=some(self.textures),
            outliers=np.concatenate(parts) if parts else self.outliers[:0],
            starts=np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64),
            traces={name: values[rows] for name, values in self.traces.items()},
            afar=self.afar[rows],
        )


def _by_film(events: NDArray[np.void]) -> NDArray[np.void]:
    """Events of one kind, in the order of `observe`."""
    ordered: NDArray[np.void] = events[np.argsort(events["film"], kind="stable")]
    return ordered


def limits(images: ImageArray, rng: np.random.Generator) -> Limits:
    """Return the limits beyond which each pixel is an outlier, from at most 1,000 films.

    Args:
        images: (n, height, width) uint8 or uint16, n at least 1.
        rng: chooses the films.
    """
    n = images.shape[0]
    rows = np.sort(rng.permutation(n)[:SAMPLE])
    values = np.concatenate([raised(grey(images[part])) for part in _parts(rows)])
    ranks = [min(int(tail * len(rows)), len(rows) - 1) for tail in TAILS]
    ordered = np.partition(values, [*ranks, *(len(rows) - 1 - rank for rank in ranks)], axis=0)
    return Limits(
        low=np.stack([ordered[rank] for rank in ranks]),
        high=np.stack([ordered[len(rows) - 1 - rank] for rank in ranks]),
    )


def observe(images: ImageArray, bounds: Limits, *, progress: Progress | None = None) -> Observed:
    """Read all films once.

    Args:
        images: (n, height, width) uint8 or uint16; of uint16 the upper 8 bits count.
        bounds: from `limits`.
        progress: called with the current step, the films done and the number of films.
    """
    n = images.shape[0]
    parts = blocks(n, BLOCK)
    seen: list[_Block] = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for done, block in enumerate(
            threads.map(lambda rows: _block(grey(images[rows]), int(rows[0]), bounds), parts), 1
        ):
            seen.append(block)
            if progress is not None:
                progress("reading films", min(done * BLOCK, n), n)
    lengths = np.concatenate([block.lengths for block in seen]) if seen else np.empty(0, int)
    return Observed(
        shape=(n, images.shape[1], images.shape[2]),
        blobs=np.concatenate([block.blobs for block in seen]),
        textures=np.concatenate([block.textures for block in seen]),
        outliers=np.concatenate([block.outliers for block in seen]),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        traces={name: np.concatenate([block.traces[name] for block in seen]) for name in TRACES},
        afar=np.concatenate([block.afar for block in seen]),
    )


class _Block(NamedTuple):
    blobs: NDArray[np.void]
    textures: NDArray[np.void]
    outliers: NDArray[np.int32]
    lengths: Rows
    traces: dict[str, NDArray[np.float32]]
    afar: NDArray[np.float32]


def _parts(rows: Rows) -> Sequence[Rows]:
    return [rows[part] for part in blocks(len(rows), BLOCK)]


def _block(images: NDArray[np.uint8], first: int, bounds: Limits) -> _Block:
    outliers, lengths = _outliers(images, bounds)
    return _Block(
        blobs=find_blobs(images, first),
        textures=_textures(images, first),
        outliers=outliers,
        lengths=lengths,
        traces={
            "fine structure": fine_structure(images.astype(np.float32)),
            "grey levels": grey_levels(images),
        },
        afar=from_afar(images),
    )


def _textures(images: NDArray[np.uint8], first: int) -> NDArray[np.void]:
    """Rough spots of (n, height, width) films."""
    _, height, width = images.shape
    flat = images.reshape(-1).astype(np.int16)
    middle = flat[width : -width or None]
    bend = np.abs(2 * middle - flat[width - 1 : -width - 1] - flat[width + 1 : 1 - width or None])
    bend += np.abs(2 * middle - flat[: -2 * width] - flat[2 * width :])
    films, place = np.divmod(np.flatnonzero(bend >= ROUGH) + width, height * width)
    rows, columns = np.divmod(place, width)
    inside = (rows > 0) & (rows < height - 1) & (columns > 0) & (columns < width - 1)
    films, rows, columns = films[inside], rows[inside] - 1, columns[inside] - 1
    found = np.zeros(len(films), dtype=TEXTURE)
    found["film"], found["row"], found["column"] = films + first, rows, columns
    offset = np.arange(3)
    found["pixels"] = images[
        films[:, None, None],
        rows[:, None, None] + offset[:, None],
        columns[:, None, None] + offset,
    ].reshape(-1, 9)
    return found


def raised(images: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return 16 times the difference between each pixel and the mean of the 5x5 ring around it.

    Args:
        images: (n, height, width) uint8; edge pixels are repeated beyond the border.
    """
    wide = np.pad(images, ((0, 0), (2, 2), (2, 2)), mode="edge").astype(np.int16)
    width, flat = wide.shape[2], wide.reshape(-1)
    # Sums of 5x5 and 3x3 pixels; `middle` is the offset from the 5x5 square's upper left pixel to
    # its middle.
    middle = 2 * width + 2
    large = running(np.add, running(np.add, flat, 5, 1), 5, width)
    small = running(np.add, running(np.add, flat, 3, 1), 3, width)[width + 1 :][: large.size]
    found = np.zeros_like(flat)
    found[: large.size] = 16 * flat[middle:][: large.size] - (large - small)
    height = images.shape[1]
    return found.reshape(wide.shape)[:, :height, :-4]


def _outliers(images: NDArray[np.uint8], bounds: Limits) -> tuple[NDArray[np.int32], Rows]:
    """Pixels beyond their limits, film by film, and their number on each film."""
    values = raised(images)
    pixels = values[0].size
    films, places = [], []
    for tail in range(len(TAILS)):
        for high, beyond in enumerate((values < bounds.low[tail], values > bounds.high[tail])):
            film, place = np.divmod(np.flatnonzero(beyond), pixels)
            films.append(film)
            places.append(place + (tail * 2 + high) * pixels)
    film = np.concatenate(films)
    order = np.argsort(film, kind="stable")
    return (
        np.concatenate(places)[order].astype(np.int32),
        np.bincount(film, minlength=len(images)),
    )


def fine_structure(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (n, 144) features of (n, height, width) films: traces of codecs, resampling and noise.

    All 8x8 squares are cosine-transformed, as in JPEG. The features are the logarithm of each
    coefficient's mean size, the share of squares where it is less than one grey level, and the
    logarithm of the mean step between neighbours at each of the eight places in a square, across
    and down.
    """
    from scipy import fft

    n, height, width = images.shape
    rows, columns = height // 8, width // 8
    squares = images[:, : rows * 8, : columns * 8].reshape(n, rows, 8, columns, 8)
    sizes = np.abs(fft.dctn(squares, axes=(2, 4), norm="ortho"))
    across = np.abs(np.diff(images, axis=2)).mean(axis=1)[:, : columns * 8 - 8]
    down = np.abs(np.diff(images, axis=1)).mean(axis=2)[:, : rows * 8 - 8]
    return np.concatenate(
        [
            np.log(0.1 + sizes.mean(axis=(1, 3))).reshape(n, -1),
            (sizes < 1).mean(axis=(1, 3), dtype=np.float32).reshape(n, -1),
            np.log(0.1 + across.reshape(n, -1, 8).mean(axis=1)),
            np.log(0.1 + down.reshape(n, -1, 8).mean(axis=1)),
        ],
        axis=1,
    )


def grey_levels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (n, 256) log frequencies of the grey levels, minus the mean of the levels near each.

    A changed window or gamma leaves gaps and doubled levels.
    """
    from scipy import ndimage

    n = len(images)
    cell = images.reshape(n, -1) + 256 * np.arange(n, dtype=np.int64)[:, None]
    counts = np.bincount(cell.ravel(), minlength=256 * n).reshape(n, 256)
    logs = np.log1p(counts).astype(np.float32)
    found: NDArray[np.float32] = logs - ndimage.uniform_filter(logs, (0, 9))
    return found


def cell_edges(length: int) -> Rows:
    """Return the (17,) edges of the cells of a film at low resolution, in pixels."""
    return np.linspace(0, length, CELLS + 1).astype(np.int64)


def from_afar(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (n, 256) means of 16x16 cells; each film has median 0 and interquartile range 1.

    Args:
        images: (n, height, width), at least 16 pixels on each side.
    """
    n, *sides = images.shape
    rows, columns = (cell_edges(length) for length in sides)
    area = np.outer(np.diff(rows), np.diff(columns)).ravel()
    across = np.add.reduceat(images, columns[:-1], axis=2, dtype=np.uint32)
    found = np.add.reduceat(across, rows[:-1], axis=1).reshape(n, -1) / area
    # Quartiles are robust: a mark in one cell hardly changes the others.
    low, middle, high = np.percentile(found, (25, 50, 75), axis=1)
    found = (found - middle[:, None]) / np.maximum(high - low, 1e-3)[:, None]
    small: NDArray[np.float32] = found.astype(np.float32)
    return small
