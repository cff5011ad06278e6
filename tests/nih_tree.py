"""A fake NIH ChestX-ray14 folder: tiny films, the release's file names and header quirks."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

# The commas within brackets aren't quoted in the release.
HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
HEADER_V2020 = HEADER_2017.replace("Gender", "Sex").rstrip(",")


@dataclass(frozen=True)
class Row:
    """One row of the label table."""

    name: str
    findings: str = "No Finding"
    patient: str = "1"
    age: str = "58"
    sex: str = "M"
    view: str = "PA"
    follow_up: str = "0"


ROWS = (
    Row("00000001_000.png", "Cardiomegaly", "1", "058Y", "M", "PA", "0"),
    Row("00000001_001.png", "Cardiomegaly|Emphysema", "1", "58", "M", "AP", "1"),
    Row("00000002_000.png", "No Finding", "2", "011M", "F", "PA", "0"),
    Row("00026811_000.png", "Hernia", "26811", "414", "F", "PA", "0"),
    Row("00030805_000.png", "Infiltration|Atelectasis", "30805", "", "F", "AP", "0"),
)
"""Five films of four patients, two of whom are in the test set of nwadike2020."""

LISTS = {
    "train_val_list.txt": [row.name for row in ROWS[:3]],
    "test_list.txt": [row.name for row in ROWS[3:]],
}


def write_tree(
    folder: Path,
    rows: Sequence[Row] = ROWS,
    *,
    places: Sequence[str] = ("images",),
    lists: Mapping[str, Sequence[str]] = LISTS,
) -> Path:
    """Write table, lists and films; films go to the places in turn. Return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "Data_Entry_2017_v2020.csv", rows)
    for name, films in lists.items():
        (folder / name).write_text("\n".join(films))
    for i, row in enumerate(rows):
        place = folder / places[i % len(places)]
        place.mkdir(parents=True, exist_ok=True)
        write_film(place / row.name, film(i))
    return folder


def write_table(path: Path, rows: Sequence[Row] = ROWS, header: str | None = None) -> None:
    """Write a label table, as .csv or .csv.gz."""
    if header is None:
        header = HEADER_V2020 if "v2020" in path.name else HEADER_2017
    trailing = "," if header.endswith(",") else ""
    lines = [
        f"{r.name},{r.findings},{r.follow_up},{r.patient},{r.age},{r.sex},{r.view},"
        f"2682,2749,0.143,0.143{trailing}"
        for r in rows
    ]
    content = "\n".join([header, *lines, ""]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def film(i: int) -> np.ndarray:
    """Return film i, (20, 16) uint8: a grey ramp of its own brightness."""
    return (np.arange(320).reshape(20, 16) // 4 + 30 * i).astype(np.uint8)


def write_film(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    """Write a PNG file, in another of Pillow's modes if asked to."""
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path)
