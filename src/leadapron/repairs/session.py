"""Shared code of repairs: copy of the model, split of the clean films, training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call
from torch.optim import lr_scheduler

from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort, Rows, split_by_patient
from leadapron.metrics import PatientBootstrap
from leadapron.models import networks
from leadapron.models.classifier import NetworkClassifier, autocast
from leadapron.models.copying import copied_network
from leadapron.models.losses import finding_loss
from leadapron.models.odds import log_odds
from leadapron.models.protocols import (
    BlackBox,
    Capability,
    Differentiable,
    differentiable,
)
from leadapron.models.training import Closure, batches, descend
from leadapron.repairs.guard import RESAMPLES, Guard, Judged, prefers
from leadapron.seeds import named_seed, stream
from leadapron.types import Progress

__all__ = ["MOST_FILMS", "Batch", "Optimisation", "Repair", "Session", "begin"]

MOST_FILMS = 36_000
"""Budget of a repair in film trainings: one is a film's forward and backward pass."""

LEARNED = 0.7
"""Share of the patients with training films; the guard holds the films of the others."""

FEW_FILMS = 500
"""With fewer films than this, batch normalisation keeps the model's original statistics."""


class Repair(Protocol):
    """A method that removes a backdoor from a model; its fields are its parameters."""

    @property
    def needs(self) -> Capability:
        """The capability that a model must have."""
        ...

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """Return a repaired copy of the model; the model itself isn't changed.

        Args:
            classifier: the model.
            clean: films without a trigger and with true labels, with the model's preprocessing.
                Findings are matched by name; findings without labels aren't trained.
            rng: source of randomness; one number of it seeds the repair.
            progress: called with the name of the step, the steps done and their total.

        Raises:
            UsageError: a model without the capability that the repair needs.
            DataError: films that can't be used: none of the model's findings, or too few patients
                with and without a finding.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a repair changes weights.

    Args:
        optimiser: "adamw", or "sgd" with momentum.
        learning_rate: initial learning rate, above 0; it falls to 0 as half a cosine.
        epochs: largest number of epochs, 1 or more, within the budget `most_films`.
        batch_size: films in a step, 2 or more.
        weight_decay: 0 or more.
        momentum: momentum of sgd, 0 or more and below 1.
        most_films: budget in film trainings, each a forward and a backward pass of one film; the
            default is 36,000.
        statistics: whether batch normalisation's means and variances are "kept" or "learned";
            "auto" keeps them with fewer than 500 films to learn from.

    Raises:
        UsageError: a value outside its range.
    """

    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 3e-4
    epochs: int = 10
    batch_size: int = 32
    weight_decay: float = 0.0
    momentum: float = 0.9
    most_films: int = MOST_FILMS
    statistics: Literal["auto", "kept", "learned"] = "auto"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("most_films", 1)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"`optimisation.{name}` {getattr(self, name)}: expected {least} or more"
                )
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"`optimisation.learning_rate` {self.learning_rate}: expected above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"`optimisation.weight_decay` {self.weight_decay}: expected 0 or more")
        if not 0 <= self.momentum < 1:
            raise UsageError(
                f"`optimisation.momentum` {self.momentum}: expected 0 or more, below 1"
            )

    def make(self, parameters: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
        """Return the optimiser of some parameters."""
        rate, decay = self.learning_rate, self.weight_decay
        if self.optimiser == "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        return torch.optim.SGD(parameters, lr=rate, momentum=self.momentum, weight_decay=decay)


class Batch(NamedTuple):
    """Films of one step.

    Args:
        images: (b, 1, h, w) normalised, as they are learned from.
        labels: (b, k) in {0, 1, NaN}.
    """

    images: torch.Tensor
    labels: torch.Tensor


@dataclass(eq=False, kw_only=True)
class Session:
    """A repair in progress.

    Args:
        what: the repair's name, for progress and messages.
        original: the model, which isn't changed.
        student: its copy, which is changed.
        learn: training films, with the model's findings.
        guard: held-out films that measure the cost.
        seed: seed of the repair's random streams.
        progress: called with the name of the step, the steps done and their total.
    """

    what: str
    original: Differentiable
    student: NetworkClassifier
    learn: Cohort
    guard: Guard
    seed: int
    progress: Progress | None
    frozen: set[str] = field(default_factory=set)

    @property
    def module(self) -> networks.Network:
        """The network that is changed."""
        return self.student.module

    @property
    def head(self) -> nn.Linear:
        """Its last layer, of a model with the capability "linear last layer"."""
        layer = self.module.get_submodule(self.module.last_layer)
        assert isinstance(layer, nn.Linear)
        return layer

    def odds(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the log-odds of (n, k) logits."""
        return log_odds(logits, self.student.head)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the error on the stated labels; see `losses.finding_loss`."""
        return finding_loss(self.odds(logits), labels)

    def answers(
        self, images: torch.Tensor, replaced: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return the student's (b, k) logits, with some weights replaced by name.

        Args:
            images: (b, 1, h, w) normalised.
            replaced: other weights by their names; none if left out.
        """
        with autocast(self.student.device, self.student.precision):
            logits: torch.Tensor = functional_call(self.module, dict(replaced or {}), (images,))
        return logits

    def fit(self, batch: Batch) -> torch.Tensor:
        """Return the student's error on a batch."""
        return self.loss(self.answers(batch.images), batch.labels)

    def taught(self, batch: Batch) -> torch.Tensor:
        """Return the original's (b, k) log-odds for a batch; no gradient leads there."""
        with torch.no_grad(), autocast(self.student.device, self.student.precision):
            return self.odds(self.original.module(batch.images))

    def learnable(self) -> NDArray[np.bool_]:
        """Return (k,) whether the films learned from hold a finding both present and absent."""
        labels = self.learn.labels
        found: NDArray[np.bool_] = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
        return found

    def epochs(
        self,
        optimisation: Optimisation,
        objective: Callable[[Batch], torch.Tensor],
        *,
        parameters: Sequence[torch.Tensor] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        show: Callable[[NDArray[Any], np.random.Generator], NDArray[Any]] | None = None,
        stepped: Callable[[], None] | None = None,
        around: Callable[[Closure], Closure] = lambda closure: closure,
        passes: int = 1,
    ) -> Iterator[int]:
        """Train the student, and yield each epoch's number, from 1, after the epoch.

        Args:
            optimisation: the settings.
            objective: the loss of a batch, which is minimised.
            parameters: the trained parameters; all of the student's weights if left out.
            optimizer: their optimiser; that of the settings if left out.
            show: applied to a batch's (b, h, w) pixels first.
            stepped: called after each step.
            around: see `training.descend`.
            passes: forward and backward passes of a step, for the budget.

        Raises:
            DataError: a loss that isn't finite.
        """
        n, device = len(self.learn), self.student.device
        chosen = list(self.module.parameters()) if parameters is None else list(parameters)
        optimizer = optimizer or optimisation.make(chosen)
        each = len(batches(np.arange(n), optimisation.batch_size))
        whole, rest = divmod(optimisation.most_films, passes * n)
        affordable = whole * each + rest // (passes * -(-n // each))
        total = max(1, min(optimisation.epochs * each, affordable))
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, total)

        for epoch in range(1, -(-total // each) + 1):
            shown = batches(
                stream(self.seed, "order", epoch).permutation(n), optimisation.batch_size
            )
            chance = stream(self.seed, "show", epoch)
            before = (epoch - 1) * each

            def loss_on(rows: Rows, chance: np.random.Generator = chance) -> torch.Tensor:
                pixels = self.learn.images[rows]
                if show is not None:
                    pixels = show(pixels, chance)
                images = self.student.normalise(torch.from_numpy(pixels))
                labels = torch.from_numpy(self.learn.labels[rows]).to(device)
                return objective(Batch(images, labels))

            def after(done: int, before: int = before) -> None:
                scheduler.step()
                if stepped is not None:
                    stepped()
                self.tell(before + done, total)

            self._set_learning(optimisation.statistics, n)
            with self.seeded("noise", epoch):
                mean = descend(optimizer, shown[: total - before], loss_on, after, around)
            self.module.eval()
            if not math.isfinite(mean):
                raise DataError(
                    f"{self.what}: the loss isn't finite; "
                    "use a smaller `optimisation.learning_rate`"
                )
            yield epoch

    def tune(
        self,
        optimisation: Optimisation,
        objective: Callable[[Batch], torch.Tensor] | None = None,
        **more: Any,
    ) -> None:
        """Train, and keep the last epoch that the guard accepts, or else the one that costs least.

        Arguments are those of `epochs`.
        """
        kept: tuple[Judged, dict[str, torch.Tensor]] | None = None
        for _ in self.epochs(optimisation, objective or self.fit, **more):
            now = self.judge()
            if kept is None or prefers(now, kept[0]):
                kept = now, self.state()
        assert kept is not None
        self.module.load_state_dict(kept[1])

    def judge(self) -> Judged:
        """Return the current student's cost, and whether the guard accepts it."""
        return self.guard.judge(self.student.logits(self.guard.films.images))

    def state(self) -> dict[str, torch.Tensor]:
        """Return a copy of the student's weights and statistics."""
        return {name: value.clone() for name, value in self.module.state_dict().items()}

    def tell(self, done: int, total: int) -> None:
        """Pass progress on."""
        if self.progress is not None:
            self.progress(self.what, done, total)

    @contextmanager
    def seeded(self, *names: str | int) -> Iterator[None]:
        """Let torch draw from a named stream; its own generator stays as it was."""
        device = self.student.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(named_seed(self.seed, *names).generate_state(1)[0]))
            yield

    def finish(self) -> NetworkClassifier:
        """Return the repaired model, in evaluation mode."""
        for name, parameter in self.module.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(name not in self.frozen)
        self.module.eval()
        return self.student

    def _set_learning(self, statistics: str, films: int) -> None:
        self.module.train()
        if statistics == "kept" or (statistics == "auto" and films < FEW_FILMS):
            for part in self.module.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()


def begin(
    what: str,
    needs: Capability,
    classifier: BlackBox,
    clean: Cohort,
    rng: np.random.Generator,
    progress: Progress | None,
    learned: float = LEARNED,
) -> Session:
    """Copy the model and split the clean films by patient: for training, and held out.

    Args:
        what: the repair's name.
        needs: the capability that the model must have.
        classifier: the model.
        clean: films without a trigger.
        rng: source of randomness.
        progress: see `Session`.
        learned: share of the patients with training films, above 0 and below 1.

    Raises:
        UsageError, DataError: as `Repair.repair`.
    """
    original = differentiable(classifier, what, needs)
    student = copied_network(original, what)
    module = student.module
    frozen = {name for name, value in module.named_parameters() if not value.requires_grad}
    module.requires_grad_(True)
    films = clean.stating(original.findings)
    seed = int(rng.integers(2**63))
    shares = {"learn": learned, "watch": 1 - learned}
    parts = split_by_patient(films.patients, shares, stream(seed, "split"), films.labels)
    learn, watch = films.take(parts["learn"]), films.take(parts["watch"])
    if len(learn) < 2:
        raise DataError(f"{len(learn)} clean film to learn from; expected 2 or more")
    drawn = PatientBootstrap.draw(watch.patients, stream(seed, "bootstrap"), resamples=RESAMPLES)
    guard = Guard(original, watch, drawn)
    return Session(
        what=what, original=original, student=student, learn=learn, guard=guard, seed=seed,
        progress=progress, frozen=frozen,
    )  # fmt: skip
