"""Films at their own resolution, as a scan examines them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import AND, SOURCES, open_source
from leadapron.specs import parameters
from leadapron.types import AUTO, Machine

__all__ = ["allowing_leakage", "open_own_pixels"]

LARGEST = 224
"""Side in pixels up to which films are examined at their own resolution."""

SAMPLED = 32
"""Films whose size is read if the source doesn't state the sizes."""


def open_own_pixels(
    source: str,
    *,
    size: int | None = None,
    machine: Machine = AUTO,
    **options: Any,
) -> Cohort:
    """Open a source at its films' own resolution, uncropped, up to 224 pixels on a side.

    If films differ in size, the longer side of the median film counts. Films of a single size that
    aren't square are padded, which preserves their pixels; others are squashed.

    Args:
        source: as `open_source`.
        size: another side of the images in pixels.
        machine: how films are opened.
        **options: the source's settings.

    Raises:
        LeadapronError: as `open_source`.
    """

    def opened(preprocessing: Preprocessing | None) -> Cohort:
        return open_source(
            source,
            preprocessing=preprocessing,
            **machine.films,
            **allowing_leakage(source, options),
        )

    if size is not None:
        return opened(Preprocessing(size=size))
    cohort = opened(None)
    wanted = _own_pixels(cohort)
    return cohort if wanted == cohort.preprocessing else opened(wanted)


def allowing_leakage(source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source's settings, with a split that shares patients allowed."""
    openers = [SOURCES.get(part.partition(":")[0]) for part in source.split(AND)]
    takes = any(one is not None and "leakage" in parameters(one) for one in openers)
    return {**({"leakage": "allow"} if takes else {}), **options}


def _own_pixels(cohort: Cohort) -> Preprocessing:
    """Preprocessing that leaves the pixels of small enough films unchanged."""
    sizes = Counter[tuple[int, int]]()
    for form, films in cohort.forms.items():
        sizes[form.height, form.width] += films
    if not sizes and cohort.films is not None:
        rows = np.unique(np.linspace(0, len(cohort) - 1, SAMPLED).astype(int))
        height_width = (cohort.films[int(row)].shape for row in rows)
        sizes.update((shape[0], shape[1]) for shape in height_width)
    if not sizes:
        return cohort.preprocessing
    longer = np.sort(np.repeat([max(size) for size in sizes], list(sizes.values())))
    side = int(longer[(len(longer) - 1) // 2])
    (height, width), one_size = next(iter(sizes)), len(sizes) == 1
    keeps = one_size and height != width and side <= LARGEST
    return Preprocessing(
        size=max(min(side, LARGEST), 8),
        aspect="pad" if keeps else "squash",
        dtype=cohort.preprocessing.dtype,
    )
