"""Estimate of a study's cost before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from leadapron.films.cohort import Cohort
from leadapron.models.training import Network, Training, train
from leadapron.types import Device, Precision

__all__ = ["Cost", "Task", "estimate"]

STEPS = 3
"""Batches of a speed test; it is run twice, since the first run is slower."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One future training.

    Args:
        network: the architecture.
        training: its settings.
        films: some of its films, for their size.
        shown: number of films in an epoch.
    """

    network: Network
    training: Training
    films: Cohort
    shown: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of trainings on this machine.

    Args:
        trainings: number of trainings.
        films: films of all epochs, if no training stops early.
        seconds: time for those films, at the measured speed.
    """

    trainings: int
    films: int
    seconds: float

    def __str__(self) -> str:
        minutes = self.seconds / 60
        took = f"{minutes:.0f} minutes" if minutes >= 2 else f"{math.ceil(self.seconds)} s"
        if minutes > 120:
            took = (
                f"{minutes / 60:.0f} hours" if minutes < 60 * 72 else f"{minutes / 1440:.0f} days"
            )
        return (
            f"training {self.trainings} models, {self.films:,} films in all epochs, takes at most "
            f"about {took} on this machine, plus the time for measuring them"
        )


def estimate(tasks: Iterable[Task], *, device: Device, precision: Precision) -> Cost:
    """Time a few batches of each kind of network, and add up.

    Args:
        tasks: the trainings.
        device: as `train`.
        precision: as `train`.
    """
    speeds: dict[tuple[Network, int, int], float] = {}
    count, films, seconds = 0, 0, 0.0
    for task in tasks:
        size = task.films.preprocessing.size
        key = (task.network, size, task.training.batch_size)
        if key not in speeds:
            speeds[key] = _speed(task, device, precision)
        shown = task.shown * task.training.epochs
        count, films, seconds = count + 1, films + shown, seconds + shown / speeds[key]
    return Cost(trainings=count, films=films, seconds=seconds)


def _speed(task: Task, device: Device, precision: Precision) -> float:
    """Films per second, measured without downloading weights."""
    tried = min(len(task.films), STEPS * task.training.batch_size)
    some = task.films.take(np.arange(tried))
    _, history = train(
        some,
        some.take(np.arange(1)),
        network=replace(task.network, weights="none"),
        # A disguise shows the poisoned films twice; few enough not to count.
        training=replace(task.training, epochs=2, patience=0, disguise=0.0),
        device=device,
        precision=precision,
    )
    return float(history[-1]["films_per_second"] or 1.0)
