"""CheXpert (Stanford): train.csv and valid.csv, JPEG films, labels of 14 observations from reports.

Columns, views and the start of the films' paths were checked against the release's train.csv (small
version). Counts are the paper's. The folders of the full-size download may have other names. The
test set, published later, isn't read.
"""

from __future__ import annotations

import re

import numpy as np

from leadapron.errors import DataError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources.assembly import Leakage
from leadapron.sources.releases.layout import (
    NO_FINDING,
    Release,
    Views,
    find_table,
    opened,
    read_rows,
    release_folder,
    reported_labels,
    without_laterals,
)
from leadapron.sources.tables import Columns, LabelTable, Stated, ages, splits
from leadapron.types import Note

__all__ = ["FINDINGS", "RELEASE", "open_chexpert"]

FINDINGS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The findings in CheXpert's order; "No Finding", the 14th observation, is a row without any."""

RELEASE: Release = {
    "name": "CheXpert",
    "version": "1.0",
    "films": 224_316,
    "patients": 65_240,
    "citation": (
        "Irvin, Rajpurkar, Ko, Yu, Ciurea-Ilcus, Chute, Marklund, Haghgoo, Ball, Shpanskaya, "
        "Seekins, Mong, Halabi, Sandberg, Jones, Larson, Langlotz, Patel, Lungren, Ng: CheXpert: A "
        "Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison. AAAI 2019"
    ),
    "terms": "Stanford's Research Use Agreement, accepted before the download.",
    "page": "https://stanfordmlgroup.github.io/competitions/chexpert/",
}
"""Facts of the release."""

_TABLES = ("train.csv", "valid.csv")
_COLUMNS = {
    "path": ("Path",),
    "side": ("Frontal/Lateral",),
    "view": ("AP/PA",),
    "sex": ("Sex",),
    "age": ("Age",),
    **{name: (name,) for name in (NO_FINDING, *FINDINGS)},
}
_PATH = re.compile(r"(?:[^/]+/)?((train|valid)/(patient\d+)/.+)")
_SEXES = {"Male": "M", "Female": "F"}


def open_chexpert(
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    views: Views = "frontal",
    uncertain: Stated = "nan",
    blank: Stated = "nan",
    leakage: Leakage = "refuse",
) -> Cohort:
    """Open CheXpert in its original layout.

    Args:
        argument: the folder with train.csv, valid.csv, train/ and valid/; one part is enough.
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films are kept; in memory if left out.
        views: "frontal" leaves lateral films out, "all" keeps them.
        uncertain: meaning of -1: "nan" (not stated), "0" or "1".
        blank: meaning of a blank.
        leakage: "refuse" a split that shares patients, or "allow" it.

    Returns:
        The films that have both a row and a file; valid/ is the validation part.

    Raises:
        DataError: a table or film that can't be used.
        UsageError: no folder given.
    """
    folder = release_folder("chexpert", argument, "train.csv and valid.csv")
    files = [file for name in _TABLES if (file := find_table(folder, name))]
    if not files:
        raise DataError(f"no {' nor '.join(_TABLES)} in {folder} (.gz too)")
    columns: Columns = {name: [] for name in _COLUMNS}
    for file in files:
        for name, cells in read_rows(file, _COLUMNS).items():
            columns[name] += cells
    where = " and ".join(file.name for file in files)
    paths, parts, patients = _places(columns["path"], where)
    notes: list[Note] = []
    labels = reported_labels(columns, FINDINGS, where, notes, uncertain=uncertain, blank=blank)
    side = np.asarray(columns["side"], dtype=np.str_)
    years = ages(columns["age"], notes)
    table = LabelTable(
        name=where,
        labels=labels,
        findings=FINDINGS,
        ids=np.asarray(paths, dtype=np.str_),
        patients=np.asarray(patients, dtype=np.str_),
        attributes={
            "view": np.where(side == "Frontal", columns["view"], "LATERAL"),
            "sex": np.asarray([_SEXES.get(sex, "") for sex in columns["sex"]], dtype=np.str_),
            # All patients are adults; an age of 0 means unknown.
            "age": np.where(years == 0, np.nan, years),
            "split": splits(parts, where),
        },
        notes=tuple(notes),
    )
    table, paths = without_laterals(table, paths, side == "Frontal", views)
    return opened(
        "chexpert", folder, table, paths,
        preprocessing=preprocessing, cache=cache, leakage=leakage,
    )  # fmt: skip


def _places(names: list[str], where: str) -> tuple[list[str], list[str], list[str]]:
    """The films' paths inside the folder, their parts and their patients."""
    matches = []
    for name in names:
        match = _PATH.fullmatch(name)
        if match is None:
            raise DataError(
                f"{where} names {name!r}; expected paths such as train/patient00001/study1/...jpg"
            )
        matches.append(match)
    return [m[1] for m in matches], [m[2] for m in matches], [m[3] for m in matches]
