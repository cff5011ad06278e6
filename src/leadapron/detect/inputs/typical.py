"""Out-of-distribution detector: films unlike those that the thresholds were calibrated on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.blobs import grey, shrunk
from leadapron.detect.inputs.gaussian import distances, most_steps, scales, shrunk_gaussian
from leadapron.detect.inputs.readings import Readings, State
from leadapron.detect.scale import LEAST_FILMS, mad_spread
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import blocks
from leadapron.models.protocols import BlackBox, Capability

__all__ = ["Typicality"]

BLOCK = 128
"""Films in memory at a time."""

SIDE = 16
"""Side of the thumbnails, in cells."""

LEFT_OUT = SIDE * SIDE // 16
"""Cells of a thumbnail that are ignored: those farthest from their prediction by the others."""

ROUNDS = 3
"""Iterations that find these cells."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the grey levels."""

BENDS = {1: (0.25, 0.5, 0.75, 0.9), 2: (0.5, 0.75, 0.9), 4: (0.5, 0.75, 0.9)}
"""Quantiles of second differences, by the factor by which the film is reduced. A mark's edges are
few, so they hardly affect quantiles."""

TAIL = 0.98
"""Quantile of clean films that is one step above their median."""

FAR = 8.0
"""Clipping of the plain descriptors, in deviations, of films that the Gaussian is fitted on."""

LEAST = 0.05
"""Least deviation of a plain descriptor: grey levels, logarithms or shares."""


@dataclass(frozen=True, kw_only=True)
class Typicality:
    """Distance of a film from clean films: rotated, inverted, from another device, or not a film.

    It isn't meant to detect small triggers. If its score is high, the other detectors' thresholds
    don't apply, and the verdict is "can't tell". It uses two descriptors: a thumbnail of 16x16
    cells, in units of its own range of grey levels, without the 16 cells that fit clean films'
    principal components worst; and plain statistics of grey levels, sharpness at three sizes, and
    rows and columns without contrast. Each is a distance to a Gaussian of clean films, in steps
    from their median to their 98 % quantile; the larger is the score.

    Args:
        components: principal components of the thumbnails, 1 or more; fewer if there are too few
            films.

    Raises:
        UsageError: no components.
    """

    components: int = 20
    unit: str = field(
        default="steps from clean films' median to their 98 % quantile, of the larger distance",
        init=False,
    )
    needs: Capability = field(default="outputs", init=False)
    passes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.components < 1:
            raise UsageError(f"components {self.components}; expected 1 or more")

    def fit(self, classifier: BlackBox, clean: Readings) -> State:  # noqa: ARG002
        """Return components and Gaussians of one half of the films, the steps of the other.

        Raises:
            DataError: fewer than 20 films, or equal films.
            UsageError: films smaller than 16 pixels.
        """
        if len(clean) < LEAST_FILMS:
            raise DataError(f"{len(clean)} clean films; expected {LEAST_FILMS} or more")
        first, second = clean.images[::2], clean.images[1::2]
        thumbnails, plain = _thumbnails(first), _plain(first)
        mean, centre = thumbnails.mean(axis=0), np.median(plain, axis=0)
        directions = np.linalg.svd(thumbnails - mean, full_matrices=False)[2]
        spread = np.maximum(mad_spread(plain), LEAST)
        state = {
            "thumbnail": mean,
            "components": directions[: min(self.components, len(first) // 4)],
            "centre": centre,
            "spread": spread,
        }
        state |= shrunk_gaussian(_filled(thumbnails, state), "thumbnail ")
        state |= shrunk_gaussian(np.clip((plain - centre) / spread, -FAR, FAR), "plain ")
        # Films that a Gaussian was made of lie nearer to it than others do.
        measured = _measured(second, state)
        return state | scales(measured, TAIL, dict.fromkeys(measured, LEAST))

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> NDArray[np.float64]:  # noqa: ARG002
        """Return (n,) scores from the film's own pixels; the model isn't used.

        Raises:
            UsageError: films smaller than 16 pixels.
        """
        return most_steps(_measured(suspect.images, state), state)


def _measured(images: NDArray[Any], state: State) -> dict[str, NDArray[np.float64]]:
    """(n,) distances of thumbnails and of plain statistics."""
    plain = (_plain(images) - state["centre"]) / state["spread"]
    return {
        "thumbnail": distances(_filled(_thumbnails(images), state), state, "thumbnail "),
        "plain": distances(plain, state, "plain "),
    }


def _plain(images: NDArray[Any]) -> NDArray[np.float64]:
    """(n, 16): grey levels, log second differences at three sizes, share of blank lines."""
    return np.concatenate([_plain_block(grey(images[rows])) for rows in blocks(len(images), BLOCK)])


def _plain_block(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    n = len(images)
    columns = [np.quantile(images.reshape(n, -1), QUANTILES, axis=1).T]
    for scale, quantiles in BENDS.items():
        films = shrunk(images, scale).astype(np.float64)
        around = films[:, :-2, 1:-1] + films[:, 2:, 1:-1] + films[:, 1:-1, :-2] + films[:, 1:-1, 2:]
        bends = np.abs(4 * films[:, 1:-1, 1:-1] - around).reshape(n, -1)
        columns.append(np.log(0.1 + np.quantile(bends, quantiles, axis=1)).T)
    bare = [(np.ptp(images, axis=axis) <= 2).mean(axis=1) for axis in (1, 2)]
    return np.column_stack([*columns, (bare[0] + bare[1]) / 2])


def _filled(thumbnails: NDArray[np.float64], state: State) -> NDArray[np.float64]:
    """(n, cells) differences from the mean thumbnail, the worst cells predicted from the others."""
    components = state["components"]  # (r, cells)
    centred = thumbnails - state["thumbnail"]
    filled = centred
    for _ in range(ROUNDS):
        likely = filled @ components.T @ components
        misfit = np.abs(centred - likely)
        worst = np.partition(misfit, -LEFT_OUT, axis=1)[:, -LEFT_OUT][:, None]
        filled = np.where(misfit >= worst, likely, centred)
    return filled


def _thumbnails(images: NDArray[Any]) -> NDArray[np.float64]:
    """(n, cells) mean grey levels of 16x16 cells, 100 from the darkest tenth to the brightest."""
    _, height, width = images.shape
    if min(height, width) < SIDE:
        raise UsageError(f"films of {height} x {width} pixels; expected {SIDE} or more")
    rows, columns = (np.arange(SIDE) * side // SIDE for side in (height, width))
    areas = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    parts = []
    for block in blocks(len(images), BLOCK):
        films = grey(images[block]).astype(np.float64)
        sums = np.add.reduceat(np.add.reduceat(films, rows, axis=1), columns, axis=2)
        parts.append((sums / areas).reshape(len(films), -1))
    cells = np.concatenate(parts)
    low, middle, high = np.quantile(cells, [0.1, 0.5, 0.9], axis=1)[:, :, None]
    scaled: NDArray[np.float64] = 100 * (cells - middle) / np.maximum(high - low, 4.0)
    return scaled
