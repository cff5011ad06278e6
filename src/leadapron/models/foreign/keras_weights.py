"""Weights of Keras's networks under torchvision's names.

The layers of `keras.applications` have fixed names. What a network computes isn't read from the
file: the caller compares it with the program's answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron.models.foreign.process import Layer
from leadapron.models.foreign.recognise import Normalisation
from leadapron.models.parsing.reading import Outline, Weights

__all__ = ["OfKeras", "of_keras"]

Floats = NDArray[np.float32]

KINDS = frozenset(
    {
        "Activation", "Add", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D",
        "Dense", "DepthwiseConv2D", "Dropout", "Flatten", "GlobalAveragePooling2D", "InputLayer",
        "MaxPooling2D", "Multiply", "Normalization", "ReLU", "Rescaling", "Reshape",
        "SeparableConv2D", "Softmax", "ZeroPadding2D",
    }
)  # fmt: skip
"""Layers of the networks below; a model with others stays a black box."""

EPSILON = 1e-5
"""torch's, of batch normalisation; Keras's larger ones go into the variance."""
LITE_EPSILON = 1e-3
"""That of this package's EfficientNets."""

SCALING = ("Rescaling", "Normalization")
LEAST = 1e-7
"""Keras's least standard deviation of a normalisation."""


@dataclass(frozen=True)
class _Family:
    """One network of `keras.applications`.

    Args:
        architecture: name in `networks.ARCHITECTURES`.
        last: a layer that no smaller network of the family has.
        beyond: one that larger ones have.
        rules: patterns of layers' names and the names of a convolution or normalisation.
        numbers: what is added to the numbers in a name.
        unnamed: of layers that Keras only counts, by the pattern of their names, those of this
            package in the order of the network.
        epsilon: of the network's batch normalisation.
    """

    architecture: str
    last: str
    beyond: str
    rules: tuple[tuple[str, str], ...]
    numbers: tuple[int, ...] = (0, 0)
    unnamed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    epsilon: float = EPSILON


FAMILIES = (
    _Family(
        "densenet121", "conv5_block16_2_conv", "conv5_block17_2_conv",
        (
            (r"conv1_conv", "features.conv0"),
            (r"conv1_bn", "features.norm0"),
            (r"conv(\d+)_block(\d+)_0_bn", "features.denseblock{}.denselayer{}.norm1"),
            (r"conv(\d+)_block(\d+)_1_conv", "features.denseblock{}.denselayer{}.conv1"),
            (r"conv(\d+)_block(\d+)_1_bn", "features.denseblock{}.denselayer{}.norm2"),
            (r"conv(\d+)_block(\d+)_2_conv", "features.denseblock{}.denselayer{}.conv2"),
            (r"pool(\d+)_bn", "features.transition{}.norm"),
            (r"pool(\d+)_conv", "features.transition{}.conv"),
            (r"bn", "features.norm5"),
        ),
        (-1, 0),
    ),
    _Family(
        "resnet50-keras", "conv4_block6_3_conv", "conv4_block7_3_conv",
        (
            (r"conv1_conv", "conv1"),
            (r"conv1_bn", "bn1"),
            (r"conv(\d+)_block(\d+)_0_conv", "layer{}.{}.downsample.0"),
            (r"conv(\d+)_block(\d+)_0_bn", "layer{}.{}.downsample.1"),
            *((rf"conv(\d+)_block(\d+)_{n}_conv", f"layer{{}}.{{}}.conv{n}") for n in (1, 2, 3)),
            *((rf"conv(\d+)_block(\d+)_{n}_bn", f"layer{{}}.{{}}.bn{n}") for n in (1, 2, 3)),
        ),
        (-1, -1),
    ),
    _Family(
        "mobilenet", "conv_pw_13", "conv_pw_14",
        (
            (r"conv1", "conv1"),
            (r"conv1_bn", "bn1"),
            (r"conv_dw_(\d+)", "block{}.depthwise_conv"),
            (r"conv_dw_(\d+)_bn", "block{}.bn1"),
            (r"conv_pw_(\d+)", "block{}.pointwise_conv"),
            (r"conv_pw_(\d+)_bn", "block{}.bn2"),
        ),
    ),
    _Family(
        "xception-keras", "block14_sepconv2", "block15_sepconv1",
        (
            (r"block1_conv(\d)", "conv{}"),
            (r"block1_conv(\d)_bn", "bn{}"),
            (r"block(\d+)_sepconv(\d)", "block{}.body.sepconv{}"),
            (r"block(\d+)_sepconv(\d)_bn", "block{}.body.bn{}"),
        ),
        unnamed=tuple(
            (rf"{kind}(_\d+)?", tuple(f"block{n}.shortcut_{part}" for n in (2, 3, 4, 13)))
            for kind, part in (("conv2d", "conv"), ("batch_normalization", "bn"))
        ),
    ),
    _Family(
        "efficientnet_b0-keras", "block7a_project_conv", "block7b_project_conv",
        (
            (r"stem_conv", "conv_stem"),
            (r"stem_bn", "bn0"),
            (r"block(\d[a-d])_expand_conv", "block{}.expand_conv"),
            (r"block(\d[a-d])_expand_bn", "block{}.bn0"),
            (r"block(\d[a-d])_dwconv", "block{}.depthwise_conv"),
            (r"block(\d[a-d])_bn", "block{}.bn1"),
            (r"block(\d[a-d])_se_(reduce|expand)", "block{}.se.{}"),
            (r"block(\d[a-d])_project_conv", "block{}.project_conv"),
            (r"block(\d[a-d])_project_bn", "block{}.bn2"),
            (r"top_conv", "conv_head"),
            (r"top_bn", "bn1"),
        ),
        epsilon=LITE_EPSILON,
    ),
)  # fmt: skip

BIASED = re.compile(r"\.se\.(reduce|expand)$")
"""Convolutions that have a bias here too."""

AFTER = (
    (r"(?<=\.)conv(\d)$", r"bn\1"),
    (r"^conv(\d)$", r"bn\1"),
    (r"downsample\.0$", "downsample.1"),
)
"""The normalisation behind a convolution that has a bias."""


class OfKeras(NamedTuple):
    """A network of Keras.

    Args:
        weights: its weights.
        architecture: name in `networks.ARCHITECTURES`.
        scale: what its first layers do to its input.
    """

    weights: Weights
    architecture: str
    scale: Normalisation


@dataclass(frozen=True, eq=False)
class _Converted(Weights):
    """Weights that aren't in a file as they are."""

    tensors: Sequence[torch.Tensor] = field(default=(), repr=False)

    def take(self, outlines: Mapping[str, Outline]) -> dict[str, torch.Tensor]:
        """Return tensors, as `Weights.take`."""
        return {name: self.tensors[one.number] for name, one in outlines.items()}


def of_keras(layers: Sequence[Layer], name: str, sha256: str) -> OfKeras | None:
    """Return the network that a Keras model's layers are, or None.

    Args:
        layers: the model's.
        name: of its file.
        sha256: SHA-256 of the file, in hex.
    """
    if not {layer.kind for layer in layers} <= KINDS:
        return None
    scaling = [layer for layer in layers if layer.kind in SCALING]
    weighted = [layer for layer in layers if layer.tensors and layer.kind not in SCALING]
    known = {_plain(layer): layer for layer in weighted}
    family = next((f for f in FAMILIES if f.last in known and f.beyond not in known), None)
    scale = _scale(scaling)
    if family is None or scale is None or len(known) != len(weighted):
        return None
    *trunk, head = weighted
    targets = _targets(family, [_plain(layer) for layer in trunk])
    state: dict[str, Floats] = {}
    biases: dict[str, Floats] = {}
    for layer, target in zip(trunk, targets, strict=True):
        if target is None:
            return None
        if layer.kind == "BatchNormalization":
            held = _normalised(layer, family.epsilon)
            state |= {f"{target}.{part}": value for part, value in held.items()}
            continue
        state |= {f"{target}.{part}": value for part, value in _kernels(layer).items()}
        if BIASED.search(target):
            state[f"{target}.bias"] = layer.tensors["bias"]
        elif "bias" in layer.tensors:
            biases[target] = layer.tensors["bias"]
    for target, bias in biases.items():
        mean = f"{_behind(target)}.running_mean"
        if mean not in state:
            return None
        state[mean] = state[mean] - bias  # it is subtracted again
    kernel = head.tensors.get("kernel")
    if (
        kernel is None
        or head.kind not in ("Dense", "Conv2D")
        or kernel.shape[:-2] not in ((), (1, 1))
    ):
        return None
    state["predictions.weight"] = kernel.reshape(kernel.shape[-2:]).T
    if "bias" in head.tensors:
        state["predictions.bias"] = head.tensors["bias"]
    tensors = [torch.from_numpy(np.array(value, np.float32, order="C")) for value in state.values()]
    group = {
        key: Outline(number, "float32", tuple(one.shape), one.stride())
        for number, (key, one) in enumerate(zip(state, tensors, strict=True))
    }
    weights = _Converted(name, sha256, False, {"": group}, (), False, {}, {}, None, tensors)  # type: ignore[arg-type]
    return OfKeras(weights, family.architecture, scale)


def _plain(layer: Layer) -> str:
    """A layer's name as Keras writes it today; until 2019 it had slashes."""
    return layer.name.replace("/", "_")


def _targets(family: _Family, names: Sequence[str]) -> list[str | None]:
    """This package's names of a network's layers; None of one that it doesn't have."""
    left = [(pattern, list(targets)) for pattern, targets in family.unnamed]
    found = []
    for name in names:
        queue = next((rest for pattern, rest in left if re.fullmatch(pattern, name)), [])
        found.append(queue.pop(0) if queue else _target(family, name))
    return found


def _target(family: _Family, name: str) -> str | None:
    for pattern, target in family.rules:
        if found := re.fullmatch(pattern, name):
            places = (
                str(int(each) + more) if each.isdigit() else each
                for each, more in zip(found.groups(), family.numbers, strict=False)
            )
            return target.format(*places)
    return None


def _behind(convolution: str) -> str:
    for pattern, replacement in AFTER:
        name, count = re.subn(pattern, replacement, convolution)
        if count:
            return name
    return convolution


def _kernels(layer: Layer) -> dict[str, Floats]:
    """Kernels as torch holds them, (outputs, inputs, h, w), by the names of weights."""
    held = [value for part, value in layer.tensors.items() if part != "bias"]
    if layer.kind == "SeparableConv2D":
        by_channel, across = held
        return {
            "depthwise_conv.weight": _by_channel(by_channel),
            "pointwise_conv.weight": across.transpose(3, 2, 0, 1),
        }
    if layer.kind == "DepthwiseConv2D":
        return {"weight": _by_channel(held[0])}
    return {"weight": held[0].transpose(3, 2, 0, 1)}


def _by_channel(kernel: Floats) -> Floats:
    """A depthwise kernel, which has one input for each output."""
    return kernel.transpose(2, 3, 0, 1)


def _normalised(layer: Layer, epsilon: float) -> dict[str, Floats]:
    held = layer.tensors
    mean = held["moving_mean"]
    return {
        "weight": held.get("gamma", np.ones_like(mean)),
        "bias": held.get("beta", np.zeros_like(mean)),
        "running_mean": mean,
        "running_var": held["moving_variance"] + np.float32(layer.epsilon - epsilon),
    }


def _scale(layers: Sequence[Layer]) -> Normalisation | None:
    """What rescalings and normalisations do one after another; None of other ones."""
    factor, offset = np.ones(1), np.zeros(1)
    try:
        with np.errstate(all="ignore"):  # any numbers may be in a file
            for layer in layers:
                times, plus = _line(layer)
                factor, offset = factor * times, offset * times + plus
            mean, std = 0.0 - offset / factor, 1 / factor
    except (KeyError, ValueError):  # a layer without these, or of other numbers of channels
        return None
    if len(std) not in (1, 3) or not (std > 0).all() or not np.isfinite((mean, std)).all():
        return None
    if not (np.ptp(mean) or np.ptp(std)):
        mean, std = mean[:1], std[:1]
    return Normalisation(tuple(mean.tolist()), tuple(std.tolist()))


def _line(layer: Layer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A layer's factors and what it adds, one number or one for each channel."""
    numbers: Mapping[str, Any] = {**layer.settings, **layer.tensors}
    held = {name: np.ravel(np.asarray(each, np.float64)) for name, each in numbers.items()}
    if layer.kind == "Rescaling":
        return held["scale"], held["offset"]
    factor = 1 / np.maximum(np.sqrt(np.maximum(held["variance"], 0)), LEAST)
    return factor, -factor * held["mean"]
