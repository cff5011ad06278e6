"""Further statistics of a network, one number per finding, in addition to the sweep."""

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
from leadapron.models.odds import log_odds, odds_of
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
"""Name in place of a finding, for a statistic with one number per model."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Statistic:
    """One statistic of a model, compared with any references.

    Args:
        name: as in `STATISTICS`.
        unit: what the values are measured in.
        findings: the k that the rows stand for, or "the model" alone.
        directions: directions of the d columns: "added" and "removed", or "" if unknown.
        values: (k, d) float64, higher is more suspicious; NaN where the network's outputs or
            gradients aren't finite.
        excess: (k, d) excess over the references, in their spreads; None without references.
        finding_p: (k, d) p-values, corrected for this statistic's findings and directions, but not
            for the other statistics; None without references.
        p: p-value of the model by this statistic alone; None without references.
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
        """Return the finding and direction with the largest excess, or value without references.

        None if no value is finite.
        """
        ranked = self.values if self.excess is None else self.excess
        told = np.where(np.isfinite(ranked), ranked, -np.inf)
        row, column = np.unravel_index(int(told.argmax()), told.shape)
        return (self.findings[row], self.directions[column]) if np.isfinite(told).any() else None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Definition of a statistic.

    Args:
        take: (network, clean films, settings by keyword) -> (k, 2) or (k, 1); of the whole network
            (1, 1).
        unit: what it is measured in.
        needs: what a network must have for it.
        fewest: number of findings that it needs; one that compares findings needs three.
        whole: whether it gives one number for the whole network.
    """

    take: Callable[..., Floats]
    unit: str
    needs: Capability = "gradients"
    fewest: int = 1
    whole: bool = False

    @property
    def settings(self) -> Mapping[str, object]:
        """The default settings of `take`."""
        known = inspect.signature(self.take).parameters.values()
        return {each.name: each.default for each in known if each.kind is each.KEYWORD_ONLY}

    def lacking(self, classifier: Differentiable) -> str:
        """Return why it doesn't apply, in words that follow its name; "" if it does."""
        k = len(classifier.findings)
        if k < self.fewest:
            return f"needs {self.fewest} findings; the model has {k}"
        return lacking(classifier, self.needs)


def measure(classifier: Differentiable, clean: Cohort) -> Tables:
    """Return a network's `STATISTICS` by name: (k, 2) or (k, 1), or (1, 1) for the whole network.

    Statistics that don't apply to the network are left out; see `not_applicable`.

    Args:
        classifier: a network.
        clean: films without a trigger, at least 20.

    Raises:
        DataError: too few films.
    """
    return {
        name: how.take(classifier, clean)
        for name, how in STATISTICS.items()
        if not how.lacking(classifier)
    }


def not_applicable(classifier: Differentiable) -> dict[str, str]:
    """Return the reasons why some of `STATISTICS` don't apply to a network, by name."""
    reasons = {name: how.lacking(classifier) for name, how in STATISTICS.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def compare_statistics(
    findings: tuple[str, ...], own: Tables, others: Sequence[tuple[tuple[str, ...], Tables]] = ()
) -> tuple[Statistic, ...]:
    """Return a network's statistics, compared with those of reference networks.

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
            raise DataError(f"{lacking}: computed for the network or a reference, but not both")
    orders = [[theirs.index(finding) for finding in findings] for theirs, _ in others]

    def table(name: str) -> Floats:
        theirs = [
            tables[name] if STATISTICS[name].whole else tables[name][order]
            for order, (_, tables) in zip(orders, others, strict=True)
        ]
        return np.stack([own[name], *theirs])

    return tuple(_compared(name, STATISTICS[name], findings, table(name)) for name in own)


def _compared(name: str, how: Measure, findings: tuple[str, ...], tables: Floats) -> Statistic:
    """One statistic from (m + 1, k, d) values, the model's first."""
    own, others = tables[:1], tables[1:]
    beside: Comparison | None = compare(own, others[:, None]) if len(others) else None
    told = beside is not None and np.isfinite(beside.strongest)
    return Statistic(
        name=name,
        unit=how.unit,
        findings=(WHOLE,) if how.whole else findings,
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
    """Return the largest margin of one finding above, and below, all others over any image.

    It is found by projected gradient ascent over images instead of films, starting from noise and
    kept between black and white. With a softmax head the margin is a logit minus the largest other
    logit. Sigmoid heads have independent logits without a common scale, so each logit is
    standardised by its mean and standard deviation over clean films. Forced off is the margin of
    the negated logits. A single finding has no others: its margin is its standardised logit, that
    is, relative to a film of average suspicion. All findings, directions and starts share each
    pass. Logits that aren't finite are ignored.

    Args:
        classifier: the classifier, unchanged.
        clean: films without a trigger, at least 20; they only give mean and spread.
        starts: number of noise images for each finding and direction.
        steps: steps of Adam.
        rate: step size, as a share of the grey range.
        seed: seed of the noise, which is the same for every model.

    Returns:
        (k, 2) float64: the largest margin that any start reached at any step; NaN if none was
        finite, or if the finding's own logit ever wasn't, which could hide its margin.

    Raises:
        DataError: too few films.
        UsageError: a value outside its range.

    Source: Wang et al., MM-BD, IEEE S&P 2024. They test the largest of a model's classes against a
    null distribution fitted to its others; an audit compares it with reference models. Standard
    deviations, forced off and Adam in place of momentum are ours.
    """
    k = len(classifier.findings)
    if min(starts, steps) < 1 or rate <= 0:
        raise UsageError("a margin needs starts, steps and a rate above 0")
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
        margin = target  # (2k, starts)
        if k > 1:
            margin = target - pushed.masked_fill(own | ~pushed.isfinite(), -torch.inf).amax(2)
        reached = margin.detach()
        lost |= ~target.isfinite().all(1)
        best = torch.maximum(best, torch.where(reached.isfinite(), reached, -torch.inf).amax(1))
        if step == steps:
            break
        optimizer.zero_grad()
        margin.sum().backward()  # type: ignore[no-untyped-call]
        assert images.grad is not None
        images.grad.nan_to_num_(0.0, 0.0, 0.0)  # no step without a finite gradient
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    found: Floats = best.masked_fill(lost, torch.nan).double().cpu().numpy().reshape(k, 2)
    return np.where(np.isfinite(found), found, np.nan)


def reestimated_shift(classifier: Differentiable, clean: Cohort) -> Floats:
    """Return the shift of clean films' log-odds when batch normalisation is re-estimated on them.

    The running means and variances of a network that was trained on triggered films contain their
    contribution. The new estimate is the average over batches, each normalised by itself, as in
    training.

    Args:
        classifier: the classifier, unchanged; without batch normalisation the shift is 0.
        clean: films without a trigger, at least 20.

    Returns:
        (k, 2) float64 mean shift upwards, and downwards, in standard deviations of the logit over
        the clean films. Films without any finite logit are left out; NaN if no shift is finite.

    Raises:
        DataError: too few films.

    Source: batch normalisation's stored statistics against those of clean films: Zheng et al.,
    Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022, who compare channels;
    re-estimation as in Li et al., Adaptive Batch Normalization, 2018. The logits' shift is ours.
    """
    _refuse_few(clean)
    images = np.asarray(clean.images[np.arange(len(clean))])
    before = odds_of(classifier, images)
    spread = logit_spreads(before)
    told = np.isfinite(before).any(axis=1)
    if not told.any():
        return np.full((len(classifier.findings), 2), np.nan)
    images, before = images[told], before[told]
    module = deepcopy(classifier.module)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    if norms:
        # Not by `logits`, whose batches are small and differ in size: here each has equal weight.
        with torch.inference_mode():
            for part in np.array_split(images, -(-len(images) // 128)):
                module(classifier.normalise(torch.from_numpy(part)))
    module.eval()
    with np.errstate(over="ignore", invalid="ignore"):
        (after,) = in_batches(classifier, images, lambda x: (log_odds(module(x), classifier.head),))
        moved = finite_mean(after - before)
    return np.stack([moved, -moved], axis=1) / spread[:, None]


def map_statistics(classifier: Differentiable, clean: Cohort, *, films: int = 16) -> Floats:
    """Return how much sparser, smoother and more persistent each finding's maps are than others'.

    Maps are the logit's gradients with respect to the pixels, in the logit's standard deviations
    over clean films. An attacker's target has small values of all three features. Their sum, each
    divided by its median over the findings, gives the outlier index on the low side.

    Args:
        classifier: the classifier, unchanged.
        clean: films without a trigger, at least 20.
        films: most films for maps.

    Returns:
        (k,) float64; NaN where a map isn't finite.

    Raises:
        DataError: too few films.
        UsageError: fewer than two films for maps.

    Source: Huang et al., NeuronInspect, 2019. Their weights of the three features are specific to
    their images; here the medians replace them.
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
    """Return sparsity, smoothness and persistence of maps; small values mean more of each.

    Sparsity is the sum of a map, smoothness the sum of its Laplacian's magnitude; both are means
    over films. Persistence is the share of pixels in which two films' maps, thresholded at half of
    each map's maximum, differ; it is the mean over all pairs of films.

    Args:
        maps: (n, k, h, w), 0 or more, of n films, two or more.

    Returns:
        (k, 3) float64.

    Source: Huang et al., NeuronInspect, 2019, whose persistence is the exclusive or of all films'
    maps in turn, which is the same for two films.
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
    """Return the outlier index of each finding's row of the last layer: norm, weight or bias.

    Args:
        head: the last layer, with one row per finding.

    Returns:
        (k,) float64: the largest of three outlier indices, of the row's norm, its largest weight
        and its bias.

    Source: after Fields et al., Trojan Signatures in DNN Weights, ICCV Workshops 2021, who use the
    row's average; norm and bias are ours.
    """
    weight = head.weight.detach().double().cpu().numpy()
    bias = np.zeros(len(weight)) if head.bias is None else head.bias.detach().double().cpu().numpy()
    facts: Sequence[Floats] = (np.linalg.norm(weight, axis=1), weight.max(axis=1), bias)
    largest: Floats = np.stack([outlier_index(fact) for fact in facts]).max(axis=0)
    return largest


def channel_outlier(network: nn.Module) -> float:
    """Return the largest channel Lipschitz bound of any layer, in the layer's spreads.

    Source: Zheng et al., ECCV 2022: a channel above mean + u standard deviations of
    its layer is pruned; this is the largest such u. It is 0 without a normalised convolution.
    Channels with weights that aren't finite are left out.
    """
    bounds = (bound[np.isfinite(bound)] for bound in channel_lipschitz(network).values())
    layers = [bound for bound in bounds if len(bound) and bound.std() > 0]
    return max((float((b.max() - b.mean()) / b.std()) for b in layers), default=0.0)


def outlier_index(values: Floats) -> Floats:
    """Return (k,) distances from the median in median absolute deviations, upwards positive.

    Source: Wang et al., Neural Cleanse, IEEE S&P 2019: 1.4826 times the median
    deviation is a standard deviation of normal values. If all values agree, distances are 0; values
    that aren't finite give NaN and don't affect others.
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
        "map statistics": Measure(take=_map_statistics, unit=OUTLIER, fewest=3),
        "head outliers": Measure(
            take=_head_outliers, unit=OUTLIER, needs="linear last layer", fewest=3
        ),
        "channel Lipschitz outlier": Measure(
            take=_channel_outlier,
            unit="standard deviations of a layer's channels",
            needs="batch normalisation",
            whole=True,
        ),
    },
    code=lambda how: how.take,
)
"""All statistics by name."""


def _refuse_few(clean: Cohort) -> None:
    if len(clean) < LEAST_FILMS:
        raise DataError(f"{len(clean)} clean films; statistics need {LEAST_FILMS} or more")


def _scale(classifier: Differentiable, clean: Cohort) -> tuple[Floats, Floats]:
    """(k,) mean and standard deviation of the finite logits over clean films."""
    _refuse_few(clean)
    logits = classifier.logits(np.asarray(clean.images[np.arange(len(clean))])).astype(np.float64)
    return finite_mean(logits), logit_spreads(logits)
