"""Statistics of weights without any film: channels that amplify."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from leadapron.detect.models.stamps import Floats

__all__ = ["channel_lipschitz"]


def channel_lipschitz(network: nn.Module) -> dict[str, Floats]:
    """Return an upper bound of each channel's amplification of its input, for each layer.

    After a convolution it is the largest singular value of a channel's kernels, (inputs, h w),
    times |gamma| / sqrt(var + eps) of the following batch normalisation. If batch normalisation
    comes first, as in DenseNet, it is its factor times that of the kernels that read the channel,
    (outputs, h w), in the next convolution.

    Args:
        network: convolutions and batch normalisations, in order of execution.

    Returns:
        By the name of each batch normalisation, (channels,) float64, NaN where weights aren't
        finite. A batch normalisation without an adjacent convolution of as many channels is left
        out.

    Source: Zheng et al., Data-free Backdoor Removal based on Channel Lipschitzness, ECCV 2022,
    equation 8, for convolution before normalisation; the other order is ours.
    """
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    parts = [(name, part) for name, part in network.named_modules() if isinstance(part, kinds)]
    found: dict[str, Floats] = {}
    for (before, first), (after, second) in pairwise(parts):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            name, norm, kernels = after, second, first.weight
        elif isinstance(first, nn.BatchNorm2d) and isinstance(second, nn.Conv2d):
            name, norm, kernels = before, first, second.weight.transpose(0, 1)
        else:
            continue
        if name not in found and norm.num_features == len(kernels):
            found[name] = _factor(norm) * _norms(kernels)
    return found


def _factor(norm: nn.BatchNorm2d) -> Floats:
    assert norm.running_var is not None
    scale = torch.ones(norm.num_features) if norm.weight is None else norm.weight.detach()
    factor: Floats = (scale.abs() / (norm.running_var + norm.eps).sqrt()).double().cpu().numpy()
    return factor


def _norms(weight: torch.Tensor) -> Floats:
    """(c,) largest singular value of each (inputs, h w) matrix of (c, inputs, h, w)."""
    kernels = weight.detach().double().flatten(2)
    told = kernels.isfinite().flatten(1).all(1)
    found = torch.linalg.matrix_norm(kernels.nan_to_num(0.0, 0.0, 0.0), 2)
    norms: Floats = found.where(told, torch.nan).cpu().numpy()
    return norms
