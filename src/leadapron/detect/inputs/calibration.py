"""A model's input detectors fitted on clean films, its threshold, and both as a document."""

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
from leadapron.detect.inputs.gate_file import GatedModel, StoredGate, numbers_of
from leadapron.documents import ShownPath
from leadapron.films.cohort import Cohort
from leadapron.models.foreign import Opened, doubts
from leadapron.models.protocols import BlackBox, Differentiable
from leadapron.types import Progress, said

__all__ = ["Calibrated", "CalibrationDocument", "calibrate_opened"]

logger = logging.getLogger(__name__)

PROBED = 64
"""Films that are timed."""

DOUBTED = 256
"""Films that the model is looked at with, for what is odd about it."""


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibrated:
    """What a calibration made.

    Args:
        file: the gate's JSON file; None where it wasn't written.
        stored: the gate, and what it is of.
        origin: what the model is, in words.
        notes: what was assumed or is doubtful about model and films.
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
    opening: Mapping[str, Any] | None = None,
    window: str = "header",
    progress: Progress | None = None,
) -> Calibrated:
    """Calibrate a gate for a model that is open; nothing is written.

    Args:
        opened: the model.
        cohort: films without a trigger, of its preprocessing.
        path: the model's file, or what to call a model without one.
        false_alarm: share of clean films like these that may be called suspicious.
        opening: as `GatedModel`.
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
    few = cohort.take(np.arange(min(DOUBTED, len(cohort))))
    notes = (
        *said(note for note in cohort.notes if note.doubt),
        *opened.notes,
        *doubts(classifier, few),
        *said(note for note in cohort.notes if not note.doubt),
    )
    stored = StoredGate(
        gate=gate,
        model=GatedModel(
            path=path,
            sha256=opened.content or "",
            findings=tuple(classifier.findings),
            preprocessing=classifier.preprocessing,
            opening=opening or {},
            precision=classifier.precision if isinstance(classifier, Differentiable) else "auto",
        ),
        window=window,
        bits=cohort.bits,
        fitted=len(cohort) - len(gate.fused),
        milliseconds=1000 * spent / len(some),
        notes=opened.notes,
    )
    return Calibrated(file=None, stored=stored, origin=opened.origin, notes=notes)


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
