"""The null by reference models: worked p values, and no more false alarms than stated."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.detect.models import compare, least_p
from leadapron.errors import DataError


def of(*values):
    """Models of one statistic and one finding forced on; forced off is always 0."""
    return np.array([[[[value, 0.0]]] for value in values])


def test_p_counts_references_and_the_model_itself():
    found = compare(of(10)[0], of(1, 2, 3))
    assert found.p == pytest.approx(1 / 4)
    assert found.finding_p.tolist() == [[pytest.approx(1 / 4), 1.0]]
    # Median 2 of 1, 2, 3; their MAD is 1.
    assert found.strongest == pytest.approx((10 - 2) / 1.4826)
    # Among 10, 1, 2 the reference 3 is 1 above the median 2, the MAD is 1.
    assert found.references[2] == pytest.approx(1 / 1.4826)


def test_the_smallest_p_is_one_in_references_and_one():
    assert least_p(19) == pytest.approx(0.05)
    assert compare(of(1e6)[0], of(*range(19))).p == pytest.approx(0.05)


def test_a_model_in_the_middle_has_a_large_p():
    assert compare(of(2)[0], of(0, 1, 3, 4)).p > 0.5


def test_false_alarms_are_kept_though_much_is_tried():
    rng = np.random.default_rng(0)
    models = rng.normal(size=(100, 10, 3, 14, 2))  # 84 statistics each, all of them chance
    p = np.array([compare(pool[0], pool[1:]).p for pool in models])
    assert p.min() == pytest.approx(0.1)
    assert 0.03 < (p <= 0.1).mean() < 0.2  # 10 of 100 expected


def test_a_spread_of_nothing_counts_as_a_quarter():
    assert compare(of(2)[0], of(1, 1, 1)).strongest == pytest.approx(4)


def test_findings_on_which_references_agree_have_the_middle_ones_spread():
    references = np.zeros((3, 1, 3, 2))
    references[:, 0, 1:, 0] = np.array([[0.0, 1, 2]]).T  # the first finding is 0 for all
    model = np.zeros((1, 3, 2))
    model[0, :, 0] = 4
    excess = compare(model, references).excess[0, :, 0]
    assert excess.tolist() == [pytest.approx(v / 1.4826) for v in (4, 3, 3)]


def test_a_kind_counts_as_much_as_it_is_given():
    rng = np.random.default_rng(3)
    references = rng.normal(size=(19, 2, 4, 2))
    references[0, 1, 0, 0] = 30.0  # a clean model that is odd in the second kind
    model = rng.normal(size=(2, 4, 2))
    model[0, 2, 0] = 12.0
    assert compare(model, references).p == pytest.approx(0.1)
    weighed = compare(model, references, (1.0, 0.25))
    assert weighed.p == pytest.approx(0.05)
    np.testing.assert_allclose(
        weighed.excess, compare(model, references).excess * [[[1.0]], [[0.25]]]
    )


def test_too_few_or_other_references():
    with pytest.raises(DataError, match="two references or more"):
        compare(of(1)[0], of(1))
    with pytest.raises(DataError, match="expected the same"):
        compare(of(1)[0], np.zeros((3, 1, 2, 2)))
