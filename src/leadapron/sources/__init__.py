"""Sources of radiographs: `open_source("NAME[:ARGUMENT]")` returns a cohort."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.films.cache import Cache, default_folder
from leadapron.films.cohort import Cohort, Rows, subsample
from leadapron.films.preprocessing import Preprocessing
from leadapron.plugins import Registry
from leadapron.reading import given_path, is_folder, there
from leadapron.sources.chestmnist import open_chestmnist
from leadapron.sources.dicom import may_be_dicom, open_dicom
from leadapron.sources.folder import open_folder
from leadapron.sources.joining import join
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
from leadapron.sources.words import AND, OWN
from leadapron.specs import Parameter, forgiving, parameters, validated
from leadapron.types import OnBad, Progress

__all__ = [
    "AND",
    "OWN",
    "SOURCES",
    "check_source",
    "named_source",
    "open_source",
    "source_settings",
]

SOURCES: Registry[Callable[..., Cohort]] = Registry(
    "source",
    {
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
    },
)
"""Each is `(argument, preprocessing, cache, *, ...) -> Cohort`: the text after the first colon, or
"", how films become images (None: the source's own way), where decoded films are kept (None: in
memory), and settings by keyword."""


KINDS = {".csv": "table", ".tsv": "table", ".npz": "npz"}
"""The source that opens a file, by its ending."""

LOOKED_AT = 20
"""Most files of a folder that are examined to guess its source."""


def source_settings(source: str) -> dict[str, Parameter]:
    """Return the settings of a source, or of several with " + " between them.

    With several sources the settings have no defaults, since those may differ.

    Raises:
        UnknownNameError: no such source.
    """
    openers = [_opener(part) for part in source.split(AND)]
    if len(openers) == 1:
        return parameters(openers[0])
    return {
        name: replace(parameter, default=None)
        for opener in openers
        for name, parameter in parameters(opener).items()
    }


def named_source(path: str | os.PathLike[str]) -> str:
    """Return the source for a path, from the files there; a source's name is returned unchanged.

    Args:
        path: a table, an .npz file or a folder, or a source as for `open_source`.

    Raises:
        UsageError: no films at the path.
    """
    text = os.fspath(path)
    if isinstance(path, str) and text.split(AND)[0].partition(":")[0] in SOURCES:
        return text
    if kind := _meant(text):
        return f"{kind}:{text}"
    if isinstance(path, str):
        return text  # `open_source` raises the error
    raise UsageError(f"{text}: expected a table (.csv, .tsv), an .npz file or a folder of films")


def check_source(source: str, options: Mapping[str, Any]) -> None:
    """Check names and settings, raising as `open_source`, without opening anything."""
    for part in source.split(AND):
        _options(part, source, options)


@forgiving
def open_source(
    source: str,
    *,
    preprocessing: Preprocessing | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    on_bad: OnBad = "stop",
    most: int | None = None,
    **options: Any,
) -> Cohort:
    """Open a source of radiographs, or several as one.

    Args:
        source: "NAME" or "NAME:ARGUMENT", for example "phantom:64" or "nih:/data/nih"; several with
            " + " between them are joined, see `joining.join`.
        preprocessing: how films become images; the source's default if left out.
        cache: folder for decoded films, or "none"; LEADAPRON_CACHE or the platform's if left out.
        progress: called with the name of the step, the films done, and the total.
        on_bad: "stop" at the first film that can't be decoded, or "skip" and list it in the notes.
        most: most films to open: a random subsample, always the same for the same source, drawn
            before any film is decoded. Skipped films aren't replaced. Properties of the set (such
            as the bits in use) are those of the subsample.
        **options: the source's settings, for example `count=100`; with several sources, each gets
            the settings that it has. `source_count=100` means the same: a function that passes its
            caller's settings on may have an argument of a setting's name.

    Returns:
        Its films, labels and patients.

    Raises:
        UnknownNameError: no such source or setting.
        UsageError: a setting of the wrong type, or no argument where one is needed.
        DataError: films or tables that can't be used.
        StoreError: a cache that can't be written.
    """
    kept = Cache(folder=default_folder(cache), progress=progress, on_bad=on_bad)
    parts = source.split(AND)

    def opened(part: str, choose: Callable[[int], Rows] | None) -> Cohort:
        taken = _options(part, source, options)
        wanted = replace(kept, choose=choose)
        return _opener(part)(part.partition(":")[2], preprocessing, wanted, **taken)

    chosen = [None] * len(parts) if most is None else _chosen(parts, opened, most)
    cohorts: list[Cohort] = []
    for part, choose in zip(parts, chosen, strict=True):
        cohort = opened(part, choose)
        preprocessing = preprocessing or cohort.preprocessing
        cohorts.append(cohort)
    if len(cohorts) == 1:
        return cohorts[0]
    return join(cohorts, [part.partition(":")[0] for part in parts])


def _chosen(
    parts: Sequence[str], opened: Callable[[str, Callable[[int], Rows]], Cohort], most: int
) -> list[Callable[[int], Rows]]:
    """For each source, the function that chooses its share of the subsample."""
    if len(parts) == 1:
        return [partial(subsample, most=most)]
    counts = []

    def count(n: int) -> Rows:
        counts.append(n)
        return np.empty(0, np.int64)

    for part in parts:  # opened without decoding, to count the films
        opened(part, count)
    rows = subsample(sum(counts), most)
    ends = np.cumsum(counts)
    own = [
        rows[(rows >= end - n) & (rows < end)] - (end - n)
        for n, end in zip(counts, ends, strict=True)
    ]
    return [partial(_given, rows) for rows in own]


def _given(rows: Rows, n: int) -> Rows:
    if len(rows) and rows[-1] >= n:
        raise DataError("files of a source were removed while it was opened; start again")
    return rows


def _opener(part: str) -> Callable[..., Cohort]:
    name = part.partition(":")[0]
    try:
        return SOURCES.find(name)
    except UnknownNameError:
        if kind := _meant(part):
            raise UsageError(
                f"{part} isn't the name of a source; did you mean {kind}:{part}?"
            ) from None
        raise


def _meant(part: str) -> str:
    """The source that may open a path given without a source's name, or ""."""
    path = given_path(part)
    if not is_folder(path):
        endings = "".join(path.suffixes[-2:]).lower().removesuffix(".gz")
        return KINDS.get(endings[endings.rfind(".") :], "") if there(path) else ""
    inside = (Path(place) / name for place, _, names in os.walk(path) for name in names)
    for file in itertools.islice(inside, LOOKED_AT):
        if file.name.startswith("Data_Entry_2017"):
            return "nih"
        if may_be_dicom(file):
            return "dicom"
    return "folder"


def _options(part: str, source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that one of the sources has; all of them if it is the only source."""
    opener, known = _opener(part), source_settings(source)
    options = {n if n in known else n.removeprefix(OWN): value for n, value in options.items()}
    if part == source:
        return validated(opener, options, "source")
    for name in options:
        if name not in known:
            raise UnknownNameError("setting of source", name, known)
    mine = parameters(opener)
    given = {n: v for n, v in options.items() if n in mine and v is not None}
    return validated(opener, given, "source")
