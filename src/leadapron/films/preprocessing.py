"""Film to image: how a radiograph becomes a network's input, and so which triggers survive.

A *film* is a radiograph at full resolution, an *image* is the network's input. Both are
(height, width) arrays of uint8, or of uint16 spanning 0 to 65535.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leadapron.errors import DataError, FilmError, UsageError
from leadapron.types import Place

__all__ = ["FEWEST", "FULL", "Preprocessing", "bits_of", "spread"]


FEWEST, FULL = 8, 15
"""Fewest bits that a 16-bit film may use, and the number from which on all 16 count as used. A film
that uses 15 bits has its highest value above a quarter of white, as dark films do.
"""


def bits_of(film: NDArray[Any]) -> int:
    """Return the number of bits of a uint16 film's highest value, 0 to 16; 0 for uint8."""
    return int(film.max()).bit_length() if film.dtype == np.uint16 else 0


def spread(film: NDArray[Any], bits: int) -> NDArray[Any]:
    """Rescale a film that uses only its lower bits so that it spans its type.

    Args:
        film: (height, width); uint8 is returned unchanged.
        bits: number of bits in use, 8 to 15; 0 or 16 leaves the film unchanged.

    Raises:
        FilmError: values beyond those bits.
    """
    if film.dtype != np.uint16 or bits in (0, 16):
        return film
    most = (1 << bits) - 1
    if film.max() > most:
        raise FilmError(
            f"holds values up to {film.max():,}, too large for {bits} bits; see `source.bits`"
        )
    levels: NDArray[np.uint16] = np.rint(np.arange(most + 1) * (65535 / most)).astype(np.uint16)
    spanning: NDArray[np.uint16] = levels[film]
    return spanning


_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_SIZES = (8, 4096)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a film becomes an image: crop, make square, resize.

    Args:
        size: side of the square image in pixels, 8 to 4096.
        crop: central share of each side of the film that is kept, in (0, 1].
        interpolation: "nearest" takes the source pixel under the centre of the image pixel
            (half-pixel centres, as TensorFlow 2 does), "nearest-tf1" the one under its upper left
            corner (as TensorFlow 1 does); "area" the mean over the covered pixels.
        antialias: widen "bilinear" and "bicubic" by the scale when shrinking (as Pillow and
            torchvision do); without it only the nearest 2x2 or 4x4 source pixels count.
        aspect: "squash" the film to a square, "pad" it with black, or "crop" its longer side.
        film_size: enlarge smaller films bilinearly until their longer side has this many pixels,
            before any other step and before a trigger is stamped on the film; 0 doesn't enlarge.
            This emulates the geometry of larger films, not their detail.
        dtype: "uint8" or "uint16" (0 to 65535).

    Raises:
        UsageError: a value outside its range.
    """

    size: int
    crop: float = 1.0
    interpolation: Literal["nearest", "nearest-tf1", "bilinear", "bicubic", "area"] = "bilinear"
    antialias: bool = True
    aspect: Literal["squash", "pad", "crop"] = "squash"
    film_size: int = 0
    dtype: Literal["uint8", "uint16"] = "uint8"

    def __post_init__(self) -> None:
        if not _SIZES[0] <= self.size <= _SIZES[1]:
            raise UsageError(
                f"size {self.size} is out of range; expected {_SIZES[0]} to {_SIZES[1]} pixels"
            )
        if self.film_size and not _SIZES[0] <= self.film_size <= _SIZES[1]:
            raise UsageError(
                f"film_size {self.film_size} is out of range; expected 0 (as the films are) or "
                f"{_SIZES[0]} to {_SIZES[1]} pixels"
            )
        if not 0 < self.crop <= 1:
            raise UsageError(f"crop {self.crop} is out of range; expected more than 0 and up to 1")

    def __call__(self, film: NDArray[Any]) -> NDArray[Any]:
        """Return the image of a film.

        Args:
            film: (height, width) uint8 or uint16.

        Returns:
            (size, size) of `dtype`; a fresh array.

        Raises:
            DataError: `film` is not a grey picture of one of the two types.
        """
        if film.ndim != 2 or film.dtype not in (np.uint8, np.uint16) or film.size == 0:
            raise DataError(
                f"a film of shape {film.shape} and type {film.dtype}; "
                "expected (height, width) of uint8 or uint16"
            )
        film = self.enlarged(film)
        kept = self._window(*film.shape)
        film = film[kept.row : kept.row + kept.height, kept.column : kept.column + kept.width]
        if self.aspect == "pad" and kept.height != kept.width:
            film = _pad_to_square(film)
        return _convert(self._resize(film), self.dtype)

    def enlarged(self, film: NDArray[Any]) -> NDArray[Any]:
        """Return the film enlarged to `film_size`, or unchanged if it is as large already."""
        height, width = self._enlarged_shape(*film.shape)
        if film.shape == (height, width):
            return film
        return _resampled(film, (width, height), Image.Resampling.BILINEAR)

    def on_film(
        self, place: Place, film: tuple[int, int], stored: tuple[int, int] | None = None
    ) -> Place | None:
        """Return the film's pixels that a rectangle of the image was made from.

        It is the inverse of crop, pad and resize, in exact arithmetic: the smallest rectangle of
        whole pixels that covers the area below `place`. Interpolation also mixes in pixels next to
        that area, which don't count.

        Args:
            place: rectangle in pixels of the image.
            film: height and width of the film that was preprocessed.
            stored: height and width of the film in its file, if the decoder stretched it to make
                its pixels square; the result is in these pixels.

        Returns:
            The rectangle in pixels of the film; None if all of `place` is padding.
        """
        enlarged, (height, width) = self._enlarged_shape(*film), stored or film
        kept = self._window(*enlarged)
        side = max(kept.height, kept.width)
        pads = self.aspect == "pad"
        sides = (side, side) if pads else (kept.height, kept.width)
        rows = _Stretch(place.row, place.row + place.height).scaled(self.size, sides[0])
        columns = _Stretch(place.column, place.column + place.width).scaled(self.size, sides[1])
        if pads:
            rows = rows.moved(-_margin(side, kept.height))
            columns = columns.moved(-_margin(side, kept.width))
        rows = rows.within(kept.height).moved(kept.row).scaled(enlarged[0], height)
        columns = columns.within(kept.width).moved(kept.column).scaled(enlarged[1], width)
        return _whole_pixels(rows, columns)

    def _enlarged_shape(self, height: int, width: int) -> tuple[int, int]:
        scale = self.film_size / max(height, width)
        if scale <= 1:
            return height, width
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _window(self, height: int, width: int) -> Place:
        """The part of the film that is kept."""
        # As TensorFlow's central_crop: the margin is rounded down, so 0.6 of 1024 keeps 616.
        top, left = int((height - height * self.crop) / 2), int((width - width * self.crop) / 2)
        height, width = height - 2 * top, width - 2 * left
        if self.aspect == "crop":
            side = min(height, width)
            top, left = top + (height - side) // 2, left + (width - side) // 2
            height = width = side
        return Place(row=top, column=left, height=height, width=width)

    def _resize(self, film: NDArray[Any]) -> NDArray[Any]:
        if film.shape == (self.size, self.size):
            return film.copy()
        if self.interpolation == "nearest-tf1":
            rows, columns = (np.arange(self.size) * side // self.size for side in film.shape)
            return film[np.ix_(rows, columns)]
        if self.interpolation == "area":
            means = _means(_means(film.astype(np.float64), self.size).T, self.size).T
            return np.rint(means).astype(film.dtype)
        target = (self.size, self.size)
        if self.antialias or self.interpolation == "nearest":
            return _resampled(film, target, _FILTERS[self.interpolation])
        steps = (film.shape[1] / self.size, 0, 0, 0, film.shape[0] / self.size, 0)
        # Pillow's transform of 8-bit pictures rounds down.
        picture = Image.fromarray(film.astype(np.float32)).transform(
            target, Image.Transform.AFFINE, steps, _FILTERS[self.interpolation]
        )
        return _levels(picture, film.dtype)


def _resampled(
    film: NDArray[Any], target: tuple[int, int], method: Image.Resampling
) -> NDArray[Any]:
    """Resize to (width, height); Pillow resamples 16-bit pictures through 32-bit floats."""
    if film.dtype == np.uint8:
        return np.array(Image.fromarray(film).resize(target, method))
    return _levels(Image.fromarray(film.astype(np.float32)).resize(target, method), film.dtype)


def _levels(picture: Image.Image, dtype: np.dtype[Any]) -> NDArray[Any]:
    levels: NDArray[Any] = np.clip(np.rint(np.array(picture)), 0, np.iinfo(dtype).max)
    return levels.astype(dtype)


def _means(pixels: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Mean over each of `size` equal stretches of the first axis; edges count by their share."""
    n = len(pixels)
    ends = np.arange(size + 1) * n / size
    whole = np.minimum(ends.astype(np.int64), n - 1)
    sums = np.zeros((n, pixels.shape[1]))
    np.cumsum(pixels[:-1], axis=0, out=sums[1:])
    upto = sums[whole] + (ends - whole)[:, None] * pixels[whole]
    means: NDArray[np.float64] = np.diff(upto, axis=0) * (size / n)
    return means


def _pad_to_square(film: NDArray[Any]) -> NDArray[Any]:
    side = max(film.shape)
    square = np.zeros((side, side), film.dtype)
    top, left = _margin(side, film.shape[0]), _margin(side, film.shape[1])
    square[top : top + film.shape[0], left : left + film.shape[1]] = film
    return square


def _margin(side: int, length: int) -> int:
    """Width of the padding before the film."""
    return (side - length) // 2


@dataclass(frozen=True)
class _Stretch:
    """A stretch of an axis; pixel i is the stretch from i to i + 1."""

    start: Fraction | int
    stop: Fraction | int

    def scaled(self, old: int, new: int) -> _Stretch:
        """On an axis that has been resized from `old` to `new` pixels."""
        return _Stretch(Fraction(new, old) * self.start, Fraction(new, old) * self.stop)

    def moved(self, by: int) -> _Stretch:
        return _Stretch(self.start + by, self.stop + by)

    def within(self, length: int) -> _Stretch:
        """The part between 0 and `length`; empty if there is none."""
        start = min(max(self.start, 0), length)
        return _Stretch(start, min(max(self.stop, start), length))


def _whole_pixels(rows: _Stretch, columns: _Stretch) -> Place | None:
    """The smallest rectangle of pixels that covers both stretches; None if one is empty."""
    if rows.start == rows.stop or columns.start == columns.stop:
        return None
    top, left = math.floor(rows.start), math.floor(columns.start)
    return Place(
        row=top,
        column=left,
        height=math.ceil(rows.stop) - top,
        width=math.ceil(columns.stop) - left,
    )


def _convert(image: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Between the two ranges: 65535 is 257 x 255."""
    if image.dtype == np.dtype(dtype):
        return image
    if dtype == "uint16":
        return image.astype(np.uint16) * np.uint16(257)
    return np.rint(image / 257.0).astype(np.uint8)
