"""Films in PNG files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from leadapron.errors import DataError

__all__ = ["PngFilms"]

_LARGEST_FILM_PIXELS = 100_000_000
# What Pillow raises over files that are damaged or hostile.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class PngFilms:
    """Films in PNG files, decoded when asked for.

    Args:
        paths: one file a film.
    """

    paths: Sequence[str]
    decoder = f"Pillow {PIL.__version__}, PNG"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int, /) -> NDArray[Any]:
        """Return a film in grey, (height, width) uint8, or uint16 where the file has 16 bits.

        Raises:
            DataError: a file that can't be decoded, or more than 100 megapixels.
        """
        return self.read(row)[0].copy()

    def read(self, row: int) -> tuple[NDArray[Any], str]:
        """Return a film as above, not to be written to, and the form of its file.

        Forms are "grey", "colour" (also transparency, or black and white) and "16 bits".
        """
        name = os.path.basename(self.paths[row])  # noqa: PTH119 (called for every film)
        try:
            # Not Image.open: no other format is tried, and its warning over size is process-wide.
            with PngImageFile(self.paths[row]) as picture:
                width, height = picture.size
                if width * height > _LARGEST_FILM_PIXELS:
                    raise DataError(
                        f"{name}: {width}x{height} pixels; expected at most "
                        f"{_LARGEST_FILM_PIXELS // 1_000_000} megapixels"
                    )
                picture.load()
                if picture.mode == "L":
                    return np.asarray(picture), "grey"
                if picture.mode.startswith("I"):
                    return np.asarray(picture).astype(np.uint16), "16 bits"
                # A palette's transparency would make Pillow warn; it is dropped either way.
                picture.info.pop("transparency", None)
                return np.asarray(picture.convert("L")), "colour"
        except _UNREADABLE as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            reason = " ".join(reason.split()) or type(error).__name__
            raise DataError(f"{name}: not a readable PNG file ({reason})") from None
