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
    """Say what a source holds: films, patients, labels and how they come together.

    It also says which films are copies, and what leaks from one side of the split to the other.

    A split that shares patients, which other jobs refuse, is described all the same.

    Args:
        source: where films come from, as "phantom:64" or "nih:PATH".
        size: side of the images in pixels; the source's own way, mostly 224, if left out.
        machine: where and how it is carried out.
        **options: the source's settings.

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
