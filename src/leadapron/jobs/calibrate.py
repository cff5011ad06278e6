"""The command calibrate: open a model and clean films, calibrate, and write the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from leadapron.detect.inputs.calibration import Calibrated, calibrate_opened, extend_opened
from leadapron.detect.inputs.comparison import OldGate
from leadapron.detect.inputs.gate_file import refuse_others, write_gate
from leadapron.detect.verdict import refuse_rate
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs.screen import open_gate
from leadapron.models.backends import on_backend
from leadapron.models.foreign import file_of, open_model
from leadapron.models.stated import AS_FOUND, Opening
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.text import short_path
from leadapron.types import AUTO, Machine

__all__ = ["FALSE_ALARM", "calibrate"]

FALSE_ALARM = 0.01
"""Share of clean films that may be called suspicious."""


@forgiving
def calibrate(
    model: str | Path | None,
    clean: str,
    out: Path,
    *,
    extend: Path | None = None,
    against: Path | None = None,
    false_alarm: float | None = None,
    by_reading: bool = False,
    pictures: bool = False,
    opening: Opening = AS_FOUND,
    machine: Machine = AUTO,
    **options: Any,
) -> Calibrated:
    """Make a gate that screens a model's films, and write it.

    Args:
        model: a file of weights, or a TorchScript, ONNX or Keras file; a gate is tied to its
            content. With `extend`, where the gate's model lies if it was moved.
        clean: films without a trigger that the model wasn't trained on, as "nih:PATH"; the model's
            preprocessing is applied.
        out: the gate's JSON file; its arrays are written next to it.
        extend: a gate that is widened by these films of another clinic.
        against: a gate that the new one is to replace: their thresholds and scores, and what they
            call the films that set the new threshold, are shown side by side.
        false_alarm: false-positive rate: share of clean films like these that may be called
            suspicious; 0.01 if left out, and the gate's with `extend`.
        by_reading: each finding that the model reads on enough films has a threshold of its own,
            so that the rate holds on these films too; a widened gate keeps this.
        pictures: the gate keeps the films that others are compared with, so that the service's page
            shows the one that looks most alike; a widened gate keeps this.
        opening: what is stated of the model, and how it is opened; the gate keeps what is stated.
        machine: device, precision, backend, cache and progress.
        **options: settings of the source.

    Raises:
        UsageError: a rate out of range, a model that isn't a file, a gate's file name that exists,
            or together with `extend` settings of a model or of thresholds.
        LeadapronError: as `open_model`, `open_source`, `open_gate`, `detect.inputs.calibrate` and
            `detect.inputs.extend`.
    """
    refuse_others(out)
    if extend is not None:
        given = {"against": against, "false_alarm": false_alarm, "by_reading": by_reading or None,
                 "pictures": pictures or None}  # fmt: skip
        if stated := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{', '.join(stated)}: a widened gate keeps its own; leave it out")
        made = _extended(extend, model, clean, opening, machine, options)
    elif model is None:
        raise UsageError("no model; expected its file, or `extend` with a gate")
    else:
        rate = FALSE_ALARM if false_alarm is None else false_alarm
        refuse_rate(rate)
        made = _calibrated(
            model, clean, opening, machine, options, false_alarm=rate, by_reading=by_reading,
            pictures=pictures, against=None if against is None else _old(against, opening, machine),
        )  # fmt: skip
    write_gate(out, made.stored)
    return replace(made, file=out)


def _calibrated(
    model: str | Path,
    clean: str,
    opening: Opening,
    machine: Machine,
    options: Mapping[str, Any],
    **thresholds: Any,
) -> Calibrated:
    opened = open_model(model, **machine.networks, **opening.arguments)
    if opened.content is None:
        raise UsageError(f"{model} is no file; a gate is tied to a model file's content")
    cohort = _films(clean, opened.classifier.preprocessing, machine, options)
    return calibrate_opened(
        opened._replace(classifier=on_backend(opened.classifier, machine, cohort.images)),
        cohort,
        path=file_of(Path(model)).absolute(),
        name=short_path(clean),
        window=str(options.get("window", "header")),
        progress=machine.progress,
        **thresholds,
    )


def _films(
    clean: str, preprocessing: Preprocessing, machine: Machine, options: Mapping[str, Any]
) -> Cohort:
    return open_source(clean, preprocessing=preprocessing, **machine.films, **options)


def _old(gate: Path, opening: Opening, machine: Machine) -> OldGate:
    own = machine.unstated
    opened = open_gate(gate, trust_programs=opening.trust_programs, machine=own)
    return OldGate.of(opened.file, opened.stored.gate, opened.classifier)


def _extended(
    gate: Path,
    model: str | Path | None,
    clean: str,
    opening: Opening,
    machine: Machine,
    options: Mapping[str, Any],
) -> Calibrated:
    if stated := [name for name in opening.named if name != "trust_programs"]:
        raise UsageError(f"{', '.join(stated)}: the gate keeps what was stated; leave it out")
    moved = None if model is None else Path(model)
    opened = open_gate(gate, model=moved, trust_programs=opening.trust_programs, machine=machine)
    cohort = _films(clean, opened.stored.model.preprocessing, machine, options)
    return extend_opened(
        opened.stored,
        opened.classifier,
        cohort,
        origin=opened.stored.model.path.name,
        name=short_path(clean),
        window=options.get("window"),
        progress=machine.progress,
    )
