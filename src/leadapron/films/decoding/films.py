"""Films in PNG, JPEG and DICOM files."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

import PIL
from numpy.typing import NDArray

from leadapron.errors import FilmError
from leadapron.films.decoding.isolation import ask
from leadapron.films.preprocessing import Preprocessing
from leadapron.types import Form

__all__ = ["WINDOW", "FilmFiles", "hashed"]

WINDOW = re.compile(r"full|film|header(?::([1-9]\d*))?|(-?\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
"""Valid values of `FilmFiles.window`."""

VERSION = 2
"""Version of the decoder, part of the cache's key: raise it when a file decodes differently."""

PICTURES = (".png", ".jpg", ".jpeg")

CODECS = {
    "pylibjpeg": "pylibjpeg",
    "openjpeg": "pylibjpeg-openjpeg",
    "libjpeg": "pylibjpeg-libjpeg",
    "jpeg_ls": "pyjpegls",
}
"""Modules that decompress DICOM pixels, and their packages."""


@dataclass(frozen=True, eq=False)
class FilmFiles:
    """Films in PNG, JPEG or DICOM files, recognised by their content and decoded on access.

    Args:
        paths: one file per film.
        names: the films' names in messages; the files' names if left out.
        window: of DICOM files: "header" (the VOI table or first window; without either, "full" for
            8 bits and "film" for more), "header:N" (the Nth window, from 1), "full" (the whole
            range of the stored bits), "film" (the film's lowest to its highest value), or
            "CENTRE/WIDTH".
        bits: number of bits in use in 16-bit pictures, 8 to 16; 0 leaves them unchanged.
        modalities: modalities that DICOM files may state, as ("CR", "DX"); all if empty. A file
            that states none is taken.
    """

    paths: Sequence[str]
    names: Sequence[str] | None = None
    window: str = "header"
    bits: int = 0
    modalities: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def decoder(self) -> str:
        """Everything except the files that the pixels depend on."""
        from importlib.metadata import version

        words = (
            f"decoder {VERSION}, Pillow {PIL.__version__}, pydicom {version('pydicom')}, "
            f"window {self.window}, bits {self.bits}"
        )
        if all(path.lower().endswith(PICTURES) for path in self.paths):
            return words
        # A codec that is installed later makes more films decodable.
        found = [package for module, package in CODECS.items() if find_spec(module) is not None]
        return ", ".join([words, *(f"{package} {version(package)}" for package in found)])

    def __getitem__(self, row: int, /) -> NDArray[Any]:
        """Return a film in grey, (height, width) uint8, or uint16 where it has more than 8 bits.

        Raises:
            FilmError: a file that can't be decoded, or more than 100 megapixels.
        """
        return self._asked(row, None)[0]

    def of_bits(self, bits: int) -> FilmFiles:
        """Return the films with another number of bits in use."""
        return replace(self, bits=bits)

    def path_of(self, row: int) -> str:
        """Return a film's file."""
        return self.paths[row]

    def image(self, row: int, preprocessing: Preprocessing) -> tuple[NDArray[Any], Form]:
        """Return a film's image and form; FilmError as in `__getitem__`."""
        return self._asked(row, preprocessing)

    def _asked(self, row: int, preprocessing: Preprocessing | None) -> tuple[NDArray[Any], Form]:
        settings = None if preprocessing is None else asdict(preprocessing)
        question = {
            "do": "film",
            "path": self.paths[row],
            "window": self.window,
            "bits": self.bits,
            "modalities": list(self.modalities),
        }
        try:
            facts, pixels = ask({**question, "preprocessing": settings})
            if pixels is None:
                raise FilmError("crashes its decoder")
            return pixels, Form.parsed(facts["form"])
        except FilmError as error:
            raise FilmError(f"{self._name(row)} {error}", error.kind) from None
        except (KeyError, ValueError, TypeError, AttributeError):  # taken over by a film
            raise FilmError(f"{self._name(row)} crashes its decoder") from None

    def _name(self, row: int) -> str:
        if self.names is not None:
            return self.names[row]
        return os.path.basename(self.paths[row])  # noqa: PTH119 (paths may not be UTF-8)


def hashed(text: str, salt: bytes) -> str:
    """Return the pseudonym of an identifier: 12 hex digits of HMAC-SHA256 with the salt."""
    content = text.strip().encode(errors="surrogateescape")
    return hmac.new(salt, content, hashlib.sha256).hexdigest()[:12]
