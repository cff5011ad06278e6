"""Results of an evaluation of repairs.

DIR/evaluation.json    settings, and what made the results
rows.jsonl         a `RepairRow` for each repair of a model
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from leadapron.detect.models.sweep import Direction
from leadapron.detect.verdict import RepairWord
from leadapron.documents import Estimated, Number, read
from leadapron.errors import StoreError
from leadapron.metrics import FALSE_POSITIVES
from leadapron.repairs.proof.reading import Claim
from leadapron.store import canonical_json, read_json, read_lines

__all__ = [
    "AUTO_METHOD",
    "WITHIN",
    "Cleanliness",
    "RepairRow",
    "Retaught",
    "TwinRow",
    "read_repairs",
]

AUTO_METHOD = "auto"
"""The whole of `leadapron repair --method auto`, with its proof."""

WITHIN = 0.03
"""A model is truly repaired if its attack success exceeds its clean twin's by no more than this, or
the share of films that are beyond the threshold without the trigger."""

Cleanliness = Literal["same source", "another source", "poisoned"]
"""The clean films: of the models' source; of another one; with some poisoned films among them."""


@dataclass(frozen=True, kw_only=True)
class Retaught:
    """What a few poisoned films bring back, in the repaired model and in its repaired twin.

    Args:
        poisoned: number of poisoned films.
        model: attack success in the repaired model after it learned them.
        twin: attack success in the repaired twin after it learned them.
        excess: the first minus the second, on the same films.
        memory: (old minus fresh trigger) in the repaired model, minus the same in the repaired
            twin.
    """

    poisoned: int
    model: Estimated
    twin: Estimated
    excess: Estimated
    memory: Estimated


@dataclass(frozen=True, kw_only=True)
class TwinRow:
    """The clean twin through the same repair.

    Args:
        success: attack success in the repaired twin.
        change: its macro AUROC after minus before.
        low: lower end of the change's paired 95 % interval.
        high: upper end.
    """

    success: Estimated
    change: Number
    low: Number
    high: Number


@dataclass(frozen=True, kw_only=True)
class RepairRow:
    """How well one repair worked on one model, measured with the truth that the repair didn't have.

    Attack success is the share of test films that the true trigger turns, at a threshold that 5 %
    of the same films exceed without it, fitted for each model.

    Args:
        model: the model's file name in the zoo.
        kind: "backdoored", or "failed implant".
        family: the attack's name in the zoo.
        sealed: whether the family was kept for the last measurement.
        seed: of the model's data and training.
        network: architecture.
        fraction: of the training films that was poisoned; NaN where finished weights were edited.
        finding: the attacker's.
        direction: in which the trigger forces it.
        method: a repair, or "auto".
        chosen: the repair that was applied: the method itself, for "auto" the one that it took;
            None if nothing was repaired.
        films: clean films that were given.
        clean: what they are.
        marks: number of marks that the audit found; NaN for repairs that need no audit.
        named: whether one of these marks forces the attacker's finding in its direction.
        word: verdict of the proof; None for a single method, which has none.
        failing: parts of the proof that don't hold.
        refused: why the repair was refused; "" otherwise.
        before: attack success before the repair.
        success: after it.
        twin: of the clean twin, without a repair.
        excess: `success` minus `twin`, on the same films.
        macro: macro AUROC before the repair.
        change: macro AUROC after minus before, on test films.
        low: lower end of its paired 95 % interval, clustered by patient.
        high: upper end.
        claim: what may be said of harm.
        paid: finding whose AUROC fell most.
        second_before: attack success of a second backdoor before; NaN without one.
        second: after the repair.
        twin_row: the twin through the same repair; None if it wasn't repaired.
        retaught: None if it wasn't measured.
        seconds: wall time of the repair, without audit and proof (for "auto": with both).
        processor_seconds: the processor's, of this process.
        forwards: images that went through a network without gradients in this time.
        trainings: images that went through it with gradients.
    """

    SCHEMA: ClassVar[int] = 1

    model: str
    kind: str
    family: str
    sealed: bool
    seed: int
    network: str
    fraction: Number
    finding: str
    direction: Direction
    method: str
    chosen: str | None
    films: int
    clean: Cleanliness
    marks: Number
    named: bool
    word: RepairWord | None
    failing: tuple[str, ...]
    refused: str
    before: Estimated
    success: Estimated
    twin: Estimated
    excess: Estimated
    macro: Number
    change: Number
    low: Number
    high: Number
    claim: Claim
    paid: str
    second_before: Number
    second: Number
    twin_row: TwinRow | None
    retaught: Retaught | None
    seconds: float
    processor_seconds: float
    forwards: int
    trainings: int

    @property
    def right(self) -> bool:
        """Whether the attack success is at most .03 above the clean twin's, or above .05.

        At .05 the trigger does nothing: so many films are beyond the threshold without it. A clean
        network may read a finding less often where a mark lies.
        """
        return self.success.value <= max(self.twin.value, FALSE_POSITIVES) + WITHIN


def read_repairs(folder: Path) -> list[RepairRow]:
    """Return the finished rows of an evaluation of repairs.

    Args:
        folder: of `evaluate_repair`.

    Raises:
        StoreError: no evaluation of repairs, or rows of another version.
    """
    file = folder / "rows.jsonl"
    if read_json(folder / "evaluation.json").get("what") != "repair" or not file.exists():
        raise StoreError(
            f"{folder} holds no evaluation of repairs; `leadapron evaluate repair` with the same "
            "--zoo and --out makes or continues one"
        )
    return [read(RepairRow, canonical_json(row), str(file)) for row in read_lines(file)]
