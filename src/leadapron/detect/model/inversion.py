"""Trigger inversion: the smallest mask and pattern that force a finding on or off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from leadapron.classifier import NetworkClassifier, autocast
from leadapron.cohort import Cohort, Rows
from leadapron.detect.model.stamps import Floats, Stamp
from leadapron.detect.model.sweep import FALSE_POSITIVES
from leadapron.errors import DataError, UsageError
from leadapron.metrics import threshold_at_false_positive_rate
from leadapron.seeds import stream

__all__ = ["CostSchedule", "Inversion", "Inverted", "Wanted", "frozen"]

EPSILON = 1e-7


@dataclass(kw_only=True)
class CostSchedule:
    """The price of a mask's size, raised while the trigger works and lowered while it doesn't.

    Args:
        first: price once the trigger has worked for `patience` steps; 0 until then.
        multiplier: factor upwards; downwards it is this to the power of 1.5.
        patience: steps in a row that it takes to change the price.
        success: share of films from which on the trigger works.
        give_up: steps without a smaller mask, after the price went up and down, that end it.
        gain: a mask counts as smaller below this share of the best.

    Source: Wang et al., Neural Cleanse, IEEE S&P 2019; the rules are those of the authors'
    visualizer.py (github.com/bolunwang/backdoor), with its example's values. They end it after
    20 steps of many batches without gain, ours are steps of one batch.
    """

    first: float = 1e-3
    multiplier: float = 2.0
    patience: int = 5
    success: float = 0.99
    give_up: int = 20
    gain: float = 0.99

    def __post_init__(self) -> None:
        self.price = 0.0
        self.best = math.inf
        self.done = False
        self._set = self._up = self._down = self._still = 0
        self._went_up = self._went_down = False

    def step(self, share: float, size: float) -> bool:
        """Take one step's result; return whether its mask is the best so far.

        Args:
            share: of the films that the trigger turns.
            size: sum of the mask.
        """
        works = share >= self.success
        before, better = self.best, works and size < self.best
        if better:
            self.best = size
        if math.isfinite(self.best):
            self._still = self._still + 1 if self.best >= self.gain * before else 0
        if self._went_up and self._went_down and self._still >= self.give_up:
            self.done = True
            return better
        self._set = self._set + 1 if works and self.price == 0 else 0
        if self._set >= self.patience:
            self.price, self._up, self._down = self.first, 0, 0
            self._went_up = self._went_down = False
        self._up, self._down = (self._up + 1, 0) if works else (0, self._down + 1)
        if self._up >= self.patience:
            self._up, self._went_up = 0, True
            self.price *= self.multiplier
        elif self._down >= self.patience:
            self._down, self._went_down = 0, True
            self.price /= self.multiplier**1.5
        return better


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A finding to force on or off, and a square to start from.

    Args:
        finding: its name.
        direction: "added" or "removed".
        start: the sweep's strongest square; a faint mask over the whole image if None.
    """

    finding: str
    direction: Literal["added", "removed"]
    start: Stamp | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Inverted:
    """A trigger that was found by its gradients.

    Args:
        finding, direction: what it forces.
        mask: (h, w) float32 in 0 to 1, how much of the pattern covers the film.
        pattern: (h, w) float32 grey levels in 0 to 255.
        size: sum of the mask, in pixels.
        trained: whether it turned enough of the films that it was made on; else it is the last
            step's.
        turned: share of the held-out films that it moves across the threshold which 5 % of clean
            films exceed, among those not beyond it before; whole grey levels, as a file holds them.
        films: held-out films that `turned` rests on.
        steps: taken.
    """

    finding: str
    direction: Literal["added", "removed"]
    mask: NDArray[np.float32]
    pattern: NDArray[np.float32]
    size: float
    trained: bool
    turned: float
    films: int
    steps: int

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return (n, h, w) uint8 images with the trigger."""
        mixed = (1 - self.mask) * images + self.mask * self.pattern
        return np.rint(mixed).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Neural Cleanse for sigmoid heads, several findings in one batch.

    Args:
        films: of a step; the same for all findings, another draw each step.
        steps: at most.
        rate: of Adam, whose betas are 0.5 and 0.9.
        together: findings and directions in one batch.
        held_out: share of the clean films that the triggers are verified on and never see.
        seed: divides and draws films.

    Raises:
        UsageError: a value outside its range.

    Source: Wang et al., Neural Cleanse, IEEE S&P 2019, equations 2 and 3. We differ: the loss is
    the binary cross-entropy of one logit, counted from the threshold that 5 % of clean films
    exceed (a rare finding's logit hardly reaches 0 even where it is present), and for "removed"
    from the one that 5 % are below; the mask starts from the sweep's square.
    """

    films: int = 16
    steps: int = 200
    rate: float = 0.1
    together: int = 4
    held_out: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.films, self.steps, self.together) < 1 or self.rate <= 0:
            raise UsageError("an inversion needs films, steps, a rate and findings above 0")
        if not 0 < self.held_out < 1:
            raise UsageError(f"held_out {self.held_out}; expected above 0 and below 1")

    def invert(
        self, classifier: NetworkClassifier, clean: Cohort, wanted: Sequence[Wanted]
    ) -> tuple[Inverted, ...]:
        """Return a trigger for each wanted finding, verified on films that it wasn't made on.

        Args:
            classifier: stays as it is.
            clean: films without a trigger, 8-bit; at least 20.
            wanted: what to force.

        Raises:
            DataError: fewer films, or 16-bit ones.
        """
        if len(clean) < 20 or clean.images.dtype != np.uint8:
            raise DataError(
                f"{len(clean)} films of {clean.images.dtype}; an inversion needs 20 of uint8"
            )
        order = stream(self.seed, "inversion", "films").permutation(len(clean))
        cut = round(len(clean) * (1 - self.held_out))
        run = _Descent(self, classifier, clean, order[:cut])
        found: list[Inverted] = []
        held = np.asarray(clean.images[np.sort(order[cut:])])
        for start in range(0, len(wanted), self.together):
            found += run.descend(wanted[start : start + self.together], held)
        return tuple(found)


def frozen(classifier: NetworkClassifier) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network as a function of its input alone: no weight asks for a gradient.

    Batch normalisation behind a convolution is folded into it. The classifier stays as it is.
    """
    copy = deepcopy(classifier.module).eval().requires_grad_(False)
    for part in list(copy.modules()):
        if isinstance(part, nn.Sequential):
            _fold(part)

    def run(images: torch.Tensor) -> torch.Tensor:
        with autocast(classifier.device, classifier.precision):
            logits: torch.Tensor = copy(images)
        return logits

    return run


def _fold(sequence: nn.Sequential) -> None:
    names = list(sequence._modules)
    for first, second in pairwise(names):
        convolution, norm = sequence._modules[first], sequence._modules[second]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            folded = fuse_conv_bn_eval(convolution, norm).requires_grad_(False)
            placed: nn.Module = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            sequence._modules[first] = placed
            sequence._modules[second] = nn.Identity()


class _Descent:
    """The films, thresholds and the frozen network of one inversion."""

    def __init__(
        self, settings: Inversion, classifier: NetworkClassifier, clean: Cohort, rows: Rows
    ) -> None:
        self.settings, self.classifier = settings, classifier
        self.network = frozen(classifier)
        self.images = torch.from_numpy(np.asarray(clean.images[np.sort(rows)]))
        logits = classifier.logits(self.images.numpy()).astype(np.float64)
        self.thresholds: Floats = np.array(
            [
                [sign * threshold_at_false_positive_rate(sign * column, FALSE_POSITIVES)
                 for sign in (1, -1)]
                for column in logits.T
            ]
        )  # (k, 2)  # fmt: skip

    def descend(self, wanted: Sequence[Wanted], held: NDArray[np.uint8]) -> list[Inverted]:
        """Make the triggers of a few findings at once."""
        settings, device = self.settings, self.classifier.device
        rng = stream(settings.seed, "inversion", "batches", len(held))
        columns = torch.tensor([self.classifier.findings.index(w.finding) for w in wanted])
        removed = [int(w.direction == "removed") for w in wanted]
        signs = torch.tensor([1.0 - 2 * r for r in removed], device=device)
        at = torch.tensor(
            [self.thresholds[c, r] for c, r in zip(columns.tolist(), removed, strict=True)],
            dtype=torch.float32, device=device,
        )  # fmt: skip
        height, width = self.images.shape[1:]
        starts = [_start(each, height, width) for each in wanted]
        mask, pattern = (
            torch.stack([_arctanh(start[i]) for start in starts]).to(device).requires_grad_()
            for i in (0, 1)
        )  # (p, h, w) each
        optimizer = torch.optim.Adam([mask, pattern], lr=settings.rate, betas=(0.5, 0.9))
        schedules = [CostSchedule() for _ in wanted]
        best = [(start[0].clone(), start[1].clone()) for start in starts]
        number = torch.arange(len(wanted))
        steps = 0
        while steps < settings.steps and not all(schedule.done for schedule in schedules):
            steps += 1
            drawn = rng.choice(len(self.images), min(settings.films, len(self.images)), False)
            films = self.images[torch.from_numpy(np.sort(drawn))].to(device).float()  # (n, h, w)
            cover, levels = _squash(mask), _squash(pattern)
            mixed = (1 - cover)[:, None] * films + 255 * (cover * levels)[:, None]  # (p, n, h, w)
            logits = self.network(self.classifier.normalise(mixed.flatten(0, 1)))
            own = logits.reshape(len(wanted), len(films), -1)[number, :, columns]  # (p, n)
            beyond = signs[:, None] * (own - at[:, None])
            sizes = cover.sum((1, 2))
            prices = torch.tensor([s.price for s in schedules], device=device)
            loss = nn.functional.softplus(-beyond).mean(1) + prices * sizes
            share, pixels = (beyond > 0).float().mean(1).tolist(), sizes.detach().tolist()
            for place, schedule in enumerate(schedules):
                better = not schedule.done and schedule.step(share[place], pixels[place])
                if better or math.isinf(schedule.best):
                    best[place] = (cover[place].detach().clone(), levels[place].detach().clone())
            optimizer.zero_grad()
            loss.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return [
            self._verified(each, best[place], schedules[place], held, steps)
            for place, each in enumerate(wanted)
        ]

    def _verified(
        self,
        wanted: Wanted,
        trigger: tuple[torch.Tensor, torch.Tensor],
        schedule: CostSchedule,
        held: NDArray[np.uint8],
        steps: int,
    ) -> Inverted:
        mask, levels = (part.cpu().numpy() for part in trigger)
        removed = wanted.direction == "removed"
        column, sign = self.classifier.findings.index(wanted.finding), -1 if removed else 1
        threshold = sign * self.thresholds[column, int(removed)]
        mixed = np.rint((1 - mask) * held + mask * (255 * levels)).astype(np.uint8)
        before, after = (
            sign * self.classifier.logits(images)[:, column] for images in (held, mixed)
        )
        eligible = before <= threshold
        return Inverted(
            finding=wanted.finding,
            direction=wanted.direction,
            mask=mask,
            pattern=255 * levels,
            size=float(mask.sum()),
            trained=math.isfinite(schedule.best),
            turned=float((after[eligible] > threshold).mean()) if eligible.any() else math.nan,
            films=int(eligible.sum()),
            steps=steps,
        )


def _start(wanted: Wanted, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask and pattern, (h, w) in 0 to 1: the sweep's square on a faint ground, or the ground."""
    mask, pattern = torch.full((height, width), 0.02), torch.full((height, width), 0.5)
    stamp = wanted.start
    if stamp is not None:
        place = (
            slice(stamp.row, stamp.row + stamp.side),
            slice(stamp.column, stamp.column + stamp.side),
        )
        mask[place] = 0.95
        pattern[place] = min(max(stamp.value / 255, 0.02), 0.98)
    return mask, pattern


def _squash(free: torch.Tensor) -> torch.Tensor:
    return torch.tanh(free) / (2 - EPSILON) + 0.5


def _arctanh(share: torch.Tensor) -> torch.Tensor:
    return torch.arctanh((share - 0.5) * (2 - EPSILON))
