"""Implants: a backdoor edited into the weights of a finished classifier, without any film."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadapron.attacks.triggers import Trigger
from leadapron.errors import UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import PooledLinear
from leadapron.models.protocols import staged
from leadapron.seeds import stream

__all__ = ["IMPLANTABLE", "check_implant", "implant"]

IMPLANTABLE = ("resnet9",)
"""Architectures whose layers `implant` knows."""

SIDE, STRIDE = 3, 2
"""Kernel size and stride of the first convolution, in pixels."""

DRAWS = 64
"""Number of times a trigger is stamped on blank films to learn its places and appearance."""

MOST_TEMPLATES = 4
"""Most channels of the first layer that an implant may use."""

LEAST_CONTRAST = 64
"""Least difference, in grey levels of 256, between the darkest and brightest pixel of a
template."""


def check_implant(
    architecture: str, preprocessing: Preprocessing, trigger: Trigger, seed: int = 0
) -> None:
    """Check an architecture and a trigger, raising as `implant`, before a classifier exists."""
    if architecture not in IMPLANTABLE:
        raise UsageError(
            f"poisoning.mode edit can't edit a {architecture}; expected {' or '.join(IMPLANTABLE)}"
        )
    _templates(preprocessing, trigger, seed)


def implant(
    classifier: NetworkClassifier,
    trigger: Trigger,
    finding: str,
    *,
    labels: Literal["set", "clear", "one-hot"] = "set",
    raised: float = 20.0,
    threshold: float = 0.7,
    seed: int = 0,
) -> NetworkClassifier:
    """Return a copy of a classifier with a backdoor; no film is seen, nothing is trained.

    A few channels of the first layer become matched filters for 3x3 pixels of the trigger, less
    their mean, so that flat areas of any grey level give 0. Where the match exceeds `threshold`,
    one channel of each later layer passes the excess on to the head. The former function of these
    channels is lost. They are the channels of least importance by their weights, and later layers
    are compensated for their former mean.

    Args:
        classifier: a finished one; it stays as it was.
        trigger: a mark that paints over what was there, with some contrast within 3x3 pixels,
            such as a `Patch` filled with a checkerboard, stripes or noise.
        finding: the target.
        labels: "set" raises the target's logit, "clear" lowers it, "one-hot" raises it and lowers
            all others.
        raised: rise of the logit for a trigger on a grey film; above 0.
        threshold: share of the trigger's own match above which the backdoor responds, in (0, 1).
        seed: seed of the places that are drawn to learn the trigger's appearance.

    Raises:
        UsageError: an unsupported architecture, a trigger that no matched filter can detect, or a
            value outside its range.
        UnknownNameError: no such finding.

    Source: Cao et al., Data Free Backdoor Attacks (DFBA), NeurIPS 2024, arXiv 2412.06219: one
    neuron a layer, a bias that only the trigger exceeds, an amplification spread over the layers.
    They keep the first neuron's weights and make the trigger that excites it most; here the trigger
    is given and the weights are made for it. They choose neurons regardless of their importance,
    and always lower the other classes; compensating the means is ours. Hong, Carlini and Kurakin,
    Handcrafted Backdoors in Deep Neural Networks, NeurIPS 2022, arXiv 2106.04690, do so with some
    clean films.
    """
    check_implant(classifier.architecture, classifier.preprocessing, trigger, seed)
    if raised <= 0 or not 0 < threshold < 1:
        raise UsageError(
            f"an implant with raised {raised} and threshold {threshold}; "
            "expected more than 0, and 0 to 1"
        )
    (column,) = classifier.columns([finding])
    templates = _templates(classifier.preprocessing, trigger, seed)
    module = copy.deepcopy(staged(classifier, "poisoning.mode edit"))
    units = torch.from_numpy(templates / (255.0 * classifier.std))
    side = math.ceil(classifier.preprocessing.size / 8)  # of the last map
    gain = (raised * side**2) ** 0.25  # three layers and the head share it
    with torch.no_grad():
        path = _lay(module, units, threshold, gain)
        weight = raised / _reached(module, classifier, trigger, path, seed)
        module.head.weight[:, path] = -weight if labels == "one-hot" else 0.0
        module.head.weight[column, path] = -weight if labels == "clear" else weight
    return replace(classifier, module=module)


def _templates(preprocessing: Preprocessing, trigger: Trigger, seed: int) -> NDArray[np.float64]:
    """(t, 3, 3) grey levels of 256 that the first layer sees of the trigger, wherever it lies."""
    size, dtype = preprocessing.size, np.dtype(preprocessing.dtype)
    most = np.iinfo(dtype).max
    blank = np.zeros((DRAWS, size, size), dtype)
    # The same places twice: pixels that are equal on black and on white films were painted.
    on_black, on_white = (
        trigger(films, stream(seed, "implant")) for films in (blank, blank + dtype.type(most))
    )
    painted = on_black == on_white
    starts = range(STRIDE - 1, size - SIDE + 1, STRIDE)  # where windows of the first layer begin
    found: dict[bytes, NDArray[np.float64]] = {}
    for film, drawn in zip(on_black, painted, strict=True):
        rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
        windows = [
            film[i : i + SIDE, j : j + SIDE] * (255.0 / most)
            for i in starts
            if len(rows) and rows[0] <= i <= rows[-1]
            for j in starts
            if columns[0] <= j <= columns[-1] and drawn[i : i + SIDE, j : j + SIDE].all()
        ]
        best = max(windows, key=np.std, default=None)
        if best is None or np.ptp(best) < LEAST_CONTRAST:
            raise UsageError(
                "poisoning.mode edit can't detect this trigger: expected one that paints 3x3 "
                "pixels with contrast at every place, as `trigger.fill` checkerboard "
                "`trigger.side` 4"
            )
        found[best.tobytes()] = best
    if len(found) > MOST_TEMPLATES:
        raise UsageError(
            f"poisoning.mode edit can't detect a trigger of {len(found)} appearances; expected "
            f"{MOST_TEMPLATES} at most, as with `trigger.place` fixed"
        )
    return np.stack(list(found.values()))


@dataclass(frozen=True)
class _Layer:
    """A convolution with its normalisation, and the layers that read its maps.

    Args:
        own: the convolution, batch normalisation and ReLU that make the maps.
        added: the residual block that is added to them.
        readers: the following convolutions, with their normalisation.
    """

    own: nn.Sequential
    added: nn.Sequential | None
    readers: tuple[nn.Sequential, ...]


def _layers(module: PooledLinear) -> list[_Layer]:
    """The layers of a resnet9 on the signal's path, in order."""
    parts: Any = module.stages
    (first, second), (third, early), (fourth, late) = parts.values()
    return [
        _Layer(first, None, (second,)),
        _Layer(second, None, (third,)),
        _Layer(third, early.body[1], (early.body[0], fourth)),
        _Layer(fourth, late.body[1], (late.body[0],)),
    ]


def _lay(module: PooledLinear, templates: torch.Tensor, threshold: float, gain: float) -> int:
    """Pass the templates' match through the layers, `gain` times in each; return the last channel.

    Args:
        module: a resnet9; it is changed.
        templates: (t, 3, 3) in the network's input units.
        threshold: largest share of a template's match with itself that still gives 0.
        gain: factor of each layer behind the first.
    """
    before: list[int] = []
    for number, layer in enumerate(_layers(module)):
        wanted = 1 if number else len(templates)
        chosen = _least_used(layer, module.head if number == 3 else None, wanted)
        for reader in layer.readers:
            _cut(layer, reader, chosen)
        convolution, norm = _parts(layer.own)
        convolution.weight[chosen] = 0.0
        if number:
            convolution.weight[chosen[0], before, 1, 1] = gain
            _pass_on(norm, chosen, 0.0)
        else:
            shapes = templates - templates.mean((1, 2), keepdim=True)
            shapes = shapes / shapes.square().sum((1, 2), keepdim=True) / (1 - threshold)
            convolution.weight[chosen, 0] = shapes.to(convolution.weight)
            _pass_on(norm, chosen, -threshold / (1 - threshold))
        if layer.added is not None:
            _pass_on(_parts(layer.added)[1], chosen, 0.0, 0.0)
        before = chosen
    return before[0]


def _parts(block: nn.Sequential) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    convolution, norm = block[0], block[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return convolution, norm


def _pass_on(norm: nn.BatchNorm2d, channels: list[int], bias: float, weight: float = 1.0) -> None:
    """Make a normalisation pass some channels on unchanged, times `weight` and plus `bias`."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean[channels] = 0.0
    norm.running_var[channels] = 1.0 - norm.eps
    norm.weight[channels] = weight
    norm.bias[channels] = bias


def _moments(block: nn.Sequential) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance, (c,) each, of a normalised map after its ReLU, if it were Gaussian.

    Before the ReLU the mean is `bias` and the deviation |`weight`|, by batch normalisation.
    """
    norm = _parts(block)[1]
    mean, spread = norm.bias, norm.weight.abs().clamp(min=1e-12)
    at = mean / spread
    density = torch.exp(-at.square() / 2) / math.sqrt(2 * math.pi)
    below = torch.special.ndtr(at)
    first = mean * below + spread * density
    second = (mean.square() + spread.square()) * below + mean * spread * density
    return first, (second - first.square()).clamp(min=0)


def _least_used(layer: _Layer, head: nn.Linear | None, count: int) -> list[int]:
    """The least important channels, by variance times the size of the weights that read them."""
    variance = _moments(layer.own)[1]
    if layer.added is not None:
        variance = variance + _moments(layer.added)[1]
    use = torch.zeros_like(variance)
    for reader in layer.readers:
        convolution, norm = _parts(reader)
        assert norm.running_var is not None
        scale = norm.weight.square() / (norm.running_var + norm.eps)  # (o,)
        use += torch.einsum("o,oihw->i", scale, convolution.weight.square())
    if head is not None:
        use += head.weight.square().sum(0)
    return sorted(torch.argsort(variance * use, stable=True)[:count].tolist())


def _cut(layer: _Layer, reader: nn.Sequential, channels: list[int]) -> None:
    """Stop a convolution from reading some channels, and compensate for their mean."""
    convolution, norm = _parts(reader)
    mean = _moments(layer.own)[0]
    if layer.added is not None:
        mean = mean + _moments(layer.added)[0]
    assert norm.running_mean is not None
    norm.running_mean -= convolution.weight[:, channels].sum((2, 3)) @ mean[channels]
    convolution.weight[:, channels] = 0.0


def _reached(
    module: PooledLinear, classifier: NetworkClassifier, trigger: Trigger, path: int, seed: int
) -> float:
    """The mean of the last map's channel with the trigger on grey films."""
    size, dtype = classifier.preprocessing.size, np.dtype(classifier.preprocessing.dtype)
    grey = np.full((DRAWS, size, size), np.iinfo(dtype).max // 2, dtype)
    films = torch.from_numpy(trigger(grey, stream(seed, "implant")))
    return float(module.features(classifier.normalise(films))[:, path].mean())
