"""Settings are found where trials can tell them, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import BlackBoxClassifier
from leadapron.models.foreign.recognise import Normalisation
from leadapron.models.inspection import choosing
from leadapron.models.inspection.choosing import Axes, choose
from leadapron.models.inspection.trials import Bench, FilmsAt, Truth
from leadapron.models.networks import build_network

FINDINGS = ("Disc", "Stripes")
SIZES = (24, 32, 48, 64)
SCALES = ("unit", "0.5/0.5", "torchxrayvision")
BOTH = "a higher AUROC or a better fit to the network's own means and variances"
NUMBERS = {"unit": (0.0, 1.0), "0.5/0.5": (0.5, 0.5), "torchxrayvision": (0.5, 1 / 2048)}


def films(n, seed, shape=(96, 96)):
    """Noise with a disc of a certain size, or with stripes of a certain width, or both."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < 0.5).astype(np.float32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    images = rng.normal(110, 14, (n, *shape))
    for row, (disc, stripes) in enumerate(labels):
        cy, cx = rng.uniform(0.3, 0.7, 2) * shape
        # Without the finding there is another disc, and other stripes.
        radius = 14 if disc else 22
        images[row] += 30 * ((y - cy) ** 2 + (x - cx) ** 2 < radius**2)
        images[row] += 16 * np.sin((x + rng.uniform(0, 20)) / (2.2 if stripes else 3.6))
    names = np.array([f"f{i}" for i in range(n)])
    return Cohort(
        np.clip(images, 0, 255).astype(np.uint8), labels, FINDINGS, names,
        np.array([f"p{i // 2}" for i in range(n)]), Preprocessing(size=shape[0]),
    )  # fmt: skip


def trained(size, scale, epochs=4, n=320):
    """A resnet9 that learnt these films at a size and with a normalisation."""
    cohort = films(n, 1)
    mean, std = NUMBERS[scale]
    shape = Preprocessing(size=size)
    model = NetworkClassifier(
        build_network("resnet9", 2, 0), "resnet9", FINDINGS, shape, mean=mean, std=std
    )
    images = FilmsAt(cohort).images(np.arange(n), shape)
    network, rng = model.module.train(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    steps = epochs * (n // 16)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in np.split(rng.permutation(n), n // 16):
            logits = network(model.normalise(torch.from_numpy(images[rows])))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(cohort.labels[rows])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    return model


@pytest.fixture(scope="module")
def small():
    return trained(32, "unit")


@pytest.fixture(scope="module")
def large():
    return trained(48, "0.5/0.5")


@pytest.fixture(scope="module")
def clean():
    return films(120, 2)


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


@pytest.mark.parametrize(("name", "size", "scale"), TRAINED)
def test_a_black_box_is_not_given_what_its_outputs_cannot_tell(request, clean, name, size, scale):
    found = chosen(black(request.getfixturevalue(name)), clean)
    assert found.sees
    for what, value in (("size", size), ("normalisation", scale)):
        taken = getattr(found.best.point, what)
        assert value in (taken, *found.rivals[what])
        assert not (found.settled[what] and taken != value)
    assert "0.5/0.5" not in found.rivals["normalisation"] or scale == "0.5/0.5"


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
