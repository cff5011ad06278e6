"""Single films named by paths, folders and lists, without labels or a cohort."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, FilmError, UsageError
from leadapron.films.decoding import FilmFiles
from leadapron.films.preprocessing import FULL, Preprocessing
from leadapron.reading import other_than_file
from leadapron.sources.assembly import doubts_of
from leadapron.sources.dicom import may_be_dicom
from leadapron.sources.folder import SUFFIXES, walk
from leadapron.text import printable, short_path

__all__ = ["Decoded", "FilmFile", "decoded", "films_of"]

MOST = 1_000_000
"""Most films of one call."""

LONGEST_LINE = 65_536
"""Most bytes of a path in a list."""


@dataclass(frozen=True)
class FilmFile:
    """A film's file.

    Args:
        path: of the file.
        name: its name as the caller gave it.
    """

    path: str
    name: str


@dataclass(frozen=True, eq=False)
class Decoded:
    """A (size, size) image, and warnings about it."""

    image: NDArray[Any]
    doubts: Sequence[str]


def films_of(files: Sequence[str], listed: Iterable[bytes] = ()) -> tuple[list[FilmFile], int]:
    """Return the films that paths name, in order, and the number of other files in their folders.

    Args:
        files: files; folders, whose films come in the order of their paths; "-" for `listed`.
        listed: paths, one per line.

    Raises:
        UsageError: no path, or too many films.
        DataError: a folder without films, or that can't be read.
    """
    paths: list[str] = []
    for each in files:
        paths += _lines(listed) if each == "-" else [each]
    found: list[FilmFile] = []
    others = 0
    for path in paths:
        if "\0" not in path and os.path.isdir(path):  # noqa: PTH112 (paths may not be UTF-8)
            inside, left = _below(path)
            others += left
            found += inside
        else:
            found.append(FilmFile(path, short_path(path)))
        if len(found) > MOST:
            raise UsageError(f"more than {MOST:,} films; screen them in parts")
    if not found:
        raise UsageError("no films; expected files, folders, or - for a list of paths on stdin")
    return found, others


def decoded(
    film: FilmFile,
    preprocessing: Preprocessing,
    window: str,
    bits: int,
    modalities: Sequence[str] = (),
) -> Decoded:
    """Return a film's image, made as by a source of films in files.

    Args:
        film: its file.
        preprocessing: how the film becomes the image.
        window: of DICOM files, as `FilmFiles`.
        bits: bits in use in 16-bit pictures, as `FilmFiles`; 0 if unknown.
        modalities: of DICOM files, as `FilmFiles`.

    Raises:
        FilmError: a film that can't be used, in words that follow its name.
    """
    try:
        mode = os.stat(film.path).st_mode  # noqa: PTH116 (paths may not be UTF-8)
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or "invalid path"
        raise FilmError(f"can't be read ({words})", "missing") from error
    if kind := other_than_file(mode):
        raise FilmError(f"is a {kind}; expected a file", "unreadable")
    # With an empty name, the message starts with the error.
    files = FilmFiles([film.path], [""], window, bits, modalities)
    image, form = files.image(0, preprocessing)
    if not bits and 0 < form.used < FULL:
        raise FilmError(
            f"uses {form.used} of 16 bits, and no calibration film had 16 bits to compare"
        )
    side = preprocessing.size
    if image.shape != (side, side) or image.dtype != np.dtype(preprocessing.dtype):
        raise FilmError("gives an image of another size or type")
    return Decoded(image, doubts_of(form))


def _lines(listed: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(listed, 1):
        if len(line) > LONGEST_LINE or number > MOST:
            raise UsageError(
                f"line {number} of the list is too long, or the list has too many lines"
            )
        text = os.fsdecode(line.rstrip(b"\r\n"))
        if text.strip():
            yield text


def _below(folder: str) -> tuple[list[FilmFile], int]:
    """Films below a folder, by ending or DICOM mark, and the number of other files."""
    root = Path(folder)
    names, others = [], 0
    for name in walk(root):
        if name.lower().endswith(SUFFIXES) or may_be_dicom(root / name):
            names.append(name)
            if len(names) > MOST:
                raise UsageError(f"{folder} holds more than {MOST:,} films; screen them in parts")
        else:
            others += 1
    if not names:
        raise DataError(f"no PNG, JPEG or DICOM file in {printable(str(folder))}")
    start = folder.rstrip("/")
    # Films below a folder are named by their relative paths where its own path isn't shown.
    hidden = short_path(start) != start
    places = [(f"{start}/{name}", name) for name in sorted(names)]
    return [FilmFile(path, printable(name if hidden else path)) for path, name in places], others
