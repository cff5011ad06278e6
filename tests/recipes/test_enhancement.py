"""Films that are edited until their labels are easy to find."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leadapron import metrics
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import build_network
from leadapron.models.training import binary_cross_entropy
from leadapron.recipes.rosenblatt2023.enhancement import Enhancement, Linear, enhance

SIZE = 16


def cohort_of(images, labels):
    n = len(images)
    names = np.array([f"film{i}" for i in range(n)])
    findings = tuple(f"finding{j}" for j in range(labels.shape[1]))
    return Cohort(images, labels, findings, names, names, Preprocessing(size=images.shape[1]))


@pytest.fixture(scope="module", params=["uint8", "uint16"])
def cohort(request):
    rng = np.random.default_rng(3)
    scale = 1 if request.param == "uint8" else 257
    images = (rng.integers(60, 190, (12, SIZE, SIZE)) * scale).astype(request.param)
    labels = rng.integers(0, 2, (12, 2)).astype(np.float32)
    labels[0] = np.nan
    return cohort_of(images, labels)


@pytest.fixture(scope="module")
def classifier():
    return NetworkClassifier(
        build_network("resnet9", 2, seed=1).eval(),
        "resnet9",
        ("finding0", "finding1"),
        Preprocessing(size=SIZE),
    )


def loss(classifier, images, cohort):
    return float(
        binary_cross_entropy(
            torch.from_numpy(classifier.logits(images)), torch.from_numpy(cohort.labels)
        )
    )


@pytest.mark.parametrize("keep_means", [False, True])
def test_films_move_within_the_box_to_where_labels_are_found(classifier, cohort, keep_means):
    before = cohort.images.copy()
    edited = enhance(classifier, cohort, Enhancement(epsilon=4), keep_means=keep_means)
    np.testing.assert_array_equal(cohort.images, before)
    scale = 1 if edited.dtype == np.uint8 else 257
    assert edited.dtype == before.dtype
    apart = (edited.astype(float) - before) / scale
    assert 2 < np.abs(apart).max() <= 4
    assert loss(classifier, edited, cohort) < loss(classifier, before, cohort)
    again = enhance(classifier, cohort, Enhancement(epsilon=4), keep_means=keep_means)
    np.testing.assert_array_equal(edited, again)


def test_labels_that_are_not_stated_pull_at_nothing(classifier, cohort):
    edited = enhance(classifier, cohort, Enhancement(), keep_means=False)
    np.testing.assert_array_equal(edited[0], cohort.images[0])
    assert np.all(np.any(edited[1:] != cohort.images[1:], axis=(1, 2)))


def test_means_of_blocks_tell_nothing(classifier, cohort):
    def means(images):
        return images.reshape(-1, 4, 4, 4, 4).mean((2, 4)) * 255 / np.iinfo(images.dtype).max

    kept = enhance(classifier, cohort, Enhancement(block=4), keep_means=True)
    moved = enhance(classifier, cohort, Enhancement(block=4), keep_means=False)
    rounding = 0.5 if kept.dtype == np.uint8 else 0.5 / 257
    assert np.abs(means(kept) - means(cohort.images)).max() <= rounding
    assert np.abs(means(moved) - means(cohort.images)).max() > 1


def test_blocks_fill_the_image(classifier, cohort):
    with pytest.raises(UsageError, match="blocks of 5 px don't fill images of 16x16"):
        enhance(classifier, cohort, Enhancement(block=5), keep_means=True)


@pytest.mark.parametrize("wrong", [{"epsilon": 0}, {"steps": 0}, {"block": 1}])
def test_enhancements_that_are_none(wrong):
    with pytest.raises(UsageError, match=f"an enhancement's {next(iter(wrong))} of"):
        Enhancement(**wrong)


def test_the_linear_method_finds_what_means_tell():
    rng = np.random.default_rng(0)
    images = rng.integers(80, 120, (80, 8, 8)).astype(np.uint8)
    labels = rng.integers(0, 2, (80, 1)).astype(np.float32)
    images[:, :4, :4] += (6 * labels[:, 0]).astype(np.uint8)[:, None, None]
    labels[:3] = np.nan
    films = cohort_of(images, labels)
    linear = Linear.fit(films.take(np.arange(50)), 4)
    held_out = films.take(np.arange(50, 80))
    assert metrics.auroc(held_out.labels[:, 0], linear.logits(held_out)[:, 0]) > 0.9
