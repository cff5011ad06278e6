"""Where a classifier looked: maps for all findings asked for, comparable across films and findings.

An explainer is `(classifier, images, findings) -> maps`: (n, h, w) images and k names of findings
in, (n, k, h, w) float32 out, at the images' size, in units of the logit, without scaling per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from leadapron.classifier import BATCH, Floats, NetworkClassifier, autocast
from leadapron.cohort import ImageArray
from leadapron.errors import UnknownNameError, UsageError

__all__ = ["EXPLAINERS", "Explainer", "class_activation", "fine_stage", "layer_cam"]

Explainer = Callable[[NetworkClassifier, ImageArray, Sequence[str]], Floats]


def class_activation(
    classifier: NetworkClassifier,
    images: ImageArray,
    findings: Sequence[str],
    *,
    enlarge: bool = True,
) -> Floats:
    """Class activation maps of all findings in one forward pass.

    With average pooling and a linear head this is exact: the mean of a finding's map over all
    places, plus the head's bias, is its logit; and it equals Grad-CAM at the last map.

    Args:
        classifier: a network of this package.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        enlarge: to the images' size, bilinearly; else the maps come as the network has them.

    Returns:
        (n, k, h, w) float32, negative where a place speaks against the finding.

    Source: Zhou et al., CVPR 2016, equation 2; Selvaraju et al., ICCV 2017, equations 1 and 2,
    without their final ReLU. As in captum, Grad-CAM's weights are means: theirs is this map
    divided by the number of places.
    """
    maps = classifier.outputs(images, findings).maps
    return _enlarged(torch.from_numpy(maps), images.shape[1:]).numpy() if enlarge else maps


def layer_cam(
    classifier: NetworkClassifier,
    images: ImageArray,
    findings: Sequence[str],
    *,
    stage: str | None = None,
    enlarge: bool = True,
) -> Floats:
    """LayerCAM: an inner map times the positive part of the logit's gradient, over its channels.

    Inner maps are finer than the last one, which in DenseNet-121 has 2x2 places at 64 pixels.
    One forward pass for all findings, then one backward pass each, down to the stage only.

    Args:
        classifier: a network of this package.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        stage: name of the part of the network whose output is used; `fine_stage` if left out.
        enlarge: to the images' size, bilinearly; else the maps come as the network has them.

    Returns:
        (n, k, h, w) float32, 0 or more.

    Raises:
        UnknownNameError: no such stage or finding.
        UsageError: no images.

    Source: Jiang et al., LayerCAM, IEEE TIP 2021, equations 6 to 8.
    """
    columns = classifier.columns(findings)
    stages = classifier.module.stages
    stage = fine_stage(classifier) if stage is None else stage
    if stage not in stages:
        raise UnknownNameError("stage", stage, stages.keys())
    parts = list(stages.values())
    cut = list(stages.keys()).index(stage) + 1
    out: Floats | None = None
    for start in range(0, images.shape[0], BATCH):
        rows = np.arange(start, min(start + BATCH, images.shape[0]))
        with autocast(classifier.device, classifier.precision):
            with torch.no_grad():
                batch = classifier.normalise(torch.from_numpy(images[rows]))
                inner = batch
                for part in parts[:cut]:
                    inner = part(inner)
            inner = inner.detach().requires_grad_()  # (b, c, h', w')
            outer = inner
            for part in parts[cut:]:
                outer = part(outer)
            logits = classifier.module.classify(outer)
        maps = []
        for column in columns:
            (slope,) = torch.autograd.grad(logits[:, column].sum(), inner, retain_graph=True)
            maps.append((slope.clamp(min=0) * inner.detach()).float().sum(1).clamp(min=0))
        stacked = torch.stack(maps, 1)
        result = (_enlarged(stacked, batch.shape[2:]) if enlarge else stacked).cpu().numpy()
        if out is None:
            out = np.empty((images.shape[0], *result.shape[1:]), np.float32)
        out[rows] = result
    if out is None:
        raise UsageError("no images; expected at least one")
    return out


def fine_stage(classifier: NetworkClassifier) -> str:
    """Return the first stage whose map is smaller than the image: fine, and past single pixels."""
    side = classifier.preprocessing.size
    inner = torch.zeros(1, 1, side, side, device=classifier.device)
    with torch.inference_mode():
        for name, part in classifier.module.stages.items():
            inner = part(inner)
            if inner.shape[-1] < side:
                return name
    return name


EXPLAINERS: dict[str, Explainer] = {
    "class-activation": class_activation,
    "layer-cam": layer_cam,
}
"""Explainers by name."""


def _enlarged(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return nn.functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
