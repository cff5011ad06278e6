"""Trigger inversion: the original's price rules by hand, frozen weights, a planted trigger."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from leadapron.detect.models import CostSchedule, Inversion, Stamp, Wanted
from leadapron.detect.models.inversion import frozen
from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import PooledLinear, build_network

SIZE, N = 16, 64
SMALL = Preprocessing(size=SIZE)
FINDINGS = ("Effusion", "Mass")


@pytest.fixture(scope="module")
def films():
    rng = np.random.default_rng(2)
    images = rng.integers(60, 160, (N, SIZE, SIZE), dtype=np.uint8)
    ids = np.array([f"f{i}" for i in range(N)])
    return Cohort(images, np.zeros((N, 2), np.float32), FINDINGS, ids, ids, SMALL)


def planted():
    """Mass rises by 0.6 for every pixel that is brighter than 0.9: no film has one."""
    stem = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        stem.weight[:] = torch.tensor([1.0, 40.0])[:, None, None, None]
        stem.bias[:] = torch.tensor([0.0, -36.0])
    network = PooledLinear({"only": nn.Sequential(stem, nn.ReLU())}, 2, 2)
    with torch.no_grad():
        network.head.weight[:] = torch.tensor([[9.0, 0.0], [9.0, 38.4]])
        network.head.bias[:] = torch.tensor([-3.0, -3.0])
    return NetworkClassifier(network.eval(), "resnet9", FINDINGS, SMALL, mean=0.0, std=1.0)


def run(schedule, results):
    """The price after each step."""
    prices = []
    for share, size in results:
        schedule.step(share, size)
        prices.append(schedule.price)
    return prices


def test_the_price_follows_the_originals_rules():
    schedule = CostSchedule(first=1.0, multiplier=4.0, patience=2, give_up=3)
    works, fails = (1.0, 9.0), (0.5, 9.0)
    # Free until it has worked twice in a row; the second of these steps already counts upwards.
    assert run(schedule, [works, fails, works, works]) == [0, 0, 0, 1]
    # One more makes two: times 4. Then two failures: divided by 4^1.5 = 8.
    assert run(schedule, [works, fails, fails]) == [4, 4, 0.5]
    # Success and failure in turn: the counts start anew, nothing changes.
    assert run(schedule, [works, fails, works, fails]) == [0.5] * 4


def test_the_smallest_mask_that_works_is_kept():
    schedule = CostSchedule(patience=2)
    assert schedule.step(1.0, 5.0)
    assert not schedule.step(0.9, 1.0)  # smaller, but does not work
    assert not schedule.step(1.0, 5.0)
    assert schedule.step(0.99, 4.0)
    assert schedule.best == 4.0


def test_it_ends_only_after_the_price_went_both_ways():
    up_only = CostSchedule(patience=1, give_up=2)
    run(up_only, [(1.0, 5.0)] * 10)
    assert not up_only.done
    both = CostSchedule(patience=1, give_up=2)
    run(both, [(1.0, 5.0), (1.0, 5.0), (0.0, 5.0), (1.0, 5.0)])
    assert both.done
    never = CostSchedule(patience=1, give_up=2)
    run(never, [(0.0, 5.0)] * 10)
    assert not never.done
    assert math.isinf(never.best)


def test_a_planted_trigger_is_inverted_and_turns_other_films(films):
    classifier = planted()
    before = {name: value.clone() for name, value in classifier.module.state_dict().items()}
    how = Inversion(films=16, steps=150, together=2)
    square = Stamp(side=3, value=255, row=4, column=6)
    wanted = [
        Wanted(finding="Effusion", direction="added"),
        Wanted(finding="Mass", direction="added", start=square),
    ]
    effusion, mass = how.invert(classifier, films, wanted)
    assert mass.trained
    assert mass.turned > 0.95
    assert mass.films >= 28  # of the 32 that it wasn't made on
    # Effusion takes a change of the whole film, Mass a few bright pixels.
    inside = mass.mask[4:7, 6:9]
    assert mass.size < effusion.size
    assert inside.mean() > 5 * (mass.size - inside.sum()) / (SIZE**2 - 9)
    assert mass.pattern[mass.mask > 0.5].min() > 200
    for name, value in classifier.module.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad for p in classifier.module.parameters())


@pytest.fixture(scope="module")
def uneven(films):
    """Films of any brightness: a few per cent of it are no longer enough to turn one."""
    steps = np.random.default_rng(3).integers(-50, 51, (N, 1, 1))
    images = (films.images[np.arange(N)] + steps).astype(np.uint8)
    return replace(films, images=images)


def test_a_planted_channel_is_inverted_though_it_is_dark_on_all_films(uneven):
    classifier = planted()
    wanted = [
        Wanted(finding="Effusion", direction="added"),
        Wanted(finding="Mass", direction="added"),
        Wanted(finding="Mass", direction="removed"),
    ]
    found = Inversion(films=16, steps=80).invert_features(classifier, uneven, wanted)
    effusion, mass, _ = found
    assert {each.stage for each in found} == {"only"}
    assert effusion.mask.shape == effusion.pattern.shape == (2,)
    assert min(each.turned for each in found) > 0.95
    assert mass.films >= 28  # of the 32 that it wasn't made on
    # Mass is 38 times the mean of a channel that no film lights up, Effusion reads brightness.
    assert mass.mask[1] > 3 * mass.mask[0]
    assert mass.pattern[1] > 0.1
    assert effusion.mask[0] > 3 * effusion.mask[1]
    assert mass.size < effusion.size
    assert all(p.requires_grad for p in classifier.module.parameters())


def test_a_change_of_features_by_hand(uneven):
    """Mask and pattern say all: put on the pooled map by hand they turn as many films."""
    classifier = planted()
    (found,) = Inversion(films=16, steps=60).invert_features(
        classifier, uneven, [Wanted(finding="Effusion", direction="added")]
    )
    maps = classifier.activations(uneven.images)
    changed = (1 - found.mask) * maps.mean((2, 3)) + found.mask * found.pattern
    head = classifier.module.head
    after = changed @ head.weight.detach().numpy()[0] + head.bias.detach().numpy()[0]
    before = classifier.logits(uneven.images)[:, 0]
    below = before <= np.quantile(before, 0.95)
    assert found.turned == pytest.approx((after[below] > before[below].max()).mean(), abs=0.05)
    assert found.size == pytest.approx(found.mask.sum())


def test_it_starts_from_a_square_and_repeats_itself(films):
    stamp = Stamp(side=3, value=255, row=4, column=6)
    wanted = [Wanted(finding="Mass", direction="added", start=stamp)]
    first, again = (
        Inversion(films=8, steps=3).invert(planted(), films, wanted)[0] for _ in range(2)
    )
    assert first.mask[4:7, 6:9].min() > 0.8
    np.testing.assert_array_equal(first.mask, again.mask)
    assert first.turned == again.turned


def test_forcing_off(films):
    wanted = [Wanted(finding="Effusion", direction="removed")]
    (found,) = Inversion(films=16, steps=60).invert(planted(), films, wanted)
    assert found.turned > 0.9
    marked = found(films.images[np.arange(4)])
    assert marked.dtype == np.uint8
    assert marked.mean() < films.images[np.arange(4)].mean()  # darker films have less of it


def test_the_frozen_network_gives_the_same_logits_without_weight_gradients():
    module = build_network("resnet9", 2, seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
    classifier = NetworkClassifier(module, "resnet9", FINDINGS, SMALL)
    images = torch.randn(3, 1, SIZE, SIZE, generator=generator).requires_grad_()
    out = frozen(classifier)(images)
    torch.testing.assert_close(out, module(images), atol=1e-4, rtol=1e-4)
    out.sum().backward()
    assert images.grad is not None
    assert all(p.grad is None for p in module.parameters())


def test_what_it_refuses(films):
    wanted = [Wanted(finding="Mass", direction="added")]
    with pytest.raises(DataError, match="needs 20 of uint8"):
        Inversion().invert(planted(), films.take(np.arange(19)), wanted)
    with pytest.raises(DataError, match="needs 20"):
        Inversion().invert_features(planted(), films.take(np.arange(19)), wanted)
    with pytest.raises(UnknownNameError, match="scale4"):
        Inversion().invert_features(planted(), films, wanted, stage="scale4")
    with pytest.raises(UsageError):
        Inversion(steps=0)
    with pytest.raises(UsageError, match="held_out"):
        replace(Inversion(), held_out=1.0)
