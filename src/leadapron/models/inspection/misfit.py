"""How well films fit the means and variances that a network keeps from its training.

Batch normalisation keeps the mean and variance of every channel over the training films. With
another size or normalisation than in training, those of the same films differ: labels aren't
needed to see it. It needs a white box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadapron.films.cohort import ImageArray
from leadapron.models.classifier import in_batches
from leadapron.models.protocols import BlackBox, Differentiable, Floats

__all__ = ["Kept", "kept_by", "read"]

MOST = 10.0
"""Largest divergence of a channel that counts: a few dead channels don't decide."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What a network's batch normalisation keeps, over all its layers.

    Args:
        mean: (c,) running means.
        var: (c,) running variances, with the layer's epsilon.
        share: (c,) weight of each channel: layers count equally. They sum to 1.
    """

    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    share: NDArray[np.float64]

    def misfit(self, moments: NDArray[np.float32], weights: NDArray[np.float64]) -> float:
        """Return the divergence of weighted films from what was kept.

        Args:
            moments: (2, n, c) of `read`.
            weights: (n,) of the films.
        """
        first, second = np.einsum("n,knc->kc", weights / weights.sum(), moments, dtype=np.float64)
        var = np.maximum(second - first**2, 0) + 1e-5
        ratio = (var + (first - self.mean) ** 2) / self.var
        each = 0.5 * (np.log(self.var / var) + ratio - 1)
        return float(np.minimum(each, MOST) @ self.share)


def kept_by(classifier: BlackBox) -> Kept | None:
    """Return what a network keeps; None if it has no batch normalisation that can be read."""
    layers = _layers(classifier)
    if not layers:
        return None
    means, variances, shares = [], [], []
    for layer in layers:
        mean, var = layer.running_mean, layer.running_var
        if mean is None or var is None:
            return None
        means.append(mean.double().cpu().numpy())
        variances.append(var.double().cpu().numpy() + layer.eps)
        shares.append(np.full(len(mean), 1 / len(mean) / len(layers)))
    return Kept(*(np.concatenate(each) for each in (means, variances, shares)))


def read(classifier: Differentiable, images: ImageArray) -> tuple[Floats, NDArray[np.float32]]:
    """Return logits, and the moments of what reaches batch normalisation, in one pass.

    Args:
        classifier: one for which `kept_by` isn't None.
        images: (n, h, w) uint8 or uint16.

    Returns:
        (n, k) logits, and (2, n, c) mean and mean square of each channel of each layer, by film.
    """
    layers = _layers(classifier)
    taken: dict[nn.Module, torch.Tensor] = {}

    def look(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        maps = given[0].float().flatten(2) if given[0].ndim > 2 else given[0].float()[..., None]
        taken[layer] = torch.stack([maps.mean(2), maps.square().mean(2)], 1)  # (n, 2, c)

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]

    def run(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        taken.clear()
        logits = classifier.module(batch)
        return logits, torch.cat([taken[layer] for layer in layers], 2)

    try:
        logits, moments = in_batches(classifier, images, run)
    finally:
        for hook in hooks:
            hook.remove()
    return logits, np.ascontiguousarray(moments.transpose(1, 0, 2))


def _layers(classifier: BlackBox) -> list[nn.BatchNorm2d]:
    if not isinstance(classifier, Differentiable):
        return []
    return [part for part in classifier.module.modules() if isinstance(part, nn.BatchNorm2d)]
