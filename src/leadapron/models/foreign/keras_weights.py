"""Weights of Keras's networks under torchvision's names.

The layers of `keras.applications` have fixed names. What a network computes isn't read from the
file: the caller compares it with the program's answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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
        "MaxPooling2D", "ReLU", "Rescaling", "Reshape", "Softmax", "ZeroPadding2D",
    }
)  # fmt: skip
"""Layers of the networks below; a model with others stays a black box."""

EPSILON = 1e-5
"""torch's, of batch normalisation; Keras's larger ones go into the variance."""


@dataclass(frozen=True)
class _Family:
    """One network of `keras.applications`.

    Args:
        architecture: name in `networks.ARCHITECTURES`.
        last: a layer that no smaller network of the family has.
        beyond: one that larger ones have.
        rules: patterns of layers' names and the names of a convolution or normalisation.
        numbers: what is added to the numbers in a name.
    """

    architecture: str
    last: str
    beyond: str
    rules: tuple[tuple[str, str], ...]
    numbers: tuple[int, ...] = (0, 0)


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
)  # fmt: skip

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
    weighted = [layer for layer in layers if layer.tensors]
    known = {_plain(layer): layer for layer in weighted}
    family = next((f for f in FAMILIES if f.last in known and f.beyond not in known), None)
    scale = _scale([layer for layer in layers if layer.kind == "Rescaling"])
    if family is None or scale is None or len(known) != len(weighted):
        return None
    *trunk, head = weighted
    state: dict[str, Floats] = {}
    biases: dict[str, Floats] = {}
    for layer in trunk:
        target = _target(family, _plain(layer))
        if target is None:
            return None
        if layer.kind == "BatchNormalization":
            state |= {f"{target}.{part}": value for part, value in _normalised(layer).items()}
            continue
        state[f"{target}.weight"] = _kernel(layer)
        if "bias" in layer.tensors:
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


def _target(family: _Family, name: str) -> str | None:
    for pattern, target in family.rules:
        if found := re.fullmatch(pattern, name):
            numbers = (
                int(n) + more for n, more in zip(found.groups(), family.numbers, strict=False)
            )
            return target.format(*numbers)
    return None


def _behind(convolution: str) -> str:
    for pattern, replacement in AFTER:
        name, count = re.subn(pattern, replacement, convolution)
        if count:
            return name
    return convolution


def _kernel(layer: Layer) -> Floats:
    """(outputs, inputs, h, w) of a kernel; a depthwise one has one input for each output."""
    kernel = next(value for part, value in layer.tensors.items() if part != "bias")
    return kernel.transpose(2, 3, 0, 1) if layer.kind == "DepthwiseConv2D" else (
        kernel.transpose(3, 2, 0, 1)
    )  # fmt: skip


def _normalised(layer: Layer) -> dict[str, Floats]:
    held = layer.tensors
    mean = held["moving_mean"]
    return {
        "weight": held.get("gamma", np.ones_like(mean)),
        "bias": held.get("beta", np.zeros_like(mean)),
        "running_mean": mean,
        "running_var": held["moving_variance"] + np.float32(layer.epsilon - EPSILON),
    }


def _scale(rescalings: Sequence[Layer]) -> Normalisation | None:
    """What rescalings of all channels alike do; None of others."""
    factor, offset = 1.0, 0.0
    for layer in rescalings:
        if set(layer.settings) != {"scale", "offset"} or layer.settings["scale"] <= 0:
            return None
        factor = factor * layer.settings["scale"]
        offset = offset * layer.settings["scale"] + layer.settings["offset"]
    return Normalisation((0.0 - offset / factor,), (1 / factor,))
