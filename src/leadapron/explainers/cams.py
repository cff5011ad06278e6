"""Maps made from the channels of one layer, at that layer's resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from leadapron.errors import UsageError
from leadapron.explainers.passes import collect, enlarged, finite, slopes
from leadapron.films.cohort import ImageArray
from leadapron.models.protocols import (
    Differentiable,
    Floats,
    columns_of,
    layered,
    pooled_head,
    staged,
)

__all__ = [
    "authors_shortcut",
    "class_activation",
    "fine_stage",
    "grad_cam",
    "grad_cam_plus_plus",
    "last_stage",
    "layer_cam",
]

SHORTCUT_ARCHITECTURE = "densenet121"
"""The only architecture whose last transition has as many input channels (1,024) as its head."""


def class_activation(
    classifier: Differentiable,
    images: ImageArray,
    findings: Sequence[str],
    *,
    enlarge: bool = True,
) -> Floats:
    """Class activation maps of all findings in one forward pass.

    With average pooling and a linear head this is exact: the mean of a finding's map over all
    places, plus the head's bias, is its logit; and it equals Grad-CAM at the last map.

    Args:
        classifier: a network with a pooled linear head.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        enlarge: resize bilinearly to the images' size; otherwise the maps keep the layer's size.

    Returns:
        (n, k, h, w) float32, negative where a place is evidence against the finding.

    Raises:
        DataError: maps that aren't finite.
        UnknownNameError: no such finding.
        UsageError: another head, or no images.

    Source: Zhou et al., CVPR 2016, equation 2; Selvaraju et al., ICCV 2017, equations 1 and 2,
    without their final ReLU. As in captum, Grad-CAM's weights are means: theirs is this map
    divided by the number of places.
    """
    pooled_head(classifier, "class-activation")
    maps = finite(classifier.outputs(images, findings).maps, findings)
    return enlarged(torch.from_numpy(maps), images.shape[1:]).numpy() if enlarge else maps


def grad_cam(
    classifier: Differentiable,
    images: ImageArray,
    findings: Sequence[str],
    *,
    stage: str | None = None,
    enlarge: bool = True,
) -> Floats:
    """Grad-CAM: a stage's map, each channel weighted by the sum of the logit's gradient over it.

    One forward pass for all findings, then one backward pass each, down to the stage only.

    Args:
        classifier: gives gradients and has named layers.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        stage: name of the stage or layer whose output is used; the last map's if left out.
        enlarge: resize bilinearly to the images' size; otherwise the maps keep the layer's size.

    Returns:
        (n, k, h, w) float32, 0 or more. At the last stage it is the positive part of
        `class_activation`, in units of the logit.

    Raises:
        DataError: maps that aren't finite.
        UnknownNameError: no such stage or finding.
        UsageError: no images.

    Source: Selvaraju et al., ICCV 2017, equations 1 and 2. Differs: the weights are sums over
    the places, not means, so that stages of different size can be compared; captum's map is this
    one divided by the number of places.
    """

    def combine(inner: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        return (slope.sum((2, 3), keepdim=True) * inner).sum(1)

    stage = last_stage(classifier) if stage is None else stage
    return _at_stage(classifier, images, findings, stage, combine, enlarge)


def grad_cam_plus_plus(
    classifier: Differentiable,
    images: ImageArray,
    findings: Sequence[str],
    *,
    stage: str | None = None,
    enlarge: bool = True,
) -> Floats:
    """Grad-CAM++: Grad-CAM whose weights count positive gradients, each place by its share.

    Args:
        classifier: gives gradients and has named layers.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        stage: name of the stage or layer whose output is used; the last map's if left out.
        enlarge: resize bilinearly to the images' size; otherwise the maps keep the layer's size.

    Returns:
        (n, k, h, w) float32, 0 or more. Its level is not the logit's: compare films and
        findings within this method only.

    Raises:
        DataError: maps that aren't finite.
        UnknownNameError: no such stage or finding.
        UsageError: no images.

    Source: Chattopadhay et al., WACV 2018, equations 5, 7 and 19. Differs: their score is the
    exponential of the logit, whose value multiplies all weights of a film and finding; that
    factor is left out, which keeps the map's shape and makes films comparable.
    """

    def combine(inner: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        square = slope.square()
        below = 2 * square + square * slope * inner.sum((2, 3), keepdim=True)
        share = torch.where(below != 0, square / torch.where(below != 0, below, 1), 0)
        weights = (share * slope.clamp(min=0)).sum((2, 3), keepdim=True)
        return (weights * inner).sum(1)

    stage = last_stage(classifier) if stage is None else stage
    return _at_stage(classifier, images, findings, stage, combine, enlarge)


def layer_cam(
    classifier: Differentiable,
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
        classifier: gives gradients and has named layers.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        stage: name of the stage or layer whose output is used; `fine_stage` if left out.
        enlarge: resize bilinearly to the images' size; otherwise the maps keep the layer's size.

    Returns:
        (n, k, h, w) float32, 0 or more.

    Raises:
        DataError: maps that aren't finite.
        UnknownNameError: no such stage or finding.
        UsageError: no images.

    Source: Jiang et al., LayerCAM, IEEE TIP 2021, equations 6 to 8.
    """

    def combine(inner: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        return (slope.clamp(min=0) * inner).sum(1)

    stage = fine_stage(classifier) if stage is None else stage
    return _at_stage(classifier, images, findings, stage, combine, enlarge)


def authors_shortcut(
    classifier: Differentiable,
    images: ImageArray,
    findings: Sequence[str],
    *,
    enlarge: bool = True,
) -> Floats:
    """Map as in the code of arXiv 2101.00008: the head's weights on the last transition's ReLU.

    It skips that transition and the whole last dense block, and runs only because both maps
    have 1,024 channels: finer than the last map, but not part of the model's logit.

    Args:
        classifier: a DenseNet-121 of this package.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        enlarge: resize bilinearly to the images' size; otherwise the maps keep the layer's size.

    Returns:
        (n, k, h, w) float32, 0 or more, in units of the logit that the head would give there.

    Raises:
        DataError: maps that aren't finite.
        UnknownNameError: no such finding.
        UsageError: another architecture, or no images.

    Source: heatmaps.py in the authors' code (Keras' layer `pool4_relu`). Differs: channels are
    summed, not averaged, and no map is divided by its own maximum.
    """
    if classifier.architecture != SHORTCUT_ARCHITECTURE:
        raise UsageError(
            f"authors-shortcut on {classifier.architecture}: only {SHORTCUT_ARCHITECTURE} has as "
            "many channels before its last transition as its head takes; use layer-cam"
        )
    module = staged(classifier, "authors-shortcut")
    weights = module.head.weight[columns_of(classifier, findings)].detach()  # (k, 1024)
    *before, last = module.stages.values()

    @torch.inference_mode()
    def maps(batch: torch.Tensor) -> torch.Tensor:
        size = batch.shape[2:]
        for stage in before:
            batch = stage(batch)
        transition = last.get_submodule("transition3")
        shown = transition.get_submodule("relu")(transition.get_submodule("norm")(batch))
        found = torch.einsum("nchw,kc->nkhw", shown.float(), weights).clamp(min=0)
        return enlarged(found, size) if enlarge else found

    return collect(classifier, images, maps, findings=findings)


def fine_stage(classifier: Differentiable) -> str:
    """Return the first stage whose map is smaller than the image.

    In a network without stages it is the named layer.
    """
    return layered(classifier, "an inner map").fine_layer(classifier.preprocessing.size)


def last_stage(classifier: Differentiable) -> str:
    """Return the name of the stage that the head reads, or of the named layer."""
    return layered(classifier, "an inner map").map_layer


def _at_stage(
    classifier: Differentiable,
    images: ImageArray,
    findings: Sequence[str],
    stage: str,
    combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    enlarge: bool,
) -> Floats:
    """Positive part of `combine` of a stage's (b, c, h', w') output and gradient."""
    columns = columns_of(classifier, findings)
    network = layered(classifier, "an inner map")

    def maps(batch: torch.Tensor) -> torch.Tensor:
        inner, logits = network.cut(batch, stage)
        values = inner.detach().float()
        found = [
            combine(values, slope.float()).clamp(min=0) for slope in slopes(logits, columns, inner)
        ]
        stacked = torch.stack(found, 1)
        return enlarged(stacked, batch.shape[2:]) if enlarge else stacked

    return collect(classifier, images, maps, findings=findings)
