"""One pass over films: what is kept of it, of networks and of models that can only be asked."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.detect.inputs import operating_logits, read
from leadapron.errors import DataError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier
from leadapron.models.networks import build_network

FINDINGS = ("Effusion", "Mass", "Nodule")
SMALL = Preprocessing(size=32)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (40, 32, 32), dtype=np.uint8)


def asked(jump=0.0):
    def run(images):
        means = images.mean((1, 2, 3))[:, None]
        return (means * np.float32([1, -2, 3]) + np.float32(jump)).astype(np.float32)

    return BlackBoxClassifier(run, FINDINGS, SMALL, NORMALISATIONS["unit"], batch=4096)


def test_a_network_is_read_in_one_pass(images):
    network = NetworkClassifier(build_network("resnet9", 3, 0).eval(), "resnet9", FINDINGS, SMALL)
    readings = read(network, images)
    np.testing.assert_allclose(readings.logits, network.logits(images), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(readings.features, network.features(images), rtol=1e-5, atol=1e-6)
    some = readings.take(np.array([7, 3]))
    assert len(some) == 2
    np.testing.assert_array_equal(some.images, images[[7, 3]])
    np.testing.assert_array_equal(some.features, readings.features[[7, 3]])


def test_a_model_that_can_only_be_asked_has_no_features(images):
    readings = read(asked(), images)
    assert readings.features is None
    assert readings.take(np.array([1])).features is None


def test_one_film_in_twenty_exceeds_each_operating_logit():
    logits = np.arange(200, dtype=np.float32)[:, None] * np.float32([1, -1])
    above = (logits > operating_logits(logits)).sum(axis=0)
    np.testing.assert_array_equal(above, [10, 10])


def test_what_is_no_reading_is_refused(images):
    with pytest.raises(UsageError, match="no images"):
        read(asked(), images[:0])
    with pytest.raises(DataError, match="not finite"):
        read(asked(np.nan), images)
