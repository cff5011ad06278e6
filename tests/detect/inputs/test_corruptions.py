"""Corruption consistency: changes by hand, and triggers that a filter destroys."""

from __future__ import annotations

import numpy as np
import pytest
from trigger_scenes import asked, backdoored, phantoms, scores, stamped

from leadapron.detect.inputs import CORRUPTIONS, CorruptionConsistency, Readings, read
from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.metrics import auroc

FILMS = phantoms()
CLEAN, OTHERS, TRIGGERED = FILMS[:100], FILMS[100:160], stamped(FILMS[160:])
TRUTH = np.repeat([0, 1], 60)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_mild_and_treats_films_one_by_one(name, dtype):
    films = FILMS[:6].astype(dtype) * (257 if dtype == np.uint16 else 1)
    before = films.copy()
    changed = CORRUPTIONS[name](films)
    assert (changed.shape, changed.dtype) == (films.shape, films.dtype)
    np.testing.assert_array_equal(films, before)
    difference = np.abs(changed.astype(float) - films) / np.iinfo(dtype).max
    assert 0 < difference.mean() < 0.1
    for row in range(6):
        np.testing.assert_array_equal(CORRUPTIONS[name](films[[row]])[0], changed[row])


def test_corruptions_by_hand():
    film = np.zeros((1, 7, 7), np.uint8)
    film[0, 3, 3] = 200
    assert not CORRUPTIONS["median 3"](film).any()
    moved = np.zeros_like(film)
    moved[0, 4, 4] = 200
    np.testing.assert_array_equal(CORRUPTIONS["move"](film), moved)
    square = np.zeros((1, 9, 9), np.uint8)
    square[0, 3:6, 3:6] = 200
    assert CORRUPTIONS["median 3"](square)[0, 4, 4] == 200  # which 5x5 destroys
    assert not CORRUPTIONS["median 5"](square).any()
    # sigma 1: the middle keeps 0.3989 squared of a single pixel.
    assert CORRUPTIONS["blur"](film)[0, 3, 3] == 32
    np.testing.assert_array_equal(CORRUPTIONS["mirror"](moved), moved[:, :, ::-1])


def pixels(images):
    """Two logits: grey levels of two pixels on the diagonal, and of the ones before them."""
    return np.rint(255 * images[:, 0, [2, 4], [2, 4]]).astype(np.float32)


def test_the_score_by_hand():
    """Moved by a pixel, a logit becomes the grey level of the pixel before on the diagonal."""
    rng = np.random.default_rng(1)
    clean = np.zeros((101, 8, 8), np.uint8)
    clean[:, [2, 4], [2, 4]] = rng.integers(90, 110, (101, 2))
    clean[:, [1, 3], [1, 3]] = clean[:, [2, 4], [2, 4]] + rng.integers(-8, 12, (101, 2))
    films = np.full((4, 8, 8), 100, np.uint8)
    films[0, 2, 2] = 180  # forced on, and gone when moved
    films[1, 3, 3] = 180  # comes back when moved
    films[2, 1, 1] = 30  # falls when moved, but isn't in the predicted set: B is
    films[2, 4, 4] = 101
    films[3, 2, 2] = 100
    changes = clean[:, [1, 3], [1, 3]].astype(float) - clean[:, [2, 4], [2, 4]]
    median = np.median(changes, axis=0)
    spread = 1.4826 * np.median(np.abs(changes - median), axis=0)
    model = asked(pixels, size=8, findings=("A", "B"))
    (values,) = scores(CorruptionConsistency(corruptions=("move",)), model, clean, films)
    own = np.array([[-80, 0], [0, 80], [-70, -1], [0, 0]])
    standard = (own - median) / spread
    predicted = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], bool)
    operating = np.quantile(clean[:, [2, 4], [2, 4]], 0.95, axis=0)
    assert (operating > 101).all()  # so that only the first film reaches one
    wide = clean[:, [2, 4], [2, 4]].std(axis=0)
    for row in (1, 2, 3):
        stands = (films[row, [2, 4], [2, 4]] - operating) / wide
        predicted[row] = stands == stands.max()
    expected = np.where(predicted, np.abs(standard), standard).max(axis=1)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert values[0] == pytest.approx(-standard[0, 0])
    assert values[1] == pytest.approx(standard[1, 1])
    assert values[2] < 5


def test_a_trigger_that_forces_a_finding_on_is_found():
    clean, triggered = scores(CorruptionConsistency(), backdoored(), CLEAN, OTHERS, TRIGGERED)
    assert auroc(TRUTH, np.r_[clean, triggered]) > 0.99
    assert triggered.min() > np.quantile(clean, 0.95)


def test_a_trigger_that_forces_findings_off_is_found():
    hiding = backdoored(jump=(-6, 0, 0, 0))
    clean, triggered = scores(CorruptionConsistency(), hiding, CLEAN, OTHERS, TRIGGERED)
    assert auroc(TRUTH, np.r_[clean, triggered]) > 0.99


def test_a_model_without_a_backdoor_says_nothing_of_the_mark():
    model = backdoored(jump=(0, 0, 0, 0))
    clean, marked = scores(CorruptionConsistency(), model, CLEAN, OTHERS, TRIGGERED)
    assert 0.3 < auroc(TRUTH, np.r_[clean, marked]) < 0.7


def test_16_bit_films_score_as_8_bit_ones():
    detector = CorruptionConsistency(corruptions=("median 3", "blur", "move"))
    deep = [each * np.uint16(257) for each in (CLEAN, OTHERS, TRIGGERED)]
    pairs = zip(
        scores(detector, backdoored(), CLEAN, OTHERS, TRIGGERED),
        scores(detector, backdoored(), *deep),
        strict=True,
    )
    for shallow, other in pairs:
        assert np.corrcoef(shallow, other)[0, 1] > 0.95


def test_a_film_alone_scores_as_among_others():
    model, detector = backdoored(), CorruptionConsistency()
    state = detector.fit(model, read(model, CLEAN))
    films = np.concatenate([OTHERS[:4], TRIGGERED[:4]])
    together = detector.score(model, read(model, films), state)
    alone = [detector.score(model, read(model, films[[row]]), state) for row in range(8)]
    np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-4, atol=1e-4)


def test_passes_are_what_it_asks_for():
    asked_for = []

    def run(images):
        asked_for.append(len(images))
        return images[:, 0, 0, :4]

    model, detector = asked(run), CorruptionConsistency()
    state, suspect = detector.fit(model, read(model, CLEAN)), read(model, OTHERS)
    asked_for.clear()
    detector.score(model, suspect, state)
    assert sum(asked_for) == detector.passes * len(OTHERS)


def test_no_answer_is_no_score():
    def run(images):
        level = images[:, 0, 8, 8]  # only a film with one light pixel gets this one
        return np.where(level == 1, np.inf, images[:, 0].mean((1, 2)))[:, None] * np.ones(4)

    films = OTHERS[:3].copy()
    films[2, 7, 7], films[2, 8, 8] = 255, 0
    model = asked(lambda images: run(images).astype(np.float32))
    (values,) = scores(CorruptionConsistency(corruptions=("move",)), model, CLEAN, films)
    assert np.isfinite(values).tolist() == [True, True, False]
    with pytest.raises(DataError, match="not finite"):
        CorruptionConsistency().fit(
            asked(lambda x: np.full((len(x), 4), np.nan, np.float32)), read(backdoored(), CLEAN)
        )


def test_what_it_refuses():
    with pytest.raises(UsageError, match="no corruptions"):
        CorruptionConsistency(corruptions=())
    with pytest.raises(UnknownNameError, match="median 3"):
        CorruptionConsistency(corruptions=("median3",))
    few = Readings(images=CLEAN[:19], logits=np.zeros((19, 4), np.float32), features=None)
    with pytest.raises(DataError, match="19 clean films"):
        CorruptionConsistency().fit(backdoored(), few)
