"""Calibrate: fit a model's input detectors on clean films, and set the alarm's threshold."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL, WEIGHTS, judge, read, usable
from leadapron.detect.inputs import calibrate as fit
from leadapron.detect.inputs.gate_file import (
    GatedModel,
    StoredGate,
    numbers_of,
    refuse_others,
    write_gate,
)
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import BlackBox, Differentiable
from leadapron.models.foreign import doubts, open_model
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.text import short_path
from leadapron.types import AUTO, Machine, said

__all__ = ["Calibrated", "calibrate"]

logger = logging.getLogger(__name__)


FALSE_ALARM = 0.01
"""Share of clean films that may be called suspicious."""

PROBED = 64
"""Films that are timed."""

DOUBTED = 256
"""Films that the model is looked at with, for what is odd about it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibrated:
    """What a calibration wrote.

    Args:
        file: the gate's JSON file.
        stored: the gate, and what it is of.
        origin: what the model is, in words.
        notes: what was assumed or is doubtful about model and films.
    """

    file: Path
    stored: StoredGate
    origin: str
    notes: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values, schema 1."""
        gate = self.stored.gate
        return {
            "schema": 1,
            "verdict": "calibrated",
            "gate": str(self.file),
            "numbers": str(numbers_of(self.file)),
            "model": short_path(str(self.stored.model.path)),
            "sha256": self.stored.model.sha256,
            "origin": self.origin,
            "films": self.stored.fitted + len(gate.fused),
            "calibration_films": len(gate.fused),
            "calibration_patients": gate.patients,
            "false_alarm": gate.false_alarm,
            "likely_rates": list(gate.likely_rates),
            "threshold": gate.threshold,
            "detectors": list(gate.detectors),
            "scores": list(gate.weights),
            "typical": gate.typical is not None,
            "left_out": dict(gate.left_out),
            "passes": gate.passes,
            "milliseconds": self.stored.milliseconds,
            "statement": self.stored.statement,
            "notes": list(self.notes),
        }


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
    """Calibrate a gate for a model on films without a trigger, and write it.

    Args:
        model: a file, as `open_model`; a function's model has no content that a gate could be tied
            to.
        clean: source of the films, as `open_source`; the model's preprocessing is applied.
        out: the gate's JSON file; its numbers go beside it.
        false_alarm: share of clean films like these that may be called suspicious.
        opening: further options of `open_model`: findings, normalisation's name, architecture, ...
        machine: where and how it is carried out.
        **options: the source's settings.

    Raises:
        UsageError: a rate out of range, a model that is no file, or a gate's name that is taken.
        LeadapronError: as `open_model`, `open_source` and `detect.inputs.calibrate`.
    """
    path, how = Path(model), dict(opening or {})
    if not 0 < false_alarm < 1:
        raise UsageError(f"--false-alarm {false_alarm:g}: expected above 0 and below 1")
    refuse_others(out)
    opened = open_model(model, **machine.networks, **how)
    if opened.content is None:
        raise UsageError(f"{model} is no file; a gate is tied to a model file's content")
    classifier = opened.classifier
    cohort = open_source(
        clean,
        preprocessing=classifier.preprocessing,
        **machine.films,
        **options,
    )
    _say_cost(classifier, cohort)
    gate = fit(
        classifier, cohort, INPUT_DETECTORS, WEIGHTS, typical=TYPICAL,
        false_alarm=false_alarm, progress=machine.progress,
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
    names = how.pop("findings", None)
    how.pop("trust_programs", None)  # whoever screens has to say so again
    stored = StoredGate(
        gate=gate,
        model=GatedModel(
            path=path.absolute(),
            sha256=opened.content,
            findings=tuple(classifier.findings),
            preprocessing=classifier.preprocessing,
            opening={**how, "named": names is not None},
            precision=classifier.precision if isinstance(classifier, Differentiable) else "auto",
        ),
        window=str(options.get("window", "header")),
        bits=cohort.bits,
        fitted=len(cohort) - len(gate.fused),
        milliseconds=1000 * spent / len(some),
        notes=opened.notes,
    )
    write_gate(out, stored)
    return Calibrated(file=out, stored=stored, origin=opened.origin, notes=notes)


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
