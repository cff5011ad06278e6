"""Calibration: fitting a model's input detectors and the threshold, and its document."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from leadapron.detect.inputs import (
    INPUT_DETECTORS,
    TYPICAL,
    WEIGHTS,
    calibrate,
    judge,
    read,
    usable,
)
from leadapron.detect.inputs.gate_file import KEPT, GatedModel, StoredGate, numbers_of
from leadapron.documents import ShownPath
from leadapron.films.cohort import Cohort, subsample
from leadapron.models.foreign import Opened, model_warnings
from leadapron.models.protocols import BlackBox, Differentiable
from leadapron.models.stated import ModelSettings
from leadapron.types import Progress, said

__all__ = ["Calibrated", "CalibrationDocument", "calibrate_opened"]

logger = logging.getLogger(__name__)

PROBED = 64
"""Films that are timed."""

DOUBTED = 256
"""Films that the model is looked at with, for what is odd about it."""


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibrated:
    """Result of a calibration.

    Args:
        file: the gate's JSON file; None where it wasn't written.
        stored: the gate, and what it is of.
        origin: description of the model.
        notes: assumptions and warnings about model and films.
    """

    file: Path | None
    stored: StoredGate
    origin: str
    notes: tuple[str, ...]

    def document(self) -> CalibrationDocument:
        """Return what --json answers."""
        gate, model = self.stored.gate, self.stored.model
        return CalibrationDocument(
            gate="" if self.file is None else str(self.file),
            numbers="" if self.file is None else str(numbers_of(self.file)),
            model=str(model.path),
            sha256=model.sha256,
            origin=self.origin,
            films=self.stored.fitted + len(gate.fused),
            calibration_films=len(gate.fused),
            calibration_patients=gate.patients,
            false_alarm=gate.false_alarm,
            likely_rates=gate.likely_rates,
            threshold=gate.threshold,
            detectors=tuple(gate.detectors),
            scores=tuple(gate.weights),
            typical=gate.typical is not None,
            left_out=gate.left_out,
            passes=gate.passes,
            milliseconds=self.stored.milliseconds,
            statement=self.stored.statement,
            notes=self.notes,
        )


def calibrate_opened(
    opened: Opened,
    cohort: Cohort,
    *,
    path: Path,
    false_alarm: float,
    window: str = "header",
    progress: Progress | None = None,
) -> Calibrated:
    """Calibrate a gate for a model that is open; nothing is written.

    Args:
        opened: the model.
        cohort: films without a trigger, of its preprocessing.
        path: the model's file, or what to call a model without one.
        false_alarm: share of clean films like these that may be called suspicious.
        window: of DICOM files, as `FilmFiles.window`.
        progress: called with what is being done, the films done and in all.

    Raises:
        UsageError: a rate out of range.
        LeadapronError: as `detect.inputs.calibrate`.
    """
    classifier = opened.classifier
    _say_cost(classifier, cohort)
    gate = calibrate(
        classifier, cohort, INPUT_DETECTORS, WEIGHTS, typical=TYPICAL,
        false_alarm=false_alarm, progress=progress,
    )  # fmt: skip
    some = cohort.images[np.arange(min(PROBED, len(cohort)))]
    began = time.perf_counter()
    judge(gate, classifier, some)
    spent = time.perf_counter() - began
    few = cohort.take(subsample(len(cohort), DOUBTED))  # a folder begins with one class alone
    notes = (
        *said(note for note in cohort.notes if note.doubt),
        *opened.notes,
        *model_warnings(classifier, few),
        *said(note for note in cohort.notes if not note.doubt),
    )
    stored = StoredGate(
        gate=gate,
        model=GatedModel(
            path=path,
            sha256=opened.content or "",
            findings=tuple(classifier.findings),
            preprocessing=classifier.preprocessing,
            opening=_opening(opened.stated),
            precision=classifier.precision if isinstance(classifier, Differentiable) else "auto",
        ),
        window=window,
        bits=cohort.bits,
        fitted=len(cohort) - len(gate.fused),
        milliseconds=1000 * spent / len(some),
        notes=opened.notes,
    )
    return Calibrated(file=None, stored=stored, origin=opened.origin, notes=notes)


def _opening(stated: ModelSettings) -> Mapping[str, Any]:
    """What a gate keeps of what was stated of a model."""
    kept = {name: value for name, value in stated.given.items() if name in KEPT}
    return {**kept, "named": stated.findings is not None}


def _say_cost(classifier: BlackBox, cohort: Cohort) -> None:
    """A line before long work: films, passes, and about how long they take."""
    some = cohort.images[np.arange(min(PROBED, len(cohort)))]
    began = time.perf_counter()
    read(classifier, some)
    each = (time.perf_counter() - began) / len(some)
    kept, _ = usable(classifier, INPUT_DETECTORS, WEIGHTS)
    passes = 1 + sum(detector.passes for detector in kept.values())
    logger.info(
        "calibrating on %d films, %d passes each: about %.0f s",
        len(cohort), passes, len(cohort) * passes * each,
    )  # fmt: skip
