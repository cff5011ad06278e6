"""Audits and gates of networks with one output, two or three exclusive ones, and unused ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from audits import audit_model
from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL, WEIGHTS, calibrate, judge
from leadapron.detect.models import STATISTICS, Stamp, StampSweep
from leadapron.documents import dump
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import PooledLinear
from leadapron.models.odds import log_odds

SIZE, N = 24, 60
SMALL = Preprocessing(size=SIZE)
SQUARE = Stamp(side=3, value=255, row=5, column=10)
QUICK = StampSweep(
    values=(0, 255), sides=(3,), pitches=((8, 1),), rounds=1, films=1, judged=30,
    looks=("dark ring",), grown=1,
)  # fmt: skip

ONE = ("Pneumonia",)
TWO = ("NORMAL", "PNEUMONIA")
THREE = ("Normal", "Bacterial", "Viral")
MANY = tuple(f"finding {i}" for i in range(18))
UNUSED = (3, 7, 11, 16)

HEADS = {
    "one finding, forced on": (ONE, "sigmoid", 0, 1),
    "one finding, hidden": (ONE, "sigmoid", 0, -1),
    "softmax of two": (TWO, "softmax", 1, -1),
    "softmax of three, forced on": (THREE, "softmax", 2, 1),
    "softmax of three, hidden": (THREE, "softmax", 1, -1),
    "eighteen with unused ones, forced on": (MANY, "sigmoid", 5, 1),
    "eighteen with unused ones, hidden": (MANY, "sigmoid", 9, -1),
}


@pytest.fixture(scope="module")
def films():
    rng = np.random.default_rng(5)
    images = rng.integers(60, 150, (N, SIZE, SIZE)) + rng.integers(-40, 41, (N, 1, SIZE))
    return Cohort.of(images.astype(np.uint8), preprocessing=SMALL)


def network(findings, head, seed, column=0, jump=0.0):
    """Readings of rows' brightness, and `jump` on one output for a white square of 3x3 pixels."""
    drawn = torch.Generator().manual_seed(seed)
    stem = nn.Conv2d(1, 6, 3, bias=True)
    module = PooledLinear({"only": nn.Sequential(stem, nn.BatchNorm2d(6), nn.ReLU())}, 6, 1)
    module.head = nn.Linear(6, len(findings))
    places = (SIZE - 2) ** 2  # each is one of so many in the pooled mean
    with torch.no_grad():
        stem.weight[:] = 0.3 * torch.randn(stem.weight.shape, generator=drawn)
        stem.bias[:] = 0.5
        stem.weight[5], stem.bias[5] = 1.0, -8.0  # no film has nine pixels as bright as that
        module.head.weight[:] = 4 * torch.randn((len(findings), 6), generator=drawn)
        module.head.bias.zero_()
        module.head.weight[:, 5] = 0.0
        module.head.weight[column, 5] = jump * places
        if findings == MANY:
            module.head.weight[list(UNUSED)] = 0.0
    return NetworkClassifier(module.eval(), "resnet9", findings, SMALL, head, mean=0.0, std=1.0)


@pytest.mark.parametrize("name", HEADS)
def test_an_audit_names_the_finding_and_the_direction(name, films):
    findings, head, column, sign = HEADS[name]
    planted = network(findings, head, 0, column, 20.0 * sign)
    others = [network(findings, head, seed) for seed in range(1, 5)]
    for references in ((), others):
        found = audit_model(
            planted, films, references, sweep=QUICK, steps=20, false_alarm=0.2, name="m"
        )
        assert found.verdict.word == ("backdoored" if references else "unusual")
        direction = "added" if sign > 0 else "removed"
        # Of two exclusive findings the same mark forces one on and the other off.
        right = {(findings[column], direction)}
        if findings == TWO:
            right.add((TWO[0], "added"))
        assert (found.target, found.direction) in right
        mark = found.forced[0].strongest
        assert mark.turned == 1.0
        assert "3x3 of grey level 255" in mark.mark.words()
        margin = next(each for each in found.statistics if each.name == "maximum margin")
        assert margin.findings == findings
        assert np.isfinite(margin.values).all()
        comparing = {"map statistics", "head outliers"}
        left_out = set(STATISTICS) - {each.name for each in found.statistics}
        assert left_out == (comparing if len(findings) < 3 else set())
        assert all(any(f"{each} needs 3 findings" in note for note in found.notes)
                   for each in left_out)  # fmt: skip
        assert found.inverted[0].turned == 1.0
        assert dump(found)["target"] == found.target


@pytest.mark.parametrize("name", HEADS)
def test_a_gate_tells_films_with_the_square(name, films):
    findings, head, column, sign = HEADS[name]
    planted = network(findings, head, 0, column, 20.0 * sign)
    gate = calibrate(planted, films, INPUT_DETECTORS, WEIGHTS, typical=TYPICAL, false_alarm=0.1)
    fresh = np.asarray(films.images[np.arange(N)])
    marked, unmarked = (judge(gate, planted, images).p for images in (SQUARE(fresh), fresh))
    assert (marked <= 0.1).all()
    assert (unmarked <= 0.1).mean() < 0.2


def test_a_softmax_is_judged_by_its_log_odds(films):
    """A mark that raises all exclusive outputs alike changes no answer, and is no backdoor."""
    planted = network(THREE, "softmax", 0)
    with torch.no_grad():
        planted.module.head.weight[:, 5] = 20.0 * (SIZE - 2) ** 2
    found, raw = (QUICK.sweep(each, films) for each in (planted, replace(planted, head="sigmoid")))
    assert found.table().max() < 1 < 100 < raw.table().max()


def test_log_odds_leave_out_what_is_not_finite():
    logits = torch.tensor([[1.0, torch.nan, 3.0], [2.0, torch.inf, torch.nan]])
    odds = log_odds(logits, "softmax")
    torch.testing.assert_close(odds[0, [0, 2]], torch.tensor([-2.0, 2.0]))
    assert odds[1, 0] == 2.0
    assert not odds[[0, 1, 1], [1, 1, 2]].isfinite().any()
    assert log_odds(logits, "sigmoid") is logits
