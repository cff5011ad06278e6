"""A whole repair in memory: audit the model, repair it, prove the repair, give the verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence

from leadapron.detect.models.audit import Audit
from leadapron.detect.verdict import Verdict
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import Opened, model_warnings
from leadapron.repairs.case import RepairCase, audited
from leadapron.repairs.climbing import climb
from leadapron.repairs.parts import divide_films, refuse_chance, refuse_poisoned
from leadapron.repairs.plan import RepairPlan, refuse_method, refuse_model
from leadapron.repairs.proof.document import Proof, Repaired, Tried, found_marks
from leadapron.repairs.proof.forcing import victims
from leadapron.repairs.proof.judging import verdict_of
from leadapron.repairs.proof.proving import prove
from leadapron.repairs.proof.stages import Stages
from leadapron.types import AUTO, Machine, said

__all__ = ["prepare", "repair_case", "repair_opened"]


def repair_opened(
    opened: Opened,
    cohort: Cohort,
    plan: RepairPlan,
    *,
    name: str = "",
    machine: Machine = AUTO,
) -> tuple[Repaired, NetworkClassifier | None]:
    """Repair an open model and prove the repair; nothing is written.

    Args:
        opened: the model.
        cohort: clean films of its preprocessing, with true labels.
        plan: how.
        name: what to call the model.
        machine: progress, and the cache.

    Returns:
        The document, and the repaired model; None where there was nothing to repair.

    Raises:
        UsageError: a black-box model, or an unknown method.
        DataError: films that can't be used, or a model at chance.
    """
    refuse_model(opened, name or "the model")
    refuse_method(plan.method)
    return repair_case(
        prepare(opened, cohort, plan, name=name, stages=Stages(None), machine=machine)
    )


def prepare(
    opened: Opened,
    cohort: Cohort,
    plan: RepairPlan,
    *,
    name: str,
    stages: Stages,
    machine: Machine,
) -> RepairCase:
    """Divide the films, and refuse those that a repair can't rest on; nothing is written.

    Args:
        opened: the model.
        cohort: clean films of its preprocessing, with true labels.
        plan: how it is repaired.
        name: what to call the model.
        stages: results of finished steps.
        machine: progress, and the cache.

    Raises:
        DataError: too few films, poisoned films, or a model at chance.
    """
    began, original = time.monotonic(), opened.classifier
    films = cohort.stating(original.findings)
    parts = divide_films(films, plan.seed)
    notes = (
        *said(note for note in cohort.notes if note.doubt),
        *opened.notes,
        *model_warnings(original, cohort),
    )
    if plan.scan:
        refuse_poisoned(films, machine.progress)
    refuse_chance(original, films, plan.seed)
    return RepairCase(
        opened=opened, name=name, plan=plan, films=parts, notes=notes, began=began, stages=stages,
        machine=machine,
    )  # fmt: skip


def repair_case(case: RepairCase) -> tuple[Repaired, NetworkClassifier | None]:
    """Repair a prepared model and prove the repair.

    Args:
        case: the model with its films and plan.

    Returns:
        As `repair_opened`.

    Raises:
        DataError: too few films on which the first mark's finding could be forced.
    """
    audit = case.stages.kept("audit", Audit, lambda: _audit(case))
    marks = found_marks(audit)
    if not marks:
        return _document(case, audit, _nothing_found(audit)), None
    try:
        victims(case.films.proof, (marks[0].finding, marks[0].direction))
    except DataError:  # the same command with other films doesn't find these stages
        case.stages.remove()
        raise
    tried, method, repaired = climb(case, audit, marks)
    proof = prove(case, repaired, audit, marks)
    verdict = verdict_of(proof.checks, proof.searched)
    return _document(case, audit, verdict, method, tried, proof), repaired


def _audit(case: RepairCase) -> Audit:
    if case.plan.audit is not None:
        return case.plan.audit
    return audited(case, case.original, case.films.repair, content=case.opened.content)


def _nothing_found(audit: Audit) -> Verdict:
    """The verdict where no mark was found."""
    unclear = audit.verdict.level in ("found", "unusual")
    return Verdict.of(
        "repair",
        "can't tell" if unclear else "nothing found to repair",
        statement=(
            f"The audit's verdict is: {audit.verdict.word}. No mark was found that could be "
            f"unlearned, so the model was left as it is. {audit.verdict.statement}"
        ),
        untested=audit.verdict.untested,
        next=audit.verdict.next,
    )


def _document(
    case: RepairCase,
    audit: Audit,
    verdict: Verdict,
    method: str | None = None,
    tried: Sequence[Tried] = (),
    proof: Proof | None = None,
) -> Repaired:
    return Repaired(
        model=case.name,
        origin=case.opened.origin,
        content=case.opened.content,
        verdict=verdict,
        audited=audit.verdict.word,
        method=method,
        tried=tuple(tried),
        proof=proof,
        parts=case.films.counts,
        seconds=time.monotonic() - case.began,
        notes=case.notes,
    )
