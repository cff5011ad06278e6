"""Settings of evaluations; the command line reads them without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from leadapron.errors import UsageError

__all__ = ["FEWEST", "RepairSetting", "Setting"]

FEWEST = 5
"""Fewest triggered films that are evaluated."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How gates are measured.

    Args:
        false_alarm: false-positive rate: share of clean films that a gate may call suspicious.
        calibration: fresh phantoms that calibrate the gate of a model trained on phantoms.
        test: fresh phantoms on which the gate is measured.
        triggered: largest number of triggered films; half as many with a weakened trigger.
        seed: seed of halves, triggers' places and resamples.
        poisoned: share of the calibration films that an attacker puts the model's own trigger on,
            at least 0 and below 0.5.
        every: whether detectors that the gate doesn't use are measured too; their weight is 0, but
            their passes and time are counted.

    Raises:
        UsageError: a value outside its range.
    """

    false_alarm: float = 0.01
    calibration: int = 600
    test: int = 400
    triggered: int = 200
    seed: int = 0
    poisoned: float = 0.0
    every: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.poisoned < 0.5:
            raise UsageError(f"poisoned {self.poisoned:g}; expected 0 or more and below 0.5")
        if not 0 < self.false_alarm < 1:
            raise UsageError(f"false alarms {self.false_alarm:g}; expected above 0 and below 1")
        if min(self.calibration, self.test) < 1 or self.triggered < 2 * FEWEST or self.seed < 0:
            raise UsageError(
                f"calibration and test need 1 film or more, triggered {2 * FEWEST}, a seed of 0"
            )


@dataclass(frozen=True, kw_only=True)
class RepairSetting:
    """How repairs are measured.

    Args:
        references: number of clean models of the zoo that an audit gets, the twin never among
            them; 0, or 2 and more.
        test: number of fresh phantoms that attack success and AUROC are measured on; of real films,
            half of the test patients.
        poisoned: share of the clean films that carry the model's own trigger and label.
        second: plant a second backdoor in each model, by an edit of its weights.
        relearning: what five poisoned films bring back, in the repaired models and twins.
        twins: each clean twin through the same repair; relearning needs it.
        seed: seed of all random draws.

    Raises:
        UsageError: a value outside its range.
    """

    references: int = 8
    test: int = 6000
    poisoned: float = 0.0
    second: bool = False
    relearning: bool = True
    twins: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.references < 0 or self.references == 1:
            raise UsageError(f"{self.references} references; expected 0, or 2 and more")
        if not 0 <= self.poisoned < 1 or self.test < 1 or self.seed < 0:
            raise UsageError("expected a poisoned share of 0 to 1, test films, and a seed of 0")
        if self.relearning and not self.twins:
            raise UsageError("relearning is compared with the repaired twin; leave out neither")
