"""Write tables of NIH's films with one or three columns, for `zoo/no-references.yaml`.

    python benchmarks/nih_tables.py FOLDER_OF_NIH OUT

Each table has the columns image, patient and its findings; the films are copied beside them, since
no table may lead out of its folder.
Beside findings it has what can be read from nearly every film: the view, the sex, an age above 60.
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

Row = Mapping[str, str]
TABLES: dict[str, dict[str, Callable[[Row], bool]]] = {
    "nih-effusion": {"Effusion": lambda row: "Effusion" in _findings(row)},
    "nih-infiltration": {"Infiltration": lambda row: "Infiltration" in _findings(row)},
    "nih-atelectasis": {"Atelectasis": lambda row: "Atelectasis" in _findings(row)},
    "nih-abnormal": {"Abnormal": lambda row: "No Finding" not in _findings(row)},
    "nih-view": {"AP": lambda row: row["View Position"] == "AP"},
    "nih-sex": {"Female": lambda row: row["Patient Gender"] == "F"},
    "nih-age": {"Older": lambda row: int(row["Patient Age"]) > 60},
    "nih-three": {
        name: lambda row, name=name: name in _findings(row)
        for name in ("Effusion", "Infiltration", "Atelectasis")
    },
}


def _findings(row: Row) -> list[str]:
    return row["Finding Labels"].split("|")


def main() -> None:
    nih, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    shutil.copytree(nih / "images", out / "images", dirs_exist_ok=True)
    with next(nih.glob("Data_Entry*.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, columns in TABLES.items():
        with (out / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "patient", *columns])
            for row in rows:
                each = [int(present(row)) for present in columns.values()]
                writer.writerow([f"images/{row['Image Index']}", row["Patient ID"], *each])


if __name__ == "__main__":
    main()
