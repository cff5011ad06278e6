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
from leadapron.jobs.screen import open_gate
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
        opening: what is stated of the model, and how it is opened; the gate keeps what is stated.
        machine: device, precision, cache and progress.
        **options: settings of the source.

    Raises:
        UsageError: a rate out of range, a model that isn't a file, a gate's file name that exists,
            or settings of a model, a rate or `against` together with `extend`.
        LeadapronError: as `open_model`, `open_source`, `open_gate`, `detect.inputs.calibrate` and
            `detect.inputs.extend`.
    """
    refuse_others(out)
    if extend is not None:
        if against is not None:
            raise UsageError("`against` compares a gate of its own; leave it out with `extend`")
        if false_alarm is not None:
            raise UsageError("false_alarm: a widened gate keeps its rate; leave it out")
        made = _extended(extend, model, clean, opening, machine, options)
    elif model is None:
        raise UsageError("no model; expected its file, or `extend` with a gate")
    else:
        rate = FALSE_ALARM if false_alarm is None else false_alarm
        old = None if against is None else _old(against, opening, machine)
        made = _calibrated(model, clean, rate, opening, machine, options, old)
    write_gate(out, made.stored)
    return replace(made, file=out)


def _calibrated(
    model: str | Path,
    clean: str,
    false_alarm: float,
    opening: Opening,
    machine: Machine,
    options: Mapping[str, Any],
    against: OldGate | None,
) -> Calibrated:
    refuse_rate(false_alarm)
    opened = open_model(model, **machine.networks, **opening.arguments)
    if opened.content is None:
        raise UsageError(f"{model} is no file; a gate is tied to a model file's content")
    cohort = open_source(
        clean,
        preprocessing=opened.classifier.preprocessing,
        **machine.films,
        **options,
    )
    return calibrate_opened(
        opened,
        cohort,
        path=file_of(Path(model)).absolute(),
        false_alarm=false_alarm,
        name=short_path(clean),
        window=str(options.get("window", "header")),
        against=against,
        progress=machine.progress,
    )


def _old(gate: Path, opening: Opening, machine: Machine) -> OldGate:
    here = replace(machine, precision="auto")  # it keeps its own
    opened = open_gate(gate, trust_programs=opening.trust_programs, machine=here)
    return OldGate(name=gate.name, gate=opened.stored.gate, classifier=opened.classifier)


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
    opened = open_gate(
        gate,
        model=None if model is None else Path(model),
        trust_programs=opening.trust_programs,
        machine=machine,
    )
    cohort = open_source(
        clean,
        preprocessing=opened.stored.model.preprocessing,
        **machine.films,
        **options,
    )
    return extend_opened(
        opened.stored,
        opened.classifier,
        cohort,
        origin=opened.stored.model.path.name,
        name=short_path(clean),
        window=options.get("window"),
        progress=machine.progress,
    )
