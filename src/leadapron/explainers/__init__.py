"""Where a classifier looked: maps for all findings asked for, comparable across films and findings.

An explainer is `(classifier, images, findings) -> maps`: (n, h, w) images and k names of findings
in, (n, k, h, w) float32 out, at the images' size, in units of the logit where the method has them,
without scaling per image. All findings share the forward passes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from leadapron.errors import UnknownNameError
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
from leadapron.models.classifier import NetworkClassifier

__all__ = [
    "EXPLAINERS",
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

EXPLAINERS: dict[str, Explainer] = {
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
}
"""Explainers by name."""

_LAYERS: dict[str, Callable[[NetworkClassifier], str]] = {
    "class-activation": lambda classifier: f"stage {last_stage(classifier)}",
    "grad-cam": lambda classifier: f"stage {last_stage(classifier)}",
    "grad-cam++": lambda classifier: f"stage {last_stage(classifier)}",
    "layer-cam": lambda classifier: f"stage {fine_stage(classifier)}",
    "authors-shortcut": lambda _: "ReLU of transition3",
}
"""The layer whose channels a map is made of; the others explain the pixels."""


def explained_layer(name: str, classifier: NetworkClassifier) -> str:
    """Return which layer `EXPLAINERS[name]` explains by default, as "stage scale2" or "pixels".

    Raises:
        UnknownNameError: no such explainer.
    """
    if name not in EXPLAINERS:
        raise UnknownNameError("explainer", name, EXPLAINERS)
    return _LAYERS[name](classifier) if name in _LAYERS else "pixels"


def unsupported(name: str, architecture: str) -> str:
    """Return why `EXPLAINERS[name]` can't run on an architecture, or nothing where it can.

    Raises:
        UnknownNameError: no such explainer.
    """
    if name not in EXPLAINERS:
        raise UnknownNameError("explainer", name, EXPLAINERS)
    if name == "authors-shortcut" and architecture != SHORTCUT_ARCHITECTURE:
        return f"made for {SHORTCUT_ARCHITECTURE}, not {architecture}"
    return ""
