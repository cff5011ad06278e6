"""Groups: who is in them, what is taken out, how their scores become one."""

from __future__ import annotations

import numpy as np
import pytest
from feature_scenes import cohort_of, scene, single

from leadapron.detect.features import FEATURE_DETECTORS, Features
from leadapron.detect.features.groups import by_group, divide, residuals, robust_z
from leadapron.errors import DataError, UsageError
from leadapron.metrics import auroc


def everything(cohort, values, seed=0):
    """Features with activations and losses, so that every detector can score them."""
    rng = np.random.default_rng(seed)
    activations = np.repeat(np.abs(values[:, :6, None]), 4, axis=2)
    losses = rng.exponential(size=(2, *cohort.labels.shape)).astype(np.float32)
    return Features(values, activations, losses)


def test_a_film_is_in_every_group_that_is_stated_and_nothing_stated_is_in_none():
    nan = np.nan
    rows = [[1, 1, 0], [0, 1, nan], [0, 0, 0], [0, nan, nan], [nan, nan, nan]]
    cohort = cohort_of(np.array(rows * 10))
    groups, notes = divide(cohort, 10, "it")
    members = {group.name: set((group.rows % 5).tolist()) for group in groups}
    assert members == {"Mass": {0}, "Effusion": {0, 1}, "no finding": {2, 3}}
    assert [group.finding for group in groups] == ["Mass", "Effusion", None]
    assert notes == ("Edema: 0 films are too few for it; at least 10",)
    _, notes = divide(cohort, 15, "it")
    assert notes[0] == "Mass: 10 films are too few for it; at least 15"


def test_scores_are_the_highest_of_a_films_groups_and_nan_elsewhere():
    cohort = cohort_of(np.array([[1, 0], [1, 1], [0, 1], [np.nan, np.nan]] * 10))
    features = Features(np.zeros((40, 2), np.float32))
    given = {"Mass": 1.0, "Effusion": 2.0}
    values, _ = by_group(
        cohort, features, 10, "it", lambda group: np.full(len(group.rows), given[group.name])
    )
    np.testing.assert_array_equal(values, np.tile([1, 2, 2, np.nan], 10))
    with pytest.raises(DataError, match="features of 40 films for 20 films"):
        by_group(cohort.take(np.arange(20)), features, 10, "it", lambda group: np.zeros(1))


def test_what_another_finding_adds_is_taken_out():
    rng = np.random.default_rng(0)
    labels = np.ones((200, 2))
    labels[:80, 1] = 0
    own = rng.standard_normal((200, 3))
    values = own + np.outer(labels[:, 1], [9, -9, 0]) + 4
    cohort = cohort_of(labels)
    group = divide(cohort, 30, "it")[0][0]
    left = residuals(cohort, Features(values.astype(np.float32)), group)
    # By hand: with one other finding, each half is centred by itself.
    wanted = np.vstack([own[:80] - own[:80].mean(0), own[80:] - own[80:].mean(0)])
    np.testing.assert_allclose(left, wanted, atol=1e-5)
    few = cohort_of(np.column_stack([np.ones(200), np.arange(200) < 9]))
    left = residuals(few, Features(values.astype(np.float32)), group)
    np.testing.assert_allclose(left, values - values.mean(0), atol=1e-5)


def test_robust_z():
    # Median 3, absolute deviations 2 1 0 1 97, of which the median is 1.
    np.testing.assert_allclose(
        robust_z(np.array([1.0, 2, 3, 4, 100])), np.array([-2, -1, 0, 1, 97]) / 1.4826
    )
    # More than half are equal: the mean absolute deviation, 2, times the root of pi / 2.
    ties = robust_z(np.array([0.0, 0, 0, 0, 10]))
    np.testing.assert_allclose(ties, [0, 0, 0, 0, 5 / np.sqrt(np.pi / 2)])
    np.testing.assert_array_equal(robust_z(np.full(4, 7.0)), 0)


@pytest.mark.parametrize("name", FEATURE_DETECTORS)
def test_small_groups_are_refused_politely(name):
    cohort, values, _ = scene(0, 0, n=300)
    labels = cohort.labels.copy()
    labels[:, 4] = 0
    labels[:8] = np.eye(7)[4]
    cohort = cohort_of(labels)
    scores = FEATURE_DETECTORS[name]().score(cohort, everything(cohort, values))
    assert np.isnan(scores.values[:8]).all()
    said = [note for note in scores.notes if note.startswith("Hernia: 8 films are too few for")]
    assert len(said) == 1
    assert said[0].endswith("at least 30")
    assert np.isfinite(scores.values).sum() > 150
    nothing = FEATURE_DETECTORS[name](least=1000).score(cohort, everything(cohort, values))
    assert np.isnan(nothing.values).all()
    assert len(nothing.notes) >= 8
    with pytest.raises(UsageError, match="10 or more"):
        FEATURE_DETECTORS[name](least=9)


@pytest.mark.parametrize("name", FEATURE_DETECTORS)
def test_labels_that_are_not_stated_equal_films_and_repeats(name):
    cohort, values, _ = scene(8, 0.1, n=600)
    labels = cohort.labels.copy()
    labels[np.random.default_rng(1).random(labels.shape) < 0.1] = np.nan
    labels[:5] = np.nan
    cohort = cohort_of(labels)
    values[10:300:7] = values[10]  # films whose features are the same
    features = everything(cohort, values)
    before = features.values.copy()
    scores = FEATURE_DETECTORS[name]().score(cohort, features)
    assert np.isnan(scores.values[:5]).all()
    assert not np.isinf(scores.values).any()
    np.testing.assert_array_equal(features.values, before)
    again = FEATURE_DETECTORS[name]().score(cohort, features)
    np.testing.assert_array_equal(scores.values, again.values)
    assert [e.words for e in scores.evidence] == [e.words for e in again.evidence]


@pytest.mark.parametrize("name", FEATURE_DETECTORS)
def test_a_group_of_equal_films_has_no_suspect(name):
    cohort = single(50)
    scores = FEATURE_DETECTORS[name]().score(
        cohort,
        Features(
            np.ones((50, 4), np.float32),
            np.ones((50, 2, 3), np.float32),
            np.ones((1, 50, 1), np.float32),
        ),
    )
    assert len(np.unique(scores.values)) == 1
    assert not scores.evidence


def test_a_companions_direction_does_not_hide_the_poison():
    """Mass comes with Effusion half the time: the direction of greatest variance is Effusion's."""
    cohort, values, poisoned = scene(12, 0.06)
    detector = FEATURE_DETECTORS["spectral-signatures"]()
    scores = detector.score(cohort, Features(values))
    known = ~np.isnan(scores.values)
    assert auroc(poisoned[known], scores.values[known]) > 0.98  # measured: 1.000
    # The same films when nobody knows about Effusion.
    only_mass = cohort_of(cohort.labels[:, :1])
    blind = detector.score(only_mass, Features(values)).values
    assert auroc(poisoned, blind) < 0.9
