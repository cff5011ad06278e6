"""Networks of the same layers whose weights were never trained."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["untrained"]


M = TypeVar("M", bound=nn.Module)


def untrained(module: M) -> M:
    """Return a copy with each layer as it is before training, drawn by torch's generator.

    Layers that can't reset themselves get their own numbers in another order, so that scales stay
    and nothing else does.

    Args:
        module: stays as it is.
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
