"""Calibration: fitting a model's input detectors and the threshold, and its document."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from leadapron.detect.inputs import (
    INPUT_DETECTORS,
    TYPICAL,
    WEIGHTS,
    Clinic,
    Gate,
    calibrate,
    extend,
    judge,
    read,
    untypical_films,
    usable,
)
from leadapron.detect.inputs.comparison import GateComparison, OldGate, compare_gates
from leadapron.detect.inputs.fitting import with_pictures
from leadapron.detect.inputs.gate_file import (
    KEPT,
    LARGEST_NUMBERS,
    GatedModel,
    MadeWith,
    StoredGate,
    numbers_of,
)
from leadapron.detect.inputs.groups import GroupRates
from leadapron.detect.inputs.shared_marks import SharedMark
from leadapron.detect.inputs.strata import StratumFacts
from leadapron.detect.inputs.typical import Typicality
from leadapron.documents import ShownPath
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort, subsample
from leadapron.models.foreign import Opened, model_warnings
from leadapron.models.protocols import BlackBox
from leadapron.models.stated import ModelSettings
from leadapron.types import Progress, said

__all__ = [
    "Calibrated",
    "CalibratedClinic",
    "CalibrationDocument",
    "Widened",
    "calibrate_opened",
    "extend_opened",
]

logger = logging.getLogger(__name__)

PROBED = 64
"""Films that are timed."""

DOUBTED = 256
"""Films that the model is looked at with, for what is odd about it."""


@dataclass(frozen=True, kw_only=True)
class CalibratedClinic:
    """What a gate was calibrated on in one clinic.

    Args:
        name: what it is called.
        films: number of clean films.
        calibration_films: number of films that set the threshold.
        patients: number of their patients.
        threshold: score that suspicious films exceed, where they share one threshold.
        strata: thresholds by what the model reads on a film; none unless that was asked for.
        alone: threshold of a gate of this clinic alone, at the same false-alarm rate.
        likely_rates: range of the threshold's own rate in 95 of 100 calibrations.
        groups: rates on groups of these films by view, sex, age, device, finding and reading, where
            known.
        shared: marks that films share and that drive the model: these films may not be clean.
    """

    name: str
    films: int
    calibration_films: int
    patients: int
    threshold: float
    strata: tuple[StratumFacts, ...]
    alone: float
    likely_rates: tuple[float, float]
    groups: tuple[GroupRates, ...]
    shared: tuple[SharedMark, ...]


@dataclass(frozen=True, kw_only=True)
class Widened:
    """What a gate said of a new clinic's films before it was widened by them.

    Args:
        films: number of the films.
        cant_tell: number of them that were untypical of all other clinics.
    """

    films: int
    cant_tell: int


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
        clinics: what it was calibrated on, by clinic.
        false_alarm: largest share of a clinic's clean films called suspicious.
        cant_tell: largest share of a clinic's clean films that get "can't tell" because they are
            untypical; 0 for a gate without an out-of-distribution detector.
        widened: what the last clinic changed; None for a gate of one clinic.
        compared: the gate beside the one that it is to replace; None if none was given.
        detectors: by name.
        scores: names of the fused scores.
        left_out: detectors that can't be used with this model, and the reason.
        passes: forward passes of the model per film.
        milliseconds: time per film.
        statement: kind of data that the gate holds.
        notes: assumptions and warnings about model and films.
    """

    SCHEMA: ClassVar[int] = 4

    verdict: Literal["calibrated"] = "calibrated"
    gate: str
    numbers: str
    model: ShownPath
    sha256: str
    origin: str
    films: int
    clinics: tuple[CalibratedClinic, ...]
    false_alarm: float
    cant_tell: float
    widened: Widened | None
    compared: GateComparison | None
    detectors: tuple[str, ...]
    scores: tuple[str, ...]
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
        widened: what the last clinic changed; None for a gate of one clinic.
        compared: the gate beside the one that it is to replace; None if none was given.
    """

    file: Path | None
    stored: StoredGate
    origin: str
    notes: tuple[str, ...]
    widened: Widened | None = None
    compared: GateComparison | None = None

    def document(self) -> CalibrationDocument:
        """Return what --json answers."""
        gate, model = self.stored.gate, self.stored.model
        return CalibrationDocument(
            gate="" if self.file is None else str(self.file),
            numbers="" if self.file is None else str(numbers_of(self.file)),
            model=str(model.path),
            sha256=model.sha256,
            origin=self.origin,
            films=self.stored.films,
            clinics=tuple(
                _calibrated_clinic(gate, clinic, model.findings) for clinic in gate.clinics
            ),
            false_alarm=gate.false_alarm,
            cant_tell=0.0 if gate.typical is None else gate.rate,
            widened=self.widened,
            compared=self.compared,
            detectors=tuple(gate.detectors),
            scores=tuple(gate.weights),
            left_out=gate.left_out,
            passes=gate.passes,
            milliseconds=self.stored.milliseconds,
            statement=self.stored.statement,
            notes=self.notes,
        )


def _calibrated_clinic(gate: Gate, clinic: Clinic, findings: Sequence[str]) -> CalibratedClinic:
    return CalibratedClinic(
        name=clinic.name,
        films=len(clinic.hashes),
        calibration_films=len(clinic),
        patients=clinic.patient_count,
        threshold=clinic.threshold(gate.rate),
        strata=clinic.stratum_facts(gate.rate, findings),
        alone=clinic.threshold(gate.false_alarm),
        likely_rates=clinic.likely_rates(gate.rate),
        groups=clinic.group_rates(gate.rate),
        shared=clinic.shared,
    )


def calibrate_opened(
    opened: Opened,
    cohort: Cohort,
    *,
    path: Path,
    false_alarm: float,
    by_reading: bool = False,
    pictures: bool = False,
    name: str = "",
    window: str = "header",
    against: OldGate | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """Calibrate a gate for a model that is open; nothing is written.

    Args:
        opened: the model.
        cohort: films without a trigger, of its preprocessing.
        path: the model's file, or what to call a model without one.
        false_alarm: share of clean films like these that may be called suspicious.
        by_reading: as `detect.inputs.calibrate`.
        pictures: whether the gate keeps the films that others are compared with, to be shown.
        name: what the films' clinic is called.
        window: of DICOM files, as `FilmFiles.window`.
        against: a gate to compare the new one with, on the films that set its threshold.
        progress: called with what is being done, the films done and in all.

    Raises:
        UsageError: a rate out of range, or a gate to compare with that takes other images.
        LeadapronError: as `detect.inputs.calibrate`.
    """
    classifier = opened.classifier
    if pictures:
        _refuse_pictures(cohort)
    if against is not None:
        against.refuse_other(cohort.preprocessing)
    _say_cost(classifier, cohort)
    gate = calibrate(
        classifier, cohort, INPUT_DETECTORS, WEIGHTS, typical=TYPICAL,
        false_alarm=false_alarm, by_reading=by_reading, name=name, progress=progress,
    )  # fmt: skip
    if pictures:
        gate = with_pictures(gate, cohort)
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
        ),
        made=MadeWith.here(classifier),
        window=window,
        bits=cohort.bits,
        milliseconds=_milliseconds(gate, classifier, cohort),
        notes=opened.notes,
    )
    return Calibrated(
        file=None,
        stored=stored,
        origin=opened.origin,
        notes=notes,
        compared=(
            compare_gates(against, gate, classifier.findings, cohort, progress)
            if against is not None
            else None
        ),
    )


def extend_opened(
    stored: StoredGate,
    classifier: BlackBox,
    cohort: Cohort,
    *,
    origin: str = "",
    name: str = "",
    window: str | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """Widen a gate that is open by films of another clinic; nothing is written.

    Args:
        stored: the gate.
        classifier: its model.
        cohort: films of the new clinic without a trigger, of the model's preprocessing.
        origin: description of the model.
        name: what the clinic is called.
        window: of DICOM files, as `FilmFiles.window`; the gate's if left out.
        progress: called with what is being done, the films done and in all.

    Raises:
        UsageError: another preprocessing, window or number of bits than the gate's.
        LeadapronError: as `detect.inputs.extend`.
    """
    _refuse_other_films(stored, cohort, window)
    for words in stored.doubts:
        logger.warning(words)
    gate = stored.gate
    _say_cost(classifier, cohort)
    untypical = untypical_films(gate, classifier, cohort.images)
    wider = extend(gate, classifier, cohort, name=name, progress=progress)
    if gate.clinics[0].pictures is not None:
        wider = with_pictures(wider, cohort)
    return Calibrated(
        file=None,
        stored=replace(
            stored,
            gate=wider,
            bits=stored.bits or cohort.bits,
            milliseconds=_milliseconds(wider, classifier, cohort),
        ),
        origin=origin,
        notes=said(cohort.notes),
        widened=Widened(films=len(cohort), cant_tell=untypical),
    )


def _refuse_pictures(cohort: Cohort) -> None:
    """Raise UsageError if the pictures of these films would make a gate too large to read back."""
    _, height, width = cohort.images.shape
    films = min(Typicality.most, len(cohort))
    size = films * height * width * np.dtype(cohort.images.dtype).itemsize
    if size > LARGEST_NUMBERS // 2:
        raise UsageError(
            f"`pictures` of {films:,} films of {height}x{width} pixels take {size >> 20:,} MiB; a "
            f"gate keeps {LARGEST_NUMBERS >> 21:,} at most: leave it out"
        )


def _refuse_other_films(stored: StoredGate, cohort: Cohort, window: str | None) -> None:
    """Raise UsageError if films became images in another way than the gate's."""
    if cohort.preprocessing != stored.model.preprocessing:
        raise UsageError(
            f"films of another preprocessing than the gate's: {cohort.preprocessing}; expected "
            f"{stored.model.preprocessing}"
        )
    for what, there, here in (
        ("window", stored.window, window or stored.window),
        ("number of bits in use", stored.bits or cohort.bits, cohort.bits or stored.bits),
    ):
        if there != here:
            raise UsageError(f"films with the {what} {here}; the gate's films have {there}")


def _milliseconds(gate: Gate, classifier: BlackBox, cohort: Cohort) -> float:
    """Time that a gate needs for a film."""
    some = cohort.images[np.arange(min(PROBED, len(cohort)))]
    began = time.perf_counter()
    judge(gate, classifier, some)
    return 1000 * (time.perf_counter() - began) / len(some)


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
