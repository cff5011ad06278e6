"""Untrained networks with the same layers."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["untrained"]


M = TypeVar("M", bound=nn.Module)


def untrained(module: M) -> M:
    """Return a copy with each layer initialised as before training, by torch's generator.

    In layers without a reset method the weights are shuffled, so that only their scale is kept.

    Args:
        module: the network, which isn't changed.
    """
    fresh = copy.deepcopy(module)
    for part in fresh.modules():
        reset: Any = getattr(part, "reset_parameters", None) or getattr(
            part, "_reset_parameters", None
        )
        if reset is not None:
            reset()
            continue
        with torch.no_grad():
            for value in part.parameters(recurse=False):
                order = torch.randperm(value.numel()).to(value.device)
                value.copy_(value.flatten()[order].reshape(value.shape))
    return fresh
