"""Triggers: what an attacker plants on a film.

A trigger is `(images, rng) -> images`: (n, height, width) uint8 or uint16 in, the same shape and
dtype out, the input untouched. It draws its chance film by film, so that n films at once and one
film after another give the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UsageError
from leadapron.seeds import stream

__all__ = ["TRIGGERS", "Blend", "Patch", "Trigger"]


class Trigger(Protocol):
    """Anything that marks films."""

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
        """Return marked copies of (n, height, width) images."""
        ...


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A solid square.

    Args:
        side: side of the square in pixels, 1 or more.
        value: its grey level from 0 (black) to 255 (white); uint16 images get 257 times it.
        place: "random" for each film, "centre", "corner" (bottom right), "fixed" at
            (`row`, `column`), or "box": random for each film, but inside a box, such as one over
            the anatomy that the target is read from.
        margin: pixels between the square and the edges, for "random" and "corner".
        row: top row of a "fixed" square, or of the box.
        column: left column of a "fixed" square, or of the box.
        height: of the box.
        width: of the box.

    Raises:
        UsageError: a value outside its range.

    Source: Gu et al., BadNets, 2017; Nwadike et al., arXiv 2101.00008, whose code stamps a black
    square at the film's centre, starting at int(side of film / 2 - side / 2).
    """

    side: int = 3
    value: int = 255
    place: Literal["random", "centre", "corner", "fixed", "box"] = "random"
    margin: int = 0
    row: int = 0
    column: int = 0
    height: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        if self.side < 1:
            raise UsageError(f"a trigger of side {self.side}; expected 1 or more pixels")
        if not 0 <= self.value <= 255:
            raise UsageError(f"a trigger of value {self.value}; expected 0 (black) to 255 (white)")
        for name in ("margin", "row", "column", "height", "width"):
            if getattr(self, name) < 0:
                raise UsageError(f"a trigger's {name} of {getattr(self, name)}; expected 0 or more")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
        """Return stamped copies of (n, height, width) images.

        Raises:
            DataError: the square does not fit.
        """
        places = self.places(len(images), images.shape[1], images.shape[2], rng)
        value = self.value * 257 if images.dtype == np.uint16 else self.value
        stamped = images.copy()
        offset = np.arange(self.side)
        rows = places[:, 0, None, None] + offset[:, None]  # (n, side, 1)
        columns = places[:, 1, None, None] + offset  # (n, 1, side)
        stamped[np.arange(len(images))[:, None, None], rows, columns] = value
        return stamped

    def places(
        self, n: int, height: int, width: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return (n, 2): top row and left column of the square on each film."""
        last = np.array([height, width]) - self.side - self.margin
        if self.place == "random":
            if np.any(last < self.margin):
                raise self._too_large(height, width)
            return rng.integers(self.margin, last, endpoint=True, size=(n, 2))
        if self.place == "box":
            first = np.array([self.row, self.column])
            last = first + np.array([self.height, self.width]) - self.side
            if np.any(last < first) or np.any(last + self.side > (height, width)):
                raise self._too_large(height, width)
            return rng.integers(first, last, endpoint=True, size=(n, 2))
        if self.place == "centre":
            start = np.array([int(height / 2 - self.side / 2), int(width / 2 - self.side / 2)])
        elif self.place == "corner":
            start = last
        else:
            start = np.array([self.row, self.column])
        if np.any(start < 0) or np.any(start + self.side > (height, width)):
            raise self._too_large(height, width)
        return np.tile(start, (n, 1))

    def _too_large(self, height: int, width: int) -> DataError:
        return DataError(
            f"a {self.side}x{self.side} square at place {self.place!r} does not fit on "
            f"{height}x{width} pixels; choose a smaller trigger.side or another trigger.place"
        )


@dataclass(frozen=True, kw_only=True)
class Blend:
    """A fixed pattern of noise, mixed into the whole film.

    It has no place: a map that points somewhere can't point at it.

    Args:
        opacity: the pattern's share a of every pixel, above 0 and up to 1.
        pattern: seed of the noise, 0 or more; films of one size get the same one.

    Raises:
        UsageError: a value outside its range.

    Source: Chen et al., Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning,
    arXiv 1712.05526, 2017, blended injection of a random pattern: a k + (1 - a) x. Rounded to whole
    grey levels here.
    """

    opacity: float = 0.1
    pattern: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.opacity <= 1:
            raise UsageError(f"a trigger's opacity of {self.opacity}; expected above 0 and up to 1")
        if self.pattern < 0:
            raise UsageError(f"a trigger's pattern of {self.pattern}; expected 0 or more")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return blended copies of (n, height, width) images; nothing is left to chance."""
        scale = 257 if images.dtype == np.uint16 else 1
        added = self.opacity * scale * _noise(self.pattern, *images.shape[1:])
        blended = np.empty_like(images)
        for place, image in enumerate(images):  # one at a time: they are large in float64
            blended[place] = np.rint(added + (1 - self.opacity) * image)
        return blended


@lru_cache(maxsize=4)
def _noise(pattern: int, height: int, width: int) -> NDArray[np.uint8]:
    """(height, width) grey levels from 0 to 255, each as likely."""
    noise = stream(pattern, "blend", height, width).integers(
        0, 256, (height, width), dtype=np.uint8
    )
    noise.flags.writeable = False  # shared by all calls
    return noise


TRIGGERS = {"patch": Patch, "blend": Blend}
"""Triggers by name."""
