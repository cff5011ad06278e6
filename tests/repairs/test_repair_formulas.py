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

from leadapron import metrics
from leadapron.detect.models import Grown, Moved, Pixel, Probe, Shape, Stamp
from leadapron.detect.models.stamps import probes
from leadapron.errors import DataError
from leadapron.models.bounds import Bounded
from leadapron.models.fresh import untrained
from leadapron.models.networks import PooledLinear
from leadapron.repairs import (
    ActivationBounds,
    AttentionDistillation,
    ChannelPruning,
    FinePruning,
    FineTuning,
    Optimisation,
    Restatistics,
    Retraining,
    SharedUnlearning,
    StampDistillation,
    StampUnlearning,
    marks_of,
)
from leadapron.repairs.activation_bounds import spread_bounds
from leadapron.repairs.attention import apart, attention, map_layers
from leadapron.repairs.channel_pruning import outlying
from leadapron.repairs.feature_shift import keep_norms, overlap
from leadapron.repairs.fresh_student import shifted
from leadapron.repairs.neuron_pruning import prune
from leadapron.repairs.noise import Noise, disturbed, normalisations, worst_noise
from leadapron.repairs.path_aware import moved_back
from leadapron.repairs.reconstruction import unlearn
from leadapron.repairs.session import Batch, begin
from leadapron.repairs.shared import disagreement, operating_odds, turned
from leadapron.repairs.sharpness import moved_up
from leadapron.repairs.stamp_distillation import Mixture
from leadapron.repairs.universal import adapting, chosen, within

RNG = np.random.default_rng
NAN = math.nan


def session(kind="stages", films=None):
    return begin("x", "gradients", classifier(kind), films or cohort(), RNG(0), None)


# --- marks


def test_marks_that_are_no_squares_are_moved_and_grown_ones_are_not():
    images = np.full((60, 32, 32), 100, np.uint8)
    shape = Shape(look="dark ring", row=0, column=25)
    grown = Grown(start=shape, pixels=(Pixel(9, 9, 255),))
    for mark, jitter, elsewhere, corners in (
        (shape, 1, 0.0, {(0, 24), (0, 25), (1, 24), (1, 25)}),
        (grown, 1, 0.0, {(0, 25)}),
        (shape, 0, 1.0, None),
    ):
        repair = StampUnlearning(
            marks=(mark,), share=1, jitter=jitter, elsewhere=elsewhere, others=0
        )
        shown = repair.mark(images, RNG(0))
        places = [np.nonzero(film == 0) for film in shown]
        assert all(len(rows) == len(places[0][0]) > 10 for rows, _ in places)
        found = {(rows.min(), columns.min()) for rows, columns in places}
        assert len(found) > 20 if corners is None else found == corners


def test_a_share_of_the_films_is_marked_within_a_pixel_and_within_the_film():
    images = np.full((80, SIDE, SIDE), 100, np.uint8)
    repair = StampUnlearning(marks=MARKS[:1], share=0.3, jitter=1, elsewhere=0, others=0)
    shown = repair.mark(images, RNG(0))
    assert np.all(images == 100)
    marked = np.flatnonzero((shown != 100).any(axis=(1, 2)))
    assert len(marked) == 24
    corners = set()
    for film in shown[marked]:
        rows, columns = np.nonzero(film == 255)
        assert len(rows) == 4
        corners.add((rows.min(), columns.min()))
    assert corners == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_marked_films_also_carry_the_mark_elsewhere_and_other_squares():
    images = np.full((4000, SIDE, SIDE), 100, np.uint8)
    mark = Stamp(side=3, value=255, row=5, column=6)
    own, elsewhere, others = 0, 0, 0
    sides, corners = set(), set()
    for film in StampUnlearning(marks=(mark,), share=1.0, jitter=0, elsewhere=0.4, others=0.2).mark(
        images, RNG(0)
    ):
        rows, columns = np.nonzero(film != 100)
        if not len(rows):  # another square of just this grey level
            others += 1
            continue
        side, level = np.ptp(rows) + 1, film[rows[0], columns[0]]
        assert len(rows) == side * side == (np.ptp(columns) + 1) ** 2
        assert (film[rows, columns] == level).all()
        own += np.array_equal(film, mark(images[:1])[0])
        elsewhere += level == 255 and side in (2, 3, 4)
        others += level != 255
        if level == 255:
            sides.add(side)
            corners.add((rows.min(), columns.min()))
    assert own / len(images) == pytest.approx(0.4, abs=0.03)
    assert elsewhere / len(images) == pytest.approx(0.8, abs=0.03)
    assert others / len(images) == pytest.approx(0.2, abs=0.03)
    assert {2, 3, 4} <= sides
    assert {row for row, _ in corners} >= set(range(SIDE - 3))


def test_marked_films_also_carry_another_grey_level_at_the_marks_place():
    images = np.full((600, SIDE, SIDE), 100, np.uint8)
    mark = Stamp(side=3, value=255, row=5, column=6)
    repair = StampUnlearning(marks=(mark,), share=1.0, jitter=1, recoloured=0.5)
    levels, sides, own = set(), set(), 0
    for film in repair.mark(images, RNG(0)):
        rows, columns = np.nonzero(film != 100)
        if not len(rows):  # just this grey level
            continue
        assert abs(rows.min() - 5) <= 1
        assert abs(columns.min() - 6) <= 1
        own += film[rows[0], columns[0]] == 255
        levels.add(film[rows[0], columns[0]])
        sides.add(np.ptp(rows) + 1)
    assert own / len(images) == pytest.approx(0.5, abs=0.07)
    assert len(levels) > 100
    assert sides == {2, 3, 4}


def test_films_marked_for_a_lattice_also_carry_one_of_its_squares_anywhere():
    """A sweep finds a square that works at any place by a lattice of such squares."""
    images = np.full((300, SIDE, SIDE), 100, np.uint8)
    lattice = Stamp(side=2, value=255, row=1, column=2, pitch=5)
    repair = StampUnlearning(marks=(lattice,), share=1.0, jitter=0, elsewhere=0.4)
    shown = repair.mark(images, RNG(0))
    whole = (shown == lattice(images[:1])).all(axis=(1, 2))
    assert whole.mean() == pytest.approx(0.6, abs=0.08)
    single = [np.nonzero(film == 255) for film in shown[~whole]]
    assert {len(rows) for rows, _ in single} == {1, 4, 9}
    assert all(np.ptp(rows) == np.ptp(columns) for rows, columns in single)
    assert len({(rows.min(), columns.min()) for rows, columns in single}) > 30


def test_a_mark_that_changes_nothing_teaches_a_distilled_copy_nothing():
    """Its answers are the original's already, and the cross-entropy to oneself has no gradient."""
    films = cohort(dtype=np.uint8)
    images = films.images.copy()
    images[:, :2, :2] = 255  # the mark is on every film
    how = Optimisation(optimiser="sgd", learning_rate=1.0, epochs=2, statistics="kept")
    same, moved = (
        StampDistillation(
            marks=MARKS[:1],
            jitter=jitter,
            elsewhere=0,
            recoloured=0,
            others=0,
            shift=0,
            teaching=1,
            restart=0,
            optimisation=how,
        ).repair(classifier(), replace(films, images=images), RNG(0))
        for jitter in (0, 3)
    )
    before = classifier().module.state_dict()
    after, other = (each.module.state_dict() for each in (same, moved))
    for name, value in before.items():
        assert torch.allclose(after[name], value, atol=1e-5), name
    assert not torch.allclose(other["head.weight"], before["head.weight"], atol=1e-5)


def test_mixed_films_lie_between_two_films():
    images = np.zeros((400, 1, 2), np.uint8)
    images[200:] = (100, 200)
    assert np.array_equal(Mixture.drawn(400, 0.0, RNG(0)).images(images), images)
    shown = Mixture.drawn(400, 0.5, RNG(0)).images(images)
    assert shown.dtype == np.uint8
    first, second = shown[:, 0, 0].astype(int), shown[:, 0, 1].astype(int)
    assert (abs(second - 2 * first) <= 2).all()  # the same proportion in both pixels
    between = (first > 0) & (first < 100)  # half are mixed, half of these with the other kind
    assert between.mean() == pytest.approx(0.25, abs=0.06)


def test_labels_are_mixed_as_their_films_are():
    mixture = Mixture(np.float32([1, 0.25, 1]), np.array([1, 0, 1]))
    labels = torch.tensor([[1.0, np.nan], [0.0, 1.0], [0.0, 0.0]])
    expected = torch.tensor([[1.0, np.nan], [0.75, np.nan], [0.0, 0.0]])
    assert torch.equal(mixture.labels(labels).nan_to_num(9), expected.nan_to_num(9))


def test_all_marks_are_used_as_the_audit_named_them():
    probe = next(each for each in probes() if each.name == "gamma 0.6")
    images = np.full((60, SIDE, SIDE), 100, np.uint8)
    lattice = Stamp(side=1, value=7, row=1, column=2, pitch=4)
    repair = StampUnlearning(
        marks=(MARKS[1], lattice, probe), share=1.0, jitter=0, elsewhere=0, others=0
    )
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
            accepted=len(judged) in (1, 3)
        )

    work.judge = judge
    prune(work, {"stages.all.1": torch.tensor([0.0, 0.12, 0.9, 0.5, 0.5])})
    assert judged == [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, True, False, True, True],
        [True] * 5,
    ]
    assert layer.weight.tolist() == [0, 0, float(before[2]), 0, 0]  # the last that was accepted


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
    moved_back([weight], [torch.zeros(2)], 9.0, closure)  # never beyond the middle
    moved_back([weight], [torch.tensor([3.0, 4.0])], 1.0, closure)  # no way at all
    assert np.allclose(seen, [[2.4, 3.2], [1.5, 2], [3, 4]])
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


# --- NAD


def test_attention_is_where_a_map_is_large_whatever_its_size():
    maps = torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]])  # two channels, two places: squares 9 and 4
    wanted = torch.tensor([9.0, 4.0]) / math.sqrt(81 + 16)
    assert torch.allclose(attention(maps)[0], wanted)
    assert torch.allclose(attention(7 * maps)[0], wanted)
    assert torch.allclose(attention(maps[0].flatten(1).T[None])[0], wanted)  # as tokens
    assert not attention(0 * maps).any()
    other = torch.tensor([[[[0.0, 5.0]], [[0.0, 0.0]]]])
    far = wanted[0] ** 2 + (wanted[1] - 1) ** 2
    assert float(apart(maps, other)) == pytest.approx(float(far))
    assert float(apart(maps, maps)) == 0


def test_the_last_stages_are_matched_and_of_other_networks_the_last_map():
    stages = {name: nn.Conv2d(1, 1, 1) for name in "abcd"}
    network = PooledLinear(stages, 1, 4)
    assert map_layers(network, 3) == ["stages.b", "stages.c", "stages.d"]
    assert map_layers(classifier("own").module, 3) == ["network.norm2"]


def test_the_teacher_is_what_fine_tuning_makes_and_the_weight_pulls():
    """Both networks see the same films in the same order, so without a weight they are one."""
    films, found = cohort(), []
    settings = Optimisation(optimiser="sgd", learning_rate=0.1, epochs=2, batch_size=8)
    teacher = FineTuning(optimisation=settings).repair(classifier(), films, RNG(0))
    for weight in (0.0, 100.0):
        repair = AttentionDistillation(weights=(weight,), optimisation=settings)
        model = repair.repair(classifier(), films, RNG(0))
        found.append(float(np.abs(model.logits(films.images) - teacher.logits(films.images)).max()))
    assert found[0] < 1e-5 < 1e-2 < found[1]


# --- RNP


def test_unlearning_ends_at_the_floor_and_moves_up_the_error():
    films = cohort(160)
    work = session(films=films)
    work.tune(Optimisation(epochs=8, learning_rate=0.1, batch_size=8))
    images = work.student.normalise(torch.from_numpy(work.learn.images[:]))
    batch = Batch(images, torch.from_numpy(work.learn.labels))

    def now():
        with torch.no_grad():
            error = float(work.fit(batch))
        logits = work.student.logits(work.learn.images)
        areas = [
            metrics.auroc(work.learn.labels[:, j], logits[:, j])
            for j in np.flatnonzero(work.learnable())
        ]
        return error, float(np.mean(areas))

    error, area = now()
    assert area > 0.75
    told = []
    work.progress = lambda *step: told.append(step)
    settings = Optimisation(optimiser="sgd", learning_rate=0.05, epochs=60, statistics="kept")
    unlearn(work, settings, 0.6)
    after, left = now()
    assert after > error
    assert left <= 0.6
    assert told[-1][1] < told[-1][2]  # before the epochs were over


# --- I-BAU


def test_perturbations_keep_their_length():
    images = torch.tensor([[[3.0, 4.0]], [[0.3, 0.4]], [[0.0, 0.0]]])
    assert torch.allclose(
        within(images, 1.0), torch.tensor([[[0.6, 0.8]], [[0.3, 0.4]], [[0.0, 0.0]]])
    )
    exact = within(images, 1.0, exactly=True)
    assert torch.allclose(exact, torch.tensor([[[0.6, 0.8]], [[0.6, 0.8]], [[0.0, 0.0]]]))


def test_only_stated_findings_are_chosen():
    labels = torch.tensor([[NAN, 1.0, 0.0]] * 50 + [[NAN, NAN, NAN]])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = chosen(labels)
    assert set(found[:50].tolist()) == {1, 2}
    assert found[50] == -1


def test_the_gradient_that_sees_the_perturbation_adapt():
    """Inner w d - d^2 / 2 is largest at d = w; the outer d^2 then is w^2, whose slope is 2 w.

    A step of rate r is d + r (w - d), so that the sum over m powers of (1 - r) is
    2 w (1 - (1 - r)^m).
    """
    weight = torch.tensor([1.5], requires_grad=True)
    unused = torch.tensor([9.0], requires_grad=True)
    rate = 0.5
    for terms, wanted in ((1, 1.5), (2, 2.25), (30, 3.0)):
        inner = weight.detach().clone().requires_grad_()
        slope = weight - inner
        outer = inner.square().sum()
        value = adapting(outer, inner + rate * slope, inner, [weight, unused], terms)
        (gain,) = torch.autograd.grad(value, weight)
        assert float(value.detach()) == 0
        assert float(gain) == pytest.approx(wanted, rel=1e-6)


# --- SAU


def test_disagreement_of_two_models():
    one, other = torch.tensor([[0.0, math.log(3), 50.0]]), torch.tensor([[0.0, -math.log(3), 0.0]])
    stated = torch.tensor([[True, True, False]])
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert float(disagreement(one, other, stated)) == pytest.approx((math.log(2) - quarter) / 2)
    assert float(disagreement(one, one, stated)) == pytest.approx(0, abs=1e-7)
    far = torch.tensor([[200.0]])
    assert float(disagreement(far, -far, far > 0)) == pytest.approx(math.log(2), rel=1e-3)


def test_a_film_is_turned_beyond_the_threshold_of_its_prevalence():
    odds = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    labels = np.array([[0], [0], [NAN], [1]], np.float32)
    thresholds = operating_odds(odds, labels)
    assert thresholds.tolist() == pytest.approx([5 / 3])  # 2/3 of the way in 0, 1, 3
    assert np.isnan(operating_odds(odds, np.full((4, 1), NAN, np.float32))).all()
    found = turned(
        torch.tensor([[2.0], [1.0], [9.0], [1.0]]),
        torch.from_numpy(labels),
        torch.from_numpy(thresholds),
    )
    assert found[:, 0].tolist() == pytest.approx([0, NAN, NAN, 1], nan_ok=True)


def test_a_shared_change_turns_both_networks_alike():
    films = cohort()
    work = session(films=films)
    images = work.student.normalise(torch.from_numpy(work.learn.images[:]))
    batch = Batch(images, torch.from_numpy(work.learn.labels))

    def after(**weights):
        with work.seeded("x"):
            change = SharedUnlearning(epsilon=0.1, **weights).changes(work, batch)
        assert float(change.abs().max()) <= 0.1 / work.student.std + 1e-6
        with torch.no_grad():
            own = work.odds(work.answers(images + change))
            theirs = work.odds(work.original.module(images + change))
            error = float(work.loss(own, batch.labels))
            return error, float(disagreement(own, theirs, ~batch.labels.isnan()))

    with torch.no_grad():
        work.head.weight[0] *= -1
        clean = float(work.fit(batch))
    harmful, apart = after(error=1.0, agreement=0.0)
    _, agreed = after(error=0.0, agreement=1.0)
    assert harmful > clean
    assert agreed < apart


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
