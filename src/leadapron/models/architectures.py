"""Networks by name; none is loaded, nor torch, before one is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from leadapron.plugins import At, Registry

if TYPE_CHECKING:
    from leadapron.models.networks import Network

__all__ = ["ARCHITECTURES", "OF_LIBRARIES", "OF_TRANSFORMERS", "library_of"]

ARCHITECTURES: Registry[Callable[[int], Network]] = Registry(
    "network",
    {
        name: At(f"leadapron.models.networks:{name.replace('-', '_')}")
        for name in (
            "densenet121", "efficientnet_lite0", "mobilenet", "plain4", "resnet9", "resnet18",
            "resnet34", "resnet50", "resnet18-stride1", "resnet34-stride1", "resnet50-stride1",
            "resnet50-keras", "efficientnet_b0-keras", "xception-keras",
        )
    },
)  # fmt: skip
"""Networks by name: number of findings -> freshly initialised network."""

OF_LIBRARIES = ("timm", "transformers")
"""Libraries whose networks have names as "timm:NAME"; see `leadapron.models.libraries`."""

OF_TRANSFORMERS = (
    "beit", "convnext", "convnextv2", "deit", "dinov2", "mobilenet_v2",
    "poolformer", "regnet", "resnet", "swin", "swinv2", "vit",
)  # fmt: skip
"""Types of transformers' networks that classify images and need nothing else."""


def library_of(name: str) -> tuple[str, str]:
    """Return the library of a network's name and the name there; "" and "" of all other names."""
    library, colon, there = name.partition(":")
    return (library, there) if colon and library in OF_LIBRARIES else ("", "")
