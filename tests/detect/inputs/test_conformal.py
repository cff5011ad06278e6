"""Thresholds keep their rate for films of new patients, however alike a patient's films are."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.detect.inputs.conformal import (
    by_patient,
    film_weights,
    held_out,
    likely_rates,
    limit,
    shares,
)

RATE = 0.02


def test_one_film_a_patient_is_split_conformal_prediction():
    """Of 149 values the third largest: 3 of 150 are 2 %."""
    values = np.random.default_rng(0).normal(size=149)
    weights = film_weights(np.arange(149), RATE)
    np.testing.assert_allclose(weights, 1 / 150)
    assert limit(values, weights, RATE) == np.sort(values)[-3]
    new = np.array([np.sort(values)[-2], np.inf, -np.inf, np.nan])
    np.testing.assert_allclose(shares(values, weights, new), [3 / 150, 1 / 150, 1, np.nan])


def test_by_hand_with_several_films_a_patient():
    """Patients a, a, b and c: weights 1/8, 1/8, 1/4 and 1/4, and 1/4 for the new film."""
    values, weights = np.array([4.0, 1.0, 3.0, 2.0]), film_weights(np.array([0, 0, 1, 2]), 0.3)
    np.testing.assert_allclose(weights, [1 / 8, 1 / 8, 1 / 4, 1 / 4])
    np.testing.assert_allclose(
        shares(values, weights, np.array([5.0, 3.5, 3.0])), [2 / 8, 3 / 8, 5 / 8]
    )
    assert limit(values, weights, 0.3) == 4.0
    assert limit(values, weights, 0.4) == 3.0
    assert limit(values, weights, 0.2) == np.inf


def test_values_that_are_missing_have_no_part():
    values, weights = np.array([np.nan, 1.0, 2.0]), film_weights(np.arange(3), 0.3)
    np.testing.assert_allclose(shares(values, weights, np.array([1.5])), [2 / 3])


def drawn(rng, films, alike=0.8):
    """Scores of patients with these numbers of films, correlated within a patient."""
    codes = np.repeat(np.arange(len(films)), films)
    own, shared = rng.normal(size=len(codes)), rng.normal(size=len(films))[codes]
    return codes, np.sqrt(alike) * shared + np.sqrt(1 - alike) * own


@pytest.mark.parametrize("most", [1, 3, 20])
def test_the_rate_is_kept_for_films_of_new_patients(most):
    """In 600 calibrations; patients have 1 to `most` films, and those with few score higher."""
    rng = np.random.default_rng(most)
    by_patients, by_films = [], []
    for _ in range(600):
        films = rng.integers(1, most + 1, 149)
        codes, values = drawn(rng, films)
        values -= 2 * films[codes] / most
        new = rng.integers(1, most + 1, 60)
        others, scores = drawn(rng, new)
        scores -= 2 * new[others] / most
        first = np.unique(others, return_index=True)[1]  # a film of each new patient
        weights = film_weights(codes, RATE)
        by_patients.append((scores[first] > limit(values, weights, RATE)).mean())
        singly = np.full(len(codes), 1 / (len(codes) + 1))
        by_films.append((scores[first] > limit(values, singly, RATE)).mean())
    error = 3 * np.std(by_patients) / np.sqrt(600)
    assert np.mean(by_patients) <= RATE + error
    assert np.mean(by_patients) >= 0.6 * RATE
    if most == 1:
        np.testing.assert_array_equal(by_patients, by_films)
    else:
        assert np.mean(by_films) > 1.3 * RATE  # why films aren't counted singly


def test_films_counted_singly_break_the_rate():
    """Ten patients with 20 films each: why films aren't counted singly where it can be helped."""
    rng = np.random.default_rng(0)
    over = []
    for _ in range(200):
        codes, values = drawn(rng, np.full(10, 20))
        assert not by_patient(codes, RATE)
        over.append((rng.normal(size=50) > limit(values, film_weights(codes, RATE), RATE)).mean())
    assert np.mean(over) > 2 * RATE


def test_one_thresholds_own_rate_lies_where_it_is_said_to():
    """Scores between 0 and 1, all as likely: a threshold's own rate is 1 less the threshold."""
    rng, patients = np.random.default_rng(0), np.arange(149)
    weights = film_weights(patients, RATE)
    low, high = likely_rates(patients, RATE)
    own = [1 - limit(rng.random(149), weights, RATE) for _ in range(5_000)]
    np.testing.assert_allclose(np.quantile(own, [0.025, 0.975]), [low, high], rtol=0.1)
    assert np.mean(own) == pytest.approx(RATE, rel=0.03)


def test_films_are_judged_by_those_of_other_patients():
    """As by a gate that is made without the film's patient, of the rate's number of films."""
    rng = np.random.default_rng(0)
    codes, values = drawn(rng, rng.integers(1, 4, 80))
    held, patients = held_out(values, codes, 0.05), len(np.unique(codes))
    for film, value in enumerate(values):
        rest = codes != codes[film]
        weights = film_weights(codes[rest], 0.05)
        p = shares(values[rest], weights, np.array([value]))[0]
        assert held[film] == (p <= 0.05 * (patients + 1) / patients + 1e-9)
    assert held_out(values, np.arange(len(values)), 0.05).sum() == int(0.05 * (len(values) + 1))
