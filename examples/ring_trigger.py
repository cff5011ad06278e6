"""A trigger of one's own, in one file: a bright ring.

leadapron study --plugin examples/ring_trigger.py --trigger ring --source.count 800 --out runs/ring
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.triggers import TRIGGERS
from leadapron.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Ring:
    """A bright ring, anywhere on the film.

    Args:
        radius: of its middle line, in pixels, 2 or more.

    Raises:
        UsageError: a value outside its range.
    """

    radius: float = 4.0

    def __post_init__(self) -> None:
        if self.radius < 2:
            raise UsageError(f"a ring of radius {self.radius:g}; expected 2 or more")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
        """Return marked copies of (n, height, width) images; UsageError where it doesn't fit."""
        n, height, width = images.shape
        reach = self.radius + 1
        if 2 * reach >= min(height, width):
            raise UsageError(f"a ring of radius {self.radius:g} on {height}x{width} pixels")
        # Two draws a film, so that a film's ring depends on no other film.
        middles = rng.uniform(reach, (height - reach, width - reach), (n, 2))
        offsets = np.indices((height, width)) - middles[:, :, None, None]  # (n, 2, height, width)
        distances = np.hypot(offsets[:, 0], offsets[:, 1])
        marked = images.copy()
        marked[np.abs(distances - self.radius) < 0.6] = np.iinfo(images.dtype).max
        return marked


TRIGGERS["ring"] = Ring
