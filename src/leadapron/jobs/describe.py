"""The command describe: open a source and describe it."""

from __future__ import annotations

from typing import Any

from leadapron.detect.films.description import Description, describe_cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import SOURCES, open_source
from leadapron.specs import forgiving, parameters
from leadapron.types import AUTO, Machine

__all__ = ["describe"]


@forgiving
def describe(
    source: str,
    *,
    size: int | None = None,
    machine: Machine = AUTO,
    **options: Any,
) -> Description:
    """Describe a source: films, patients, labels and their co-occurrence.

    Copies of films and leakage across the split are listed too.

    A split that shares patients, which other jobs refuse, is described as well.

    Args:
        source: where films come from, as "phantom:64" or "nih:PATH".
        size: side of the images in pixels; the source's default, mostly 224, if left out.
        machine: device, precision, cache and progress.
        **options: settings of the source.

    Raises:
        LeadapronError: as `open_source`.
    """
    opener = SOURCES.get(source.partition(":")[0])
    if opener is not None and "leakage" in parameters(opener):
        options.setdefault("leakage", "allow")
    cohort = open_source(
        source,
        preprocessing=None if size is None else Preprocessing(size=size),
        **machine.films,
        **options,
    )
    return describe_cohort(cohort, source, progress=machine.progress)
