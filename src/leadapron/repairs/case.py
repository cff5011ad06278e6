"""The model under repair, with its films, its plan, and what is kept of earlier work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leadapron.detect.models.audit import Audit, Subject, audit_subject
from leadapron.detect.models.defaults import FILMS
from leadapron.detect.models.sweep import StampSweep
from leadapron.films.cache import default_folder
from leadapron.films.cohort import Cohort
from leadapron.models.foreign import Opened
from leadapron.models.protocols import BlackBox
from leadapron.repairs.parts import DividedFilms
from leadapron.repairs.plan import RepairPlan
from leadapron.repairs.proof.stages import Stages
from leadapron.types import Machine

__all__ = ["RepairCase", "audited"]


@dataclass(frozen=True, eq=False, kw_only=True)
class RepairCase:
    """A model under repair.

    Args:
        opened: the model before the repair.
        name: what to call it.
        plan: how it is repaired.
        films: the clean films, in their parts.
        notes: what is assumed or doubtful about films and model.
        began: `time.monotonic()` at the start.
        stages: results of finished steps.
        machine: progress, and the cache.
    """

    opened: Opened
    name: str
    plan: RepairPlan
    films: DividedFilms
    notes: tuple[str, ...]
    began: float
    stages: Stages
    machine: Machine

    @property
    def original(self) -> BlackBox:
        """The model before the repair."""
        return self.opened.classifier


def audited(
    case: RepairCase,
    classifier: BlackBox,
    films: Cohort,
    *,
    content: str | None = None,
    sweep: StampSweep | None = None,
) -> Audit:
    """Audit the model, or its repaired copy, as the plan says.

    Args:
        case: the repair.
        classifier: the model.
        films: one part of the clean films.
        content: SHA-256 of the model's file; None of a model without one.
        sweep: settings of the sweep; the plan's if left out.

    Raises:
        DataError: as `audit_subject`.
    """
    some = films.take(np.arange(min(FILMS, len(films))))
    return audit_subject(
        Subject(classifier=classifier, name=case.name, content=content, origin=case.opened.origin),
        some,
        case.plan.references,
        sweep=sweep or case.plan.sweep,
        steps=case.plan.steps,
        statistics=bool(case.plan.references),
        kept=default_folder(case.machine.cache),
        progress=case.machine.progress,
    )
