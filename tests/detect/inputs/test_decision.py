"""The decision on a film: from a gate and images in memory, without files or a terminal."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from input_scenes import SMALL, backdoored, black_square, films

from leadapron.detect.inputs import (
    EvidenceRegion,
    Typicality,
    calibrate,
    decide,
    decide_image,
    decide_images,
    judge,
)
from leadapron.detect.inputs.decision import NO_NUMBER, NOT_SCORED, UNTYPICAL
from leadapron.films.cohort import Cohort
from leadapron.types import Place


@pytest.fixture(scope="module")
def model():
    return backdoored()


@pytest.fixture(scope="module")
def gate(model):
    images = films(240, 0)
    ids = np.array([f"film {row}" for row in range(240)])
    clean = Cohort(images, np.empty((240, 0), np.float32), (), ids, ids, SMALL)
    return calibrate(
        model,
        clean,
        {"evidence region": EvidenceRegion()},
        {"evidence region": 1.0, "lost by smoothing": 1.0},
        typical=Typicality(),
        false_alarm=0.02,
    )


@pytest.fixture(scope="module")
def judged(gate, model):
    return judge(gate, model, np.concatenate([black_square(films(1, 5)), films(2, 6)]))


def with_flags(judged, *, suspicious, typical, scored):
    n = len(judged.fused)
    return replace(
        judged,
        suspicious=np.full(n, suspicious),
        typical=np.full(n, typical),
        scored=np.full(n, scored),
    )


@pytest.mark.parametrize(
    ("suspicious", "typical", "scored", "verdict", "level", "reason"),
    [
        (False, True, True, "pass", "nothing found", ""),
        (False, True, False, "can't tell", "can't tell", NOT_SCORED),
        (False, False, True, "can't tell", "can't tell", UNTYPICAL),
        (False, False, False, "can't tell", "can't tell", UNTYPICAL),
        (True, True, True, "suspicious", "found", ""),
        (True, True, False, "suspicious", "found", ""),
        (True, False, True, "can't tell", "can't tell", UNTYPICAL),
        (True, False, False, "can't tell", "can't tell", UNTYPICAL),
    ],
)
def test_each_case(gate, judged, suspicious, typical, scored, verdict, level, reason):
    given = with_flags(judged, suspicious=suspicious, typical=typical, scored=scored)
    for decision in decide(gate, given):
        assert (decision.verdict, decision.level, decision.reason) == (verdict, level, reason)
        assert decision.typical == typical


def test_one_film_alone_gets_what_it_gets_among_others(gate, model, judged):
    together = decide(gate, judged)
    for film, image in zip(together, judged.readings.images, strict=True):
        alone = decide_image(gate, model, image)
        assert (alone.verdict, alone.region) == (film.verdict, film.region)
        assert alone.score == pytest.approx(film.score, rel=1e-4)


def test_a_triggered_film_shows_where_and_what(gate, model):
    film = decide_image(gate, model, black_square(films(1, 5))[0])
    assert (film.verdict, film.level, film.finding) == ("suspicious", "found", "Mass")
    assert isinstance(film.region, Place)
    assert film.region.row <= 12 <= film.region.row + film.region.height - 3
    assert film.readings[0].probability > 0.9 > 0.6 > film.readings[0].without
    assert set(film.scores) == {"evidence region", "lost by smoothing"}


def test_what_the_region_does_and_how_the_film_looks_are_two_things(gate, model):
    """A trigger on a usual film drives the reading; another picture is unlike, and no more."""
    usual, marked, other = films(1, 5), black_square(films(1, 5)), films(1, 5) // 3 + 150
    usual, marked, other = (decide_image(gate, model, x[0]) for x in (usual, marked, other))
    least = 1 / (gate.clinics[0].patient_count + 1)
    assert marked.drives == pytest.approx(least)
    assert marked.unlike > gate.false_alarm
    assert other.unlike == pytest.approx(least)
    assert other.drives > gate.false_alarm
    assert min(usual.drives, usual.unlike) > gate.false_alarm


def test_a_score_that_is_missing_is_no_number(gate, judged):
    scores = judged.scores.copy()
    scores[:, 0] = np.nan
    first = decide(gate, replace(judged, scores=scores))[0]
    assert math.isnan(first.scores["evidence region"])
    assert not math.isnan(first.scores["lost by smoothing"])


def test_without_regions_or_a_detector_of_untypical_films(gate, model, judged):
    bare = replace(gate, typical=None)
    for film in decide(bare, replace(judged, examined=None)):
        assert (film.region, film.finding, film.readings, film.typical) == (None, None, (), None)
    unlike = decide(bare, judge(bare, model, judged.readings.images))[0].unlike
    assert unlike is None


def test_a_film_without_a_number_stops_no_other(gate, model):
    module = model.module

    class Odd(type(model)):
        def outputs(self, images):
            found = super().outputs(images)
            found.logits[(images == 255).all((1, 2))] = np.nan
            return found

    odd = Odd(module, model.architecture, model.findings, model.preprocessing)
    images = np.concatenate([films(1, 7), np.full((1, *films(1).shape[1:]), 255, np.uint8)])
    good, bad = decide_images(gate, odd, images)
    assert good.verdict == "pass"
    assert (bad.verdict, bad.reason, bad.p) == ("can't tell", NO_NUMBER, None)
    assert decide_images(gate, odd, images[:0]) == ()
