"""Settings are found where trials can tell them, and only there."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from inspected import FINDINGS, NUMBERS

from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import BlackBoxClassifier
from leadapron.models.foreign.recognise import Normalisation
from leadapron.models.inspection import choosing
from leadapron.models.inspection.choosing import Axes, choose
from leadapron.models.inspection.trials import Answered, Bench, FilmsAt, Truth
from leadapron.models.networks import build_network
from leadapron.types import Estimate

SIZES = (24, 32, 48, 64)
SCALES = ("unit", "0.5/0.5", "torchxrayvision")
BOTH = "a higher AUROC or a better fit to the network's own means and variances"


def black(model):
    """The same network, of which only the outputs are seen."""
    size = {"module": model.module}

    def run(images):
        with torch.inference_mode():
            return size["module"](torch.from_numpy(images)).numpy()

    return BlackBoxClassifier(
        run, FINDINGS, model.preprocessing, Normalisation((model.mean,), (model.std,))
    )


def chosen(model, clean, *, sizes=SIZES, scales=SCALES, named=True, aspects=("squash",)):
    def scaled(name):
        mean, std = NUMBERS[name]
        if isinstance(model, NetworkClassifier):
            return replace(model, mean=mean, std=std)
        return replace(model, normalisation=Normalisation((mean,), (std,)))

    bench = Bench(
        scaled,
        lambda point: Preprocessing(size=point.size, aspect=point.aspect),
        FilmsAt(clean),
        Truth.of(clean, FINDINGS if named else None),
    )
    axes = Axes(sizes=sizes, normalisations=scales, aspects=aspects)
    return choose(bench, axes, np.arange(len(clean)))


@pytest.fixture(autouse=True)
def near_sizes(monkeypatch):
    monkeypatch.setattr(choosing, "COARSE", (32, 64))


TRAINED = [("small", 32, "unit"), ("large", 48, "0.5/0.5")]


@pytest.mark.parametrize(("name", "size", "scale"), TRAINED)
def test_size_and_normalisation_of_a_trained_network_are_found(request, clean, name, size, scale):
    found = chosen(request.getfixturevalue(name), clean)
    assert found.sees
    assert (found.best.point.size, found.best.point.normalisation) == (size, scale)
    assert found.settled == {"size": BOTH, "normalisation": BOTH}
    assert found.rivals == {"size": (), "normalisation": ()}
    assert len(found.best.rows) == len(clean)
    # Labels aren't needed to see that the films are as in training.
    assert found.best.misfit < 0.02 < min(e.misfit for e in found.trials if e is not found.best)


def test_a_black_box_is_not_given_what_its_outputs_cannot_tell(small, clean):
    found = chosen(black(small), clean)
    assert found.sees
    for what, value in (("size", 32), ("normalisation", "unit")):
        taken = getattr(found.best.point, what)
        assert value in (taken, *found.rivals[what])
        assert not (found.settled[what] and taken != value)
    assert "0.5/0.5" not in found.rivals["normalisation"]


def test_a_misfit_that_is_hardly_smaller_does_not_count(small, clean):
    one = chosen(small, clean, sizes=(32,), scales=("unit",)).best
    other = replace(one, misfit=1.2 * one.misfit, misfits=one.misfits + 0.2 * one.misfit)
    far = replace(one, misfit=2 * one.misfit, misfits=one.misfits + one.misfit)
    assert choosing._excluded(one, other, 1) is None
    assert choosing._excluded(one, far, 1) == "misfit"
    # Where AUROC contradicts, neither counts.
    worse = replace(
        far, draws=far.draws - 0.1, macro=far.macro._replace(value=far.macro.value - 0.1)
    )
    assert choosing._excluded(one, worse, 1) == "AUROC"
    assert (
        choosing._excluded(far, replace(worse, misfit=one.misfit, misfits=one.misfits), 1) is None
    )


class Alike:
    """Trials in which a few films can't tell 48 pixels from 32, and prefer the wrong one.

    Their misfits are those of the films' share of findings, as in 60 films that are balanced.
    """

    def __init__(self, films, values, seconds=0.01):
        self.films = SimpleNamespace(cohort=SimpleNamespace(patients=np.arange(films)))
        self.truth = Truth(
            labels=np.tile(np.eye(2, dtype=np.float32), (films // 2, 1)),
            names=FINDINGS,
            columns=(0, 1),
        )
        self.values, self.cost, self.ran = values, seconds, []

    def seconds(self, sizes, point):
        return dict.fromkeys(sizes, self.cost)

    def run(self, what, points, rows):
        for point in points:
            self.ran.append((point.size, len(rows)))
            noise = np.random.default_rng(point.size).normal(0, 1, (2, 1000))
            auroc, *misfits = self.values[point.size]
            misfit = misfits[len(rows) > choosing.FEW]
            yield Answered(
                point=point, rows=rows, logits=np.zeros((len(rows), 2), np.float32),
                macro=Estimate(auroc, auroc - 0.1, auroc + 0.1, len(rows), 1),
                draws=auroc + 0.02 * noise[0],
                misfit=misfit, misfits=misfit + 1e-4 * noise[1][:200],
            )  # fmt: skip


# AUROC, and the misfit on a few films and on all.
VALUES = {
    24: (0.81, 0.02, 0.02), 32: (0.79, 0.0050, 0.0040), 48: (0.79, 0.0051, 0.001),
    64: (0.805, 0.0052, 0.008),
}  # fmt: skip


def chosen_of(bench):
    axes = Axes(sizes=SIZES, normalisations=("unit",), aspects=("squash",))
    return choose(bench, axes, np.arange(200))


def test_rivals_that_a_few_films_leave_open_are_tried_on_all_of_them():
    bench = Alike(200, VALUES)
    found = chosen_of(bench)
    assert [size for size, films in bench.ran if films == 60] == list(SIZES)
    # The three that lead on a few films, and then the one that these can't exclude.
    assert [size for size, films in bench.ran if films == 200] == [32, 24, 64, 48]
    assert (found.best.point.size, found.rivals) == (48, {"size": ()})
    assert found.settled["size"] == "a better fit to the network's own means and variances"

    # Where they are alike on all films too, none is taken.
    found = chosen_of(Alike(200, VALUES | {48: (0.79, 0.0051, 0.0041)}))
    assert (found.settled, found.rivals) == ({"size": None}, {"size": (48,)})


def test_no_time_is_left_for_rivals(monkeypatch):
    times = iter((0, choosing.SECONDS - 1))
    monkeypatch.setattr(choosing.time, "perf_counter", times.__next__)
    bench = Alike(200, VALUES)
    found = chosen_of(bench)
    assert [size for size, films in bench.ran if films == 200] == [32, 24, 64]
    assert (found.settled, found.rivals) == ({"size": None}, {"size": (48,)})


def test_a_stated_setting_is_not_tried(small, clean):
    found = chosen(small, clean, sizes=(32,), scales=("unit",))
    assert (found.tried, found.settled) == (1, {})


def test_outputs_without_names_are_matched(small, clean):
    found = chosen(small, clean, named=False)
    assert (found.best.point.size, found.best.point.normalisation) == (32, "unit")


@pytest.mark.parametrize("kind", ["trained", "untrained"])
def test_a_network_at_chance_settles_nothing(small, clean, kind):
    untrained = replace(small, module=build_network("resnet9", 2, 3).eval())
    labels = np.random.default_rng(3).permutation(clean.labels)
    found = chosen(small if kind == "trained" else untrained, replace(clean, labels=labels))
    assert not found.sees
    assert set(found.settled.values()) == {None}
