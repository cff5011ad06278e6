"""Further statistics of a network, each against its formula on a case worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from leadapron.detect.models import (
    STATISTICS,
    channel_outlier,
    compare_statistics,
    head_outliers,
    map_features,
    map_statistics,
    maximum_margin,
    measure,
    not_applicable,
    outlier_index,
    reestimated_shift,
)
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import PooledLinear

SIZE, N = 12, 40
SMALL = Preprocessing(size=SIZE)
FINDINGS = ("Effusion", "Mass", "Nodule")


@pytest.fixture(scope="module")
def films():
    rng = np.random.default_rng(2)
    images = rng.integers(60, 160, (N, SIZE, SIZE)) + rng.integers(-40, 41, (N, 1, 1))
    ids = np.array([f"f{i}" for i in range(N)])
    labels = np.zeros((N, 3), np.float32)
    return Cohort(images.astype(np.uint8), labels, FINDINGS, ids, ids, SMALL)


def linear(weights, biases=(0.0, 0.0, 0.0), head="sigmoid", stage=None):
    """Logits that are linear in the mean grey level, 0 to 1."""
    stem = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(stem.weight)
    network = PooledLinear({"only": stage or nn.Sequential(stem, nn.ReLU())}, 1, len(weights))
    with torch.no_grad():
        network.head.weight[:] = torch.tensor(weights)[:, None]
        network.head.bias[:] = torch.tensor(biases)
    findings = tuple(f"finding {i}" for i in range(len(weights)))
    names = FINDINGS if len(weights) == 3 else findings
    return NetworkClassifier(network.eval(), "resnet9", names, SMALL, head, mean=0.0, std=1.0)


def test_the_margin_of_a_softmax_head_is_the_papers(films):
    """Logits 2g, 1 - g and g/2 of grey g in 0 to 1: a logit less the largest other one."""
    found = maximum_margin(linear([2.0, -1.0, 0.5], [0.0, 1.0, 0.0], "softmax"), films)
    # White: 2 - max(0, 0.5). Black: 1 - max(0, 0). The third is below the first or they meet at 0.
    forced_on = [1.5, 1.0, -0.5]
    # The smallest other one less the logit: at black, at white, and at 1/3, where the others meet.
    forced_off = [0.0, 0.5, 0.5]
    g = np.linspace(0, 1, 10_001)
    logits = np.stack([2 * g, 1 - g, g / 2])
    for sign, worked in ((1, forced_on), (-1, forced_off)):
        for i in range(3):
            others = np.delete(sign * logits, i, axis=0).max(axis=0)
            assert (sign * logits[i] - others).max() == pytest.approx(worked[i], abs=2e-4)
    np.testing.assert_allclose(found, np.stack([forced_on, forced_off], axis=1), atol=0.02)


def test_the_margin_of_sigmoid_heads_is_in_each_logits_own_spread(films):
    """Scale and bias of a logit don't matter; that it falls where the others rise does."""
    means = films.images.mean((1, 2)) / 255
    black, white = (0 - means.mean()) / means.std(), (1 - means.mean()) / means.std()
    plain = maximum_margin(linear([2.0, -1.0, 0.5]), films)
    # The second goes from white's to black's distance, the first and third hold each other at 0.
    expected = [[0, 0], [-2 * black, 2 * white], [0, 0]]
    np.testing.assert_allclose(plain, expected, atol=0.05)
    scaled = maximum_margin(linear([200.0, -3.0, 0.1], [5.0, 1.0, -9.0]), films)
    np.testing.assert_allclose(scaled, expected, atol=0.05)


def test_the_margin_of_a_single_finding_is_its_own_logits(films):
    means = films.images.mean((1, 2)) / 255
    black, white = (0 - means.mean()) / means.std(), (1 - means.mean()) / means.std()
    found = maximum_margin(linear([2.0], [7.0]), films, steps=60)
    np.testing.assert_allclose(found, [[white, -black]], atol=0.05)


def test_the_margin_leaves_the_network_as_it_is(films):
    classifier = linear([2.0, -1.0, 0.5])
    before = classifier.module.head.weight.clone()
    first, again = (maximum_margin(classifier, films, steps=2) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert torch.equal(classifier.module.head.weight, before)
    assert classifier.module.head.weight.requires_grad


def test_the_shift_under_estimation_anew_by_hand(films):
    """Running mean 0.3 where films have another one: a logit moves by that times its weight."""
    norm = nn.BatchNorm2d(1, eps=1e-9)
    with torch.no_grad():
        norm.bias[:] = 20.0  # keeps the ReLU out of it
        norm.running_mean[:] = 0.3
        norm.running_var[:] = 0.04
    stem = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(stem.weight)
    weights = [2.0, -1.0, 0.5]
    classifier = linear(weights, stage=nn.Sequential(stem, norm, nn.ReLU()))
    found = reestimated_shift(classifier, films)
    grey = films.images / 255
    before = np.outer((grey.mean((1, 2)) - 0.3) / 0.2, weights)
    # Anew the films' own mean is taken away: nothing is left but the bias.
    upwards = -before.mean(axis=0) / before.std(axis=0)
    np.testing.assert_allclose(found, np.stack([upwards, -upwards], axis=1), rtol=1e-3)
    assert norm.running_mean.item() == pytest.approx(0.3)
    assert not classifier.module.training


def test_without_batch_normalisation_nothing_moves(films):
    assert not reestimated_shift(linear([2.0, -1.0, 0.5]), films).any()


def test_features_of_maps_by_hand():
    maps = np.zeros((2, 2, 3, 3))
    maps[0, 0, 1, 1] = 4  # film 0, finding 0: the middle
    maps[1, 0, 0, 0] = 4  # film 1: a corner
    maps[:, 1, 1, 1] = 2  # finding 1: the middle on both films
    found = map_features(maps)
    # Sums 4 and 4; Laplacian at the middle -16 and 0 (a corner isn't next to it); 2 of 9 pixels
    # are not the same. Finding 1: 2, 8, none.
    np.testing.assert_allclose(found, [[4, 8, 2 / 9], [2, 8, 0]])


def test_persistence_is_the_mean_over_all_pairs():
    rng = np.random.default_rng(0)
    maps = rng.random((4, 1, 5, 5))
    on = maps[:, 0] > maps[:, 0].max((1, 2), keepdims=True) / 2
    pairs = [(on[i] ^ on[j]).mean() for i in range(4) for j in range(i)]
    assert map_features(maps)[0, 2] == pytest.approx(np.mean(pairs))


def test_sparse_smooth_and_steady_maps_stand_out():
    """Five findings read all pixels, above levels of their own; one reads a small square alone."""
    levels = (0.2, 0.3, 0.35, 0.4, 0.45)
    stem = nn.Conv2d(1, 6, 1)
    with torch.no_grad():
        stem.weight[:] = torch.tensor([1.0] * 5 + [40.0])[:, None, None, None]
        stem.bias[:] = torch.tensor([-level for level in levels] + [-32.0])
    network = PooledLinear({"only": nn.Sequential(stem, nn.ReLU())}, 6, 6)
    with torch.no_grad():
        network.head.weight[:] = torch.eye(6)
    rng = np.random.default_rng(2)
    images = rng.integers(20, 160, (N, SIZE, SIZE))
    images[:, 4:7, 4:7] = rng.integers(210, 256, (N, 1, 1))
    ids = np.array([f"f{i}" for i in range(N)])
    names = tuple("abcdef")
    cohort = Cohort(images.astype(np.uint8), np.zeros((N, 6), np.float32), names, ids, ids, SMALL)
    classifier = NetworkClassifier(network.eval(), "resnet9", names, SMALL, mean=0.0, std=1.0)
    found = map_statistics(classifier, cohort)
    assert found.argmax() == 5
    assert found[5] > 2  # Neural Cleanse's and NeuronInspect's limit
    assert all(p.grad is None for p in network.parameters())


def test_the_outlier_index_by_hand():
    # Median 3, deviations 2 1 0 1 7, their median 1.
    assert outlier_index(np.array([1.0, 2, 3, 4, 10])).tolist() == pytest.approx(
        [v / 1.4826 for v in (-2, -1, 0, 1, 7)]
    )
    assert not outlier_index(np.array([1.0, 1, 1, 9])).any()


def test_rows_of_the_last_layer_by_hand():
    network = PooledLinear({}, 2, 5)
    with torch.no_grad():
        network.head.weight[:] = torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0], [0, -10]])
        network.head.bias[:] = torch.tensor([0.0, 1, 2, 3, 4])
    # Norms 1 2 3 4 10 are -2 -1 0 1 7 deviations from the middle, largest weights 1 2 3 4 0 are
    # -1 0 1 2 -2, biases -2 to 2.
    worked = np.array([-1, 0, 1, 2, 7]) / 1.4826
    np.testing.assert_allclose(head_outliers(network.head), worked, rtol=1e-6)


def test_the_channel_that_stands_out_by_hand():
    norm = nn.BatchNorm2d(4, eps=0.0)
    convolution = nn.Conv2d(1, 4, 1, bias=False)
    with torch.no_grad():
        convolution.weight[:] = torch.tensor([1.0, 1, 1, 5])[:, None, None, None]
    # Bounds 1 1 1 5: mean 2, standard deviation sqrt(3).
    assert channel_outlier(nn.Sequential(convolution, norm)) == pytest.approx(np.sqrt(3))
    assert channel_outlier(nn.Sequential(nn.ReLU())) == 0


def standing(network, films, references=()):
    others = [(each.findings, measure(each, films)) for each in references]
    return compare_statistics(network.findings, measure(network, films), others)


def test_all_are_measured_beside_references(films):
    own = linear([2.0, -1.0, 0.5])
    # References name their findings in another order, and differ in slope alone.
    references = [
        replace(linear([0.5 * i, 2.0 * i, -1.0 * i]), findings=("Nodule", "Effusion", "Mass"))
        for i in (1, 2, 3)
    ]
    found = {each.name: each for each in standing(own, films, references)}
    assert set(found) == set(STATISTICS) - set(not_applicable(own))
    margin = found["maximum margin"]
    assert margin.values.shape == margin.finding_p.shape == (3, 2)
    # In its own spread the model is as they are, in their findings' order.
    assert margin.p > 0.25
    alone = standing(own, films)
    assert {each.p for each in alone} == {None}
    np.testing.assert_allclose(alone[0].values, margin.values)
    other = linear([2.0, -1.0, 0.5], [1.0, -1.0, 80.0])
    heads = {each.name: each for each in standing(other, films, references)}["head outliers"]
    assert heads.strongest() == ("Nodule", "")
    assert heads.values.shape == (3, 1)


def test_what_they_refuse(films):
    few = films.take(np.arange(19))
    for statistic in (maximum_margin, reestimated_shift, map_statistics):
        with pytest.raises(DataError, match="need 20"):
            statistic(linear([2.0, -1.0, 0.5]), few)
    with pytest.raises(UsageError, match="above 0"):
        maximum_margin(linear([2.0], [0.0]), films, steps=0)
    with pytest.raises(UsageError, match="two or more"):
        map_statistics(linear([2.0, -1.0, 0.5]), films, films=1)
