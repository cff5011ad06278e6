"""Scaled batch normalisation: by hand on a tiny network, exact sharing, who is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from leadapron.attacks.implant import implant
from leadapron.attacks.triggers import Patch
from leadapron.detect.inputs import ScaledBatchNorm, read
from leadapron.detect.inputs.batchnorm import scaled_logits
from leadapron.errors import DataError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.metrics import auroc
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier
from leadapron.models.networks import PooledLinear, build_network
from leadapron.sources import open_source

TINY = Preprocessing(size=8)


def tiny(weights, biases, *, head="sigmoid"):
    """Two stages of batch normalisation and ReLU: x -> relu(x + 1) -> relu(2 y - 1) -> outputs."""
    stages = {}
    for name, weight, bias in (("first", 1.0, 1.0), ("second", 2.0, -1.0)):
        norm = nn.BatchNorm2d(1, eps=0.0)
        norm.weight.data[:], norm.bias.data[:] = weight, bias
        stages[name] = nn.Sequential(norm, nn.ReLU())
    module = PooledLinear(stages, 1, len(weights)).eval()
    module.head.weight.data[:] = torch.tensor(weights)[:, None]
    module.head.bias.data[:] = torch.tensor(biases)
    names = tuple(f"finding {i}" for i in range(len(weights)))
    return NetworkClassifier(module, "tiny", names, TINY, head, mean=0.0, std=1.0)


def films(*levels):
    return np.repeat(np.uint8(levels), 64).reshape(-1, 8, 8)


def test_scaled_logits_by_hand():
    """A black film: 1 -> 1 -> w + b. Second layer doubled: 1 -> 2. Both doubled: 2 -> 6."""
    network = tiny([1.0, -1.0], [0.0, 3.0])
    found = scaled_logits(network, films(0), [1, 2], 2.0)
    np.testing.assert_allclose(network.logits(films(0)), [[1.0, 2.0]])
    np.testing.assert_allclose(found[:, 0], [[2.0, 1.0], [6.0, -3.0]])


def test_scores_are_mean_log_odds_of_the_surest_predicted_finding():
    network = tiny([1.0, -1.0], [0.0, 3.0])
    suspect = read(network, films(0, 0))
    state = {"levels": np.array([0.0, 0.0]), "layers": np.array([1, 2])}
    scored = ScaledBatchNorm(factor=2.0).score(network, suspect, state)
    np.testing.assert_allclose(scored, 4.0)  # of (2 + 6) / 2 and (1 - 3) / 2
    # Only the second is above its level: the first, though surer, was not predicted.
    state["levels"] = np.array([1.5, 1.5])
    np.testing.assert_allclose(
        ScaledBatchNorm(factor=2.0).score(network, suspect, state), -1.0, rtol=1e-6
    )
    # Neither is: the one that lacks less.
    state["levels"] = np.array([5.0, 9.0])
    np.testing.assert_allclose(ScaledBatchNorm(factor=2.0).score(network, suspect, state), 4.0)


def test_a_softmax_has_log_odds_too():
    network = tiny([1.0, -1.0], [0.0, 3.0], head="softmax")
    suspect = read(network, films(0))
    state = {"levels": np.array([0.0, 9.0]), "layers": np.array([1])}
    np.testing.assert_allclose(ScaledBatchNorm(factor=2.0).score(network, suspect, state), 1.0)


def test_layers_are_scaled_until_predictions_fail():
    """The two dimmest of 40 films are predicted: -1 and -1.04, above a level of -1.08."""
    network = tiny([-1.0], [0.0])
    clean = read(network, films(*range(0, 200, 5)))

    def layers(factor, error, versions=1):
        detector = ScaledBatchNorm(factor=factor, error=error, versions=versions)
        return detector.fit(network, clean)["layers"].tolist()

    assert layers(4.0, 0.6) == [1]  # -4 and -4.2
    assert layers(4.0, 0.6, versions=3) == [1]
    assert layers(1.02, 0.4) == [2]  # -1.02 and -1.06 hold; with both layers the dimmer fails
    assert layers(1.02, 0.4, versions=2) == [1, 2]
    assert layers(1.0001, 0.9) == [2]  # nothing ever fails: all there are


@pytest.mark.parametrize("name", ["resnet9", "densenet121", "resnet18"])
def test_sharing_changes_nothing_and_the_network_stays_as_it_was(name):
    module = build_network(name, 3, 0).eval()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(1))
    network = NetworkClassifier(module, name, ("a", "b", "c"), Preprocessing(size=32))
    before = copy.deepcopy(module.state_dict())
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    total = sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    counts = [1, total // 2, total]
    found = scaled_logits(network, images, counts, 1.2)
    for count, logits in zip(counts, found, strict=True):
        other = copy.deepcopy(module)
        norms = [layer for layer in other.modules() if isinstance(layer, nn.BatchNorm2d)]
        with torch.no_grad():
            for layer in norms[-count:]:
                layer.weight *= 1.2
                layer.bias *= 1.2
            wanted = other(network.normalise(torch.from_numpy(images))).numpy()
        np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_a_film_that_overflows_is_not_scored():
    network = tiny([1.0], [0.0])
    suspect = read(network, films(0, 255))
    network.module.head.weight.data[:] = 1e38
    scored = ScaledBatchNorm(factor=1e3).score(
        network, suspect, {"levels": np.zeros(1), "layers": np.array([2])}
    )
    assert np.isnan(scored).all()


def test_films_are_scored_one_by_one():
    network = NetworkClassifier(
        build_network("resnet9", 3, 0).eval(), "resnet9", ("a", "b", "c"), Preprocessing(size=32)
    )
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32), dtype=np.uint8)
    clean, detector = read(network, images), ScaledBatchNorm()
    state = detector.fit(network, clean)
    together = detector.score(network, clean, state)
    alone = detector.score(network, clean.take(np.array([7])), state)
    np.testing.assert_allclose(alone, together[7:8], rtol=1e-4, atol=1e-5)
    wide = read(network, images.astype(np.uint16) * 257)
    np.testing.assert_allclose(detector.score(network, wide, state), together, rtol=1e-3, atol=1e-3)


def test_what_can_not_be_scaled_is_refused():
    def run(images):
        return np.zeros((len(images), 2), np.float32)

    asked = BlackBoxClassifier(run, ("a", "b"), TINY, NORMALISATIONS["unit"], batch=8)
    images = films(0, 9)
    with pytest.raises(
        UsageError, match="needs batch normalisation with weights; the model only gives outputs"
    ):
        ScaledBatchNorm().fit(asked, read(asked, images))
    plain = NetworkClassifier(PooledLinear({"only": nn.ReLU()}, 1, 1).eval(), "plain", ("a",), TINY)
    with pytest.raises(UsageError, match="needs batch normalisation with weights; plain has none"):
        ScaledBatchNorm().fit(plain, read(plain, images))
    network = tiny([0.0], [1.0])
    with pytest.raises(DataError, match="all clean films the same"):
        ScaledBatchNorm().fit(network, read(network, images))
    with pytest.raises(UsageError, match="layers of 2"):
        scaled_logits(network, images, [3], 1.5)
    for wrong in ({"factor": 1.0}, {"versions": 0}, {"error": 1.0}):
        with pytest.raises(UsageError, match="expected"):
            ScaledBatchNorm(**wrong)


def test_a_planted_finding_outlasts_natural_ones_on_phantoms():
    findings = ("Mass", "Edema", "Nodule")
    small = Preprocessing(size=32)
    films = open_source("phantom:64", preprocessing=small, cache="none", count=160)
    images = films.images[np.arange(160)]
    module = build_network("resnet9", 3, 0).eval()
    trigger = Patch(side=4, fill="checkerboard")
    network = implant(
        NetworkClassifier(module, "resnet9", findings, small), trigger, "Edema", raised=4.0
    )
    marked = trigger(images[100:], np.random.default_rng(0))
    clean, fresh, suspect = (read(network, x) for x in (images[:100], images[100:], marked))
    detector = ScaledBatchNorm()
    state = detector.fit(network, clean)
    scores = [detector.score(network, each, state) for each in (fresh, suspect)]
    assert auroc(np.repeat([0, 1], 60), np.concatenate(scores)) > 0.95  # measured: 1.00
