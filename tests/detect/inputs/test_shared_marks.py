"""Marks that calibration films share: found where they drive the model, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from input_scenes import SMALL, backdoored, black_square, cohort, films

from leadapron.detect.inputs import REGION, SMOOTHED, EvidenceRegion, Examined, calibrate
from leadapron.detect.inputs import shared_marks as shared_marks_module
from leadapron.detect.inputs.shared_marks import _Films, _largest_parts, _p, shared_marks
from leadapron.films.cohort import Cohort

DETECTORS = {REGION: EvidenceRegion()}
WEIGHTS = {REGION: 1.0, SMOOTHED: 1.0}
FINDINGS = ("Effusion", "Mass")


def examined(scores, boxes, rises=None):
    """Regions that drive Mass as strongly as the scores say."""
    both = np.stack([np.zeros(len(scores)), scores], axis=1) if rises is None else rises
    return Examined(
        scores=np.asarray(scores, float), smoothed=np.zeros(len(scores)), boxes=boxes,
        findings=np.ones(len(scores), np.int64), logits=both.astype(np.float32), rises=both,
        falls=both,
    )  # fmt: skip


def shared(images, scores, boxes):
    n = len(images)
    names = np.array([f"f{i}" for i in range(n)])
    clean = Cohort(images, np.zeros((n, 2), np.float32), FINDINGS, names, names, SMALL)
    return shared_marks(clean, examined(scores, boxes), side=9, findings=FINDINGS)


def poisoned(count):
    """Films of which the first carry a black square."""
    clean = cohort(240, each=1)
    images = clean.images[np.arange(240)]
    images[:count] = black_square(images[:count])
    return replace(clean, images=images)


def gate_of(clean):
    return calibrate(backdoored(), clean, DETECTORS, WEIGHTS, false_alarm=0.02)


def test_a_trigger_on_some_calibration_films_is_noticed_and_the_films_are_named():
    (found,) = gate_of(poisoned(12)).clinics[0].shared
    assert (found.finding, found.direction) == ("Mass", "added")
    assert found.row <= 12
    assert found.row + found.side >= 15
    assert found.column <= 17
    assert found.column + found.side >= 20
    assert 3 <= found.films <= 12  # the others are those that detectors are fitted on
    assert len(found.named) == found.films
    assert {int(name.split("-")[1]) for name in found.named} <= set(range(12))
    assert found.films_words.endswith(f"{found.named[4]} and {found.films - 5} more")
    assert found.words.startswith(f"{found.films} of {found.of} films that were given as clean")
    assert "share a mark that adds Mass" in found.words


def test_clean_films_and_a_mark_that_drives_nothing_are_left_in_peace():
    assert gate_of(cohort(240)).clinics[0].shared == ()
    images = films(160, 3)
    images[:20] = black_square(images[:20])
    scores = np.random.default_rng(0).permutation(160) / 160
    boxes = np.tile([9, 14, 9, 9], (160, 1))
    assert shared(images, scores, boxes) == ()
    assert shared(images, np.where(np.arange(160) < 20, 2 + scores, scores), boxes)[0].films == 20


def test_several_films_of_one_patient_are_no_proof():
    clean = poisoned(12)
    patients = np.where(np.arange(240) < 12, "one", clean.patients)
    assert gate_of(replace(clean, patients=patients)).clinics[0].shared == ()


def test_chance_by_hand():
    """Of 100 films the three others with the mark are the first three: 1 / C(100, 3), three tries.

    Tried are the best two of three and the three: C(3, 2) (1, 2 of 100) is more likely.
    """
    scores = np.arange(101, 0, -1.0)
    marked = np.arange(101) < 4
    found = _p(scores, marked, np.ones(101, bool), np.arange(101), template=0)
    assert found == pytest.approx(3 * 6 / (100 * 99 * 98))


def test_of_a_patient_the_lowest_film_counts():
    scores = np.arange(101, 0, -1.0)
    marked = np.isin(np.arange(101), [0, 1, 2, 99, 100])
    alone = _p(scores, marked, np.ones(101, bool), np.arange(101), template=0)
    patients = np.arange(101)
    patients[[99, 100]] = [1, 2]  # the high ones' patients
    assert alone < 0.05
    assert _p(scores, marked, np.ones(101, bool), patients, template=0) == 1


def test_patients_with_many_films_are_no_proof():
    """Scores that go with patients, four of whom have a hundred films each: at most 1 % of 200."""
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(9), [100] * 4 + [1] * 5)
    marked = patients >= 4
    alarms = 0
    for _ in range(200):
        scores = 0.97 * rng.normal(size=9)[patients] + 0.22 * rng.normal(size=405)
        templates = np.argsort(-scores)[:12]
        found = [
            24 * _p(scores, marked, np.ones(405, bool), patients, int(template))
            for template in templates
            if marked[template]
        ]
        alarms += min(found, default=1) <= 0.01
    assert alarms <= 5  # binomial, .01 of 200: at most 5 with probability .98


def test_place_and_finding_are_those_of_the_mark_and_not_of_another_region():
    images = films(160, 3)
    images[:12] = black_square(images[:12], row=4, column=4)
    boxes = np.tile([1, 1, 9, 9], (160, 1))
    boxes[0, :2] = [20, 20]  # what drives the first film most is something else
    scores = 160 - np.arange(160.0)
    rises = np.zeros((160, 2))
    rises[:, 1] = scores
    rises[0] = [-300, 0]
    made = examined(scores, boxes, rises)
    names = np.array([f"f{i}" for i in range(160)])
    clean = Cohort(images, np.zeros((160, 2), np.float32), FINDINGS, names, names, SMALL)
    (found,) = shared_marks(clean, made, side=9, findings=FINDINGS)
    assert (found.finding, found.direction, found.row, found.column) == ("Mass", "added", 1, 1)
    assert found.films == 12


def test_the_largest_part_of_each_mask():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, 0, :3] = masks[0, 2, :2] = True
    masks[1, [0, 1], [0, 1]] = True  # they touch at a corner
    np.testing.assert_array_equal(_largest_parts(masks), [3, 1, 0])


@pytest.mark.parametrize(("down", "across", "expected"), [(0, 0, 9), (1, -1, 9), (3, 0, 3)])
def test_a_mark_is_the_same_within_a_pixel(down, across, expected):
    """Three pixels further down it is beside the place; a black square's edge is seen there."""
    images = films(2, 3)
    images[:1] = black_square(images[:1])
    images[1:] = black_square(images[1:], row=12 + down, column=17 + across)
    boxes = np.tile([9, 14, 9, 9], (2, 1))
    same = _Films.of(images, examined([1.0, 1.0], boxes), 9).same_as(0)
    assert same[0] >= 9
    assert same[1] >= expected
    assert expected == 9 or same[1] < 9


def test_a_mark_in_another_films_own_region_counts():
    images = films(2, 3)
    images[:1] = black_square(images[:1], row=4, column=4)
    images[1:] = black_square(images[1:], row=20, column=25)
    boxes = np.array([[1, 1, 9, 9], [17, 22, 9, 9]])
    assert _Films.of(images, examined([1.0, 1.0], boxes), 9).same_as(0)[1] >= 9


def test_of_very_many_films_a_part_is_compared(monkeypatch):
    monkeypatch.setattr(shared_marks_module, "MOST_PIXELS", 120 * 32 * 32 + 5)
    images = films(160, 3)
    images[:40] = black_square(images[:40])
    (found,) = shared(images, 160 - np.arange(160.0), np.tile([9, 14, 9, 9], (160, 1)))
    assert found.of == 120
    assert 20 < found.films < 40


def test_two_marks_are_two():
    images = films(160, 3)
    images[:5] = black_square(images[:5], row=4, column=4)
    images[5:9, 20:23, 20:23] = 255
    boxes = np.tile([10, 10, 9, 9], (160, 1))
    boxes[:5, :2], boxes[5:9, :2] = [1, 1], [17, 17]
    scores = np.linspace(1, 0, 160) + 5 * (np.arange(160) < 9)
    found = shared(images, scores, boxes)
    assert sorted((each.films, each.named[0]) for each in found) == [(4, "f5"), (5, "f0")]


def test_clean_films_raise_an_alarm_as_rarely_as_stated():
    """Of 300 sets of films with one mark on 30 and scores drawn at random: at most 1 %, or 3."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(300):
        scores, marked = rng.random(200), np.arange(200) < 30
        templates = np.argsort(-scores)[:6]
        found = [
            6 * _p(scores, marked, np.ones(200, bool), np.arange(200), int(template))
            for template in templates
            if marked[template]
        ]
        alarms += min(found, default=1) <= 0.01
    assert alarms <= 7  # binomial, .01 of 300: at most 7 with probability .99
