"""Pixels from and to other libraries, read one by one with exact grey levels."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadapron.errors import DataError, FilmError
from leadapron.films.cohort import ImageArray
from leadapron.films.preprocessing import Preprocessing, bits_of, spread
from leadapron.types import Form, Note

__all__ = [
    "ItemFilms",
    "grey",
    "picture",
    "refuse_other_labels",
    "scaled",
    "shareable",
    "undisturbed",
]

Range = tuple[float, float]


class ItemFilms:
    """Films that a function reads, in this process and one at a time.

    The global random generators are restored afterwards.

    Args:
        n: number of films.
        read: returns the grey pixels of a film, with or without a leading channel.
        limits: floating point values of black and white.
        dtype: dtype of films made from floating point numbers.
        bits: number of bits in use in uint16 films, 8 to 16; 0 leaves them unchanged.
    """

    paths = ()
    decoder = "another library"

    def __init__(
        self,
        n: int,
        read: Callable[[int], ArrayLike],
        limits: Range,
        dtype: str,
        bits: int = 0,
    ) -> None:
        self.n, self.read, self.limits, self.dtype = n, read, limits, np.dtype(dtype)
        self.bits = bits
        self.used: Range = (1.0, 0.0)  # shares of white
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Return one film, (height, width) uint8 or uint16.

        Raises:
            DataError: a film that can't be read, or isn't a grey picture within the limits.
        """
        return self._read(row)[0]

    def _read(self, row: int) -> tuple[NDArray[Any], int]:
        """One film, and the number of its 16 bits in use."""
        row = range(self.n)[row]
        with self._lock, undisturbed():
            try:
                pixels = np.asarray(self.read(row))
            except DataError:
                raise
            except Exception as error:
                raise DataError(f"item {row}: {' '.join(str(error).split())}") from error
        film = grey(pixels, self.limits, self.dtype, f"item {row}")
        used = bits_of(film) if pixels.dtype == np.uint16 else 0
        try:
            film = spread(film, self.bits) if used else film
        except FilmError as error:
            raise FilmError(f"item {row} {error}") from None
        if not used:  # the limits don't apply to 16-bit films
            white = float(np.iinfo(film.dtype).max)
            low, high = float(film.min()) / white, float(film.max()) / white
            with self._lock:
                self.used = min(self.used[0], low), max(self.used[1], high)
        return film, used

    def of_bits(self, bits: int) -> ItemFilms:
        """Return the films with another number of bits in use."""
        return ItemFilms(self.n, self.read, self.limits, str(self.dtype), bits)

    def image(self, row: int, preprocessing: Preprocessing) -> tuple[NDArray[Any], Form]:
        """Return a film's image and its form."""
        film, used = self._read(row)
        return preprocessing(film), Form(height=film.shape[0], width=film.shape[1], used=used)

    def warnings(self) -> list[Note]:
        """Return warnings about the grey levels of the films read so far.

        Raises:
            DataError: all of them have one grey level, so the limits are wrong.
        """
        if self.used[0] > self.used[1]:
            return []
        black, white = self.limits
        low, high = (black + (white - black) * share for share in self.used)
        words = f"all pixels lie between {low:.4g} and {high:.4g} of {black:g} to {white:g}"
        if self.n > 1 and self.used[1] - self.used[0] < 2 / 255:
            raise DataError(f"{words}; the images' range must be wrong")
        if self.used[1] - self.used[0] <= 0.51:
            return [Note("pixels", f"{words}; is that the images' range?", doubt=True)]
        return []


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Restore the global generators of Python, numpy and torch (CPU and CUDA) afterwards."""
    torch = sys.modules.get("torch")
    forked: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if torch is not None:
        cuda = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
        forked = torch.random.fork_rng(devices=range(cuda))
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    with forked:
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002


def grey(pixels: NDArray[Any], limits: Range, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Return a film, (height, width) uint8 or uint16.

    Args:
        pixels: (h, w), (1, h, w) or (h, w, 1); uint8 and uint16 are unchanged, floating point
            numbers are rounded to the nearest levels.
        limits: floating point values of black and white.
        dtype: dtype of a film made from floating point numbers.
        name: name of the film in messages.

    Raises:
        DataError: colour, other types, numbers beyond the limits by more than one level.
    """
    shape = pixels.shape
    if pixels.ndim == 3 and 1 in (shape[0], shape[2]):
        pixels = pixels[0] if shape[0] == 1 else pixels[:, :, 0]
    whole = pixels.dtype in (np.uint8, np.uint16)
    if pixels.ndim != 2 or pixels.size == 0 or not (whole or pixels.dtype.kind == "f"):
        raise DataError(
            f"{name}: an image of shape {shape} and type {pixels.dtype}; expected one grey "
            "channel of uint8, uint16 or floating point numbers"
        )
    if whole:
        return pixels
    black, white = limits
    top = int(np.iinfo(dtype).max)
    # float32 is precise enough for 65,536 levels; computed in place, since films are large.
    levels: NDArray[Any] = pixels.astype(np.result_type(pixels.dtype, np.float32))
    levels -= black
    levels *= top / (white - black)
    low, high = float(levels.min()), float(levels.max())
    if not (low >= -1 and high <= top + 1):  # also true for NaN
        raise DataError(
            f"{name}: pixels from {pixels.min():.4g} to {pixels.max():.4g}; expected "
            f"{black:g} (black) to {white:g} (white)"
        )
    np.clip(np.rint(levels, out=levels), 0, top, out=levels)
    return levels.astype(dtype)


def scaled(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return (1, h, w) from 0 (black) to 1 (white)."""
    return image[None].astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def refuse_other_labels(labels: NDArray[np.float32]) -> None:
    """Raise DataError for labels that aren't 0, 1 or NaN; before films are decoded."""
    other = labels[(labels != 0) & (labels != 1) & ~np.isnan(labels)]
    if other.size:
        raise DataError(f"a label of {other[0]:g}; expected 0, 1 or NaN (not stated)")


class _File:
    """A memory-mapped array that other processes reopen instead of getting a copy."""

    def __init__(self, array: np.memmap[Any, Any]) -> None:
        self.where = {
            "filename": Path(str(array.filename)),
            "dtype": array.dtype,
            "shape": array.shape,
            "offset": array.offset,
        }
        self.shape, self.dtype = array.shape, array.dtype
        self._array: NDArray[Any] | None = array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        if self._array is None:
            self._array = np.memmap(mode="r", **self.where)
        return np.asarray(self._array[rows])


def shareable(images: ImageArray) -> ImageArray:
    """Return the same images, pickled without the pixels in a cache's file."""
    if isinstance(images, np.memmap):
        whole = images.mode == "r" and images.flags.c_contiguous and images.filename is not None
        # A slice of a map keeps the offset of the whole.
        return _File(images) if whole and not isinstance(images.base, np.memmap) else images
    if hasattr(images, "base") and not isinstance(images, np.ndarray):
        over = copy.copy(images)
        over.base = shareable(images.base)
        return over
    if hasattr(images, "parts"):
        joined = copy.copy(images)
        joined.parts = [shareable(part) for part in images.parts]
        return joined
    return images


def picture(images: ImageArray, row: int) -> NDArray[Any]:
    """Return one image, a fresh array."""
    image: NDArray[Any] = images[np.asarray([row])][0]
    return image
