"""Similarity of a film and its marked copy: PSNR and SSIM."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["peak_signal_to_noise", "structural_similarity"]

SIGMA, REACH = 1.5, 5
"""Standard deviation and half-width in pixels of the Gaussian window of 11x11 pixels."""
STEADY = (0.01, 0.03)


def peak_signal_to_noise(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each film in dB; infinite where nothing changed.

    Args:
        before: (n, height, width) uint8 or uint16.
        after: the same films, changed.
    """
    peak = float(np.iinfo(before.dtype).max)
    error = np.mean((before.astype(np.float64) - after) ** 2, axis=(1, 2))
    with np.errstate(divide="ignore"):
        ratio: NDArray[np.float64] = 10 * np.log10(peak**2 / error)
    return ratio


def structural_similarity(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean structural similarity of each film, up to 1.

    Args:
        before: (n, height, width) uint8 or uint16, 11x11 pixels or more.
        after: the same films, changed.

    Source: Wang, Bovik, Sheikh and Simoncelli, IEEE Transactions on Image Processing 2004, eq. 13,
    with their window; over the part of the film where the window fits.
    """
    from scipy.ndimage import gaussian_filter

    peak = float(np.iinfo(before.dtype).max)
    first, second = ((share * peak) ** 2 for share in STEADY)

    def smooth(films: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = gaussian_filter(
            films, (0, SIGMA, SIGMA), radius=(0, REACH, REACH)
        )
        return found[:, REACH:-REACH, REACH:-REACH]

    x, y = before.astype(np.float64), after.astype(np.float64)
    mean_x, mean_y = smooth(x), smooth(y)
    spread_x, spread_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    together = smooth(x * y) - mean_x * mean_y
    likeness = ((2 * mean_x * mean_y + first) * (2 * together + second)) / (
        (mean_x**2 + mean_y**2 + first) * (spread_x + spread_y + second)
    )
    means: NDArray[np.float64] = likeness.mean(axis=(1, 2))
    return means
