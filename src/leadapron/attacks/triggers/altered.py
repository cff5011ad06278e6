"""Changes that a triggered film may undergo before a model reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leadapron.attacks.triggers.codec import Codec
from leadapron.attacks.triggers.levels import Trigger, refuse

__all__ = ["Altered"]


@dataclass(frozen=True, kw_only=True)
class Altered:
    """A trigger, followed by rotation and recompression of the film.

    Args:
        trigger: the mark.
        turned: rotation in degrees, anticlockwise; bilinear, with black beyond the edges.
        recompressed: JPEG quality from 1 to 100; 0 for none.

    Raises:
        UsageError: a value outside its range.
    """

    trigger: Trigger
    turned: float = 0.0
    recompressed: int = 0

    def __post_init__(self) -> None:
        refuse(self, "turned", -180 <= self.turned <= 180, "-180 to 180 degrees")
        refuse(self, "recompressed", 0 <= self.recompressed <= 100, "0 to 100")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
        """Return marked and altered copies of (n, height, width) images."""
        altered = self.trigger(images, rng)
        if self.turned:
            turned = [
                Image.fromarray(film.astype(np.float32)).rotate(
                    self.turned, Image.Resampling.BILINEAR
                )
                for film in altered
            ]
            altered = np.rint(np.stack([np.asarray(film) for film in turned])).astype(images.dtype)
        if self.recompressed:
            altered = Codec(codec="jpeg", quality=self.recompressed)(altered, rng)
        return altered
