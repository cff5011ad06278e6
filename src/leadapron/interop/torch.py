"""A cohort as a data set of torch; imported lazily, since it imports torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from leadapron.films.cohort import Cohort
from leadapron.interop.pixels import picture, scaled, shareable

__all__ = ["FilmDataset"]


class FilmDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Images, labels and names of a cohort, one film at a time; see `interop.as_dataset`."""

    def __init__(self, cohort: Cohort, transform: Callable[[Any], Any] | None = None) -> None:
        # Not the cohort: its films may hold open files, which can't be sent to other processes.
        self.images = shareable(cohort.images)
        self.labels, self.findings = cohort.labels, cohort.findings
        self.ids, self.patients = cohort.ids, cohort.patients
        self.transform = transform

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        row = range(len(self))[row]
        image = torch.from_numpy(scaled(picture(self.images, row)))
        return {
            "image": image if self.transform is None else self.transform(image),
            "label": torch.tensor(self.labels[row]),
            "id": str(self.ids[row]),
            "patient": str(self.patients[row]),
            "row": row,
        }
