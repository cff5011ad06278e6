"""The gate: one score, a threshold that keeps its word, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from input_scenes import backdoored, black_square, cohort, films

from leadapron.detect.inputs import (
    REGION,
    SMOOTHED,
    TYPICAL,
    EvidenceRegion,
    calibrate,
    judge,
)
from leadapron.detect.inputs.fitting import _parts
from leadapron.detect.inputs.gate import fuse, steps_of
from leadapron.errors import DataError, UsageError

DETECTORS = {REGION: EvidenceRegion()}
WEIGHTS = {REGION: 1.0, SMOOTHED: 1.0}


@pytest.fixture(scope="module")
def model():
    return backdoored()


@pytest.fixture(scope="module")
def gate(model):
    return calibrate(model, cohort(240), DETECTORS, WEIGHTS, false_alarm=0.02)


def test_triggered_films_are_suspicious_and_clean_ones_pass(gate, model):
    clean, marked = films(200, 5), black_square(films(200, 6))
    assert judge(gate, model, marked).suspicious.mean() > 0.99
    assert judge(gate, model, clean).suspicious.mean() < 0.07  # 2 % expected


def test_the_parts_share_no_patient():
    clean = cohort(240, each=7)
    parts = _parts(clean, 3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(240))
    patients = [set(clean.patients[rows]) for rows in parts]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
    assert [len(each) for each in patients] == [13, 4, 18]


def test_fusing_by_hand():
    reference = np.linspace(0, 100, 101)[:, None] * [1.0, 2.0]  # median 50, 100; 95 %: 95, 190
    scores = np.array([[50.0, 100.0], [95.0, 100.0], [95.0, 280.0], [0.0, np.nan]])
    fused = fuse(scores, steps_of(reference), {"one": 1.0, "two": 2.0})
    np.testing.assert_allclose(fused, [0, np.log(2), np.log(2) + 2 * np.log(3), 0])


def test_p_is_the_share_of_calibration_films_that_reach_a_score(gate, model):
    judged = judge(gate, model, films(20, 8))
    (clinic,) = gate.clinics
    assert set(np.unique(clinic.patients, return_counts=True)[1]) == {2}
    expected = [
        (1 + (clinic.fused >= value).sum() / 2) / (clinic.patient_count + 1)
        for value in judged.fused
    ]
    np.testing.assert_allclose(judged.p, expected)


def test_too_few_films_for_the_rate(model):
    with pytest.raises(DataError, match=r"of the 100 clean films.*needs 99 of them"):
        calibrate(model, cohort(100), DETECTORS, WEIGHTS, false_alarm=0.01)
    with pytest.raises(DataError, match="8 patients"):
        calibrate(model, cohort(100, each=20), DETECTORS, WEIGHTS, false_alarm=0.1)
    with pytest.raises(DataError, match=r"are fitted on have 1\d of the 40.*give about 54 films"):
        calibrate(model, cohort(40), DETECTORS, WEIGHTS, typical=TYPICAL, false_alarm=0.2)
    with pytest.raises(UsageError, match="above 0"):
        calibrate(model, cohort(100), DETECTORS, WEIGHTS, false_alarm=1.0)
    with pytest.raises(UsageError, match="with a weight"):
        calibrate(model, cohort(240), DETECTORS, {}, false_alarm=0.02)


@dataclass(frozen=True, kw_only=True)
class Given:
    """A detector whose scores are `value` on films darker than grey level 60, else 0."""

    value: float
    unit: str = "none"
    needs: str = "outputs"
    passes: int = 0

    def fit(self, classifier, clean):
        return {}

    def score(self, classifier, suspect, state):
        return np.where(suspect.images.mean((1, 2)) < 60, self.value, 0.0)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_scores_that_are_no_numbers(model, value):
    gate = calibrate(model, cohort(120), {"given": Given(value=value)}, {"given": 1.0},
                     false_alarm=0.02)  # fmt: skip
    dark = np.stack([films(1, 5)[0], np.full((32, 32), 20, np.uint8)])
    judged = judge(gate, model, dark)
    assert judged.scored.tolist() == [True, not np.isnan(value)]
    assert judged.suspicious.tolist() == [False, value == np.inf]
    assert np.isfinite(judged.fused).all()
