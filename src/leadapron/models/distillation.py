"""Distillation: a network learns a classifier's outputs on films, never its labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import lr_scheduler

from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import ImageArray, Rows
from leadapron.models.classifier import NetworkClassifier, autocast
from leadapron.models.losses import distance
from leadapron.models.odds import log_odds
from leadapron.models.protocols import BlackBox
from leadapron.models.training import batches, descend
from leadapron.seeds import named_seed, stream

__all__ = ["Teaching", "shifted", "teach"]


def shifted(images: NDArray[Any], most: int, rng: np.random.Generator) -> NDArray[Any]:
    """Return (n, h, w) films, each moved by up to `most` pixels; its edge is repeated."""
    height, width = images.shape[1:]
    rows, columns = rng.integers(-most, most + 1, (2, len(images), 1))
    down = (np.arange(height) + rows).clip(0, height - 1)  # (n, h)
    across = (np.arange(width) + columns).clip(0, width - 1)  # (n, w)
    moved: NDArray[Any] = images[
        np.arange(len(images))[:, None, None], down[:, :, None], across[:, None]
    ]
    return moved


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """How a student learns.

    Args:
        epochs: passes over the films, 1 or more.
        batch_size: films in a step, 2 or more.
        learning_rate: of AdamW, above 0; it rises and falls once (one-cycle).
        weight_decay: of AdamW, 0 or more.
        shift: largest shift of a film in pixels, 0 or more.

    Raises:
        UsageError: a value outside its range.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    shift: int = 3

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("shift", 0), ("weight_decay", 0)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"`teaching.{name}` {getattr(self, name)}: expected {least} or more"
                )
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"`teaching.learning_rate` {self.learning_rate}: expected above 0")


def teach(
    student: NetworkClassifier,
    teacher: BlackBox,
    images: ImageArray,
    teaching: Teaching,
    seed: int,
    stepped: Callable[[int, int], None] | None = None,
) -> None:
    """Let a student learn a teacher's outputs for films, in place.

    The teacher reads the same shifted films as the student. Only its outputs are used, so it may be
    a black box. An output that isn't finite teaches nothing.

    Args:
        student: the network; in evaluation mode afterwards.
        teacher: a classifier with the same findings, head and preprocessing.
        images: (n, h, w) films.
        teaching: the settings.
        seed: of order, shifts and the network's own noise.
        stepped: called with the steps done and their total.

    Raises:
        DataError: fewer than 2 films, or a loss that isn't finite.
    """
    n = images.shape[0]
    if n < 2:
        raise DataError(f"{n} films to teach a student; expected 2 or more")
    module, device = student.module, student.device
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=teaching.learning_rate,
        weight_decay=teaching.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    each = len(batches(np.arange(n), teaching.batch_size))
    total = each * teaching.epochs
    scheduler = lr_scheduler.OneCycleLR(optimizer, teaching.learning_rate, total)
    for epoch in range(teaching.epochs):
        order = stream(seed, "order", epoch).permutation(n)
        chance = stream(seed, "show", epoch)

        def loss_on(rows: Rows, chance: np.random.Generator = chance) -> torch.Tensor:
            films = shifted(np.asarray(images[rows]), teaching.shift, chance)
            told = torch.from_numpy(teacher.logits(films)).to(device)
            told = torch.where(told.isfinite(), told, torch.nan)
            with autocast(device, student.precision):
                own = module(student.normalise(torch.from_numpy(films)))
            wanted = log_odds(told, teacher.head)
            return distance(log_odds(own, student.head), wanted, 1.0)

        def after(done: int, before: int = epoch * each) -> None:
            scheduler.step()
            if stepped is not None:
                stepped(before + done, total)

        module.train()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(named_seed(seed, "noise", epoch).generate_state(1)[0]))
            mean = descend(optimizer, batches(order, teaching.batch_size), loss_on, after)
        module.eval()
        if not math.isfinite(mean):
            raise DataError("a student's loss isn't finite; use a smaller `teaching.learning_rate`")
