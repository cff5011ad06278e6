"""Maps: equal to captum's, exact where they claim to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum.attr import LayerGradCam, LayerGradientXActivation

from leadapron import classifier as classifiers
from leadapron import explain as module
from leadapron.classifier import NetworkClassifier
from leadapron.cohort import Overlay
from leadapron.errors import UnknownNameError, UsageError
from leadapron.explain import EXPLAINERS, class_activation, fine_stage, layer_cam
from leadapron.networks import build_network
from leadapron.preprocessing import Preprocessing

FINDINGS = ("Effusion", "Mass", "Nodule")
LAST = {"resnet9": "scale8", "densenet121": "denseblock4"}
FINE = {"resnet9": "scale2", "densenet121": "denseblock1"}
SIZE = 64


@pytest.fixture(scope="module", params=sorted(LAST))
def classifier(request):
    network = build_network(request.param, len(FINDINGS), seed=1)
    generator = torch.Generator().manual_seed(2)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    return NetworkClassifier(
        network.eval(), request.param, FINDINGS, Preprocessing(size=SIZE), precision="fp32"
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE), np.uint8)


@pytest.fixture(scope="module")
def inputs(classifier, images):
    return classifier.normalise(torch.from_numpy(images))


def scale(values):
    return max(1.0, float(np.abs(values).max()))


def near(first, second, tolerance=1e-5):
    assert first.shape == second.shape
    assert np.abs(np.asarray(first) - np.asarray(second)).max() < tolerance * scale(second)


def test_class_activation_is_grad_cam_at_the_last_map(classifier, images, inputs):
    network = classifier.module
    maps = class_activation(classifier, images, FINDINGS, enlarge=False)
    places = maps.shape[2] * maps.shape[3]
    cam = LayerGradCam(network, network.stages[LAST[classifier.architecture]])
    for column in range(len(FINDINGS)):
        theirs = cam.attribute(inputs, target=column, relu_attributions=False)
        near(maps[:, column], places * theirs[:, 0].detach().numpy())
    assert maps.min() < 0 < maps.max()


def test_class_activations_mean_is_the_logit(classifier, images):
    maps = class_activation(classifier, images, FINDINGS, enlarge=False)
    bias = classifier.module.head.bias.detach().numpy()
    near(maps.mean((2, 3)) + bias, classifier.logits(images))


def test_layer_cam_is_the_papers(classifier, images, inputs):
    network = classifier.module
    for stage in network.stages:
        maps = layer_cam(classifier, images, FINDINGS, stage=stage, enlarge=False)
        assert maps.min() >= 0
        for column in range(len(FINDINGS)):
            slopes, values = compute_layer_gradients_and_eval(
                network, network.stages[stage], inputs, column
            )
            theirs = (slopes[0].relu() * values[0]).sum(1).relu()
            near(maps[:, column], theirs.detach().numpy())


def test_layer_cam_is_gradient_times_activation(classifier, images, inputs):
    network = classifier.module
    # A DenseNet's inner maps may be negative, and then the positive part of the product is not
    # the product of the gradient's positive part.
    inner = list(network.stages) if classifier.architecture == "resnet9" else ["denseblock4"]
    for stage in inner:
        maps = layer_cam(classifier, images, FINDINGS, stage=stage, enlarge=False)
        attribution = LayerGradientXActivation(network, network.stages[stage])
        for column in range(len(FINDINGS)):
            theirs = attribution.attribute(inputs, target=column).clamp(min=0).sum(1)
            near(maps[:, column], theirs.detach().numpy())


@pytest.mark.parametrize("explainer", list(EXPLAINERS.values()), ids=list(EXPLAINERS))
def test_findings_and_films_are_independent(classifier, images, explainer, monkeypatch):
    together = explainer(classifier, images, FINDINGS)
    assert (together.shape, together.dtype) == ((4, 3, SIZE, SIZE), np.float32)
    assert together.max() > 0
    for j, finding in enumerate(FINDINGS):
        near(explainer(classifier, images, [finding])[:, 0], together[:, j])
    near(explainer(classifier, images, FINDINGS[::-1]), together[:, ::-1])
    for i in range(len(images)):
        near(explainer(classifier, images[i : i + 1], FINDINGS)[0], together[i], 1e-4)
    for place in (classifiers, module):
        monkeypatch.setattr(place, "BATCH", 3)
    near(explainer(classifier, images, FINDINGS), together, 1e-4)
    overlay = Overlay(images, [0], images[:1] // 2, order=[2, 1])
    near(explainer(classifier, overlay, FINDINGS)[1], together[1], 1e-4)


@pytest.mark.parametrize("explainer", list(EXPLAINERS.values()), ids=list(EXPLAINERS))
def test_enlarged_is_bilinear(classifier, images, explainer):
    small = explainer(classifier, images, FINDINGS, enlarge=False)
    side = small.shape[-1]
    assert side < SIZE
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small), size=(SIZE, SIZE), mode="bilinear", align_corners=False
    )
    near(explainer(classifier, images, FINDINGS), expected.numpy())


@pytest.mark.parametrize("explainer", list(EXPLAINERS.values()), ids=list(EXPLAINERS))
def test_the_classifier_stays_as_it_was(classifier, images, explainer):
    before = {name: value.clone() for name, value in classifier.module.state_dict().items()}
    kept = images.copy()
    explainer(classifier, images, FINDINGS)
    after = classifier.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for parameter in classifier.module.parameters():
        assert parameter.grad is None
        assert parameter.requires_grad
    assert not classifier.module.training
    assert np.array_equal(images, kept)


def test_the_fine_stage(classifier, images):
    assert fine_stage(classifier) == FINE[classifier.architecture]
    named = layer_cam(classifier, images, FINDINGS, stage=FINE[classifier.architecture])
    assert np.array_equal(layer_cam(classifier, images, FINDINGS), named)


@pytest.mark.parametrize("explainer", list(EXPLAINERS.values()), ids=list(EXPLAINERS))
def test_unknown_names(classifier, images, explainer):
    with pytest.raises(UnknownNameError, match="unknown finding 'Mas'; did you mean Mass"):
        explainer(classifier, images, ["Effusion", "Mas"])
    with pytest.raises(UnknownNameError, match="unknown stage 'scale3'"):
        layer_cam(classifier, images, FINDINGS, stage="scale3")


@pytest.mark.parametrize("explainer", list(EXPLAINERS.values()), ids=list(EXPLAINERS))
def test_no_images_are_a_usage_error(classifier, images, explainer):
    with pytest.raises(UsageError, match="no images"):
        explainer(classifier, images[:0], FINDINGS)


@pytest.mark.parametrize("explainer", list(EXPLAINERS.values()), ids=list(EXPLAINERS))
def test_bf16_is_close(classifier, images, explainer):
    full = explainer(classifier, images, FINDINGS)
    short = explainer(replace(classifier, precision="bf16"), images, FINDINGS)
    assert short.dtype == np.float32
    assert np.corrcoef(full.ravel(), short.ravel())[0, 1] > 0.98
