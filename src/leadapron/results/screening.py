"""What an evaluation of gates leaves, and the figures that are made from its scores.

DIR/screen.json        settings, what made the results, and figures by family
rows.jsonl         a line for each run, model, score and strength of the trigger
scores/RUN.npz     the scores of every film, so that they can be fused in another way
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leadapron import metrics
from leadapron.results.names import ROLES, Role
from leadapron.store import read_arrays
from leadapron.types import Estimate

__all__ = ["ScreeningFolder", "family_alarms"]


@dataclass(frozen=True)
class ScreeningFolder:
    """What `leadapron evaluate screen --out` writes."""

    path: Path

    @property
    def head(self) -> Path:
        """Settings, what made the results, and figures by family."""
        return self.path / "screen.json"

    @property
    def rows(self) -> Path:
        """A line for each run, model, score and strength of the trigger."""
        return self.path / "rows.jsonl"

    def scores(self, run: str) -> Path:
        """Return the file with the scores of every film of a run."""
        return self.path / "scores" / f"{run}.npz"


def family_alarms(
    folder: ScreeningFolder, rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[Role, Estimate]]:
    """Return the share of clean films that the gates of a family's models call suspicious.

    The interval is clustered by patient over all models, so that models which were shown the same
    films don't count twice.

    Args:
        folder: of the evaluation; its scores are read.
        rows: of the evaluation.

    Returns:
        By family and by the model that the gates are of; families without a gate are left out.

    Raises:
        StoreError: scores that can't be read.
    """
    families: dict[str, set[str]] = {}
    for row in rows:
        if row["kind"] == "fused":
            families.setdefault(str(row["family"]), set()).add(str(row["run"]))
    return {
        family: {role: _alarms(folder, sorted(runs), role) for role in ROLES}
        for family, runs in sorted(families.items())
    }


def _alarms(folder: ScreeningFolder, runs: Sequence[str], role: Role) -> Estimate:
    alarms, patients = [], []
    for run in runs:
        found = read_arrays(folder.scores(run))
        alarms.append(found[f"{role}_alarms"])
        patients += [f"{found['films']} {code}" for code in found["clean_patients"]]
    return metrics.rate(np.concatenate(alarms), np.array(patients))
