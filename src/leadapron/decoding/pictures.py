"""PNG and JPEG files to grey films."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from leadapron.decoding.isolation import LARGEST_FILM_PIXELS
from leadapron.errors import FilmError
from leadapron.types import Form, Odd

__all__ = ["read_picture", "refuse_large", "starts_as_picture"]

FORMATS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
"""What such files start with."""


def starts_as_picture(path: str) -> bool:
    """Whether a file starts as a PNG or JPEG file does, whatever its name."""
    with open(path, "rb") as file:  # noqa: PTH123 (paths may not be UTF-8)
        return file.read(8).startswith(tuple(FORMATS))


def refuse_large(height: int, width: int) -> None:
    """Raise FilmError for more pixels than a film can have."""
    if height * width > LARGEST_FILM_PIXELS:
        raise FilmError(
            f"has {width}x{height} pixels; expected at most "
            f"{LARGEST_FILM_PIXELS // 1_000_000} megapixels"
        )


def read_picture(path: str) -> tuple[NDArray[Any], Form]:
    """Return a film in grey, (height, width) uint8, or uint16 where the file has 16 bits.

    Returns:
        The film, and its form; odd is "colour" where it wasn't plain grey (colour, transparency,
        black and white).

    Raises:
        FilmError: a file that isn't a whole picture, or one of more than 100 megapixels.
    """
    Image.MAX_IMAGE_PIXELS = None  # ours is the limit, and it doesn't warn
    bits, odd = 8, tuple[Odd, ...]()
    try:
        with Image.open(path, formats=tuple(FORMATS.values())) as picture:
            refuse_large(picture.height, picture.width)
            kind = str(picture.format)
            picture.load()
            if picture.mode.startswith("I"):
                film: NDArray[Any] = np.asarray(picture).astype(np.uint16)
                bits = 16
            elif picture.mode == "L":
                film = np.asarray(picture)
            else:
                # A palette's transparency would make Pillow warn; it is dropped either way.
                picture.info.pop("transparency", None)
                film, odd = np.asarray(picture.convert("L")), ("colour",)
    except UnidentifiedImageError:
        raise FilmError("is not a readable PNG or JPEG file") from None
    except (FilmError, MemoryError, RecursionError):
        raise
    except Exception as error:
        # Of the first three Pillow's own words are safe: it quotes no pixels and no text chunks.
        words = str(error) if isinstance(error, SyntaxError | ValueError | OSError) else ""
        reason = " ".join(str(getattr(error, "strerror", None) or words).split())
        raise FilmError(
            f"is not a readable {kind_of(path)} file ({reason or type(error).__name__})"
        ) from None
    height, width = film.shape
    return film, Form(height=height, width=width, bits=bits, kind=kind, odd=odd)


def kind_of(path: str) -> str:
    """Return the format that a file's first bytes name."""
    with open(path, "rb") as file:  # noqa: PTH123 (paths may not be UTF-8)
        head = file.read(8)
    return next((name for magic, name in FORMATS.items() if head.startswith(magic)), "PNG or JPEG")
