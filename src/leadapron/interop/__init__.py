"""Conversion to and from data sets of torch, torchxrayvision and MONAI."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from leadapron.films.cohort import Cohort
from leadapron.interop.datalists import as_monai, from_monai
from leadapron.interop.torchxrayvision import as_torchxrayvision, from_torchxrayvision

if TYPE_CHECKING:
    from leadapron.interop.torch import FilmDataset

__all__ = ["as_dataset", "as_monai", "as_torchxrayvision", "from_monai", "from_torchxrayvision"]


def as_dataset(cohort: Cohort, *, transform: Callable[[Any], Any] | None = None) -> FilmDataset:
    """Return a cohort as a torch Dataset, for torch's DataLoader with any number of workers.

    An item is a dictionary: "image" (1, h, w) float32 from 0 to 1, "label" (k,) float32 with NaN
    for "not stated", "id", "patient" and "row". Pixels are read on access; workers share those in
    the cache.

    Args:
        cohort: the films; `cohort.findings` names the labels.
        transform: applied to the image.
    """
    from leadapron.interop.torch import FilmDataset

    return FilmDataset(cohort, transform)
