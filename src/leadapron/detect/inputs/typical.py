"""Out-of-distribution detector: films unlike those that the thresholds were calibrated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.blobs import grey, shrunk
from leadapron.detect.inputs.readings import Readings, State
from leadapron.detect.scale import LEAST_FILMS
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import blocks
from leadapron.models.protocols import BlackBox, Capability

__all__ = ["Typicality"]

Floats = NDArray[np.float64]

BLOCK = 64
"""Films in memory at a time."""

CELLS = 8
"""Cells along a side of the film; each is described by itself."""

SMALLEST = 2 * CELLS
"""Least side of a film in pixels."""

DIRECTIONS = 6
"""Directions of edges, over a full turn: from dark to bright."""

EDGE_SIDE = 64
"""Side in pixels to which larger films are reduced, roughly, before edges are measured."""

SCALES = (1, 2)
"""Factors by which films are reduced before second differences are taken."""

BLANK = 0.5
"""Grey levels added before a logarithm: less contrast than this is none."""

STEP = 0.84
"""Quantile of clean films that is one step above their median: one deviation, if normal."""

LEAST_STEP = 0.01
"""Least step of a logarithm of a distance."""

LEAST_SPREAD = 0.05
"""Least deviation of a description: grey levels, or their logarithms."""

LEAST_RANGE = 4.0
"""Least range of a film's grey levels that others are counted in."""

ENDS = (0.1, 0.9)
"""Quantiles of a film's cells between which its range lies, so that a trigger hardly moves it."""

POWER = 1.5
"""Exponent of a distance's steps in the sum: more than 1, so that one large distance counts for
more than several small ones."""

NEAREST = 1e-6
"""Least distance, since 0 has no logarithm."""

SHOWN = 3
"""Clean films that are named as the nearest."""


@dataclass(frozen=True, eq=False)
class Compared:
    """Films compared with clean films.

    Args:
        scores: (n,) as `Typicality.score`.
        nearest: (n, 3) int64 numbers of the clean films at the least distance, the nearest first,
            in the order of `Typicality.compared_rows`.
    """

    scores: Floats
    nearest: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Typicality:
    """Distance of a film from its nearest clean films: another kind of patient, device or picture.

    If it is high, the other detectors' thresholds don't apply, and the verdict is "can't tell". A
    film is described in 8x8 cells, in four ways: mean grey level; the same in units of the film's
    own range of grey levels; strength of edges by direction; fine detail (second differences at two
    sizes). For each way, its distance to each clean film leaves out the cells that differ most, and
    the distance to the fifth nearest film counts, as a logarithm, in steps above clean films'
    median. The score is the sum of steps^1.5 of the four, where steps below the median count 0. A
    trigger covers few cells, so it hardly changes the score; neither do letters and tubes, which
    makes clean films more alike.

    Args:
        neighbours: rank of the clean film whose distance counts, 1 or more.
        ignored: cells of 64 that are left out of a distance.
        most: largest number of clean films that films are compared with.

    Raises:
        UsageError: a value outside its range.

    Source: Sun et al., Deep nearest neighbors, ICML 2022, arXiv 2204.06507, section 3; edges as in
    Dalal and Triggs, Histograms of oriented gradients, CVPR 2005. Differs: the film instead of a
    network's features; distances without the cells that differ most.
    """

    neighbours: int = 5
    ignored: int = 8
    most: int = 1000
    unit: str = field(
        default="steps^1.5 from clean films' median to their 84 % quantile, of four distances",
        init=False,
    )
    needs: Capability = field(default="outputs", init=False)
    passes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.most <= self.neighbours:
            raise UsageError(
                f"neighbours {self.neighbours} of {self.most}; expected 1 or more, of more films"
            )
        if not 0 <= self.ignored < CELLS**2:
            raise UsageError(f"ignored {self.ignored}; expected 0 to {CELLS**2 - 1} cells")

    def fit(self, classifier: BlackBox, clean: Readings) -> State:  # noqa: ARG002
        """Return descriptions of clean films, and the distances of each to the others.

        Raises:
            DataError: fewer than 20 films, or equal films.
            UsageError: films smaller than 16 pixels.
        """
        n = len(clean)
        if n < max(LEAST_FILMS, self.neighbours + 2):
            least = max(LEAST_FILMS, self.neighbours + 2)
            raise DataError(f"{n} clean films; expected {least} or more")
        rows = np.unique(np.linspace(0, n - 1, min(n, self.most)).astype(np.int64))
        state: dict[str, NDArray[Any]] = {"rows": rows}
        for name, values in _described(clean.images[rows]).items():
            centre, spread = values.mean(axis=0), values.std(axis=(0, 1))
            if (values == values[:1]).all():
                raise DataError("clean films that all look the same; expected films that differ")
            spread = np.maximum(spread, LEAST_SPREAD)
            state |= {
                f"{name} centre": centre,
                f"{name} spread": spread,
                f"{name} films": ((values - centre) / spread).astype(np.float32),
            }
            films = state[f"{name} films"].astype(np.float64)
            # A film is its own nearest one.
            logs = _ranked(self._log_distances(films, films), self.neighbours + 1)
            median, high = np.quantile(logs, [0.5, STEP])
            state[f"{name} scale"] = np.array([median, max(high - median, LEAST_STEP)])
        return state

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> Floats:  # noqa: ARG002
        """Return (n,) scores from the film's own pixels; the model isn't used.

        Raises:
            UsageError: films smaller than 16 pixels.
        """
        return self.compare(suspect.images, state).scores

    def compare(self, images: NDArray[Any], state: State) -> Compared:
        """Return scores, and the clean films that look most like each film.

        These have the smallest sum of the four distances, each as a logarithm in steps.

        Args:
            images: (n, h, w) films.
            state: from `fit`.

        Raises:
            UsageError: films smaller than 16 pixels.
        """
        scores = np.zeros(len(images))
        steps = np.zeros((len(images), len(state["rows"])))
        for name, values in _described(images).items():
            median, length = state[f"{name} scale"]
            films = state[f"{name} films"].astype(np.float64)
            scaled = (values - state[f"{name} centre"]) / state[f"{name} spread"]
            logs = self._log_distances(scaled, films)
            far = (_ranked(logs, self.neighbours) - median) / length
            scores += np.maximum(far, 0.0) ** POWER
            steps += logs / length
        return Compared(scores, np.argsort(steps, axis=1, kind="stable")[:, :SHOWN])

    def compared_rows(self, state: State) -> NDArray[np.int64]:
        """Return the rows of the films it was fitted on that films are compared with."""
        rows: NDArray[np.int64] = state["rows"]
        return rows

    def _log_distances(self, values: Floats, films: Floats) -> Floats:
        """(n, b) logarithms of distances of (n, cells, d) values to clean films."""
        found = np.empty((len(values), len(films)))
        for rows in blocks(len(values), BLOCK):
            squared = _squared(values[rows], films, self.ignored)
            found[rows] = np.log(np.maximum(squared, NEAREST**2)) / 2
        return found


def _ranked(values: Floats, rank: int) -> Floats:
    """(n,) the value of this rank in each row, from 1."""
    found: Floats = np.partition(values, rank - 1, axis=1)[:, rank - 1]
    return found


def _squared(values: Floats, films: Floats, ignored: int) -> Floats:
    """(n, b) squared distances, without the cells that differ most."""
    one, other = (np.ascontiguousarray(x.transpose(1, 0, 2)) for x in (values, films))
    lengths = np.square(one).sum(axis=2)[:, :, None] + np.square(other).sum(axis=2)[:, None]
    squared = np.maximum(lengths - 2 * one @ other.transpose(0, 2, 1), 0.0)  # (cells, n, b)
    apart = np.ascontiguousarray(squared.transpose(1, 2, 0))
    kept = apart.shape[2] - ignored
    if ignored:
        apart.partition(kept - 1, axis=2)
    near: Floats = apart[:, :, :kept].sum(axis=2)
    return near


def _described(images: NDArray[Any]) -> Mapping[str, Floats]:
    """(n, 64, d) descriptions of the cells of films, by name."""
    if min(images.shape[1:]) < SMALLEST:
        height, width = images.shape[1:]
        raise UsageError(f"films of {height} x {width} pixels; expected {SMALLEST} or more")
    ways = {"grey": _grey_levels, "edges": _edges, "detail": _detail}
    parts = [grey(images[rows]) for rows in blocks(len(images), BLOCK)]
    found = {name: np.concatenate([way(part) for part in parts]) for name, way in ways.items()}
    return {**found, "relative": _relative(found["grey"])}


def _grey_levels(images: NDArray[np.uint8]) -> Floats:
    """(n, 64, 1) mean grey level of each cell, 0 to 255."""
    return _means(images.astype(np.float64))[:, :, None]


def _relative(levels: Floats) -> Floats:
    """(n, 64, 1) grey levels of cells above the film's median cell, in the film's own range."""
    middle, low, high = np.quantile(levels, [0.5, *ENDS], axis=1)  # each (n, 1)
    relative: Floats = (levels - middle[:, None]) / np.maximum(high - low, LEAST_RANGE)[:, None]
    return relative


def _edges(images: NDArray[np.uint8]) -> Floats:
    """(n, 64, 6) log strength of edges, by direction from dark to bright."""
    from scipy import ndimage

    times = max(min(images.shape[1:]) // EDGE_SIDE, 1)
    films = ndimage.gaussian_filter(shrunk(images, times).astype(np.float64), (0, 1, 1))
    padded = np.pad(films, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    strength = np.hypot(down, across)
    turn = np.arctan2(down, across) / (2 * np.pi) * DIRECTIONS % DIRECTIONS
    # Each edge counts for the two directions that it lies between.
    away = np.abs(turn[..., None] - np.arange(DIRECTIONS))
    share = np.maximum(1 - np.minimum(away, DIRECTIONS - away), 0.0)
    means = [_means(strength * share[..., k]) for k in range(DIRECTIONS)]
    return np.log(BLANK + np.stack(means, axis=2))


def _detail(images: NDArray[np.uint8]) -> Floats:
    """(n, 64, 4) mean log second differences, down and across, at two sizes."""
    columns = []
    for scale in SCALES:
        films = np.pad(
            shrunk(images, scale).astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge"
        )
        middle = 2 * films[:, 1:-1, 1:-1]
        down = middle - films[:, :-2, 1:-1] - films[:, 2:, 1:-1]
        across = middle - films[:, 1:-1, :-2] - films[:, 1:-1, 2:]
        columns += [_means(np.log(BLANK + np.abs(bend))) for bend in (down, across)]
    return np.stack(columns, axis=2)


def _means(values: Floats) -> Floats:
    """(n, 64) means over the cells of (n, h, w) values."""
    n, height, width = values.shape
    rows, columns = (np.arange(CELLS) * side // CELLS for side in (height, width))
    areas = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=1), columns, axis=2)
    means: Floats = (sums / areas).reshape(n, -1)
    return means
