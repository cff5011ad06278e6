"""Distances in feature space: against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.detect.inputs import Mahalanobis, NearestNeighbours, Readings
from leadapron.detect.inputs.gaussian import distances, shrunk_gaussian
from leadapron.errors import DataError, UsageError
from leadapron.metrics import auroc


def readings(features):
    n = len(features)
    return Readings(
        images=np.zeros((n, 2, 2), np.uint8),
        logits=np.zeros((n, 1), np.float32),
        features=None if features is None else np.asarray(features, np.float32),
    )


@pytest.mark.parametrize("shape", [(200, 6), (50, 300), (300, 1024)])
def test_distances_are_those_of_ledoit_and_wolf(shape):
    from sklearn.covariance import LedoitWolf

    rng = np.random.default_rng(0)
    n, d = shape
    mix = rng.standard_normal((d, d)) / np.sqrt(d) * np.linspace(3, 0.1, d)
    values, others = rng.standard_normal((2, n, d)) @ mix + 4
    reference = LedoitWolf().fit(values)
    wanted = np.sqrt(reference.mahalanobis(others))
    np.testing.assert_allclose(distances(others, shrunk_gaussian(values)), wanted, rtol=1e-6)


def test_a_gaussian_by_hand():
    """Two films 2 apart: variance 1 along them, 1/2 each on average; fully shrunk to that."""
    gaussian = shrunk_gaussian(np.array([[0.0, 0.0], [2.0, 0.0]]), "g ")
    np.testing.assert_allclose(gaussian["g mean"], [1.0, 0.0])
    # (b, d) of the paper: chance (1 - 1) / 4 = 0, so that nothing is shrunk; the direction without
    # spread has a millionth of the mean variance.
    np.testing.assert_allclose(gaussian["g variances"], [1.0])
    np.testing.assert_allclose(gaussian["g rest"], [0.5e-6])
    np.testing.assert_allclose(distances(np.array([[3.0, 0.0]]), gaussian, "g "), [2.0])


def test_films_off_the_clean_ones_are_far():
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((64, 128)) * np.linspace(2, 0.2, 64)[:, None]
    clean, fresh, planted = (
        np.maximum(rng.standard_normal((n, 64)) @ mix + 1, 0) for n in (300, 200, 200)
    )
    planted[:, 5] += 4 * clean[:, 5].std()
    planted[:, 9] += 4 * clean[:, 9].std()
    labels = np.repeat([0, 1], 200)
    for detector, least in ((Mahalanobis(), 0.9), (NearestNeighbours(), 0.6)):
        state = detector.fit(None, readings(clean))
        every = np.concatenate([fresh, planted])
        scores = detector.score(None, readings(every), state)
        assert auroc(labels, scores) > least  # measured: 0.97 and 0.66
        assert all(isinstance(value, np.ndarray) for value in state.values())
        alone = np.concatenate([detector.score(None, readings(row[None]), state) for row in every])
        np.testing.assert_allclose(alone, scores, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("neighbours", [1, 4])
def test_neighbours_are_those_of_brute_force(neighbours):
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(2)
    clean, other = rng.standard_normal((60, 20)), rng.standard_normal((9, 20))
    bank, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (clean, other))
    wanted = NearestNeighbors(n_neighbors=neighbours).fit(bank).kneighbors(asked)[0][:, -1]
    detector = NearestNeighbours(neighbours=neighbours)
    found = detector.score(None, readings(other), detector.fit(None, readings(clean)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_features_of_nothing_are_at_distance_1():
    """A film whose features are all 0 has no direction."""
    detector = NearestNeighbours(neighbours=1)
    state = detector.fit(None, readings([[3.0, 4.0]]))
    scores = detector.score(None, readings([[0.0, 0.0], [6.0, 8.0]]), state)
    np.testing.assert_allclose(scores, [1.0, 0.0], atol=1e-3)


def test_what_has_no_distances_is_refused():
    bare = Readings(images=np.zeros((3, 2, 2), np.uint8), logits=np.zeros((3, 1)), features=None)
    for detector in (Mahalanobis(), NearestNeighbours(neighbours=1)):
        with pytest.raises(UsageError, match="need features; the model only gives outputs"):
            detector.fit(None, bare)
    with pytest.raises(DataError, match="expected 5 or more"):
        NearestNeighbours().fit(None, readings(np.eye(3)))
    with pytest.raises(UsageError, match="neighbours 0"):
        NearestNeighbours(neighbours=0)
    with pytest.raises(DataError, match="1 clean film"):
        Mahalanobis().fit(None, readings(np.eye(1)))
    with pytest.raises(DataError, match="all look the same"):
        Mahalanobis().fit(None, readings(np.ones((9, 4))))
    with pytest.raises(DataError, match="not finite"):
        Mahalanobis().fit(None, readings([[np.nan], [1.0]]))
