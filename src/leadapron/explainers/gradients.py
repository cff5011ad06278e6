"""Maps made from the logit's gradient with respect to the pixels, at the image's resolution."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import nn

from leadapron.errors import UnknownNameError, UsageError
from leadapron.explainers.passes import collect, input_slopes
from leadapron.films.cohort import ImageArray
from leadapron.models.protocols import Differentiable, Floats, columns_of, differentiable

__all__ = [
    "BASELINES",
    "from_black",
    "from_blurred",
    "from_mean",
    "guided_backprop",
    "integrated_gradients",
    "smooth_grad",
    "xplain",
]

Baseline = Literal["black", "blurred", "mean"]

PRECISION: Literal["fp32"] = "fp32"
"""Precision of gradients with respect to pixels. bf16 rounds them coarsely, and its backward pass
is slower on processors without matrix units (ten times, for resnet9)."""

BLUR = 1 / 8
"""Standard deviation of the blurred baseline as a share of the side; it removes small marks."""


def integrated_gradients(
    classifier: Differentiable,
    images: ImageArray,
    findings: Sequence[str],
    *,
    baseline: Baseline = "black",
    steps: int = 6,
) -> Floats:
    """Integrated gradients: the difference to a baseline, times the mean gradient along the path.

    A pixel that equals the baseline always gets 0, so a black trigger is invisible with the
    baseline "black".

    Args:
        classifier: gives gradients.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        baseline: "black" (grey level 0), the film "blurred" with a standard deviation of an
            eighth of its side, or its "mean" grey level.
        steps: points on the path, 1 or more, placed by the Gauss-Legendre rule; more points
            approximate the integral better.

    Returns:
        (n, k, h, w) float32; the sum over a map approximates the film's logit minus the
        baseline's. Negative where a pixel is evidence against the finding.

    Raises:
        DataError: maps that aren't finite.
        UnknownNameError: no such finding or baseline.
        UsageError: fewer than one step, or no images.

    Source: Sundararajan et al., ICML 2017, equation 1; equal to captum's IntegratedGradients,
    but all findings share the forward passes.
    """
    if baseline not in BASELINES:
        raise UnknownNameError("baseline", baseline, BASELINES)
    _at_least_one("steps", steps)
    columns = columns_of(classifier, findings)
    shares, weights = _gauss_legendre(steps)

    def maps(batch: torch.Tensor) -> torch.Tensor:
        start = BASELINES[baseline](classifier, batch)
        way = batch - start
        points = (start + share * way for share in shares)
        return way * _weighted_slopes(classifier, points, weights, columns)

    return collect(classifier, images, maps, findings=findings, precision=PRECISION)


from_black = partial(integrated_gradients, baseline="black")
from_blurred = partial(integrated_gradients, baseline="blurred")
from_mean = partial(integrated_gradients, baseline="mean")


def xplain(
    classifier: Differentiable,
    images: ImageArray,
    findings: Sequence[str],
    *,
    steps: int = 6,
    share: float = 0.25,
    noise: float = 0.1,
    seed: int = 0,
) -> Floats:
    """Integrated gradients with a second baseline along the path, and noise.

    This is NOT the method of the paper it is named after. We know only the summary of Xplain: it
    improves integrated gradients by an extra baseline kept along the path, by calibrated noise in
    the interpolation, and by a sensitivity analysis. The summary gives no details. This function is
    the simplest reading of the first two; the sensitivity analysis is left out. Its results don't
    represent the paper's method.

    Each point is (1 - share) (b + a (x - b)) + share e + noise, with the film x, a black image
    b, the blurred film e, and a from 0 to 1.

    Args:
        classifier: gives gradients.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        steps: points on the path, 1 or more.
        share: of the second baseline in each point, 0 to less than 1.
        noise: standard deviation of the noise as a share of the film's own standard deviation,
            which is how it is calibrated here; 0 or more.
        seed: of the noise, which is the same for all films and findings.

    Returns:
        (n, k, h, w) float32, in units of the logit. Negative where a pixel is evidence against the
        finding.

    Raises:
        DataError: maps that aren't finite.
        UnknownNameError: no such finding.
        UsageError: a value outside its range, or no images.

    Source: after the summary of Kumari et al., "Xplain: Analyzing Invisible Correlations in Model
    Explanation", USENIX Security 2024.
    """
    _at_least_one("steps", steps)
    if not 0 <= share < 1 or noise < 0:
        raise UsageError(f"share {share}, noise {noise}; expected 0 <= share < 1, noise >= 0")
    columns = columns_of(classifier, findings)
    shares, weights = _gauss_legendre(steps)

    def maps(batch: torch.Tensor) -> torch.Tensor:
        start = BASELINES["black"](classifier, batch)
        way = batch - start
        kept = share * BASELINES["blurred"](classifier, batch)
        level = noise * batch.std((2, 3), keepdim=True)
        fields = _noise(steps, batch, seed)
        points = (
            (1 - share) * (start + a * way) + kept + level * field
            for a, field in zip(shares, fields, strict=True)
        )
        return (1 - share) * way * _weighted_slopes(classifier, points, weights, columns)

    return collect(classifier, images, maps, findings=findings, precision=PRECISION)


def smooth_grad(
    classifier: Differentiable,
    images: ImageArray,
    findings: Sequence[str],
    *,
    samples: int = 6,
    noise: float = 0.1,
    seed: int = 0,
) -> Floats:
    """SmoothGrad: the size of the gradient's mean over noisy copies of the film.

    Args:
        classifier: gives gradients.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        samples: noisy copies, 1 or more.
        noise: its standard deviation as a share of the whole grey range, 0 or more.
        seed: of the noise, which is the same for all films and findings: they stay comparable,
            and a film's map does not depend on the others.

    Returns:
        (n, k, h, w) float32, 0 or more: the absolute change of the logit if a pixel went through
        the whole grey range at the present slope.

    Raises:
        DataError: maps that aren't finite.
        UnknownNameError: no such finding.
        UsageError: a value outside its range, or no images.

    Source: Smilkov et al., arXiv 1706.03825; their absolute value is taken after the mean, as in
    captum's NoiseTunnel over Saliency(abs=False).
    """
    _at_least_one("samples", samples)
    if noise < 0:
        raise UsageError(f"noise {noise}; expected 0 or more")
    columns = columns_of(classifier, findings)

    def maps(batch: torch.Tensor) -> torch.Tensor:
        level = noise / classifier.std
        points = (batch + level * field for field in _noise(samples, batch, seed))
        mean = _weighted_slopes(classifier, points, [1 / samples] * samples, columns)
        return mean.abs() / classifier.std

    return collect(classifier, images, maps, findings=findings, precision=PRECISION)


def guided_backprop(
    classifier: Differentiable, images: ImageArray, findings: Sequence[str]
) -> Floats:
    """Guided backpropagation: each ReLU passes only the positive part of the gradient back.

    It is known to show edges that hardly depend on the finding or the weights (Adebayo et al.,
    NeurIPS 2018). It is included for comparison.

    Args:
        classifier: gives gradients; all its ReLUs are modules.
        images: (n, h, w) uint8 or uint16.
        findings: k names.

    Returns:
        (n, k, h, w) float32, 0 or more, the size of the guided gradient; its level is not the
        logit's.

    Raises:
        DataError: maps that aren't finite.
        UnknownNameError: no such finding.
        UsageError: no ReLU layers, or no images.

    Source: Springenberg et al., ICLR workshop 2015; its absolute value equals that of captum's
    GuidedBackprop over the whole grey range.
    """
    differentiable(classifier, "guided-backprop", "ReLU layers")
    columns = columns_of(classifier, findings)

    def maps(batch: torch.Tensor) -> torch.Tensor:
        return input_slopes(classifier, batch, columns).abs() / classifier.std

    with _guided(classifier.module):
        return collect(classifier, images, maps, findings=findings, precision=PRECISION)


def _black(classifier: Differentiable, batch: torch.Tensor) -> torch.Tensor:
    return torch.full_like(batch, -classifier.mean / classifier.std)


def _mean(_: Differentiable, batch: torch.Tensor) -> torch.Tensor:
    return batch.mean((2, 3), keepdim=True).expand_as(batch)


def _blurred(_: Differentiable, batch: torch.Tensor) -> torch.Tensor:
    """Gaussian blur, cut off at two standard deviations, with mirrored edges."""
    deviation = BLUR * batch.shape[-1]
    reach = math.ceil(2 * deviation)
    at = torch.arange(-reach, reach + 1, device=batch.device, dtype=batch.dtype)
    kernel = torch.exp(-0.5 * (at / deviation).square())
    kernel = kernel / kernel.sum()
    with torch.autocast(batch.device.type, enabled=False):
        wide = nn.functional.pad(batch, (reach,) * 4, mode="reflect")
        rows = nn.functional.conv2d(wide, kernel[None, None, None, :])
        return nn.functional.conv2d(rows, kernel[None, None, :, None])


BASELINES: dict[str, Callable[[Differentiable, torch.Tensor], torch.Tensor]] = {
    "black": _black,
    "blurred": _blurred,
    "mean": _mean,
}
"""Baselines by name: (classifier, (b, 1, h, w) normalised) -> the same shape."""


def _gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """Points between 0 and 1, and weights that add up to 1."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return ((1 + points) / 2).tolist(), (weights / 2).tolist()


def _weighted_slopes(
    classifier: Differentiable,
    points: Iterable[torch.Tensor],
    weights: Sequence[float],
    columns: Sequence[int],
) -> torch.Tensor:
    parts = zip(points, weights, strict=True)
    first, weight = next(parts)
    total = weight * input_slopes(classifier, first, columns)
    for point, weight in parts:
        total += weight * input_slopes(classifier, point, columns)
    return total


def _noise(fields: int, batch: torch.Tensor, seed: int) -> torch.Tensor:
    """Standard normal (fields, h, w), drawn on the processor so that devices agree."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(fields, *batch.shape[2:], generator=generator).to(batch.device)


@contextlib.contextmanager
def _guided(network: nn.Module) -> Iterator[None]:
    """Let only positive gradients through every ReLU."""

    def clamp(gradient: torch.Tensor) -> torch.Tensor:
        return gradient.clamp(min=0)

    def before(_: nn.Module, given: tuple[torch.Tensor]) -> torch.Tensor:
        # A copy, because MONAI's ReLUs overwrite their input, and the hook must affect only the
        # ReLU where other layers read that input too.
        copy = given[0].clone()
        if copy.requires_grad:
            copy.register_hook(clamp)  # type: ignore[no-untyped-call]
        return copy

    hooks = [
        part.register_forward_pre_hook(before)
        for part in network.modules()
        if isinstance(part, nn.ReLU)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{name} {value}; expected 1 or more")
