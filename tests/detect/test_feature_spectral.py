"""Spectral signatures and SPECTRE: their formulas, and what they find."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from feature_scenes import scene, single

from leadapron.detect.features import Features, SpectralSignatures, Spectre
from leadapron.detect.features.linear import inverse_root, top_directions
from leadapron.detect.features.spectral import quantum_entropy, spectral_scores
from leadapron.errors import UsageError
from leadapron.metrics import auroc


def worked_case():
    """500 films whose mean isn't 0; 25 lie off, but no farther from 0 than the others."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((500, 64))
    values[:, 0] += 10
    values[:, 1] -= 3.5
    values[:25, 1] += 6
    return values.astype(np.float32), (np.arange(500) < 25).astype(np.float64)


def test_centred_scores_catch_what_uncentred_ones_miss():
    values, poisoned = worked_case()
    scores = SpectralSignatures().score(single(500), Features(values)).values
    top = np.argsort(-scores)[:37]
    assert poisoned[top].sum() >= 24  # measured: 25
    # The peers': the direction is that of the centred features, what is projected is not centred.
    direction = np.linalg.svd(values - values.mean(0), full_matrices=False)[2][0]
    uncentred = np.argsort(-np.abs(values @ direction))[:37]
    assert poisoned[uncentred].sum() <= 1  # measured: 0


@pytest.mark.parametrize("shape", [(300, 20), (40, 300), (900, 250)])
def test_scores_are_the_papers(shape):
    values = np.random.default_rng(1).standard_normal(shape)
    values[:6] += 3
    values -= values.mean(0)
    direction = np.linalg.svd(values, full_matrices=False)[2][0]
    np.testing.assert_allclose(spectral_scores(values), (values @ direction) ** 2, rtol=1e-6)


@pytest.mark.parametrize("shape", [(500, 12), (50, 400), (600, 300)])
def test_directions_are_the_singular_vectors(shape):
    values = np.random.default_rng(2).standard_normal(shape)
    found = top_directions(values, 5)
    wanted = np.linalg.svd(values, full_matrices=False)[2][:5]
    np.testing.assert_allclose(np.abs(wanted @ found), np.eye(5), atol=1e-6)
    flat = np.outer(np.arange(10.0), np.ones(3))
    assert top_directions(flat, 3).shape == (3, 1)


def test_quantum_entropy_by_hand():
    """Whitened by the identity, S = diag(2, 1): Q = exp(alpha diag(1, 0))."""
    points = np.array([[2.0, 0], [-2, 0], [0, np.sqrt(2)], [0, -np.sqrt(2)]])
    e = np.exp(4)
    scores = quantum_entropy(points, np.zeros(2), np.eye(2), 4.0)
    np.testing.assert_allclose(scores, np.array([4 * e, 4 * e, 2, 2]) / (e + 1))
    plain = quantum_entropy(points, np.zeros(2), np.eye(2), 0.0)
    np.testing.assert_allclose(plain, np.array([4, 4, 2, 2]) / 2)


def test_quantum_entropy_is_the_papers():
    rng = np.random.default_rng(3)
    points = rng.standard_normal((200, 4)) @ rng.standard_normal((4, 4)) + 2
    mean, covariance = points[:150].mean(0), np.cov(points[:150].T, bias=True)
    white = (points - mean) @ scipy.linalg.fractional_matrix_power(covariance, -0.5)
    spread = np.cov(white.T, bias=True)
    excess = spread - np.eye(4)
    q = scipy.linalg.expm(4 * excess / (np.linalg.norm(spread, 2) - 1))
    wanted = [x @ q @ x / np.trace(q) for x in white]
    np.testing.assert_allclose(quantum_entropy(points, mean, covariance, 4.0), wanted)
    np.testing.assert_allclose(
        inverse_root(covariance), scipy.linalg.fractional_matrix_power(covariance, -0.5), atol=1e-8
    )


def test_spectre_sees_poison_off_the_directions_of_greatest_variance():
    """Loud directions hide it from the top one; whitened, it is far out."""
    rng = np.random.default_rng(4)
    values = rng.standard_normal((600, 20)) * np.r_[np.full(3, 8.0), np.ones(17)]
    values[:30, 5] += 7
    poisoned = (np.arange(600) < 30).astype(np.float64)
    features, cohort = Features(values.astype(np.float32)), single(600)
    spectral = SpectralSignatures().score(cohort, features).values
    spectre = Spectre().score(cohort, features).values
    assert auroc(poisoned, spectral) < 0.7
    assert auroc(poisoned, spectre) > 0.97
    assert poisoned[np.argsort(-spectre)[:45]].sum() >= 27


@pytest.mark.parametrize("make", [SpectralSignatures, Spectre])
def test_poison_is_found_among_films_with_several_findings(make):
    cohort, values, poisoned = scene(12, 0.05)
    scores = make().score(cohort, Features(values)).values
    known = ~np.isnan(scores)
    assert auroc(poisoned[known], scores[known]) > 0.97
    # Films of another group keep their score when this one is poisoned.
    _, clean, _ = scene(0, 0.05)
    before = make().score(cohort, Features(clean)).values
    rows = (cohort.labels[:, 4] == 1) & (cohort.labels.sum(axis=1) == 1)
    np.testing.assert_allclose(scores[rows], before[rows], rtol=1e-4)


def test_bounds():
    for wrong in ({"share": 0.0}, {"share": 0.3}, {"alpha": -1.0}, {"most": 0}):
        with pytest.raises(UsageError, match="expected a share"):
            Spectre(**wrong)
