"""Further statistics of a network, one number per finding, beside the sweep."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadapron.detect.models.inversion import frozen
from leadapron.detect.models.null import Comparison, compare
from leadapron.detect.models.stamps import Floats
from leadapron.detect.models.sweep import DIRECTIONS
from leadapron.detect.models.weights import channel_lipschitz
from leadapron.detect.scale import (
    LEAST_FILMS,
    finite_mean,
    finite_median,
    logit_spreads,
    mad_spread,
)
from leadapron.errors import DataError, UsageError
from leadapron.explainers.passes import collect, input_slopes
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import in_batches
from leadapron.models.protocols import Capability, Differentiable, lacking, layered
from leadapron.plugins import Registry
from leadapron.seeds import stream

__all__ = [
    "STATISTICS",
    "Measure",
    "Statistic",
    "Tables",
    "channel_outlier",
    "compare_statistics",
    "head_outliers",
    "map_features",
    "map_statistics",
    "maximum_margin",
    "measure",
    "not_applicable",
    "outlier_index",
    "reestimated_shift",
]

Tables = Mapping[str, Floats]
"""Statistics of a network by name."""

WHOLE = "the model"
"""In place of a finding, where a statistic has one number for all."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Statistic:
    """One statistic of a model, beside references where there are any.

    Args:
        name: as in `STATISTICS`.
        unit: what the values are measured in.
        findings: the k that the rows stand for, or "the model" alone.
        directions: of the d columns: "added" and "removed", or "" where it can't tell.
        values: (k, d) float64, higher is more suspicious; NaN where it can't be told, since the
            network's answers or gradients aren't finite.
        excess: (k, d) over the references, in their spreads; None without them.
        finding_p: (k, d), corrected for this statistic's findings and directions, but not for
            the other statistics; None without references.
        p: of the model by this statistic alone; None without references.
    """

    name: str
    unit: str
    findings: tuple[str, ...]
    directions: tuple[str, ...]
    values: Floats
    excess: Floats | None
    finding_p: Floats | None
    p: float | None

    def strongest(self) -> tuple[str, str] | None:
        """Return the finding and direction that stand out most, by excess if there is one.

        None where nothing could be told.
        """
        ranked = self.values if self.excess is None else self.excess
        told = np.where(np.isfinite(ranked), ranked, -np.inf)
        row, column = np.unravel_index(int(told.argmax()), told.shape)
        return (self.findings[row], self.directions[column]) if np.isfinite(told).any() else None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How a statistic is taken.

    Args:
        take: (network, clean films, settings by keyword) -> (k, 2) or (k, 1), or (1, 1) of the
            whole network.
        unit: what it is measured in.
        needs: what a network must have for it.
    """

    take: Callable[..., Floats]
    unit: str
    needs: Capability = "gradients"

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings of `take`, as they are where none is given."""
        known = inspect.signature(self.take).parameters.values()
        return {each.name: each.default for each in known if each.kind is each.KEYWORD_ONLY}


def measure(classifier: Differentiable, clean: Cohort) -> Tables:
    """Return a network's `STATISTICS` by name: (k, 2) or (k, 1), or (1, 1) of the whole.

    Those that need what the network hasn't are left out; `not_applicable` says which.

    Args:
        classifier: of two findings or more: most statistics compare findings.
        clean: films without a trigger, at least 20.

    Raises:
        DataError: too few films.
        UsageError: a single finding.
    """
    return {
        name: how.take(classifier, clean)
        for name, how in STATISTICS.items()
        if not lacking(classifier, how.needs)
    }


def not_applicable(classifier: Differentiable) -> dict[str, str]:
    """Return why some of `STATISTICS` can't be taken of a network, by name."""
    reasons = {name: lacking(classifier, how.needs) for name, how in STATISTICS.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def compare_statistics(
    findings: tuple[str, ...], own: Tables, others: Sequence[tuple[tuple[str, ...], Tables]] = ()
) -> tuple[Statistic, ...]:
    """Return what `measure` gave for a network, beside what it gave for reference networks.

    Args:
        findings: of the network.
        own: its statistics.
        others: findings and statistics of clean networks with the same findings in any order; none,
            or two or more.

    Raises:
        DataError: one reference, or statistics that aren't those of the network.
    """
    for _, theirs in others:
        if theirs.keys() != own.keys():
            lacking = ", ".join(sorted(own.keys() ^ theirs.keys()))
            raise DataError(f"{lacking}: taken of the network or of a reference, not of both")
    orders = [[theirs.index(finding) for finding in findings] for theirs, _ in others]

    def table(name: str) -> Floats:
        theirs = [
            tables[name][order] if len(tables[name]) > 1 else tables[name]
            for order, (_, tables) in zip(orders, others, strict=True)
        ]
        return np.stack([own[name], *theirs])

    return tuple(_beside(name, STATISTICS[name].unit, findings, table(name)) for name in own)


def _beside(name: str, unit: str, findings: tuple[str, ...], tables: Floats) -> Statistic:
    """One statistic from (m + 1, k, d) values, the model's first."""
    own, others = tables[:1], tables[1:]
    beside: Comparison | None = compare(own, others[:, None]) if len(others) else None
    told = beside is not None and np.isfinite(beside.strongest)
    return Statistic(
        name=name,
        unit=unit,
        findings=findings if own.shape[1] > 1 else (WHOLE,),
        directions=DIRECTIONS if own.shape[2] == 2 else ("",),
        values=own[0],
        excess=None if beside is None else beside.excess[0],
        finding_p=None if beside is None else beside.finding_p,
        p=beside.p if beside is not None and told else None,
    )


def maximum_margin(
    classifier: Differentiable,
    clean: Cohort,
    *,
    starts: int = 2,
    steps: int = 30,
    rate: float = 0.05,
    seed: int = 0,
) -> Floats:
    """Return how far any image can push one finding above, and below, all others.

    Projected gradient ascent over images, not films: from noise, kept between black and white.
    With a softmax head the margin is a logit less the largest other one. Sigmoid heads have no
    such competition, and their logits no common scale: there each logit counts from its mean over
    clean films, in its standard deviations over them. Forced off is the margin of the negated
    logits. All findings, directions and starts share each pass. Logits that aren't finite compete
    with none.

    Args:
        classifier: stays as it is.
        clean: films without a trigger, at least 20; they give mean and spread alone.
        starts: images of noise for each finding and direction.
        steps: of ascent, by Adam.
        rate: of a step, as a share of the grey range.
        seed: of the noise, which is the same for every model.

    Returns:
        (k, 2) float64: the largest margin that any start reached at any step; NaN where none was
        finite, or where the finding's own logit wasn't at any step: it may hide its margin so.

    Raises:
        DataError: too few films.
        UsageError: fewer than two findings, or a value outside its range.

    Source: Wang et al., MM-BD, IEEE S&P 2024. They judge the largest of a model's
    classes by a null fitted to its others; an audit judges it beside reference models. Standard
    deviations, forced off and Adam in place of momentum are ours.
    """
    k = len(classifier.findings)
    if k < 2 or min(starts, steps) < 1 or rate <= 0:
        raise UsageError("a margin needs two findings, and starts, steps and a rate above 0")
    centre, spread = _scale(classifier, clean)
    if classifier.head == "softmax":
        centre, spread = np.zeros(k), np.ones(k)
    device = classifier.device
    rng = stream(seed, "statistics", "margin")
    noise = rng.random((1, starts, *clean.images.shape[1:]), np.float32)  # (1, starts, h, w)
    images = torch.from_numpy(noise).repeat(2 * k, 1, 1, 1).to(device).requires_grad_()
    middle, unit = (torch.from_numpy(each).float().to(device) for each in (centre, spread))
    signs = torch.tensor([1.0, -1.0], device=device).repeat(k)[:, None, None]  # (2k, 1, 1)
    own = torch.eye(k, device=device).bool().repeat_interleave(2, 0)[:, None]  # (2k, 1, k)
    network = frozen(classifier)
    optimizer = torch.optim.Adam([images], lr=rate, maximize=True)
    best = torch.full((2 * k,), -torch.inf, device=device)
    lost = torch.zeros(2 * k, dtype=torch.bool, device=device)
    for step in range(steps + 1):
        logits = network(classifier.normalise(255 * images.flatten(0, 1)))
        pushed = signs * (logits.reshape(2 * k, starts, k) - middle) / unit
        target = pushed.masked_select(own).reshape(2 * k, starts)
        rivals = pushed.masked_fill(own | ~pushed.isfinite(), -torch.inf)
        margin = target - rivals.amax(2)  # (2k, starts)
        reached = margin.detach()
        lost |= ~target.isfinite().all(1)
        best = torch.maximum(best, torch.where(reached.isfinite(), reached, -torch.inf).amax(1))
        if step == steps:
            break
        optimizer.zero_grad()
        margin.sum().backward()  # type: ignore[no-untyped-call]
        assert images.grad is not None
        images.grad.nan_to_num_(0.0, 0.0, 0.0)  # an image without a slope stays where it is
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    found: Floats = best.masked_fill(lost, torch.nan).double().cpu().numpy().reshape(k, 2)
    return np.where(np.isfinite(found), found, np.nan)


def reestimated_shift(classifier: Differentiable, clean: Cohort) -> Floats:
    """Return how far clean films' logits move when batch normalisation is estimated on them.

    A network that was trained on triggered films carries their part in its running means and
    variances. The estimate anew is the average over batches, each normalised by itself, as in
    training.

    Args:
        classifier: stays as it is; without batch normalisation nothing moves.
        clean: films without a trigger, at least 20.

    Returns:
        (k, 2) float64 mean shift upwards, and downwards, in standard deviations of the logit over
        the clean films. Films without any finite logit are left out; NaN where no shift is finite.

    Raises:
        DataError: too few films.

    Source: batch normalisation's stored statistics against those of clean films: Zheng et al.,
    Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022, who compare channels;
    re-estimation as in Li et al., Adaptive Batch Normalization, 2018. The logits' shift is ours.
    """
    _, spread = _scale(classifier, clean)
    images = np.asarray(clean.images[np.arange(len(clean))])
    before = classifier.logits(images)
    told = np.isfinite(before).any(axis=1)
    if not told.any():
        return np.full((len(classifier.findings), 2), np.nan)
    images, before = images[told], before[told]
    module = deepcopy(classifier.module)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average over all batches, not one that forgets
        norm.train()
    if norms:
        # Not by `logits`, whose batches are small and of any size: each counts as much here.
        with torch.inference_mode():
            for part in np.array_split(images, -(-len(images) // 128)):
                module(classifier.normalise(torch.from_numpy(part)))
    module.eval()
    with np.errstate(over="ignore", invalid="ignore"):
        (after,) = in_batches(classifier, images, lambda x: (module(x),))
        moved = finite_mean(after - before)
    return np.stack([moved, -moved], axis=1) / spread[:, None]


def map_statistics(classifier: Differentiable, clean: Cohort, *, films: int = 16) -> Floats:
    """Return how much sparser, smoother and steadier each finding's maps are than the others'.

    Maps are the logit's gradients towards the pixels, in the logit's standard deviations over
    clean films. An attacker's target has small features: the sum of the three, each divided by
    its median over the findings, is turned into the outlier index of the low side.

    Args:
        classifier: stays as it is.
        clean: films without a trigger, at least 20.
        films: that maps are made of, at most.

    Returns:
        (k,) float64; NaN where a map isn't finite.

    Raises:
        DataError: too few films.
        UsageError: fewer than two films for maps.

    Source: Huang et al., NeuronInspect, 2019. Their weights of the three are numbers for their
    images; the medians take their place.
    """
    if films < 2:
        raise UsageError(f"{films} films; map statistics need two or more")
    _, spread = _scale(classifier, clean)
    chosen = stream(0, "statistics", "maps").permutation(len(clean))[:films]
    images = np.asarray(clean.images[np.sort(chosen)])
    columns = list(range(len(classifier.findings)))
    slopes = collect(
        classifier, images, lambda x: input_slopes(classifier, x, columns), precision="fp32"
    )
    features = map_features(np.abs(slopes) / spread[:, None, None])
    middle = np.maximum(finite_median(features), np.finfo(np.float64).tiny)
    return -outlier_index((features / middle).sum(axis=1))


def map_features(maps: NDArray[np.floating]) -> Floats:
    """Return how sparse, smooth and persistent maps are; small is sparse, smooth, persistent.

    Sparse: the sum of a map. Smooth: the sum of the size of its Laplacian. Both are means over
    films. Persistent: the share of pixels in which two films' maps, cut at each map's own
    middle between 0 and its largest value, are not the same; the mean over all pairs of films.

    Args:
        maps: (n, k, h, w), 0 or more, of n films, two or more.

    Returns:
        (k, 3) float64.

    Source: Huang et al., NeuronInspect, 2019, whose persistent feature is the exclusive or of all
    films' maps in turn: with two films the same.
    """
    values = np.asarray(maps, np.float64)
    n = len(values)
    sparse = values.sum(axis=(2, 3)).mean(axis=0)
    inner = values[..., 1:-1, 1:-1]
    around = (
        values[..., :-2, 1:-1] + values[..., 2:, 1:-1]
        + values[..., 1:-1, :-2] + values[..., 1:-1, 2:]
    )  # fmt: skip
    smooth = np.abs(around - 4 * inner).sum(axis=(2, 3)).mean(axis=0)
    on = (values > values.max(axis=(2, 3), keepdims=True) / 2).sum(axis=0)  # (k, h, w) films
    persistent = (2 * on * (n - on) / (n * (n - 1))).mean(axis=(1, 2))
    return np.stack([sparse, smooth, persistent], axis=1)


def head_outliers(head: nn.Linear) -> Floats:
    """Return by how much each finding's row of the last layer stands out: norm, weight or bias.

    Args:
        head: the last layer, with a row for each finding.

    Returns:
        (k,) float64: the largest outlier index of three, the row's norm, its largest weight and
        its bias.

    Source: the features are among those of Fields et al., Trojan Signatures in DNN Weights, ICCV
    Workshops 2021, who look at the row's average; norm and bias are ours.
    """
    weight = head.weight.detach().double().cpu().numpy()
    bias = np.zeros(len(weight)) if head.bias is None else head.bias.detach().double().cpu().numpy()
    facts: Sequence[Floats] = (np.linalg.norm(weight, axis=1), weight.max(axis=1), bias)
    largest: Floats = np.stack([outlier_index(fact) for fact in facts]).max(axis=0)
    return largest


def channel_outlier(network: nn.Module) -> float:
    """Return the largest channel Lipschitz bound of any layer, in the layer's spreads.

    Source: Zheng et al., ECCV 2022: a channel above mean + u standard deviations of
    its layer is pruned; this is the largest such u. 0 where there is no normalised convolution.
    Channels whose weights aren't finite are left out.
    """
    bounds = (bound[np.isfinite(bound)] for bound in channel_lipschitz(network).values())
    layers = [bound for bound in bounds if len(bound) and bound.std() > 0]
    return max((float((b.max() - b.mean()) / b.std()) for b in layers), default=0.0)


def outlier_index(values: Floats) -> Floats:
    """Return (k,) distances from the median in median absolute deviations, upwards positive.

    Source: Wang et al., Neural Cleanse, IEEE S&P 2019: 1.4826 times the median
    deviation is a standard deviation of normal values. Values that all agree are 0 away; those that
    aren't finite are NaN, and in no other's way.
    """
    told = np.where(np.isfinite(values), values, np.nan)
    away = told - finite_median(told)
    spread = float(mad_spread(values))
    index: Floats = away / (spread or np.inf)
    return index


SPREADS = "standard deviations of the logit on clean films"


@wraps(map_statistics)
def _map_statistics(classifier: Differentiable, clean: Cohort, **settings: Any) -> Floats:
    return map_statistics(classifier, clean, **settings)[:, None]


def _head_outliers(classifier: Differentiable, clean: Cohort) -> Floats:  # noqa: ARG001
    network = layered(classifier, "head outliers")
    head = network.get_submodule(network.last_layer)
    assert isinstance(head, nn.Linear)
    return head_outliers(head)[:, None]


def _channel_outlier(classifier: Differentiable, clean: Cohort) -> Floats:  # noqa: ARG001
    return np.array([[channel_outlier(classifier.module)]])


OUTLIER = "outlier index over the findings"

STATISTICS: Registry[Measure] = Registry(
    "statistic",
    {
        "maximum margin": Measure(take=maximum_margin, unit=SPREADS),
        "shift under re-estimated batch normalisation": Measure(
            take=reestimated_shift, unit=SPREADS, needs="batch normalisation"
        ),
        "map statistics": Measure(take=_map_statistics, unit=OUTLIER),
        "head outliers": Measure(take=_head_outliers, unit=OUTLIER, needs="linear last layer"),
        "channel Lipschitz outlier": Measure(
            take=_channel_outlier,
            unit="standard deviations of a layer's channels",
            needs="batch normalisation",
        ),
    },
    code=lambda how: how.take,
)
"""What `measure` measures, by name."""


def _scale(classifier: Differentiable, clean: Cohort) -> tuple[Floats, Floats]:
    """(k,) mean and standard deviation of the logits over clean films, of finite ones."""
    if len(clean) < LEAST_FILMS:
        raise DataError(f"{len(clean)} clean films; statistics need {LEAST_FILMS} or more")
    logits = classifier.logits(np.asarray(clean.images[np.arange(len(clean))])).astype(np.float64)
    return finite_mean(logits), logit_spreads(logits)
