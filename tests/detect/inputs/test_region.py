"""The evidence region: found where the trigger lies, and measured by what it does."""

from __future__ import annotations

import numpy as np
import pytest
from input_scenes import SIZE, backdoored, black_square, films
from scipy.ndimage import median_filter

from leadapron.detect.inputs import EvidenceRegion, read
from leadapron.detect.inputs.region import _best_boxes, _inside, background
from leadapron.errors import DataError, UsageError
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier

CLEAN, OTHER = films(60, 1), films(60, 2)
REGION = EvidenceRegion()


@pytest.mark.parametrize(("sign", "direction"), [(1.0, "added"), (-1.0, "removed")])
def test_a_trigger_is_found_both_ways_with_its_place_and_finding(sign, direction):
    model = backdoored(sign=sign)
    state = REGION.fit(model, read(model, CLEAN))
    clean = REGION.examine(model, read(model, OTHER), state)
    seen = REGION.examine(model, read(model, black_square(OTHER)), state)
    assert seen.scores.min() > 5 * clean.scores.max(), direction
    assert (seen.findings == 1).all()
    inside = _inside(seen.boxes, (SIZE, SIZE))
    assert inside[:, 12:15, 17:20].all()


def test_falls_and_rises_are_what_the_written_weights_say():
    model = backdoored(strength=6.0)
    state = REGION.fit(model, read(model, CLEAN))
    seen = REGION.examine(model, read(model, black_square(OTHER)), state)
    trigger = 6.0 / state["spread"][1]  # beside it, only the region's brightness changes
    np.testing.assert_allclose(seen.falls[:, 1], trigger, atol=0.5)
    np.testing.assert_allclose(seen.rises[:, 1], trigger, atol=0.5)
    np.testing.assert_allclose(seen.scores, np.minimum(seen.falls[:, 1], seen.rises[:, 1]))
    np.testing.assert_allclose(
        seen.logits[:, 1], read(model, OTHER).logits[:, 1], atol=0.2
    )  # as if it had never been there


def test_a_finding_that_goes_but_does_not_come_is_no_evidence():
    model = backdoored()
    marked = black_square(OTHER)
    state = dict(REGION.fit(model, read(model, CLEAN)))
    state["hosts"] = black_square(state["hosts"])  # the trigger is there already: nothing comes
    state["host_logits"] = read(model, state["hosts"]).logits
    seen = REGION.examine(model, read(model, marked), state)
    assert seen.falls[:, 1].min() > 5
    assert seen.scores.max() < 1


def test_a_film_is_scored_by_itself():
    model = backdoored()
    state = REGION.fit(model, read(model, CLEAN))
    together = REGION.score(model, read(model, OTHER[:5]), state)
    alone = np.concatenate(
        [REGION.score(model, read(model, OTHER[i : i + 1]), state) for i in range(5)]
    )
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_sixteen_bits_score_as_eight():
    model = backdoored()
    eight, sixteen = black_square(OTHER[:20]), black_square(OTHER[:20]).astype(np.uint16) * 257
    states = [REGION.fit(model, read(model, x)) for x in (CLEAN, CLEAN.astype(np.uint16) * 257)]
    scores = [
        REGION.score(model, read(model, x), s)
        for x, s in zip((eight, sixteen), states, strict=True)
    ]
    np.testing.assert_allclose(*scores, rtol=0.01)


@pytest.mark.parametrize("side", [3, 5, 9])
def test_the_background_is_a_median(side):
    given = films(3, 4)
    expected = median_filter(given, (1, side, side), mode="reflect")
    np.testing.assert_array_equal(background(given, side), expected)
    wide = given.astype(np.uint16) * 257
    np.testing.assert_array_equal(background(wide, side), expected.astype(np.uint16) * 257)


def test_the_best_box_has_the_largest_sum():
    shares = np.random.default_rng(0).normal(size=(4, 12, 15)).astype(np.float32)
    for film, (row, column, height, width) in zip(shares, _best_boxes(shares, 5), strict=True):
        sums = {
            (i, j): film[i : i + 5, j : j + 5].sum(dtype=np.float64)
            for i in range(8)
            for j in range(11)
        }
        assert (row, column) == max(sums, key=sums.get)
        assert (height, width) == (5, 5)


def test_what_can_not_be_done_is_said():
    with pytest.raises(UsageError, match="odd"):
        EvidenceRegion(side=4)
    with pytest.raises(UsageError, match="hosts"):
        EvidenceRegion(hosts=0)
    model = backdoored()
    with pytest.raises(DataError, match="20 or more"):
        REGION.fit(model, read(model, CLEAN[:10]))
    with pytest.raises(DataError, match="30 or more"):
        EvidenceRegion(hosts=30).fit(model, read(model, CLEAN[:25]))
    asked = BlackBoxClassifier(
        lambda x: x.mean((1, 2, 3))[:, None] * np.ones(3, np.float32),
        model.findings,
        model.preprocessing,
        NORMALISATIONS["unit"],
        batch=64,
    )
    state = REGION.fit(model, read(model, CLEAN))
    with pytest.raises(UsageError, match="gradients"):
        REGION.score(asked, read(asked, OTHER), state)
