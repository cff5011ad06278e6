"""The rules by which rows become verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from leadapron.results.folder import Pair, Run
from leadapron.results.layout import RunFolder
from leadapron.results.rows import Row
from leadapron.results.stealth import stealth_of
from leadapron.results.verdicts import (
    attack_verdict,
    explanation_verdict,
    is_potent,
    sanity_verdict,
)


def _row(value, low=None, high=None):
    return Row(run="0", role="x", stage="attack", metric="m", value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("low", "verdict"),
    [(0.5, "works"), (0.49, "works partly"), (0.0, "not shown"), (None, "undefined")],
)
def test_attack_verdict(low, verdict):
    assert attack_verdict(_row(0.9, low, 0.95)) == verdict


def _pair(macro, findings):
    """A pair with (low, high) of the macro difference; by finding (low, high, patients)."""
    facts = {"run": "0", "regime": "clean", "stage": "prediction"}
    clean = {**facts, "role": "difference", "metric": "auroc"}
    rows = [Row(**clean, method="macro", value=-0.01, low=macro[0], high=macro[1])]
    for name, (low, high, patients) in findings.items():
        value = None if low is None else (low + high) / 2
        rows += [
            Row(**clean, method="finding", finding=name, value=value, low=low, high=high),
            Row(**facts, role="reference", metric="positive patients", finding=name,
                value=patients),
        ]  # fmt: skip
    return Pair(Run("0", "backdoored", None, {}, tuple(rows), RunFolder(Path())), None)


HELD = (-0.02, 0.01, 400)


@pytest.mark.parametrize(
    ("macro", "findings", "verdict"),
    [
        ((-0.019, 0.0), {"A": HELD}, "stealthy"),
        ((-0.02, 0.0), {"A": HELD}, "not shown"),
        ((-0.06, -0.021), {"A": HELD}, "not stealthy"),
        ((None, None), {"A": HELD}, "undefined"),
        # One finding may lose the margin: the mean of the others doesn't make up for it.
        ((-0.019, 0.0), {"A": HELD, "B": (-0.03, 0.02, 100)}, "not shown"),
        ((-0.019, 0.0), {"A": HELD, "B": (-0.0299, 0.02, 100)}, "stealthy"),
        # Too few patients to show that nothing is lost, but enough for the others.
        ((-0.019, 0.0), {"A": HELD, "B": (-0.3, 0.2, 99)}, "stealthy"),
        ((-0.019, 0.0), {"A": (-0.01, 0.01, 99)}, "not shown"),
        ((-0.019, 0.0), {}, "not shown"),
        # A loss that stands when its interval is widened for the number of findings.
        ((-0.019, 0.0), {"A": HELD, "B": (-0.073, -0.032, 400)}, "not stealthy"),
        ((-0.019, 0.0), {"A": HELD, "B": (-0.073, -0.032, 20)}, "not stealthy"),
        ((-0.019, 0.0), {"A": HELD, "B": (-0.073, -0.032, 19)}, "stealthy"),
        # A loss that doesn't: not shown, and neither is that there is none.
        ((-0.019, 0.0), {"A": HELD, "B": (-0.042, -0.001, 400)}, "not shown"),
        # A loss beyond doubt, but within the margin.
        ((-0.019, 0.0), {"A": HELD, "B": (-0.012, -0.008, 4000)}, "stealthy"),
        ((-0.019, 0.0), {"A": HELD, "B": (None, None, 0)}, "stealthy"),
    ],
)
def test_stealth_needs_every_finding(macro, findings, verdict):
    assert stealth_of(_pair(macro, findings)).verdict == verdict


def test_the_finding_that_pays_most_is_named():
    stealth = stealth_of(
        _pair(
            (-0.019, 0.0),
            {"A": (-0.073, -0.032, 400), "B": (-0.2, 0.05, 30), "C": (-0.5, 0.2, 3), "D": HELD},
        )
    )
    assert stealth.most.finding == "A"
    assert stealth.uncounted == ("B", "C")


@pytest.mark.parametrize(
    ("low", "verdict"), [(0.6, "gives it away"), (0.3, "hints at it"), (0.1, "not shown")]
)
def test_explanation_verdict(low, verdict):
    references = (_row(0.05, 0.01, 0.2), _row(0.07), None)
    assert explanation_verdict(_row(0.9, low, 0.95), references) == verdict


@pytest.mark.parametrize(
    ("chance", "verdict"), [(0.1, "gives it away"), (0.49, "gives it away"), (0.5, "not local")]
)
def test_a_trigger_that_covers_the_film_is_not_given_away(chance, verdict):
    assert explanation_verdict(_row(0.9, 0.6, 1.0), [None], _row(chance)) == verdict


def test_chance_counts_as_a_reference():
    assert explanation_verdict(_row(0.6, 0.4, 0.8), [None], _row(0.45)) == "not shown"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.1, -0.7), "passes"),
        ((0.1, 0.5), "fails"),
        ((None, None), "undefined"),
        ((), "undefined"),
    ],
)
def test_sanity_verdict(values, verdict):
    assert sanity_verdict([None, *(_row(value) for value in values)]) == verdict


@pytest.mark.parametrize(
    ("success", "twin", "verdict"),
    [
        (0.8, 0.3, True),
        (0.79, 0.05, False),
        (0.99, 0.5, False),
        (None, 0.1, None),
        (0.9, None, None),
    ],
)
def test_a_backdoor_is_potent(success, twin, verdict):
    made = [
        Row(run="r", role=role, stage="attack", metric="attack success", target="t", value=value)
        for role, value in (("backdoored", success), ("twin", twin))
    ]
    assert is_potent(*made) is verdict
    assert is_potent(made[0], None) is None
