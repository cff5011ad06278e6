"""DICOM files to grey films as a reader would see them: PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.4 N.2.

The steps are stored values, modality transform, VOI transform and presentation. Of a header's text,
only what `read_header` names leaves this module; identifiers of patients and files are hashed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from typing import Any, BinaryIO, ParamSpec, TypeVar

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import get_j2k_parameters, pixel_array
from pydicom.uid import UID

from leadapron.errors import FilmError
from leadapron.films.decoding.dicom_greys import OVERLAYS, TAGS, number, real, shown
from leadapron.films.decoding.films import hashed
from leadapron.films.decoding.pictures import refuse_large
from leadapron.text import clean
from leadapron.types import Form, Odd

__all__ = ["read_dicom", "read_header", "squared_shape"]

# A malformed header is read as far as possible; pydicom's warnings would quote its text.
config.settings.reading_validation_mode = config.IGNORE

FILM_TAGS: list[Any] = [
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows",
    "Columns", "PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "SmallestImagePixelValue",
    "LargestImagePixelValue", "PresentationLUTShape", "PixelData", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "SOPClassUID", "Modality", *TAGS, *OVERLAYS,
]  # fmt: skip
HEADER_TAGS: list[Any] = [
    "SOPInstanceUID", "PatientID", "StudyInstanceUID", "Modality", "ViewPosition", "PatientSex",
    "PatientAge", "Manufacturer", "ManufacturerModelName", "Rows", "Columns", "NumberOfFrames",
]  # fmt: skip

MACHINE = ("Manufacturer", "ManufacturerModelName")

MODALITIES = (
    "AU", "BI", "BMD", "CR", "CT", "DOC", "DX", "ECG", "ES", "GM", "IO", "IVUS", "KO", "MG", "MR",
    "NM", "OCT", "OP", "OPT", "OT", "PR", "PT", "PX", "RF", "RG", "SC", "SEG", "SM", "SR", "US",
    "VL", "XA", "XC",
)  # fmt: skip
"""Modalities that a message may name; from PS3.3 C.7.3.1.1.1."""

JPEG = "1.2.840.10008.1.2.4"
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

UNSEEN = {
    "": "has no photometric interpretation, so low values may be black or white",
    "PALETTE COLOR": "is in palette colour, which is meant for false colours; expected grey or RGB",
}
"""Messages for photometric interpretations that aren't supported."""

LIBJPEG, OPENJPEG, CHARLS = (
    (("pylibjpeg", "libjpeg"), "pylibjpeg and pylibjpeg-libjpeg (under the GPL)"),
    (("pylibjpeg", "openjpeg"), "pylibjpeg and pylibjpeg-openjpeg"),
    (("jpeg_ls",), "pyjpegls"),
)
DECODERS = {
    **dict.fromkeys(("51", "57", "70"), LIBJPEG),
    **dict.fromkeys(("80", "81"), CHARLS),
    **dict.fromkeys(("201", "202", "203"), OPENJPEG),
}
"""Modules and packages that decode a transfer syntax, by the end of 1.2.840.10008.1.2.4.N.

`pip install "leadapron[dicom]"` brings the free ones. Pillow decodes 50, 90, 91, and 51 of 8 bits.
"""

CORNER, BRIGHTER = 0.1, 0.15
"""Sides of the upper corners, as shares of the film's, and how much brighter than the rest, from 0
to 1, they must be for a film to look inverted: next to the neck there is air, or no exposure.

Measured on 500 random films each of NIH and of Kermany et al.: it fires on 5 and 1 as they are, all
with a white unexposed frame or something bright next to the neck, and on 471 and 406 inverted.
"""

VIEWS = {"PA", "AP", "LL", "RL", "LATERAL", "LLD", "RLD"}

P = ParamSpec("P")
R = TypeVar("R")


def _in_our_words(read: Callable[P, R]) -> Callable[P, R]:
    """Make `read` raise FilmError in place of whatever pydicom raises on a broken header.

    pydicom parses an element on access, so errors can occur anywhere.
    """

    @wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return read(*args, **kwargs)
        except (FilmError, MemoryError, RecursionError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno:  # the disk's, and not pydicom's
                raise
            raise FilmError(f"is a damaged DICOM file ({type(error).__name__})") from None

    return reading


@_in_our_words
def read_header(file: str | BinaryIO, salt: bytes) -> dict[str, Any]:
    """Return the header fields that a cohort needs.

    Returns:
        "patient", "film" and "study", hashed with the salt; "view", "sex" and "age" in years;
        "scanner", manufacturer and model; and "pixels", whether the file has any.

    Raises:
        FilmError: not a DICOM file.
    """
    dataset = _parsed(file, HEADER_TAGS, pixels=False)

    def text(name: str) -> str:
        value = dataset.get(name)
        return "" if value is None else str(value).strip()

    facts: dict[str, Any] = {
        name: hashed(text(tag), salt) if text(tag) else ""
        for name, tag in (
            ("patient", "PatientID"),
            ("film", "SOPInstanceUID"),
            ("study", "StudyInstanceUID"),
        )
    }
    view, sex = text("ViewPosition").upper(), text("PatientSex").upper()
    return {
        **facts,
        "view": view if view in VIEWS else "",
        "sex": sex if sex in ("M", "F", "O") else "",
        "age": _years(text("PatientAge")),
        "scanner": clean(" ".join(filter(None, map(text, MACHINE)))),
        "pixels": "Rows" in dataset and "Columns" in dataset,
    }


@_in_our_words
def read_dicom(
    file: str | BinaryIO, window: str = "header", modalities: Sequence[str] = ()
) -> tuple[NDArray[Any], Form]:
    """Return a film in grey with bright bones, (height, width) uint8 or uint16.

    Args:
        file: a path or an open file, with or without preamble.
        window: as `FilmFiles.window`.
        modalities: as `FilmFiles.modalities`.

    Returns:
        The film, uint16 if more than 8 bits are stored, and its form.

    Raises:
        FilmError: not a DICOM file, another modality, not a single frame, a missing codec, or
            damaged pixels.
    """
    dataset = _parsed(file, FILM_TAGS, pixels=True)
    _refuse_other_modality(dataset, modalities)
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip()
    _refuse_unusable(dataset, photometric)
    stream = _stream_bits(dataset)
    raw = _decoded(dataset, stream)
    if raw.ndim != (3 if photometric in COLOUR else 2):
        raise FilmError("has a photometric interpretation that doesn't fit its pixels")
    bits = number(dataset, "BitsStored")
    used, odd = "", list[Odd]()
    if photometric in COLOUR:
        bits = max(bits, int(raw.max()).bit_length())
        unit = _grey(raw, bits)
        odd.append("colour")
    else:
        unit, padded, bits, used, odd = shown(raw, dataset, window, stream)
        if photometric == "MONOCHROME1":
            unit = 1 - unit
        unit[padded] = 0
        odd += _doubts(unit, padded, photometric, str(dataset.get("PresentationLUTShape", "")))
    unit, squared = _square_pixels(unit, dataset)
    if squared:
        odd.append("not square")
    form = Form(
        height=raw.shape[0],
        width=raw.shape[1],
        bits=bits,
        kind="DICOM",
        photometric=photometric,
        syntax=_syntax(dataset).name,
        window=used,
        odd=tuple(odd),
    )
    dtype, most = (np.uint8, 255) if bits <= 8 else (np.uint16, 65535)
    return np.rint(unit * np.float32(most)).astype(dtype), form


# --- the file


def _parsed(file: str | BinaryIO, tags: list[Any], *, pixels: bool) -> FileDataset:
    try:
        return dcmread(file, stop_before_pixels=not pixels, specific_tags=tags)
    except InvalidDicomError:
        # Files of older devices lack the preamble and the meta header.
        try:
            dataset = dcmread(file, stop_before_pixels=not pixels, specific_tags=tags, force=True)
            known = {"SOPClassUID", "Rows", "SOPInstanceUID"} & set(dataset.dir())
        except (MemoryError, RecursionError):
            raise
        except Exception:
            known = set()
        if not known:
            raise FilmError("is not a PNG, JPEG or DICOM file") from None
        return dataset


def _refuse_other_modality(dataset: FileDataset, allowed: Sequence[str]) -> None:
    stated = str(dataset.get("Modality") or "").strip().upper()
    if allowed and stated and stated not in allowed:
        # Anything else in its place may be a patient's data, which isn't repeated.
        word = stated if stated in MODALITIES else "another one"
        raise FilmError(f"is of modality {word}; expected {' or '.join(allowed)}")


def _refuse_unusable(dataset: FileDataset, photometric: str) -> None:
    missing = [n for n in ("Rows", "Columns", "BitsAllocated", "BitsStored") if not dataset.get(n)]
    if "PixelData" not in dataset or missing:
        raise FilmError(f"has no {missing[0] if missing else 'PixelData'}: not a film")
    frames = number(dataset, "NumberOfFrames", 1) or 1
    if frames != 1:
        raise FilmError(f"has {frames} frames; expected one")
    if photometric not in (*GREY, *COLOUR):
        other = "has a photometric interpretation that isn't supported"
        raise FilmError(UNSEEN.get(photometric, other))
    bits, allocated = number(dataset, "BitsStored"), number(dataset, "BitsAllocated")
    if not (allocated in (8, 16, 32) and 2 <= bits <= min(allocated, 16)):
        raise FilmError(f"stores {bits} of {allocated} bits; expected 2 to 16 of 8, 16 or 32")
    rows, columns = number(dataset, "Rows"), number(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise FilmError(f"has {columns}x{rows} pixels")
    refuse_large(rows, columns)


def _syntax(dataset: FileDataset) -> UID:
    meta = getattr(dataset, "file_meta", None)
    stated = meta.get("TransferSyntaxUID") if meta is not None else None
    if stated:
        return UID(str(stated))
    little, implicit = dataset.original_encoding[1], dataset.original_encoding[0]
    if not little:
        return pydicom.uid.ExplicitVRBigEndian
    return pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian


def _stream_bits(dataset: FileDataset) -> int | None:
    """Bits of a value that a JPEG stream itself states; None where there is none."""
    if not str(_syntax(dataset)).startswith(f"{JPEG}."):
        return None
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except Exception:
        return None  # decoding will report it
    wavelets = get_j2k_parameters(frame)  # empty for other streams
    if wavelets:
        return int(wavelets["precision"])
    place = 2  # behind the start; each segment has a mark and a length, the frame's its bits
    while place + 4 < len(frame) and frame[place] == 0xFF:
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return frame[place + 4]
        place += 2 + length
    return None


def _decoded(dataset: FileDataset, stream: int | None) -> NDArray[Any]:
    """The stored values, or RGB; (height, width) or (height, width, 3)."""
    syntax = _syntax(dataset)
    if not getattr(dataset, "file_meta", None):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    if "PixelRepresentation" not in dataset:
        dataset.PixelRepresentation = 0
    if "SamplesPerPixel" not in dataset:
        dataset.SamplesPerPixel = 1
    if number(dataset, "BitsAllocated") == 8 and (stream or 0) > 8:
        dataset.BitsAllocated = 16  # else pydicom puts the values into bytes
    try:
        get_decoder(syntax)
    except NotImplementedError:
        raise FilmError("is compressed in an unknown way") from None
    try:
        raw: NDArray[Any] = pixel_array(dataset, correct_unused_bits=False)
    except MemoryError:
        raise
    except Exception as error:
        prefix, _, end = str(syntax).rpartition(".")
        modules, packages = DECODERS.get(end, ((), "")) if prefix == JPEG else ((), "")
        by_pillow = end == "51" and number(dataset, "BitsStored") == 8
        if not by_pillow and any(find_spec(module) is None for module in modules):
            name = syntax.name.partition(",")[0]
            raise FilmError(f"is compressed as {name}; to decode it, install {packages}") from None
        raise FilmError(f"holds damaged pixels ({type(error).__name__})") from None
    shape = (number(dataset, "Rows"), number(dataset, "Columns"))
    if raw.shape[:2] != shape or raw.ndim not in (2, 3):
        raise FilmError(f"holds {raw.shape} pixels where its header says {shape}")
    return raw


# --- presentation


def _grey(raw: NDArray[Any], bits: int) -> NDArray[np.float32]:
    """Luma of a colour film, ITU-R 601 as Pillow's."""
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    unit: NDArray[np.float32] = raw.astype(np.float32) @ weights / np.float32((1 << bits) - 1)
    return np.clip(unit, 0, 1)


def _doubts(
    unit: NDArray[np.float32], padded: NDArray[np.bool_], photometric: str, shape: str
) -> list[Odd]:
    """Evidence against the stated photometric interpretation."""
    found = list[Odd]()
    expected = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}[photometric]
    if shape.strip() in ("INVERSE", "IDENTITY") and shape.strip() != expected:
        found.append("contradicts its presentation")
    rows, columns = (max(1, round(side * CORNER)) for side in unit.shape)
    inside = np.s_[rows:-rows, columns:-columns]
    parts = (np.s_[:rows, :columns], np.s_[:rows, -columns:], inside)
    left, right, rest = (unit[part][~padded[part]] for part in parts)
    corners = np.concatenate([left, right])
    if corners.size and rest.size and corners.mean() - rest.mean() > BRIGHTER:
        found.append("looks inverted")
    return found


def squared_shape(dataset: Dataset, height: int, width: int) -> tuple[int, int]:
    """Return height and width that a film has once its pixels are square; it is only enlarged.

    Args:
        dataset: its header.
        height: its rows.
        width: its columns.
    """
    for name in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        value = dataset.get(name)
        if isinstance(value, Sequence) and len(value) == 2:
            down, across = real(value[0]), real(value[1])
            break
    else:
        return height, width
    if not (down > 0 and across > 0 and 0.1 <= down / across <= 10):
        return height, width
    if abs(down / across - 1) < 0.01:
        return height, width
    if down > across:
        return round(height * down / across), width
    return height, round(width * across / down)


def _square_pixels(unit: NDArray[np.float32], dataset: Dataset) -> tuple[NDArray[np.float32], bool]:
    """The film with square pixels."""
    height, width = squared_shape(dataset, *unit.shape)
    if unit.shape == (height, width):
        return unit, False
    refuse_large(height, width)
    picture = Image.fromarray(unit).resize((width, height), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(picture, dtype=np.float32), 0, 1), True


def _years(text: str) -> float | None:
    match = re.fullmatch(r"(\d{1,3})([YMWD])", text.upper())
    if match is None:
        return None
    share = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}[match[2]]
    return float(match[1]) * share
