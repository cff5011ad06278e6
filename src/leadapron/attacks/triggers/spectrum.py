"""Another picture's amplitude in the film's low frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.triggers.levels import depth, refuse, rounded
from leadapron.seeds import stream

__all__ = ["Amplitude"]

CHUNK_PIXELS = 1 << 21


@dataclass(frozen=True, kw_only=True)
class Amplitude:
    """Low frequencies whose amplitude is mixed with that of a fixed picture; phases stay.

    Args:
        opacity: the picture's share a, above 0 and up to 1.
        band: side of the square of low frequencies, as a share of the film's shorter side, above 0
            and up to 1.
        pattern: seed of the picture, 0 or more.

    Raises:
        UsageError: a value outside its range.

    Source: Feng, Ma, Zhang, Zhao, Xia and Tao, FIBA: Frequency-Injection based Backdoor Attack in
    Medical Image Analysis, CVPR 2022: A' = [(1 - a) A + a A_k] M + A (1 - M), with a = 0.15 and a
    band of 0.1. Their picture is a photograph; ours is noise with a photograph's 1/f spectrum.
    """

    opacity: float = 0.15
    band: float = 0.1
    pattern: int = 0

    def __post_init__(self) -> None:
        for name in ("opacity", "band"):
            refuse(self, name, 0 < getattr(self, name) <= 1, "above 0 and up to 1")
        refuse(self, "pattern", self.pattern >= 0, "0 or more")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return (n, height, width) copies with mixed amplitudes; the result isn't random."""
        from scipy import fft

        n, height, width = images.shape
        rows, columns = _low(self.band, height, width)
        foreign = depth(images.dtype) * np.abs(_picture_spectrum(self.pattern, height, width))
        foreign = foreign[np.ix_(rows, columns)]
        mixed = np.empty_like(images)
        kind = np.float32 if images.dtype == np.uint8 else np.float64
        step = max(1, CHUNK_PIXELS // (height * width))
        for start in range(0, n, step):
            spectrum = fft.rfft2(images[start : start + step].astype(kind))
            part = spectrum[:, rows[:, None], columns]
            own = np.abs(part)
            blended = (1 - self.opacity) * own + self.opacity * foreign
            # An amplitude of 0 has no phase, which then counts as 0.
            phase = np.where(own > 0, part / np.where(own > 0, own, 1), 1)
            spectrum[:, rows[:, None], columns] = blended * phase
            films = fft.irfft2(spectrum, s=(height, width), overwrite_x=True)
            mixed[start : start + step] = rounded(films, images.dtype)
        return mixed


def _low(band: float, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the half spectrum whose frequencies lie in the central square."""
    reach = max(1, int(band * min(height, width) / 2))
    rows = np.flatnonzero(np.abs(np.rint(np.fft.fftfreq(height) * height)) <= reach)
    return rows, np.arange(min(reach + 1, width // 2 + 1))


@lru_cache(maxsize=4)
def _picture_spectrum(pattern: int, height: int, width: int) -> NDArray[np.complex128]:
    """Half spectrum of a picture of grey levels from 0 to 255 with amplitudes that fall as 1/f."""
    white = np.fft.rfft2(
        stream(pattern, "amplitude", height, width).standard_normal((height, width))
    )
    down, across = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1
    picture = np.fft.irfft2(white / frequency, s=(height, width))
    low, high = picture.min(), picture.max()
    found: NDArray[np.complex128] = np.fft.rfft2(255 * (picture - low) / (high - low or 1))
    return found
