"""Named streams of one seed."""

import numpy as np
import pytest

from leadapron.seeds import named_seed, stream


def draws(*words):
    return stream(*words).integers(0, 2**63, size=8).tolist()


def test_equal_names_give_equal_streams():
    assert draws(3, "split") == draws(3, "split")
    assert draws(3, "order", 7) == draws(3, "order", "7")


@pytest.mark.parametrize(
    "other",
    [(1, "split"), (0, "poison"), (0,), (0, "split", 0), (0, "spl", "it"), (0, "split", "")],
)
def test_other_seeds_and_names_give_other_streams(other):
    assert draws(0, "split") != draws(*other)


def test_boundaries_between_names_matter():
    assert draws(0, "ab", "c") != draws(0, "a", "bc")


def test_streams_do_not_depend_on_what_was_drawn_before():
    first = draws(5, "poison")
    stream(5, "split").random(1000)
    assert draws(5, "poison") == first


def test_golden_values():
    """A change here changes every study; then raise store.RESULTS_VERSION."""
    assert named_seed(0, "split").generate_state(2).tolist() == [825878129, 3184932888]
    assert stream(0, "split").integers(0, 1000, 4).tolist() == [905, 611, 191, 569]


def test_the_stream_is_that_of_its_seed():
    expected = np.random.default_rng(named_seed(4, "init")).random(3)
    np.testing.assert_array_equal(stream(4, "init").random(3), expected)


def test_negative_seeds_are_refused():
    with pytest.raises(ValueError, match="negative"):
        stream(-1, "split")
