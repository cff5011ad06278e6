"""DICOM files with what a test needs in them, and a patient whose traces must be found nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

config.settings.reading_validation_mode = config.IGNORE  # odd values are what tests are about

DX = "1.2.840.10008.5.1.4.1.1.1.1"
SECRETS = ("DOE^JOHN", "PAT-4711-X", "19700413", "Elm Street")
"""Name, number, date and address of the patient in every file."""


def header(**values: Any) -> Dataset:
    """Return a dataset without pixels."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = DX, generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.StudyDate, dataset.PatientAddress = SECRETS
    dataset.ViewPosition, dataset.PatientSex, dataset.PatientAge = "PA", "F", "058Y"
    dataset.Modality = "DX"
    for name, value in values.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def with_pixels(stored: np.ndarray, **values: Any) -> Dataset:
    """Return a dataset of stored values, (height, width) or (height, width, 3)."""
    allocated = stored.dtype.itemsize * 8
    facts = {
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1 if stored.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if stored.ndim == 2 else "RGB",
        "BitsAllocated": allocated,
        "BitsStored": allocated,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        **({"PlanarConfiguration": 0} if stored.ndim == 3 else {}),
    }
    facts.update(values)
    facts.setdefault("HighBit", (facts["BitsStored"] or 1) - 1)
    dataset = header(**{name: value for name, value in facts.items() if value is not None})
    content = stored.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    return dataset


def table(entries: Any, first: int, bits: int) -> Dataset:
    """Return an item of a lookup table's sequence."""
    item = Dataset()
    entries = np.asarray(entries, np.uint16)
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "US", entries.tolist())
    return item


def write(path: Path, dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a file with preamble and meta header."""
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", DX)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2")
    dataset.save_as(path, enforce_file_format=True)
    return path


def ramp(bits: int, *, signed: bool = False, shape: tuple[int, int] = (24, 20)) -> np.ndarray:
    """Return stored values from the lowest to the highest, all over the range."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    kind = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"
    values = np.linspace(low, high, shape[0] * shape[1]).round().astype(kind)
    return np.random.default_rng(bits).permutation(values).reshape(shape)
