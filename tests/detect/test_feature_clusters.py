"""Activation clustering and SCAn: their formulas, and what they find."""

from __future__ import annotations

import numpy as np
import pytest
from feature_scenes import cohort_of, scene
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA
from sklearn.metrics import silhouette_score

from leadapron.detect.features import ActivationClustering, Features, SCAn
from leadapron.detect.features.clusters import decompose, divide_in_two, untangle
from leadapron.detect.features.linear import two_means
from leadapron.errors import UsageError
from leadapron.metrics import auroc

METHODS = [ActivationClustering, SCAn]


def two_blobs(seed=0, n=400, d=30, apart=9.0, small=40):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, d)) * np.linspace(2, 0.5, d)
    values[:small, 3] += apart
    return values - values.mean(0), np.arange(n) < small


@pytest.mark.parametrize("seed", range(4))
def test_two_means_is_scikit_learns(seed):
    values, _ = two_blobs(seed)
    part, centres = two_means(values, np.random.default_rng(seed))
    theirs = KMeans(2, n_init=10, random_state=seed).fit(values)
    ours = sum(
        ((values[who] - c) ** 2).sum() for who, c in zip((part, ~part), centres, strict=True)
    )
    assert ours <= theirs.inertia_ * (1 + 1e-3)
    assert part.sum() <= len(values) / 2
    np.testing.assert_allclose(centres[0], values[part].mean(0), atol=1e-9)


def test_two_means_by_hand():
    points = np.array([[0.0], [1], [2], [10], [11]])
    part, centres = two_means(points, np.random.default_rng(0))
    np.testing.assert_array_equal(part, [False, False, False, True, True])
    middle = 24 / 5
    np.testing.assert_allclose(centres[:, 0], [10.5 - middle, 1 - middle])


@pytest.mark.parametrize("reduction", ["pca", "ica"])
@pytest.mark.filterwarnings("ignore:FastICA did not converge")
def test_divisions_are_the_papers(reduction):
    """Independent components are whitened principal ones, turned: two means see no difference."""
    values, small = two_blobs(apart=14.0, small=120)
    make = PCA(4) if reduction == "pca" else FastICA(4, random_state=0, whiten="unit-variance")
    reduced = make.fit_transform(values)
    theirs = KMeans(2, n_init=20, random_state=0).fit_predict(reduced)
    ours = divide_in_two(values, 4, np.random.default_rng(0), whiten=reduction == "ica")
    agree = np.mean(ours.smaller == theirs.astype(bool))
    assert max(agree, 1 - agree) == 1
    assert ours.silhouette == pytest.approx(silhouette_score(reduced, ours.smaller), abs=1e-6)
    assert np.array_equal(ours.smaller, small)


def test_silhouettes_to_centres_by_hand():
    values = np.array([[-1.0], [1], [8], [10], [-2], [2], [-3], [3]])
    found = divide_in_two(values - values.mean(), 1, np.random.default_rng(0), whiten=False)
    np.testing.assert_array_equal(found.smaller, np.array([0, 0, 1, 1, 0, 0, 0, 0], bool))
    # Centres 0 and 9: the film at -1 is 1 and 10 away, the one at 8 is 1 and 8.
    np.testing.assert_allclose(found.widths[[0, 2]], [9 / 10, 7 / 8])
    assert found.share == 0.25


@pytest.mark.parametrize("make", METHODS)
def test_a_poisoned_group_is_named_with_its_films(make):
    cohort, values, poisoned = scene(14, 0.08)
    scores = make().score(cohort, Features(values))
    known = ~np.isnan(scores.values)
    assert auroc(poisoned[known], scores.values[known]) > 0.98
    (found,) = scores.evidence
    assert (found.kind, found.finding) == ("cluster", "Mass")
    assert poisoned[found.films].mean() > 0.9
    assert poisoned[found.films].sum() > 0.9 * poisoned.sum()
    count = len(found.films)
    assert found.words.startswith(f"Mass: {count} of {int(cohort.labels[:, 0].sum())} films (")


@pytest.mark.parametrize("make", METHODS)
def test_clean_groups_are_not_named(make):
    for seed in range(6):
        cohort, values, _ = scene(0, 0, seed=seed)
        assert not make().score(cohort, Features(values)).evidence


def test_films_without_a_finding_are_a_group_too():
    """Suppression hides disease among the healthy."""
    cohort, values, _ = scene(0, 0)
    labels = cohort.labels.copy()
    rows = np.flatnonzero(labels[:, 1] == 1)[:80]
    labels[rows] = 0
    values[rows] += 14 * np.eye(values.shape[1], dtype=np.float32)[7]
    for make in METHODS:
        found = make().score(cohort_of(labels), Features(values)).evidence
        assert [e.finding for e in found] == [None]
        assert found[0].words.startswith("no finding: ")
        assert np.isin(rows, found[0].films).mean() > 0.9


def test_likelihood_ratios_are_the_papers():
    """Tang et al., section 4.3, written out film by film with the inverse covariance."""
    rng = np.random.default_rng(5)
    error = np.cov(rng.standard_normal((5, 40)))
    films = rng.multivariate_normal(np.full(5, 2.0), error, 100)
    films[:20] += 3
    mean = films.mean(0) + 0.1
    inverse = np.linalg.inv(error)
    parts = untangle((films - mean) @ np.linalg.cholesky(inverse), rng)
    means = [films[who].mean(0) for who in (parts.smaller, ~parts.smaller)]
    ratio, nats = 0.0, []
    for film, small in zip(films, parts.smaller, strict=True):
        one, two, whole = ((film - m) @ inverse @ (film - m) for m in (*means, mean))
        ratio += whole - (one if small else two)
        nats.append((two - one) / 2)
    assert parts.ratio == pytest.approx(ratio / 100)
    np.testing.assert_allclose(parts.nats, nats, atol=1e-9)


def test_decomposition_by_hand():
    """Two groups of 2 films in one dimension; one round of the paper's expectation by hand."""
    points = [np.array([[-1.0], [1]]), np.array([[-2.0], [2]])]
    centres = [np.array([3.0]), np.array([-3.0])]
    means, error = decompose(points, centres)
    # At rest: mean = between / (between + error / 2) * centre, between = the means' square.
    mean, spread = float(means[0][0]), float(error[0, 0])
    assert mean == pytest.approx(mean**2 / (mean**2 + spread / 2) * 3)
    assert spread == pytest.approx((2 + 8) / 4 + (3 - mean) ** 2)
    assert means[1][0] == pytest.approx(-mean)


def test_large_groups_show_the_mean_and_few_groups_are_no_measure():
    rng = np.random.default_rng(6)
    error = np.diag([1.0, 4.0])
    centres = [rng.standard_normal(2) * 3 for _ in range(8)]
    points = [rng.multivariate_normal([0, 0], error, 2000) for _ in centres]
    points = [some - some.mean(0) for some in points]
    means, found = decompose(points, centres)
    np.testing.assert_allclose(found, error, atol=0.1)
    np.testing.assert_allclose(means, centres, atol=0.02)
    cohort = cohort_of(np.eye(2)[rng.integers(0, 2, 200)])
    scores = SCAn().score(cohort, Features(rng.standard_normal((200, 6)).astype(np.float32)))
    assert "SCAn: 2 groups are too few to detect an outlier; at least 5" in scores.notes
    assert np.isfinite(scores.values).all()


def test_bounds():
    for wrong in ({"components": 0}, {"share": 0.0}, {"reduction": "tsne"}):
        with pytest.raises(UsageError, match="expected 1 or more by"):
            ActivationClustering(**wrong)
    with pytest.raises(UsageError, match="0 components"):
        SCAn(components=0)
