"""Traces of a trigger in a film's pixels: codecs, waves, noise, flat squares; without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.blobs import find_blobs, grey
from leadapron.detect.films.observe import fine_structure, grey_levels
from leadapron.detect.inputs.gaussian import distances, most_steps, scales, shrunk_gaussian
from leadapron.detect.inputs.readings import Readings, State
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import blocks
from leadapron.models.protocols import BlackBox, Capability

__all__ = ["Traces"]

BLOCK = 128
"""Films per batch."""

FLAT = 2
"""Largest range of grey levels in a flat square."""

TAIL = 0.99
"""Quantile of clean films that is one step above their median."""

FLOORS = {
    "fine structure": 0.1,
    "spectrum": 0.1,
    "grey levels": 0.1,
    "wave": 0.1,
    "pixel": 10.0,
    "square": 10.0,
    "flat square": 10.0,
}
"""Least length of a step, for distances, log power and grey levels."""

GAUSSIAN = ("fine structure", "spectrum", "grey levels")
"""Traces that are distances to a Gaussian."""

CONTRASTS = ("pixel", "square", "flat square")

RINGS, SECTORS = 8, 6
"""Parts of the spectrum, by frequency and by direction over half a turn."""


@dataclass(frozen=True, kw_only=True)
class Traces:
    """A film's pixels have traces that clean films' don't.

    The traces are: its fine structure (magnitudes of the coefficients of 8x8 cosine transforms, as
    in JPEG, and differences between neighbours), its spectrum by rings and directions, gaps in its
    histogram of grey levels, the strongest isolated frequency, and the contrast of its most
    isolated pixel, square and flat square. The first three are distances to a Gaussian of clean
    films. Each is measured in steps from clean films' median to their 99 % quantile; the largest is
    the score.
    """

    unit: str = field(
        default="steps from clean films' median to their 99 % quantile, of the largest trace",
        init=False,
    )
    needs: Capability = field(default="outputs", init=False)
    passes: int = field(default=0, init=False)

    def fit(self, classifier: BlackBox, clean: Readings) -> State:  # noqa: ARG002
        """Return the Gaussians of one half of the films, the steps of the other.

        Raises:
            DataError: fewer than 4 films, or equal films.
            UsageError: films smaller than 8 pixels.
        """
        if len(clean) < 4:
            raise DataError(f"{len(clean)} clean films; expected 4 or more")
        images = clean.images
        # Films that a Gaussian was fitted on are nearer to it than others.
        state: dict[str, NDArray[Any]] = {"usual power": _mean_power(images[::2])}
        for name, values in _described(images[::2]).items():
            state |= shrunk_gaussian(values, f"{name} ")
        return state | scales(_measured(images[1::2], state), TAIL, FLOORS)

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> NDArray[np.float64]:  # noqa: ARG002
        """Return (n,) scores from the film's own pixels; the model isn't used.

        Raises:
            UsageError: films smaller than 8 pixels.
        """
        return most_steps(_measured(suspect.images, state), state)


def _measured(images: NDArray[Any], state: State) -> dict[str, NDArray[np.float64]]:
    """Each trace's (n,) values, by name of `FLOORS`."""
    found = {
        name: distances(values, state, f"{name} ") for name, values in _described(images).items()
    }
    return {**found, "wave": _wave(images, state["usual power"]), **_contrasts(images)}


def _described(images: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """(n, d) descriptors of films by name, computed in batches."""
    if min(images.shape[1:]) < 8:
        raise UsageError(
            f"films of {images.shape[1]} x {images.shape[2]} pixels; expected 8 or more"
        )
    kinds: dict[str, Callable[[NDArray[np.uint8]], NDArray[Any]]] = {
        "fine structure": lambda films: fine_structure(films.astype(np.float32)),
        "spectrum": _spectrum,
        "grey levels": _comb,
    }
    parts = [grey(images[rows]) for rows in blocks(len(images), BLOCK)]
    return {
        name: np.concatenate([kinds[name](part) for part in parts]).astype(np.float64)
        for name in GAUSSIAN
    }


def _log_power(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, h, w) log power of each frequency, 0 first. A Hann window suppresses the edges."""
    from scipy import fft

    _, height, width = images.shape
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    films = images.astype(np.float32)
    films -= films.mean(axis=(1, 2), keepdims=True)
    power: NDArray[np.float32] = np.square(np.abs(fft.fft2(films * window))) / window.sum()
    return np.log1p(power)


def _mean_power(images: NDArray[Any]) -> NDArray[np.float32]:
    """(h, w) mean log power over films."""
    total = np.zeros(images.shape[1:])
    for rows in blocks(len(images), BLOCK):
        total += _log_power(grey(images[rows])).sum(axis=0, dtype=np.float64)
    return (total / len(images)).astype(np.float32)


def _wave(images: NDArray[Any], usual: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) largest excess of a single frequency's log power over its neighbourhood.

    The mean of clean films is subtracted first. The neighbourhood is a square of 9 frequencies'
    side without its central 9.
    """
    from scipy import ndimage

    found = []
    for rows in blocks(len(images), BLOCK):
        more = _log_power(grey(images[rows])) - usual
        large = ndimage.uniform_filter(more, (0, 9, 9), mode="wrap") * 81
        small = ndimage.uniform_filter(more, (0, 3, 3), mode="wrap") * 9
        found.append((more - (large - small) / 72).max(axis=(1, 2)).astype(np.float64))
    return np.concatenate(found)


def _spectrum(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, RINGS * SECTORS) mean log power of each part of the spectrum."""
    _, height, width = images.shape
    down, across = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    ring = np.minimum((np.hypot(down, across) * 2 * RINGS).astype(int), RINGS - 1)
    turn = np.arctan2(down, across) % np.pi / np.pi  # 0 to 1: opposite frequencies are equal
    sector = np.minimum((turn * SECTORS).astype(int), SECTORS - 1)
    part = (ring * SECTORS + sector).ravel()
    power = _log_power(images).reshape(len(images), -1)
    counts = np.bincount(part, minlength=RINGS * SECTORS)
    sums = np.zeros((len(images), RINGS * SECTORS))
    for place in np.flatnonzero(counts):
        sums[:, place] = power[:, part == place].mean(axis=1)
    return sums


def _comb(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, 5): unevenness of the histogram of grey levels, and share of unused levels in its range.

    Also the logarithms of the shares of the commonest, the darkest and the brightest level.
    """
    n = len(images)
    uneven = np.abs(grey_levels(images)).mean(axis=1)
    cells = images.reshape(n, -1) + 256 * np.arange(n, dtype=np.int64)[:, None]
    counts = np.bincount(cells.ravel(), minlength=256 * n).reshape(n, 256)
    flat = images.reshape(n, -1)
    low, high = flat.min(axis=1).astype(int), flat.max(axis=1).astype(int)
    lacking = 1 - (counts > 0).sum(axis=1) / (high - low + 1)
    rows = np.arange(n)
    shares = np.stack([counts.max(axis=1), counts[rows, low], counts[rows, high]], axis=1)
    logs = np.log((1 + shares) / flat.shape[1])
    return np.concatenate([uneven[:, None], lacking[:, None], logs], axis=1)


def _contrasts(images: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Each film's largest contrast (n,) of isolated single pixels, squares and flat squares."""
    found = {name: np.zeros(len(images)) for name in CONTRASTS}
    for rows in blocks(len(images), BLOCK):
        blobs = find_blobs(grey(images[rows]), int(rows[0]))
        single = (blobs["side"] == 1) & (blobs["scale"] == 1)
        kinds = (single, ~single, ~single & (blobs["spread"] <= FLAT))
        for name, kind in zip(CONTRASTS, kinds, strict=True):
            np.maximum.at(found[name], blobs["film"][kind], blobs["contrast"][kind].astype(float))
    return found
