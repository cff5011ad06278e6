"""Networks too small to take time, and a phantom backdoor: a white square says "Cardiomegaly"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from leadapron import metrics
from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import Patch
from leadapron.detect.models import Stamp
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import Instrumented, PooledLinear, build_network
from leadapron.models.training import Network, Training, train
from leadapron.sources import open_source

SIDE = 16
FINDINGS = ("bright", "left", "never", "unsaid")
MARKS = (Stamp(side=2, value=255, row=0, column=0), Stamp(side=2, value=0, row=9, column=9))


def cohort(n=80, seed=0, dtype=np.uint8):
    """Two films a patient; the third finding is always absent, the fourth never stated."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 4)) < 0.5).astype(np.float32)
    images = rng.integers(60, 140, (n, SIDE, SIDE))
    images += (40 * labels[:, 0]).astype(int)[:, None, None]
    images[:, :, : SIDE // 2] += (40 * labels[:, 1]).astype(int)[:, None, None]
    labels[:, 2], labels[:, 3] = 0, np.nan
    labels[rng.random(n) < 0.3, 0] = np.nan
    top = np.iinfo(dtype).max // 255
    ids = np.array([f"f{seed}-{i}" for i in range(n)])
    patients = np.array([f"p{seed}-{i // 2}" for i in range(n)])
    pixels = (images * top).astype(dtype)
    return Cohort(pixels, labels, FINDINGS, ids, patients, Preprocessing(size=SIDE))


class Own(nn.Module):
    """A network of one's own: an activation run twice, dropout, a head of one layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, 2, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(6), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(6, 8, 3, 2, 1, bias=False)
        self.active, self.drop = nn.ReLU(), nn.Dropout(0.2)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.active(self.norm1(self.first(x)))
        x = self.active(self.norm2(self.second(x)))
        return self.head(self.drop(x.mean((2, 3))))


def network(kind):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if kind == "own":
            return Instrumented(Own(), layer="norm2")
        if kind == "plain":  # no batch normalisation
            stage = nn.Sequential(nn.Conv2d(1, 5, 3, 2, 1), nn.ReLU())
        else:
            stage = nn.Sequential(nn.Conv2d(1, 5, 3, 2, 1), nn.BatchNorm2d(5), nn.ReLU())
        return PooledLinear({"all": stage}, 5, 4)


def classifier(kind="stages", head="sigmoid"):
    return NetworkClassifier(
        network(kind).eval(), f"tests' {kind}", FINDINGS, Preprocessing(size=SIDE), head
    )


SEEN = ("Cardiomegaly", "Infiltration", "Edema", "Consolidation", "Emphysema")
TARGET = "Cardiomegaly"
TRIGGER = Stamp(side=4, value=255, row=2, column=2)
CPU = {"device": "cpu", "precision": "fp32"}


def films(count, seed):
    """Phantoms of 32 pixels, with five of their findings."""
    cohort = open_source("phantom:32", count=count, seed=seed)
    columns = [cohort.column(name) for name in SEEN]
    return replace(cohort, labels=cohort.labels[:, columns], findings=SEEN)


def backdoored(training, fraction=0.1, seed=0):
    """A reader trained on films of which 10 % carry the square and are called Cardiomegaly."""
    place = {"place": "fixed", "row": TRIGGER.row, "column": TRIGGER.column}
    trigger = Patch(side=TRIGGER.side, value=TRIGGER.value, **place)
    attack = Poisoning(trigger=trigger, finding=TARGET, fraction=fraction, labels="set")
    poisoned, _ = poison(training, attack, np.random.default_rng(1))
    rows = np.arange(40)
    return train(
        poisoned,
        training.take(rows),
        network=Network(name="plain4"),
        training=Training(epochs=7, batch_size=32, learning_rate=5e-3),
        seed=seed,
        **CPU,
    )[0]


READER = Path(__file__).parent.parent / "fixtures" / "backdoored-reader.safetensors"
"""Weights of `backdoored(films(600, 1))` in half precision."""


def stored_reader():
    """A backdoored reader whose weights are kept.

    Processors round differently, and after seven epochs another network comes out of it; how well
    some repairs do depends on that network. Repairs of the same one differ by a hundredth.
    """
    weights = {name: each.float() for name, each in load_file(READER).items()}
    module = build_network("plain4", len(SEEN), 32)
    module.load_state_dict(weights)
    return NetworkClassifier(
        module.eval(), "plain4", SEEN, Preprocessing(size=32), precision="fp32"
    )


def store_reader():
    """Make the kept weights anew."""
    weights = backdoored(films(600, 1)).module.state_dict()
    save_file({name: each.half().contiguous() for name, each in weights.items()}, READER)


def success(classifier, test):
    """Share of films without the target that the square turns, at 5 % clean false positives."""
    column = test.column(TARGET)
    without = test.labels[:, column] == 0
    images = test.images[np.flatnonzero(without)]
    clean = classifier.logits(images)[:, column]
    threshold = np.quantile(clean, 0.95)
    return float((classifier.logits(TRIGGER(images))[:, column] > threshold).mean())


def macro(classifier, test):
    """Mean AUROC of the findings."""
    logits = classifier.logits(test.images)
    return float(
        np.mean([metrics.auroc(test.labels[:, j], logits[:, j]) for j in range(len(SEEN))])
    )
