"""Calibrate: fit a model's input detectors on clean films, and set the alarm's threshold."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL, WEIGHTS, judge, read, usable
from leadapron.detect.inputs import calibrate as fit
from leadapron.detect.inputs.calibration import CalibrationDocument
from leadapron.detect.inputs.gate_file import (
    GatedModel,
    StoredGate,
    numbers_of,
    refuse_others,
    write_gate,
)
from leadapron.detect.verdict import refuse_rate
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import BlackBox, Differentiable
from leadapron.models.foreign import Opened, model_warnings, open_model
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.types import AUTO, Machine, Progress, said

__all__ = ["Calibrated", "calibrate", "calibrate_opened"]

logger = logging.getLogger(__name__)


FALSE_ALARM = 0.01
"""Share of clean films that may be called suspicious."""

PROBED = 64
"""Films that are timed."""

DOUBTED = 256
"""Films that the model is looked at with, for what is odd about it."""


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


@forgiving
def calibrate(
    model: str | Path,
    clean: str,
    out: Path,
    *,
    false_alarm: float = FALSE_ALARM,
    opening: Mapping[str, Any] | None = None,
    machine: Machine = AUTO,
    **options: Any,
) -> Calibrated:
    """Make a gate that screens a model's films, and write it.

    Args:
        model: a file of weights, or a TorchScript or ONNX file; a gate is tied to its content.
        clean: films without a trigger that the model wasn't trained on, as "nih:PATH"; the model's
            preprocessing is applied.
        out: the gate's JSON file; its numbers go beside it.
        false_alarm: share of clean films like these that may be called suspicious.
        opening: further options of `open_model`: findings, normalisation's name, architecture, ...
        machine: where and how it is carried out.
        **options: the source's settings.

    Raises:
        UsageError: a rate out of range, a model that is no file, or a gate's name that is taken.
        LeadapronError: as `open_model`, `open_source` and `detect.inputs.calibrate`.
    """
    how = dict(opening or {})
    refuse_rate(false_alarm)
    refuse_others(out)
    opened = open_model(model, **machine.networks, **how)
    if opened.content is None:
        raise UsageError(f"{model} is no file; a gate is tied to a model file's content")
    cohort = open_source(
        clean,
        preprocessing=opened.classifier.preprocessing,
        **machine.films,
        **options,
    )
    names = how.pop("findings", None)
    how.pop("trust_programs", None)  # whoever screens has to say so again
    made = calibrate_opened(
        opened,
        cohort,
        path=Path(model).absolute(),
        false_alarm=false_alarm,
        opening={**how, "named": names is not None},
        window=str(options.get("window", "header")),
        progress=machine.progress,
    )
    write_gate(out, made.stored)
    return replace(made, file=out)


def calibrate_opened(
    opened: Opened,
    cohort: Cohort,
    *,
    path: Path,
    false_alarm: float = FALSE_ALARM,
    opening: Mapping[str, Any] | None = None,
    window: str = "header",
    progress: Progress | None = None,
) -> Calibrated:
    """Calibrate a gate for a model that is open; nothing is written.

    Args:
        opened: the model.
        cohort: films without a trigger, of its preprocessing.
        path: the model's file, or what to call a model without one.
        false_alarm: as `calibrate`.
        opening: as `GatedModel`.
        window: of DICOM files, as `FilmFiles.window`.
        progress: called with what is being done, the films done and in all.

    Raises:
        UsageError: a rate out of range.
        LeadapronError: as `detect.inputs.calibrate`.
    """
    classifier = opened.classifier
    _say_cost(classifier, cohort)
    gate = fit(
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
