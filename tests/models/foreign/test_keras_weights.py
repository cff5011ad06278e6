"""Weights of Keras's networks as this package's; `make test-keras` compares their answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foreign_models import settled
from leadapron.models.foreign.keras_weights import of_keras
from leadapron.models.foreign.process import Layer
from leadapron.models.foreign.recognise import recognise
from leadapron.models.networks import build_network

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
