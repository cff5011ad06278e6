"""STRIP on sigmoids: the formula by hand, and its direction on films of rare findings."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load, save
from trigger_scenes import asked, backdoored, phantoms, scores, stamped

from leadapron.detect.inputs import Readings, Strip, read
from leadapron.detect.inputs.copies import doubt
from leadapron.detect.inputs.strip import blend
from leadapron.errors import DataError, UsageError
from leadapron.metrics import auroc

FILMS = phantoms()
CLEAN, OTHERS, TRIGGERED = FILMS[:100], FILMS[100:160], stamped(FILMS[160:])
TRUTH = np.repeat([0, 1], 60)


def entropy(p):
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def test_doubt_is_the_entropy_of_a_finding_that_is_on():
    above = np.array([0.0, np.log(3), 2.0, 5.0])
    np.testing.assert_allclose(doubt(above), entropy(1 / (1 + np.exp(-above))), rtol=1e-12)
    assert doubt(np.log(3)) == pytest.approx(0.811278, abs=1e-6)  # of three to one
    np.testing.assert_array_equal(doubt(np.array([-0.1, -40.0])), [1, 1])
    assert 0 < doubt(np.float64(40)) < 1e-15
    assert doubt(np.float64(1000)) == 0


def test_blends_are_weighted_means_in_whole_grey_levels():
    images = np.array([[[0, 100, 255]], [[10, 11, 12]]], np.uint8)
    before = images.copy()
    overlay = np.array([[200, 101, 255]], np.uint8)
    np.testing.assert_array_equal(
        blend(images, overlay, 0.25), [[[150, 101, 255]], [[152, 78, 194]]]
    )
    np.testing.assert_array_equal(images, before)
    deep = blend(images * np.uint16(257), overlay * np.uint16(257), 0.25)
    assert deep.dtype == np.uint16
    assert deep[0, 0].tolist() == [38550, 25893, 65535]  # not rounded to 256 levels


def pixel(jump, light=200):
    """A model whose two logits are two pixels' grey levels, and `jump` where the first is light."""

    def run(images):
        grey = np.rint(images[:, 0, 0, :2] * 255)
        grey[grey[:, 0] >= light, 0] = jump
        return grey.astype(np.float32)

    return asked(run, size=8, findings=("Effusion", "Mass"))


def test_a_constant_certain_prediction_has_no_entropy():
    rng = np.random.default_rng(0)
    clean = rng.integers(50, 150, (41, 8, 8), np.uint8)
    films = np.full((3, 8, 8), 100, np.uint8)
    films[0, 0, 0] = 255  # certain under every overlay; two of an entropy worth computing
    films[1, 0, 1] = 180
    films[2, 0, :2] = 160
    detector = Strip(overlays=2, weight=0.75)
    state = detector.fit(pixel(1000), read(pixel(1000), clean))
    values = detector.score(pixel(1000), read(pixel(1000), films), state)
    assert -1e-9 < values[0] <= 0

    # The same from the formula, overlay by overlay and finding by finding.
    overlays = state["overlays"]
    chosen = {tuple(each.ravel()) for each in overlays}
    rest = np.array([film for film in clean if tuple(film.ravel()) not in chosen])
    for row, predicted in ((1, [1]), (2, [0, 1])):
        of_findings = []
        for column in predicted:
            bits = []
            for overlay in overlays:
                mixed = np.rint(0.75 * rest[:, 0, column] + 0.25 * overlay[0, column])
                own = np.rint(0.75 * films[row, 0, column] + 0.25 * overlay[0, column])
                z = (own - np.quantile(mixed, 0.95)) / mixed.std()
                bits.append(entropy(1 / (1 + np.exp(-z))) if z > 0 else 1)
            of_findings.append(np.mean(bits))
        assert 0 < min(of_findings) < 1
        assert values[row] == pytest.approx(-np.mean(of_findings), abs=1e-6)


def test_triggered_films_score_higher_where_plain_entropy_finds_healthy_ones():
    model = backdoored()
    clean, triggered = scores(Strip(), model, CLEAN, OTHERS, TRIGGERED)
    assert auroc(TRUTH, np.r_[clean, triggered]) > 0.99
    assert triggered.min() > np.quantile(clean, 0.95)

    # All findings, probabilities as they are: a film without any is the most certain of all.
    overlays = Strip().fit(model, read(model, CLEAN))["overlays"]
    films = np.concatenate([OTHERS, TRIGGERED])
    plain = np.mean(
        [entropy(model.probabilities(blend(films, each, 0.5))).sum(1) for each in overlays], axis=0
    )
    assert auroc(TRUTH, -plain) < 0.3


def test_a_model_without_a_backdoor_says_nothing_of_the_mark():
    clean, marked = scores(Strip(), backdoored(jump=(0, 0, 0, 0)), CLEAN, OTHERS, TRIGGERED)
    assert 0.3 < auroc(TRUTH, np.r_[clean, marked]) < 0.7


def test_16_bit_films_score_as_8_bit_ones():
    deep = [each * np.uint16(257) for each in (CLEAN, OTHERS, TRIGGERED)]
    for shallow, other in zip(
        scores(Strip(), backdoored(), CLEAN, OTHERS, TRIGGERED),
        scores(Strip(), backdoored(), *deep),
        strict=True,
    ):
        np.testing.assert_allclose(shallow, other, atol=0.1)
        assert np.corrcoef(shallow, other)[0, 1] > 0.99


def test_a_film_alone_scores_as_among_others_and_is_left_as_it_was():
    model, detector = backdoored(), Strip(overlays=3, seed=4)
    state = detector.fit(model, read(model, CLEAN))
    films = np.concatenate([OTHERS[:4], TRIGGERED[:4]])
    before = films.copy()
    together = detector.score(model, read(model, films), state)
    alone = [detector.score(model, read(model, films[[row]]), state) for row in range(8)]
    np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(films, before)


def test_what_it_keeps_is_numbers_and_one_call_answers_for_all_films():
    calls = []

    def run(images):
        calls.append(len(images))
        return images[:, 0, 0, :4]

    model, detector = asked(run), Strip(overlays=3)
    state = detector.fit(model, read(model, CLEAN))
    assert {name: values.shape for name, values in state.items()} == {
        "overlays": (3, 64, 64),
        "film levels": (4,),
        "film spreads": (4,),
        "blend levels": (3, 4),
        "blend spreads": (3, 4),
    }
    suspect = read(model, OTHERS)
    kept = load(save({name: np.ascontiguousarray(v) for name, v in state.items()}))
    expected = detector.score(model, suspect, state)
    calls.clear()
    np.testing.assert_array_equal(detector.score(model, suspect, kept), expected)
    assert sum(calls) == detector.passes * len(OTHERS)
    assert max(calls) == 64  # full batches, across overlays
    again = detector.fit(model, read(model, CLEAN))
    np.testing.assert_array_equal(again["overlays"], state["overlays"])
    other = Strip(overlays=3, seed=1).fit(model, read(model, CLEAN))
    assert not np.array_equal(other["overlays"], state["overlays"])


def test_no_answer_is_no_score():
    def run(images):
        # Nothing finite of a film that is neither as it was nor dark: a blend of the white one.
        mean = images[:, 0].mean((1, 2))
        return np.where((mean > 0.7) & (mean < 0.99), np.nan, mean)[:, None] * np.ones(4, "f4")

    films = np.concatenate([OTHERS[:2], np.full_like(OTHERS[:1], 255)])
    model = asked(lambda images: run(images).astype(np.float32))
    (values,) = scores(Strip(), model, CLEAN, films)
    assert np.isfinite(values).tolist() == [True, True, False]
    with pytest.raises(DataError, match="not finite"):
        Strip().fit(asked(lambda x: np.full((len(x), 4), np.inf, np.float32)), read(model, CLEAN))


def test_findings_that_never_move_are_borne():
    model = asked(lambda x: np.zeros((len(x), 4), np.float32))
    (values,) = scores(Strip(), model, CLEAN, OTHERS)
    np.testing.assert_array_equal(values, -1)


def test_what_it_refuses():
    for wrong in ({"overlays": 0}, {"weight": 0.0}, {"weight": 1.0}, {"seed": -1}):
        with pytest.raises(UsageError, match="overlays"):
            Strip(**wrong)
    few = Readings(images=CLEAN[:24], logits=np.zeros((24, 4), np.float32), features=None)
    with pytest.raises(DataError, match="19 clean films"):
        Strip(overlays=5).fit(backdoored(), few)
