"""RSNA Pneumonia Detection Challenge 2018, stage 2: DICOM films of NIH ChestX-ray14, reread.

Columns, 30,227 rows of 26,684 films, and the absence of films with two targets were checked against
the release's stage_2_train_labels.csv. The films' folder and the table of classes follow public
code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources.releases.layout import (
    Release,
    agreed,
    find_table,
    opened,
    read_rows,
    release_folder,
    stated,
    table_in,
)
from leadapron.sources.tables import LabelTable
from leadapron.types import Note

__all__ = ["FINDINGS", "RELEASE", "open_rsna_pneumonia"]

FINDINGS = ("Pneumonia",)
"""A target of 1: a lung opacity that may be pneumonia."""

RELEASE: Release = {
    "name": "RSNA Pneumonia Detection Challenge",
    "version": "2018, stage 2, training films",
    "films": 26_684,
    "citation": (
        "Shih, Wu, Halabi, Kohli, Prevedello, Cook, Sharma, Amorosa, Arteaga, Galperin-Aizenberg, "
        "Gill, Godoy, Hobbs, Jeudy, Laroia, Shah, Vummidi, Yaddanapudi, Stein: Augmenting the "
        "National Institutes of Health Chest Radiograph Dataset with Expert Annotations of "
        "Possible Pneumonia. Radiology: Artificial Intelligence 1 (2019), doi "
        "10.1148/ryai.2019180041"
    ),
    "terms": (
        "RSNA allows academic, commercial and other use to those who meet its attribution "
        "requirements, which its page links."
    ),
    "page": (
        "https://www.rsna.org/education/ai-resources-and-training/ai-image-challenge/"
        "rsna-pneumonia-detection-challenge-2018"
    ),
}
"""Facts of the release."""

_TABLE = "stage_2_train_labels.csv"
_CLASSES = "stage_2_detailed_class_info.csv"


def open_rsna_pneumonia(
    argument: str, preprocessing: Preprocessing | None, cache: Cache | None = None
) -> Cohort:
    """Open the training films of RSNA's challenge in their original layout.

    Args:
        argument: the folder with stage_2_train_labels.csv and stage_2_train_images/.
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films are kept; in memory if left out.

    Returns:
        The films that have both a row and a file, in the table's order; the release has no split of
        them. The attribute "class" is theirs in stage_2_detailed_class_info.csv, where it is there:
        Normal, Lung Opacity, or No Lung Opacity / Not Normal.

    Raises:
        DataError: a table or film that can't be used.
        UsageError: no folder given.
    """
    folder = release_folder("rsna-pneumonia", argument, _TABLE)
    file = table_in(folder, _TABLE)
    columns = read_rows(file, {"id": ("patientId",), "target": ("Target",)})
    targets = stated(columns["target"], file.name, "Target")
    films, labels = agreed(columns["id"], targets, file.name)
    attributes: dict[str, NDArray[np.str_]] = {}
    classes = find_table(folder, _CLASSES)
    if classes is not None:
        of = read_rows(classes, {"id": ("patientId",), "class": ("class",)})
        known = dict(zip(of["id"], of["class"], strict=True))
        attributes["class"] = np.asarray([known.get(film, "") for film in films], dtype=np.str_)
    ids = np.asarray(films, dtype=np.str_)
    table = LabelTable(
        name=file.name,
        labels=labels[:, None],
        findings=FINDINGS,
        ids=ids,
        patients=ids,
        attributes=attributes,
        notes=(
            Note(
                "patients",
                "Patients aren't known: patientId differs for each film, and the release "
                "doesn't say which films share a patient, so splits may share patients.",
            ),
            Note(
                "source",
                "These are films of NIH ChestX-ray14; don't test a model on one that was trained "
                "on the "
                "other.",
            ),
        ),
    )
    paths = [f"stage_2_train_images/{film}.dcm" for film in films]
    return opened("rsna-pneumonia", folder, table, paths, preprocessing=preprocessing, cache=cache)
