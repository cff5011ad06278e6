"""The proof of a repair: all its parts, made once, on films that no repair and no choice saw."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.models.audit import Audit
from leadapron.detect.models.defaults import FILMS
from leadapron.detect.models.sweep import Moved
from leadapron.errors import DataError, UsageError
from leadapron.models.classifier import NetworkClassifier
from leadapron.repairs import REPAIRS
from leadapron.repairs.case import RepairCase
from leadapron.repairs.proof import judging as judge
from leadapron.repairs.proof.document import Control, Marked, Proof, Searched
from leadapron.repairs.proof.doses import fresh_for, relearned_by_dose
from leadapron.repairs.proof.forcing import Aimed, enough_victims, victims
from leadapron.repairs.proof.gating import Gated, compare_gates, gate_passes
from leadapron.repairs.proof.making import compare_marks
from leadapron.repairs.proof.reading import Reading, compare_reading
from leadapron.repairs.proof.relearning import restoring
from leadapron.repairs.proof.searching import searched_wholly
from leadapron.repairs.proof.squares import (
    DRAWS,
    Bounded,
    Squares,
    bounded,
    exhausted,
    seconds_for,
)
from leadapron.seeds import stream

__all__ = ["CONTROLS", "prove"]

logger = logging.getLogger(__name__)

CONTROLS = ("fine-tuning", "retraining")
"""What a repair must be better than: plain fine-tuning, and training from scratch."""

SWEPT = 60_000
"""Images of a new search, about."""

TRAINING_COST = 3
"""A film's forward and backward pass takes about so many times a forward pass."""


def prove(
    case: RepairCase, repaired: NetworkClassifier, audit: Audit, marks: Sequence[Moved]
) -> Proof:
    """Return the proof of a repair; each part is kept as a stage.

    Args:
        case: the repair.
        repaired: the repaired model.
        audit: of the original.
        marks: that the audit found, one or more, the strongest first. What the films are too few
            for, the first mark apart, is said to be not shown.

    Raises:
        DataError: too few films to see the first mark on, or answers that aren't finite.
    """
    films, kept, plan = case.films.proof, case.stages.kept, case.plan
    images = films.images[np.arange(min(FILMS, len(films)))]
    seen = [marks[0], *(each for each in marks[1:] if enough_victims(films, each))]
    unseen = [each for each in marks if each not in seen]
    _say_cost(case, repaired, images)
    marked = tuple(
        kept(
            f"proof-mark-{number}",
            Marked,
            partial(
                compare_marks,
                case.original,
                repaired,
                films,
                each,
                references=[one.classifier for one in plan.references],
            ),
        )
        for number, each in enumerate(seen, start=1)
    )
    reading = kept(
        "proof-reading", Reading, lambda: compare_reading(case.original, repaired, films, plan.seed)
    )
    found = kept("proof-search", Searched, lambda: searched_wholly(case, repaired, audit, marks))
    squares = kept("proof-squares", Bounded, lambda: _squares(case, repaired, images))
    fresh = fresh_for(case, marks[0], plan.relearning.seeds)
    relearned = relearned_by_dose(case, repaired, films, marks[0], plan.relearning, "proof")
    gated = _gated(case, repaired, marks[0])
    controls = tuple(
        kept(f"control-{method}", Control, partial(_control, case, method, seen))
        for method in (CONTROLS if plan.controls else ())
    )
    checks = [
        judge.marks_check(marked, unseen),
        judge.altered_check(marked),
        judge.searched_check(found),
        judge.bounded_check(squares, found.usual),
        judge.relearning_check(relearned, fresh),
        judge.reading_check(reading),
    ]
    return Proof(
        marks=marked,
        reading=reading,
        searched=found,
        bounded=squares,
        fresh=fresh,
        relearned=relearned,
        restoring=restoring(relearned),
        gated=gated,
        controls=controls,
        checks=tuple(each for each in checks if each is not None),
    )


def _squares(case: RepairCase, repaired: NetworkClassifier, images: NDArray[Any]) -> Bounded:
    if case.plan.exhaustive:
        return exhausted(repaired, images, case.machine.progress, case.stages.kept)
    rng = stream(case.plan.seed, "squares")
    return bounded(repaired, images, rng, case.machine.progress)


def _gated(case: RepairCase, repaired: NetworkClassifier, moved: Moved) -> Gated | None:
    """What a gate says of the mark on either model; None where none can be calibrated."""
    make = partial(
        compare_gates, case.original, repaired, case.films.check, case.films.proof, moved,
        seed=case.plan.seed, progress=case.machine.progress,
    )  # fmt: skip
    try:
        return case.stages.kept("proof-gates", Gated, make)
    except (DataError, UsageError) as error:
        logger.info("no gate is calibrated in the proof: %s", error)
        return None


def _control(case: RepairCase, method: str, marks: Sequence[Moved]) -> Control:
    """What another way gives on the same films."""
    began = time.monotonic()
    made = REPAIRS[method]().repair(
        case.original, case.films.repair, stream(case.plan.seed, "control", method),
        case.machine.progress,
    )  # fmt: skip
    films = case.films.proof
    aims = [(each.finding, each.direction) for each in marks]
    return Control(
        method=method,
        marks=tuple(
            Aimed(made, victims(films, aim), aim).hits(each.mark).rate
            for each, aim in zip(marks, aims, strict=True)
        ),
        macro=compare_reading(case.original, made, films, case.plan.seed).after,
        seconds=time.monotonic() - began,
    )


def _say_cost(case: RepairCase, repaired: NetworkClassifier, images: NDArray[Any]) -> None:
    """Log how long the proof will take, about."""
    squares = len(Squares(*images.shape[1:3])) if case.plan.exhaustive else DRAWS
    pictures = seconds_for(repaired, images, squares)
    each = pictures / (squares * len(images))
    trainings = case.plan.relearning.trainings
    gates = gate_passes(case.original, case.films.check)
    logger.info(
        "the proof: %s squares on %d films, %s film trainings, two gates, about %s in all",
        f"{squares:,}", len(images), f"{trainings:,}",
        _in_words(pictures + (trainings * TRAINING_COST + SWEPT + gates) * each),
    )  # fmt: skip


def _in_words(seconds: float) -> str:
    """A time as people say it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"
