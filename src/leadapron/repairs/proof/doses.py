"""The relearning attack on a repaired model, dose by dose."""

from __future__ import annotations

import numpy as np

from leadapron.detect.models.stamps import Stamp, probes
from leadapron.detect.models.sweep import Moved
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.repairs.case import RepairCase
from leadapron.repairs.proof.forcing import Change, enough_victims, targets, victims
from leadapron.repairs.proof.relearning import Relearned, fresh_squares, measure_relearning
from leadapron.repairs.proof.settings import Relearning
from leadapron.seeds import stream

__all__ = ["fresh_marks", "relearned_by_dose"]


def fresh_marks(
    mark: Change, shape: tuple[int, int], count: int, rng: np.random.Generator
) -> tuple[Change, ...]:
    """Return marks of the same kind that no model knows: other places, other changes.

    Args:
        mark: the old one, a `Stamp` or a `Probe`.
        shape: (height, width) of the images.
        count: how many.
        rng: draws them.
    """
    if isinstance(mark, Stamp):
        return fresh_squares(mark, shape, count, rng)
    others = [each for each in probes() if each != mark]
    return tuple(others[number] for number in rng.permutation(len(others))[:count].tolist())


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
    height, width = some.images.shape[1:]
    fresh = fresh_marks(moved.mark, (height, width), how.seeds, stream(case.plan.seed, "fresh"))
    total, done = 2 * how.seeds * len(how.doses) * len(how.rates), 0

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
            done = 2 * how.seeds * len(found)
    return tuple(found)
