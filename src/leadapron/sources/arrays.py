"""Images in .npz files, read as a stream, so that no array must fit in memory."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import threading
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from leadapron.errors import DataError, FilmError
from leadapron.films.cache import Cache, decode
from leadapron.films.preprocessing import Preprocessing, bits_of, spread
from leadapron.reading import open_regular
from leadapron.sources.words import plain_reason
from leadapron.store import with_characters
from leadapron.types import Form

__all__ = ["ArrayFilms", "read_array", "read_shapes"]

LARGEST_COLUMN = 1 << 30
"""Most bytes of an array that is read whole, such as labels and names."""

LARGEST_LIST = 1 << 20
"""Most bytes of an archive's directory."""

LARGEST_FILM_PIXELS = 100_000_000
MOST_FILMS = 10_000_000
KEPT = 64 << 20
"""Most bytes of buffered images that were read while seeking a later one."""


def read_shapes(file: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and type of each array, by its name; no pixels are read.

    Raises:
        DataError: no .npz file, or an array of Python objects.
    """
    try:
        with open_regular(file) as stream, _archive(stream) as archive:
            return {
                name: _member(archive, name)
                for name in (n[:-4] for n in archive.namelist() if n.endswith(".npy"))
            }
    except Exception as error:  # whatever zipfile and numpy raise on a damaged file
        raise DataError(f"{file.name} is not a readable .npz file: {plain_reason(error)}") from None


def read_array(file: Path, name: str) -> NDArray[Any]:
    """Return a small array of an .npz file.

    Args:
        file: the file.
        name: of the array.

    Raises:
        DataError: the array is missing, too large, or holds Python objects.
    """
    try:
        with open_regular(file) as stream, _archive(stream) as archive:
            shape, dtype = _member(archive, name)
            # An array of zero width may declare any number of elements in no bytes.
            if math.prod(shape) * max(dtype.itemsize, 1) > LARGEST_COLUMN:
                raise ValueError(f"it is larger than {LARGEST_COLUMN >> 30} GB")
            with archive.open(f"{name}.npy") as content:
                return with_characters(npy.read_array(content, allow_pickle=False))
    except Exception as error:
        raise DataError(f"{file.name}: {name} can't be read: {plain_reason(error)}") from None


def _archive(stream: BinaryIO) -> zipfile.ZipFile:
    """Open an archive, refusing one with too many entries.

    zipfile reads the whole directory of an archive, which may be larger than memory. The position
    of the directory's size is certain if the archive ends without a comment, as numpy's do.
    """
    stream.seek(0, os.SEEK_END)
    stream.seek(-min(stream.tell(), _TAIL), os.SEEK_END)
    tail = stream.read().rjust(_TAIL, b"\0")
    if tail[-22:-18] != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise ValueError("its end isn't that of an archive of arrays; it may be truncated")
    (size,) = struct.unpack_from("<I", tail, _TAIL - 10)
    if tail[56:60] == b"PK\6\7":
        (size,) = struct.unpack_from("<Q", tail, 40)
    if size > LARGEST_LIST:
        raise ValueError("it lists far more files than an archive of arrays has")
    return zipfile.ZipFile(stream)


_TAIL = 56 + 20 + 22
"""Bytes of the three records that an archive ends with, where it is a large one."""


def _member(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(f"{name}.npy") as content:
        shape, _, dtype = _header(content)
    return shape, dtype


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version != (1, 0):  # headers of later versions may be up to 4 GB long
        raise ValueError(f"an array of version {version}; expected (1, 0)")
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which may run code")
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError("an array of an invalid shape")
    return shape, fortran, dtype


class ArrayFilms:
    """Films that are the rows of arrays in an .npz file, one array after the other.

    Args:
        file: the .npz file.
        names: arrays of (n, h, w) or (n, h, w, 1), uint8 or uint16, all of one size.
        cache: where films at the file's own size are kept when read one by one.
        bits: number of bits in use in uint16 films, 8 to 16; 0 leaves them unchanged.

    Raises:
        DataError: arrays that aren't films.
    """

    def __init__(
        self, file: Path, names: Sequence[str], cache: Cache | None, bits: int = 0
    ) -> None:
        self.file, self.cache, self.bits = file, cache or Cache(), bits
        shapes = read_shapes(file)
        self.lengths: dict[str, int] = {}
        sizes = set()
        for name in names:
            shape, dtype = shapes[name]
            grey = shape[:3] if shape[3:] == (1,) else shape
            if len(grey) != 3 or dtype not in (np.uint8, np.uint16) or 0 in grey[1:]:
                raise DataError(
                    f"{file.name}: {name} of shape {shape} and type {dtype}; expected "
                    "(n, height, width) of uint8 or uint16"
                )
            if grey[1] * grey[2] > LARGEST_FILM_PIXELS:
                raise DataError(f"{file.name}: {name} has films of {grey[2]}x{grey[1]} pixels")
            if not 0 < grey[0] <= MOST_FILMS:
                raise DataError(f"{file.name}: {name} states {grey[0]:,} films")
            self.lengths[name] = grey[0]
            sizes.add((grey[1:], dtype))
        if len(sizes) != 1:
            raise DataError(f"{file.name}: {', '.join(names)} hold films of different sizes")
        (self.size, self.dtype), *_ = sizes
        self._lock = threading.Lock()
        self._stream: IO[bytes] | None = None
        self._opened = contextlib.ExitStack()
        weakref.finalize(self, self._opened.close)
        self._next = 0
        self._broken: tuple[int, str] | None = None
        self._passed: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._own: NDArray[Any] | None = None

    paths = property(lambda self: [str(self.file)])

    @property
    def decoder(self) -> str:
        """The arrays, their order, and the bits in use."""
        return f"npz {'+'.join(self.lengths)}, bits {self.bits}"

    def __len__(self) -> int:
        return sum(self.lengths.values())

    def image(self, row: int, preprocessing: Preprocessing) -> tuple[NDArray[Any], Form]:
        """Return a film's image and its form; fast if rows are read roughly in order."""
        height, width = self.size
        film = self._read(row)
        form = Form(
            height=height,
            width=width,
            bits=self.dtype.itemsize * 8,
            used=bits_of(film),
            kind="npz",
        )
        return preprocessing(self._spread(film, row)), form

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Return a film at the file's own size; the first access decodes all into the cache."""
        if self._own is None:
            if self.size[0] != self.size[1] or self.cache.folder is None:
                return self._spread(self._read(row), row)
            own = Preprocessing(size=self.size[0], dtype=str(self.dtype))  # type: ignore[arg-type]
            self._own = decode(self, own, self.cache, f"npz:{self.file.absolute()}").images
        return np.array(self._own[row])

    def of_bits(self, bits: int) -> ArrayFilms:
        """Return the films with another number of bits in use."""
        return ArrayFilms(self.file, list(self.lengths), self.cache, bits)

    def _spread(self, film: NDArray[Any], row: int) -> NDArray[Any]:
        try:
            return spread(film, self.bits)
        except FilmError as error:
            raise FilmError(f"{self.file.name}, film {row} {error}") from None

    def _read(self, row: int) -> NDArray[Any]:
        """One row of the stream; rows read on the way are buffered, and going back restarts it."""
        with self._lock:
            if row in self._passed:
                return self._passed.pop(row)
            if self._broken is not None and row >= self._broken[0]:  # don't read it all again
                raise DataError(f"{self.file.name}, film {row}: {self._broken[1]}")
            try:
                if row < self._next:
                    self._close()
                while True:
                    number, film = self._next, self._film()
                    if number == row:
                        return film
                    self._passed[number] = film
                    while len(self._passed) * film.nbytes > KEPT:
                        self._passed.popitem(last=False)
            except Exception as error:  # whatever zipfile and zlib raise
                self._broken = self._next, plain_reason(error)
                self._close()
                raise DataError(f"{self.file.name}, film {row}: {self._broken[1]}") from None

    def _film(self) -> NDArray[Any]:
        ends = np.cumsum(list(self.lengths.values()))
        number = int(np.searchsorted(ends, self._next, side="right"))
        name = list(self.lengths)[number]
        if self._stream is None or self._next == ends[number] - self.lengths[name]:
            self._open(name)
        assert self._stream is not None
        expected = self.size[0] * self.size[1] * self.dtype.itemsize
        content = self._stream.read(expected)
        if len(content) < expected:
            raise EOFError("the file ends before its last film")
        film = np.frombuffer(content, dtype=self.dtype).reshape(self.size).copy()
        self._next += 1
        if self._next == len(self):
            self._opened.close()
            self._stream, self._next = None, 0
        return film

    def _open(self, name: str) -> None:
        self._opened.close()
        file = self._opened.enter_context(open_regular(self.file))
        archive = self._opened.enter_context(_archive(file))
        self._stream = self._opened.enter_context(archive.open(f"{name}.npy"))
        shape, fortran, dtype = _header(self._stream)
        if (shape[:3], dtype) != ((self.lengths[name], *self.size), self.dtype):
            raise ValueError("it changed while it was read")
        if fortran:
            raise ValueError(f"{name} is in Fortran order; save it in C order")

    def _close(self) -> None:
        self._opened.close()
        self._stream, self._next = None, 0
        self._passed.clear()
