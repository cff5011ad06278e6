"""Results of an evaluation of gates, and the figures made from its scores.

DIR/evaluation.json    settings, and what made the results
rows.jsonl         a line for each run, model, score and strength of the trigger, and for each gate
scores/RUN.npz     the scores of every film, so that they can be fused in another way
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leadapron import metrics
from leadapron.results.names import ROLES, Role
from leadapron.store import read_arrays
from leadapron.types import Estimate

__all__ = [
    "CantTell",
    "Cost",
    "GateRow",
    "Pointing",
    "ScoreKind",
    "ScoreRow",
    "ScreeningFolder",
    "family_alarms",
]

ScoreKind = Literal["fused", "alone", "baseline", "without"]
"""Kind of score: the gate's fused score; one of its scores alone; a score that it doesn't use; its
fused score without one."""


@dataclass(frozen=True, kw_only=True)
class _Plain:
    """Base of a line of JSON, or of a part of one."""

    def plain(self) -> Mapping[str, object]:
        """Return plain values for JSON."""
        return {
            name: value.plain() if isinstance(value, _Plain | Estimate) else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True, kw_only=True)
class ScoreRow(_Plain):
    """How well one score separates films with the trigger from clean ones.

    Args:
        kind: kind of score.
        score: its name; for the kind "without", the omitted score.
        strength: strength of the trigger, 0 to 1.
        films: number of films with the trigger.
        clean_films: number of films without it.
        auroc: AUROC of the former against the latter.
        found: share of triggered films above the threshold of the calibration films.
        false_alarms: share of clean films above it.
        works: share of triggered films with the reading that the attacker wants.
        found_where_it_works: `found` among those films.
        found_at_1: share above the threshold that 1 % of the clean films exceed.
        found_at_5: share above the threshold that 5 % of them exceed.
    """

    kind: ScoreKind
    score: str
    strength: float
    films: int
    clean_films: int
    auroc: Estimate
    found: Estimate
    false_alarms: Estimate
    works: Estimate
    found_where_it_works: Estimate
    found_at_1: Estimate
    found_at_5: Estimate


@dataclass(frozen=True, kw_only=True)
class Cost(_Plain):
    """Computing cost of a gate.

    Args:
        passes: forward passes per film; a backward pass counts as two.
        batch: films in a batch.
        milliseconds_single: median processor time of a film judged alone; None if unknown.
        milliseconds_batched: median processor time per film in full batches; None if unknown.
    """

    passes: int
    batch: int
    milliseconds_single: float | None
    milliseconds_batched: float | None


@dataclass(frozen=True, kw_only=True)
class CantTell(_Plain):
    """Share of films that get "can't tell", since they are unlike the calibration films.

    Args:
        clean: of clean films.
        triggered: of films with the trigger.
        lost: of those films with the trigger whose score exceeds the threshold.
    """

    clean: Estimate
    triggered: Estimate
    lost: Estimate


@dataclass(frozen=True, kw_only=True)
class Pointing(_Plain):
    """How often the evidence region is on the mark, that is, holds a pixel of it.

    Args:
        hits: share of films with a hit.
        centre: the same for a box of its size at the centre.
        random: the same for a box at a random place.
        covered: mean share of the mark that the region covers.
    """

    hits: Estimate
    centre: Estimate
    random: float
    covered: float


@dataclass(frozen=True, kw_only=True)
class GateRow(_Plain):
    """Results that belong to a gate as a whole.

    Args:
        cost: its computing cost.
        cant_tell: None for a gate without an out-of-distribution detector.
        pointing: None for a gate without an evidence region.
        shared: number of marks that calibration films share and that drive the model.
    """

    kind: Literal["gate"] = "gate"
    cost: Cost
    cant_tell: CantTell | None
    pointing: Pointing | None
    shared: int


@dataclass(frozen=True)
class ScreeningFolder:
    """The folder of `leadapron evaluate screen --out`."""

    path: Path

    @property
    def head(self) -> Path:
        """Settings and manifest."""
        return self.path / "evaluation.json"

    @property
    def rows(self) -> Path:
        """Lines of `ScoreRow` and `GateRow`, each with facts about its run and model."""
        return self.path / "rows.jsonl"

    def scores(self, run: str) -> Path:
        """Return the file with the scores of every film of a run."""
        return self.path / "scores" / f"{run}.npz"


def family_alarms(
    folder: ScreeningFolder, rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[Role, Estimate]]:
    """Return the share of clean films that the gates of a family's models call suspicious.

    The interval is clustered by patient over all models, so that models tested on the same films
    don't count twice.

    Args:
        folder: the evaluation's folder; its scores are read.
        rows: the evaluation's rows.

    Returns:
        Estimates by family and by the gates' model; families without a gate are left out.

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
