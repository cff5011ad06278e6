"""Any network can be a white box: methods ask for what they need, and say what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam, Occlusion, Saliency
from network_scenes import Convolutional, Transformer, convolutional, transformer
from torch import nn

from audits import audit_model
from leadapron.detect.features import FEATURE_DETECTORS, extract
from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL, WEIGHTS, calibrate, judge, read
from leadapron.detect.models import (
    STATISTICS,
    Inversion,
    StampSweep,
    Wanted,
    head_outliers,
    measure,
    measure_once,
    not_applicable,
)
from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.explainers import EXPLAINERS, NEEDS, explained_layer, unsupported
from leadapron.models import networks
from leadapron.models.classifier import (
    NetworkClassifier,
    load_classifier,
    randomised,
    save_classifier,
)
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier, model_warnings, open_model
from leadapron.models.networks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    GreyChannels,
    Instrumented,
    build_network,
)
from leadapron.models.protocols import (
    OF_NETWORKS,
    BlackBox,
    Capability,
    Differentiable,
    WhiteBox,
    lacking,
)
from leadapron.models.training import Network, Training, train
from leadapron.sources import open_source

SIZE = 32
MADE = {
    "vit-class": transformer,
    "vit-mean": lambda outputs: transformer(outputs, pooled=True),
    "two-stage": convolutional,
}
VITS = ("vit-class", "vit-mean")
APART = {
    "vit-class": {"class-activation", "authors-shortcut", "guided-backprop"},
    "vit-mean": {"class-activation", "authors-shortcut", "guided-backprop"},
    "two-stage": {"class-activation", "authors-shortcut", "attention-rollout"},
}
QUICK = StampSweep(values=(0, 255), sides=(3,), pitches=((8, 1),), rounds=1, films=1, judged=20)


@pytest.fixture(autouse=True, scope="module")
def registered():
    """The networks as registered architectures."""
    before = dict(networks.ARCHITECTURES)
    networks.ARCHITECTURES.update(MADE)
    yield
    networks.ARCHITECTURES.clear()
    networks.ARCHITECTURES.update(before)
    networks.unmade.cache_clear()


@pytest.fixture(scope="module")
def films():
    whole = open_source(f"phantom:{SIZE}", count=120)
    return replace(whole, labels=whole.labels[:, :3], findings=whole.findings[:3])


@pytest.fixture(scope="module", params=list(MADE))
def classifier(request, films, registered):
    trained, history = train(
        films,
        films.take(np.arange(20)),
        network=Network(name=request.param),
        training=Training(epochs=2, batch_size=16),
        device="cpu",
        precision="fp32",
    )
    assert history[1]["loss"] < history[0]["loss"]
    return trained


def plain(classifier):
    """The network without the wrapper, for references."""
    return classifier.module.network


def inputs(classifier, images):
    return classifier.normalise(torch.from_numpy(images)).requires_grad_()


def near(ours, theirs, tolerance=1e-4):
    theirs = np.asarray(theirs.detach() if torch.is_tensor(theirs) else theirs)
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def asked():
    return BlackBoxClassifier(
        lambda images: images.mean((2, 3)).repeat(2, 1),
        ("Effusion", "Mass"),
        open_source(f"phantom:{SIZE}", count=1).preprocessing,
        NORMALISATIONS["unit"],
    )


# --- what it gives


def test_each_gives_what_the_protocols_ask_for(classifier, films):
    assert isinstance(classifier, BlackBox)
    assert isinstance(classifier, WhiteBox)
    assert isinstance(classifier, Differentiable)
    assert isinstance(asked(), BlackBox)
    assert not isinstance(asked(), WhiteBox)
    images = films.images[:5]
    with torch.inference_mode():
        network, x = plain(classifier), inputs(classifier, images)
        if classifier.architecture == "two-stage":
            last = network.late(network.early(x))
            features = network.head[:2](last.amax((2, 3)))
        else:
            tokens = network.patches(network.channels(x)).flatten(2).transpose(1, 2)
            if network.token is not None:
                tokens = torch.cat([network.token.expand(5, -1, -1), tokens], 1)
            tokens = network.blocks[0](tokens + network.places)
            inner = network.norm(network.blocks[1](tokens))
            features = inner.mean(1) if network.token is None else inner[:, 0]
            grid = network.blocks[1].norm1(tokens)[:, int(network.token is not None) :]
            last = torch.stack([grid[:, 4 * i : 4 * i + 4] for i in range(4)], 1)  # row by row
            last = last.permute(0, 3, 1, 2)
        near(classifier.logits(images), network(x))
    near(classifier.features(images), features)
    near(classifier.activations(images), last)
    outputs = classifier.outputs(images)
    np.testing.assert_array_equal(outputs.features, classifier.features(images))
    np.testing.assert_array_equal(outputs.logits, classifier.logits(images))
    assert not any(part._forward_hooks for part in classifier.module.modules())


def test_grey_is_repeated_and_normalised_for_each_channel(films):
    module = Instrumented(nn.Sequential(GreyChannels(), nn.Flatten(), nn.Linear(3, 2)), layer="0")
    model = NetworkClassifier(module, "colours", ("Effusion", "Mass"), films.preprocessing)
    grey = np.array([[[0]], [[100]], [[255]]], np.uint8)
    expected = (grey[:, None] / 255 - np.reshape(IMAGENET_MEAN, (3, 1, 1))) / np.reshape(
        IMAGENET_STD, (3, 1, 1)
    )
    np.testing.assert_allclose(model.activations(grey), expected, atol=1e-5)
    four = GreyChannels((0, 0.1, 0.2, 0.3), (1, 1, 1, 1))
    assert four(torch.zeros(2, 1, 5, 5)).shape == (2, 4, 5, 5)
    with pytest.raises(UsageError, match="for every channel"):
        GreyChannels((0, 1), (1,))
    with pytest.raises(UsageError, match="normalises each channel itself"):
        NetworkClassifier(
            module, "colours", ("Effusion", "Mass"), films.preprocessing, mean=0.0, std=1.0
        )


# --- explainers


def test_maps_of_gradients_are_captums(classifier, films):
    images, findings = films.images[:2], classifier.findings[:2]
    x, network = inputs(classifier, images), plain(classifier)
    black = classifier.normalise(torch.zeros(2, SIZE, SIZE, dtype=torch.uint8))
    integrated = EXPLAINERS["integrated-gradients-black"](classifier, images, findings, steps=3)
    smooth = EXPLAINERS["smooth-grad"](classifier, images, findings, samples=1, noise=0)
    hidden = EXPLAINERS["occlusion"](classifier, images, findings, window=16, stride=16)
    grey = x.detach().mean((2, 3), keepdim=True).expand_as(x)
    for column in range(2):
        theirs = IntegratedGradients(network).attribute(x, black, target=column, n_steps=3)
        near(integrated[:, column], theirs[:, 0])
        near(smooth[:, column] * classifier.std, Saliency(network).attribute(x, column)[:, 0])
        theirs = Occlusion(network).attribute(
            x.detach(), (1, 16, 16), (1, 16, 16), grey, target=column
        )
        near(hidden[:, column], theirs[:, 0], 1e-3)


def test_maps_of_a_layer_are_captums(classifier, films):
    images, findings = films.images[:2], classifier.findings[:2]
    module, x = classifier.module, inputs(classifier, images)
    layer = module.network.get_submodule(module.map_layer)
    maps = EXPLAINERS["grad-cam"](classifier, images, findings, enlarge=False)
    assert maps.shape == (2, 2, *classifier.activations(images).shape[2:])
    for column in range(2):
        if classifier.architecture == "two-stage":
            theirs = LayerGradCam(module.network, layer).attribute(
                x, target=column, relu_attributions=True
            )[:, 0]
            near(maps[:, column], theirs * maps[0, 0].size)
            continue
        seen = []
        with layer.register_forward_hook(lambda *call, seen=seen: seen.append(call[2])):
            logits = module.network(x)
        (slope,) = torch.autograd.grad(logits[:, column].sum(), seen[0])
        slope, value = slope[:, module.tokens :], seen[0][:, module.tokens :]
        by_hand = (slope.sum(1, keepdim=True) * value).sum(2).clamp(min=0).reshape(2, 4, 4)
        near(maps[:, column], by_hand)
    assert explained_layer("grad-cam", classifier) == f"layer {module.map_layer}"
    assert explained_layer("layer-cam", classifier) == f"layer {module.map_layer}"
    with pytest.raises(UnknownNameError, match="layer"):
        EXPLAINERS["grad-cam"](classifier, images, findings, stage="blocks.9")


@pytest.mark.parametrize("name", EXPLAINERS)
def test_every_explainer_works_or_says_what_it_needs(classifier, films, name):
    images, findings = films.images[:2], classifier.findings[:2]
    reason = unsupported(name, classifier.architecture)
    assert bool(reason) == (name in APART[classifier.architecture])
    if reason:
        words = "only densenet121" if name == "authors-shortcut" else f"^{name} needs .* has none$"
        with pytest.raises(UsageError, match=words):
            EXPLAINERS[name](classifier, images, findings)
        assert lacking(classifier, NEEDS[name])
        return
    maps = EXPLAINERS[name](classifier, images, findings)
    assert maps.shape == (2, 2, SIZE, SIZE)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert np.ptp(maps) > 0


# --- detectors


def test_features_of_every_network_can_be_scanned(classifier, films):
    features = extract(classifier, films)
    np.testing.assert_allclose(features.values, classifier.features(films.images[:]), atol=1e-5)
    assert features.values.shape[1] == (10 if classifier.architecture == "two-stage" else 16)
    for name, detector in FEATURE_DETECTORS.items():
        if name != "loss-dynamics":
            assert detector().score(films, features).values.shape == (len(films),), name


def test_a_gate_leaves_out_what_a_network_lacks(classifier, films):
    gate = calibrate(classifier, films, INPUT_DETECTORS, WEIGHTS, typical=TYPICAL, false_alarm=0.2)
    scaled = "scaled batch normalisation"
    if classifier.architecture in VITS:
        assert gate.left_out == {
            scaled: f"needs batch normalisation with weights; {classifier.architecture} has none"
        }
        clean = read(classifier, films.images[:30])
        with pytest.raises(UsageError, match=f"^{scaled} needs batch normalisation"):
            INPUT_DETECTORS[scaled].fit(classifier, clean)
    else:
        assert gate.left_out == {}
    marked = films.images[:4].copy()
    marked[:, :6, :6] = 255
    assert np.isfinite(judge(gate, classifier, marked).fused).all()


def test_batch_normalisation_is_scaled_wherever_it_lies(films):
    """Both layers scaled: the network's own answer with weights and biases times two."""
    from leadapron.detect.inputs.batchnorm import scaled_logits

    module = build_network("two-stage", 2, 0).eval()
    model = NetworkClassifier(module, "two-stage", ("Effusion", "Mass"), films.preprocessing)
    images = films.images[:3]
    one, both = scaled_logits(model, images, [1, 2], 2.0)
    for norm, expected in ((module.network.late[1], one), (module.network.early[1], both)):
        with torch.no_grad():
            norm.weight.mul_(2)
            norm.bias.mul_(2)
        np.testing.assert_allclose(model.logits(images), expected, rtol=1e-5)


def test_statistics_that_apply_and_those_that_do_not(classifier, films, tmp_path):
    tables = measure(classifier, films)
    apart = not_applicable(classifier)
    normalised = {"shift under re-estimated batch normalisation", "channel Lipschitz outlier"}
    assert set(apart) == (normalised if classifier.architecture in VITS else set())
    assert all("needs batch normalisation" in reason for reason in apart.values())
    assert tables.keys() == STATISTICS.keys() - apart.keys()
    assert all(np.isfinite(table).all() for table in tables.values())
    head = plain(classifier).head
    last = head if isinstance(head, nn.Linear) else head[-1]
    np.testing.assert_array_equal(tables["head outliers"][:, 0], head_outliers(last))
    kept = measure_once(classifier, films, content="a", folder=tmp_path)
    assert kept.keys() == tables.keys()


def test_an_audit_says_what_it_could_not_do(classifier, films):
    found = audit_model(classifier, films, name="model", sweep=QUICK, steps=2, statistics=True)
    assert found.inverted
    assert not found.features
    said = " ".join(found.notes)
    assert f"it needs stages that run one after another; {classifier.architecture} has" in said
    with pytest.raises(UsageError, match="an inversion of features needs stages"):
        Inversion(films=4, steps=1).invert_features(
            classifier, films, [Wanted(finding=classifier.findings[0], direction="added")]
        )


# --- weights


def test_saved_loaded_opened_and_randomised(classifier, films, tmp_path):
    path, images = tmp_path / "model.safetensors", films.images[:4]
    save_classifier(classifier, path)
    for again in (
        load_classifier(path, device="cpu", precision="fp32"),
        open_model(path, device="cpu", precision="fp32").classifier,
    ):
        for give in ("logits", "features", "activations"):
            np.testing.assert_array_equal(
                getattr(again, give)(images), getattr(classifier, give)(images)
            )
    assert isinstance(model_warnings(classifier, films), tuple)
    fresh = randomised(classifier, 3, head_only=True)
    np.testing.assert_array_equal(fresh.features(images), classifier.features(images))
    assert not np.allclose(fresh.logits(images), classifier.logits(images))
    other = tmp_path / "other.safetensors"
    few = NetworkClassifier(
        build_network(classifier.architecture, 2, 0).eval(),
        "resnet9",
        ("Effusion", "Mass"),
        films.preprocessing,
    )
    save_classifier(few, other)
    with pytest.raises(StoreError, match="does not describe its own weights"):
        load_classifier(other, device="cpu")


def test_a_function_gives_a_white_box(films, tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "from leadapron.films.preprocessing import Preprocessing\n"
        "from leadapron.models.classifier import NetworkClassifier\n"
        "from network_scenes import transformer\n"
        "def vit():\n"
        f"    small = Preprocessing(size={SIZE})\n"
        "    return NetworkClassifier(transformer(2).eval(), 'mine', ('Effusion', 'Mass'), small)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    model = open_model("my_models:vit", device="cpu").classifier
    maps = EXPLAINERS["grad-cam"](model, films.images[:2], ["Mass"])
    assert maps.shape == (2, 1, SIZE, SIZE)


def test_a_disguise_needs_the_exact_map(films):
    from leadapron.models.training import Disguise

    known = Disguise(rows=np.arange(2), images=films.images, finding="Mass")
    with pytest.raises(UsageError, match=r"^`training\.disguise` needs stages that run one"):
        train(
            films,
            films,
            network=Network(name="vit-mean"),
            training=Training(epochs=1, disguise=1.0),
            disguise=known,
            device="cpu",
        )


def test_the_documentation_has_what_every_method_needs():
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "models.md").read_text()
    rows = [line.split("|")[1:4] for line in text.splitlines() if line.startswith("| ")]
    methods = {need.strip(): names for need, _, names in (row for row in rows if len(row) == 3)}
    words = {
        need: OF_NETWORKS[need][1] if need in OF_NETWORKS else need for need in get_args(Capability)
    }
    needs = {name: each.needs for name, each in {**INPUT_DETECTORS, **STATISTICS}.items()}
    for name, need in needs.items():
        assert name in methods[words[need]], name
    for name, need in NEEDS.items():
        named = "integrated gradients" if name.startswith("integrated") else f"`{name}`"
        assert named in methods[words[need]], name


# --- layers that can't be read


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Instrumented(Convolutional(2), layer="latte"), UnknownNameError, "late"),
        (lambda: Instrumented(nn.Flatten(), layer="0"), UsageError, "last_layer=NAME"),
        (lambda: Instrumented(Convolutional(2), layer="late", tokens=-1), UsageError, "0 or more"),
        (
            lambda: Instrumented(Transformer(2, False, SIZE), layer="blocks.0"),
            UsageError,
            "square grid after 0 tokens",
        ),
        (
            lambda: Instrumented(Transformer(2, True, SIZE), layer="blocks.0.attention"),
            UsageError,
            "gives tuple; expected",
        ),
        (lambda: Instrumented(Twice(), layer="relu"), UsageError, "runs 2 times"),
        (Convolutional(2).eval, UsageError, "Instrumented\\(network, layer=NAME\\)"),
    ],
)
def test_what_can_not_be_read_is_refused(films, make, error, words):
    with pytest.raises(error, match=words):
        NetworkClassifier(
            make().eval(), "mine", ("Effusion", "Mass"), films.preprocessing
        ).activations(films.images[:2])


class Twice(nn.Module):
    """One ReLU in two places."""

    def __init__(self):
        super().__init__()
        self.relu, self.head = nn.ReLU(), nn.Linear(1, 2)

    def forward(self, images):
        return self.head(self.relu(self.relu(images)).mean((2, 3)))
