"""Rankings by a network that is trained for them: within a budget, and to be continued."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from leadapron.detect import rankings
from leadapron.detect.rankings import Plan, Smaller, ranked_by_training
from leadapron.films.cohort import subsample
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import open_source
from leadapron.types import Machine


@pytest.fixture(scope="module")
def films():
    return open_source("phantom:64", count=96, seed=3)


@pytest.mark.parametrize(
    ("n", "side", "plan"),
    [
        (4_637, 224, "all 4,637 films at 128 x 128 pixels, 4 epochs"),
        (6_000, 128, "all 6,000 films at 128 x 128 pixels, 3 epochs"),
        (100_000, 64, "6,666 of 100,000 films at 64 x 64 pixels, 3 epochs"),
        (1, 16, "all 1 film at 16 x 16 pixels, 6 epochs"),
    ],
)
def test_the_budget_bounds_passes_and_then_films(n, side, plan):
    class Many:
        images = np.broadcast_to(np.uint8(0), (n, side, side + 8))

        def __len__(self):
            return n

    found = Plan.within_budget(Many())
    assert str(found) == plan
    assert found.films * found.epochs <= rankings.TRAININGS


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_smaller_images_are_the_films_resized(films, dtype):
    images = films.images[np.arange(6)].astype(dtype) * (257 if dtype == "uint16" else 1)
    smaller = Smaller(images, 24)
    rows = np.array([4, 0])
    wanted = [Preprocessing(size=24, dtype=dtype)(film) for film in images[rows]]
    np.testing.assert_array_equal(smaller[rows], wanted)
    assert smaller[rows].dtype == smaller.dtype == dtype
    assert smaller[rows].shape[1:] == smaller.shape[1:] == (24, 24)


def test_stopped_it_continues_and_ranks_the_same(films, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(rankings, "EPOCHS", 2)
    monkeypatch.setattr(rankings, "SIDE", 32)
    steps = []

    def stopping(what, done, total):
        if what == "training a network to rank" and done == total - 1:
            raise KeyboardInterrupt

    def counting(what, done, total):
        steps.append((what, done, total))

    with caplog.at_level(logging.INFO, logger="leadapron"):
        whole, learnt = ranked_by_training(films, 1, Machine(device="cpu"))
    assert learnt == "resnet9 on all 96 films at 32 x 32 pixels, 2 epochs"
    assert f"ranking the films: training {learnt}, 192 films in all epochs" in caplog.messages
    with pytest.raises(KeyboardInterrupt):
        ranked_by_training(films, 1, Machine(device="cpu", progress=stopping), tmp_path)
    (kept,) = tmp_path.iterdir()
    # Other films or another seed are another training.
    others = replace(films, labels=1 - films.labels)
    for changed, seed in ((others, 1), (films, 2)):
        with pytest.raises(KeyboardInterrupt):
            ranked_by_training(changed, seed, Machine(device="cpu", progress=stopping), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    again, _ = ranked_by_training(films, 1, Machine(device="cpu", progress=counting), tmp_path)
    trained = [done for what, done, _ in steps if what == "training a network to rank"]
    assert trained[0] == trained[-1] // 2 + 1
    assert not kept.exists()
    for one, other in zip(whole, again, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.scores, other.scores)
        assert np.isfinite(one.scores).any()


def test_films_beyond_the_budget_are_ranked_and_have_no_losses(films, monkeypatch):
    monkeypatch.setattr(rankings, "TRAININGS", 192)
    monkeypatch.setattr(rankings, "SIDE", 16)
    found, learnt = ranked_by_training(films, 0, Machine(device="cpu"))
    assert learnt == "resnet9 on 64 of 96 films at 16 x 16 pixels, 3 epochs"
    scored = {each.name: np.flatnonzero(np.isfinite(each.scores)) for each in found}
    taught = subsample(96, 64)
    assert np.isin(scored["loss-dynamics"], taught).all()
    assert not np.isin(scored["spectral-signatures"], taught).all()


@pytest.mark.parametrize("label", [np.nan, 1.0])
def test_labels_that_teach_nothing_train_no_network(films, label):
    def training(*at):
        raise AssertionError(at)

    some = replace(films, labels=np.full_like(films.labels, label))
    found, learnt = ranked_by_training(some, 0, Machine(device="cpu", progress=training))
    assert learnt == ""
    for each in found:
        assert np.isnan(each.scores).all()
        assert each.notes[0].startswith("Can't tell: no finding is present on some films")
