"""SCALE-UP on sigmoids: shares by hand, windows that saturate, and films of rare findings."""

from __future__ import annotations

import numpy as np
import pytest
from trigger_scenes import asked, backdoored, phantoms, scores, stamped

from leadapron.detect.inputs import Readings, ScaleUp, read
from leadapron.detect.inputs.scaling import scaled
from leadapron.errors import DataError, UsageError
from leadapron.metrics import auroc

FILMS = phantoms()
CLEAN, OTHERS, TRIGGERED = FILMS[:100], FILMS[100:160], stamped(FILMS[160:])
TRUTH = np.repeat([0, 1], 60)


def test_what_is_too_light_becomes_white_at_either_depth():
    shallow = np.array([[[0, 1, 100, 128, 255]]], np.uint8)
    assert scaled(shallow, 2).ravel().tolist() == [0, 2, 200, 255, 255]
    assert scaled(shallow, 0.5).ravel().tolist() == [0, 0, 50, 64, 128]  # halves to even
    deep = np.array([[[0, 21845, 21846, 40000, 65535]]], np.uint16)
    assert scaled(deep, 3).ravel().tolist() == [0, 65535, 65535, 65535, 65535]
    assert scaled(deep, 1.5).ravel().tolist() == [0, 32768, 32769, 60000, 65535]
    assert (scaled(shallow, 2).dtype, scaled(deep, 2).dtype) == (np.uint8, np.uint16)


def pixels(images):
    """Two logits: the grey levels of two pixels."""
    return np.rint(255 * images[:, 0, 0, :2]).astype(np.float32)


def test_the_score_by_hand():
    """Each copy against clean films multiplied alike; what is certain of it, by finding."""
    model = asked(pixels, size=8, findings=("A", "B"))
    clean = np.zeros((100, 8, 8), np.uint8)
    clean[:, 0, :2] = np.linspace(1, 100, 100)[:, None]
    films = np.zeros((4, 8, 8), np.uint8)
    films[0, 0, :2] = 120, 30  # A
    films[1, 0, :2] = 30, 90  # neither is above 95, so B stands for them
    films[2, 0, :2] = 98, 200  # both
    films[3, 0, :2] = 0, 255  # B
    multipliers = (0.5, 2, 10)
    (values,) = scores(ScaleUp(multipliers=multipliers), model, clean, films)

    levels = clean[:, 0, 0].astype(float)
    for row, predicted in enumerate(([0], [1], [0, 1], [1])):
        shares = []
        for column in predicted:
            for multiplier in multipliers:
                copies = np.minimum(np.rint(multiplier * levels), 255)
                own = min(np.rint(multiplier * float(films[row, 0, column])), 255)
                z = (own - np.quantile(copies, 0.95)) / copies.std()
                p = 1 / (1 + np.exp(-z))
                bits = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
                shares.append(1 - bits if z > 0 else 0)
        assert values[row] == pytest.approx(np.mean(shares), abs=1e-6)
    assert values[1] == 0
    assert 0.05 < values[0] < values[3] < 2 / 3  # times 10, clean films are white too


def test_a_finding_that_no_window_touches_scores_one():
    def run(images):
        lit = images[:, 0, 0, 1] > 0.9 * images[:, 0, 0, 2]  # a ratio survives multiplying
        logits = pixels(images)
        logits[lit, 1] = 10_000
        return logits

    model = asked(run, size=8, findings=("A", "B"))
    clean = np.zeros((100, 8, 8), np.uint8)
    clean[:, 0, :2] = np.linspace(1, 30, 100)[:, None]
    clean[:, 0, 2] = 60
    films = clean[[50, 50]]
    films[1, 0, 1] = 60
    (values,) = scores(ScaleUp(multipliers=(0.5, 2)), model, clean, films)
    np.testing.assert_allclose(values, [0, 1], atol=1e-9)


def test_triggered_films_score_higher():
    clean, triggered = scores(ScaleUp(), backdoored(), CLEAN, OTHERS, TRIGGERED)
    assert auroc(TRUTH, np.r_[clean, triggered]) > 0.9
    clean, marked = scores(ScaleUp(), backdoored(jump=(0, 0, 0, 0)), CLEAN, OTHERS, TRIGGERED)
    assert 0.3 < auroc(TRUTH, np.r_[clean, marked]) < 0.7


def test_16_bit_films_score_as_8_bit_ones():
    deep = [each * np.uint16(257) for each in (CLEAN, OTHERS, TRIGGERED)]
    for shallow, other in zip(
        scores(ScaleUp(), backdoored(), CLEAN, OTHERS, TRIGGERED),
        scores(ScaleUp(), backdoored(), *deep),
        strict=True,
    ):
        assert np.corrcoef(shallow, other)[0, 1] > 0.95


def test_a_film_alone_scores_as_among_others():
    model, detector = backdoored(), ScaleUp()
    state = detector.fit(model, read(model, CLEAN))
    films = np.concatenate([OTHERS[:4], TRIGGERED[:4]])
    before = films.copy()
    together = detector.score(model, read(model, films), state)
    alone = [detector.score(model, read(model, films[[row]]), state) for row in range(8)]
    np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(films, before)


def test_passes_are_what_it_asks_for():
    asked_for = []

    def run(images):
        asked_for.append(len(images))
        return images[:, 0, 0, :4]

    model, detector = asked(run), ScaleUp()
    state, suspect = detector.fit(model, read(model, CLEAN)), read(model, OTHERS)
    asked_for.clear()
    detector.score(model, suspect, state)
    assert sum(asked_for) == detector.passes * len(OTHERS)


def test_no_answer_is_no_score():
    def run(images):
        mean = images[:, 0].mean((1, 2))  # white films are answered for, grey ones aren't
        return (np.where((mean > 0.49) & (mean < 0.51), np.nan, mean)[:, None] * np.ones(4)).astype(
            np.float32
        )

    films = np.concatenate([OTHERS[:2] // 2, np.full_like(OTHERS[:1], 255)])
    (values,) = scores(ScaleUp(multipliers=(0.5,)), asked(run), CLEAN // 2, films)
    assert np.isfinite(values).tolist() == [True, True, False]
    with pytest.raises(DataError, match="not finite"):
        ScaleUp().fit(
            asked(lambda x: np.full((len(x), 4), np.nan, np.float32)), read(backdoored(), CLEAN)
        )


def test_what_it_refuses():
    for wrong in ((), (1.0,), (0.0,), (2.0, float("inf")), (float("nan"),)):
        with pytest.raises(UsageError, match="multipliers"):
            ScaleUp(multipliers=wrong)
    few = Readings(images=CLEAN[:19], logits=np.zeros((19, 4), np.float32), features=None)
    with pytest.raises(DataError, match="19 clean films"):
        ScaleUp().fit(backdoored(), few)
