"""Networks by name; none is loaded, nor torch, before one is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from leadapron.plugins import At, Registry

if TYPE_CHECKING:
    from leadapron.models.networks import Network

__all__ = ["ARCHITECTURES"]

ARCHITECTURES: Registry[Callable[[int], Network]] = Registry(
    "network",
    {
        name: At(f"leadapron.models.networks:{name.replace('-', '_')}")
        for name in (
            "densenet121", "efficientnet_lite0", "plain4", "resnet9", "resnet18", "resnet34",
            "resnet50", "resnet18-stride1", "resnet34-stride1", "resnet50-stride1",
        )
    },
)  # fmt: skip
"""Networks by name: number of findings -> freshly initialised network."""
