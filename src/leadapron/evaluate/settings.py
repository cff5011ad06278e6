"""Settings of an evaluation of gates."""

from __future__ import annotations

from dataclasses import dataclass

from leadapron.errors import UsageError

__all__ = ["FEWEST", "Setting"]

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
    every: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.false_alarm < 1:
            raise UsageError(f"false alarms {self.false_alarm:g}; expected above 0 and below 1")
        if min(self.calibration, self.test) < 1 or self.triggered < 2 * FEWEST or self.seed < 0:
            raise UsageError(
                f"calibration and test need 1 film or more, triggered {2 * FEWEST}, a seed of 0"
            )
