"""SIIM-ACR Pneumothorax Segmentation challenge 2019: DICOM films, masks as run lengths.

Columns, 12,954 rows of 12,047 films, and the absence of films both with and without a mask were
checked against a public copy of the release's train-rle.csv. The films' folders follow public code.
The terms couldn't be checked; see the release's page.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leadapron.errors import DataError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources.folder import walk
from leadapron.sources.releases.layout import (
    Release,
    agreed,
    opened,
    read_rows,
    release_folder,
    table_in,
)
from leadapron.sources.tables import LabelTable, unknown_patients
from leadapron.types import Note

__all__ = ["FINDINGS", "RELEASE", "open_siim_pneumothorax"]

FINDINGS = ("Pneumothorax",)

RELEASE: Release = {
    "name": "SIIM-ACR Pneumothorax Segmentation",
    "version": "2019, training films",
    "films": 12_047,
    "citation": (
        "Filice, Stein, Wu, Arteaga, Borstelmann, Gaddikeri, Galperin-Aizenberg, Gill, Godoy, "
        "Hobbs, Jeudy, Lakhani, Laroia, Nayak, Parekh, Prasanna, Shah, Vummidi, Yaddanapudi, Shih: "
        "Crowdsourcing pneumothorax annotations using machine learning annotations on the NIH "
        "chest X-ray dataset. Journal of Digital Imaging 33, 490-496 (2020)"
    ),
    "terms": "Those of the challenge on Kaggle; not checked.",
    "page": "https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation",
}
"""Facts of the release."""

NO_MASK = "-1"

_TABLES = ("train-rle.csv", "stage_2_train.csv")


def open_siim_pneumothorax(
    argument: str, preprocessing: Preprocessing | None, cache: Cache | None = None
) -> Cohort:
    """Open the training films of the SIIM-ACR challenge in their original layout.

    Args:
        argument: the folder with train-rle.csv or stage_2_train.csv; the films are below it at any
            depth, as NAME.dcm.
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films are kept; in memory if left out.

    Returns:
        The films that have both a row and a file, in the table's order; the release has no split of
        them. A film with a mask has a pneumothorax; masks themselves aren't read.

    Raises:
        DataError: a table or film that can't be used.
        UsageError: no folder given.
    """
    folder = release_folder("siim-pneumothorax", argument, " or ".join(_TABLES))
    file = table_in(folder, *_TABLES)
    columns = read_rows(file, {"id": ("ImageId",), "mask": ("EncodedPixels",)})
    for text in columns["mask"]:
        if text != NO_MASK and not (text and all(run.isdecimal() for run in text.split())):
            raise DataError(f"{file.name} holds {text[:40]!r}; expected run lengths or {NO_MASK}")
    masked = np.asarray([text != NO_MASK for text in columns["mask"]], dtype=np.float32)
    films, labels = agreed(columns["id"], masked, file.name)
    ids = np.asarray(films, dtype=np.str_)
    notes = [
        Note(
            "source",
            "These are films of NIH ChestX-ray14; don't test a model on one that was trained on "
            "the other.",
        )
    ]
    table = LabelTable(
        name=file.name,
        labels=labels[:, None],
        findings=FINDINGS,
        ids=ids,
        patients=unknown_patients(ids, notes),
        attributes={},
        notes=tuple(notes),
    )
    places = _places(folder)
    paths = [places.get(film, f"{film}.dcm") for film in films]
    return opened(
        "siim-pneumothorax", folder, table, paths, preprocessing=preprocessing, cache=cache
    )


def _places(folder: Path) -> dict[str, str]:
    """Each film's path inside the folder by its name."""
    places: dict[str, str] = {}
    for path in walk(folder):
        film, dot, ending = path.rpartition("/")[2].rpartition(".")
        if dot and ending.lower() == "dcm":
            if film in places:
                raise DataError(f"film {film!r} is in both {places[film]} and {path}; keep one")
            places[film] = path
    return places
