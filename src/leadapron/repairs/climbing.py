"""The ladder of "auto": repairs from the cheapest to the strongest, each checked cheaply."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from leadapron.detect.models.audit import Audit
from leadapron.detect.models.sweep import Moved
from leadapron.models.classifier import NetworkClassifier
from leadapron.repairs import REPAIRS, Repair, marks_of
from leadapron.repairs.case import RepairCase
from leadapron.repairs.proof import judging as judge
from leadapron.repairs.proof.document import Checked, Tried
from leadapron.repairs.proof.doses import fresh_for, relearned_by_dose
from leadapron.repairs.proof.forcing import enough_victims
from leadapron.repairs.proof.making import compare_marks
from leadapron.repairs.proof.reading import compare_reading
from leadapron.repairs.proof.searching import searched_quickly
from leadapron.seeds import stream
from leadapron.specs import parameters

__all__ = ["LADDER", "climb", "repair_of"]

logger = logging.getLogger(__name__)

LADDER = ("stamp-distillation", "fresh-student")
"""What "auto" tries, from the cheapest to the strongest.

Stamp unlearning stood first: on the few films that choose a repair it can pass, and five poisoned
films bring back what it unlearned. Others stood between these two, and never passed where stamp
distillation had failed.
"""


def climb(
    case: RepairCase, audit: Audit, marks: Sequence[Moved]
) -> tuple[list[Tried], str, NetworkClassifier]:
    """Try repairs until no check of one surely fails.

    Args:
        case: the repair.
        audit: of the original.
        marks: that the audit found, one or more, the strongest first.

    Returns:
        The repairs that were tried, the name of the one that is taken, and its model: the last one,
        or where none passes the first of those of which most checks hold. The later checks of a
        repair are left out once one surely fails.
    """
    methods = LADDER if case.plan.method == "auto" else (case.plan.method,)
    tried: list[Tried] = []
    networks: dict[str, NetworkClassifier] = {}
    for number, method in enumerate(methods, start=1):
        logger.info("repair %d of %d at most: %s", number, len(methods), method)
        began = time.monotonic()
        networks[method] = case.stages.network(
            method, case.original, partial(_made, case, method, marks)
        )
        spent = time.monotonic() - began
        one = case.stages.kept(
            f"check-{method}",
            Tried,
            partial(_checked, case, method, networks[method], audit, marks, spent),
        )
        tried.append(one)
        if one.passes:
            break
    best = max(tried, key=_strength)
    return tried, best.method, networks[best.method]


def _strength(tried: Tried) -> tuple[bool, int]:
    return tried.passes, sum(check.held == "holds" for check in tried.checks)


def repair_of(method: str, marks: Sequence[Moved]) -> Repair:
    """Return a repair by its name, with the audit's marks where it takes some.

    Args:
        method: of `REPAIRS`.
        marks: that the audit found.
    """
    make = REPAIRS[method]
    return make(marks=marks_of(marks)) if "marks" in parameters(make) else make()


def _made(case: RepairCase, method: str, marks: Sequence[Moved]) -> NetworkClassifier:
    how = repair_of(method, marks)
    rng = stream(case.plan.seed, "repair", method)
    return how.repair(case.original, case.films.repair, rng, case.machine.progress)


def _checked(
    case: RepairCase,
    method: str,
    repaired: NetworkClassifier,
    audit: Audit,
    marks: Sequence[Moved],
    seconds: float,
) -> Tried:
    """What a repair does on films that it didn't see; cheap, and no part of the proof."""
    checks = []
    for check in _checks(case, method, repaired, audit, marks):
        checks.append(check)
        logger.info("%s, %s: %s; %s", method, check.what, check.held, check.words)
        if check.held == "fails":  # dearer checks can't save it
            break
    return Tried(method=method, seconds=seconds, checks=tuple(checks))


def _checks(
    case: RepairCase,
    method: str,
    repaired: NetworkClassifier,
    audit: Audit,
    marks: Sequence[Moved],
) -> Iterator[Checked]:
    """The checks of a repair, from the cheapest to the dearest."""
    films, relearning = case.films.check, case.plan.relearning
    seen = [each for each in marks if enough_victims(films, each)]
    if seen:
        yield judge.marks_check(
            [compare_marks(case.original, repaired, films, each, altered=False) for each in seen]
        )
    yield judge.quick_reading_check(compare_reading(case.original, repaired, films, case.plan.seed))
    quick = replace(relearning, doses=(judge.judged_dose(relearning.doses),), rates=(1,))
    yield judge.relearning_check(
        relearned_by_dose(case, repaired, films, marks[0], quick, f"check-{method}"),
        fresh_for(case, marks[0], quick.seeds),
    )
    yield judge.searched_check(searched_quickly(case, repaired, audit, marks, films))
