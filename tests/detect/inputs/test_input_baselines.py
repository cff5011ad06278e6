"""The baselines of screening, by hand."""

from __future__ import annotations

import numpy as np

from leadapron.detect.inputs import Readings
from leadapron.detect.inputs.baselines import LargestLogit, LargestProbability


class Head:
    def __init__(self, head):
        self.head = head


def test_baselines_by_hand():
    readings = Readings(
        images=np.zeros((2, 4, 4), np.uint8),
        logits=np.array([[0.0, np.log(3)], [np.log(7), 0.0]], np.float32),
        features=None,
    )
    sure = LargestProbability()
    np.testing.assert_allclose(sure.score(Head("sigmoid"), readings, {}), [3 / 4, 7 / 8], rtol=1e-6)
    np.testing.assert_allclose(sure.score(Head("softmax"), readings, {}), [3 / 4, 7 / 8], rtol=1e-6)
    far = LargestLogit()
    np.testing.assert_allclose(far.score(None, readings, far.fit(None, readings)), [1, 1])
