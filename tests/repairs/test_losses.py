"""The one loss: by finding, over what is stated; and the guard that chooses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from leadapron import metrics
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.metrics import PatientBootstrap
from leadapron.models.losses import distance, finding_loss, taught_loss
from leadapron.models.odds import log_odds
from leadapron.repairs.guard import Guard

NAN = math.nan


def test_each_finding_weighs_the_same_however_few_films_state_it():
    odds = torch.tensor([[0.0, 2.0, 5.0], [math.log(3), 9.0, 5.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, NAN], [0.0, NAN, NAN]])
    first = (math.log(2) + math.log(4)) / 2  # sigmoid(0) = 1/2; 1 - sigmoid(log 3) = 1/4
    second = math.log(1 + math.exp(2))
    loss = finding_loss(odds, labels)
    assert float(loss.detach()) == pytest.approx((first + second) / 2, rel=1e-6)
    loss.backward()
    assert torch.equal(odds.grad == 0, labels.isnan())


def test_no_label_at_all_is_no_loss():
    odds = torch.ones(2, 3, requires_grad=True)
    loss = finding_loss(odds, torch.full((2, 3), NAN))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not odds.grad.any()


def test_log_odds_of_a_softmax():
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    shares = logits.softmax(1)
    assert torch.allclose(log_odds(logits, "softmax"), (shares / (1 - shares)).log(), atol=1e-6)
    assert log_odds(logits, "sigmoid") is logits


def test_distance_is_least_where_the_answers_agree():
    teacher = torch.tensor([[math.log(3), -1.0]])
    student = torch.tensor([[0.0, -1.0]], requires_grad=True)
    value = distance(student, teacher, 1.0)
    own = 1 / (1 + math.e)
    entropy = -own * math.log(own) - (1 - own) * math.log(1 - own)
    assert float(value.detach()) == pytest.approx((math.log(2) + entropy) / 2, rel=1e-6)
    value.backward()
    # By logit: (sigmoid - wanted) / findings.
    assert student.grad[0].tolist() == pytest.approx([(0.5 - 0.75) / 2, 0.0], abs=1e-6)


class Fixed:
    """Answers that were written down."""

    head = "sigmoid"

    def __init__(self, logits):
        self.kept = logits

    def logits(self, images):
        return self.kept


def watched(n=400, k=3, missing=()):
    rng = np.random.default_rng(0)
    labels = (rng.random((n, k)) < 0.4).astype(np.float32)
    labels[:, list(missing)] = 0
    names = np.array([f"f{i}" for i in range(n)])
    images = np.zeros((n, 8, 8), np.uint8)
    findings = tuple(f"F{j}" for j in range(k))
    cohort = Cohort(images, labels, findings, names, names, Preprocessing(size=8))
    logits = (labels + rng.normal(0, 0.5, (n, k))).astype(np.float32)
    draws = PatientBootstrap.draw(names, np.random.default_rng(1), resamples=200)
    return Guard(Fixed(logits), cohort, draws), logits


def test_what_the_guard_says_is_the_paired_change_of_the_macro():
    guard, logits = watched(missing=(2,))
    assert guard.columns == [0, 1]
    worse = logits + np.random.default_rng(2).normal(0, 0.5, logits.shape).astype(np.float32)
    change, error = guard.change(worse)
    labels = guard.films.labels
    means = [
        np.mean([metrics.auroc(labels[:, j], values[:, j]) for j in (0, 1)])
        for values in (worse, logits)
    ]
    assert change == pytest.approx(means[0] - means[1])
    assert guard.judge(worse) == (change, False)
    assert guard.judge(3 * logits + 1) == (0.0, True)  # the same order of the films
    # By films of one patient each, the error is that of independent draws: by halves, root 2.
    halves = [
        float(np.std([a - b for a, b in zip(*areas, strict=True)]))
        for areas in [
            [
                [metrics.auroc(labels[some, j], values[some, j]) for some in np.split(order, 8)]
                for values in (worse, logits)
            ]
            for j in (0, 1)
            for order in [np.random.default_rng(j).permutation(len(labels))]
        ]
    ]
    rough = np.hypot(*halves) / 2 / math.sqrt(8)
    assert rough / 2 < error < 2 * rough


@pytest.mark.parametrize(
    ("change", "error", "accepted"),
    [
        (-0.0109, 0.002, True),  # half an error in its favour
        (-0.0111, 0.002, False),
        (-0.0149, 0.05, True),  # never more than half of .03
        (-0.0151, 0.05, False),
        (-0.0101, 0.0, False),
        (0.02, 0.0, True),
    ],
)
def test_half_a_standard_error_speaks_for_the_repair(change, error, accepted):
    guard, logits = watched()
    object.__setattr__(guard, "change", lambda _: (change, error))
    assert guard.judge(logits) == (change, accepted)


@pytest.mark.parametrize(
    ("films", "refused", "passed"), [(90, 0.2, 0.2), (200, 0.15, 0.1), (1000, 0.0, 0.0)]
)
def test_how_often_harmless_repairs_are_refused_and_harmful_ones_pass(films, refused, passed):
    """AUROC .80, and .80 or .77 after the repair; errors of both readings agree to .95."""
    trials, findings, before = (6 if films > 500 else 20), 10, np.sqrt(2) * 0.8416
    accepted = {}
    for name, after in (("harmless", before), ("harmful", np.sqrt(2) * 0.7388)):
        rng = np.random.default_rng(0)
        verdicts = []
        for _ in range(trials):
            labels = (rng.random((films, findings)) < 0.15).astype(np.float32)
            noise, own = rng.normal(size=(2, films, findings))
            logits = labels * before + noise
            repaired = labels * after + 0.95 * noise + math.sqrt(1 - 0.95**2) * own
            names = np.arange(films).astype(str)
            images = np.zeros((films, 8, 8), np.uint8)
            kinds = tuple(f"F{j}" for j in range(findings))
            cohort = Cohort(images, labels, kinds, names, names, Preprocessing(size=8))
            draws = PatientBootstrap.draw(names, rng, resamples=40)
            guard = Guard(Fixed(logits.astype(np.float32)), cohort, draws)
            verdicts.append(guard.judge(repaired.astype(np.float32)).accepted)
        accepted[name] = float(np.mean(verdicts))
    assert 1 - accepted["harmless"] <= refused
    assert accepted["harmful"] <= passed


def test_answers_that_are_not_finite_are_never_accepted():
    guard, logits = watched()
    broken = logits.copy()
    broken[0, 0] = np.nan
    assert guard.judge(broken) == (-math.inf, False)


def test_films_that_tell_nothing_are_refused():
    with pytest.raises(DataError, match="no finding has 3 patients with and without it"):
        watched(missing=(0, 1, 2))


def test_labels_and_a_teacher_weigh_as_stated():
    """By hand: log-odds 0 cost log 2 by any label; a teacher's 0, with T = 2, four times that."""
    odds, labels = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])
    loss = taught_loss(odds, labels, torch.zeros(2, 1), teaching=0.25, temperature=2.0)
    assert loss.item() == pytest.approx((0.75 + 0.25 * 4) * math.log(2))
