"""Where each pixel lies in the chest, and soft shapes drawn there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from leadapron.sources.phantom.dice import Floats
from leadapron.sources.phantom.shape import Pose, Shape

Window: TypeAlias = tuple[slice, slice, slice]
Range: TypeAlias = tuple[float, float]

THORAX: Final[tuple[Range, Range]] = ((-0.86, 0.86), (-0.80, 0.82))
"""x and y between which lungs and ribs lie, whatever the film."""


def ramp(distance: Floats, width: Floats | float) -> Floats:
    """Return 0 to 1 over an edge of the width, 0.5 where the distance is 0."""
    step = distance / width
    step += np.float32(0.5)
    return np.clip(step, 0.0, 1.0, out=step)


def dome(square: Floats) -> Floats:
    """Return the chord of a round body: the square root of 1 - square, 0 outside."""
    chord = np.subtract(np.float32(1.0), square)
    np.maximum(chord, 0.0, out=chord)
    return np.sqrt(chord, out=chord)


def ellipse(
    x: Floats,
    y: Floats,
    centre: tuple[Floats | float, Floats | float],
    axes: tuple[Floats | float, Floats | float],
) -> Floats:
    """Return the squared elliptic radius: 1 on the outline."""
    across = (x - centre[0]) / axes[0]
    down = (y - centre[1]) / axes[1]
    across *= across
    down *= down
    across += down
    return across


def inside(square: Floats, radius: Floats | float, width: Floats | float) -> Floats:
    """Return the soft region where a squared elliptic radius is below 1."""
    return ramp((1.0 - square) * (0.5 * radius), width)


@dataclass(frozen=True, kw_only=True)
class Chest:
    """Coordinates of some films' pixels.

    Args:
        shape: the organs' places.
        pixel: (n, 1, 1), a pixel's side in anatomical units.
        x: (n, h, w), anatomical coordinate.
        y: (n, h, w), anatomical coordinate.
        far: (n, h, w), distance from the chest's middle line.
        middle: (n, h, w), distance from the mediastinum's middle line, signed.
    """

    shape: Shape
    pixel: Floats
    x: Floats
    y: Floats
    far: Floats
    middle: Floats

    @classmethod
    def of(cls, shape: Shape, pose: Pose, size: int) -> Chest:
        """Return the coordinates of whole films."""
        x, y = pose.grid(size)
        return cls(
            shape=shape,
            pixel=pose.scale * np.float32(2.0 / size),
            x=x,
            y=y,
            far=np.abs(x),
            middle=x - shape.shift - shape.bend * y * y,
        )

    def window(self, x: Range, y: Range) -> Window:
        """Return the smallest part of the films that holds all places within the ranges.

        The drawing must be 0 outside the ranges, so that the part, which depends on the other films
        of the batch, doesn't affect the result.
        """
        rows = _span(self.y[:, :, 0], self.y[:, :, -1], y)
        columns = _span(self.x[:, 0, :], self.x[:, -1, :], x)
        return slice(None), rows, columns

    def part(self, window: Window) -> Chest:
        """Return the coordinates of a part of the films."""
        return replace(
            self,
            x=self.x[window],
            y=self.y[window],
            far=self.far[window],
            middle=self.middle[window],
        )

    def pick(self, rows: NDArray[np.intp]) -> Chest:
        """Return the coordinates of some of the films."""
        x = self.x[rows]
        return Chest(
            shape=self.shape.pick(rows),
            pixel=self.pixel[rows],
            x=x,
            y=self.y[rows],
            far=np.abs(x),
            middle=self.middle[rows],
        )

    def soft(self, width: float) -> Floats:
        """Return (n, 1, 1): the width of an edge that is never sharper than a pixel."""
        edge: Floats = np.hypot(np.float32(width), np.float32(1.2) * self.pixel)
        return edge

    def depth(self) -> Floats:
        """Return (n, h, w): 0 at the lungs' apices, 1 at the costophrenic angles, not clipped."""
        s = self.shape
        depth: Floats = (self.y - s.apex) / (s.base - s.apex)
        return depth

    def wall(self) -> Floats:
        """Return (n, h, w): half-width of the lungs at this height."""
        return wall_at(self.shape, self.depth())

    def floor(self) -> Floats:
        """Return (n, h, w): height of the diaphragm."""
        s = self.shape
        dip = self.far / s.width
        dip -= np.float32(0.42)
        dip *= dip
        dip *= s.curve * 2.9
        dip += s.level
        dip -= np.where(self.x < 0, s.raised_right, s.raised_left)
        return dip

    def heart(self) -> Floats:
        """Return (n, h, w): squared elliptic radius of the heart, 1 on its outline."""
        s = self.shape
        across = self.middle - s.heart_x
        down = self.y - s.heart_y
        across -= s.heart_tilt * down
        # The right atrium keeps the lower right border from receding with the tilt.
        left = ellipse(across, down, (0.0, 0.0), (s.heart_width, s.heart_height))
        atrium = ellipse(
            self.middle,
            self.y,
            (s.heart_x - 0.37 * s.heart_width, s.heart_y + 0.05),
            (0.55 * s.heart_width, 0.80 * s.heart_height),
        )
        return np.minimum(left, atrium, out=left)


def wall_at(shape: Shape, depth: Floats) -> Floats:
    """Return the lungs' half-width at a depth (0 at the apices, 1 at the base)."""
    below = np.subtract(np.float32(1.0), depth)
    np.clip(below, 0.0, 1.0, out=below)
    square = below * below
    wall = square * square
    wall *= square
    np.subtract(np.float32(1.0), wall, out=wall)
    np.sqrt(wall, out=wall)
    below *= np.float32(-0.14)
    below += np.float32(1.0)
    wall *= below
    half: Floats = wall * shape.width
    return half


def _span(first: Floats, last: Floats, wanted: Range) -> slice:
    """Return the pixels of an axis that lie within the range on any film."""
    low, high = np.minimum(first, last).min(axis=0), np.maximum(first, last).max(axis=0)
    hit = np.flatnonzero((high >= wanted[0]) & (low <= wanted[1]))
    return slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, 0)
