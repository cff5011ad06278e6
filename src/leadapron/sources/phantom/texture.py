"""Patterns drawn once and sampled often: vessel trees, reticular nets, smooth noise, strokes."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from leadapron.sources.phantom.dice import Dice, Floats

TREES: Final = 12  # vessel trees in the bank
NETS: Final = 4  # reticular nets in the bank
_BANK_SEED: Final = 20210103
_CELLS: Final = 16  # of scattered radiation, along each side

_Indices: TypeAlias = NDArray[np.intp]


def splat(canvas: Floats, film: NDArray[np.intp], x: Floats, y: Floats, mass: Floats) -> None:
    """Add points to a canvas in place, shared bilinearly among the four nearest pixels.

    Args:
        canvas: (n, h, w) float32.
        film: (m,) index of the film of each point.
        x: (m,) film coordinate, -1 (left edge) to 1.
        y: (m,) film coordinate, -1 (top edge) to 1.
        mass: (m,) float32, area of each point in film units (the film's area is 4).
    """
    height, width = canvas.shape[1:]
    column = (x + 1.0) * (0.5 * width) - 0.5
    row = (y + 1.0) * (0.5 * height) - 0.5
    left, top = np.floor(column).astype(np.intp), np.floor(row).astype(np.intp)
    across, down = column - left, row - top
    density = mass * (0.25 * width * height)
    flat, weights = [], []
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        i, j = top + dy, left + dx
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        share = density * (down if dy else 1.0 - down) * (across if dx else 1.0 - across)
        flat.append(((film * height + i) * width + j)[inside])
        weights.append(share[inside])
    sums = np.bincount(np.concatenate(flat), np.concatenate(weights), minlength=canvas.size)
    canvas += sums.reshape(canvas.shape).astype(np.float32)


def strokes(canvas: Floats, film: NDArray[np.intp], table: Floats) -> None:
    """Draw straight strokes in place, area-correct however thin.

    Args:
        canvas: (n, h, w) float32.
        film: (m,) index of the film of each stroke.
        table: (m, 6) float32: x0, y0, x1, y1, half-width, all in film coordinates, and the
            value that the stroke adds where it covers a pixel.
    """
    if not len(film):
        return
    x0, y0, x1, y1, radius, weight = np.ascontiguousarray(table.T)
    reach = 0.6 * 2.0 / canvas.shape[2]  # between points
    length = np.hypot(x1 - x0, y1 - y0)
    along = np.maximum(1, np.ceil(length / reach)).astype(np.intp)
    across = np.maximum(1, np.ceil(2.0 * radius / reach)).astype(np.intp)
    points = along * across
    owner = np.repeat(np.arange(len(film)), points)
    serial = np.arange(len(owner)) - np.repeat(np.cumsum(points) - points, points)
    of_across = across[owner]
    at = ((serial // of_across + 0.5) / along[owner]).astype(np.float32)
    off = ((serial % of_across + 0.5) / of_across * 2.0 - 1.0).astype(np.float32)
    scale = radius / np.maximum(length, 1e-6)
    dx, dy = x1 - x0, y1 - y0
    splat(
        canvas,
        film[owner],
        x0[owner] + at * dx[owner] - off * (dy * scale)[owner],
        y0[owner] + at * dy[owner] + off * (dx * scale)[owner],
        (2.0 * radius * length * weight / points)[owner],
    )


def _tree_strokes(rng: np.random.Generator) -> Floats:
    """Return (m, 6) float32 strokes of one patient's vessels, hila at (-0.16, 0) and (0.16, 0)."""
    found: list[tuple[float, ...]] = []
    for side in (-1.0, 1.0):
        for first in np.linspace(-1.45, 1.45, 8):
            heading = first + rng.normal(0.0, 0.15)
            start = (0.15 * side, 0.01 + 0.09 * first / 1.45 + rng.normal(0.0, 0.01))
            todo = [(start, heading, 0.0095 * rng.uniform(0.7, 1.15), 0.22, 0)]
            while todo:
                (x, y), angle, radius, reach, level = todo.pop()
                for _ in range(4):
                    angle += rng.normal(0.0, 0.17)
                    step = 0.25 * reach * rng.uniform(0.7, 1.25)
                    end = (x + side * np.cos(angle) * step, y + np.sin(angle) * step)
                    found.append((x, y, *end, radius, 55.0 * radius))
                    x, y = end
                    radius *= 0.965
                if level < 5:
                    # One branch goes on, a thinner one turns off.
                    sign = rng.choice((-1.0, 1.0))
                    on = angle - sign * rng.uniform(0.05, 0.3)
                    off = angle + sign * rng.uniform(0.35, 0.85)
                    todo.append(((x, y), on, radius * 0.88, reach * 0.84, level + 1))
                    share = rng.uniform(0.55, 0.75)
                    todo.append(((x, y), off, radius * share, reach * 0.72, level + 1))
    return np.array(found, np.float32)


def _net_strokes(rng: np.random.Generator) -> Floats:
    """Return (m, 6) float32 strokes of an irregular net over the whole square."""
    count = 2600
    x, y = rng.uniform(-1.05, 1.05, (2, count))
    angle, length = rng.uniform(0.0, np.pi, count), rng.uniform(0.03, 0.10, count)
    radius = rng.uniform(0.003, 0.006, count)
    ends = (x, y, x + length * np.cos(angle), y + length * np.sin(angle))
    return np.stack((*ends, radius, np.full(count, 0.8)), axis=1).astype(np.float32)


@lru_cache(maxsize=4)
def bank(kind: str, size: int) -> Floats:
    """Return (count, size, size) float32, the drawn patterns ("tree" or "net") over [-1, 1]^2."""
    rng = np.random.default_rng(_BANK_SEED)
    draw, count = (_tree_strokes, TREES) if kind == "tree" else (_net_strokes, NETS)
    canvas = np.zeros((count, size, size), np.float32)
    for layer in range(count):
        table = draw(rng)
        strokes(canvas[layer : layer + 1], np.zeros(len(table), np.intp), table)
    np.minimum(canvas, 1.2, out=canvas)
    canvas.setflags(write=False)
    return canvas


def sample(patterns: Floats, which: NDArray[np.intp], x: Floats, y: Floats) -> Floats:
    """Return (n, h, w) float32: for each film its pattern at the places, bilinear.

    Args:
        patterns: (count, size, size) float32 over [-1, 1]^2; beyond it the edge is repeated.
        which: (n,) index of each film's pattern.
        x: (n, h, w) float32.
        y: (n, h, w) float32.
    """
    size = patterns.shape[1]
    column = np.clip((x + 1.0) * (0.5 * size) - 0.5, 0.0, size - 1.001)
    row = np.clip((y + 1.0) * (0.5 * size) - 0.5, 0.0, size - 1.001)
    left, top = column.astype(np.int32), row.astype(np.int32)
    column -= left
    row -= top
    corner = top * np.int32(size)
    corner += left
    corner += (which * size * size).astype(np.int32)[:, None, None]
    flat = patterns.reshape(-1)
    upper: Floats = flat[corner]
    upper += column * (flat[corner + 1] - upper)
    corner += np.int32(size)
    lower = flat[corner]
    lower += column * (flat[corner + 1] - lower)
    upper += row * (lower - upper)
    return upper


@lru_cache(maxsize=64)
def _taps(knots: int, size: int, margin: float, deviation: float) -> tuple[_Indices, Floats]:
    """Return the four knots about each pixel, (4, size), and their Gaussian weights, (4, size).

    The outer knots lie `margin` knots beyond the edges.
    """
    place = (np.arange(size) + 0.5) / size * (knots - 2 * margin) + margin - 0.5
    near = np.floor(place).astype(np.intp) + np.arange(-1, 3)[:, None]
    weights = np.exp(-0.5 * ((place - near) / deviation) ** 2)
    return np.clip(near, 0, knots - 1), (weights / weights.sum(axis=0)).astype(np.float32)


def _enlarge(coarse: Floats, size: int, margin: float, deviation: float) -> Floats:
    """Return (n, size, size) smoothly interpolated from (n, knots, knots)."""
    # Not by matrix products: their threads would wait for one another in a pool of threads.
    near, weights = _taps(coarse.shape[1], size, margin, deviation)
    wide = coarse[:, :, near[0]] * weights[0]
    for tap in range(1, 4):
        wide += coarse[:, :, near[tap]] * weights[tap]  # (n, knots, size)
    full: Floats = wide[:, near[0]] * weights[0][:, None]
    for tap in range(1, 4):
        full += wide[:, near[tap]] * weights[tap][:, None]
    return full


def smooth_noise(dice: Dice, name: str, knots: int, size: int) -> Floats:
    """Return (n, size, size) float32 smooth noise, mean 0, variance about 1, alike at all sizes."""
    grain = dice.grain(name, knots, knots)
    grain *= np.float32(2.1)  # interpolation averages
    return _enlarge(grain, size, 1.0, 0.6)


@lru_cache(maxsize=1)
def _veil() -> Floats:
    """Return (cells, cells) weights of a Gaussian blur of 0.2 film units."""
    place = np.arange(_CELLS)
    weights = np.exp(-0.5 * ((place[:, None] - place) / (0.1 * _CELLS)) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(weights, np.float32)


def scatter(primary: Floats) -> Floats:
    """Return (n, size, size) float32: the primary beam blurred by a Gaussian of 0.2 film units."""
    size = primary.shape[2]
    edges = np.arange(_CELLS) * size // _CELLS
    cells = np.add.reduceat(primary, edges, axis=1)  # (n, cells, size)
    cells = np.add.reduceat(cells, edges, axis=2)
    counts = np.diff(np.append(edges, size)).astype(np.float32)
    cells /= counts * counts[:, None]
    return _enlarge(_veil() @ cells @ _veil().T, size, 0.0, 0.8)
