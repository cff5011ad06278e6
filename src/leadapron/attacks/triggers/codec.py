"""Traces of lossy compression as a trigger."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leadapron.attacks.triggers.levels import depth, refuse

__all__ = ["Codec"]


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Lossy compression.

    Args:
        codec: "jpeg", "webp" or "jpeg2000".
        quality: from 1 (worst) to 100; for "jpeg2000" the film becomes that many hundredths of its
            bytes.

    Raises:
        UsageError: a quality outside its range.

    Source: Yang et al. 2023, whose trigger is lossy compression, as far as the recipe yang2023
    states it; qualities are ours. 16-bit films lose their lower 8 bits, as in an 8-bit codec.
    """

    codec: Literal["jpeg", "webp", "jpeg2000"] = "jpeg"
    quality: int = 20

    def __post_init__(self) -> None:
        refuse(self, "quality", 1 <= self.quality <= 100, "1 to 100")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return compressed copies of (n, height, width) images; the result isn't random."""
        step = depth(images.dtype)
        films = images if step == 1 else np.rint(images / step).astype(np.uint8)
        coded = np.empty_like(images)
        for place, film in enumerate(films):
            coded[place] = self._coded(film)
        return coded if step == 1 else coded * images.dtype.type(step)

    def _coded(self, film: NDArray[np.uint8]) -> NDArray[np.uint8]:
        settings: dict[str, Any] = {"format": self.codec.upper()}
        if self.codec == "jpeg2000":
            settings |= {"quality_mode": "rates", "quality_layers": [100 / self.quality]}
            settings |= {"irreversible": True}
        else:
            settings |= {"quality": self.quality}
        file = io.BytesIO()
        Image.fromarray(film).save(file, **settings)
        with Image.open(file, formats=(self.codec.upper(),)) as picture:
            decoded: NDArray[np.uint8] = np.asarray(picture.convert("L"))
        return decoded
