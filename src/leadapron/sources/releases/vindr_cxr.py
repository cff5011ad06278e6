"""VinDr-CXR (PhysioNet): DICOM films, 27 labels; three radiologists read each training film.

Folders, tables, columns ("Other diseases" in one table, "Other disease" in the other) and the three
rows per training film were checked against public code that reads the release; the release itself
wasn't available. The Kaggle challenge's train.csv, which holds boxes, isn't read.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources.dicom import check_window
from leadapron.sources.releases.layout import (
    Release,
    find_table,
    grouped,
    opened,
    read_rows,
    release_folder,
    stated,
)
from leadapron.sources.tables import LabelTable, unknown_patients
from leadapron.text import count
from leadapron.types import Note

__all__ = ["FINDINGS", "RELEASE", "open_vindr_cxr"]

FINDINGS = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
    "Other diseases",
)
"""22 findings and 5 diagnoses in VinDr's order; "No finding" is a row of zeros."""

RELEASE: Release = {
    "name": "VinDr-CXR",
    "version": "1.0.0",
    "films": 18_000,
    "citation": (
        "Nguyen, Pham, Tuan Linh, Dao, Khanh: VinDr-CXR: An open dataset of chest X-rays with "
        "radiologist annotations (version 1.0.0). PhysioNet, 2021, doi 10.13026/3akn-b287; and "
        "Nguyen et al.: VinDr-CXR: An open dataset of chest X-rays with radiologist's "
        "annotations. Scientific Data 9, 429 (2022)"
    ),
    "terms": (
        "PhysioNet's credentialed access; research and education only, and the data may not be "
        "shared."
    ),
    "page": "https://physionet.org/content/vindr-cxr/",
}
"""Facts of the release."""

_TABLES = {
    part: (f"annotations/image_labels_{part}.csv", f"image_labels_{part}.csv")
    for part in ("train", "test")
}
_COLUMNS = {
    "id": ("image_id",),
    **{name: (name,) for name in FINDINGS},
    "Other diseases": ("Other diseases", "Other disease"),
}


def open_vindr_cxr(
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    votes: Literal["majority", "any"] = "majority",
    window: str = "header",
) -> Cohort:
    """Open VinDr-CXR in its original layout.

    Args:
        argument: the folder with annotations/, train/ and test/; one part is enough.
        preprocessing: how films become images; 224x224 if left out.
        cache: where decoded films are kept; in memory if left out.
        votes: a training film has a finding if the "majority" of its radiologists state it, or
            "any" of them.
        window: "header" (the VOI table or first window; without either, "full" for 8 bits and
            "film" for more), "header:N" (the Nth window), "full" (the whole range of the stored
            bits), "film" (the film's lowest to highest value), or "CENTRE/WIDTH".

    Returns:
        The films that have both a row and a file, training films before test films, all of them PA.
        A label with tied votes is not stated.

    Raises:
        DataError: a table or film that can't be used.
        UsageError: no folder given, or a window that isn't one.
    """
    folder = release_folder("vindr-cxr", argument, "annotations/")
    check_window(window)
    ids: list[str] = []
    labels, parts, names = [], [], []
    notes: list[Note] = []
    for part, places in _TABLES.items():
        file = find_table(folder, *places)
        if file is None:
            continue
        columns = read_rows(file, _COLUMNS)
        films, rows = grouped(columns["id"])
        cells = [stated(columns[name], file.name, name) for name in FINDINGS]
        decided, ties = _decided(np.asarray(cells).T, rows, len(films), votes)
        if ties:
            words = f"Tied votes in {file.name}, so not stated: {count(ties, 'label')}."
            notes.append(Note("labels", words))
        ids += films
        labels.append(decided)
        parts += [part] * len(films)
        names.append(file.name)
    if not ids:
        raise DataError(f"no {' nor '.join(names[0] for names in _TABLES.values())} in {folder}")
    film_ids = np.asarray(ids, dtype=np.str_)
    table = LabelTable(
        name=" and ".join(names),
        labels=np.concatenate(labels),
        findings=FINDINGS,
        ids=film_ids,
        patients=unknown_patients(film_ids, notes),
        attributes={"split": np.asarray(parts), "view": np.full(len(ids), "PA")},
        notes=tuple(notes),
    )
    paths = [f"{part}/{film}.dicom" for part, film in zip(parts, ids, strict=True)]
    return opened(
        "vindr-cxr", folder, table, paths,
        preprocessing=preprocessing, cache=cache, window=window,
    )  # fmt: skip


def _decided(
    votes: NDArray[np.float32], rows: NDArray[np.int64], films: int, rule: str
) -> tuple[NDArray[np.float32], int]:
    """Labels (n, k) from votes (m, k) for the films in `rows` (m,), and the number of ties."""
    yes = np.zeros((films, votes.shape[1]), dtype=np.float32)
    no = np.zeros_like(yes)
    np.add.at(yes, rows, (votes == 1).astype(np.float32))
    np.add.at(no, rows, (votes == 0).astype(np.float32))
    present = yes > 0 if rule == "any" else yes > no
    tie = (yes == no) & ~present
    labels = present.astype(np.float32)
    labels[tie] = np.nan
    return labels, int((tie & (yes > 0)).sum())
