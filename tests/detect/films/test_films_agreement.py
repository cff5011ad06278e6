"""How many labels contradict what their films look like."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from leadapron.detect.films.agreement import wrong_labels
from leadapron.detect.films.contradictions import low_threshold

RATE = 0.4


def readings(inside, rng):
    """Calibrated readings: normal scores two apart, as Bayes's rule reads them."""
    scores = rng.normal(np.where(inside, 2.0, 0.0), 1.0)
    return special.expit(2 * scores - 2 + special.logit(RATE))


def test_the_likelihood_is_that_of_a_mixture_by_hand():
    """Two films, of odds 3 and 1/3 to a base rate of one half."""
    found = wrong_labels(np.array([0.75, 0.25]), 0.5, np.ones(2), 0.3)
    shares = np.linspace(0, 1, 201)
    likelihood = (shares + 3 * (1 - shares)) * (shares + (1 - shares) / 3)
    assert found.share == shares[likelihood.argmax()]
    assert (found.low, found.high) == (0, 1)
    assert found.random == 0.7


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_wrong_labels_is_found(share):
    rng = np.random.default_rng(0)
    inside = rng.random(2000) >= share
    found = wrong_labels(readings(inside, rng), RATE, np.ones(2000), RATE)
    assert found.share == pytest.approx(share, abs=0.04)
    assert found.low <= share <= found.high


def test_each_end_of_the_interval_errs_in_one_case_of_twenty():
    rng = np.random.default_rng(1)
    below = above = 0
    for _ in range(400):
        inside = rng.random(60) >= 0.3
        found = wrong_labels(readings(inside, rng), RATE, np.ones(60), RATE)
        below += found.high < 0.3
        above += found.low > 0.3
    assert 5 <= below <= 40
    assert 5 <= above <= 40


def test_right_labels_agree_and_random_ones_do_not():
    rng = np.random.default_rng(2)
    right = [
        wrong_labels(readings(np.ones(60, bool), rng), RATE, np.ones(60), RATE).agree
        for _ in range(50)
    ]
    # Given to films at random: so many are right by chance.
    random = [
        wrong_labels(readings(rng.random(60) < RATE, rng), RATE, np.ones(60), RATE).agree
        for _ in range(50)
    ]
    assert np.mean(right) > 0.5
    assert not any(random)


def test_films_of_one_patient_count_as_one():
    rng = np.random.default_rng(3)
    reads = readings(rng.random(30) < 0.5, rng)
    one = wrong_labels(reads, RATE, np.ones(30), RATE)
    thrice = wrong_labels(np.repeat(reads, 3), RATE, np.full(90, 1 / 3), RATE)
    assert thrice == one or thrice.share == pytest.approx(one.share, abs=0.005)


def test_the_threshold_is_where_wrong_labels_show():
    """Readings that hardly overlap: below nearly all of the group's, above nearly all others."""
    rng = np.random.default_rng(4)
    inside, outside = rng.normal(5, 1, 4000), rng.normal(0, 1, 4000)
    found = low_threshold(inside, outside)
    assert 0.004 <= found.rate <= 0.03
    assert (outside <= found.reading).mean() > 0.9
    assert (inside <= found.reading).mean() == pytest.approx(found.rate, abs=1e-3)


def test_readings_that_tell_nothing_give_a_threshold_all_the_same():
    found = low_threshold(np.full(50, 0.5), np.full(50, 0.5))
    assert found.rate == 1
