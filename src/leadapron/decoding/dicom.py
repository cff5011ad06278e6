"""DICOM files to grey films as a reader would see them: PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.4 N.2.

Stored values, modality transform, VOI transform, presentation. No text of a header leaves this
module but what `read_header` names; patients' and files' identifiers leave it hashed.
"""

from __future__ import annotations

import math
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
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from leadapron.decoding.films import WINDOW, hashed
from leadapron.decoding.pictures import refuse_large
from leadapron.errors import FilmError
from leadapron.types import Form, Odd

__all__ = ["read_dicom", "read_header"]

# A header that breaks rules is read as far as it goes; pydicom's warnings would quote it.
config.settings.reading_validation_mode = config.IGNORE

FILM_TAGS = [
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows",
    "Columns", "PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "SmallestImagePixelValue",
    "LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "RescaleType", "VOILUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "PresentationLUTShape", "PixelData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "SOPClassUID",
]  # fmt: skip
HEADER_TAGS = [
    "SOPInstanceUID", "PatientID", "StudyInstanceUID", "Modality", "ViewPosition", "PatientSex",
    "PatientAge", "Rows", "Columns", "NumberOfFrames",
]  # fmt: skip

JPEG = "1.2.840.10008.1.2.4"
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

LIBJPEG, OPENJPEG, CHARLS = (
    (("pylibjpeg", "libjpeg"), "pylibjpeg and pylibjpeg-libjpeg (GPL, so it's your choice)"),
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
to 1, they must be for a film to look inverted: beside the neck there is air, or no exposure.

Measured on 500 random films each of NIH and of Kermany et al.: it fires on 5 and 1 as they are, all
with a white unexposed frame or something bright beside the neck, and on 471 and 406 inverted.
"""

VIEWS = {"PA", "AP", "LL", "RL", "LATERAL", "LLD", "RLD"}

P = ParamSpec("P")
R = TypeVar("R")


def _in_our_words(read: Callable[P, R]) -> Callable[P, R]:
    """Have `read` raise FilmError in place of whatever pydicom raises on a broken header.

    pydicom parses an element when it is asked for it, so that may be anywhere.
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
    """Return what a cohort needs of a header.

    Returns:
        "patient", "film" and "study", hashed under the salt; "view", "sex", "age" in years; and
        "pixels", whether there are any.

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
        "pixels": "Rows" in dataset and "Columns" in dataset,
    }


@_in_our_words
def read_dicom(file: str | BinaryIO, window: str = "header") -> tuple[NDArray[Any], Form]:
    """Return a film in grey with bright bones, (height, width) uint8 or uint16.

    Args:
        file: its path, or the file open; with or without preamble.
        window: as `FilmFiles.window`.

    Returns:
        The film, uint16 where more than 8 bits are stored; and its form.

    Raises:
        FilmError: not a DICOM file, no single frame, a codec that isn't there, damaged pixels.
    """
    dataset = _parsed(file, FILM_TAGS, pixels=True)
    photometric = str(dataset.get("PhotometricInterpretation", "")).strip()
    _refuse_unusable(dataset, photometric)
    raw = _decoded(dataset)
    if raw.ndim != (3 if photometric in COLOUR else 2):
        raise FilmError("has a photometric interpretation that doesn't fit its pixels")
    bits = _number(dataset, "BitsStored")
    used, odd = "", list[Odd]()
    if photometric in COLOUR:
        unit = _grey(raw, bits)
        odd.append("colour")
    else:
        stored = _unused_bits_removed(raw, dataset)
        padded = _padding(stored, dataset)
        unit, used = _windowed(stored, padded, dataset, window)
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


def _parsed(file: str | BinaryIO, tags: list[str], *, pixels: bool) -> FileDataset:
    wanted: list[Any] = list(tags)
    try:
        return dcmread(file, stop_before_pixels=not pixels, specific_tags=wanted)
    except InvalidDicomError:
        # Older devices leave out preamble and meta header.
        try:
            dataset = dcmread(file, stop_before_pixels=not pixels, specific_tags=wanted, force=True)
            known = {"SOPClassUID", "Rows", "SOPInstanceUID"} & set(dataset.dir())
        except (MemoryError, RecursionError):
            raise
        except Exception:
            known = set()
        if not known:
            raise FilmError("is not a PNG, JPEG or DICOM file") from None
        return dataset


def _number(dataset: FileDataset, name: str, default: int | None = None) -> int:
    value = dataset.get(name)
    if (value is None or value == "") and default is not None:
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise FilmError(f"has a {name} that is no number") from None


def _refuse_unusable(dataset: FileDataset, photometric: str) -> None:
    missing = [n for n in ("Rows", "Columns", "BitsAllocated", "BitsStored") if not dataset.get(n)]
    if "PixelData" not in dataset or missing:
        raise FilmError(f"has no {missing[0] if missing else 'PixelData'}: not a film")
    frames = _number(dataset, "NumberOfFrames", 1) or 1
    if frames != 1:
        raise FilmError(f"has {frames} frames; expected one")
    if photometric not in (*GREY, *COLOUR):
        raise FilmError("has a photometric interpretation that no film has")
    bits, allocated = _number(dataset, "BitsStored"), _number(dataset, "BitsAllocated")
    if not (allocated in (8, 16, 32) and 2 <= bits <= min(allocated, 16)):
        raise FilmError(f"stores {bits} of {allocated} bits; expected 2 to 16 of 8, 16 or 32")
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
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


def _decoded(dataset: FileDataset) -> NDArray[Any]:
    """The stored values, or RGB; (height, width) or (height, width, 3)."""
    syntax = _syntax(dataset)
    if not getattr(dataset, "file_meta", None):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    if "PixelRepresentation" not in dataset:
        dataset.PixelRepresentation = 0
    if "SamplesPerPixel" not in dataset:
        dataset.SamplesPerPixel = 1
    try:
        get_decoder(syntax)
    except NotImplementedError:
        raise FilmError("is compressed in a way that isn't known here") from None
    try:
        raw: NDArray[Any] = pixel_array(dataset, correct_unused_bits=False)
    except MemoryError:
        raise
    except Exception as error:
        prefix, _, end = str(syntax).rpartition(".")
        modules, packages = DECODERS.get(end, ((), "")) if prefix == JPEG else ((), "")
        by_pillow = end == "51" and _number(dataset, "BitsStored") == 8
        if not by_pillow and any(find_spec(module) is None for module in modules):
            name = syntax.name.partition(",")[0]
            raise FilmError(f"is compressed as {name}; to decode it, install {packages}") from None
        raise FilmError(f"holds damaged pixels ({type(error).__name__})") from None
    shape = (_number(dataset, "Rows"), _number(dataset, "Columns"))
    if raw.shape[:2] != shape or raw.ndim not in (2, 3):
        raise FilmError(f"holds {raw.shape} pixels where its header says {shape}")
    return raw


# --- stored values to what is seen


def _unused_bits_removed(raw: NDArray[Any], dataset: FileDataset) -> NDArray[Any]:
    """Values of the stored bits alone; old devices keep overlays in the others."""
    allocated, bits = raw.dtype.itemsize * 8, _number(dataset, "BitsStored")
    low = _number(dataset, "HighBit", bits - 1) - bits + 1
    if bits == allocated or low < 0 or low + bits > allocated:
        return raw
    if raw.dtype.kind == "u":
        kept: NDArray[Any] = (raw >> low) & raw.dtype.type((1 << bits) - 1)
        return kept
    up = allocated - bits - low
    signed: NDArray[Any] = (raw << up) >> (allocated - bits)
    return signed


def _padding(stored: NDArray[Any], dataset: FileDataset) -> NDArray[np.bool_]:
    """Where there is no film: PixelPaddingValue, or up to PixelPaddingRangeLimit."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return np.zeros(stored.shape, dtype=np.bool_)
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    return (stored >= low) & (stored <= high)


def _windowed(
    stored: NDArray[Any], padded: NDArray[np.bool_], dataset: FileDataset, window: str
) -> tuple[NDArray[np.float32], str]:
    """Values from 0 to 1 after modality and VOI transform, and which window was used."""
    match = WINDOW.fullmatch(window)
    assert match is not None  # the source checks it
    values = _modality(stored, dataset)
    if match[2] is not None:
        return _linear(values, float(match[2]), float(match[3])), window
    if window.startswith("header"):
        index = int(match[1] or 1) - 1
        table = _table(values, dataset, index)
        if table is not None:
            return table, "table"
        found = _header_window(dataset, index)
        if found is not None:
            centre, width = found
            function = str(dataset.get("VOILUTFunction", "LINEAR")).strip().upper() or "LINEAR"
            return _FUNCTIONS.get(function, _linear)(values, centre, width), f"{centre:g}/{width:g}"
        if index:
            raise FilmError(f"has no window {index + 1}")
    bits = _number(dataset, "BitsStored")
    # Eight bits were made to be shown as they are; more need a window, as viewers choose one.
    if window == "full" or (window == "header" and bits <= 8):
        signed = _number(dataset, "PixelRepresentation", 0) == 1
        ends = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        extremes = _modality(np.asarray(ends, dtype=stored.dtype), dataset)
        return _between(values, float(extremes.min()), float(extremes.max())), "full"
    seen = values[~padded]
    if not seen.size:
        return np.zeros(values.shape, dtype=np.float32), "film"
    return _between(values, float(seen.min()), float(seen.max())), "film"


def _table(values: NDArray[Any], dataset: FileDataset, index: int) -> NDArray[np.float32] | None:
    """Values through a VOI lookup table, PS3.3 C.11.2.1.1; None where there is none."""
    items = dataset.get("VOILUTSequence") or []
    if index >= len(items):
        return None
    found, bits = _looked_up(values, items[index], little=dataset.original_encoding[1] is not False)
    return _between(found, 0, (1 << bits) - 1)


def _modality(stored: NDArray[Any], dataset: FileDataset) -> NDArray[Any]:
    """Values through the modality table or rescale slope and intercept, PS3.3 C.11.1."""
    items = dataset.get("ModalityLUTSequence")
    if items:
        return _looked_up(stored, items[0], little=dataset.original_encoding[1] is not False)[0]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope in (None, "") or intercept in (None, ""):
        return stored
    slope, intercept = float(slope), float(intercept)
    if not (1e-9 < abs(slope) < 1e9 and abs(intercept) < 1e12):
        raise FilmError("has a rescale slope or intercept that makes no sense")
    values: NDArray[np.float64] = stored.astype(np.float64)
    values *= slope
    values += intercept
    return values


def _looked_up(values: NDArray[Any], item: Any, *, little: bool) -> tuple[NDArray[Any], int]:
    """Values through a lookup table, and the bits of its entries, PS3.3 C.11.1.1."""
    entries, first, bits = (int(n) for n in item.LUTDescriptor)
    entries = entries or 65536
    data = item.LUTData
    if not isinstance(data, bytes):
        data = np.atleast_1d(np.asarray(data)).astype(np.uint16).astype("<u2").tobytes()
        little = True
    # Eight bits may stand in sixteen: the length tells.
    wide = len(data) >= 2 * entries or bits > 8
    kind = f"{'<' if little else '>'}u2" if wide else "u1"
    table = np.frombuffer(data[: len(data) // 2 * 2], dtype=kind)[:entries]
    if not (table.size and 2 <= bits <= 16):
        raise FilmError("has a lookup table that makes no sense")
    if first > 32767 and values.min() < 0:
        first -= 65536  # a signed number in an unsigned field
    places = values if values.dtype.kind in "iu" else np.rint(np.clip(values, -(2.0**30), 2.0**30))
    places = np.clip(places.astype(np.int32) - first, 0, len(table) - 1)
    return table.astype(np.uint16)[places], bits


def _header_window(dataset: FileDataset, index: int) -> tuple[float, float] | None:
    pairs = []
    for name in ("WindowCenter", "WindowWidth"):
        value = dataset.get(name)
        if value is None or value == "":
            return None
        several = isinstance(value, Sequence) and not isinstance(value, str)
        pairs.append([_float(each) for each in (value if several else [value])])
    centres, widths = pairs
    if index >= min(map(len, pairs)):
        return None
    usable = abs(centres[index]) < 1e12 and 0 < widths[index] < 1e12  # and no NaN
    return (centres[index], widths[index]) if usable else None


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _linear(values: NDArray[Any], centre: float, width: float) -> NDArray[np.float32]:
    """PS3.3 C.11.2.1.2.1."""
    if width <= 1:
        return (values > centre - 0.5).astype(np.float32)
    low = centre - 0.5 - (width - 1) / 2
    return _between(values, low, low + width - 1)


def _linear_exact(values: NDArray[Any], centre: float, width: float) -> NDArray[np.float32]:
    """PS3.3 C.11.2.1.3.2."""
    return _between(values, centre - width / 2, centre + width / 2)


def _sigmoid(values: NDArray[Any], centre: float, width: float) -> NDArray[np.float32]:
    """PS3.3 C.11.2.1.3.1."""
    steps = np.clip(-4 * (values.astype(np.float32) - centre) / width, -80, 80)
    unit: NDArray[np.float32] = 1 / (1 + np.exp(steps, dtype=np.float32))
    return unit


_FUNCTIONS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


def _between(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    if not high > low:
        return np.zeros(values.shape, dtype=np.float32)
    if values.dtype.kind == "f":  # fine steps on a large intercept
        values = np.clip(values, low, high)
        values -= low
        values /= high - low
        return values.astype(np.float32)
    unit = values.astype(np.float32)
    unit -= np.float32(low)
    unit /= np.float32(high - low)
    return np.clip(unit, 0, 1, out=unit)


def _grey(raw: NDArray[Any], bits: int) -> NDArray[np.float32]:
    """Luma of a colour film, ITU-R 601 as Pillow's."""
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    unit: NDArray[np.float32] = raw.astype(np.float32) @ weights / np.float32((1 << bits) - 1)
    return np.clip(unit, 0, 1)


def _doubts(
    unit: NDArray[np.float32], padded: NDArray[np.bool_], photometric: str, shape: str
) -> list[Odd]:
    """What speaks against the stated photometric interpretation."""
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


def _square_pixels(
    unit: NDArray[np.float32], dataset: FileDataset
) -> tuple[NDArray[np.float32], bool]:
    """The film with as many rows and columns to the millimetre; only ever enlarged."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        value = dataset.get(name)
        if isinstance(value, Sequence) and len(value) == 2:
            down, across = _float(value[0]), _float(value[1])
            break
    else:
        return unit, False
    if not (down > 0 and across > 0 and 0.1 <= down / across <= 10):
        return unit, False
    height, width = unit.shape
    if abs(down / across - 1) < 0.01:
        return unit, False
    if down > across:
        height = round(height * down / across)
    else:
        width = round(width * across / down)
    refuse_large(height, width)
    picture = Image.fromarray(unit).resize((width, height), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(picture, dtype=np.float32), 0, 1), True


def _years(text: str) -> float | None:
    match = re.fullmatch(r"(\d{1,3})([YMWD])", text.upper())
    if match is None:
        return None
    share = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}[match[2]]
    return float(match[1]) * share
