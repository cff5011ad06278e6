"""Explainers: saliency maps of a classifier, comparable across films and findings.

An explainer is `(classifier, images, findings) -> maps`: (n, h, w) images and k names of findings
in, (n, k, h, w) float32 out, at the images' size, in units of the logit where the method has them,
without scaling per image. All findings share the forward passes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from leadapron.explainers.cams import (
    SHORTCUT_ARCHITECTURE,
    authors_shortcut,
    class_activation,
    fine_stage,
    grad_cam,
    grad_cam_plus_plus,
    last_stage,
    layer_cam,
)
from leadapron.explainers.gradients import (
    guided_backprop,
    integrated_gradients,
    smooth_grad,
    xplain,
)
from leadapron.explainers.occlusion import occlusion
from leadapron.explainers.passes import Explainer
from leadapron.models.networks import ARCHITECTURES, unmade
from leadapron.models.protocols import Capability, Differentiable, lacking, network_lacks
from leadapron.plugins import Registry

__all__ = [
    "EXPLAINERS",
    "NEEDS",
    "Explainer",
    "authors_shortcut",
    "class_activation",
    "explained_layer",
    "fine_stage",
    "grad_cam",
    "grad_cam_plus_plus",
    "guided_backprop",
    "integrated_gradients",
    "last_stage",
    "layer_cam",
    "occlusion",
    "smooth_grad",
    "unsupported",
    "xplain",
]

EXPLAINERS: Registry[Explainer] = Registry(
    "explainer",
    {
        "class-activation": class_activation,
        "grad-cam": grad_cam,
        "grad-cam++": grad_cam_plus_plus,
        "layer-cam": layer_cam,
        "authors-shortcut": authors_shortcut,
        "integrated-gradients-black": partial(integrated_gradients, baseline="black"),
        "integrated-gradients-blurred": partial(integrated_gradients, baseline="blurred"),
        "integrated-gradients-mean": partial(integrated_gradients, baseline="mean"),
        "xplain": xplain,
        "smooth-grad": smooth_grad,
        "guided-backprop": guided_backprop,
        "occlusion": occlusion,
    },
)
"""Explainers by name."""

NEEDS: dict[str, Capability] = {
    **dict.fromkeys(EXPLAINERS, "gradients"),
    "class-activation": "pooled linear head",
    "authors-shortcut": "pooled linear head",
    **dict.fromkeys(("grad-cam", "grad-cam++", "layer-cam"), "named layers"),
    "guided-backprop": "ReLU layers",
}
"""Capabilities of a model that explainers need; gradients if not listed."""

_LAYERS: dict[str, Callable[[Differentiable], str]] = {
    "class-activation": last_stage,
    "grad-cam": last_stage,
    "grad-cam++": last_stage,
    "layer-cam": fine_stage,
}
"""The layer whose channels make up a map; explainers that aren't listed use the pixels."""


def explained_layer(name: str, classifier: Differentiable) -> str:
    """Return the layer that `EXPLAINERS[name]` explains by default, as "stage scale2" or "pixels".

    Raises:
        UnknownNameError: no such explainer.
    """
    EXPLAINERS.find(name)
    if name == "authors-shortcut":
        return "ReLU of transition3"
    if name not in _LAYERS:
        return "pixels"
    kind = "layer" if lacking(classifier, "stages") else "stage"
    return f"{kind} {_LAYERS[name](classifier)}"


def unsupported(name: str, architecture: str) -> str:
    """Return why `EXPLAINERS[name]` can't run on an architecture, or "" if it can.

    Args:
        name: of the explainer.
        architecture: for an unregistered one, only running the explainer shows it.

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
