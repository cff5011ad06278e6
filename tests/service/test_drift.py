"""Drift: the stated rate of false alarms holds, shifts are found, and a restart changes nothing."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy.stats import kstest

from leadapron.detect.inputs import Clinic, Gate
from leadapron.detect.inputs.decision import Decision
from leadapron.detect.inputs.groups import Group as FilmGroup
from leadapron.errors import StoreError
from leadapron.service.drift import (
    ALL,
    ANOTHER,
    Drift,
    Group,
    Sequential,
    _reference,
    begin,
    bet,
    groups_of,
    wealth,
)
from leadapron.service.figures import Figures, alarms_of, lines_of, months_of, place_of

DIGEST = "ab" * 32
NOVEMBER = datetime(2026, 11, 3, tzinfo=UTC).timestamp()


def ranks(calibration, stream, rng):
    """(n, t) p values of n independent sequences, by the definition."""
    found = np.empty(stream.shape)
    for at in range(stream.shape[1]):
        seen = np.concatenate([calibration, stream[:, :at]], axis=1)
        new = stream[:, at : at + 1]
        ties = (seen == new).sum(axis=1) + 1
        found[:, at] = ((seen < new).sum(axis=1) + rng.random(len(new)) * ties) / (
            seen.shape[1] + 1
        )
    return found


def alarms(p, limit):
    """(n,) number of films until the alarm, 0 without one."""
    stakes, found = begin(len(p)), np.zeros(len(p), int)
    for at in range(p.shape[1]):
        stakes = bet(stakes, p[:, at])
        found[(found == 0) & (wealth(stakes) >= limit)] = at + 1
    return found


@pytest.mark.parametrize("levels", [None, 8])
def test_ten_thousand_streams_keep_the_stated_rate(levels):
    """Exchangeable films, with continuous scores and with scores of eight values alone."""
    rng = np.random.default_rng(7)
    films = rng.gamma(2, size=(5000, 160)).astype(np.float32)
    if levels is not None:
        films = np.minimum(films * 2, levels).astype(np.int8)
    found = alarms(ranks(films[:, :60], films[:, 60:], rng), limit=20) > 0
    assert 0.005 < found.mean() < 0.05


def test_p_values_of_bets_are_worth_one_on_average():
    p = (np.arange(20_000) + 0.5) / 20_000
    stakes = bet(np.repeat(begin(), len(p), axis=0), p)
    assert stakes.mean(axis=0).ravel() == pytest.approx(np.full(27, 1 / 27), rel=1e-2)


@pytest.mark.parametrize(("shift", "median"), [(0.5, 160), (1.0, 45), (2.0, 15)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_shift_is_found_soon(shift, median, sign):
    """Scores of 300 calibration films and of films that are shifted by so many deviations."""
    rng = np.random.default_rng(1)
    calibration = rng.normal(size=(60, 300))
    stream = rng.normal(size=(60, 400)) + sign * shift
    found = alarms(ranks(calibration, stream, rng), limit=1600)
    assert (found > 0).mean() > 0.9
    assert np.median(found[found > 0]) < median


def test_a_late_change_and_a_wider_spread_are_found():
    rng = np.random.default_rng(2)
    calibration, stream = rng.normal(size=(20, 300)), rng.normal(size=(20, 800))
    late = np.where(np.arange(800) < 400, stream, stream + 1)
    found = alarms(ranks(calibration, late, rng), limit=1600)
    assert np.all(found[found > 0] > 400)
    assert np.median(found) < 500
    wider = alarms(ranks(calibration, 2 * stream[:, :400], rng), limit=1600)
    assert (wider > 0).mean() > 0.9


def test_one_test_is_what_was_simulated():
    rng = np.random.default_rng(3)
    calibration, stream = rng.integers(0, 9, (1, 50)), rng.integers(2, 12, (1, 80))
    chances = np.random.default_rng(4)
    p = ranks(calibration, stream, chances)
    test, again, stakes = Sequential(calibration[0], 1600), np.random.default_rng(4), begin()
    for at, value in enumerate(stream[0]):
        stakes = bet(stakes, p[:, at])
        test.add(float(value), float(again.random(1)[0]))
        assert test.wealth == pytest.approx(wealth(stakes)[0])


# --- of a gate


def gate_of(fused, typicality, patients=None, groups=(), clinics=1):
    m = len(fused)
    clinic = Clinic(
        name="here", states={}, typical={}, references=(), steps=np.zeros((2, 1)),
        scores=fused[:, None], fused=fused, typicality=typicality,
        patients=np.arange(m) if patients is None else patients,
        hashes=np.zeros((m, 32), np.uint8), groups=groups,
    )  # fmt: skip
    return Gate(
        detectors={}, typical=object(), weights={"region": 1.0}, clinics=(clinic,) * clinics,
        false_alarm=0.05,
    )  # fmt: skip


def seen(gate, fused, typicality):
    """What a gate says of films of these scores: score and unlike."""
    (clinic, *_) = gate.clinics
    return fused, clinic.shares(clinic.typicality, typicality, gate.rate)


def drawn(rng, n):
    """Scores, of which a third is 0, and typicality."""
    return np.maximum(rng.normal(size=n), -0.43), rng.normal(size=n)


def test_ranks_from_a_gates_shares_are_uniform():
    """A first film among calibration films, many of them with the same score."""
    rng = np.random.default_rng(5)
    p = np.empty((2, 2000))
    for at in range(p.shape[1]):
        gate = gate_of(*drawn(rng, 12))
        fused, unlike = seen(gate, *drawn(rng, 1))
        for row, (about, value) in enumerate((("scores", -fused), ("looks", unlike))):
            known = _reference(gate, ALL, about)
            ties = (known == value).sum() + 1
            p[row, at] = ((known < value).sum() + rng.random() * ties) / 13
    assert all(kstest(each, "uniform").pvalue > 0.01 for each in p)


def test_patients_count_once_and_groups_compare_with_their_own():
    rng = np.random.default_rng(6)
    ap = np.arange(60) % 2 == 0
    groups = (FilmGroup("view", "AP", ap), FilmGroup("view", "PA", ~ap), FilmGroup("sex", "F", ap))
    gate = gate_of(*drawn(rng, 60), np.arange(60) // 4, groups)
    assert groups_of(gate) == [ALL, ("view", "AP"), ("view", "PA"), ("view", ANOTHER)]
    sizes = {group: len(_reference(gate, group, "scores")) for group in groups_of(gate)}
    assert sizes == {ALL: 15, ("view", "AP"): 15, ("view", "PA"): 15, ("view", ANOTHER): 15}
    assert Drift(gate, "seed").limit == 8 / 0.01
    both = gate_of(*drawn(rng, 60), clinics=2)
    assert len(_reference(both, ALL, "looks")) == 0


def test_a_gate_of_two_clinics_finds_a_change_within_the_month():
    rng = np.random.default_rng(10)
    gate = gate_of(*drawn(rng, 60), clinics=2)
    drift, found = Drift(gate, "seed"), []
    for at, score in enumerate(rng.normal(size=400) + 2 * (np.arange(400) >= 200)):
        found += drift.add(score=float(score), unlike=float(rng.random()), view="", scanner="")
        assert not found or at > 200
    (alarm,) = found
    assert (alarm.about, alarm.films < 260) == ("scores", True)


def test_a_shift_of_one_view_is_named():
    rng = np.random.default_rng(8)
    ap = np.arange(300) < 60
    groups = (FilmGroup("view", "AP", ap), FilmGroup("view", "PA", ~ap))
    gate = gate_of(*drawn(rng, 300), groups=groups)
    drift, found = Drift(gate, "seed"), []
    fused, typicality = drawn(rng, 300)
    views = rng.permutation(np.where(np.arange(300) < 40, "AP", "PA"))
    score, unlike = seen(gate, fused, typicality + 3 * (views == "AP"))
    for at, view in enumerate(views):
        found += drift.add(score=score[at], unlike=unlike[at], view=str(view), scanner="")
    assert found[0][:3] == ("view", "AP", "looks")
    assert found[0].films < 20
    assert not any(alarm.about == "scores" for alarm in found)
    assert drift.tests[Group("view", "PA"), "looks"].evidence < 0.5


# --- figures on disk


def decision(score=0.0, unlike=0.5, word="pass"):
    return Decision(verdict=word, p=0.5, score=score, unlike=unlike)


def add(figures, made, view="", scanner="", days=0.0, bad=False):
    figures.add(made, bad=bad, view=view, scanner=scanner, seconds=NOVEMBER + days * 86400)


@pytest.fixture
def gate():
    rng = np.random.default_rng(9)
    ap = np.arange(40) < 20
    return gate_of(
        *drawn(rng, 40), groups=(FilmGroup("view", "AP", ap), FilmGroup("view", "PA", ~ap))
    )


def test_a_restart_goes_on_where_it_was_and_alarms_stay(gate, tmp_path, caplog):
    figures = Figures(tmp_path, gate, DIGEST)
    with caplog.at_level(logging.WARNING):
        for at in range(30):
            add(figures, decision(score=5 + at / 1e4, unlike=0.4 + at / 100), view="AP")
    assert {alarm.about for alarm in figures.alarms} == {"scores"}
    assert "no longer like the calibration films (their scores" in caplog.text
    again = Figures(tmp_path, gate, DIGEST)
    assert again.alarms == figures.alarms
    evidence = [[test.wealth for test in each.drift.tests.values()] for each in (figures, again)]
    assert evidence[0] == evidence[1]
    assert alarms_of(place_of(tmp_path, DIGEST)) == list(figures.alarms)
    add(again, decision(), days=30)
    assert again.drift.tests[ALL, "scores"].films == 1  # a month of its own
    december = Figures(tmp_path, gate, DIGEST)
    assert december.alarms == figures.alarms
    assert months_of(place_of(tmp_path, DIGEST)) == ["2026-11", "2026-12"]
    assert Figures(tmp_path, gate, "cd" * 32).alarms == ()  # calibrated again


def test_lines_hold_nothing_else(gate, tmp_path):
    figures = Figures(tmp_path, gate, DIGEST)
    add(figures, decision(), view="AP", scanner="Secret Maker")
    add(figures, decision(word="can't tell", score=None, unlike=None), view="DOE^JOHN", bad=True)
    place = place_of(tmp_path, DIGEST)
    with (place / "2026-11.jsonl").open("ab") as file:
        file.write(b'{"day": "2026-11-03", "verdict": "pass", "score": "half"}\n{"day": "2026')
    first, second = lines_of(place, "2026-11")
    assert (first.view, first.scanner, first.day) == ("AP", "", "2026-11-03")
    assert (second.view, second.verdict, second.bad) == (ANOTHER, "can't tell", True)
    kept = {"day", "verdict", "bad", "p", "score", "unlike", "view", "scanner"}
    assert set(json.loads((place / "2026-11.jsonl").read_text().splitlines()[0])) == kept
    assert Figures(tmp_path, gate, DIGEST).drift.tests[ALL, "scores"].films == 1


def test_a_clock_that_is_set_back_begins_no_month_again(gate, tmp_path):
    figures = Figures(tmp_path, gate, DIGEST)
    for days in (30, 0, 31):
        add(figures, decision(), days=days)
    assert months_of(place_of(tmp_path, DIGEST)) == ["2026-12"]
    assert figures.drift.tests[ALL, "scores"].films == 3


def test_a_full_disk_loses_lines_and_no_verdict(gate, tmp_path, caplog):
    figures = Figures(tmp_path, gate, DIGEST)
    place_of(tmp_path, DIGEST).rmdir()
    add(figures, decision())
    add(figures, decision())
    assert caplog.text.count("figures can't be written") == 1
    assert figures.drift.tests[ALL, "scores"].films == 2
    (tmp_path / "figures").rmdir()
    (tmp_path / "figures").write_text("in the way")
    with pytest.raises(StoreError, match="can't use"):
        Figures(tmp_path, gate, DIGEST)


def test_a_gate_without_a_test_of_looks(gate):
    tests = Drift(replace(gate, typical=None), "seed").tests
    assert {about for _, about in tests} == {"scores"}
    assert len(tests) == 4
