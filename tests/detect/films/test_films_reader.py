"""Films read from afar: what the reader learns, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
from film_scenes import labelled_cohort
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from leadapron.detect.films.observe import CELLS, from_afar
from leadapron.detect.films.reader import Reader, calibrated
from leadapron.detect.films.shift import Labelled

N = 400
NONE = np.zeros(0, np.int64)


def films(seed=0, size=32):
    """Films of two classes: the second is brighter on the left."""
    rng = np.random.default_rng(seed)
    images = rng.normal(100, 20, (N, size, size))
    labels = (rng.random((N, 1)) < 0.4).astype(float)
    images[labels[:, 0] == 1, :, : size // 2] += 12
    return images.clip(0, 255).astype(np.uint8), labels


def reader(images, labels, **columns):
    labelled = Labelled(labelled_cohort(labels, size=images.shape[1], **columns))
    cells = np.arange(CELLS**2)
    return Reader(from_afar(images), cells, images.shape[1:], labelled, np.random.default_rng(0))


def test_a_film_from_afar_is_the_means_of_its_cells():
    images = np.random.default_rng(0).integers(0, 256, (5, 37, 50), dtype=np.uint8)
    rows, columns = (np.linspace(0, side, CELLS + 1).astype(int) for side in (37, 50))
    seen = from_afar(images)
    cell = images[3, rows[4] : rows[5], columns[7] : columns[8]].mean()
    means = np.array(
        [
            images[3, rows[i] : rows[i + 1], columns[j] : columns[j + 1]].mean()
            for i in range(CELLS)
            for j in range(CELLS)
        ]
    )
    assert seen.shape == (5, CELLS * CELLS)
    assert seen[3, 4 * CELLS + 7] == pytest.approx(
        (cell - np.median(means)) / np.subtract(*np.percentile(means, (75, 25))), rel=1e-4
    )


def test_classes_that_differ_from_afar_are_told_and_the_chances_are_true():
    images, labels = films()
    read = reader(images, labels).read(0, NONE)
    assert roc_auc_score(labels[:, 0], read) > 0.95
    assert read.mean() == pytest.approx(labels.mean(), abs=0.02)
    sure = read > 0.8
    assert labels[sure, 0].mean() > 0.8
    # What is in the group is what isn't in the other.
    np.testing.assert_allclose(read, 1 - reader(images, labels).read(1, NONE), atol=1e-6)


def test_a_label_that_contradicts_its_film_is_read_as_the_film_is():
    images, labels = films()
    marked = np.flatnonzero(labels[:, 0] == 0)[:30]
    labels[marked] = 1
    read = reader(images, labels).read(0, marked)
    assert read[marked].mean() < 0.15


def test_no_film_is_read_by_what_learnt_from_its_patient():
    """Each patient's films share a pattern of their own; their labels are chance."""
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(N // 4), 4)
    pattern = rng.normal(0, 30, (N // 4, 32, 32))[patients]
    images = (110 + pattern + rng.normal(0, 5, (N, 32, 32))).clip(0, 255).astype(np.uint8)
    labels = (rng.random(N // 4) < 0.5).astype(float)[patients][:, None]
    known = reader(images, labels, patients=patients).read(0, NONE)
    assert roc_auc_score(labels[:, 0], known) < 0.6


def test_films_with_the_mark_teach_nothing():
    images, labels = films()
    marked = np.arange(60)
    one = reader(images, labels).read(0, marked)
    flipped = labels.copy()
    flipped[marked] = 1 - flipped[marked]
    np.testing.assert_allclose(reader(images, flipped).read(0, marked), one, atol=1e-6)


def test_a_mark_is_not_seen():
    """A large square where the reader looks changes the reading, unless it is told the place."""
    images, labels = films(size=64)
    marked = np.arange(30)
    with_mark = images.copy()
    with_mark[marked, 20:26, 10:16] = 255
    clean = reader(images, labels).read(0, marked, [(20, 10, 6)])
    change = {
        place: np.abs(reader(with_mark, labels).read(0, marked, [place] if place else []) - clean)[
            marked
        ].mean()
        for place in (None, (20, 10, 6))
    }
    assert change[20, 10, 6] < 0.1
    assert change[None] > 2 * change[20, 10, 6]


def test_too_few_films_teach_no_reader():
    images, labels = films()
    labels[:] = 0
    labels[:25] = 1
    assert reader(images, labels).read(0, NONE) is None
    labels[:] = np.nan
    assert (
        reader(images, labels).read(0, NONE) is None
        if Labelled(labelled_cohort(labels, size=32)).groups
        else True
    )


def test_chances_are_those_of_a_logistic_regression():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((N, 2))
    inside = rng.random(N) < 1 / (1 + np.exp(-1 - scores[:, 0] + 0.5 * scores[:, 1]))
    teaches = rng.random(N) < 0.8
    wanted = LogisticRegression(C=1e6).fit(scores[teaches], inside[teaches])
    found = calibrated(scores, inside, teaches)
    np.testing.assert_allclose(found, wanted.predict_proba(scores)[:, 1], atol=1e-3)
