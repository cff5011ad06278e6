"""What each explainer needs of a model, and which of its layers it explains."""

from __future__ import annotations

from collections.abc import Callable

from leadapron.explainers import EXPLAINERS
from leadapron.explainers.cams import SHORTCUT_ARCHITECTURE, fine_stage, last_stage
from leadapron.models.architectures import ARCHITECTURES
from leadapron.models.networks import unmade
from leadapron.models.protocols import Capability, Differentiable, lacking, network_lacks

__all__ = ["NEEDS", "explained_layer", "unsupported"]

NEEDS: dict[str, Capability] = {
    **dict.fromkeys(EXPLAINERS, "gradients"),
    "class-activation": "pooled linear head",
    "authors-shortcut": "stages",
    **dict.fromkeys(("grad-cam", "grad-cam++", "layer-cam"), "named layers"),
    "guided-backprop": "ReLU layers",
    "attention-rollout": "attention",
}
"""What each explainer needs of a model; gradients where nothing is said."""

_LAYERS: dict[str, Callable[[Differentiable], str]] = {
    "class-activation": last_stage,
    "grad-cam": last_stage,
    "grad-cam++": last_stage,
    "layer-cam": fine_stage,
}
"""The layer whose channels a map is made of; the others explain the pixels."""


def explained_layer(name: str, classifier: Differentiable) -> str:
    """Return which layer `EXPLAINERS[name]` explains by default, as "stage scale2" or "pixels".

    Raises:
        UnknownNameError: no such explainer.
    """
    EXPLAINERS.find(name)
    if name == "authors-shortcut":
        return "ReLU of transition3"
    if name == "attention-rollout":
        return "attention of all blocks"
    if name not in _LAYERS:
        return "pixels"
    kind = "layer" if lacking(classifier, "stages") else "stage"
    return f"{kind} {_LAYERS[name](classifier)}"


def unsupported(name: str, architecture: str) -> str:
    """Return why `EXPLAINERS[name]` can't run on an architecture, or nothing where it can.

    Args:
        name: of the explainer.
        architecture: of one that isn't registered only the explainer itself can tell.

    Raises:
        UnknownNameError: no such explainer.
    """
    EXPLAINERS.find(name)
    if name == "authors-shortcut" and architecture != SHORTCUT_ARCHITECTURE:
        return f"made for {SHORTCUT_ARCHITECTURE}, not {architecture}"
    needs = NEEDS.get(name, "gradients")
    if needs in ("gradients", "named layers") or architecture not in ARCHITECTURES:
        return ""
    return network_lacks(unmade(architecture), architecture, needs)
