"""The command calibrate: open a model and clean films, calibrate, and write the gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from leadapron.detect.inputs.calibration import Calibrated, calibrate_opened
from leadapron.detect.inputs.gate_file import refuse_others, write_gate
from leadapron.detect.verdict import refuse_rate
from leadapron.errors import UsageError
from leadapron.models.foreign import file_of, open_model
from leadapron.models.stated import AS_FOUND, Opening
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.types import AUTO, Machine

__all__ = ["FALSE_ALARM", "calibrate"]

FALSE_ALARM = 0.01
"""Share of clean films that may be called suspicious."""


@forgiving
def calibrate(
    model: str | Path,
    clean: str,
    out: Path,
    *,
    false_alarm: float = FALSE_ALARM,
    opening: Opening = AS_FOUND,
    machine: Machine = AUTO,
    **options: Any,
) -> Calibrated:
    """Make a gate that screens a model's films, and write it.

    Args:
        model: a file of weights, or a TorchScript, ONNX or Keras file; a gate is tied to its
            content.
        clean: films without a trigger that the model wasn't trained on, as "nih:PATH"; the model's
            preprocessing is applied.
        out: the gate's JSON file; its arrays are written next to it.
        false_alarm: false-positive rate: share of clean films like these that may be called
            suspicious.
        opening: what is stated of the model, and how it is opened; the gate keeps what is stated.
        machine: device, precision, cache and progress.
        **options: settings of the source.

    Raises:
        UsageError: a rate out of range, a model that isn't a file, or a gate's file name that
            exists.
        LeadapronError: as `open_model`, `open_source` and `detect.inputs.calibrate`.
    """
    refuse_rate(false_alarm)
    refuse_others(out)
    opened = open_model(model, **machine.networks, **opening.arguments)
    if opened.content is None:
        raise UsageError(f"{model} is no file; a gate is tied to a model file's content")
    cohort = open_source(
        clean,
        preprocessing=opened.classifier.preprocessing,
        **machine.films,
        **options,
    )
    made = calibrate_opened(
        opened,
        cohort,
        path=file_of(Path(model)).absolute(),
        false_alarm=false_alarm,
        window=str(options.get("window", "header")),
        progress=machine.progress,
    )
    write_gate(out, made.stored)
    return replace(made, file=out)
