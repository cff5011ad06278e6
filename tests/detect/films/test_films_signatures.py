"""Signatures of whole films, planted and natural, in descriptions made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from film_scenes import events, labelled_cohort

from leadapron.detect.films.observe import TRACES
from leadapron.detect.films.shift import Labelled
from leadapron.detect.films.signatures import FEWEST, _sizes, signatures
from leadapron.detect.films.ties import Controls

N, WIDE = 1200, 60
ODDS = 10.0


def described(seed=0, d=WIDE):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((N, d)) @ rng.standard_normal((d, d)) / np.sqrt(d)
    labels = (rng.random((N, 2)) < [0.1, 0.2]).astype(float)
    return rng, values, labels


def tried(values, labels, patients=None, seed=0):
    """Signatures of the first trace; the other one says nothing."""
    noise = np.random.default_rng(9).standard_normal((N, 5)).astype(np.float32)
    traces = dict(zip(TRACES, (values.astype(np.float32), noise), strict=True))
    labelled = Labelled(labelled_cohort(labels, patients=patients))
    found, tests = signatures(
        events(N, traces=traces), Controls([], labelled, None), ODDS, np.random.default_rng(seed)
    )
    assert all(0 <= sign.p <= 1 and 0 <= sign.shift.p <= 1 for sign in found)
    assert tests == sum(len(_sizes(N)) for _ in found)
    return found, tests, labelled


def test_a_planted_direction_is_found():
    rng, values, labels = described()
    rows = np.sort(rng.choice(np.flatnonzero(labels.sum(axis=1) == 0), N // 20, replace=False))
    labels[rows, 0] = 1
    values[rows] += 8 * values.std() * rng.standard_normal(WIDE) / np.sqrt(WIDE)
    found, tests, labelled = tried(values, labels)
    best = min(found, key=lambda sign: sign.p)
    assert best.p * tests < 5e-3
    assert best.trace == TRACES[0]
    group = labelled.groups[best.shift.group]
    assert group.finding == "Mass"
    named = np.isin(rows, best.films)
    assert named.mean() >= 0.9
    assert np.isin(best.films, rows).mean() >= 0.9
    assert len(np.unique(best.films)) == len(best.films)
    # The other description, and the other finding, know nothing of it.
    others = [
        sign
        for sign in found
        if sign.trace != TRACES[0] or labelled.groups[sign.shift.group].finding == "Edema"
    ]
    assert others
    assert min(sign.p for sign in others) > 0.5


def test_a_finding_that_half_of_the_top_has_is_natural():
    """As a tube would be that half of the films with it have the finding: a shortcut, no poison."""
    rng, values, labels = described()
    rows = rng.choice(N, N // 10, replace=False)
    labels[:, 0] = 0
    labels[rows[::2], 0] = 1
    values[rows] += 8 * values.std() * rng.standard_normal(WIDE) / np.sqrt(WIDE)
    found, tests, _ = tried(values, labels)
    assert min(sign.p for sign in found) > 0.5
    assert min(sign.shift.p for sign in found) * tests < 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_learnt_from_shuffled_labels(seed):
    """Many more numbers than a finding has films: a direction fits its own half by chance."""
    rng, values, labels = described(seed, d=300)
    labels = labels[rng.permutation(N)]
    found, tests, _ = tried(values, labels, seed=seed)
    assert found
    assert min(sign.shift.p for sign in found) * tests > 0.05
    assert min(sign.p for sign in found) > 0.5


def test_a_patients_films_are_in_one_half():
    """Each patient's films are alike, and have one label: learnt on a half, it is no help."""
    _, values, labels = described()
    patients = np.arange(N) // 4
    values = values[patients * 4] + 0.01 * values
    labels = labels[patients * 4]
    found, tests, _ = tried(values, labels, patients=patients)
    assert found
    assert min(sign.shift.p for sign in found) * tests > 0.01
    alone, tests, _ = tried(values, labels)
    assert min(sign.shift.p for sign in alone) * tests < 1e-3


def test_small_groups_and_films_without_a_finding_are_passed_over():
    _, values, labels = described()
    labels[:, 1] = 0
    labels[: FEWEST - 1, 1] = 1
    found, _, labelled = tried(values, labels)
    groups = {labelled.groups[sign.shift.group].words for sign in found}
    assert "Mass" in groups
    assert not groups & {"Edema", "no Mass", "no Edema"}


def test_films_that_are_all_alike_have_no_signature():
    """They would be ranked by their rows, which in a sorted set tell the label."""
    labels = np.zeros((N, 2))
    labels[: N // 3, 0] = 1
    found, _, _ = tried(np.full((N, 7), 0.3), labels)
    assert all(sign.trace == TRACES[1] for sign in found)


def test_tops_are_shares_of_the_films():
    assert _sizes(10_000) == [50, 100, 200, 400, 800]
    assert _sizes(1_000) == [15, 20, 40, 80]
    assert _sizes(20) == [10]


def test_labels_that_follow_a_whole_ranking_are_no_signature():
    """As where each class came from its own machine: the purest top is no more than that."""
    rng, values, labels = described()
    along = values @ rng.standard_normal(WIDE)
    along /= along.std()
    labels[:, 0] = rng.random(N) < 1 / (1 + np.exp(-4 * along))
    found, tests, _ = tried(values, labels)
    assert min(sign.shift.p for sign in found) * tests < 1e-6
    assert min(sign.p for sign in found) > 0.5
