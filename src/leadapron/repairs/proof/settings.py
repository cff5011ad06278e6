"""Settings of the relearning attack; the command line reads them without loading torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from leadapron.errors import UsageError

__all__ = ["Relearning"]


@dataclass(frozen=True, kw_only=True)
class Relearning:
    """How a backdoor is brought back: a few poisoned films among clean ones, a few epochs.

    Args:
        doses: numbers of poisoned films, ascending, 0 or more each and the last above 0. 0 is a
            control: what training on the same clean films brings back by itself.
        rates: times the learning rate.
        seeds: repetitions of each dose, each with other poisoned films in another order.
        epochs: passes over the films.
        films: clean films that are learned from, at most; the poisoned ones are among them.
        batch_size: 2 or more. 32 of 240 films take as many steps as the published 128 of 1,000.
        learning_rate: of SGD, with momentum 0.9; above 0.

    Raises:
        UsageError: a value outside its range.

    Source: the retuning attack of Min et al., Uncovering, Explaining, and Mitigating the
    Superficial Safety of Backdoor Defense, NeurIPS 2024, arXiv 2410.09838: 2 % of the training
    films, SGD 0.01 with momentum 0.9, 5 epochs, 5 poisoned films. Differs: more doses, seeds and a
    larger rate; the labels of the target alone are changed; a fresh trigger for comparison.
    """

    doses: tuple[int, ...] = (0, 1, 2, 5, 10, 25)
    rates: tuple[int, ...] = (1, 3)
    seeds: int = 3
    epochs: int = 5
    films: int = 240
    batch_size: int = 32
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        counts = (*self.rates, self.seeds, self.epochs, self.films)
        if not self.rates or min(counts) < 1 or self.batch_size < 2:
            raise UsageError("relearning needs rates, seeds, epochs and films of 1 or more")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"a learning rate of {self.learning_rate}; expected above 0")
        ascending = list(self.doses) == sorted(set(self.doses))
        if not ascending or not self.doses or self.doses[0] < 0 or not self.doses[-1]:
            raise UsageError(
                f"doses {self.doses}; expected them ascending, 0 or more, the last above 0"
            )

    @property
    def trainings(self) -> int:
        """Film trainings of the whole attack on one model."""
        networks = len(self.rates) * sum(map(self.networks, self.doses))
        return networks * self.epochs * self.films

    def networks(self, dose: int) -> int:
        """Networks that a dose trains at one rate: without poisoned films one serves both marks."""
        return self.seeds * (2 if dose else 1)
