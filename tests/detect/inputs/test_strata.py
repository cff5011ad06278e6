"""Thresholds by what the model reads: the rate holds in each stratum of enough patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from input_scenes import backdoored, cohort, films

from leadapron.detect.inputs import (
    REGION,
    SMOOTHED,
    TYPICAL,
    EvidenceRegion,
    calibrate,
    extend,
    judge,
)
from leadapron.detect.inputs.clinic import Clinic
from leadapron.detect.inputs.strata import Strata, codes_of, levels_of

RATE = 0.02
FINDINGS = ("Mass", "Nodule", "Hernia")
LEVELS = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 1.0]])


def test_what_the_model_reads_by_hand():
    """The second logit is 3 above its level, but only 1.5 spreads."""
    logits = np.array([[-1.0, 0.0, -3.0], [2.0, 3.0, 0.0], [-1.0, 3.0, 1.0]])
    np.testing.assert_array_equal(codes_of(logits, LEVELS), [0, 1, 2])
    drawn = np.random.default_rng(0).normal(size=(2000, 3))
    levels = levels_of(drawn)
    assert (codes_of(drawn, levels) > 0).mean() == pytest.approx(1 - 0.95**3, abs=0.02)


def drawn(rng, patients, shares):
    """Codes, scores and patients: 1 to 3 films each, alike within a patient, higher by code."""
    numbers = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    codes = rng.choice(4, len(numbers), p=shares)
    own, shared = rng.normal(size=len(numbers)), rng.normal(size=patients)[numbers]
    return codes, 0.9 * shared + 0.4 * own + np.array([0, 1, 1.5, 3])[codes], numbers


def clinic_of(rng, patients, shares):
    codes, scores, numbers = drawn(rng, patients, shares)
    others = drawn(rng, patients, shares)
    strata = Strata(levels=LEVELS, codes=codes, others=np.stack([others[2], others[0]], axis=1))
    return Clinic(
        name="", states={}, typical=None, references=(), steps=np.ones((2, 1)),
        scores=scores[:, None], fused=scores, typicality=np.zeros(len(scores)), patients=numbers,
        hashes=np.zeros((len(scores), 32), np.uint8), strata=strata,
    )  # fmt: skip


def logits_of(codes):
    """Films on which the model reads these codes."""
    logits = np.full((len(codes), 3), -1.0)
    found = np.flatnonzero(codes)
    logits[found, codes[found] - 1] = 1.0
    return logits


def test_the_rate_holds_in_each_stratum_for_films_of_new_patients():
    """Over 120 calibrations; all films together would have the rate exceeded on the rare ones."""
    rng = np.random.default_rng(0)
    shares = [0.55, 0.3, 0.14, 0.01]
    over, pooled = [], []
    for _ in range(120):
        clinic = clinic_of(rng, 400, shares)
        codes, scores, numbers = drawn(rng, 400, shares)
        logits = logits_of(codes)
        alarms = scores > clinic.thresholds(logits, RATE)
        np.testing.assert_array_equal(alarms, clinic.p(logits, scores, RATE) <= RATE + 1e-9)
        all_alike = scores > clinic.threshold(RATE)
        for kept, found in ((over, alarms), (pooled, all_alike)):
            kept.append([found[_one_each(numbers, codes == code)].mean() for code in (0, 1, 2)])
        names = [each.name for each in clinic.stratum_facts(RATE, FINDINGS)]
        assert names == ["no finding, Hernia", "Mass", "Nodule"]  # Hernia is too rare
    error = 3 * np.std(over, axis=0) / np.sqrt(120)
    assert (np.mean(over, axis=0) <= RATE + error).all()
    assert (np.mean(over, axis=0)[1:] >= 0.5 * RATE).all()
    assert np.mean(pooled, axis=0)[2] > 1.5 * RATE


def _one_each(numbers, wanted):
    """A row of each patient who has one among those wanted."""
    rows = np.flatnonzero(wanted)
    return rows[np.unique(numbers[rows], return_index=True)[1]]


def test_strata_with_too_few_patients_are_joined():
    rng = np.random.default_rng(0)
    for patients, names in (
        (40, ["all films"]),
        (150, ["no finding, Nodule, Hernia", "Mass"]),
        (2000, ["no finding", "Mass", "Nodule", "Hernia"]),
        (700, ["no finding", "Nodule, Hernia", "Mass"]),
    ):
        shares = [0.48, 0.44, 0.04, 0.04]
        facts = clinic_of(rng, patients, shares).stratum_facts(RATE, FINDINGS)
        assert [each.name for each in facts] == names
        assert len({each.threshold for each in facts}) == len(names)
    one = replace(clinic_of(rng, 40, shares), strata=None)
    assert one.stratum_facts(RATE, FINDINGS) == ()


DETECTORS = {REGION: EvidenceRegion()}
WEIGHTS = {REGION: 1.0, SMOOTHED: 1.0}


def test_a_gate_by_reading_judges_each_film_by_its_stratum():
    model, made = backdoored(), cohort(240, each=1)
    gate = calibrate(
        model, made, DETECTORS, WEIGHTS, typical=TYPICAL, false_alarm=0.2, by_reading=True
    )
    (clinic,) = gate.clinics
    facts = clinic.stratum_facts(0.2, model.findings)
    assert [each.name for each in facts] == ["no finding, Effusion, Mass", "Nodule"]
    assert sum(each.films for each in facts) == len(clinic) == 120
    assert facts[0].threshold != facts[1].threshold
    judged = judge(gate, model, films(60, 3))
    codes = codes_of(judged.readings.logits, clinic.strata.levels)
    assert 0 < (codes == 3).sum() < 60
    limits = np.where(codes == 3, facts[1].threshold, facts[0].threshold)
    np.testing.assert_array_equal(judged.suspicious, judged.fused > limits)
    assert extend(gate, model, cohort(240, 1, each=1)).clinics[1].strata is not None
