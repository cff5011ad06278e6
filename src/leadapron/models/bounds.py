"""ReLUs with an upper bound for each channel: layers that a repair adds to a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["BOUNDED", "Bounded", "bounded", "channel_axis", "unbounded"]

BOUNDED = " with bounds"
"""Suffix of the name of an architecture with bounded ReLUs."""

UNBOUNDED = torch.finfo(torch.float32).max
"""A bound without effect; it is finite, so that a file can hold it."""

M = TypeVar("M", bound=nn.Module)


class Bounded(nn.Module):
    """A ReLU with an upper bound for each channel.

    The bounds are buffers, `bound64` for maps of 64 channels, so that files hold them and no
    training changes them.

    Args:
        relu: the module to bound.
        channels: numbers of channels of its maps; it has bounds for each number.
    """

    def __init__(self, relu: nn.Module, channels: Iterable[int]) -> None:
        super().__init__()
        self.relu = relu
        for count in sorted(set(channels)):
            self.register_buffer(f"bound{count}", torch.full((count,), UNBOUNDED))

    def bounds(self) -> dict[int, torch.Tensor]:
        """Return the (channels,) bounds by number of channels; negative bounds count as 0."""
        return {len(value): value for value in self._buffers.values() if value is not None}

    def reset_parameters(self) -> None:
        """Remove the bounds."""
        for value in self.bounds().values():
            value.fill_(UNBOUNDED)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the smaller of the ReLU and its channel's bound."""
        out: torch.Tensor = self.relu(x)
        axis = channel_axis(out)
        shape = [1] * out.ndim
        shape[axis] = -1
        bound = self.bounds()[out.shape[axis]].clamp(min=0)
        return out.minimum(bound.reshape(shape).to(out.dtype))


def channel_axis(maps: torch.Tensor) -> int:
    """Return the axis of the channels of (n, c), (n, c, h, w) or (n, tokens, c)."""
    return 1 if maps.ndim in (2, 4) else maps.ndim - 1


def unbounded(architecture: str) -> str:
    """Return the name of the architecture without bounds."""
    return architecture.removesuffix(BOUNDED)


def bounded(network: M, images: torch.Tensor) -> M:
    """Put bounds that bound nothing behind a network's ReLUs, where there are none; return it.

    Args:
        network: is changed. A ReLU that is run several times has one layer of bounds.
        images: (n, 1, h, w) that it takes, to see on how many channels each ReLU is run.
    """
    places = [
        (parent, name, child)
        for parent in network.modules()
        if not isinstance(parent, Bounded)
        for name, child in parent._modules.items()
        if isinstance(child, nn.ReLU)
    ]
    run: dict[nn.Module, set[int]] = {relu: set() for _, _, relu in places}

    def watch(relu: nn.Module, _: Any, out: torch.Tensor) -> None:
        run[relu].add(out.shape[channel_axis(out)])

    hooks = [relu.register_forward_hook(watch) for relu in run]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(images)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    made = {relu: Bounded(relu, channels) for relu, channels in run.items() if channels}
    for parent, name, relu in places:
        if relu in made:
            parent._modules[name] = made[relu].to(images.device)
    return network
