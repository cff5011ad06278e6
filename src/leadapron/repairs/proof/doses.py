"""The relearning attack on a repaired model, dose by dose."""

from __future__ import annotations

from functools import partial

from leadapron.detect.models.sweep import Moved
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.repairs.case import RepairCase
from leadapron.repairs.proof.forcing import enough_victims, targets, victims
from leadapron.repairs.proof.freshness import Fresh, fresh_marks
from leadapron.repairs.proof.relearning import Relearned, measure_relearning
from leadapron.repairs.proof.settings import Relearning

__all__ = ["fresh_for", "relearned_by_dose"]


def fresh_for(case: RepairCase, moved: Moved, count: int) -> Fresh:
    """Return the fresh marks of a repair's relearning, which are kept as a stage.

    Args:
        case: the repair; its original model must not know them.
        moved: the old mark, and what it forces.
        count: number of fresh marks.

    Raises:
        DataError, UsageError: as `fresh_marks`.
    """
    make = partial(fresh_marks, case.original, case.films.repair, moved, count, seed=case.plan.seed)
    return case.stages.kept("fresh-marks", Fresh, make)


def relearned_by_dose(
    case: RepairCase,
    repaired: NetworkClassifier,
    test: Cohort,
    moved: Moved,
    how: Relearning,
    stage: str,
) -> tuple[Relearned, ...]:
    """Return what each dose and rate brings back of a mark; each is kept as a stage.

    Args:
        case: the repair; the films of its repair are learned from.
        repaired: the repaired model.
        test: clean films of other patients, on which the attack is measured.
        moved: the mark, and what it forces.
        how: settings of the attack.
        stage: beginning of the stages' names.

    Returns:
        By rate and dose, without doses for which the films are too few.
    """
    if not enough_victims(test, moved):
        return ()
    aim, films = (moved.finding, moved.direction), case.films.repair
    some = victims(test, aim)
    fresh = fresh_for(case, moved, how.seeds).marks
    total, done = len(how.rates) * sum(map(how.networks, how.doses)), 0

    def stepped() -> None:
        nonlocal done
        done += 1
        case.machine.tell("relearning", done, total)

    found: list[Relearned] = []
    for rate in how.rates:
        for dose in how.doses:
            if targets(films, aim).sum() < dose:
                continue

            def measured(dose: int = dose, rate: int = rate) -> Relearned:
                return measure_relearning(
                    how, repaired, films, some, aim, moved.mark, fresh, poisoned=dose, rate=rate,
                    stepped=stepped,
                ).summary()  # fmt: skip

            found.append(case.stages.kept(f"{stage}-relearning-{dose}-{rate}", Relearned, measured))
            done = sum(how.networks(each.poisoned) for each in found)
    return tuple(found)
