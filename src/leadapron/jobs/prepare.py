"""Prepare: decode a source's films into the cache, so that later runs open them at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leadapron.errors import UsageError
from leadapron.films.cache import default_folder
from leadapron.films.cohort import Overlay
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import open_source
from leadapron.specs import build, grid
from leadapron.study.settings import complete
from leadapron.text import short_path
from leadapron.types import AUTO, Machine, said

__all__ = ["prepare"]


def prepare(
    tree: Mapping[str, Any],
    *,
    machine: Machine = AUTO,
) -> list[dict[str, Any]]:
    """Decode films into the cache, unless they are there already.

    Args:
        tree: settings of a study; its "source" and "preprocessing" are used, each combination of
            their lists in turn.
        machine: device, precision, cache and progress.

    Returns:
        For each combination: source, films, size, dtype, bytes, folder, seconds, notes.

    Raises:
        UsageError: a source whose films aren't in files, or no cache.
    """
    if default_folder(machine.cache) is None:
        raise UsageError("`cache` none: nothing can be prepared in memory; expected a folder")
    whole = complete(tree)
    done = []
    for point in grid({name: whole[name] for name in ("source", "preprocessing")}):
        source = dict(point["source"])
        name = source.pop("name")
        began = time.perf_counter()
        cohort = open_source(
            name,
            preprocessing=build(Preprocessing, point["preprocessing"], "preprocessing"),
            **machine.films,
            **source,
        )
        images = cohort.images
        if isinstance(images, Overlay):  # bad films are left out
            images = images.base
        if not isinstance(images, np.memmap):
            raise UsageError(f"nothing to prepare for {name}: its films are drawn, not decoded")
        done.append(
            {
                "source": short_path(name),
                "films": len(cohort),
                "size": cohort.preprocessing.size,
                "dtype": cohort.preprocessing.dtype,
                "bytes": int(images.nbytes),
                "folder": str(Path(str(images.filename)).parent),
                "seconds": time.perf_counter() - began,
                "notes": list(said(cohort.notes)),
            }
        )
    return done
