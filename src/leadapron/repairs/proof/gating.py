"""What a gate says of films with the mark: on the original model, and on the repaired one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.detect.inputs import (
    INPUT_DETECTORS,
    REGION,
    WEIGHTS,
    Gate,
    calibrate,
    judge,
    usable,
)
from leadapron.detect.models.sweep import Moved
from leadapron.documents import Estimated
from leadapron.films.cohort import Cohort
from leadapron.metrics import FALSE_POSITIVES, threshold_at_false_positive_rate
from leadapron.models.protocols import BlackBox
from leadapron.repairs.proof.forcing import victims
from leadapron.types import Progress

__all__ = ["Gated", "Screened", "compare_gates", "gate_passes"]

FILMS = 64
"""Films that a gate sees with the mark and as they are, at most."""


@dataclass(frozen=True, kw_only=True)
class Screened:
    """What a gate says of some films.

    Args:
        suspicious: share that it calls suspicious.
        driven: share on which a small region drives a finding more than on all but `false_alarm` of
            the clean films; undefined where the model doesn't allow that to be measured.
    """

    suspicious: Estimated
    driven: Estimated


@dataclass(frozen=True, kw_only=True)
class Gated:
    """What gates say of the same films with the mark and without; each model has a gate of its own.

    Args:
        calibrated: clean films that each gate was calibrated on; no repair learned from them.
        false_alarm: share of clean films that a gate may call suspicious.
        original_clean: the films as they are, by the original model's gate.
        original_marked: the same films with the mark.
        repaired_clean: the films as they are, by the repaired model's gate.
        repaired_marked: the same films with the mark.
    """

    SCHEMA: ClassVar[int] = 1

    calibrated: int
    false_alarm: float
    original_clean: Screened
    original_marked: Screened
    repaired_clean: Screened
    repaired_marked: Screened


def compare_gates(
    original: BlackBox,
    repaired: BlackBox,
    clean: Cohort,
    films: Cohort,
    moved: Moved,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Gated:
    """Calibrate a gate for each model, and return what both say of films with and without a mark.

    Args:
        original: the model before.
        repaired: the model after.
        clean: films that both gates are calibrated on, of patients that no repair learned from.
        films: others, with stated findings, of which the first 64 that the mark could turn are
            judged.
        moved: the mark, and what it forces.
        seed: of the division of patients into fitting and threshold.
        progress: called with the name of the step, the films done, and the total.

    Raises:
        DataError: too few films for a gate, or to see the mark on.
        UsageError: no detector that can be used with a model.
    """
    some = victims(films, (moved.finding, moved.direction))
    some = some.take(np.arange(min(FILMS, len(some))))
    images: NDArray[Any] = some.images[np.arange(len(some))]
    marked = moved.mark(images)

    def screened(model: BlackBox) -> list[Screened]:
        gate = calibrate(
            model, clean, INPUT_DETECTORS, WEIGHTS, false_alarm=FALSE_POSITIVES, seed=seed,
            progress=progress,
        )  # fmt: skip
        return [_screened(gate, model, shown, some.patients) for shown in (images, marked)]

    (original_clean, original_marked), (repaired_clean, repaired_marked) = (
        screened(model) for model in (original, repaired)
    )
    return Gated(
        calibrated=len(clean),
        false_alarm=FALSE_POSITIVES,
        original_clean=original_clean,
        original_marked=original_marked,
        repaired_clean=repaired_clean,
        repaired_marked=repaired_marked,
    )


def _screened(
    gate: Gate, model: BlackBox, images: NDArray[Any], patients: NDArray[np.str_]
) -> Screened:
    judged = judge(gate, model, images)
    driven = metrics.rate([], [])
    if REGION in gate.weights:
        column = list(gate.weights).index(REGION)
        usual = gate.clinics[0].scores[:, column]
        at = threshold_at_false_positive_rate(usual[np.isfinite(usual)], gate.false_alarm)
        driven = metrics.rate(judged.scores[:, column] > at, patients)
    return Screened(suspicious=metrics.rate(judged.suspicious, patients), driven=driven)


def gate_passes(classifier: BlackBox, clean: Cohort) -> int:
    """Return about how many images the models answer for `compare_gates`.

    Args:
        classifier: the model.
        clean: films that gates are calibrated on.
    """
    kept, _ = usable(classifier, INPUT_DETECTORS, WEIGHTS)
    return 2 * (len(clean) + 2 * FILMS) * (1 + sum(each.passes for each in kept.values()))
