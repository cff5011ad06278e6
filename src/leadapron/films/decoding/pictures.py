"""PNG and JPEG files to grey films."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from leadapron.errors import FilmError
from leadapron.films.decoding.isolation import LARGEST_FILM_PIXELS
from leadapron.films.preprocessing import bits_of, spread
from leadapron.types import Form, Odd

__all__ = ["read_picture", "refuse_large", "starts_as_picture"]

FORMATS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
"""First bytes of the files of each format."""

ORIENTATION = 0x0112
"""EXIF tag of a picture's orientation."""

DARK = 128
"""Highest grey level below which a 16-bit colour picture, of which only the upper 8 bits are read,
is reported as possibly too dark."""


def starts_as_picture(file: str | BinaryIO) -> bool:
    """Whether a file, by its path or open, starts as a PNG or JPEG file does."""
    return _start(file).startswith(tuple(FORMATS))


def _start(file: str | BinaryIO) -> bytes:
    if isinstance(file, str):
        with open(file, "rb") as opened:  # noqa: PTH123 (paths may not be UTF-8)
            return opened.read(8)
    file.seek(0)
    start = file.read(8)
    file.seek(0)
    return start


def refuse_large(height: int, width: int) -> None:
    """Raise FilmError for more pixels than a film can have."""
    if height * width > LARGEST_FILM_PIXELS:
        raise FilmError(
            f"has {width}x{height} pixels; expected at most "
            f"{LARGEST_FILM_PIXELS // 1_000_000} megapixels"
        )


def read_picture(file: str | BinaryIO, bits: int = 0) -> tuple[NDArray[Any], Form]:
    """Return a film in grey, (height, width) uint8, or uint16 where the file has 16 bits.

    The film is rotated to its EXIF orientation.

    Args:
        file: a path or an open file.
        bits: as `FilmFiles.bits`.

    Returns:
        The film and its form, whose `odd` has "colour" if the picture wasn't plain grey (colour,
        transparency, or black and white).

    Raises:
        FilmError: an incomplete picture, more than 100 megapixels, or values too large for the
            bits.
    """
    Image.MAX_IMAGE_PIXELS = None  # our own limit applies, and it raises instead of warning
    odd = list[Odd]()
    try:
        with Image.open(file, formats=tuple(FORMATS.values())) as picture:
            refuse_large(picture.height, picture.width)
            kind = str(picture.format)
            deep = "16" in str(picture.tile[0][3])  # Pillow's name for the file's own pixels
            picture.load()
            upright = _turned(picture, odd)
            if upright.mode.startswith("I"):
                film: NDArray[Any] = np.asarray(upright).astype(np.uint16)
            elif upright.mode == "L":
                film = np.asarray(upright)
            else:
                # Pillow would warn about a palette's transparency; it is dropped either way.
                upright.info.pop("transparency", None)
                film = np.asarray(upright.convert("L"))
                odd.append("colour")
                if deep and film.max() < DARK:
                    odd.append("colour of 16 bits")
    except UnidentifiedImageError:
        raise FilmError("is not a readable PNG or JPEG file") from None
    except (FilmError, MemoryError, RecursionError):
        raise
    except Exception as error:
        # Pillow's messages for the first three are safe: they quote no pixels and no text chunks.
        words = str(error) if isinstance(error, SyntaxError | ValueError | OSError) else ""
        reason = " ".join(str(getattr(error, "strerror", None) or words).split())
        raise FilmError(
            f"is not a readable {kind_of(file)} file ({reason or type(error).__name__})"
        ) from None
    form = Form(
        height=film.shape[0],
        width=film.shape[1],
        bits=8 * film.dtype.itemsize,
        used=bits_of(film),
        kind=kind,
        odd=tuple(odd),
    )
    return spread(film, bits), form


def _turned(picture: Image.Image, odd: list[Odd]) -> Image.Image:
    """The picture, rotated to its EXIF orientation."""
    try:
        Image.Exif().load(picture.info.get("exif") or b"")  # the picture's own may have failed
        orientation = picture.getexif().get(ORIENTATION, 1)
        if orientation in (0, 1):  # 0 means unknown
            return picture
        turned = ImageOps.exif_transpose(picture) if orientation in range(2, 9) else None
    except MemoryError:
        raise
    except Exception:  # whatever Pillow raises on odd EXIF
        turned = None
    odd.append("may be turned" if turned is None else "turned")
    return turned or picture


def kind_of(file: str | BinaryIO) -> str:
    """Return the format of a file, from its first bytes."""
    start = _start(file)
    return next((name for magic, name in FORMATS.items() if start.startswith(magic)), "PNG or JPEG")
