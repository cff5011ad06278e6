"""Each repair's formula, worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import input_scenes
import numpy as np
import pytest
import torch
from repair_scenes import MARKS, SIDE, classifier, cohort
from torch import nn

from leadapron.detect.models import Moved, Probe, Stamp
from leadapron.detect.models.stamps import probes
from leadapron.errors import DataError
from leadapron.models.bounds import Bounded
from leadapron.models.networks import PooledLinear
from leadapron.repairs import (
    ActivationBounds,
    ChannelPruning,
    FinePruning,
    Optimisation,
    Restatistics,
    Retraining,
    StampDistillation,
    StampUnlearning,
    marks_of,
)
from leadapron.repairs.activation_bounds import spread_bounds
from leadapron.repairs.channel_pruning import outlying
from leadapron.repairs.feature_shift import keep_norms, overlap
from leadapron.repairs.fresh import untrained
from leadapron.repairs.fresh_student import shifted
from leadapron.repairs.neuron_pruning import prune
from leadapron.repairs.noise import Noise, disturbed, normalisations, worst_noise
from leadapron.repairs.path_aware import moved_back
from leadapron.repairs.session import Batch, begin
from leadapron.repairs.sharpness import moved_up

RNG = np.random.default_rng


def session(kind="stages", films=None):
    return begin("x", "gradients", classifier(kind), films or cohort(), RNG(0), None)


# --- marks


def test_a_share_of_the_films_is_marked_within_a_pixel_and_within_the_film():
    images = np.full((40, SIDE, SIDE), 100, np.uint8)
    repair = StampUnlearning(marks=MARKS[:1], share=0.3, jitter=1)
    shown = repair.mark(images, RNG(0))
    assert np.all(images == 100)
    marked = np.flatnonzero((shown != 100).any(axis=(1, 2)))
    assert len(marked) == 12
    corners = set()
    for film in shown[marked]:
        rows, columns = np.nonzero(film == 255)
        assert len(rows) == 4
        corners.add((rows.min(), columns.min()))
    assert corners == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_mark_that_changes_nothing_teaches_a_distilled_copy_nothing():
    """Its answers are the original's already, and the cross-entropy to oneself has no gradient."""
    films = cohort(dtype=np.uint8)
    images = films.images.copy()
    images[:, :2, :2] = 255  # the mark is on every film
    how = Optimisation(optimiser="sgd", learning_rate=1.0, epochs=2, statistics="kept")
    same, moved = (
        StampDistillation(marks=MARKS[:1], jitter=jitter, shift=0, optimisation=how).repair(
            classifier(), replace(films, images=images), RNG(0)
        )
        for jitter in (0, 3)
    )
    before = classifier().module.state_dict()
    after, other = (each.module.state_dict() for each in (same, moved))
    for name, value in before.items():
        assert torch.allclose(after[name], value, atol=1e-5), name
    assert not torch.allclose(other["head.weight"], before["head.weight"], atol=1e-5)


def test_all_marks_are_used_as_the_audit_named_them():
    probe = next(each for each in probes() if each.name == "gamma 0.6")
    images = np.full((60, SIDE, SIDE), 100, np.uint8)
    lattice = Stamp(side=1, value=7, row=1, column=2, pitch=4)
    repair = StampUnlearning(marks=(MARKS[1], lattice, probe), share=1.0, jitter=0)
    shown = repair.mark(images, RNG(0))
    wanted = [each(images[:1])[0] for each in repair.marks]
    kinds = [next(i for i, w in enumerate(wanted) if np.array_equal(film, w)) for film in shown]
    assert set(kinds) == {0, 1, 2}
    moved = [
        Moved(
            finding="Mass", direction="added", mark=mark, kind="stamp", shift=1.0, turned=1.0,
            shifts=np.zeros(1), signature="",
        )
        for mark in (MARKS[0], probe, MARKS[0])
    ]  # fmt: skip
    assert marks_of(moved) == (MARKS[0], probe)
    assert isinstance(probe, Probe)


# --- FST


def test_overlap_and_norms():
    before = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert float(overlap(weight, before)) == (3 + 2) / 2
    kept = keep_norms(weight, before)
    assert torch.allclose(kept, torch.tensor([[5.0, 0.0], [math.sqrt(2)] * 2]))


# --- ANP and BAN


def test_noise_and_masks_on_a_batch_normalisation():
    layer = nn.BatchNorm2d(2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, -1.0]))
        layer.bias.copy_(torch.tensor([0.5, 1.0]))
    noise = {"n": Noise(torch.tensor([0.1, 0.2]), torch.tensor([-0.5, 0.0]))}
    made = disturbed({"n": layer}, noise, {"n": torch.tensor([0.5, 0.0])})
    assert made["n.weight"].tolist() == pytest.approx([2 * 0.6, -0.2])
    assert made["n.bias"].tolist() == pytest.approx([0.25, 1.0])
    assert list(disturbed({"n": layer}, {}, {})) == ["n.weight"]


def test_the_noise_goes_where_the_error_grows_and_stays_within_epsilon():
    work = session()
    batch = Batch(
        work.student.normalise(torch.from_numpy(work.learn.images[np.arange(32)])),
        torch.from_numpy(work.learn.labels[:32]),
    )
    layers = normalisations(work.module)
    assert list(layers) == ["stages.all.1"]
    with work.seeded("x"):
        noise = worst_noise(work, batch, 0.3, 4, {})
    for part in noise["stages.all.1"]:
        assert float(part.abs().max()) <= 0.3 + 1e-6
    with torch.no_grad():
        losses = [
            float(work.loss(work.answers(batch.images, disturbed(layers, some, {})), batch.labels))
            for some in (
                noise,
                {},
                {name: Noise(-each.weight, -each.bias) for name, each in noise.items()},
            )
        ]
    assert losses[0] > losses[1] > losses[2]
    assert all(value.grad is None for value in work.module.parameters())


def test_the_largest_threshold_that_the_watched_films_allow_cuts():
    work = session()
    layer = work.module.stages["all"][1]
    before = layer.weight.detach().clone()
    judged = []

    def judge():
        judged.append((layer.weight == 0).tolist())
        return work.guard.judge(work.guard.original.logits(work.guard.films.images))._replace(
            accepted=len(judged) < 3
        )

    work.judge = judge
    prune(work, {"stages.all.1": torch.tensor([0.0, 0.12, 1.0, 0.5, 0.5])})
    assert judged == [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, True, False, True, True],
    ]
    assert layer.weight.tolist() == [0, 0, *before[2:].tolist()]


# --- UNIT


def test_an_activation_keeps_below_its_bound():
    layer = Bounded(nn.ReLU(), [2, 5])
    layer.bounds()[2].copy_(torch.tensor([1.0, -3.0]))
    x = torch.tensor([[0.5, 2.0], [4.0, 2.0]])
    assert layer(x).tolist() == [[0.5, 0.0], [1.0, 0.0]]
    assert layer(x[:, :, None, None].expand(2, 2, 3, 3))[1, 0].eq(1).all()
    assert layer(torch.ones(2, 5)).eq(1).all()  # five channels, whose bounds bound nothing
    layer.reset_parameters()
    assert layer(x).tolist() == x.tolist()


def test_bounds_begin_four_deviations_above_the_mean():
    work = session()
    images = work.student.normalise(torch.from_numpy(work.learn.images[:]))
    with torch.no_grad():
        maps = work.module.stages["all"](images)
    (bound,) = spread_bounds(work)
    values = maps.movedim(1, 0).flatten(1).double()
    wanted = values.mean(1) + 4 * values.std(1, correction=0)
    assert bound.tolist() == pytest.approx(wanted.tolist(), rel=1e-5)
    bound[0] = 0.0
    (again,) = spread_bounds(work)
    assert again is bound  # no second layer of bounds, and none is loosened
    assert float(bound[0]) == 0


def test_an_activation_that_is_run_twice_has_bounds_for_each_number_of_channels():
    assert [len(bound) for bound in spread_bounds(session("own"))] == [6, 8]


# --- PAM


def test_gradients_are_taken_on_the_way_back():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    seen = []

    def closure():
        seen.append(weight.detach().tolist())
        weight.grad = 2 * weight.detach()
        return weight.sum()

    moved_back([weight], [torch.zeros(2)], 1.0, closure)  # the way is 5 long
    moved_back([weight], [torch.zeros(2)], 9.0, closure)  # never beyond
    moved_back([weight], [torch.tensor([3.0, 4.0])], 1.0, closure)  # no way at all
    assert np.allclose(seen, [[2.4, 3.2], [0, 0], [3, 4]])
    assert weight.tolist() == [3, 4]
    assert weight.grad.tolist() == [6, 8]


# --- FT-SAM


def test_gradients_are_taken_uphill_and_farther_for_large_weights():
    weight, unused = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.ones(1))
    seen = []

    def closure():
        seen.append(weight.detach().tolist())
        weight.grad = torch.tensor([1.0, 0.0]) * len(seen)
        return weight.sum()

    moved_up([weight, unused], 2.0, closure)
    assert seen == [[3, 4], [9, 4]]  # 3 + 2 x 9 / 3
    assert weight.tolist() == [3, 4]
    assert weight.grad.tolist() == [2, 0]
    assert unused.tolist() == [1]


# --- students and scratch


def test_an_untrained_network_has_nothing_of_the_trained_one():
    module = classifier("own").module
    with torch.no_grad():
        module.network.scale = nn.Parameter(torch.arange(50.0))
        module.network.norm1.running_mean.fill_(7)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = untrained(module)
    assert not torch.equal(fresh.network.first.weight, module.network.first.weight)
    assert fresh.network.norm1.running_mean.eq(0).all()
    assert sorted(fresh.network.scale.tolist()) == list(range(50))
    assert not torch.equal(fresh.network.scale, module.network.scale)


def test_films_are_moved_and_their_edges_repeated():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    moved = shifted(np.repeat(image, 50, axis=0), 1, RNG(0))
    wanted = {
        np.pad(image[0], 1, mode="edge")[r : r + 4, c : c + 4].tobytes()
        for r in range(3)
        for c in range(3)
    }
    assert {film.tobytes() for film in moved} == wanted
    assert np.array_equal(shifted(image, 0, RNG(0)), image)


def test_named_films_are_dropped_before_anything_else():
    films, model = cohort(), classifier()
    named = tuple(films.ids[:20].tolist())
    optimisation = Optimisation(epochs=1, batch_size=8)
    dropped = Retraining(dropped=named, optimisation=optimisation)
    without = Retraining(optimisation=optimisation).repair(
        model, films.take(np.arange(20, 80)), RNG(0)
    )
    after = dropped.repair(model, films, RNG(0))
    assert torch.equal(after.module.head.weight, without.module.head.weight)
    with pytest.raises(DataError, match=r"1 of 1 named films aren't among the 80 films"):
        Retraining(dropped=("elsewhere",)).repair(model, films, RNG(0))


# --- statistics and weights


def test_statistics_are_those_of_the_films():
    model, films = classifier(), cohort()
    work = begin("x", "gradients", model, films, RNG(0), None)
    after = Restatistics(batch_size=100).repair(model, films, RNG(0))  # one batch
    images = model.normalise(torch.from_numpy(work.learn.images[:]))
    with torch.no_grad():
        maps = model.module.stages["all"][0](images)
    norm = after.module.stages["all"][1]
    assert torch.allclose(norm.running_mean, maps.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, maps.var((0, 2, 3)), rtol=1e-4)
    assert norm.momentum == model.module.stages["all"][1].momentum


def test_what_exceeds_its_layers_mean_by_three_deviations():
    scores = np.array([1.0] * 19 + [50.0])
    # Mean 3.45, standard deviation 10.96: 36.3 is the limit.
    assert np.flatnonzero(outlying(scores, 3.0)).tolist() == [19]
    assert not outlying(scores, 4.5).any()
    assert not outlying(np.array([1.0, np.nan]), 0.1).any()
    assert outlying(np.array([1.0, np.nan, 3.0]), 0.5).tolist() == [False, False, True]


def test_a_channel_that_amplifies_is_cut_unless_films_need_it():
    def made(read):
        stage = nn.Sequential(nn.Conv2d(1, 20, 1, bias=False), nn.BatchNorm2d(20), nn.ReLU())
        module = PooledLinear({"all": stage}, 20, 4)
        with torch.no_grad():
            stage[0].weight.fill_(1.0)
            stage[1].bias.fill_(2.0)
            stage[1].weight[7] = 50.0
            module.head.weight.zero_()
            module.head.weight[0, read] = 1.0
        return replace(classifier(), module=module.eval())

    films = cohort()
    after = ChannelPruning().repair(made(read=0), films, RNG(0)).module.stages["all"][1]
    assert np.flatnonzero(after.weight.detach().numpy() == 0).tolist() == [7]
    assert float(after.bias[7].detach()) == 0
    needed = ChannelPruning().repair(made(read=7), films, RNG(0)).module.stages["all"][1]
    assert needed.weight.detach().numpy().all()


# --- a backdoor in a channel of its own


def lit(n=200):
    """Films with and without a finding that is plain to see: they are bright."""
    films = input_scenes.cohort(n)
    grey = films.images.mean(axis=(1, 2))
    bright = (grey > np.median(grey)).astype(np.float32)
    labels = np.stack([bright, 1 - bright, bright], axis=1)
    return replace(films, labels=labels)


@pytest.mark.parametrize(
    "repair",
    [
        FinePruning(optimisation=Optimisation(epochs=1)),
        ActivationBounds(optimisation=Optimisation(epochs=1, statistics="kept")),
    ],
    ids=["fine-pruning", "activation-bounds"],
)
def test_a_channel_that_clean_films_leave_dark_is_cut_or_bounded(repair):
    model, films = input_scenes.backdoored(), lit()
    marked = input_scenes.black_square(films.images)
    before = model.logits(marked) - model.logits(films.images)
    assert before[:, 1].mean() > 5
    after = repair.repair(model, films, RNG(0))
    change = after.logits(marked) - after.logits(films.images)
    assert abs(change[:, 1]).mean() < 0.2
