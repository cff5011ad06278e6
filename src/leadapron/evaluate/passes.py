"""How many images go through networks, whoever sends them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

__all__ = ["Passes", "counted_passes"]

IMAGES = 4
"""Dimensions of a batch of images: (n, c, h, w)."""


@dataclass
class Passes:
    """Images that went through a network.

    Args:
        forwards: without gradients.
        trainings: with gradients, so that a backward pass could follow.
    """

    forwards: int = 0
    trainings: int = 0


@contextmanager
def counted_passes() -> Iterator[Passes]:
    """Count the images that go through networks in this process.

    Only the outermost module is counted, not its layers.

    Yields:
        The counts, which grow while the context is open.
    """
    passes, depth = Passes(), 0

    def before(_: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal depth
        first = given[0] if given else None
        if depth == 0 and isinstance(first, torch.Tensor) and first.ndim == IMAGES:
            if torch.is_grad_enabled():
                passes.trainings += len(first)
            else:
                passes.forwards += len(first)
        depth += 1

    def after(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    handles = (
        register_module_forward_pre_hook(before),
        register_module_forward_hook(after, always_call=True),
    )
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()
