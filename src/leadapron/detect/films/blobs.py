"""Isolated blobs: small squares whose pixels are all brighter, or all darker, than their ring.

They are rare on radiographs (one film in a hundred has one of 3x3 pixels or more). A planted patch
is a blob at any place. Larger patches are blobs of a downscaled copy of the film.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOB", "GAP", "SCALES", "SIDES", "find_blobs", "grey", "running", "shrunk"]

BLOB = np.dtype(
    [
        ("film", np.int32),
        ("row", np.int16),
        ("column", np.int16),
        ("scale", np.uint8),
        ("side", np.uint8),
        ("bright", np.bool_),
        ("level", np.uint8),
        ("contrast", np.uint8),
        ("spread", np.uint8),
    ]
)
"""One blob: its film, and its upper left pixel and side in pixels of the film downscaled by
`scale`. `level` is its grey level nearest to the ring's (the lowest level of a bright blob),
`contrast` the distance from there to the nearest level of the ring, and `spread` the range of the
blob's levels. Levels are 8-bit."""

GAP = 10
"""Smallest difference in grey levels between a blob and every pixel of its ring."""

SIDES = (1, 2, 3, 4, 5)
SCALES = {1: SIDES, 2: (3, 4, 5), 4: (3, 4, 5)}
"""Sides of blobs in pixels, by the factor of downscaling: 1 to 20 pixels of the film."""

SMALLEST = 32
"""Smallest side in pixels of a downscaled film."""


def grey(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Return images with 8 bits a pixel; of uint16 the upper 8."""
    if images.dtype == np.uint8:
        return images
    upper: NDArray[np.uint8] = (images >> 8).astype(np.uint8)
    return upper


def shrunk(images: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Return films downscaled to (n, height // scale, width // scale): rounded means of squares."""
    if scale == 1:
        return images
    n, height, width = images.shape
    rows, columns = height // scale, width // scale
    squares = images[:, : rows * scale, : columns * scale]
    total = np.zeros((n, rows, columns), dtype=np.uint16)
    for down in range(scale):
        for across in range(scale):
            total += squares[:, down::scale, across::scale]
    means: NDArray[np.uint8] = ((total + scale * scale // 2) // (scale * scale)).astype(np.uint8)
    return means


def find_blobs(images: NDArray[np.uint8], first: int = 0) -> NDArray[np.void]:
    """Find the isolated blobs of some films.

    Args:
        images: (n, height, width) uint8.
        first: number of the first film.

    Returns:
        (m,) of `BLOB`, in no particular order. A film's edge counts as darker than a bright blob
        and brighter than a dark one: blobs at the edge need no ring there.
    """
    found = []
    for scale, sides in SCALES.items():
        if scale > 1 and min(images.shape[1:]) // scale < SMALLEST:
            continue
        small = shrunk(images, scale)
        for bright in (True, False):
            # A dark blob is a bright blob of the negative; the border's 0 is the lowest level.
            padded = np.zeros((len(small), small.shape[1] + 2, small.shape[2] + 2), dtype=np.uint8)
            padded[:, 1:-1, 1:-1] = small if bright else 255 - small
            fitting = [side for side in sides if side <= min(small.shape[1:])]
            found += [_blobs(padded, side, bright, scale) for side in fitting]
    blobs: NDArray[np.void] = np.concatenate(found) if found else np.empty(0, dtype=BLOB)
    blobs["film"] += first
    return blobs


def _blobs(padded: NDArray[np.uint8], side: int, bright: bool, scale: int) -> NDArray[np.void]:
    """Blobs of one side in (n, height + 2, width + 2) films with a border of 0.

    All films are treated as one row of pixels, so each step is one long loop. Squares that cross a
    film's edge are discarded at the end.
    """
    _, height, width = padded.shape
    flat = padded.reshape(-1)
    last = flat.size - (side + 1) * (width + 1)
    # The ring: two rows of side + 2 pixels, and two columns of side pixels between them.
    across = running(np.maximum, flat, side + 2, 1)
    ring = np.maximum(across[:last], across[(side + 1) * width :][:last])
    down = running(np.maximum, flat, side, width)
    np.maximum(ring, down[width:][:last], out=ring)
    np.maximum(ring, down[width + side + 1 :][:last], out=ring)
    lowest = running(np.minimum, running(np.minimum, flat, side, 1), side, width)
    lowest = lowest[width + 1 :][:last]
    # Differences of unsigned levels are correct where the blob is brighter, and masked elsewhere.
    corner = np.flatnonzero((lowest > ring) & (lowest - ring >= GAP))
    film, place = np.divmod(corner, height * width)
    row, column = np.divmod(place, width)
    whole = (row < height - side - 1) & (column < width - side - 1)
    corner = corner[whole]
    blobs = np.zeros(len(corner), dtype=BLOB)
    blobs["film"], blobs["row"], blobs["column"] = film[whole], row[whole], column[whole]
    blobs["scale"], blobs["side"], blobs["bright"] = scale, side, bright
    blobs["level"] = lowest[corner] if bright else 255 - lowest[corner]
    blobs["contrast"] = lowest[corner] - ring[corner]
    offset = np.add.outer(np.arange(1, side + 1) * width, np.arange(1, side + 1)).reshape(-1)
    if len(corner):
        blobs["spread"] = np.ptp(flat[corner[:, None] + offset], axis=1)
    return blobs


def running(combine: np.ufunc, values: NDArray[Any], length: int, step: int) -> NDArray[Any]:
    """Return the maximum, minimum or sum of `length` values each, `step` apart, in (m,) values."""
    count = values.size - (length - 1) * step
    result: NDArray[Any] = values[:count].copy()
    for shift in range(step, length * step, step):
        combine(result, values[shift : shift + count], out=result)
    return result
