"""Beatrix and loss dynamics: their formulas, and what they find."""

from __future__ import annotations

import numpy as np
import pytest
from feature_scenes import cohort_of, single

from leadapron.detect.features import Beatrix, Features, LossDynamics
from leadapron.detect.features.gram import gram_deviations, gram_powers
from leadapron.errors import UsageError
from leadapron.metrics import auroc


def test_gram_matrices_by_hand():
    """Two channels at two places, (1, 2) and (3, 0)."""
    first, second = gram_powers(np.array([[[1.0, 2], [3, 0]]]), 2)
    np.testing.assert_allclose(first, [[5, 3, 9]])
    # Squared element by element: (1, 4) and (9, 0), products 17, 9, 81, and their roots.
    np.testing.assert_allclose(second, [[17**0.5, 3, 9]])


def test_deviations_by_hand():
    """One channel at one place: an entry is the activation's square, the same for every power."""
    squares = np.array([4.0, 5, 6, 7, 8, 30, 1])
    activations = np.sqrt(squares)[:, None, None]
    # Median 6, absolute deviations 2 1 0 1 2 24 5, their median 2; twice that: 2 to 10.
    wanted = np.zeros(7)
    wanted[5], wanted[6] = 20 / 10, 1 / 2
    rng = np.random.default_rng(0)
    for powers in (1, 8):
        found = gram_deviations(activations, powers, 2.0, rng)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(gram_deviations(activations * 1e6, 8, 2.0, rng), wanted, rtol=1e-4)


def maps(n=500, poisoned=25, seed=0):
    """Channels that are high together at one place; in the poisoned films others are."""
    rng = np.random.default_rng(seed)
    activations = rng.gamma(2.0, 0.5, (n, 8, 16))
    activations[:, :4, 5] += 2
    activations[:poisoned, 4:6, 10] += 4
    truth = (np.arange(n) < poisoned).astype(np.float64)
    return activations.astype(np.float32), truth


def test_channels_that_go_together_for_once_are_found():
    activations, truth = maps()
    features = Features(activations.mean(2), activations)
    scores = Beatrix().score(single(500), features)
    assert auroc(truth, scores.values) > 0.97
    assert scores.unit.startswith("standard deviations")


def test_beatrix_compares_within_groups():
    """What is usual with Effusion isn't with Mass."""
    activations, truth = maps(1000, 0)
    labels = np.zeros((1000, 2))
    labels[:500, 0], labels[500:, 1] = 1, 1
    activations[500:, 6:8, 3] += 6
    activations[:20, 6:8, 3] += 6
    truth[:20] = 1
    scores = Beatrix().score(cohort_of(labels), Features(activations.mean(2), activations)).values
    assert auroc(truth, scores) > 0.97


def test_films_that_are_learned_soon_are_found():
    rng = np.random.default_rng(1)
    labels = np.zeros((600, 2))
    labels[:300, 0], labels[200:500, 1] = 1, 1
    losses = rng.uniform(0.5, 2, (3, 600, 2)).astype(np.float32)
    losses[:, :15, 0] = rng.uniform(0, 0.2, (3, 15))  # the poison's loss for its own finding
    losses[:, :15, 1] = 3.0
    losses[:2, :15, 0] = 3.0  # at first they are hard: the label is wrong
    losses[2, 101] = np.nan
    losses = np.concatenate([losses, np.full((1, 600, 2), np.nan, np.float32)])  # stopped early
    cohort = cohort_of(labels)
    features = Features(np.zeros((600, 1), np.float32), losses=losses)
    values = LossDynamics().score(cohort, features).values
    assert np.flatnonzero(np.isnan(values)).tolist() == [101]
    truth = (np.arange(600) < 15).astype(np.float64)
    known = ~np.isnan(values)
    assert auroc(truth[known], values[known]) > 0.97


def test_loss_dynamics_by_hand():
    labels = np.ones((11, 1))
    losses = np.linspace(0, 1, 11, dtype=np.float32)[None, :, None]
    features = Features(
        np.zeros((11, 1), np.float32), losses=np.concatenate([losses[:, ::-1], losses])
    )
    values = LossDynamics(least=10).score(cohort_of(labels), features).values
    # The last epoch's: median 0.5, MAD 0.3.
    np.testing.assert_allclose(values, np.linspace(0.5, -0.5, 11) / (1.4826 * 0.3), rtol=1e-5)


def test_what_is_missing_is_said():
    features, cohort = Features(np.zeros((40, 2), np.float32)), single(40)
    with pytest.raises(UsageError, match="extract features with channels above 0"):
        Beatrix().score(cohort, features)
    with pytest.raises(UsageError, match="train with film_losses"):
        LossDynamics().score(cohort, features)
    other = Features(features.values, losses=np.zeros((1, 40, 3), np.float32))
    with pytest.raises(UsageError, match="losses of 3 findings; expected 1"):
        LossDynamics().score(cohort, other)
    for wrong in ({"powers": 0}, {"powers": 17}, {"width": 0.0}):
        with pytest.raises(UsageError, match="expected 1 to 16"):
            Beatrix(**wrong)
