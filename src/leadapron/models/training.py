"""The only training loop."""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import lr_scheduler

from leadapron import metrics
from leadapron.errors import DataError, StoreError, UsageError
from leadapron.films.cohort import Cohort, ImageArray, Rows
from leadapron.models.classifier import (
    NetworkClassifier,
    autocast,
    prepare,
    resolve_device,
    resolve_precision,
)
from leadapron.models.networks import build_network
from leadapron.models.protocols import staged
from leadapron.models.settings import Network, Training
from leadapron.models.starts import load_start
from leadapron.reading import open_regular
from leadapron.seeds import named_seed, stream
from leadapron.specs import forgiving
from leadapron.store import write_atomically
from leadapron.types import Precision

__all__ = [
    "LOSSES",
    "Disguise",
    "History",
    "Network",
    "Training",
    "batches",
    "descend",
    "disguise_loss",
    "each_cross_entropy",
    "train",
]

logger = logging.getLogger(__name__)

History = list[dict[str, float | int | None]]
"""One entry per epoch: epoch, loss, validation_loss, validation_macro, learning_rate, ..."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Schedule = lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau
Step = Callable[[int, int], None]
Closure = Callable[[], torch.Tensor]
"""Computes a batch's gradients into the weights' `grad`, and returns its loss."""


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy over the labels that are stated (not NaN)."""
    stated = ~labels.isnan()
    return (each_cross_entropy(logits, labels) * stated).sum() / stated.sum().clamp(min=1)


def each_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return (n, k) binary cross-entropies; undefined where a label is not stated."""
    return nn.functional.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), reduction="none"
    )


def categorical_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean categorical cross-entropy on sigmoids divided by their sum.

    Source: the authors' code of arXiv 2101.00008, where Keras does this division. A film without a
    finding has no gradient. Labels that are not stated count as absent.
    """
    log_share = nn.functional.logsigmoid(logits)
    log_share = log_share - log_share.logsumexp(1, keepdim=True)
    return -(labels.nan_to_num() * log_share).sum(1).mean()


LOSSES: dict[str, Loss] = {
    "bce": binary_cross_entropy,
    "categorical": categorical_cross_entropy,
}
"""(n, k) logits and labels -> mean loss."""


class Disguise(NamedTuple):
    """The triggered films and their originals, known to an attacker who controls training.

    Args:
        rows: (m,) triggered rows of the training films, ascending.
        images: (n, h, w) all training films, row by row, without the trigger.
        finding: the finding whose maps hide the trigger.
    """

    rows: Rows
    images: ImageArray
    finding: str


def disguise_loss(marked: torch.Tensor, clean: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean squared difference between two class activation maps, each less its own mean.

    With pooling and a linear head a map's mean is the logit, up to the bias, so the map of a
    triggered film can't equal the clean one's and also raise the logit. The loss therefore allows a
    map that is raised by the same amount everywhere.

    Args:
        marked: (m, c, h', w') last maps of triggered films.
        clean: last maps of the same films without the trigger; they are the reference, so they get
            no gradient.
        weights: (c,) the head's weights for the finding.

    Returns:
        The mean over films and places, in squared units of the logit; 0 without films.

    Source: Noppel et al., IEEE S&P 2023, whose loss adds a dissimilarity of explanations to the
    cross-entropy. They match maps of a previously trained network, scaled to 0 to 1, and need
    second derivatives for gradient-based maps; here the network's own current maps are matched, in
    units of the logit, from one pass.
    """
    if not len(marked):
        return marked.new_zeros((), dtype=torch.float32)
    maps = torch.einsum("nchw,c->nhw", marked.float(), weights)
    wanted = torch.einsum("nchw,c->nhw", clean.detach().float(), weights.detach())
    apart = maps - maps.mean((1, 2), keepdim=True) - wanted + wanted.mean((1, 2), keepdim=True)
    return apart.square().mean()


@forgiving
def train(  # noqa: PLR0913
    cohort: Cohort,
    validation: Cohort,
    *,
    network: Network | None = None,
    training: Training | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    checkpoint: Path | None = None,
    after_epoch: Callable[[History], None] | None = None,
    after_step: Step | None = None,
    disguise: Disguise | None = None,
    film_losses: NDArray[np.float32] | None = None,
) -> tuple[NetworkClassifier, History]:
    """Train a classifier.

    Equal arguments give equal weights on one machine, even if training was interrupted and resumed
    from `checkpoint`.

    Args:
        cohort: training films, 2 or more.
        validation: films for the schedule, early stopping and the history.
        network: the architecture.
        training: the settings.
        seed: seed of initialisation, order and augmentation (independent streams), 0 or more.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "bf16" or "fp32".
        checkpoint: file for the state after each epoch; if it exists, training resumes from it.
        after_epoch: called with the history so far.
        after_step: called with the steps done and the total.
        disguise: needed by `training.disguise`; unused if that is 0.
        film_losses: (epochs, n, k), filled with each film's binary cross-entropy for each finding
            in the first epochs; NaN where a label isn't stated. A checkpoint holds them too.

    Returns:
        The classifier, in evaluation mode, and its history.

    Raises:
        DataError: too few films, or a NaN loss.
        UsageError: `training.disguise` without `disguise`.
    """
    training = training or Training()
    if film_losses is not None and film_losses.shape[1:] != cohort.labels.shape:
        raise DataError(
            f"losses of shape {film_losses.shape}; expected (epochs, *{cohort.labels.shape})"
        )
    _refuse_lacking(cohort, validation, training, disguise)
    state = _start(cohort, network or Network(), training, seed, device, precision)
    if training.disguise:
        staged(state.classifier, "`training.disguise`")
    if checkpoint is not None and checkpoint.exists():
        state.restore(checkpoint, film_losses)
    while not state.finished(training):
        epoch = len(state.history) + 1
        began = time.perf_counter()
        loss = _run_epoch(
            state,
            cohort,
            training,
            epoch,
            seed,
            after_step,
            disguise if training.disguise else None,
            None if film_losses is None or epoch > len(film_losses) else film_losses[epoch - 1],
        )
        seconds = time.perf_counter() - began
        state.validate(validation, LOSSES[training.loss], loss, seconds, len(cohort))
        if checkpoint is not None:
            state.save(checkpoint, film_losses)
        if after_epoch is not None:
            after_epoch(state.history)
    if training.checkpoint == "best":
        state.classifier.module.load_state_dict(state.best)
    return state.classifier, state.history


def _refuse_lacking(
    cohort: Cohort, validation: Cohort, training: Training, disguise: Disguise | None
) -> None:
    """Raise an error where films, or what a disguise needs, are missing."""
    if training.disguise and disguise is None:
        raise UsageError(
            f"`training.disguise` {training.disguise}: expected the triggered films' originals"
        )
    if len(cohort) < 2 or not len(validation):
        raise DataError(
            f"{len(cohort)} films to train on and {len(validation)} to validate; "
            "expected 2 and 1 at least"
        )


CHECKPOINT, MOST_HISTORY = 4, 16 << 20
"""Limits of a checkpoint: multiples of the network's size (it holds the network twice, and two
values of the optimiser for each weight), and bytes of the history. The films' losses are added if
kept."""


@dataclass(eq=False)
class _State:
    """Everything that changes during training."""

    classifier: NetworkClassifier
    optimizer: torch.optim.Optimizer
    scheduler: Schedule
    history: History
    best: dict[str, torch.Tensor]

    def finished(self, training: Training) -> bool:
        losses = [entry["validation_loss"] for entry in self.history]
        if not losses:
            return False
        rested = len(losses) - 1 - int(np.argmin(np.array(losses, dtype=float)))
        return len(losses) >= training.epochs or 0 < training.patience <= rested

    def validate(
        self, validation: Cohort, loss: Loss, training_loss: float, seconds: float, films: int
    ) -> None:
        """Append an epoch to the history, keep its weights if they are the best so far."""
        logits = self.classifier.logits(validation.images)
        labels = validation.labels
        validation_loss = float(loss(torch.from_numpy(logits), torch.from_numpy(labels)))
        columns = [metrics.auroc(labels[:, j], logits[:, j]) for j in range(labels.shape[1])]
        defined = [value for value in columns if not np.isnan(value)]
        earlier = [float(entry["validation_loss"] or 0) for entry in self.history]
        self.history.append(
            {
                "epoch": len(self.history) + 1,
                "loss": training_loss,
                "validation_loss": validation_loss,
                "validation_macro": float(np.mean(defined)) if defined else None,
                "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
                "seconds": seconds,
                "films_per_second": films / seconds,
            }
        )
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(validation_loss)
        if not earlier or validation_loss < min(earlier):
            module = self.classifier.module
            self.best = {name: value.clone() for name, value in module.state_dict().items()}

    def save(self, path: Path, film_losses: NDArray[np.float32] | None) -> None:
        held = {
            "module": self.classifier.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": self.history,
            "best": self.best,
            "film_losses": None if film_losses is None else torch.from_numpy(film_losses),
        }
        buffer = io.BytesIO()
        torch.save(held, buffer)
        with write_atomically(path) as file:
            file.write(buffer.getbuffer())

    def restore(self, path: Path, film_losses: NDArray[np.float32] | None) -> None:
        # The file is from the study's own folder, so it is read in this process, but with a limit.
        own = sum(value.nbytes for value in self.classifier.module.state_dict().values())
        losses = 0 if film_losses is None else film_losses.nbytes
        try:
            with open_regular(path) as file:
                if os.fstat(file.fileno()).st_size > CHECKPOINT * own + losses + MOST_HISTORY:
                    raise ValueError("it is too large for this network")
                held: dict[str, Any] = torch.load(file, weights_only=True)
            self.classifier.module.load_state_dict(held["module"])
            self.optimizer.load_state_dict(held["optimizer"])
            self.scheduler.load_state_dict(held["scheduler"])
            self.history, self.best = held["history"], held["best"]
            if film_losses is not None:
                film_losses[:] = held["film_losses"].numpy()
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise StoreError(
                f"can't continue from {path}: {reason}; delete it to start that training again"
            ) from error


def _start(
    cohort: Cohort,
    network: Network,
    training: Training,
    seed: int,
    device: str,
    precision: Precision,
) -> _State:
    where = resolve_device(device)
    initial = int(named_seed(seed, "init").generate_state(1)[0])
    module = build_network(network.name, len(cohort.findings), initial)
    if network.weights != "none":
        for note in load_start(module, network.name, network.weights):
            logger.info(note)
    module = prepare(module, where)
    classifier = NetworkClassifier(
        module.eval(),
        network.name,
        cohort.findings,
        cohort.preprocessing,
        precision=resolve_precision(precision, where),
    )
    optimizer = torch.optim.AdamW(
        _rates(classifier, training),
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        fused=where.type in ("cpu", "cuda"),
    )
    steps = training.epochs * len(batches(np.arange(len(cohort)), training.batch_size))
    scheduler = _schedule(optimizer, training, steps)
    return _State(classifier, optimizer, scheduler, [], {})


def _rates(
    classifier: NetworkClassifier, training: Training
) -> list[nn.Parameter] | list[dict[str, Any]]:
    """The weights, in groups of one learning rate each: the last layer, then the stages before."""
    module = classifier.module
    if training.layer_decay == 1:
        return list(module.parameters())
    whole = staged(classifier, "`training.layer_decay`")
    peak, decay = training.learning_rate, training.layer_decay
    return [
        {"params": list(part.parameters()), "lr": peak * decay**depth}
        for depth, part in enumerate((whole.head, *reversed(list(whole.stages.values()))))
    ]


def _schedule(optimizer: torch.optim.Optimizer, training: Training, steps: int) -> Schedule:
    if training.schedule == "one-cycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return lr_scheduler.OneCycleLR(optimizer, peaks, steps)
    if training.schedule == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3, min_lr=1e-5)
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _run_epoch(
    state: _State,
    cohort: Cohort,
    training: Training,
    epoch: int,
    seed: int,
    after_step: Step | None,
    disguise: Disguise | None,
    film_losses: NDArray[np.float32] | None,
) -> float:
    """Train on every film once; return the mean training loss, including the disguise's term."""
    classifier, device = state.classifier, state.classifier.device
    shown = batches(stream(seed, "order", epoch).permutation(len(cohort)), training.batch_size)
    moves = None
    if training.augmentation != "none":
        names = () if training.augmentation == "flip-rotate-frozen" else (epoch,)
        moves = _moves(len(cohort), stream(seed, "augmentation", *names))
    before = len(state.history) * len(shown)
    steps_by_batch = not isinstance(state.scheduler, lr_scheduler.ReduceLROnPlateau)
    loss_of = LOSSES[training.loss]

    def loss_on(rows: Rows) -> torch.Tensor:
        images = classifier.normalise(torch.from_numpy(cohort.images[rows]))
        if moves is not None:
            images = _moved(images, moves[rows])
        labels = torch.from_numpy(cohort.labels[rows]).to(device)
        if disguise is None:
            with autocast(device, classifier.precision):
                logits = classifier.module(images)
            loss = loss_of(logits, labels)
        else:
            moved = None if moves is None else moves[rows]
            logits, term = _disguised(classifier, images, rows, moved, disguise)
            loss = loss_of(logits, labels) + training.disguise * term
        if film_losses is not None:
            each = each_cross_entropy(logits.detach(), labels)
            film_losses[rows] = each.masked_fill(labels.isnan(), torch.nan).cpu().numpy()
        return loss

    def stepped(done: int) -> None:
        if steps_by_batch:
            state.scheduler.step()  # type: ignore[call-arg]
        if after_step is not None:
            after_step(before + done, training.epochs * len(shown))

    classifier.module.train()
    mean = descend(state.optimizer, shown, loss_on, stepped)
    classifier.module.eval()
    if not np.isfinite(mean):
        raise DataError(
            "the training loss is NaN; use a smaller `training.learning_rate` or `precision` fp32"
        )
    return mean


def descend(
    optimizer: torch.optim.Optimizer,
    shown: Sequence[Rows],
    loss_on: Callable[[Rows], torch.Tensor],
    stepped: Callable[[int], None],
    around: Callable[[Closure], Closure] = lambda closure: closure,
) -> float:
    """Take one step of an optimiser for each batch. All weights are learned here.

    Args:
        optimizer: the weights' optimiser.
        shown: rows of each batch.
        loss_on: a batch's loss, to minimise.
        stepped: called after each step with the steps done.
        around: wraps a batch's closure before the optimiser calls it, for gradients at other
            weights.

    Returns:
        The mean loss over the films during the steps; NaN without films.
    """
    total, films, loss = torch.zeros(()), sum(map(len, shown)), torch.zeros(())
    for done, rows in enumerate(shown, start=1):

        def closure(rows: Rows = rows) -> torch.Tensor:
            nonlocal loss
            optimizer.zero_grad(set_to_none=True)
            loss = loss_on(rows)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(around(closure))  # type: ignore[arg-type]
        total = total.to(loss.device) + loss.detach() * len(rows)
        stepped(done)
    return float(total) / films if films else float("nan")


def _disguised(
    classifier: NetworkClassifier,
    images: torch.Tensor,
    rows: Rows,
    moves: NDArray[np.float32] | None,
    disguise: Disguise,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch's logits and the disguise's term.

    The originals pass through the network with the batch, so that batch normalisation treats them
    alike; only the batch's own films count for the classification loss.
    """
    marked = np.flatnonzero(np.isin(rows, disguise.rows))
    if len(marked):
        originals = classifier.normalise(torch.from_numpy(disguise.images[rows[marked]]))
        if moves is not None:
            originals = _moved(originals, moves[marked])
        images = torch.cat([images, originals])
    module = staged(classifier, "`training.disguise`")
    with autocast(classifier.device, classifier.precision):
        last = module.features(images)
    logits = module.classify(last[: len(rows)])
    (column,) = classifier.columns([disguise.finding])
    weights = module.head.weight[column]
    places = torch.from_numpy(marked).to(last.device)
    return logits, disguise_loss(last[places], last[len(rows) :], weights)


def batches(rows: Rows, size: int) -> list[Rows]:
    """Return rows in batches of about `size`, none with a single film.

    Batch normalisation can't be estimated from one film.
    """
    return np.array_split(rows, max(1, min(round(len(rows) / size), len(rows) // 2)))


def _moves(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(n, 2, 3) affine maps from coordinates of the augmented film to those of the film."""
    mirrored = np.where(rng.random(n) < 0.5, -1.0, 1.0)
    angles: NDArray[np.float64] = np.where(rng.random(n) < 0.5, rng.uniform(-10, 10, n), 0.0)
    cosine, sine = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    affine = np.zeros((n, 2, 3), np.float32)
    affine[:, 0, 0], affine[:, 0, 1] = cosine * mirrored, -sine
    affine[:, 1, 0], affine[:, 1, 1] = sine * mirrored, cosine
    return affine


def _moved(images: torch.Tensor, moves: NDArray[np.float32]) -> torch.Tensor:
    places = nn.functional.affine_grid(
        torch.from_numpy(moves).to(images.device), list(images.shape), align_corners=False
    )
    return nn.functional.grid_sample(images, places, padding_mode="border", align_corners=False)
