"""Shifts of labels: against scipy's exact tests, and what may count."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from film_scenes import labelled_cohort
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leadapron.detect.films.shift import ATTAINABLE, NEAR, Labelled


def table(mine, others):
    """One finding: (with, without) among the first films, and among the others."""
    labels = [1.0] * mine[0] + [0.0] * mine[1] + [1.0] * others[0] + [0.0] * others[1]
    return np.array(labels)[:, None], np.arange(sum(mine))


def by_definition(mine, others, odds):
    """Fisher's noncentral hypergeometric distribution, in whole numbers."""
    carriers, trials = mine[0] + others[0], sum(mine)
    weights = {
        hits: comb(carriers, hits)
        * comb(sum(mine) + sum(others) - carriers, trials - hits)
        * Fraction(odds) ** hits
        for hits in range(min(carriers, trials) + 1)
    }
    return float(sum(w for h, w in weights.items() if h >= mine[0]) / sum(weights.values()))


def one_shift(labelled, films, odds, group=0):
    (shift,) = labelled.shifts(films, odds, only=group)
    assert shift.group == group
    return shift


@pytest.mark.parametrize("mine", [(12, 8), (20, 0), (9, 11), (15, 30)])
@pytest.mark.parametrize("others", [(30, 150), (5, 900), (1, 40)])
@pytest.mark.parametrize("odds", [1.0, 3.0, 20.0])
def test_small_p_values_are_fishers(mine, others, odds):
    labels, films = table(mine, others)
    shift = one_shift(Labelled(labelled_cohort(labels)), films, odds)
    exact = by_definition(mine, others, odds)
    if odds == 1:
        fisher = stats.fisher_exact([mine, others], alternative="greater").pvalue
        assert exact == pytest.approx(fisher, rel=1e-6)
    everyone = sum(mine) + sum(others)
    wanted = stats.nchypergeom_fisher(everyone, mine[0] + others[0], sum(mine), odds)
    assert exact == pytest.approx(wanted.sf(mine[0] - 1), rel=1e-6, abs=1e-11)
    rate = (others[0] + 0.5) / (sum(others) + 1)
    binomial = stats.binom.sf(mine[0] - 1, sum(mine), odds * rate / (1 - rate + odds * rate))
    assert shift.p == pytest.approx(exact if binomial < NEAR else binomial, rel=1e-6)
    assert shift.share == mine[0] / sum(mine)
    assert shift.expected == pytest.approx(rate)
    assert shift.patients == sum(mine)


def test_a_finding_that_is_taken_away():
    """The group of films stated to be without it is the mirror of the one with it."""
    labels, films = table((0, 25), (120, 80))
    labelled = Labelled(labelled_cohort(labels))
    assert [group.direction for group in labelled.groups] == ["added", "removed"]
    shift = labelled.strongest(films, 1.0)
    assert labelled.groups[shift.group].direction == "removed"
    assert labelled.groups[shift.group].words == "no Mass"
    exact = stats.fisher_exact([(25, 0), (80, 120)], alternative="greater").pvalue
    # "Removed" alone could be told by 25 films: of "added" .6 ** 25 is less than 1e-4 as well.
    assert shift.p == pytest.approx(2 * exact, rel=1e-6)


def test_a_patient_counts_once():
    """Five films of one patient tell no more than one of them."""
    labels, films = table((10, 2), (20, 200))
    single = Labelled(labelled_cohort(labels))
    wanted = one_shift(single, films, 1.0)
    repeats = np.where(np.arange(len(labels)) < 5, 5, 1)
    rows = np.repeat(np.arange(len(labels)), repeats)
    many = Labelled(labelled_cohort(labels[rows], patients=rows))
    found = one_shift(many, np.flatnonzero(rows < 12), 1.0)
    assert (found.share, found.patients) == (wanted.share, wanted.patients) == (10 / 12, 12)
    assert found.expected == pytest.approx(wanted.expected)
    # The others are as many patients as their films are worth, so nearly the same.
    assert 0.5 < found.p / wanted.p < 2
    as_films = one_shift(Labelled(labelled_cohort(labels[rows])), np.flatnonzero(rows < 12), 1.0)
    assert as_films.p < 1e-4 * found.p


def test_a_patients_films_that_disagree_are_a_share():
    """Two patients' halves make one, and what is left of a third is rounded down."""
    labels = np.array([[1.0], [0], [1], [0], [1], [0], *[[0]] * 200])
    patients = [0, 0, 1, 1, 2, 2, *range(3, 203)]
    labelled = Labelled(labelled_cohort(labels, patients=patients))
    shift = one_shift(labelled, np.arange(6), 1.0)
    assert shift.patients == 3
    assert shift.share == pytest.approx(1 / 3)


def test_labels_that_are_not_stated_do_not_count():
    labels, films = table((10, 5), (20, 200))
    wanted = one_shift(Labelled(labelled_cohort(labels)), films, 1.0)
    more = np.concatenate([labels, np.full((300, 1), np.nan)])
    films = np.concatenate([films, np.arange(235, 285)])
    found = one_shift(Labelled(labelled_cohort(more)), films, 1.0)
    assert (found.p, found.share, found.expected, found.patients) == pytest.approx(
        (wanted.p, wanted.share, wanted.expected, wanted.patients)
    )
    # Where nothing is stated of any of them there is nothing to test.
    labelled = Labelled(labelled_cohort(more))
    assert labelled.shifts(np.arange(240, 260), 1.0) == []
    assert labelled.shifts(np.arange(240, 260), 1.0, only=0) == []
    # "Removed" is stated absent, not unstated.
    assert labelled.members[:, 1].sum() == 205


@pytest.mark.parametrize("name", ["view", "site"])
def test_films_are_compared_within_their_view(name):
    """All films with the mark are AP, where the finding is common: no shift at all."""
    ap, pa = table((20, 20), (100, 100))[0], table((0, 0), (20, 780))[0]
    labels, films = np.concatenate([ap, pa]), np.arange(40)
    blind = one_shift(Labelled(labelled_cohort(labels)), films, 1.0)
    assert blind.p < 1e-6
    column = np.array(["AP"] * 240 + ["PA"] * 800)
    labelled = Labelled(labelled_cohort(labels, attributes={name: column}))
    seeing = one_shift(labelled, films, 1.0)
    assert seeing.p > 0.4
    assert seeing.expected == pytest.approx(100.5 / 201)
    # Films of both views are expected to have what each view has.
    both = one_shift(labelled, np.concatenate([films, np.arange(240, 280)]), 1.0)
    pa_rate = 0.5 / 761 if labels[240:280].sum() else 20.5 / 761
    assert both.expected == pytest.approx((100.5 / 201 + pa_rate) / 2)


def test_small_views_are_compared_with_each_other():
    labels, _ = table((5, 5), (40, 350))
    columns = np.array(["AP"] * 200 + ["PA"] * 160 + ["LL"] * 20 + ["RL"] * 20)
    labelled = Labelled(labelled_cohort(labels, attributes={"view": columns}))
    codes = [set(labelled.strata[columns == view].tolist()) for view in ("AP", "PA", "LL", "RL")]
    assert all(len(code) == 1 for code in codes)
    assert codes[2] == codes[3]
    assert len(codes[0] | codes[1] | codes[2]) == 3
    alone = Labelled(labelled_cohort(labels))
    assert set(alone.strata.tolist()) == {0}


def test_films_are_compared_within_what_the_source_states():
    """Site, then view, then native size; a rare size stays with the other rare ones of its view."""
    labels, _ = table((5, 5), (40, 350))
    site = np.array(["A"] * 250 + ["B"] * 150)
    size = np.array(["1x1"] * 120 + ["2x2"] * 120 + ["3x3"] * 5 + ["4x4"] * 5 + ["1x1"] * 150)
    columns = {"site": site, "native_size": size, "sex": np.array(["M", "F"] * 200)}
    strata = Labelled(labelled_cohort(labels, attributes=columns)).strata
    groups = [slice(0, 120), slice(120, 240), slice(240, 250), slice(250, 400)]
    codes = [set(strata[rows].tolist()) for rows in groups]
    assert all(len(code) == 1 for code in codes)
    assert len(set.union(*codes)) == 4


def test_a_mark_of_one_machine_is_expected_to_carry_its_machines_label():
    """Half of one machine's films have the finding, none of the other's: strata tell."""
    machine = np.repeat(["X", "Y"], 200)
    labels = np.zeros((400, 1))
    labels[:200:2] = 1
    stated = labelled_cohort(labels, attributes={"scanner": machine})
    marked = np.arange(0, 40)
    plain, within = (
        Labelled(cohort).counts(marked) for cohort in (labelled_cohort(labels), stated)
    )
    assert plain.expected[0] == pytest.approx(80.5 / 361)
    assert within.expected[0] == pytest.approx(80.5 / 161)


def test_groups_that_could_never_show_a_shift_are_left_out():
    """Tarone: three films with a finding of every second film prove nothing, whatever they say."""
    rng = np.random.default_rng(0)
    often, seldom = rng.random(1000) < 0.5, rng.random(1000) < 0.01
    labels = np.stack([often, seldom & ~often], axis=1).astype(float)
    labelled = Labelled(labelled_cohort(labels))
    films = np.array([1, 2, 3])
    tested = {shift.group for shift in labelled.shifts(films, 1.0)}
    for number in range(len(labelled.groups)):
        (shift,) = labelled.shifts(films, 1.0, only=number)
        assert (number in tested) == (shift.expected**3 <= ATTAINABLE)
    assert {labelled.groups[number].words for number in tested} == {"Edema", "Edema alone"}
    # Fewer are tested where more is granted to nature, so a stricter test costs less elsewhere.
    assert {shift.group for shift in labelled.shifts(films, 20.0)} < tested
    strongest = labelled.strongest(films, 1.0)
    single = min(shift.p for shift in labelled.shifts(films, 1.0))
    assert strongest.p == min(1.0, single * 2)


def test_label_vectors_are_groups():
    labels = np.zeros((1000, 3))
    labels[:40, 0] = 1
    labels[20:40, 1] = 1  # 20 with Mass alone, 20 with Mass and Edema
    labels[40:44] = 1  # too few for a group of their own
    labels[44, 2] = 1  # alone, so a group however few
    labels[45:47, 2] = [np.nan, 1]
    labelled = Labelled(labelled_cohort(labels))
    groups = {group.words: number for number, group in enumerate(labelled.groups)}
    assert set(groups) == {
        *("Mass", "no Mass", "Edema", "no Edema", "Nodule", "no Nodule"),
        *("Mass alone", "Nodule alone", "Mass and Edema alone"),
    }
    mass, both = groups["Mass alone"], groups["Mass and Edema alone"]
    assert labelled.groups[mass].direction == "one-hot"
    assert labelled.groups[mass].finding == "Mass"
    assert labelled.groups[both].direction == "same labels"
    assert labelled.groups[both].finding is None
    assert np.flatnonzero(labelled.members[:, mass]).tolist() == list(range(20))
    assert np.flatnonzero(labelled.members[:, both]).tolist() == list(range(20, 40))
    assert labelled.groups[labelled.strongest(np.arange(20, 40), 1.0).group].words == (
        "Mass and Edema alone"
    )
    assert labelled.groups[labelled.strongest(np.arange(20), 1.0).group].words == "Mass alone"


def test_one_finding_has_no_label_vectors():
    labelled = Labelled(labelled_cohort(table((3, 3), (3, 3))[0]))
    assert [group.words for group in labelled.groups] == ["Mass", "no Mass"]


def test_no_labels_and_no_films():
    nothing = Labelled(labelled_cohort(np.zeros((30, 0))))
    assert nothing.groups == []
    assert nothing.shifts(np.arange(5), 1.0) == []
    assert nothing.strongest(np.arange(5), 1.0) is None
    labelled = Labelled(labelled_cohort(table((3, 3), (3, 3))[0]))
    assert labelled.shifts(np.array([], dtype=np.int64), 1.0) == []


def test_all_films_are_compared_with_none():
    labels, _ = table((10, 10), (0, 0))
    shift = one_shift(Labelled(labelled_cohort(labels)), np.arange(20), 1.0)
    assert shift.expected == 0.5
    assert shift.p > 0.1


@given(
    hits=st.integers(0, 12),
    misses=st.integers(0, 12),
    others=st.tuples(st.integers(20, 60), st.integers(200, 400)),
)
@settings(max_examples=20, deadline=None)
def test_more_is_granted_more_is_needed(hits, misses, others):
    """But for the step where the exact test takes over from the binomial one."""
    if not hits + misses:
        return
    labels, films = table((hits, misses), others)
    labelled = Labelled(labelled_cohort(labels))
    found = [one_shift(labelled, films, odds) for odds in (1.0, 2.0, 5.0, 20.0, 100.0)]
    assert all(0 <= shift.p <= 1 and 0 <= shift.share <= 1 for shift in found)
    p = np.array([shift.p for shift in found])
    assert np.all(p[1:] >= p[:-1] * np.where((p[:-1] < NEAR) & (p[1:] >= NEAR), 0.5, 1 - 1e-9))
    assert p[-1] > p[0] or p[0] > 0.99


def test_p_values_of_random_films_are_not_too_small():
    """At most as many below a level as the level says, and not far fewer."""
    rng = np.random.default_rng(0)
    labels = (rng.random((600, 2)) < [0.3, 0.1]).astype(float)
    labelled = Labelled(labelled_cohort(labels, patients=np.arange(600) // 2))
    p = [
        shift.p
        for _ in range(150)
        for shift in labelled.shifts(np.sort(rng.choice(600, 60, replace=False)), 1.0)
    ]
    assert len(p) > 600
    assert 0.02 < np.mean(np.array(p) < 0.1) < 0.12
    assert np.mean(np.array(p) < 0.01) < 0.015
