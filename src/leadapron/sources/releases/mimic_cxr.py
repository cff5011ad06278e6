"""MIMIC-CXR-JPG (PhysioNet): JPEG films, a split by patient, labels by CheXpert or NegBio.

The tables' names (2.0.0, also in release 2.1.0), their columns and the films' folders were checked
against public code that reads the release; the release itself wasn't available. Published counts of
patients differ (65,379 and 64,588), so none is given. Sex and age aren't part of the release.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from leadapron.errors import DataError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources.assembly import Leakage
from leadapron.sources.releases.chexpert import FINDINGS
from leadapron.sources.releases.layout import (
    NO_FINDING,
    Release,
    Views,
    opened,
    read_rows,
    release_folder,
    reported_labels,
    table_in,
    without,
    without_laterals,
)
from leadapron.sources.tables import Columns, LabelTable, Stated, splits
from leadapron.types import Note

__all__ = ["RELEASE", "open_mimic_cxr"]

RELEASE: Release = {
    "name": "MIMIC-CXR-JPG",
    "version": "2.1.0",
    "films": 377_110,
    "citation": (
        "Johnson, Lungren, Peng, Lu, Mark, Berkowitz, Horng: MIMIC-CXR-JPG - chest radiographs "
        "with structured labels (version 2.1.0). PhysioNet, 2024, doi 10.13026/jsn5-t979; and "
        "Johnson, Pollard, Berkowitz, Greenbaum, Lungren, Deng, Mark, Horng: MIMIC-CXR: A large "
        "publicly available database of labeled chest radiographs. arXiv 1901.07042"
    ),
    "terms": "PhysioNet's credentialed access: training and a signed data use agreement.",
    "page": "https://physionet.org/content/mimic-cxr-jpg/",
}
"""Facts of the release."""

_TABLE = "mimic-cxr-2.0.0-{}.csv"
_FILMS = {"id": ("dicom_id",), "patient": ("subject_id",), "study": ("study_id",)}
_FRONTAL = ("AP", "PA")


def open_mimic_cxr(
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    labels: Literal["chexpert", "negbio"] = "chexpert",
    views: Views = "frontal",
    uncertain: Stated = "nan",
    blank: Stated = "nan",
    leakage: Leakage = "refuse",
) -> Cohort:
    """Open MIMIC-CXR-JPG in its original layout.

    Args:
        argument: the folder with the tables of metadata, split and labels, and files/p10 to
            files/p19.
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films are kept; in memory if left out.
        labels: the labeler: "chexpert" or "negbio".
        views: "frontal" leaves lateral films out, "all" keeps them.
        uncertain: meaning of -1: "nan" (not stated), "0" or "1".
        blank: meaning of a blank.
        leakage: "refuse" a split that shares patients, or "allow" it.

    Returns:
        The films that have rows in all tables and a file, in the metadata's order. AP and PA count
        as frontal; films without a stated view don't.

    Raises:
        DataError: a table or film that can't be used.
        UsageError: no folder given.
    """
    folder = release_folder("mimic-cxr", argument, _TABLE.format("metadata"))
    file = table_in(folder, _TABLE.format("metadata"))
    films = read_rows(file, {**_FILMS, "view": ("ViewPosition",)})
    parts = _parts(folder)
    studies, where = _studies(folder, labels)
    notes: list[Note] = []
    known = reported_labels(studies, FINDINGS, where, notes, uncertain=uncertain, blank=blank)
    rows = {study: row for row, study in enumerate(studies["study"])}
    found = np.asarray([rows.get(study, -1) for study in films["study"]], dtype=np.int64)
    view = np.asarray(films["view"], dtype=np.str_)
    table = LabelTable(
        name=file.name,
        labels=known[found],
        findings=FINDINGS,
        ids=np.asarray(films["id"], dtype=np.str_),
        patients=np.asarray(films["patient"], dtype=np.str_),
        attributes={
            "view": view,
            "split": splits([parts.get(film, "") for film in films["id"]], _TABLE.format("split")),
        },
        notes=tuple(notes),
    )
    root = "files/" if (folder / "files").is_dir() else ""
    paths = [
        f"{root}p{patient[:2]}/p{patient}/s{study}/{film}.jpg"
        for film, patient, study in zip(films["id"], films["patient"], films["study"], strict=True)
    ]
    frontal, unlabelled = np.isin(view, _FRONTAL), found < 0
    table, paths = without(table, paths, unlabelled, f"whose study isn't in {where}")
    table, paths = without_laterals(table, paths, frontal[~unlabelled], views)
    return opened(
        "mimic-cxr", folder, table, paths,
        preprocessing=preprocessing, cache=cache, leakage=leakage,
    )  # fmt: skip


def _parts(folder: Path) -> dict[str, str]:
    """The part of the split of each film."""
    file = table_in(folder, _TABLE.format("split"))
    columns = read_rows(file, {"id": _FILMS["id"], "split": ("split",)})
    return dict(zip(columns["id"], columns["split"], strict=True))


def _studies(folder: Path, labels: str) -> tuple[Columns, str]:
    """The labels' columns, a row for each study, and the table's name."""
    file = table_in(folder, _TABLE.format(labels))
    needed = {"study": _FILMS["study"], **{name: (name,) for name in (NO_FINDING, *FINDINGS)}}
    columns = read_rows(file, needed)
    if len(set(columns["study"])) < len(columns["study"]):
        raise DataError(f"{file.name} names a study more than once; each must have one row")
    return columns, file.name
