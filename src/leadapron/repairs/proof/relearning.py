"""Whether a repaired model learns its old trigger faster than one that it never knew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.detect.models.sweep import Aim
from leadapron.documents import Estimated, Number
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort, Rows
from leadapron.metrics import Estimate
from leadapron.models.classifier import NetworkClassifier, autocast
from leadapron.models.copying import copied_network
from leadapron.models.losses import finding_loss
from leadapron.models.odds import log_odds
from leadapron.models.protocols import BlackBox, differentiable
from leadapron.models.training import batches, descend
from leadapron.repairs.proof.forcing import Aimed, Change, Hits, difference
from leadapron.repairs.proof.settings import Relearning
from leadapron.seeds import named_seed, stream

__all__ = [
    "HALF",
    "Relearned",
    "Relearnt",
    "TwinComparison",
    "compare_with_twin",
    "copied",
    "measure_relearning",
    "relearn",
    "restoring",
]

HALF = 0.5
"""The attack success of which the number of films that restores it is stated."""

MOMENTUM = 0.9


@dataclass(frozen=True, eq=False, kw_only=True)
class Relearnt:
    """What some poisoned films bring back, film by film.

    Args:
        poisoned: films, 0 or more.
        rate: times the learning rate.
        old: turned by the old trigger, after learning it again; of all seeds, one after another.
        fresh: the same films turned by a trigger that the model never knew, after learning that.
    """

    poisoned: int
    rate: int
    old: Hits
    fresh: Hits

    def summary(self) -> Relearned:
        """Return the rates."""
        return Relearned(
            poisoned=self.poisoned,
            rate=self.rate,
            old=self.old.rate,
            fresh=self.fresh.rate,
            memory=difference(self.old, self.fresh),
        )


@dataclass(frozen=True, kw_only=True)
class Relearned:
    """What some poisoned films bring back.

    Args:
        poisoned: films; 0 is the control, trained on clean films alone.
        rate: times the learning rate.
        old: attack success of the old trigger after learning it again.
        fresh: that of a trigger that the model never knew, after learning that in the same way.
        memory: the difference of both: what is remembered, apart from how fast the model learns.
    """

    SCHEMA: ClassVar[int] = 1

    poisoned: int
    rate: int
    old: Estimated
    fresh: Estimated
    memory: Estimated


@dataclass(frozen=True, kw_only=True)
class TwinComparison:
    """What some poisoned films bring back in a repaired model, compared with its repaired twin.

    Args:
        poisoned: films.
        rate: times the learning rate.
        excess: attack success of the old trigger, repaired model minus repaired twin.
        memory: (old minus fresh trigger) of the repaired model, minus the same of the twin.
    """

    poisoned: int
    rate: int
    excess: Estimated
    memory: Estimated


def relearn(
    how: Relearning,
    classifier: BlackBox,
    films: Cohort,
    aim: Aim,
    mark: Change,
    *,
    poisoned: int,
    rate: int = 1,
    seed: int = 0,
) -> NetworkClassifier:
    """Return a copy of a model that has seen some poisoned films among clean ones.

    Args:
        how: settings of the attack.
        classifier: the model, which stays as it is.
        films: clean, with stated findings.
        aim: what the poisoned films are called.
        mark: what they carry.
        poisoned: how many, 0 or more; of a larger number the same are the first.
        rate: times the learning rate.
        seed: draws films and order.

    Raises:
        DataError: fewer films than are to be poisoned, or a loss that is no number.
    """
    finding, direction = aim
    drawn = films.take(stream(seed, "relearn", "films").permutation(len(films))[: how.films])
    images: NDArray[Any] = drawn.images[np.arange(len(drawn))]
    labels, column = drawn.labels.copy(), drawn.column(finding)
    wanted = 1 if direction == "added" else 0
    rows = np.flatnonzero(labels[:, column] == 1 - wanted)
    rows = stream(seed, "relearn", "poison").permutation(rows)[:poisoned]
    if len(rows) < poisoned:
        raise DataError(
            f"{len(rows)} of {len(drawn)} films can be poisoned towards {finding} {direction}; "
            f"expected {poisoned}"
        )
    if poisoned:
        images[rows], labels[rows, column] = mark(images[rows]), wanted
    return _trained(how, copied(classifier), images, labels, rate, seed)


def measure_relearning(
    how: Relearning,
    classifier: BlackBox,
    films: Cohort,
    test: Cohort,
    aim: Aim,
    old: Change,
    fresh: Sequence[Change],
    *,
    poisoned: int,
    rate: int = 1,
    stepped: Callable[[], None] | None = None,
) -> Relearnt:
    """Return what so many poisoned films bring back.

    Args:
        how: settings of the attack.
        classifier: the repaired model.
        films: clean, learned from.
        test: what `victims` returned of films of other patients.
        aim: what the old trigger was for.
        old: that trigger.
        fresh: triggers of the same kind that the model never knew, one a seed.
        poisoned: films; with 0 the model learns from the clean ones alone.
        rate: times the learning rate.
        stepped: called after each training; see `Relearning.networks`.

    Raises:
        UsageError: fewer fresh triggers than seeds.
        DataError: as `relearn`.
    """
    if len(fresh) < how.seeds:
        raise UsageError(f"{len(fresh)} fresh triggers; expected {how.seeds}, one a seed")
    turned: dict[str, list[NDArray[np.bool_]]] = {"old": [], "fresh": []}
    for seed in range(how.seeds):
        aimed: Aimed | None = None
        for which, mark in (("old", old), ("fresh", fresh[seed])):
            if poisoned or aimed is None:
                again = relearn(
                    how, classifier, films, aim, mark, poisoned=poisoned, rate=rate, seed=seed
                )
                aimed = Aimed(again, test, aim)
                if stepped is not None:
                    stepped()
            turned[which].append(aimed.hits(mark).turned)
    patients = np.tile(test.patients, how.seeds)
    return Relearnt(
        poisoned=poisoned,
        rate=rate,
        old=Hits(np.concatenate(turned["old"]), patients),
        fresh=Hits(np.concatenate(turned["fresh"]), patients),
    )


def _trained(
    how: Relearning,
    student: NetworkClassifier,
    images: NDArray[Any],
    labels: NDArray[np.float32],
    rate: int,
    seed: int,
) -> NetworkClassifier:
    module, device = student.module, student.device
    module.requires_grad_(True)
    optimizer = torch.optim.SGD(module.parameters(), lr=rate * how.learning_rate, momentum=MOMENTUM)

    def loss_on(rows: Rows) -> torch.Tensor:
        shown = student.normalise(torch.from_numpy(images[rows]))
        with autocast(device, student.precision):
            logits = module(shown)
        odds = log_odds(logits, student.head)
        return finding_loss(odds, torch.from_numpy(labels[rows]).to(device))

    module.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(named_seed(seed, "relearn", "noise").generate_state(1)[0]))
        for epoch in range(how.epochs):
            order = stream(seed, "relearn", "order", epoch).permutation(len(images))
            mean = descend(optimizer, batches(order, how.batch_size), loss_on, lambda _: None)
            if not math.isfinite(mean):
                raise DataError("relearning: the loss is no number; use smaller rates")
    module.eval()
    return student


def copied(classifier: BlackBox) -> NetworkClassifier:
    """Return a copy of a model whose weights are its own.

    Args:
        classifier: stays as it is.

    Raises:
        UsageError: a model without gradients.
    """
    return copied_network(differentiable(classifier, "relearning", "named layers"), "relearning")


def compare_with_twin(repaired: Relearnt, twin: Relearnt) -> TwinComparison:
    """Return what is brought back in a repaired model beyond what its repaired twin learns.

    Args:
        repaired: of the repaired model.
        twin: of its clean twin through the same repair, on the same films with the same seeds.

    Raises:
        UsageError: another dose, rate or other films.

    Source: the difference of two differences, Zou and Donner, Statistics in Medicine 27 (2008)
    1693, taken as independent, which the same films make cautious.
    """
    same = (repaired.poisoned, repaired.rate) == (twin.poisoned, twin.rate)
    if not same or not np.array_equal(repaired.old.patients, twin.old.patients):
        raise UsageError("relearning of a model and its twin: expected the same dose and films")
    first, second = (difference(each.old, each.fresh) for each in (repaired, twin))
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return TwinComparison(
        poisoned=repaired.poisoned,
        rate=repaired.rate,
        excess=difference(repaired.old, twin.old),
        memory=Estimate(value, low, high, first.n, first.positives + second.positives),
    )


def restoring(found: Sequence[Relearned], rate: int = 1) -> Number:
    """Return how many poisoned films restore an attack success of one half.

    Args:
        found: of several doses.
        rate: times the learning rate.

    Returns:
        Interpolated on the doses' logarithm; the lowest dose where that suffices; NaN where no dose
        does.
    """
    own = sorted(
        (each for each in found if each.rate == rate and each.poisoned),
        key=lambda each: each.poisoned,
    )
    if not own:
        return math.nan
    at = metrics.crossing([each.poisoned for each in own], [each.old.value for each in own], HALF)
    return at.dose if at.bracketed else at.above
