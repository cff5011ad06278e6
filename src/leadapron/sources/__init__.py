"""Where radiographs come from: `open_source("NAME[:ARGUMENT]")` gives a cohort."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from leadapron.cache import Cache, OnBad, Progress, default_folder
from leadapron.cohort import Cohort
from leadapron.errors import UnknownNameError
from leadapron.preprocessing import Preprocessing
from leadapron.sources.chestmnist import open_chestmnist
from leadapron.sources.dicom import open_dicom
from leadapron.sources.folder import open_folder
from leadapron.sources.nih import open_nih
from leadapron.sources.npz import open_npz
from leadapron.sources.phantom import open_phantom
from leadapron.sources.releases.chexpert import open_chexpert
from leadapron.sources.releases.covidx import open_covidx
from leadapron.sources.releases.mimic_cxr import open_mimic_cxr
from leadapron.sources.releases.padchest import open_padchest
from leadapron.sources.releases.rsna_pneumonia import open_rsna_pneumonia
from leadapron.sources.releases.siim_pneumothorax import open_siim_pneumothorax
from leadapron.sources.releases.vindr_cxr import open_vindr_cxr
from leadapron.sources.table import open_table
from leadapron.specs import validated

__all__ = ["SOURCES", "open_source"]

SOURCES: dict[str, Callable[..., Cohort]] = {
    "phantom": open_phantom,
    "folder": open_folder,
    "table": open_table,
    "npz": open_npz,
    "dicom": open_dicom,
    "nih": open_nih,
    "chestmnist": open_chestmnist,
    "chexpert": open_chexpert,
    "mimic-cxr": open_mimic_cxr,
    "padchest": open_padchest,
    "vindr-cxr": open_vindr_cxr,
    "rsna-pneumonia": open_rsna_pneumonia,
    "siim-pneumothorax": open_siim_pneumothorax,
    "covidx": open_covidx,
}
"""Each is `(argument, preprocessing, cache, *, ...) -> Cohort`: the text after the first colon, or
"", how films become images (None: the source's own way), where decoded films are kept (None: in
memory), and settings by keyword."""


def open_source(
    source: str,
    *,
    preprocessing: Preprocessing | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    on_bad: OnBad = "stop",
    **options: Any,
) -> Cohort:
    """Open a source of radiographs.

    Args:
        source: "NAME" or "NAME:ARGUMENT", for example "phantom:64" or "nih:/data/nih".
        preprocessing: how films become images; the source's own way if left out.
        cache: folder for decoded films, or "none"; LEADAPRON_CACHE or the platform's if left out.
        progress: called with what is being done, the films done and in all.
        on_bad: "stop" at the first film that can't be decoded, or "skip" and list it in the notes.
        **options: the source's settings, for example `count=100`.

    Returns:
        Its films, labels and patients.

    Raises:
        UnknownNameError: no such source or setting.
        UsageError: a setting of the wrong type, or no argument where one is needed.
        DataError: films or tables that can't be used.
        StoreError: a cache that can't be written.
    """
    name, _, argument = source.partition(":")
    if name not in SOURCES:
        raise UnknownNameError("source", name, SOURCES)
    opener = SOURCES[name]
    kept = Cache(folder=default_folder(cache), progress=progress, on_bad=on_bad)
    return opener(argument, preprocessing, kept, **validated(opener, options, "source"))
