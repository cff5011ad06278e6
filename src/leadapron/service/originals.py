"""What result objects take over from the header of the film that they are about.

That is what DICOM requires of patient and study (PS3.3 C.7.1.1 and C.7.2.1, types 1 and 2), what
identifies the film, and numbers that a display needs. No other text of the header goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds, validate_value

from leadapron.errors import FilmError
from leadapron.films.decoding.dicom import squared_shape

__all__ = ["Original", "original_of"]

# Odd identifiers must stay as they are, or results wouldn't join the film's study. pydicom's
# warnings about them would quote them in the log.
config.settings.writing_validation_mode = config.IGNORE

IDENTIFIERS = ("PatientID", "PatientName", "AccessionNumber", "StudyID")
"""Kept as they are."""

CHECKED = {
    "PatientBirthDate": "DA",
    "PatientSex": "CS",
    "StudyDate": "DA",
    "StudyTime": "TM",
    "ReferringPhysicianName": "PN",
}
"""Left empty if they aren't valid, as DICOM allows."""

SEXES = ("M", "F", "O")

REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

GREY = ("MONOCHROME1", "MONOCHROME2")

SIDES = ("L", "R", "F", "H", "A", "P")
"""Letters of a patient orientation."""

ORIENTATION, LONGEST_TABLE, FULL_RANGE = 3, 65536, 65535
"""Most letters of an orientation, most entries of a lookup table, and the highest of 16 bits."""

WINDOWS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
UNITS = ("OD", "HU", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT")
"""Defined terms of VOI LUT functions and of rescaled values."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Original:
    """The film that results are about.

    Args:
        header: the film's identity, with an empty patient: highdicom warns of odd names by
            quoting them.
        patient: of the film, with the facts of its study.
        rows: of its pixels.
        columns: of its pixels.
        decoded: height and width once its pixels are square, as the model's input is made from.
        photometric: its photometric interpretation; "" unless it is grey.
        aspect: height and width of a pixel, as whole numbers.
        modality: how stored values become values of the modality (Modality LUT module).
        voi: the film's first lookup table or window (VOI LUT module); empty without one.
    """

    header: Dataset
    patient: Dataset
    rows: int
    columns: int
    decoded: tuple[int, int]
    photometric: str
    aspect: tuple[int, int]
    modality: Dataset
    voi: Dataset

    @property
    def uid(self) -> str:
        """SOP instance UID of the film."""
        return str(self.header.SOPInstanceUID)


def original_of(film: Dataset) -> Original:
    """Return what results take over from a film's header.

    Args:
        film: the film's header; pixels aren't read.

    Raises:
        FilmError: it lacks an identifier that results need, or its size. The message quotes none of
            its values.
    """
    header, patient = Dataset(), Dataset()
    for name in REQUIRED:
        value = str(_value(film, name) or "").strip()
        if not value:
            raise FilmError(f"has no {name}, so results can't refer to it", "undecodable")
        _add(header, name, value)
    for name in IDENTIFIERS:
        _add(header, name, None)
        _add(patient, name, _value(film, name))
    for name, kind in CHECKED.items():
        value = _value(film, name)
        known = name != "PatientSex" or value in SEXES
        _add(header, name, None)
        _add(patient, name, value if known and _is_valid(kind, value) else None)
    rows, columns = _whole(film, "Rows"), _whole(film, "Columns")
    if rows < 1 or columns < 1:
        raise FilmError("has no Rows and Columns, so results can't refer to it", "undecodable")
    samples = _whole(film, "SamplesPerPixel", 1)
    photometric = str(_value(film, "PhotometricInterpretation") or "").strip()
    header.Rows, header.Columns, header.SamplesPerPixel = rows, columns, samples
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientOrientation = _orientation(film)
    header.Laterality = side if (side := _value(film, "Laterality")) in ("L", "R") else None
    modality, voi = _quietly(lambda: _greys(film)) or (Dataset(), Dataset())
    return Original(
        header=header,
        patient=patient,
        rows=rows,
        columns=columns,
        decoded=_quietly(lambda: squared_shape(film, rows, columns)) or (rows, columns),
        photometric=photometric if samples == 1 and photometric in GREY else "",
        aspect=_aspect(film),
        modality=modality,
        voi=voi,
    )


def _quietly(read: Callable[[], Any]) -> Any:
    """What `read` returns; None if the header is damaged there, as pydicom says in many ways."""
    try:
        return read()
    except Exception:
        return None


def _value(film: Dataset, name: str) -> Any:
    value = _quietly(lambda: film.get(name))
    return None if value is None or str(value).strip() == "" else value


def _whole(film: Dataset, name: str, default: int = 0) -> int:
    value = _quietly(lambda: int(film.get(name, default)))
    return default if value is None else int(value)


def _add(header: Dataset, name: str, value: Any) -> None:
    setattr(header, name, value if value is None else str(value))


def _is_valid(kind: str, value: Any) -> bool:
    if value is None:
        return False
    try:
        validate_value(kind, str(value), config.RAISE)
    except ValueError:
        return False
    return True


def _orientation(film: Dataset) -> list[str] | None:
    """The patient's orientation; None, as DICOM allows, unless it is valid."""
    value = _value(film, "PatientOrientation")
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    words = [str(each) for each in value]
    good = all(0 < len(word) <= ORIENTATION and set(word) <= set(SIDES) for word in words)
    return words if good else None


def _aspect(film: Dataset) -> tuple[int, int]:
    """A pixel's height and width, as the decoder takes them."""
    side = 1000
    height, width = _quietly(lambda: squared_shape(film, side, side)) or (side, side)
    return (1, 1) if (height, width) == (side, side) else (height, width)


def _number(value: Any) -> float | None:
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    number = _quietly(lambda: float(value))
    return number if number is not None and math.isfinite(number) else None


def _greys(film: Dataset) -> tuple[Dataset, Dataset]:
    """The Modality and VOI LUT modules.

    Validators doubt tables that use a part of their 16 bits. So tables are spread, and the window
    with the modality's table; two tables become one.
    """
    modality, voi, scale = Dataset(), Dataset(), 1.0
    first, second = _table(film, "ModalityLUTSequence"), _table(film, "VOILUTSequence")
    if first is None:
        _rescale(film, modality)
    elif second is not None:
        second = first.before(second)
    else:
        scale = FULL_RANGE / max(1, int(first.entries.max()))
        item = first.item(scale)
        item.ModalityLUTType = "US"  # unspecified
        modality.ModalityLUTSequence = [item]
    if second is None:
        _window(film, voi, scale)
    else:
        voi.VOILUTSequence = [second.item(FULL_RANGE / second.most)]
    return modality, voi


def _rescale(film: Dataset, made: Dataset) -> None:
    slope, intercept = (
        _number(_value(film, name)) for name in ("RescaleSlope", "RescaleIntercept")
    )
    if slope is not None and intercept is not None:
        unit = str(_value(film, "RescaleType") or "")
        made.RescaleSlope, made.RescaleIntercept = (
            format_number_as_ds(slope),
            format_number_as_ds(intercept),
        )
        made.RescaleType = unit if unit in UNITS else "US"


def _window(film: Dataset, made: Dataset, scale: float) -> None:
    centre, width = (_number(_value(film, name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is not None and width is not None and width > 0:
        function = str(_value(film, "VOILUTFunction") or "")
        made.WindowCenter, made.WindowWidth = (
            format_number_as_ds(centre * scale),
            format_number_as_ds(width * scale),
        )
        if function in WINDOWS:
            made.VOILUTFunction = function


@dataclass(frozen=True, eq=False)
class _Table:
    """A lookup table.

    Args:
        first: value that the first entry stands for.
        entries: the table.
        most: highest value that its bits can state.
    """

    first: int
    entries: NDArray[np.int64]
    most: int

    def before(self, second: _Table) -> _Table:
        """This table and then a second one, as one."""
        places = np.clip(self.entries - second.first, 0, len(second.entries) - 1)
        return _Table(self.first, second.entries[places], second.most)

    def item(self, scale: float) -> Dataset:
        """As an item of 16 bits: presentation states take 8 or 16 alone (PS3.3 C.11.8)."""
        made = Dataset()
        entries = np.rint(self.entries * scale).astype("<u2")
        for keyword, kind, value in (
            (
                "LUTDescriptor",
                "SS" if self.first < 0 else "US",
                [len(entries) % LONGEST_TABLE, self.first, 16],
            ),
            ("LUTData", "OW", entries.tobytes()),
        ):
            made[keyword] = DataElement(keyword, kind, value, validation_mode=config.IGNORE)
        return made


def _table(film: Dataset, name: str) -> _Table | None:
    """The first table of a sequence, without its explanation; None without a usable one."""
    items = _value(film, name)
    if not items:
        return None
    length, first, bits = (int(each) for each in items[0].LUTDescriptor)
    data = items[0].LUTData
    if isinstance(data, bytes):
        entries = np.frombuffer(data, "<u2").astype(np.int64)
    else:
        entries = np.asarray([int(each) for each in data], np.int64)
    most = (1 << bits) - 1
    usable = (
        8 <= bits <= 16
        and len(entries) == (length or LONGEST_TABLE)
        and entries.min() >= 0
        and entries.max() <= most
    )
    return _Table(first, entries, most) if usable else None
