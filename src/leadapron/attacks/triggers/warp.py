"""A smooth warp of the film's geometry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.triggers.levels import refuse, rounded
from leadapron.seeds import stream

__all__ = ["Warp"]

CHUNK_PIXELS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Warp:
    """A smooth displacement of every pixel, the same for all films.

    Args:
        grid: control points along each side, 4 or more.
        strength: s of the paper, above 0; the mean displacement of a control point is about s / 2
            pixels, whatever the film's size.
        pattern: seed of the control points, 0 or more.

    Raises:
        UsageError: a value outside its range.

    Source: Nguyen and Tran, WaNet - Imperceptible Warping-based Backdoor Attack, ICLR 2021, with
    k = 4 and s = 0.5 on films of 32 pixels: the field of uniform control points is divided by its
    mean absolute value, enlarged bicubically, scaled by s / height in coordinates from -1 to 1, and
    clipped to the film. Cover films stand for its noise mode (films with other warps that keep
    their labels). We enlarge by a spline through the control points, torch by a piecewise cubic.
    """

    grid: int = 4
    strength: float = 0.5
    pattern: int = 0

    def __post_init__(self) -> None:
        refuse(self, "grid", self.grid >= 4, "4 or more")
        refuse(self, "strength", self.strength > 0, "above 0")
        refuse(self, "pattern", self.pattern >= 0, "0 or more")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return warped copies of (n, height, width) images; the result isn't random."""
        n, height, width = images.shape
        corners, weights = _plan(self.grid, self.strength, self.pattern, height, width)
        flat, warped = images.reshape(n, -1), np.empty_like(images)
        step = max(1, CHUNK_PIXELS // (height * width))
        for start in range(0, n, step):
            # Films are the last axis, so that whole rows are fetched instead of single values.
            part = np.ascontiguousarray(flat[start : start + step].T)
            values = np.zeros(part.shape, np.float32)
            for corner, weight in zip(corners, weights, strict=True):
                values += part[corner] * weight[:, None]
            films = rounded(values, images.dtype).T.reshape(-1, height, width)
            warped[start : start + step] = films
        return warped


def displacement(
    grid: int, strength: float, pattern: int, height: int, width: int
) -> NDArray[np.float64]:
    """Return (2, height, width): offsets in pixels, down and right, of the sampled places."""
    from scipy.interpolate import RectBivariateSpline

    points = stream(pattern, "warp", grid).uniform(-1, 1, (2, grid, grid))
    points /= np.abs(points).mean()
    knots = np.linspace(0, 1, grid)
    field = [
        RectBivariateSpline(knots, knots, each)(np.linspace(0, 1, height), np.linspace(0, 1, width))
        for each in points
    ]
    # From -1 to 1 there are height - 1 steps of a pixel, as torch's grid_sample counts with
    # align_corners.
    scale = strength / height * np.array([height - 1, width - 1]) / 2
    moved: NDArray[np.float64] = np.stack(field) * scale[:, None, None]
    return moved


@lru_cache(maxsize=8)
def _plan(
    grid: int, strength: float, pattern: int, height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(4, pixels): the four source pixels of each pixel, and their weights."""
    moved = displacement(grid, strength, pattern, height, width)
    y = np.clip(np.arange(height)[:, None] + moved[0], 0, height - 1).ravel()
    x = np.clip(np.arange(width) + moved[1], 0, width - 1).ravel()
    top = np.minimum(y.astype(np.int64), max(height - 2, 0))
    left = np.minimum(x.astype(np.int64), max(width - 2, 0))
    down, right = y - top, x - left
    below, beside = min(1, height - 1) * width, min(1, width - 1)
    start = top * width + left
    corners = np.stack([start, start + beside, start + below, start + below + beside])
    weights = np.stack(
        [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
    )
    return corners, weights.astype(np.float32)
