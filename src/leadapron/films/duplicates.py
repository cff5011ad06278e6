"""Duplicate films: identical images, and slightly changed copies.

All chest films look alike: on 5,142 films of NIH ChestX-ray14 the thumbnails of two patients
correlate by up to 0.98, as much as a film with its own copy moved by two pixels. The position of
edges distinguishes copies from other films, so thumbnails are compared by the differences between
neighbouring pixels. Large differences are clipped, so that a mark stamped on a copy doesn't hide
it. docs/how-to/describe.md has the measurements behind every threshold.

Not every pair is compared. A hash of second differences is cut into bands. Pairs that agree in a
whole band are compared bit by bit, and close pairs are confirmed on the thumbnails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = [
    "CORRELATION",
    "Pairs",
    "components",
    "digests",
    "identical",
    "near_pairs",
    "thumbnails",
]

Rows = NDArray[np.int64]

SIDE = 32
"""Side of a thumbnail in pixels."""

CORRELATION = 0.93
"""Correlation of two thumbnails' pixel differences above which they show the same exposure."""

STEEPEST = 4.0
"""Pixel differences are clipped at this multiple of their median magnitude."""

FAINTEST = 0.1
"""Lower bound of the median pixel difference, in grey levels of 255."""

BAND = 20
"""Bits of the hash in a band. There are 22 bands, so two hashes that differ in 21 bits or fewer
agree in at least one band; most hashes that differ in a few more do too."""

DISTANCE = 72
"""Largest Hamming distance, of 448 bits, of two films whose thumbnails are compared."""

NEIGHBOURS = 1024
"""Most films that a film is compared with in a band, so that time is linear in the films."""

PAIRS = 2048
"""Pairs of thumbnails compared in one batch."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of films that are slightly changed copies of each other.

    Args:
        first: (m,) rows.
        second: (m,) rows, each above its partner in `first`.
        correlation: (m,) float32 of their thumbnails' differences.
    """

    first: Rows
    second: Rows
    correlation: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.first)


def digests(images: NDArray[Any]) -> NDArray[np.bytes_]:
    """Return (n,) digests of (n, h, w) images; equal only for equal pixels."""
    found = [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images]
    return np.array(found, dtype="S32")


def thumbnails(images: NDArray[Any]) -> NDArray[np.float32]:
    """Return (n, 32, 32) float32 thumbnails in grey levels of 0 to 255: means over areas.

    Args:
        images: (n, h, w) uint8 or uint16.
    """
    down, across = (_means(side) for side in images.shape[1:])
    down *= np.float32(255 / np.iinfo(images.dtype).max)
    # Columns first: one product of all images' rows.
    narrow = images.astype(np.float32) @ across.T  # (n, h, 32)
    small: NDArray[np.float32] = np.matmul(down, narrow)  # (n, 32, 32)
    return small


def _means(side: int) -> NDArray[np.float32]:
    """(32, side): the share of each source pixel in each thumbnail's."""
    edges = np.linspace(0, side, SIDE + 1)
    start, end = edges[:-1, None], edges[1:, None]
    pixels = np.arange(side)
    cover = np.clip(np.minimum(end, pixels + 1) - np.maximum(start, pixels), 0, None)
    shares: NDArray[np.float32] = (cover / cover.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def identical(found: NDArray[np.bytes_]) -> tuple[Rows, Rows]:
    """Return pairs of rows with equal digests: an image's first row, paired with each later one."""
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    before = first[inverse].astype(np.int64)
    later = np.flatnonzero(before != np.arange(len(found)))
    return before[later], later


def near_pairs(thumbs: NDArray[np.float32], rows: Rows | None = None) -> Pairs:
    """Find films that are recompressed, brightened, stamped or slightly moved copies of others.

    Copies that were mirrored, rotated, or moved by about 1 % of the side or more are not found.

    Args:
        thumbs: (n, 32, 32) what `thumbnails` returns.
        rows: rows to compare, one of each set of identical images; all if left out. Films without
            any contrast are skipped.

    Returns:
        Every pair found, in ascending order.
    """
    rows = np.arange(len(thumbs)) if rows is None else rows
    rows = rows[np.ptp(thumbs[rows], axis=(1, 2)) > 0]
    first, second = _candidates(_hashes(thumbs[rows]))
    pairs = rows[first], rows[second]
    values = np.concatenate(
        [
            np.zeros(0, np.float32),
            *(
                _correlations(thumbs[pairs[0][i : i + PAIRS]], thumbs[pairs[1][i : i + PAIRS]])
                for i in range(0, len(first), PAIRS)
            ),
        ]
    )
    alike = values >= CORRELATION
    low, high = np.minimum(*pairs)[alike], np.maximum(*pairs)[alike]
    order = np.lexsort((high, low))
    return Pairs(low[order], high[order], values[alike][order])


def components(n: int, first: Rows, second: Rows) -> list[Rows]:
    """Return the groups of rows that are connected by pairs, each ascending, sorted by first row.

    Args:
        n: total number of rows; a row without a partner forms no group.
        first: (m,) rows.
        second: (m,) their partners.
    """
    links = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(n, n))
    labels = connected_components(links, directed=False)[1]
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted((g for g in groups if len(g) > 1), key=lambda g: int(g[0]))


def _hashes(thumbs: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n, 448) bits: whether grey levels curve upwards, along rows and along columns.

    The bits are second differences, since most first differences are the same in every chest.
    """
    n, half = len(thumbs), SIDE // 2
    small = thumbs.reshape(n, half, 2, half, 2).mean(axis=(2, 4))
    size = half * (half - 2)
    bits = [(np.diff(small, n=2, axis=axis) > 0).reshape(n, size) for axis in (2, 1)]
    return np.concatenate(bits, axis=1)


def _candidates(bits: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """Pairs of rows, each once, that agree in a band and differ in few bits."""
    n, width = bits.shape
    # Neighbouring bits are correlated, so each band takes its bits from all over the film.
    bits = bits[:, np.random.default_rng(0).permutation(width)]
    words = np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)  # (n, 7)
    powers = 1 << np.arange(BAND)
    codes = [np.zeros(0, np.int64)]
    for start in range(0, width - BAND + 1, BAND):
        key = bits[:, start : start + BAND] @ powers
        for first, second in _meeting(key, words[:, 0]):
            apart = np.bitwise_count(words[first] ^ words[second]).sum(axis=1, dtype=np.int64)
            first, second = first[apart <= DISTANCE], second[apart <= DISTANCE]
            codes.append(np.minimum(first, second) * n + np.maximum(first, second))
    found = np.unique(np.concatenate(codes))
    return found // max(n, 1), found % max(n, 1)


def _meeting(key: Rows, order_by: NDArray[np.uint64]) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of rows with the same key: neighbours in a sorted row, then those two apart, ..."""
    order = np.lexsort((order_by, key))
    key = key[order]
    places = np.arange(len(key))
    for step in range(1, NEIGHBOURS + 1):
        places = places[places + step < len(key)]
        places = places[key[places] == key[places + step]]
        if not len(places):
            return
        yield order[places], order[places + step]


def _correlations(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(m,) correlations of the differences between neighbouring pixels of thumbnails."""
    product: NDArray[np.float32] = np.einsum("ij,ij->i", _units(a), _units(b))
    return product


def _units(thumbs: NDArray[np.float32]) -> NDArray[np.float32]:
    """(m, 1984) differences between neighbouring pixels, clipped, with mean 0 and norm 1."""
    steps = [np.diff(thumbs, axis=axis).reshape(len(thumbs), -1) for axis in (1, 2)]
    flat = np.concatenate(steps, axis=1)
    most = STEEPEST * np.maximum(np.median(np.abs(flat), axis=1, keepdims=True), FAINTEST)
    flat = np.clip(flat, -most, most)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    unit: NDArray[np.float32] = flat / np.maximum(length, np.finfo(np.float32).tiny)
    return unit
