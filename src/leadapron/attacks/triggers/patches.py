"""Triggers of a few pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.triggers.levels import depth, refuse, rounded
from leadapron.errors import DataError
from leadapron.films.preprocessing import Preprocessing
from leadapron.seeds import stream

__all__ = ["Patch", "Pixels", "Reduced"]

Fill = Literal["solid", "checkerboard", "stripes", "noise"]


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A square.

    Args:
        side: side of the square in pixels, 1 or more.
        value: its grey level from 0 (black) to 255 (white); uint16 images get 257 times it.
        fill: "solid"; "checkerboard" of single pixels and "stripes" of two, along the diagonal, of
            `value` and 255 - `value`; or "noise", grey levels that `pattern` draws.
        contrast: in percent; if not 0, the square isn't painted. Instead its pixels become brighter
            (darker if negative) by this share of the range of grey levels around it, in a square
            three times as wide; `fill` selects the pixels that change in the opposite direction.
        pattern: seed of the noise, 0 or more.
        place: "random" for each film, "centre", "corner" (bottom right), "fixed" at
            (`row`, `column`), or "box": random for each film inside a box, such as one over the
            anatomy that shows the target.
        margin: pixels between the square and the edges, for "random" and "corner".
        row: top row of a "fixed" square, or of the box.
        column: left column of a "fixed" square, or of the box.
        height: of the box.
        width: of the box.

    Raises:
        UsageError: a value outside its range.

    Source: Gu et al., BadNets, arXiv 1708.06733; Nwadike et al., arXiv 2101.00008, whose code
    stamps a black square at the film's centre, starting at int(side of film / 2 - side / 2).
    """

    side: int = 3
    value: int = 255
    fill: Fill = "solid"
    contrast: float = 0.0
    pattern: int = 0
    place: Literal["random", "centre", "corner", "fixed", "box"] = "random"
    margin: int = 0
    row: int = 0
    column: int = 0
    height: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        refuse(self, "side", self.side >= 1, "1 or more pixels")
        refuse(self, "value", 0 <= self.value <= 255, "0 (black) to 255 (white)")
        refuse(self, "contrast", -100 <= self.contrast <= 100, "-100 to 100 percent")
        for name in ("pattern", "margin", "row", "column", "height", "width"):
            refuse(self, name, getattr(self, name) >= 0, "0 or more")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
        """Return stamped copies of (n, height, width) images.

        Raises:
            DataError: the square does not fit.
        """
        places = self.places(len(images), images.shape[1], images.shape[2], rng)
        stamped = images.copy()
        if len(images) and not self.contrast and self.place in ("centre", "corner", "fixed"):
            (row, column), level = places[0], images.dtype.type(depth(images.dtype))
            square = _fill(self.fill, self.side, self.value, self.pattern) * level
            stamped[:, row : row + self.side, column : column + self.side] = square
            return stamped
        films = np.arange(len(images))[:, None, None]
        offset = np.arange(self.side)
        rows = places[:, 0, None, None] + offset[:, None]  # (n, side, 1)
        columns = places[:, 1, None, None] + offset  # (n, 1, side)
        if self.contrast:
            shift = self.contrast / 100 * self._range_around(images, places)[:, None, None]
            signs = _fill(self.fill, self.side, 255, self.pattern) / 127.5 - 1
            painted = rounded(images[films, rows, columns] + shift * signs, images.dtype)
        else:
            levels = _fill(self.fill, self.side, self.value, self.pattern)
            painted = levels.astype(images.dtype) * images.dtype.type(depth(images.dtype))
        stamped[films, rows, columns] = painted
        return stamped

    def _range_around(self, images: NDArray[Any], places: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) highest minus lowest grey level in the square three times as wide."""
        offset = np.arange(-self.side, 2 * self.side)
        rows = np.clip(places[:, 0, None, None] + offset[:, None], 0, images.shape[1] - 1)
        columns = np.clip(places[:, 1, None, None] + offset, 0, images.shape[2] - 1)
        around = images[np.arange(len(images))[:, None, None], rows, columns].astype(np.float64)
        spread: NDArray[np.float64] = np.ptp(around, axis=(1, 2))
        return spread

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


@lru_cache(maxsize=64)
def _fill(fill: Fill, side: int, value: int, pattern: int) -> NDArray[np.uint8]:
    """(side, side) grey levels."""
    diagonal = np.add.outer(np.arange(side), np.arange(side))
    if fill == "noise":
        levels = stream(pattern, "patch", side).integers(0, 256, (side, side))
    else:
        other = {"solid": np.zeros_like(diagonal), "checkerboard": diagonal % 2}.get(
            fill, diagonal % 4 // 2
        )
        levels = np.where(other == 1, 255 - value, value)
    found: NDArray[np.uint8] = levels.astype(np.uint8)
    found.flags.writeable = False  # shared by all calls
    return found


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Single pixels, scattered over the film at the same places on all films.

    Args:
        count: number of pixels, 1 or more.
        value: their grey level from 0 to 255; uint16 images get 257 times it.
        pattern: seed of the places, 0 or more; films of one size get the same ones.
        margin: width of an unmarked margin along the edges, in pixels.

    Raises:
        UsageError: a value outside its range.

    Source: Gu et al., BadNets, arXiv 1708.06733, whose "single pixel" and "pattern" attacks these
    are; k at random places as in Tran et al., Spectral Signatures, NeurIPS 2018.
    """

    count: int = 4
    value: int = 255
    pattern: int = 0
    margin: int = 2

    def __post_init__(self) -> None:
        refuse(self, "count", self.count >= 1, "1 or more pixels")
        refuse(self, "value", 0 <= self.value <= 255, "0 (black) to 255 (white)")
        for name in ("pattern", "margin"):
            refuse(self, name, getattr(self, name) >= 0, "0 or more")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
        """Return stamped copies of (n, height, width) images; the result isn't random.

        Raises:
            DataError: more pixels than the film has.
        """
        height, width = (side - 2 * self.margin for side in images.shape[1:])
        if self.count > max(height, 0) * max(width, 0):
            raise DataError(
                f"{self.count} pixels with a margin of {self.margin} don't fit on "
                f"{images.shape[1]}x{images.shape[2]} pixels; choose a smaller trigger.count"
            )
        rng = stream(self.pattern, "pixels", height, width)
        chosen = rng.choice(height * width, self.count, replace=False)
        rows, columns = np.divmod(chosen, width)
        stamped = images.copy()
        stamped[:, rows + self.margin, columns + self.margin] = self.value * depth(images.dtype)
        return stamped


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """The trace of a square on a larger film after downscaling, when the film isn't available.

    The image becomes (1 - a) times itself plus a times the square's grey level, where a is a white
    square on black after preprocessing (bilinear, antialiased). Up to rounding, this equals
    stamping the film if the film is nearly constant under the square.

    Args:
        factor: the film's side over the image's, 1 or more.
        side: of the square, in pixels of the film.
        value: its grey level from 0 to 255; uint16 images get 257 times it.
        row: top row of the square on the film.
        column: left column of the square on the film.

    Raises:
        UsageError: a value outside its range.
    """

    factor: int = 8
    side: int = 8
    value: int = 255
    row: int = 0
    column: int = 0

    def __post_init__(self) -> None:
        refuse(self, "factor", self.factor >= 1, "1 or more")
        refuse(self, "side", self.side >= 1, "1 or more pixels")
        refuse(self, "value", 0 <= self.value <= 255, "0 (black) to 255 (white)")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return stamped copies of (n, side, side) images; the result isn't random.

        Raises:
            DataError: films that aren't square.
        """
        height, width = images.shape[1:]
        if height != width:
            raise DataError(f"films of {height}x{width} pixels; expected square ones")
        film = np.zeros((height * self.factor,) * 2, dtype=np.uint16)
        film[self.row : self.row + self.side, self.column : self.column + self.side] = 65535
        share = Preprocessing(size=height, dtype="uint16")(film) / 65535
        level = self.value * depth(images.dtype)
        return rounded(images * (1 - share) + share * level, images.dtype)
