"""One pass of the network gives all that the detectors need."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.detect.features import Features, extract
from leadapron.errors import DataError, UsageError
from leadapron.models.training import Training, train
from leadapron.sources import open_source

CPU = {"device": "cpu", "precision": "fp32"}


class Counting:
    """A classifier whose last map has as many channels as rows; it notes what it was shown."""

    def __init__(self):
        self.shown = 0

    def activations(self, images):
        self.shown += len(images)
        maps = images.astype(np.float32)[:, :, None] * np.arange(32)[:, None, None]
        return np.ascontiguousarray(maps[..., :5])

    def features(self, images):
        """What its last layer reads, which are no means of its map."""
        return 2 * images[:, :, 0].astype(np.float32)


@pytest.fixture(scope="module")
def films():
    return open_source("phantom:32", count=1100)


def test_every_film_is_shown_once(films):
    classifier = Counting()
    features = extract(classifier, films, channels=4)
    assert classifier.shown == len(films)
    maps = Counting().activations(films.images[np.arange(1100)])[:, :, 0]
    np.testing.assert_array_equal(features.values, Counting().features(films.images[:]))
    assert features.activations.shape == (1100, 4, 5)
    # The channels that vary most, in their order.
    chosen = [np.flatnonzero((maps[0] == kept).all(1))[0] for kept in features.activations[0]]
    assert chosen == sorted(np.argsort(-maps.mean(2).var(0))[:4].tolist())
    np.testing.assert_array_equal(features.activations, maps[:, chosen])
    assert extract(Counting(), films, channels=0).activations is None


def test_what_is_wrong_is_refused(films):
    with pytest.raises(UsageError, match="0 films"):
        extract(Counting(), films.take([]))
    with pytest.raises(DataError, match="NaN or infinite"):
        Features(np.full((3, 2), np.nan, np.float32))
    with pytest.raises(DataError, match=r"expected \(films, d\)"):
        Features(np.zeros(3, np.float32))
    with pytest.raises(DataError, match="losses of shape"):
        Features(np.zeros((3, 2), np.float32), losses=np.zeros((1, 4, 1), np.float32))
    with pytest.raises(DataError, match="expected \\(epochs, "):
        train(films, films, film_losses=np.zeros((1, 2, 3), np.float32))


def test_training_notes_the_films_losses_and_is_not_changed_by_it(films):
    some = films.take(np.arange(48))
    labels = some.labels.copy()
    labels[3, 2] = np.nan
    some = type(some)(
        some.images, labels, some.findings, some.ids, some.patients, some.preprocessing
    )
    training = Training(epochs=3, batch_size=16)
    losses = np.full((2, *labels.shape), -1, np.float32)
    watched, history = train(some, some, training=training, film_losses=losses, **CPU)
    plain, _ = train(some, some, training=training, **CPU)
    np.testing.assert_array_equal(watched.logits(some.images), plain.logits(some.images))
    assert np.isnan(losses[:, 3, 2]).all()
    assert (np.nan_to_num(losses) >= 0).all()
    # A batch's loss is the mean over its stated cells; batches of equal size up to one NaN.
    assert np.nanmean(losses[1]) == pytest.approx(history[1]["loss"], rel=1e-3)
    assert losses[0].tolist() != losses[1].tolist()
