"""Headers of films, read with limits in the service's own process; no pixel is decoded there."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO

from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from leadapron.errors import FilmError

__all__ = ["FRAMES", "PIXELS", "is_dicom", "read_header"]

# A malformed header is read as far as possible; pydicom's warnings would quote its text.
config.settings.reading_validation_mode = config.IGNORE

START = 144
"""Bytes of the preamble, the mark, and the element that states the length of the meta header."""

LONGEST_META = 1 << 16
LARGEST = 1 << 23
"""Most bytes of the meta header, and before the pixels: tables and overlays take 2 MB."""

MOST_READS = 50_000
"""Most parts of elements, of which each has two or three, that are read: half a second."""

PIXELS, FRAMES = 0x7FE00008, 0x00280008
"""Last tags of interest: just before pixel data, and the number of frames."""


class _Whole(io.BytesIO):
    """Bytes of a few elements that end between two of them; pydicom would go on in all cases."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return bytes; FilmError if there are some, but too few, or after too many calls."""
        self.reads += 1
        if self.reads > MOST_READS:
            raise FilmError("has a header of too many elements")
        piece = super().read(size)
        if size is not None and 0 < len(piece) < size:
            raise FilmError("is a damaged DICOM file (it ends early)")
        return piece


def is_dicom(start: bytes) -> bool:
    """Return whether a file begins as a DICOM file, with a preamble."""
    return start[128:132] == b"DICM"


def read_header(file: BinaryIO, last: int = PIXELS) -> Dataset:
    """Return a film's header, with its meta header as `file_meta`.

    Args:
        file: a DICOM file with preamble.
        last: the last tag that is wanted.

    Raises:
        FilmError: damaged, or longer than `LARGEST` bytes.
    """
    start = file.read(START)
    length = int.from_bytes(start[140:144], "little")
    if not is_dicom(start) or start[132:140] != b"\2\0\0\0UL\4\0" or length > LONGEST_META:
        raise FilmError("is a damaged DICOM file (no meta header)")
    try:
        meta = dcmread(_Whole(start + file.read(length))).file_meta
        syntax = UID(str(meta.TransferSyntaxUID))
        known = bool(syntax.is_transfer_syntax)
        content = file.read(LARGEST)
        if syntax == DeflatedExplicitVRLittleEndian:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, LARGEST)
        reached = len(content) < LARGEST

        def stop(tag: BaseTag, _: str | None, __: int) -> bool:
            nonlocal reached
            reached = reached or tag > last
            return bool(tag > last)

        dataset = read_dataset(
            _Whole(content),
            known and syntax.is_implicit_VR,
            not known or syntax.is_little_endian,
            stop_when=stop,
        )
    except FilmError:
        raise
    except Exception as error:  # pydicom raises all kinds on a broken header, RecursionError too
        raise FilmError(f"is a damaged DICOM file ({type(error).__name__})") from None
    if not reached:
        raise FilmError("has a header of more than 8 MB")
    dataset.file_meta = meta
    return dataset
