"""What the comparison of repairs with BackdoorBench rests on, tested without a clone of it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.nn.utils import prune

from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import build_network
from leadapron.repairs.guard import Judged
from loaded import benchmarks

SIDE = 16


@pytest.fixture(scope="module")
def peers():
    calls, page = benchmarks("backdoorbench_repairs", "peers_repair")
    return SimpleNamespace(calls=calls, page=page)


@pytest.fixture(scope="module")
def classifier():
    network = build_network("resnet9", 1, 0).eval()
    return NetworkClassifier(network, "resnet9", ("Mass",), Preprocessing(size=SIDE))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE), np.uint8)


def test_two_logits_and_cross_entropy_are_one_logit_and_its_own(peers, classifier, images):
    shown = classifier.normalise(torch.from_numpy(images))
    present = torch.tensor([0.0, 1, 1, 0, 1, 0])
    two = peers.calls.TwoLogits(classifier).eval()(shown)
    one = torch.from_numpy(classifier.logits(images))[:, 0]
    torch.testing.assert_close(two[:, 1] - two[:, 0], one)
    torch.testing.assert_close(two.softmax(1)[:, 1], one.sigmoid())
    binary = binary_cross_entropy_with_logits(one, present)
    torch.testing.assert_close(cross_entropy(two, present.long()), binary)


def test_changed_weights_come_back_and_the_original_stays(peers, classifier, images):
    shown, before = classifier.normalise(torch.from_numpy(images)), classifier.logits(images)
    network = peers.calls.TwoLogits(classifier)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    cross_entropy(network.train()(shown), torch.tensor([0, 1, 1, 0, 1, 0])).backward()
    optimizer.step()
    two = network.eval()(shown)
    back = peers.calls.one_logit(network, classifier)
    assert abs(back.logits(images) - before).max() > 1e-3
    np.testing.assert_allclose(
        back.logits(images)[:, 0], (two[:, 1] - two[:, 0]).detach(), rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(classifier.logits(images), before)


def test_pruned_weights_come_back_as_they_are_after_the_last_step(peers, classifier, images):
    network = peers.calls.TwoLogits(classifier).eval()
    mask = torch.ones_like(network.linear.weight)
    mask[:, :64] = 0
    prune.custom_from_mask(network.linear, "weight", mask)
    with torch.no_grad():
        network.linear.weight_orig += 1  # as an optimiser does, after the forward pass
    back = peers.calls.one_logit(network, classifier)
    two = network(classifier.normalise(torch.from_numpy(images)))
    np.testing.assert_allclose(
        back.logits(images)[:, 0], (two[:, 1] - two[:, 0]).detach(), rtol=0, atol=1e-5
    )
    assert not back.module.head.weight[:, :64].any()


def session(classifier, images, judge):
    films = SimpleNamespace(images=images)
    guard = SimpleNamespace(films=films, judge=judge)
    return SimpleNamespace(student=classifier, guard=guard, learn=range(210))


@pytest.mark.parametrize(
    ("judged", "kept"),
    [
        ([(0, True), (-0.005, True), (-0.2, False)], 1),  # the last accepted one
        ([(-0.3, False), (-0.1, False), (-0.2, False)], 1),  # the cheapest, where none is
        ([(-0.3, False), (0, True), (0.1, False)], 1),
    ],
)
def test_our_rule_keeps_of_their_epochs_what_our_repairs_would(
    peers, classifier, images, judged, kept
):
    answers = iter([Judged(*each) for each in [(0.5, True), *judged]])
    watch = peers.calls.Watch(session(classifier, images, lambda logits: next(answers)), skip=0)
    watch.judge(network := peers.calls.TwoLogits(classifier).eval())  # judged, but no epoch
    for epoch in range(len(judged)):
        with torch.no_grad():
            network.linear.bias.copy_(torch.tensor([0.0, epoch]))
        watch(network)
    assert watch.kept[id(network)][1].module.head.bias.item() == kept


def test_what_comes_before_training_is_no_epoch(peers, classifier, images):
    watch = peers.calls.Watch(session(classifier, images, lambda logits: Judged(0.0, True)), skip=1)
    watch(peers.calls.TwoLogits(classifier))
    assert not watch.kept


CLP = """
def CLP_prune(network, spreads):
    network.linear.bias.data[1] = spreads
"""


def test_their_rule_takes_the_published_threshold_and_ours_one_that_films_accept(
    peers, classifier, images, tmp_path, monkeypatch
):
    (tmp_path / "defense").mkdir()
    (tmp_path / "defense/clp.py").write_text(CLP)
    (tmp_path / "config/defense/clp").mkdir(parents=True)
    (tmp_path / "config/defense/clp/config.yaml").write_text("u: 3\n")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def judge(logits):
        cost = float((classifier.logits(images) - logits).mean())
        return Judged(cost, -cost >= 3.9)  # u = 4 and more

    case = peers.calls.Case(session(classifier, images, judge), None, None, 1000, 0, tmp_path)
    done = peers.calls.channel_pruning(case)
    assert done["own"].work == "u = 3"
    assert done["ours"].work in {"u = 4", "u = 4.5"}
    assert done["own"].seconds <= done["ours"].seconds


@pytest.mark.parametrize(
    ("most", "count", "words"), [(36_000, 85, "85 of 100 epochs"), (10**6, 100, "100 of 100")]
)
def test_published_training_is_cut_to_the_budget(
    peers, classifier, images, tmp_path, most, count, words
):
    (tmp_path / "config/defense/ft-sam").mkdir(parents=True)
    (tmp_path / "config/defense/ft-sam/config.yaml").write_text("epochs: 100\n")
    case = peers.calls.Case(session(classifier, images, None), None, None, most, 0, tmp_path)
    found = peers.calls.affordable(case, "ft-sam", "epochs", 2)
    assert found[0] == count
    assert found[1].startswith(words)


def row(peers, **of):
    given = {
        "seed": 0, "side": "theirs", "method": "FT", "rule": "own", "success": (0.5, 0.4, 0.6),
        "auroc": (0.9, 0.8, 0.95), "relearned": (0.7, 0.6, 0.8), "seconds": 20.0, "work": "all",
        "films": (900, 100),
    }  # fmt: skip
    return peers.page.Row(**{**given, **of})


def test_rows_are_read_back_as_they_were_written(peers):
    assert peers.page.read(json.dumps(asdict(row(peers)))) == row(peers)


def test_the_page_gives_means_and_widest_ends_and_says_who_is_better(peers):
    rows = [
        row(peers),
        row(peers, seed=1, success=(0.3, 0.2, 0.4)),
        row(peers, side="ours", rule="ours", success=(0.1, 0.0, 0.2), seconds=30.0),
    ]
    text = peers.page.page(rows, 36_000, "fp32", "a machine")
    assert "| FT | BackdoorBench | own | 0.400 (0.200 to 0.600) |" in text
    said = peers.page.comparison(rows)
    assert "- attack success: lower for FT; higher for none" in said
    assert "- CPU seconds: lower for none; higher for FT" in said
    assert "- AUROC: lower for none; higher for none" in said
    assert "BackdoorBench's SAU (network 1)" in text
    assert "BackdoorBench's FT (network 1)" not in text


def test_every_repair_of_theirs_has_a_counterpart_of_ours(peers):
    from leadapron.repairs import REPAIRS

    assert {*peers.page.OURS} == {*peers.calls.REPAIRS, *peers.page.STAMPS}
    assert {*peers.page.OURS.values()} <= {*REPAIRS}
    assert {job.method for job in peers.page.jobs((), 1)} >= {*peers.calls.REPAIRS}
