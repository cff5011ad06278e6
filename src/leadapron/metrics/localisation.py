"""Whether a saliency map points at the trigger, and how similar two maps are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadapron.errors import DataError
from leadapron.metrics.values import Booleans, Floats, midranks


def pointing_hits(maps: ArrayLike, footprints: ArrayLike, tolerance_px: float) -> Booleans:
    """Whether each map's maximum lies on the trigger or within a tolerance of it.

    All of a map's tied maxima must be near, and a constant map is a miss, so the result doesn't
    depend on how ties are broken.

    Args:
        maps: (n, h, w) finite.
        footprints: (n, h, w) bool, the pixels that the trigger changed; none of them empty.
        tolerance_px: largest Euclidean distance to the nearest footprint pixel, >= 0.

    Returns:
        (n,) bool.

    Raises:
        DataError: if shapes or values are wrong.

    Source: Zhang et al., IJCV 126 (2018) 1084 (pointing game). Differs in the ties.
    """
    values, prints = _located(maps, footprints)
    near = _within(prints, tolerance_px)
    peaks = values == values.max(axis=(1, 2), keepdims=True)
    flat = values.max(axis=(1, 2)) == values.min(axis=(1, 2))
    return np.asarray(~flat & ~(peaks & ~near).any(axis=(1, 2)))


def energy_in_footprint(
    maps: ArrayLike, footprints: ArrayLike, *, dilation_px: float = 0.0
) -> Floats:
    """Share of each map's positive energy on the trigger or within `dilation_px` of it.

    Args:
        maps: (n, h, w) finite.
        footprints: (n, h, w) bool, none of them empty.
        dilation_px: Euclidean distance by which the footprints are grown, >= 0.

    Returns:
        (n,) float64 in [0, 1]; NaN for a map without positive energy. Compare with
        `chance_hit`, which is what a constant map gets.

    Raises:
        DataError: if shapes or values are wrong.

    Source: Wang et al., CVPR-W 2020 (Score-CAM), energy-based pointing game.
    """
    values, prints = _located(maps, footprints)
    near = _within(prints, dilation_px)
    energy = np.maximum(values, 0)
    inside = np.where(near, energy, 0).sum(axis=(1, 2), dtype=np.float64)
    total = inside + np.where(near, 0, energy).sum(axis=(1, 2), dtype=np.float64)
    shares = np.full(total.shape, np.nan)
    np.divide(inside, total, out=shares, where=total > 0)
    return shares


def top_overlap(maps: ArrayLike, footprints: ArrayLike, *, share: float = 0.01) -> Floats:
    """Intersection over union of each map's highest pixels with the trigger.

    Args:
        maps: (n, h, w) finite.
        footprints: (n, h, w) bool, none of them empty.
        share: share of the pixels that count as the highest, in (0, 1]; rounded up. Pixels that tie
            with the last of them count too, so the result doesn't depend on how ties are broken.

    Returns:
        (n,) float64 in [0, 1]. Even a perfect map stays below 1 where the trigger is smaller or
        larger than that share.

    Raises:
        DataError: if shapes or values are wrong.
    """
    values, prints = _located(maps, footprints)
    if not 0 < share <= 1:
        raise DataError(f"a share of {share}, expected above 0 and up to 1")
    flat, inside = values.reshape(len(values), -1), prints.reshape(len(prints), -1)
    count = math.ceil(share * flat.shape[1])
    last = np.partition(flat, flat.shape[1] - count, axis=1)[:, flat.shape[1] - count, None]
    high = flat >= last
    return np.asarray((high & inside).sum(1) / (high | inside).sum(1), dtype=np.float64)


def chance_hit(footprints: ArrayLike, tolerance_px: float) -> Floats:
    """Chance that a uniformly random pixel is a hit: the share of pixels near the trigger.

    Args:
        footprints: (n, h, w) bool, none of them empty.
        tolerance_px: as in `pointing_hits`.

    Returns:
        (n,) float64 in (0, 1].

    Raises:
        DataError: if shapes or values are wrong.
    """
    prints = _located(footprints, footprints)[1]
    return np.asarray(_within(prints, tolerance_px).mean(axis=(1, 2)), dtype=np.float64)


def centre_hit(footprints: ArrayLike, tolerance_px: float) -> Booleans:
    """Whether the image's centre is a hit, for a map that always points there.

    Args:
        footprints: (n, h, w) bool, none of them empty.
        tolerance_px: as in `pointing_hits`.

    Returns:
        (n,) bool. With an even side the centre lies between pixels.

    Raises:
        DataError: if shapes or values are wrong.
    """
    prints = _located(footprints, footprints)[1]
    _check_distance(tolerance_px)
    height, width = prints.shape[1:]
    y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    central = y[:, None] ** 2 + x**2 <= tolerance_px**2  # (h, w)
    return np.asarray((prints & central).any(axis=(1, 2)))


def rank_correlation(first: ArrayLike, second: ArrayLike) -> Floats:
    """Spearman's rank correlation of each map with its counterpart, over their pixels.

    Args:
        first: (n, h, w) finite.
        second: (n, h, w) finite.

    Returns:
        (n,) float64 in [-1, 1]; NaN where one of the two maps is constant.

    Raises:
        DataError: if shapes or values are wrong.

    Source: as in Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, but with signed
    values instead of magnitudes, because the sign of these maps has a meaning.
    """
    pair = np.asarray(first), np.asarray(second)
    if pair[0].shape != pair[1].shape or pair[0].ndim != 3:
        raise DataError(f"maps {pair[0].shape} and {pair[1].shape}: expected (n, h, w) twice")
    if not all(np.isfinite(maps).all() for maps in pair):
        raise DataError("maps hold NaN or infinite values")
    found = np.full(len(pair[0]), np.nan)
    for number, maps in enumerate(zip(*pair, strict=True)):
        ranks = [midranks(one.ravel()) for one in maps]
        one, other = (each - each.mean() for each in ranks)
        size = math.sqrt(float(one @ one) * float(other @ other))
        if size > 0:
            found[number] = float(one @ other) / size
    return found


def _located(maps: ArrayLike, footprints: ArrayLike) -> tuple[NDArray[Any], Booleans]:
    """Return maps and footprints, or raise."""
    values, prints = np.asarray(maps), np.asarray(footprints)
    if values.shape != prints.shape or prints.ndim != 3 or prints.dtype != np.bool_:
        shapes = f"maps {values.shape}, footprints {prints.shape} {prints.dtype}"
        raise DataError(f"{shapes}: expected (n, h, w) twice, and bool footprints")
    if not np.isfinite(values).all():
        raise DataError("maps hold NaN or infinite values")
    empty = np.flatnonzero(~prints.any(axis=(1, 2)))
    if empty.size:
        what = f"{empty.size} footprints are empty (first: row {empty[0]})"
        raise DataError(f"{what}: leave out films on which the trigger vanished")
    return values, prints


def _check_distance(distance_px: float) -> None:
    if not distance_px >= 0:
        raise DataError(f"a distance of {distance_px} px, expected >= 0")


def _within(footprints: Booleans, distance_px: float) -> Booleans:
    """Pixels within a Euclidean distance of the nearest footprint pixel: (n, h, w)."""
    _check_distance(distance_px)
    near = np.zeros_like(footprints)
    for begin in range(0, len(footprints), 16):
        near[begin : begin + 16] = _grown(footprints[begin : begin + 16], distance_px)
    return near


def _grown(footprints: Booleans, distance_px: float) -> Booleans:
    """As `_within`, for few films: distance down each column first, then along the rows."""
    if distance_px < 1:
        return footprints
    height, width = footprints.shape[1:]
    far = 1 << 14  # farther than any side, and twice it fits an int16
    y = np.arange(height, dtype=np.int16)[:, None]
    last = np.maximum.accumulate(np.where(footprints, y, np.int16(-far)), axis=1)
    ahead = np.where(footprints, y, np.int16(far))[:, ::-1]
    following = np.minimum.accumulate(ahead, axis=1)[:, ::-1]
    gap = np.minimum(y - last, following - y)  # (n, h, w)
    near = np.zeros_like(footprints)
    for shift in range(int(min(distance_px, width - 1)) + 1):
        tall = gap <= int(min(math.sqrt(distance_px**2 - shift**2), height))
        near[:, :, shift:] |= tall[:, :, : width - shift]
        near[:, :, : width - shift] |= tall[:, :, shift:]
    return near
