"""Query reactivation: a small network that makes hidden changes which wake a repaired backdoor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadapron.detect.models.sweep import Aim
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier, autocast
from leadapron.models.losses import distance, finding_loss
from leadapron.models.odds import log_odds
from leadapron.models.protocols import BlackBox
from leadapron.models.training import batches
from leadapron.repairs.proof.forcing import Change
from leadapron.repairs.proof.relearning import copied
from leadapron.seeds import named_seed, stream
from leadapron.types import Progress

__all__ = ["Reactivation", "Woken"]


@dataclass(frozen=True, eq=False)
class Woken:
    """The trigger, and a change of each film that wakes it; a `Change`.

    Args:
        mark: the trigger.
        network: (n, h w) films in 0 to 1 to (n, h w) in -1 to 1.
        reach: of the change, in grey levels of 0 to 255.
    """

    mark: Change
    network: nn.Module
    reach: float

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return (n, h, w) copies with the trigger and the change on top."""
        marked, top = self.mark(images), np.iinfo(images.dtype).max
        with torch.no_grad():
            flat = torch.from_numpy(marked.reshape(len(marked), -1).astype(np.float32) / top)
            change = self.network(flat).numpy().reshape(marked.shape) * (self.reach * top / 255)
        woken: NDArray[Any] = np.rint(marked + change).clip(0, top).astype(images.dtype)
        return woken


@dataclass(frozen=True, kw_only=True)
class Reactivation:
    """How the network is made.

    It learns a change of at most `reach` grey levels such that the repaired model answers marked
    films as the attacker wants and all films as the model does that learned the trigger again,
    while a model without the backdoor answers as before.

    Args:
        reach: of the change, in grey levels of 0 to 255 (L-infinity).
        epochs: passes over the films, each once clean and once marked.
        hidden: units of its one hidden layer.
        batch_size: films a step.
        learning_rate: of Adam.
        weight: of the likeness to the relearned model.
        seed: draws its start and the order.

    Raises:
        UsageError: a value outside its range.

    Source: Min et al., NeurIPS 2024, arXiv 2410.09838, the query-based reactivation attack: a
    network of the flat image, 16/255, 50 epochs on 500 clean and 500 poisoned films, distillation
    weighted by .2. Differs: sigmoids by finding; Adam; one hidden layer.
    """

    reach: float = 16.0
    epochs: int = 50
    hidden: int = 64
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.hidden) < 1 or self.batch_size < 2 or self.reach <= 0:
            raise UsageError("reactivation needs a reach, epochs, units and films above 0")

    def fit(
        self,
        repaired: BlackBox,
        relearned: BlackBox,
        without: BlackBox | None,
        films: Cohort,
        aim: Aim,
        mark: Change,
        progress: Progress | None = None,
    ) -> Woken:
        """Return the trigger with the change that wakes it.

        Args:
            repaired: is to be woken.
            relearned: the same after learning the trigger again.
            without: a model without the backdoor, which must answer as before; None if there is
                none, as a clean twin.
            films: clean, with stated findings.
            aim: what the trigger is for.
            mark: the trigger.
            progress: called with what is done, the epochs done and in all.

        Raises:
            UsageError: a model without gradients.
        """
        target, teacher = copied(repaired), copied(relearned)
        clean = None if without is None else copied(without)
        images: NDArray[Any] = films.images[np.arange(len(films))]
        marked, column = mark(images), films.column(aim[0])
        labels = films.labels.copy()
        labels[:, column] = 1 if aim[1] == "added" else 0
        pixels, top = int(np.prod(images.shape[1:])), float(np.iinfo(images.dtype).max)
        with torch.random.fork_rng():
            torch.manual_seed(int(named_seed(self.seed, "reactivation").generate_state(1)[0]))
            network = nn.Sequential(
                nn.Linear(pixels, self.hidden), nn.ReLU(), nn.Linear(self.hidden, pixels), nn.Tanh()
            )
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        both = np.concatenate([images, marked])
        wanted = np.concatenate([films.labels, labels])
        for epoch in range(1, self.epochs + 1):
            order = stream(self.seed, "reactivation", epoch).permutation(len(both))
            for rows in batches(order, self.batch_size):
                grey = torch.from_numpy(both[rows].astype(np.float32))
                change = network((grey / top).flatten(1)).view_as(grey) * (self.reach * top / 255)
                queried = (grey + change).clamp(0, top)
                truth = torch.from_numpy(wanted[rows])
                odds = _odds(target, queried, top)
                with torch.no_grad():
                    taught = _odds(teacher, grey, top)
                loss = finding_loss(odds, truth) + self.weight * distance(odds, taught, 1.0)
                if clean is not None:
                    with torch.no_grad():
                        before = _odds(clean, grey, top)
                    loss = loss + distance(_odds(clean, queried, top), before, 1.0)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if progress is not None:
                progress("query reactivation", epoch, self.epochs)
        return Woken(mark, network.eval(), self.reach)


def _odds(model: NetworkClassifier, grey: torch.Tensor, top: float) -> torch.Tensor:
    """Log-odds of (n, h, w) grey levels, with a gradient that leads back to them."""
    shown = (grey.to(model.device)[:, None] / top - model.mean) / model.std
    with autocast(model.device, model.precision):
        logits = model.module(shown)
    odds: torch.Tensor = log_odds(logits, model.head).cpu()
    return odds
