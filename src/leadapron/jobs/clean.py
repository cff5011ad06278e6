"""Clean: write a data set without listed films, and measure the effect."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from leadapron.detect.films.cleaned import Cleaned, Drop
from leadapron.detect.films.document import ScanDocument
from leadapron.documents import read
from leadapron.errors import DataError, StoreError
from leadapron.reading import read_regular
from leadapron.results.suspects import read_suspects
from leadapron.sources.own_pixels import open_own_pixels
from leadapron.sources.writing import write_films
from leadapron.specs import forgiving
from leadapron.text import count
from leadapron.types import AUTO, Machine

__all__ = ["clean"]

LARGEST = 1 << 28
"""Largest scan.json that is read, in bytes."""


@forgiving
def clean(
    source: str,
    drop: Path | Drop,
    out: Path,
    *,
    retrain: bool = False,
    size: int | None = None,
    seed: int = 0,
    machine: Machine = AUTO,
    **options: Any,
) -> Cleaned:
    """Write a source without the listed films; the source itself isn't changed.

    If each film is a file, a table of the remaining films is written, with paths to the files.
    Otherwise (npz, chestmnist, phantom) their pixels are written into an .npz file.

    Args:
        source: where films come from, as "phantom:64" or "nih:PATH".
        drop: films, or a table with a column "id": the films.csv of `scan`.
        out: folder for table.csv or films.npz, which must not exist there yet.
        retrain: train a small network with these films and one without, and compare them. If a
            scan.json lies next to the table, both networks are tested with its suspected marks.
        size: side of the networks' images in pixels, as `scan`.
        seed: seed of the networks, and of the split if the source has none.
        machine: device, precision, cache and progress.
        **options: settings of the source.

    Raises:
        DataError: ids that aren't in the source, no film dropped, or no film left.
        StoreError: a file that can't be written or exists already.
        LeadapronError: as `open_source`.
    """
    listed = drop if isinstance(drop, Drop) else _listed(drop)
    if not listed.ids:
        raise DataError(f"{listed.name} lists no film; there is nothing to drop")
    cohort = open_own_pixels(source, size=size, machine=machine, **options)
    dropped = np.isin(cohort.ids, np.asarray(listed.ids, dtype=np.str_))
    unknown = sorted(set(listed.ids) - set(cohort.ids[dropped].tolist()))
    if unknown:
        raise DataError(
            f"{listed.name} lists {count(len(unknown), 'film')} not in {source}, "
            f"the first one {unknown[0]!r}; expected the films.csv of this source's scan"
        )
    if dropped.all():
        raise DataError(f"{listed.name} lists all films; no film is left")
    kept = np.flatnonzero(~dropped)
    written = write_films(out, cohort, kept, machine)
    retrained = None
    if retrain:
        from leadapron.study.retraining import compare_retrained

        retrained = compare_retrained(cohort, dropped, listed.scan, seed=seed, machine=machine)
    return Cleaned(
        source=source,
        dropped=int(dropped.sum()),
        kept=len(kept),
        file=written.file,
        opens=written.opens,
        retrained=retrained,
        notes=(written.note,),
    )


def _listed(table: Path) -> Drop:
    """The films listed in a scan's films.csv, with the scan.json next to it."""
    return Drop(
        name=table.name,
        ids=read_suspects(table),
        scan=_scan_beside(table.with_name("scan.json")),
    )


def _scan_beside(path: Path) -> ScanDocument | None:
    if not path.is_file():
        return None
    with contextlib.suppress(StoreError, OSError):
        return read(ScanDocument, read_regular(path, LARGEST), path.name)
    return None
