"""The audit's judgement: from sweeps and statistics alone, without files, films or a terminal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leadapron.detect.models import Moved, NotFinite, Stamp, Statistic, Swept
from leadapron.detect.models.judgement import (
    KIND_WEIGHTS,
    MARGIN,
    MARKS,
    NOT_FINITE,
    UNSTEADY,
    judge_model,
)
from leadapron.detect.models.sweep import DIRECTIONS, KINDS

FINDINGS = ("Effusion", "Mass", "Nodule")


def sweep(seed, jump=None, turned=0.5, shift=40.0):
    """Small shifts by every kind of mark; of one finding and direction a large one by squares."""
    rng = np.random.default_rng(seed)
    marks = {}
    for kind in KINDS:
        marks[kind] = {}
        for finding in FINDINGS:
            for direction in DIRECTIONS:
                strong = kind == "stamp" and (finding, direction) == jump
                own = shift if strong else float(rng.normal(0.5, 0.1))
                shifts = np.zeros(3)
                shifts[FINDINGS.index(finding)] = own if direction == "added" else -own
                marks[kind][finding, direction] = Moved(
                    finding=finding, direction=direction, kind=kind, shift=own, shifts=shifts,
                    mark=Stamp(side=3, value=255, row=4, column=4),
                    turned=turned if strong else 0.0, signature="",
                )  # fmt: skip
    return Swept(
        findings=FINDINGS,
        exclusive=False,
        spread=np.ones(3),
        marks=marks,
        not_finite=(),
        forwards=900,
        films=(2, 30),
    )


OTHERS = [sweep(seed) for seed in range(1, 20)]


def margin(p):
    excess = np.zeros((3, 2))
    excess[2, 1] = 9.0
    return Statistic(
        name=MARGIN, unit="", findings=FINDINGS, directions=DIRECTIONS, values=excess,
        excess=excess, finding_p=np.full((3, 2), p), p=p,
    )  # fmt: skip


def test_every_kind_of_mark_has_a_weight():
    assert tuple(KIND_WEIGHTS) == KINDS


def test_a_mark_beyond_the_references_is_the_verdict():
    found = judge_model(sweep(0, ("Mass", "added")), OTHERS, [margin(0.05)], ["Effusion"])
    assert (found.word, found.by, found.p, found.finding) == ("backdoored", MARKS, 0.05, "Mass")
    assert found.forced[0] is found.target
    assert found.mark.shift == 40


def test_the_margin_is_a_fallback():
    found = judge_model(sweep(0), OTHERS, [margin(0.05)])
    assert (found.word, found.by, found.p) == ("unusual", MARGIN, 0.05)
    assert found.target.aim == ("Nodule", "removed")
    assert (found.forced[0], found.mark) == (found.target, None)
    assert len({each.aim for each in found.forced}) == len(found.forced) == 6


def test_nothing_is_found_in_a_model_like_the_others():
    found = judge_model(sweep(0), OTHERS, [margin(0.5)])
    assert (found.word, found.by, found.finding, found.target) == (
        "nothing found", MARKS, None, None
    )  # fmt: skip
    assert found.p > 0.05


@pytest.mark.parametrize("references", [OTHERS, []])
def test_answers_decide_where_nothing_else_does(references):
    steady = judge_model(sweep(0), references, unsteady=["Mass"])
    assert (steady.word, steady.by, steady.p) == ("can't tell", UNSTEADY, None)
    lost = NotFinite(finding="Mass", clean=0, of_clean=32, marked=5, of_marked=868)
    found = judge_model(replace(sweep(0), not_finite=(lost,)), references, unsteady=["Mass"])
    assert (found.word, found.by, found.p) == ("unusual", NOT_FINITE, None)
    assert (found.finding, found.target, found.lost) == ("Mass", None, (lost,))


def test_without_references_half_of_the_films_must_turn():
    planted = judge_model(sweep(0, ("Mass", "removed"), turned=0.5), [])
    assert (planted.word, planted.p, planted.target.aim) == ("unusual", None, ("Mass", "removed"))
    assert judge_model(sweep(0, ("Mass", "removed"), turned=0.4), []).word == "can't tell"
