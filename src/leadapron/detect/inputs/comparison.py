"""A new gate beside the one that it is to replace: thresholds, scores, and verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.clinic import film_hashes, held_again
from leadapron.detect.inputs.decision import decide_images
from leadapron.detect.inputs.fitting import threshold_rows
from leadapron.detect.inputs.gate import BATCH, Gate
from leadapron.detect.inputs.strata import StratumFacts
from leadapron.documents import Number
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort, blocks
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.protocols import BlackBox
from leadapron.types import Progress

__all__ = ["Called", "CalledFilms", "GateComparison", "GateLevels", "OldGate", "compare_gates"]


@dataclass(frozen=True, eq=False, kw_only=True)
class OldGate:
    """A gate that is to be replaced.

    Args:
        name: its file's name.
        gate: the gate.
        classifier: its model.
    """

    name: str
    gate: Gate
    classifier: BlackBox

    @classmethod
    def of(cls, file: Path | None, gate: Gate, classifier: BlackBox) -> OldGate:
        """Return an open gate as one that is to be replaced; it has no name without a file."""
        return cls(name="" if file is None else file.name, gate=gate, classifier=classifier)

    def refuse_other(self, preprocessing: Preprocessing) -> None:
        """Raise UsageError if its model takes other images than those of a preprocessing."""
        own = self.classifier.preprocessing
        if own != preprocessing:
            raise UsageError(
                f"`against` {self.name}: its model takes images of another preprocessing: {own}; "
                f"expected {preprocessing}"
            )


@dataclass(frozen=True, kw_only=True)
class ClinicThresholds:
    """Thresholds of a gate for one clinic's films.

    Args:
        clinic: what the clinic is called.
        suspicious: fused score that suspicious films exceed.
        cant_tell: out-of-distribution score above which a film gets "can't tell"; None for a gate
            without such a detector.
        strata: thresholds by what the model reads on a film, which then count in place of
            `suspicious`; empty if all films share one.
    """

    clinic: str
    suspicious: Number
    cant_tell: Number | None
    strata: tuple[StratumFacts, ...]


@dataclass(frozen=True, kw_only=True)
class ScoreLevels:
    """A score on the films that set a gate's thresholds.

    Args:
        score: its name.
        median: its median.
        high: its 95th percentile.
    """

    score: str
    median: Number
    high: Number


@dataclass(frozen=True, kw_only=True)
class GateLevels:
    """A gate's thresholds, and its scores on its own calibration films.

    Args:
        gate: its file's name; "" for a gate that wasn't written.
        false_alarm: largest share of a clinic's clean films called suspicious.
        thresholds: by clinic.
        scores: in the order of the gate's weights.
    """

    gate: str
    false_alarm: float
    thresholds: tuple[ClinicThresholds, ...]
    scores: tuple[ScoreLevels, ...]


@dataclass(frozen=True, kw_only=True)
class Called:
    """What a gate calls some films.

    Args:
        suspicious: number of films called suspicious.
        cant_tell: number of films that get "can't tell".
    """

    suspicious: int
    cant_tell: int


@dataclass(frozen=True, kw_only=True)
class CalledFilms:
    """What two gates call the same films.

    Args:
        kind: what the films have in common, as "view"; "" for all films.
        name: which, as "AP".
        films: number of films.
        old: what the old gate calls them.
        new: what the new gate calls them, each judged by thresholds of other patients' films.
    """

    kind: str
    name: str
    films: int
    old: Called
    new: Called


@dataclass(frozen=True, kw_only=True)
class GateComparison:
    """A new gate beside an old one.

    Args:
        old: the old gate.
        new: the new gate.
        films: verdicts on the films that set the new gate's thresholds: all, then by group.
        held: number of these films that the old gate was made from as well, on which its verdicts
            are too favourable.
    """

    old: GateLevels
    new: GateLevels
    films: tuple[CalledFilms, ...]
    held: int


def compare_gates(
    old: OldGate,
    new: Gate,
    findings: Sequence[str],
    clean: Cohort,
    progress: Progress | None = None,
) -> GateComparison:
    """Return a new gate of one clinic beside an old gate.

    Args:
        old: the old gate.
        new: the gate that `calibrate` made.
        findings: those of its model.
        clean: the films that it was made from.
        progress: called with the name of the step, the films done, and the total.
    """
    rows = threshold_rows(clean)
    words: list[str] = []
    for some in blocks(len(rows), BATCH):
        decisions = decide_images(old.gate, old.classifier, clean.images[rows[some]])
        words += [decision.verdict for decision in decisions]
        if progress is not None:
            progress("films through the old gate", len(words), len(rows))
    clinic = new.clinics[0]
    held = clinic.held_out(new.rate)
    said = np.asarray(words)

    def called(kind: str, name: str, films: NDArray[np.bool_]) -> CalledFilms:
        before = Counter(said[films].tolist())
        return CalledFilms(
            kind=kind, name=name, films=int(films.sum()),
            old=Called(suspicious=before["suspicious"], cant_tell=before["can't tell"]),
            new=Called(
                suspicious=int(held.suspicious[films].sum()),
                cant_tell=int(held.cant_tell[films].sum()),
            ),
        )  # fmt: skip

    everything = np.ones(len(rows), bool)
    hashes = np.concatenate([each.hashes for each in old.gate.clinics])
    return GateComparison(
        old=_levels(old.gate, old.name, old.classifier.findings),
        new=_levels(new, "", findings),
        films=(
            called("", "all films", everything),
            *(called(group.kind, group.name, group.films) for group in clinic.groups),
        ),
        held=held_again(hashes, film_hashes(clean.images[rows])),
    )


def _levels(gate: Gate, name: str, findings: Sequence[str]) -> GateLevels:
    scores = np.concatenate([clinic.scores for clinic in gate.clinics])
    middle, high = np.nanquantile(scores, [0.5, 0.95], axis=0)
    return GateLevels(
        gate=name,
        false_alarm=gate.false_alarm,
        thresholds=tuple(
            ClinicThresholds(
                clinic=clinic.name,
                suspicious=clinic.threshold(gate.rate),
                cant_tell=None if gate.typical is None else clinic.farthest(gate.rate),
                strata=clinic.stratum_facts(gate.rate, findings),
            )
            for clinic in gate.clinics
        ),
        scores=tuple(
            ScoreLevels(score=score, median=float(m), high=float(h))
            for score, m, h in zip(gate.weights, middle, high, strict=True)
        ),
    )
