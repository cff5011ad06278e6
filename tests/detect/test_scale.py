"""What values are counted in."""

from __future__ import annotations

import numpy as np
from numpy.random import default_rng
from scipy import stats

from leadapron.detect.scale import logit_spreads, mad_spread


def test_the_spread_by_the_mad_is_a_normal_standard_deviation():
    values = default_rng(0).normal(3, 2, (4, 501))
    expected = stats.median_abs_deviation(values, axis=1, scale="normal")
    np.testing.assert_allclose(mad_spread(values, 1), expected, rtol=1e-4)
    assert mad_spread(np.array([1.0, 1.0, 1.0, 9.0])) == 0


def test_a_finding_whose_logit_stands_still_has_a_thousandth_of_the_median_spread():
    logits = default_rng(0).normal(size=(2, 100, 3)).astype(np.float32) * np.float32([1, 4, 0])
    spread = logit_spreads(logits)
    np.testing.assert_allclose(spread[:, :2], logits[..., :2].std(axis=1), rtol=1e-5)
    np.testing.assert_allclose(spread[:, 2], np.median(spread, axis=1) / 1000)
    assert (logit_spreads(np.zeros((30, 3))) > 0).all()
