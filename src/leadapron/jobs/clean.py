"""Clean: a data set without the films that a list names, and what leaving them out gives."""

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
"""Bytes of a scan.json that is read."""


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
    """Write a source without the films that a list names; the source stays as it is.

    Where each film is a file, a table of those that are left is written, which points to the files.
    Where they aren't (npz, chestmnist, phantom), their pixels are written into an .npz file.

    Args:
        source: where films come from, as "phantom:64" or "nih:PATH".
        drop: films, or a table with a column "id": the films.csv of `scan`.
        out: a folder for table.csv or films.npz, which must not be there.
        retrain: train a small network with these films and one without, and compare them. Where a
            scan.json lies beside the table, the marks that it suspects are tried on both.
        size: side of the networks' images in pixels, as `scan`.
        seed: of networks and of the split, where the source has none.
        machine: where and how it is carried out.
        **options: the source's settings.

    Raises:
        DataError: ids that the source doesn't have, or nothing dropped, or nothing left.
        StoreError: a file that can't be written or is there already.
        LeadapronError: as `open_source`.
    """
    listed = drop if isinstance(drop, Drop) else _listed(drop)
    if not listed.ids:
        raise DataError(f"{listed.name} names no film; there is nothing to drop")
    cohort = open_own_pixels(source, size=size, machine=machine, **options)
    dropped = np.isin(cohort.ids, np.asarray(listed.ids, dtype=np.str_))
    unknown = sorted(set(listed.ids) - set(cohort.ids[dropped].tolist()))
    if unknown:
        raise DataError(
            f"{listed.name} names {count(len(unknown), 'film')} that {source} "
            f"doesn't have, first {unknown[0]!r}; expected the films.csv of this source's scan"
        )
    if dropped.all():
        raise DataError(f"{listed.name} names all films; nothing is left")
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
    """What a scan's films.csv names, with the scan.json beside it."""
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
