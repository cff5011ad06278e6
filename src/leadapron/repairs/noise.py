"""Noise on batch normalisation that raises the error most, and masks of its channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from leadapron.repairs.session import Batch, Session

__all__ = ["Noise", "disturbed", "normalisations", "worst_noise"]


class Noise(NamedTuple):
    """Relative noise on one batch normalisation's weights and biases, each (channels,)."""

    weight: torch.Tensor
    bias: torch.Tensor


def normalisations(module: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Return the batch normalisations that have weights, by name."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.BatchNorm2d) and part.affine
    }


def disturbed(
    layers: Mapping[str, nn.BatchNorm2d],
    noise: Mapping[str, Noise],
    masks: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Return the layers' weights w (m + d) and biases b (1 + e), by their names in the network.

    Args:
        layers: the batch normalisations.
        noise: d and e by layer; none where it is left out.
        masks: m by layer; 1 where it is left out.
    """
    made = dict[str, torch.Tensor]()
    for name, layer in layers.items():
        mask = masks.get(name, torch.ones_like(layer.weight))
        if name in noise:
            mask = mask + noise[name].weight
            made[f"{name}.bias"] = layer.bias * (1 + noise[name].bias)
        made[f"{name}.weight"] = layer.weight * mask
    return made


def worst_noise(
    session: Session,
    batch: Batch,
    epsilon: float,
    steps: int,
    masks: Mapping[str, torch.Tensor],
) -> dict[str, Noise]:
    """Return noise within +-epsilon that raises the error on a batch.

    It begins at random and goes `steps` steps of epsilon / steps along the gradient's sign.

    Args:
        session: gives the student.
        batch: the films.
        epsilon: largest noise relative to weights and biases.
        steps: 1 or more.
        masks: of the channels; see `disturbed`.

    Source: Wu and Wang, Adversarial Neuron Pruning, NeurIPS 2021, arXiv 2110.14430, equation 3.
    Their code leaves the noise unclipped, within twice epsilon.
    """
    layers = normalisations(session.module)
    fixed = {name: mask.detach() for name, mask in masks.items()}
    noise = {
        name: Noise(
            *(
                torch.empty_like(part).uniform_(-epsilon, epsilon).requires_grad_()
                for part in (layer.weight.detach(), layer.bias.detach())
            )
        )
        for name, layer in layers.items()
    }
    for _ in range(steps):
        loss = session.loss(
            session.answers(batch.images, disturbed(layers, noise, fixed)), batch.labels
        )
        leaves = [value for each in noise.values() for value in each]
        slopes = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            for leaf, slope in zip(leaves, slopes, strict=True):
                leaf.add_(slope.sign(), alpha=epsilon / steps).clamp_(-epsilon, epsilon)
    return {name: Noise(*(value.detach() for value in each)) for name, each in noise.items()}
