"""Explainers: saliency maps of a classifier, comparable across films and findings.

An explainer is `(classifier, images, findings) -> maps`: (n, h, w) images and k names of findings
in, (n, k, h, w) float32 out, at the images' size, in units of the logit where the method has them,
without scaling per image. All findings share the forward passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leadapron.later import later
from leadapron.plugins import At, Registry

if TYPE_CHECKING:
    from leadapron.explainers.cams import (
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
    from leadapron.explainers.needs import NEEDS, explained_layer, unsupported
    from leadapron.explainers.passes import Explainer
    from leadapron.explainers.rollout import attention_rollout

__all__ = [
    "EXPLAINERS",
    "NEEDS",
    "Explainer",
    "attention_rollout",
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
    "smooth_grad",
    "unsupported",
    "xplain",
]

EXPLAINERS: Registry[Explainer] = Registry(
    "explainer",
    {
        name: At(f"leadapron.explainers.{place}")
        for name, place in {
            "class-activation": "cams:class_activation",
            "grad-cam": "cams:grad_cam",
            "grad-cam++": "cams:grad_cam_plus_plus",
            "layer-cam": "cams:layer_cam",
            "authors-shortcut": "cams:authors_shortcut",
            "integrated-gradients-black": "gradients:from_black",
            "integrated-gradients-blurred": "gradients:from_blurred",
            "integrated-gradients-mean": "gradients:from_mean",
            "xplain": "gradients:xplain",
            "smooth-grad": "gradients:smooth_grad",
            "guided-backprop": "gradients:guided_backprop",
            "occlusion": "occlusion:occlusion",
            "attention-rollout": "rollout:attention_rollout",
        }.items()
    },
)
"""Explainers by name; none is loaded before it is wanted."""

__getattr__ = later(__name__)
