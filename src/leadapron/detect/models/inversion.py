"""Trigger inversion: the smallest mask and pattern that force a finding on or off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from leadapron.detect.models.stamps import Floats, Stamp
from leadapron.documents import Number, Pixels, no_pixels
from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.films.cohort import Cohort, Rows
from leadapron.metrics import FALSE_POSITIVES, threshold_at_false_positive_rate
from leadapron.models.classifier import autocast, in_batches
from leadapron.models.odds import log_odds, odds_of
from leadapron.models.protocols import Differentiable, differentiable, staged
from leadapron.seeds import stream

__all__ = ["CostSchedule", "Inversion", "Inverted", "InvertedFeatures", "Wanted", "frozen"]

EPSILON = 1e-7

HELD_BYTES = 2**30
"""Most bytes of a stage's maps in memory; fewer films are used if they would take more."""


@dataclass(kw_only=True)
class CostSchedule:
    """Schedule of the cost of a mask's size: raised while the trigger works, lowered otherwise.

    Args:
        first: cost once the trigger has worked for `patience` steps; 0 until then.
        multiplier: factor of increases; decreases use this to the power of 1.5.
        patience: consecutive steps before the cost changes.
        success: least share of turned films at which the trigger works.
        give_up: steps without a smaller mask, after the cost went up and down, before stopping.
        gain: a mask counts as smaller if below this share of the best.

    Source: Wang et al., Neural Cleanse, IEEE S&P 2019; the rules are those of the authors'
    visualizer.py (github.com/bolunwang/backdoor), with its example's values. They stop after 20
    steps of many batches without gain; our steps have one batch.
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
        """Process one step's result; return whether its mask is the best so far.

        Args:
            share: share of films that the trigger turns.
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
    """A finding to force on or off, and the starting square.

    Args:
        finding: its name.
        direction: "added" or "removed".
        start: the sweep's strongest square; a weak mask over the whole image if None. Features
            always start from a weak mask over all channels.
    """

    finding: str
    direction: Literal["added", "removed"]
    start: Stamp | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Inverted:
    """A trigger found by gradient descent.

    Args:
        finding, direction: the forced finding and its direction.
        mask: (h, w) float32 in 0 to 1, opacity of the pattern. Documents hold neither mask nor
            pattern.
        pattern: (h, w) float32 grey levels in 0 to 255.
        size: sum of the mask, in pixels.
        trained: whether it turned enough of the films that it was optimised on; otherwise it is the
            last step's trigger.
        turned: share of the held-out films that it moves across the threshold which 5 % of clean
            films exceed, among those not beyond it before; with whole grey levels, as in a file.
        films: number of held-out films behind `turned`.
        steps: number of steps.
    """

    finding: str
    direction: Literal["added", "removed"]
    mask: Pixels = field(default_factory=no_pixels)
    pattern: Pixels = field(default_factory=no_pixels)
    size: Number
    trained: bool
    turned: Number
    films: int
    steps: int

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return (n, h, w) uint8 images with the trigger."""
        mixed = (1 - self.mask) * images + self.mask * self.pattern
        marked: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
        return marked


@dataclass(frozen=True, eq=False, kw_only=True)
class InvertedFeatures:
    """A change of a few channels found by gradient descent; it has no image.

    Args:
        finding, direction: the forced finding and its direction.
        stage: stage of the network whose map is changed, equally at all places.
        mask: (c,) float64 in 0 to 1, share of the pattern in each channel.
        pattern: (c,) float64 values, in the map's units.
        size: sum of the mask, in channels.
        moved: sum over channels of the change of clean films' mean by mask and pattern, in standard
            deviations of the channel over places (at least the median channel's).
        trained: whether it turned enough of the films that it was optimised on; otherwise it is the
            last step's trigger.
        turned: share of the held-out films that it moves across the threshold which 5 % of clean
            films exceed, among those not beyond it before.
        films: number of held-out films behind `turned`.
        steps: number of steps.
    """

    finding: str
    direction: Literal["added", "removed"]
    stage: str
    mask: Floats
    pattern: Floats
    size: Number
    moved: Number
    trained: bool
    turned: Number
    films: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Neural Cleanse for findings, several of them in one batch.

    Args:
        films: films per step: the same for all findings, a new sample in each step.
        steps: at most.
        rate: of Adam, whose betas are 0.5 and 0.9.
        together: findings and directions in one batch.
        held_out: share of the clean films reserved for verification.
        seed: seed of the division and the sampling of films.

    Raises:
        UsageError: a value outside its range.

    Source: Wang et al., Neural Cleanse, IEEE S&P 2019, equations 2 and 3. We differ: the loss is
    the binary cross-entropy of one finding's log-odds, relative to the threshold that 5 % of clean
    films exceed (a rare finding's logit hardly reaches 0 even if it is present), and for "removed"
    to the one that 5 % are below; the mask starts from the sweep's square.
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
        self, classifier: Differentiable, clean: Cohort, wanted: Sequence[Wanted]
    ) -> tuple[Inverted, ...]:
        """Return a trigger for each wanted finding, verified on held-out films.

        Args:
            classifier: the classifier, unchanged.
            clean: films without a trigger, 8-bit; at least 20.
            wanted: what to force.

        Raises:
            DataError: fewer films, 16-bit films, or a wanted finding with outputs that aren't
                finite.
        """
        if len(clean) < 20 or clean.images.dtype != np.uint8:
            raise DataError(
                f"{len(clean)} films of {clean.images.dtype}; an inversion needs 20 of uint8"
            )
        made, held = self._divided(clean)
        images = torch.from_numpy(np.asarray(clean.images[made]))
        network = frozen(classifier)
        height, width = images.shape[1:]
        run = _Descent(
            settings=self,
            findings=classifier.findings,
            device=classifier.device,
            films=images,
            low=torch.zeros(1),
            span=torch.full((1,), 255.0),
            network=lambda mixed: log_odds(network(classifier.normalise(mixed)), classifier.head),
            thresholds=_thresholds(odds_of(classifier, images.numpy())),
        )
        run.refuse_unmeasured(wanted)
        others = np.asarray(clean.images[held])
        found: list[Inverted] = []
        for some in self._batches(wanted):
            starts = [_start(each, height, width) for each in some]
            for each, (mask, levels), schedule, steps in run.descend(some, starts, len(others)):
                mixed = np.rint((1 - mask) * others + mask * (255 * levels)).astype(np.uint8)
                before, after = (odds_of(classifier, given) for given in (others, mixed))
                turned, films = run.turned(each, before, after)
                found.append(
                    Inverted(
                        finding=each.finding,
                        direction=each.direction,
                        mask=mask,
                        pattern=255 * levels,
                        size=float(mask.sum()),
                        trained=math.isfinite(schedule.best),
                        turned=turned,
                        films=films,
                        steps=steps,
                    )
                )
        return tuple(found)

    def invert_features(
        self,
        classifier: Differentiable,
        clean: Cohort,
        wanted: Sequence[Wanted],
        stage: str = "",
    ) -> tuple[InvertedFeatures, ...]:
        """Return a change of few channels for each wanted finding, verified on held-out films.

        Mask and pattern have one number for each channel of a stage's map, the same at all places.
        A pattern stays within the channel's range over clean films, widened on both sides by that
        range or the median channel's, whichever is larger: a channel that a trigger activates may
        be inactive on all clean films. Gradients are computed down to that stage only.

        Args:
            classifier: the classifier, unchanged.
            clean: films without a trigger, at least 20. Fewer are used if the stage's maps would
                take more than 1 GB.
            wanted: findings and directions to force; starting squares aren't used.
            stage: name of the stage; the last but one if empty.

        Raises:
            DataError: fewer films, or a stage's map or a wanted finding's outputs that aren't
                finite.
            UnknownNameError: no such stage.

        Source: after Wang et al., Rethinking the Reverse-engineering of Trojan Triggers
        (FeatureRE), NeurIPS 2022: a mask in feature space, where a trigger that isn't a patch in
        pixels may be compact. We differ: the features are changed directly instead of through a
        generated image, so it remains open whether an image with these features exists; the mask is
        over channels; size and success are balanced by Neural Cleanse's cost schedule.
        """
        if len(clean) < 20:
            raise DataError(f"{len(clean)} films; an inversion needs 20")
        stage = _stage_of(classifier, stage)
        front, rest = _divided_network(classifier, stage)
        maps, others = self._maps(front, clean, stage)
        low, span = _widened(maps)
        run = _Descent(
            settings=self,
            findings=classifier.findings,
            device=classifier.device,
            films=maps,
            low=low[:, None, None],
            span=span[:, None, None],
            network=rest,
            thresholds=_thresholds(_asked(rest, maps)),
        )
        run.refuse_unmeasured(wanted)
        centre, spread = maps.mean((0, 2, 3)), maps.std((0, 2, 3))
        # Of dark channels too.
        spread = torch.maximum(spread, spread.quantile(0.5)).clamp(min=EPSILON)
        before = _asked(rest, others)
        found = []
        for some in self._batches(wanted):
            faint = _faint((len(low), 1, 1), (centre - low) / span.clamp(min=EPSILON))
            starts = [faint] * len(some)
            for each, (mask, levels), schedule, steps in run.descend(some, starts, len(others)):
                cover, share = torch.from_numpy(mask), torch.from_numpy(levels)
                pattern = run.low + run.span * share
                mixed = (1 - cover) * others + cover * pattern
                turned, films = run.turned(each, before, _asked(rest, mixed))
                away = (pattern.flatten() - centre).abs() / spread
                found.append(
                    InvertedFeatures(
                        finding=each.finding,
                        direction=each.direction,
                        stage=stage,
                        mask=mask.ravel().astype(np.float64),
                        pattern=pattern.flatten().double().numpy(),
                        size=float(mask.sum()),
                        moved=float((away * cover.flatten()).sum()),
                        trained=math.isfinite(schedule.best),
                        turned=turned,
                        films=films,
                        steps=steps,
                    )
                )
        return tuple(found)

    def _maps(
        self, front: Callable[[NDArray[Any]], torch.Tensor], clean: Cohort, stage: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A stage's maps of films that triggers are made on, and of those that verify them."""
        one = front(np.asarray(clean.images[:1]))
        most = max(20, HELD_BYTES // (one.numel() * one.element_size()))
        parts = self._divided(clean.take(np.arange(min(len(clean), most))))
        maps, others = (front(np.asarray(clean.images[rows])) for rows in parts)
        if not (maps.isfinite().all() and others.isfinite().all()):
            raise DataError(f"the map of stage {stage} isn't finite on clean films")
        return maps, others

    def _divided(self, clean: Cohort) -> tuple[Rows, Rows]:
        """Rows for optimising triggers, and held-out rows."""
        order = stream(self.seed, "inversion", "films").permutation(len(clean))
        cut = round(len(clean) * (1 - self.held_out))
        return np.sort(order[:cut]), np.sort(order[cut:])

    def _batches(self, wanted: Sequence[Wanted]) -> list[Sequence[Wanted]]:
        starts = range(0, len(wanted), self.together)
        return [wanted[start : start + self.together] for start in starts]


Module = TypeVar("Module", bound=nn.Module)


def frozen(classifier: Differentiable) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network as a function of its input, without gradients for weights.

    Batch normalisation after a convolution is folded into it. The classifier is unchanged.
    """
    copy = _folded(differentiable(classifier, "an inversion").module)

    def run(images: torch.Tensor) -> torch.Tensor:
        with autocast(classifier.device, classifier.precision):
            logits: torch.Tensor = copy(images)
        return logits.float()

    return run


def _folded(module: Module) -> Module:
    copy = deepcopy(module).eval().requires_grad_(False)
    for part in list(copy.modules()):
        # A custom forward may not run its parts in order.
        if isinstance(part, nn.Sequential) and type(part).forward is nn.Sequential.forward:
            _fold(part)
    return copy


def _divided_network(
    classifier: Differentiable, stage: str
) -> tuple[Callable[[NDArray[Any]], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """The network up to a stage (images to (n, c, h', w') maps on the CPU), and the rest.

    Weights are frozen as in `frozen`.
    """
    copy = _folded(staged(classifier, "an inversion of features"))
    cut = list(copy.stages).index(stage) + 1
    parts = list(copy.stages.values())

    def front(images: NDArray[Any]) -> torch.Tensor:
        def run(batch: torch.Tensor) -> tuple[torch.Tensor]:
            for part in parts[:cut]:
                batch = part(batch)
            return (batch,)

        return torch.from_numpy(in_batches(classifier, images, run)[0])

    def rest(maps: torch.Tensor) -> torch.Tensor:
        maps = maps.to(classifier.device)
        with autocast(classifier.device, classifier.precision):
            for part in parts[cut:]:
                maps = part(maps)
            return log_odds(copy.classify(maps), classifier.head)

    return front, rest


def _asked(rest: Callable[[torch.Tensor], torch.Tensor], maps: torch.Tensor) -> NDArray[np.float32]:
    """Return (n, k) logits of a stage's maps."""
    with torch.no_grad():
        return torch.cat([rest(some) for some in torch.split(maps, 64)]).cpu().numpy()


def _fold(sequence: nn.Sequential) -> None:
    names = list(sequence._modules)
    for first, second in pairwise(names):
        convolution, norm = sequence._modules[first], sequence._modules[second]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            folded = fuse_conv_bn_eval(convolution, norm).requires_grad_(False)
            placed: nn.Module = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            sequence._modules[first] = placed
            sequence._modules[second] = nn.Identity()


_Descended = tuple[Wanted, tuple[NDArray[np.float32], NDArray[np.float32]], CostSchedule, int]
"""The wanted finding, mask and pattern, the final state of the cost, and the number of steps."""


@dataclass(frozen=True, kw_only=True)
class _Descent:
    """Gradient descent on mask and pattern, over pixels or over a stage's channels.

    Args:
        settings: settings of the inversion.
        findings: k names.
        device: the network's device.
        films: (n, ...) images or maps, on the CPU.
        low, span: value of a pattern's share of 0, and the difference to a share of 1.
        network: (p n, ...) mixed films -> (p n, k) logits.
        thresholds: (k, 2) as `_thresholds`.
    """

    settings: Inversion
    findings: tuple[str, ...]
    device: torch.device
    films: torch.Tensor
    low: torch.Tensor
    span: torch.Tensor
    network: Callable[[torch.Tensor], torch.Tensor]
    thresholds: Floats

    def refuse_unmeasured(self, wanted: Sequence[Wanted]) -> None:
        """Raise DataError if a wanted finding has no threshold."""
        for each in wanted:
            if not np.isfinite(self.thresholds[self.findings.index(each.finding)]).all():
                raise DataError(
                    f"the model gives NaN or infinity for {each.finding} on clean films"
                )

    def descend(
        self,
        wanted: Sequence[Wanted],
        starts: Sequence[tuple[torch.Tensor, torch.Tensor]],
        held: int,
    ) -> list[_Descended]:
        """Optimise the triggers of a few findings at once.

        Args:
            wanted: p findings and directions.
            starts: mask and pattern of each, in 0 to 1, in a film's shape.
            held: number of held-out films, which the sampling depends on.
        """
        settings, device = self.settings, self.device
        rng = stream(settings.seed, "inversion", "batches", held)
        columns = torch.tensor([self.findings.index(w.finding) for w in wanted])
        removed = [int(w.direction == "removed") for w in wanted]
        signs = torch.tensor([1.0 - 2 * r for r in removed], device=device)
        at = torch.tensor(
            [self.thresholds[c, r] for c, r in zip(columns.tolist(), removed, strict=True)],
            dtype=torch.float32, device=device,
        )  # fmt: skip
        low, span = self.low.to(device), self.span.to(device)
        mask, pattern = (
            torch.stack([_arctanh(start[i]) for start in starts]).to(device).requires_grad_()
            for i in (0, 1)
        )  # (p, h, w) each, or (p, c, 1, 1)
        optimizer = torch.optim.Adam([mask, pattern], lr=settings.rate, betas=(0.5, 0.9))
        schedules = [CostSchedule() for _ in wanted]
        best = [(start[0].clone(), start[1].clone()) for start in starts]
        number = torch.arange(len(wanted))
        steps = 0
        while steps < settings.steps and not all(schedule.done for schedule in schedules):
            steps += 1
            drawn = rng.choice(len(self.films), min(settings.films, len(self.films)), False)
            films = self.films[torch.from_numpy(np.sort(drawn))].to(device).float()  # (n, ...)
            cover, shares = _squash(mask), _squash(pattern)
            mixed = (1 - cover)[:, None] * films + (cover * (low + span * shares))[:, None]
            logits = self.network(mixed.flatten(0, 1))  # mixed is (p, n, ...)
            own = logits.reshape(len(wanted), len(films), -1)[number, :, columns]  # (p, n)
            beyond = signs[:, None] * (own - at[:, None])
            sizes = cover.flatten(1).sum(1)
            prices = torch.tensor([s.price for s in schedules], device=device)
            loss = nn.functional.softplus(-beyond).mean(1) + prices * sizes
            share, covered = (beyond > 0).float().mean(1).tolist(), sizes.detach().tolist()
            for place, schedule in enumerate(schedules):
                better = not schedule.done and schedule.step(share[place], covered[place])
                if better or math.isinf(schedule.best):
                    best[place] = (cover[place].detach().clone(), shares[place].detach().clone())
            optimizer.zero_grad()
            loss.sum().backward()  # type: ignore[no-untyped-call]
            for free in (mask, pattern):
                assert free.grad is not None
                free.grad.nan_to_num_(0.0, 0.0, 0.0)  # no step without a finite gradient
            optimizer.step()
        return [
            (each, (best[place][0].cpu().numpy(), best[place][1].cpu().numpy()), schedule, steps)
            for place, (each, schedule) in enumerate(zip(wanted, schedules, strict=True))
        ]

    def turned(
        self, wanted: Wanted, before: NDArray[np.float32], after: NDArray[np.float32]
    ) -> tuple[float, int]:
        """Share of the films turned, among those not beyond the threshold before, and their number.

        Args:
            wanted: finding and direction.
            before: (n, k) logits of unchanged films.
            after: (n, k) logits of the same films with the change.
        """
        removed = wanted.direction == "removed"
        column, sign = self.findings.index(wanted.finding), -1 if removed else 1
        threshold = sign * self.thresholds[column, int(removed)]
        eligible = sign * before[:, column] <= threshold
        beyond = sign * after[eligible, column] > threshold
        return float(beyond.mean()) if eligible.any() else math.nan, int(eligible.sum())


def _thresholds(logits: NDArray[np.float32]) -> Floats:
    """(k, 2) logits that 5 % of (n, k) films exceed, and that 5 % are below.

    NaN for findings with an output that isn't finite.
    """
    return np.array(
        [
            [sign * threshold_at_false_positive_rate(sign * column, FALSE_POSITIVES)
             for sign in (1, -1)]
            if np.isfinite(column).all() else (np.nan, np.nan)
            for column in logits.astype(np.float64).T
        ]
    )  # fmt: skip


def _stage_of(classifier: Differentiable, stage: str) -> str:
    """The stage that is named, or the last but one."""
    names = list(staged(classifier, "an inversion of features").stages)
    stage = stage or names[max(0, len(names) - 2)]
    if stage not in names:
        raise UnknownNameError("stage", stage, names)
    return stage


def _widened(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(c,) least value of a pattern in each channel of maps (n, c, h, w), and its span."""
    low, high = maps.amin((0, 2, 3)), maps.amax((0, 2, 3))
    wide = torch.maximum(high - low, (high - low).quantile(0.5))
    return low - wide, high - low + 2 * wide


def _faint(shape: tuple[int, ...], shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weak mask, and a pattern with these shares, clipped away from 0 and 1."""
    return torch.full(shape, 0.02), shares.reshape(shape).clamp(0.02, 0.98)


def _start(wanted: Wanted, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask and pattern, (h, w) in 0 to 1: a weak mask, with the sweep's square if given."""
    mask, pattern = _faint((height, width), torch.full((height, width), 0.5))
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
