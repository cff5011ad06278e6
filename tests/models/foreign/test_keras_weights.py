"""Weights of Keras's networks as this package's; `make test-keras` compares their answers."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from foreign_models import settled
from leadapron.models.foreign.keras_weights import FAMILIES, _targets, of_keras
from leadapron.models.foreign.process import Layer
from leadapron.models.foreign.recognise import Normalisation, recognise
from leadapron.models.networks import GREY_MEAN, GREY_STD, GreyChannels, build_network

EPSILON = 1e-3
NAMES = {
    "block{}.depthwise_conv": ("conv_dw_{}", "DepthwiseConv2D"),
    "block{}.bn1": ("conv_dw_{}_bn", "BatchNormalization"),
    "block{}.pointwise_conv": ("conv_pw_{}", "Conv2D"),
    "block{}.bn2": ("conv_pw_{}_bn", "BatchNormalization"),
}


def layer(name, kind, part):
    if kind == "BatchNormalization":
        held = {"gamma": part.weight, "beta": part.bias, "moving_mean": part.running_mean,
                "moving_variance": part.running_var - EPSILON + part.eps}  # fmt: skip
        return Layer(name, kind, EPSILON, {}, {n: v.detach().numpy() for n, v in held.items()})
    order = (2, 3, 0, 1) if kind == "DepthwiseConv2D" else (2, 3, 1, 0)
    return Layer(name, kind, 0, {}, {"kernel": part.weight.detach().permute(order).numpy()})


def layers(network):
    """A MobileNet's layers as Keras names and orders them."""
    inside = {
        name.split(".", 2)[2]: part
        for name, part in network.named_modules() if name.count(".") > 1
    }  # fmt: skip
    found = [
        Layer("input_1", "InputLayer", 0, {}, {}),
        layer("conv1", "Conv2D", inside["conv1"]),
        layer("conv1_bn", "BatchNormalization", inside["bn1"]),
    ]
    for number in range(1, 14):
        found += [
            layer(name.format(number), kind, inside[ours.format(number)])
            for ours, (name, kind) in NAMES.items()
        ]
    head = {
        "kernel": network.head.weight.detach().T.numpy(),
        "bias": network.head.bias.detach().numpy(),
    }
    return [*found, Layer("dense", "Dense", 0, {}, head)]


@pytest.fixture(scope="module")
def network():
    return settled(build_network("mobilenet", 2, 3))


def test_a_mobilenet_comes_back_as_it_was(network):
    found = of_keras(layers(network), "a.keras", "0" * 64)
    assert found.architecture == "mobilenet"
    module = recognise(found.weights, ("a", "b"), found.scale, found.architecture).module
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(module(images), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01


def test_rescalings_follow_each_other(network):
    scaled = [Layer("a", "Rescaling", 0, {"scale": 2.0, "offset": -1.0}, {}),
              Layer("b", "Rescaling", 0, {"scale": 4.0, "offset": 3.0}, {})]  # fmt: skip
    scale = of_keras([*scaled, *layers(network)], "a.keras", "0" * 64).scale
    # 4 (2 x - 1) + 3
    assert (0.5 - scale.mean[0]) / scale.std[0] == pytest.approx(3)
    assert (0 - scale.mean[0]) / scale.std[0] == pytest.approx(-1)


def scaling(mean, variance):
    tensors = {"mean": np.float32(mean), "variance": np.float32(variance)}
    return Layer("normalization", "Normalization", 0, {}, tensors)


def test_a_normalisation_of_each_channel_follows_a_rescaling(network):
    first = [
        Layer("a", "Rescaling", 0, {"scale": 0.5, "offset": 1.0}, {}),
        scaling([1.0, 2.0, 3.0], [4.0, 16.0, 64.0]),
        Layer("b", "Rescaling", 0, {"offset": 0.0}, {"scale": np.float32([2, 4, 8])}),
    ]
    scale = of_keras([*first, *layers(network)], "a.keras", "0" * 64).scale
    # The standard deviations are 2, 4 and 8, which the last rescaling undoes.
    expected = np.array([6 / 2 + 1 - mean for mean in (1, 2, 3)])
    given = (6 - np.array(scale.mean)) / scale.std
    np.testing.assert_allclose(given, expected, rtol=1e-6)


def test_equal_channels_are_one(network):
    every = [scaling([0.5] * 3, [0.25] * 3), *layers(network)]
    assert of_keras(every, "a.keras", "0" * 64).scale == Normalisation((0.5,), (0.5,))


def test_normalisations_one_after_another():
    grey, colours = Normalisation((0.5,), (0.25,)), Normalisation((1, 2, 4), (1, 2, 0.5))
    both = grey.then(colours)
    for place in range(3):
        inner = (0.7 - 0.5) / 0.25
        expected = (inner - colours.mean[place]) / colours.std[place]
        assert (0.7 - both.mean[place]) / both.std[place] == pytest.approx(expected)
    assert colours.then(Normalisation((0.0,), (1.0,))) == colours


def inside_out(architecture, rules):
    """A network's layers under Keras's names, by rules from this package's."""
    network = settled(build_network(architecture, 2, 3))
    found = []
    for name, part in network.named_modules():
        if not name.startswith("stages.") or not isinstance(part, nn.Conv2d | nn.BatchNorm2d):
            continue
        theirs = name.split(".", 2)[2]
        for pattern, becomes in rules:
            theirs = re.sub(pattern, becomes, theirs)
        kind = "BatchNormalization" if isinstance(part, nn.BatchNorm2d) else "Conv2D"
        if kind == "Conv2D" and part.groups > 1:
            kind = "DepthwiseConv2D"
        one = layer(theirs, kind, part)
        if getattr(part, "bias", None) is not None and kind == "Conv2D":
            one = one._replace(tensors={**one.tensors, "bias": part.bias.detach().numpy()})
        found.append(one)
    return network, found


def headed(network, found):
    kernel, bias = (value.detach().numpy() for value in network.head.parameters())
    return [*found, Layer("dense", "Dense", 0, {}, {"kernel": kernel.T, "bias": bias})]


def test_an_efficientnet_comes_back_with_its_three_channels():
    rules = (
        (r"conv_stem", "stem_conv"), (r"^bn0", "stem_bn"), (r"conv_head", "top_conv"),
        (r"^bn1", "top_bn"), (r"\.bn0", "_expand_bn"), (r"\.bn1", "_bn"),
        (r"\.bn2", "_project_bn"), (r"depthwise_conv", "dwconv"), (r"\.", "_"),
    )  # fmt: skip
    network, found = inside_out("efficientnet_b0-keras", rules)
    first = scaling([0.1, 0.2, 0.3], [0.25, 0.5, 1.0])
    every = [first, *headed(network, found)]
    given = of_keras(every, "a.keras", "0" * 64)
    opened = recognise(given.weights, ("a", "b"), given.scale, given.architecture)
    grey = torch.rand(2, 1, 32, 32)
    own = GreyChannels((0.1, 0.2, 0.3), tuple(math.sqrt(v) for v in (0.25, 0.5, 1.0)))
    network.stages["scale2"].grey.load_state_dict(own.state_dict())
    with torch.inference_mode():
        images = (grey - GREY_MEAN) / GREY_STD
        expected = network(images)
        torch.testing.assert_close(opened.module(images), expected, rtol=0, atol=1e-5)
    assert (opened.mean, opened.std) == (GREY_MEAN, GREY_STD)


def test_layers_that_keras_only_counts_are_taken_in_order():
    family = next(each for each in FAMILIES if each.architecture == "xception-keras")
    names = [
        "block1_conv2", "conv2d_7", "batch_normalization", "block3_sepconv2", "conv2d_8",
        "batch_normalization_5", "conv2d_9", "conv2d_10", "conv2d_11", "block3_sepconv2_bn",
    ]  # fmt: skip
    assert _targets(family, names) == [
        "conv2", "block2.shortcut_conv", "block2.shortcut_bn", "block3.body.sepconv2",
        "block3.shortcut_conv", "block3.shortcut_bn", "block4.shortcut_conv",
        "block13.shortcut_conv", None, "block3.body.bn2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda every: [*every[:3], Layer("x", "LayerNormalization", 0, {}, {}), *every[3:]],
        lambda every: every[:-3] + every[-1:],  # no conv_pw_13
        lambda every: [*every, Layer("conv_pw_14", "Conv2D", 0, {}, every[1].tensors)],
        lambda every: [*every[:-1], every[-1]._replace(name="extra", kind="Dense"), every[-1]],
        lambda every: [*every, every[-1]],
        lambda every: [Layer("r", "Rescaling", 0, {"scale": 0.0, "offset": 1.0}, {}), *every],
        lambda every: every[:-1],
    ],
)
def test_what_is_no_known_network(network, change):
    assert of_keras(change(layers(network)), "a.keras", "0" * 64) is None


def test_a_bias_goes_into_the_mean_of_the_normalisation_behind(network):
    def weights(every):
        held = of_keras(every, "a.keras", "0" * 64).weights
        return held.take(held.groups[""])

    plain = layers(network)
    moved, bias = list(plain), np.linspace(-1, 1, 32, dtype=np.float32)
    mean = plain[2].tensors["moving_mean"]
    moved[1] = plain[1]._replace(tensors={**plain[1].tensors, "bias": bias})
    moved[2] = plain[2]._replace(tensors={**plain[2].tensors, "moving_mean": mean + bias})
    expected, found = weights(plain), weights(moved)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
