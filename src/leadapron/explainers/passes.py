"""Shared code of explainers: batches, gradients of several findings in one pass, resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from leadapron.errors import UsageError
from leadapron.films.cohort import ImageArray, blocks
from leadapron.models.classifier import autocast, batch_size, refuse_not_finite
from leadapron.models.protocols import Differentiable, Floats

__all__ = ["Explainer", "collect", "enlarged", "finite", "input_slopes", "slopes"]

Explainer = Callable[[Differentiable, ImageArray, Sequence[str]], Floats]
"""(classifier, (n, h, w) images, k findings) -> (n, k, h, w) float32."""


def collect(
    classifier: Differentiable,
    images: ImageArray,
    maps: Callable[[torch.Tensor], torch.Tensor],
    *,
    findings: Sequence[str] | None = None,
    precision: Literal["bf16", "fp32"] | None = None,
) -> Floats:
    """Return `maps` of the normalised images, computed batch by batch.

    Args:
        classifier: its normalisation, device and precision are used.
        images: (n, h, w) uint8 or uint16.
        maps: (b, 1, h, w) normalised float32 -> (b, k, h', w').
        findings: names of the k maps, which must then be finite; without names, maps aren't
            checked.
        precision: precision of the convolutions; the classifier's if left out.

    Returns:
        (n, k, h', w') float32.

    Raises:
        UsageError: no images.
        DataError: maps that aren't finite, of findings that are named.
    """
    out: Floats | None = None
    n = images.shape[0]
    for rows in blocks(n, batch_size(images.shape)):
        with autocast(classifier.device, precision or classifier.precision):
            given = maps(classifier.normalise(torch.from_numpy(images[rows])))
        part = given.detach().float().cpu().numpy()
        if out is None:
            out = np.empty((n, *part.shape[1:]), np.float32)
        out[rows] = part
    if out is None:
        raise UsageError("no images; expected at least one")
    return out if findings is None else finite(out, findings)


def finite(maps: Floats, findings: Sequence[str]) -> Floats:
    """Return (n, k, h, w) maps unchanged.

    Raises:
        DataError: a named finding's map isn't finite, so its maximum is undefined.
    """
    refuse_not_finite(np.asarray(np.isfinite(maps).all(axis=(2, 3))), findings, "maps")
    return maps


def slopes(
    logits: torch.Tensor, columns: Sequence[int], at: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return d logit / d `at` for each column: one forward pass, one backward pass each.

    Gradients are taken only with respect to `at`; parameters get none.
    """
    return tuple(
        torch.autograd.grad(logits[:, column].sum(), at, retain_graph=True)[0] for column in columns
    )


def input_slopes(
    classifier: Differentiable, inputs: torch.Tensor, columns: Sequence[int]
) -> torch.Tensor:
    """Return (b, k, h, w) gradients of k logits with respect to (b, 1, h, w) normalised inputs."""
    inputs = inputs.detach().requires_grad_()
    found = slopes(classifier.module(inputs), columns, inputs)
    return torch.cat([slope.float() for slope in found], 1)


def enlarged(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return (n, k, h', w') maps at `size`, bilinearly."""
    return nn.functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
