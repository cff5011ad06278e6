"""Maps: equal to captum's, exact where they claim to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum.attr import (
    GuidedBackprop,
    IntegratedGradients,
    LayerGradCam,
    LayerGradientXActivation,
    NoiseTunnel,
    Occlusion,
    Saliency,
)

from leadapron.errors import UnknownNameError, UsageError
from leadapron.explainers import (
    EXPLAINERS,
    authors_shortcut,
    class_activation,
    explained_layer,
    fine_stage,
    grad_cam,
    grad_cam_plus_plus,
    guided_backprop,
    integrated_gradients,
    layer_cam,
    smooth_grad,
    unsupported,
    xplain,
)
from leadapron.explainers.occlusion import occlusion
from leadapron.films.cohort import Overlay
from leadapron.films.preprocessing import Preprocessing
from leadapron.models import classifier as classifiers
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import build_network

FINDINGS = ("Effusion", "Mass", "Nodule")
LAST = {"resnet9": "scale8", "densenet121": "denseblock4"}
FINE = {"resnet9": "scale2", "densenet121": "denseblock1"}
SIZE = 64
COARSE = {
    "class-activation": class_activation,
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "layer-cam": layer_cam,
}
STAGED = {name: COARSE[name] for name in ("grad-cam", "grad-cam++", "layer-cam")}
CHEAP = {
    "xplain": {"steps": 2},
    "smooth-grad": {"samples": 2},
    "occlusion": {"window": 32, "stride": 32},
    **{f"integrated-gradients-{kind}": {"steps": 2} for kind in ("black", "blurred", "mean")},
}


def brief(name):
    """The explainer with few steps."""

    def explain(*given):
        return EXPLAINERS[name](*given, **CHEAP.get(name, {}))

    return explain


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


@pytest.fixture(params=list(EXPLAINERS))
def explainer(request, classifier):
    if unsupported(request.param, classifier.architecture):
        pytest.skip("not on this architecture")
    return brief(request.param)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE), np.uint8)


@pytest.fixture(scope="module")
def inputs(classifier, images):
    return classifier.normalise(torch.from_numpy(images))


def scale(values):
    return max(1e-3, float(np.abs(np.asarray(values)).max()))


def near(first, second, tolerance=1e-5):
    assert first.shape == second.shape
    assert np.abs(np.asarray(first) - np.asarray(second)).max() < tolerance * scale(second)


def alike(first, second, tolerance=0.03):
    """Nearly the same: rounding in another batch may take one ReLU across its kink."""
    assert first.shape == second.shape
    distance = np.linalg.norm(np.asarray(first) - np.asarray(second))
    assert distance <= tolerance * np.linalg.norm(np.asarray(second))


def array(tensor):
    return tensor.detach().numpy()


def wanted(inputs):
    """A copy that asks for its gradient, without which captum warns."""
    return inputs.detach().clone().requires_grad_()


def slope(network, inputs, column):
    """The plain gradient, (n, 1, h, w)."""
    inputs = wanted(inputs)
    return torch.autograd.grad(network(inputs)[:, column].sum(), inputs)[0]


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


def test_grad_cam_is_captums_times_the_places(classifier, images, inputs):
    network = classifier.module
    for stage in network.stages:
        maps = grad_cam(classifier, images, FINDINGS, stage=stage, enlarge=False)
        places = maps.shape[2] * maps.shape[3]
        cam = LayerGradCam(network, network.stages[stage])
        for column in range(len(FINDINGS)):
            theirs = cam.attribute(inputs, target=column, relu_attributions=True)
            near(maps[:, column], places * array(theirs[:, 0]))
    last = grad_cam(classifier, images, FINDINGS, enlarge=False)
    near(last, class_activation(classifier, images, FINDINGS, enlarge=False).clip(0))
    assert last.max() > 0


def test_grad_cam_plus_plus_is_the_formula(classifier, images, inputs):
    """Every place of every channel by hand, in float64."""
    network = classifier.module
    for stage in network.stages:
        maps = grad_cam_plus_plus(classifier, images[:1], FINDINGS, stage=stage, enlarge=False)
        for column in range(len(FINDINGS)):
            slopes, values = compute_layer_gradients_and_eval(
                network, network.stages[stage], inputs[:1], column
            )
            g, a = (array(t[0][0]).astype(np.float64) for t in (slopes, values))
            expected = np.zeros(a.shape[1:])
            for channel in range(len(a)):
                below = 2 * g[channel] ** 2 + a[channel].sum() * g[channel] ** 3
                share = np.divide(
                    g[channel] ** 2, below, out=np.zeros_like(below), where=below != 0
                )
                expected += (share * np.maximum(g[channel], 0)).sum() * a[channel]
            near(maps[0, column], np.maximum(expected, 0), 1e-3)
            assert expected.max() > 0


def test_grad_cam_plus_plus_worked_by_hand():
    """One channel, 2x2 places A = (1, 2; 3, 4), logit = 0.5 * mean: every share is 4 / 9."""
    network = build_network("resnet9", 1, 0).eval()
    network.stages = torch.nn.ModuleDict({"only": torch.nn.ReLU()})
    network.head = torch.nn.Linear(1, 1)
    with torch.no_grad():
        network.head.weight.fill_(0.5)
    model = NetworkClassifier(network, "resnet9", ("Mass",), Preprocessing(size=8), mean=0, std=1)
    images = np.array([[[51, 102], [153, 204]]], np.uint8)  # 0.2, 0.4, 0.6, 0.8
    # g = 1/8 everywhere, sum A = 2: share = g^2 / (2 g^2 + 2 g^3) = 1 / (2 + 1/4) = 4/9
    weight = 4 * (4 / 9) * (1 / 8)
    maps = grad_cam_plus_plus(model, images, ["Mass"], enlarge=False)
    near(maps[0, 0], weight * np.array([[0.2, 0.4], [0.6, 0.8]]))


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


def test_the_authors_shortcut(classifier, images, inputs):
    """The head on Keras' pool4_relu, found in MONAI's own network by a hook."""
    if classifier.architecture != "densenet121":
        with pytest.raises(UsageError, match="authors-shortcut on resnet9: only densenet121"):
            authors_shortcut(classifier, images, FINDINGS)
        return
    shown = []
    layer = classifier.module.stages["denseblock4"].transition3.relu
    with layer.register_forward_hook(lambda *given: shown.append(given[2].clone())):
        classifier.module(inputs)
    (pool4_relu,) = shown
    assert pool4_relu.shape == (4, 1024, 4, 4)
    maps = authors_shortcut(classifier, images, FINDINGS, enlarge=False)
    # Their Grad-CAM: the gradient of the head, applied there, towards the layer; its mean over
    # places weights the channels; 0 or more. Channels summed; times the places as grad-cam.
    pool4_relu = pool4_relu.detach().requires_grad_()
    predictions = classifier.module.head(pool4_relu.mean((2, 3)))
    for column in range(len(FINDINGS)):
        (grads,) = torch.autograd.grad(predictions[:, column].sum(), pool4_relu, retain_graph=True)
        theirs = (grads.mean((2, 3), keepdim=True) * pool4_relu).sum(1).relu() * 16
        near(maps[:, column], array(theirs))
    exact = grad_cam(classifier, images, FINDINGS)
    assert not np.allclose(exact, authors_shortcut(classifier, images, FINDINGS), atol=1e-3)


@pytest.mark.parametrize("baseline", ["black", "blurred", "mean"])
def test_integrated_gradients_are_captums(classifier, images, inputs, baseline):
    few, films = images[:2], inputs[:2]
    start = {
        "black": classifier.normalise(torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)),
        "mean": films.mean((2, 3), keepdim=True).expand_as(films).contiguous(),
        "blurred": blurred(films),
    }[baseline]
    maps = integrated_gradients(classifier, few, FINDINGS, baseline=baseline, steps=3)
    attribution = IntegratedGradients(classifier.module)
    for column in range(len(FINDINGS)):
        theirs = attribution.attribute(films, start, target=column, n_steps=3)
        alike(maps[:, column], array(theirs[:, 0]))
    assert maps.min() < 0 < maps.max()
    named = EXPLAINERS[f"integrated-gradients-{baseline}"](classifier, few, FINDINGS, steps=3)
    assert np.array_equal(named, maps)


def blurred(films):
    """Gaussian of an eighth of the side, place by place, edges mirrored."""
    deviation = SIZE / 8
    reach = int(np.ceil(2 * deviation))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    weights /= weights.sum()
    wide = np.pad(
        films.numpy().astype(np.float64), ((0, 0), (0, 0), *[(reach, reach)] * 2), "reflect"
    )
    rows = sum(w * wide[:, :, i : i + SIZE] for i, w in enumerate(weights))
    both = sum(w * rows[..., i : i + SIZE] for i, w in enumerate(weights))
    return torch.from_numpy(both.astype(np.float32))


def test_integrated_gradients_add_up_to_the_logits_change(classifier, images):
    maps = integrated_gradients(classifier, images[:1], FINDINGS, steps=50)
    logits = classifier.logits(np.stack([images[0], np.zeros_like(images[0])]))
    change = logits[0] - logits[1]
    assert np.abs(maps[0].sum((1, 2)) - change).max() < 0.05 * np.abs(change).max()


def test_a_pixel_like_the_baseline_gets_nothing(classifier, images):
    marked = images[:1].copy()
    marked[:, 20:24, 30:34] = 0
    maps = integrated_gradients(classifier, marked, FINDINGS, steps=1)
    assert np.abs(maps[0, :, 20:24, 30:34]).max() < 1e-6 * np.abs(maps).max()


def test_xplain_without_its_additions_is_integrated_gradients(classifier, images):
    plain = integrated_gradients(classifier, images[:2], FINDINGS, steps=2)
    alike(xplain(classifier, images[:2], FINDINGS, steps=2, share=0, noise=0), plain)


def test_xplain_is_captums_of_the_network_with_the_second_baseline(classifier, images, inputs):
    films = inputs[:2]
    kept, share = blurred(films), 0.3
    start = classifier.normalise(torch.zeros(2, SIZE, SIZE, dtype=torch.uint8))

    def mixed(x):
        return classifier.module((1 - share) * x + share * kept.repeat(len(x) // 2, 1, 1, 1))

    maps = xplain(classifier, images[:2], FINDINGS, steps=3, share=share, noise=0)
    for column in range(len(FINDINGS)):
        theirs = IntegratedGradients(mixed).attribute(films, start, target=column, n_steps=3)
        alike(maps[:, column], array(theirs[:, 0]))


def test_xplains_noise_is_a_share_of_the_films_deviation(classifier, images, inputs):
    """One step: the mean of the ends, and the one noise field of the seed."""
    films = inputs[:2]
    start = classifier.normalise(torch.zeros(2, SIZE, SIZE, dtype=torch.uint8))
    field = torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    point = (start + films) / 2 + 0.2 * films.std((2, 3), keepdim=True) * field
    maps = xplain(classifier, images[:2], FINDINGS, steps=1, share=0, noise=0.2, seed=5)
    for column in range(len(FINDINGS)):
        expected = (films - start) * slope(classifier.module, point, column)
        alike(maps[:, column], array(expected[:, 0]))


def test_smooth_grad_is_captums_noise_tunnel(classifier, images, inputs, monkeypatch):
    fields = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
    tunnel = NoiseTunnel(Saliency(classifier.module))
    deviation = 0.2 / classifier.std

    def ours(mean, deviations):  # captum repeats each film for its samples
        return deviations * fields[:, None].repeat(len(deviations) // 3, 1, 1, 1)

    maps = smooth_grad(classifier, images[:2], FINDINGS, samples=3, noise=0.2, seed=7)
    monkeypatch.setattr(torch, "normal", ours)
    for column in range(len(FINDINGS)):
        theirs = tunnel.attribute(
            inputs[:2], "smoothgrad", 3, stdevs=deviation, target=column, abs=False
        )
        alike(maps[:, column] * classifier.std, array(theirs[:, 0].abs()))


def test_smooth_grad_without_noise_is_the_gradients_size(classifier, images, inputs):
    maps = smooth_grad(classifier, images[:2], FINDINGS, samples=1, noise=0)
    for column in range(len(FINDINGS)):
        theirs = Saliency(classifier.module).attribute(wanted(inputs[:2]), target=column)
        alike(maps[:, column] * classifier.std, array(theirs[:, 0]))


@pytest.mark.parametrize("explain", [smooth_grad, xplain])
def test_noise_comes_from_the_seed_alone(classifier, images, explain):
    first = explain(classifier, images[:1], FINDINGS)
    state = torch.random.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert np.array_equal(first, explain(classifier, images[:1], FINDINGS))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not np.allclose(first, explain(classifier, images[:1], FINDINGS, seed=1))


def test_guided_backprop_is_captums(classifier, images, inputs):
    """On ReLUs that write over their input (MONAI's) and that don't; each used once."""
    relus = [m for m in classifier.module.modules() if isinstance(m, torch.nn.ReLU)]
    assert any(m.inplace for m in relus) == (classifier.architecture == "densenet121")
    maps = guided_backprop(classifier, images, FINDINGS)
    for column in range(len(FINDINGS)):
        with pytest.warns(UserWarning, match="hooks will be removed"):
            theirs = GuidedBackprop(classifier.module).attribute(wanted(inputs), target=column)
        alike(maps[:, column] * classifier.std, array(theirs[:, 0].abs()))
        plain = array(slope(classifier.module, inputs, column)[:, 0])
        assert not np.allclose(array(theirs[:, 0]), plain, atol=0.01 * scale(plain))
    assert not any(m._forward_pre_hooks for m in relus)


def test_guided_backprop_takes_its_hooks_off_when_it_fails(classifier, images):
    with pytest.raises(UsageError):
        guided_backprop(classifier, images[:0], FINDINGS)
    assert not any(m._forward_pre_hooks for m in classifier.module.modules())


@pytest.mark.parametrize(("window", "stride"), [(32, 16), (24, 24), (20, 15), (64, 1)])
def test_occlusion_is_captums(classifier, images, inputs, window, stride):
    few, films = images[:2], inputs[:2]
    grey = films.mean((2, 3), keepdim=True).expand_as(films)
    maps = occlusion(classifier, few, FINDINGS, window=window, stride=stride)
    for column in range(len(FINDINGS)):
        theirs = Occlusion(classifier.module).attribute(
            films,
            (1, window, window),
            (1, stride, stride),
            baselines=grey,
            target=column,
        )
        near(maps[:, column], array(theirs[:, 0]), 1e-4)


def test_occlusions_defaults_are_a_hundred_squares(classifier, images, monkeypatch):
    seen = []
    forward = type(classifier.module).forward

    def counted(self, batch):
        seen.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(type(classifier.module), "forward", counted)
    occlusion(classifier, images[:2], FINDINGS)
    assert sum(seen) == 2 * (1 + 100)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *a: occlusion(*a, window=65), "window 65; expected 1 to 64 pixels"),
        (lambda *a: occlusion(*a, window=8, stride=9), "stride 9; expected 1 to 8"),
        (lambda *a: integrated_gradients(*a, steps=0), "steps 0; expected 1 or more"),
        (lambda *a: integrated_gradients(*a, baseline="blak"), "did you mean black"),
        (lambda *a: smooth_grad(*a, samples=0), "samples 0; expected 1 or more"),
        (lambda *a: smooth_grad(*a, noise=-1), "noise -1; expected 0 or more"),
        (lambda *a: xplain(*a, share=1), "expected 0 <= share < 1"),
    ],
)
def test_values_outside_their_range(classifier, images, call, message):
    with pytest.raises(UsageError, match=message):
        call(classifier, images, FINDINGS)


def test_findings_and_films_are_independent(classifier, images, explainer, monkeypatch):
    together = explainer(classifier, images, FINDINGS)
    assert (together.shape, together.dtype) == ((4, 3, SIZE, SIZE), np.float32)
    assert together.max() > 0
    alike(explainer(classifier, images, FINDINGS[::-1]), together[:, ::-1])
    alike(explainer(classifier, images[2:3], FINDINGS[1:2])[0, 0], together[2, 1])
    monkeypatch.setattr(classifiers, "BATCH", 3)
    alike(explainer(classifier, images, FINDINGS), together)
    overlay = Overlay(images, [0], images[:1] // 2, order=[2, 1])
    alike(explainer(classifier, overlay, FINDINGS)[1], together[1])


@pytest.mark.parametrize("name", list(COARSE))
def test_enlarged_is_bilinear(classifier, images, name):
    small = COARSE[name](classifier, images, FINDINGS, enlarge=False)
    side = small.shape[-1]
    assert side < SIZE
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small), size=(SIZE, SIZE), mode="bilinear", align_corners=False
    )
    near(COARSE[name](classifier, images, FINDINGS), expected.numpy())


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


def test_layers_have_names(classifier):
    layers = {name: explained_layer(name, classifier) for name in EXPLAINERS}
    last, fine = LAST[classifier.architecture], FINE[classifier.architecture]
    assert layers["grad-cam"] == layers["grad-cam++"] == f"stage {last}"
    assert layers["class-activation"] == f"stage {last}"
    assert layers["layer-cam"] == f"stage {fine}"
    assert layers["authors-shortcut"] == "ReLU of transition3"
    assert layers["occlusion"] == layers["xplain"] == "pixels"
    with pytest.raises(UnknownNameError, match="did you mean layer-cam"):
        explained_layer("layercam", classifier)


def test_what_an_architecture_lacks():
    assert unsupported("authors-shortcut", "resnet9") == "made for densenet121, not resnet9"
    assert not unsupported("authors-shortcut", "densenet121")
    with pytest.raises(UnknownNameError, match="did you mean grad-cam"):
        unsupported("gradcam", "resnet9")


def test_unknown_names(classifier, images, explainer):
    with pytest.raises(UnknownNameError, match="unknown finding 'Mas'; did you mean Mass"):
        explainer(classifier, images, ["Effusion", "Mas"])


@pytest.mark.parametrize("name", list(STAGED))
def test_unknown_stages(classifier, images, name):
    with pytest.raises(UnknownNameError, match="unknown stage 'scale3'"):
        STAGED[name](classifier, images, FINDINGS, stage="scale3")


def test_no_images_are_a_usage_error(classifier, images, explainer):
    with pytest.raises(UsageError, match="no images"):
        explainer(classifier, images[:0], FINDINGS)


def test_bf16_is_close(classifier, images, explainer):
    full = explainer(classifier, images, FINDINGS)
    short = explainer(replace(classifier, precision="bf16"), images, FINDINGS)
    assert short.dtype == np.float32
    assert np.corrcoef(full.ravel(), short.ravel())[0, 1] > 0.9
