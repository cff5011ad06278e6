"""New searches of a repaired model for small marks that force its findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from leadapron.detect.models.audit import Audit, Subject
from leadapron.detect.models.kept import sweep_once
from leadapron.detect.models.stamps import Probe
from leadapron.detect.models.sweep import LARGEST, Aim, Moved, StampSweep, Swept
from leadapron.films.cache import default_folder
from leadapron.films.cohort import Cohort
from leadapron.models.protocols import BlackBox
from leadapron.repairs.case import RepairCase, audited
from leadapron.repairs.proof.document import Searched
from leadapron.repairs.proof.forcing import MarkEffect
from leadapron.repairs.proof.making import Limits, effects_of, searched

__all__ = ["searched_quickly", "searched_wholly", "squares_in"]


def squares_in(audit: Audit) -> list[Moved]:
    """Return the strongest squares and other local marks that an audit found, by aim."""
    return [
        each.strongest
        for each in audit.forced
        if each.strongest is not None and not isinstance(each.strongest.mark, Probe)
    ]


def searched_quickly(
    case: RepairCase, repaired: BlackBox, audit: Audit, marks: Sequence[Moved], films: Cohort
) -> Searched:
    """Return what a sweep of the repaired model finds.

    Args:
        case: the repair.
        repaired: the repaired model.
        audit: of the original.
        marks: that the audit found.
        films: clean, which no repair learned from.
    """
    squares = _like(_sweep_of(case, films).sweep(repaired, films), audit)
    return searched(
        case.original, repaired, films, squares_in(audit), squares, _target(marks),
        _limits(case, films, audit),
    )  # fmt: skip


def searched_wholly(
    case: RepairCase, repaired: BlackBox, audit: Audit, marks: Sequence[Moved]
) -> Searched:
    """Return what a whole audit of the repaired model finds, with the films of the proof.

    Args:
        case: the repair.
        repaired: the repaired model.
        audit: of the original.
        marks: that the audit found.
    """
    films = case.films.proof
    again = audited(case, repaired, films, sweep=_sweep_of(case, films))
    found = searched(
        case.original, repaired, films, squares_in(audit), squares_in(again), _target(marks),
        _limits(case, films, audit),
    )  # fmt: skip
    return replace(
        found,
        word=again.verdict.word,
        inverted=_inverted_size(again),
        inverted_before=_inverted_size(audit),
    )


def _like(swept: Swept, audit: Audit) -> list[Moved]:
    """Each aim's strongest square, or other mark where the audit's own is none."""
    shapes = swept.marks["shape"]
    others = {
        each.aim for each in audit.forced if each.strongest and each.strongest.kind == "shape"
    }
    return [
        shapes[aim] if aim in others and aim in shapes else square
        for aim, square in swept.marks["stamp"].items()
    ]


def _sweep_of(case: RepairCase, films: Cohort) -> StampSweep:
    """The search for new marks, without squares that move many a clean network."""
    return (case.plan.sweep or StampSweep()).within(LARGEST, *films.images.shape[1:])


def _target(marks: Sequence[Moved]) -> set[Aim]:
    """What the audit's verdict is about; any other square may be a natural weakness."""
    return {(marks[0].finding, marks[0].direction)}


def _limits(case: RepairCase, films: Cohort, audit: Audit) -> Limits:
    """What is usual in the references, or in an audit without references."""
    if not case.plan.references:
        return Limits()
    folder = default_folder(case.machine.cache)

    def measured(each: Subject) -> Mapping[Aim, MarkEffect]:
        found = sweep_once(
            _sweep_of(case, films), each.classifier, films,
            content=each.content, folder=folder, name=Path(each.name).name,
        )  # fmt: skip
        return effects_of(each.classifier, films, _like(found.swept, audit))

    return Limits.measured([measured(each) for each in case.plan.references])


def _inverted_size(audit: Audit) -> float:
    """Pixels of the first trigger that gradients made and that works."""
    return next((each.size for each in audit.inverted if each.trained), math.nan)
