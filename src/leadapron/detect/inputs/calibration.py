"""A calibration as a document: the output of `leadapron calibrate --json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from leadapron.documents import ShownPath

__all__ = ["CalibrationDocument"]


@dataclass(frozen=True, kw_only=True)
class CalibrationDocument:
    """Result of a calibration.

    Args:
        verdict: always None, since nothing is judged.
        gate: the gate's JSON file; "" if it wasn't written.
        numbers: the safetensors file that belongs to it.
        model: the model's file.
        sha256: SHA-256 of the model's file, in hex; "" for a model without a file.
        origin: description of the model.
        films: number of clean films.
        calibration_films: number of films that set the threshold.
        calibration_patients: number of their patients.
        false_alarm: largest share of clean films called suspicious.
        likely_rates: range of the gate's own false-alarm rate in 95 of 100 calibrations.
        threshold: score that suspicious films exceed.
        detectors: by name.
        scores: names of the fused scores.
        typical: whether it has an out-of-distribution detector.
        left_out: detectors that can't be used with this model, and the reason.
        passes: forward passes of the model per film.
        milliseconds: time per film.
        statement: kind of data that the gate holds.
        notes: assumptions and warnings about model and films.
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
