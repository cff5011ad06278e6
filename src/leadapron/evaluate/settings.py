"""What is decided of how gates are measured."""

from __future__ import annotations

from dataclasses import dataclass

from leadapron.errors import UsageError

__all__ = ["FEWEST", "Setting"]

FEWEST = 5
"""Films with the trigger, from which on anything is said of them."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How gates are measured.

    Args:
        false_alarm: share of clean films that a gate may call suspicious.
        calibration: fresh phantoms that calibrate the gate of a model trained on phantoms.
        test: fresh phantoms that it is measured on.
        triggered: films with the trigger at most; weakened ones are half as many.
        seed: draws halves, triggers' places and resamples.
        every: whether detectors that the gate doesn't ask are measured too; they weigh nothing, but
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
