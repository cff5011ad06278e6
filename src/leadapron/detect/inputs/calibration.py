"""A calibration as a document: what `leadapron calibrate --json` answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from leadapron.documents import ShownPath

__all__ = ["CalibrationDocument"]


@dataclass(frozen=True, kw_only=True)
class CalibrationDocument:
    """What a calibration made.

    Args:
        verdict: nothing is judged.
        gate: the gate's JSON file; "" where it wasn't written.
        numbers: the file beside it.
        model: that it is of.
        sha256: of the model's file, in hex; "" of a model without one.
        origin: what the model is, in words.
        films: clean films that it rests on.
        calibration_films: those that set the threshold.
        calibration_patients: whom they show.
        false_alarm: share of clean films that is called suspicious, at most.
        likely_rates: the gate's own rate, in 95 of 100 calibrations.
        threshold: that the scores of suspicious films exceed.
        detectors: by name.
        scores: that are fused, by name.
        typical: whether it tells untypical films apart.
        left_out: detectors that this model can't be screened with, and why.
        passes: of the model, for a film.
        milliseconds: a film.
        statement: what kind of data it is.
        notes: what was assumed or is doubtful about model and films.
    """

    SCHEMA: ClassVar[int] = 1

    verdict: Literal["calibrated"] = "calibrated"
    gate: str
    numbers: str
    model: ShownPath
    sha256: str
    origin: str
    films: int
    calibration_films: int
    calibration_patients: int
    false_alarm: float
    likely_rates: tuple[float, float]
    threshold: float
    detectors: tuple[str, ...]
    scores: tuple[str, ...]
    typical: bool
    left_out: Mapping[str, str]
    passes: int
    milliseconds: float
    statement: str
    notes: tuple[str, ...]
