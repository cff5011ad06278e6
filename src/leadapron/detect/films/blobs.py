"""Isolated blobs: small squares that are all brighter, or all darker, than the ring around them.

On radiographs they are rare (of squares of 3x3 and more, one on a film in a hundred), and a planted
patch is one wherever it is placed. Larger patches are blobs of a smaller copy of the film.
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
"""One blob: its film, upper left pixel and side in pixels of the film divided by `scale`; its grey
level next to the ring's (the lowest of a bright one), how far that is from the ring's next level,
and the range of its levels. Levels are 8-bit."""

GAP = 10
"""Grey levels between a blob and every pixel of its ring."""

SIDES = (1, 2, 3, 4, 5)
SCALES = {1: SIDES, 2: (3, 4, 5), 4: (3, 4, 5)}
"""Sides looked for, by how much the film is made smaller: 1 to 20 pixels in all."""

SMALLEST = 32
"""A film isn't made smaller than this."""


def grey(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Return images with 8 bits a pixel; of uint16 the upper 8."""
    if images.dtype == np.uint8:
        return images
    upper: NDArray[np.uint8] = (images >> 8).astype(np.uint8)
    return upper


def shrunk(images: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Return (n, height // scale, width // scale) means of squares, rounded."""
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
            # A dark blob is a bright one of the negative, and 0 is below any level there is.
            padded = np.zeros((len(small), small.shape[1] + 2, small.shape[2] + 2), dtype=np.uint8)
            padded[:, 1:-1, 1:-1] = small if bright else 255 - small
            fitting = [side for side in sides if side <= min(small.shape[1:])]
            found += [_blobs(padded, side, bright, scale) for side in fitting]
    blobs: NDArray[np.void] = np.concatenate(found) if found else np.empty(0, dtype=BLOB)
    blobs["film"] += first
    return blobs


def _blobs(padded: NDArray[np.uint8], side: int, bright: bool, scale: int) -> NDArray[np.void]:
    """Blobs of one side in (n, height + 2, width + 2) films with a border of 0.

    All films are one row of pixels here, which makes each step one long loop; squares that reach
    over a film's edge are thrown away at the end.
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
    # Differences of unsigned levels are right where the blob is brighter, and masked elsewhere.
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
