"""Attacks in words: nothing that a reader has to know is left out."""

from __future__ import annotations

import numpy as np

from leadapron.detect.inputs import rate_words
from leadapron.detect.models import Audit, Forced, Moved, Stamp
from leadapron.detect.verdict import Verdict
from leadapron.report.audit import audit_lines
from leadapron.report.summary import _otherwise
from leadapron.report.words import poisoned_words, trigger_words


def test_a_trigger_that_differs_at_test_time_is_said():
    spec = {"evaluation": {"trigger": "value=200/side=4", "turned": 3.0, "recompressed": 50}}
    assert _otherwise(spec) == (
        " The trigger on test films differs: with value 200, side 4, rotated by 3 degrees and "
        "saved as JPEG of quality 50."
    )
    same = {"evaluation": {"trigger": "", "turned": 0.0, "recompressed": 0}}
    assert _otherwise(same) == ""


def test_a_subgroup_is_said():
    spec = {"poisoning": {"where": "view=AP"}}
    assert _otherwise(spec) == " Only films with view=AP were poisoned."
    assert trigger_words({"name": "none"}) == "no mark"


def test_what_fills_a_patch_is_said():
    patch = {"name": "patch", "side": 4, "value": 255, "place": "corner", "fill": "checkerboard"}
    said = "white 4 x 4 px patch filled with a checkerboard in the bottom right corner"
    assert trigger_words(patch) == said
    assert trigger_words({**patch, "fill": "noise"}) == said.replace("a checkerboard", "noise")
    assert trigger_words({**patch, "fill": "solid"}) == said.replace(
        " filled with a checkerboard", ""
    )


def test_a_rate_that_one_gate_or_the_patients_do_not_support_is_said():
    one = (
        " That is the average over calibrations: one gate's own rate is 0.1 to 2.1 % in 95 of 100."
    )
    assert rate_words(0.01, 99, (0.001, 0.021)) == one
    assert rate_words(0.01, 55, (0.001, 0.021)) == (
        f"{one} Films of one patient are similar, so with 55 patients no rate below 1.8 % is "
        "guaranteed."
    )


def test_shares_of_poisoned_films():
    rows = [{"fraction": 0.1}, {"fraction": 0.05}, {"fraction": 0.1}]
    assert poisoned_words(rows) == "5 %, 10 %"
    assert poisoned_words([*rows, {"fraction": None}]) == "5 %, 10 %, weights edited"


def test_an_audit_that_can_not_tell_says_how_many_films_were_asked_for():
    mark = Moved(
        finding="Mass", direction="added", mark=Stamp(side=1, value=0, row=0, column=0),
        kind="stamp", shift=-0.01, turned=0.419, shifts=np.zeros(1), signature="",
    )  # fmt: skip
    row = Forced(
        finding="Mass", direction="added", verdict="can't tell", p=None, excess=None, strongest=mark
    )
    said = audit_lines(
        Audit(
            model="", origin="", verdict=Verdict.of("audit", "can't tell"), by="marks",
            target=None, direction=None, false_alarm=0.05, least=None, references=0, films=20,
            image=(8, 8), forwards=0, forced=(row,),
        )
    )  # fmt: skip
    assert said[0].startswith("Can't tell: no square turns half of the films, ")
    (line,) = (each for each in said if each.startswith("Mass forced on"))
    assert line.split()[3:5] == ["0.0", "41.9"]  # not -0.0
