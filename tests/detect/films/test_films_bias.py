"""What is natural, learnt from negative controls: made by hand, and drawn from known spreads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from leadapron.detect.films.bias import (
    ENOUGH,
    LOG_ODDS,
    SPREADS,
    TRIMMED,
    evidence_of_spreads,
    learn_bias,
    profiles,
)

NOTHING = np.zeros((0, len(SPREADS)))


def drawn(spread, count=200, base=0.5, patients=20, seed=0):
    """Controls whose log odds ratios are normal with that spread."""
    rng = np.random.default_rng(seed)
    chance = special.expit(special.logit(base) + spread * rng.standard_normal(count))
    hits = rng.binomial(patients, chance).astype(float)
    trials = np.full(count, float(patients))
    return evidence_of_spreads(profiles(hits, trials, np.full(count, base)))


def test_a_profile_is_the_binomial_likelihood():
    profile = profiles(np.array([3.0]), np.array([10.0]), np.array([0.2]))[0]
    chance = special.expit(special.logit(0.2) + LOG_ODDS)
    wanted = stats.binom.logpmf(3, 10, chance) - np.log(special.comb(10, 3))
    np.testing.assert_allclose(profile, wanted, rtol=1e-9)


def test_evidence_of_spreads_is_the_likelihood_of_normal_log_odds():
    profile = profiles(np.array(9.0), np.array(10.0), np.array(0.5))
    weights = stats.norm.pdf(LOG_ODDS, scale=SPREADS[20])
    wanted = np.log((np.exp(profile) * weights).sum() / weights.sum())
    assert evidence_of_spreads(profile)[20] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.5, 4.0])
def test_the_spread_of_controls_is_learnt(spread):
    bias = learn_bias(drawn(spread), NOTHING)
    assert bias.weights.sum() == pytest.approx(1)
    deviation = np.sqrt((bias.weights * LOG_ODDS**2).sum())
    assert deviation == pytest.approx(min(spread, 3.8), rel=0.25, abs=0.1)
    assert (bias.controls, bias.others) == (200 - int(TRIMMED * 200), 0)


def test_without_controls_more_is_granted_than_where_they_say_nothing_natural_goes_with_labels():
    assert learn_bias(drawn(0.0), NOTHING).below() < 1.3
    assert 1.5 < learn_bias(NOTHING, NOTHING).below() < 4
    assert learn_bias(drawn(3.0), NOTHING).below() > 50


def test_other_kinds_count_as_many_as_are_missing():
    """With fifty of its own a mark's kind speaks for itself; with none the others do."""
    calm, wild = drawn(0.0, 100), drawn(3.0, 1000)
    assert learn_bias(calm, wild).others == 0
    assert learn_bias(calm, wild).below() < 1.5
    assert learn_bias(NOTHING, wild).below() > 30
    some = learn_bias(calm[: ENOUGH // 2], wild)
    assert 1.5 < some.below() < learn_bias(NOTHING, wild).below()


def test_a_planted_control_does_not_count_as_nature():
    calm = drawn(0.0, 100)
    planted = evidence_of_spreads(profiles(np.full(2, 60.0), np.full(2, 60.0), np.full(2, 0.1)))
    known = learn_bias(np.concatenate([calm, planted]), NOTHING)
    assert known.below() == pytest.approx(learn_bias(calm, NOTHING).below(), rel=0.3)


def test_p_values_of_innocent_marks_are_no_smaller_than_they_say():
    """Of marks from the same nature, as many fall below a level as it says, or fewer."""
    for spread in (0.2, 1.0, 3.0):
        bias = learn_bias(drawn(spread, seed=1), NOTHING)
        rng = np.random.default_rng(2)
        chance = special.expit(spread * rng.standard_normal(4000))
        hits = rng.binomial(20, chance)
        tails = stats.binom.sf(np.arange(21)[:, None] - 1, 20, special.expit(LOG_ODDS))
        p = np.array([bias.expected(tail) for tail in tails])[hits]
        for level in (0.2, 0.05, 0.01):
            assert (p <= level).mean() <= level * 1.3 + 0.005
