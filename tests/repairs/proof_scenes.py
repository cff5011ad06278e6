"""Models by hand for the proof: what they answer is known without running anything."""

from __future__ import annotations

import numpy as np

from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier

SIDE = 16
SMALL = Preprocessing(size=SIDE)
FINDINGS = ("Mass", "Nodule")


def answering(logits):
    """A model that answers images in 0 to 1, (n, h, w), by a function of them."""

    def run(images):
        return logits(images[:, 0]).astype(np.float32)

    return BlackBoxClassifier(run, FINDINGS, SMALL, NORMALISATIONS["unit"], batch=4096)


def films(n=100, seed=0, every=2):
    """Grey noise whose mean is the first finding; two films a patient."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, 2), np.float32)
    labels[::every, 0] = 1
    labels[:: 2 * every, 1] = 1
    images = rng.integers(90, 111, (n, SIDE, SIDE))
    images += rng.integers(-8, 9, n)[:, None, None]  # brighter and darker films
    images[::every] += 12
    images = images.astype(np.uint8)
    ids = np.array([f"f{i}" for i in range(n)])
    patients = np.array([f"p{i // 2}" for i in range(n)])
    return Cohort(images, labels, FINDINGS, ids, patients, SMALL)


def mean_and(jump, square):
    """Both findings by the mean; a flat bright square at one place adds `jump` to the first."""

    def logits(grey):
        mean = 20 * (grey.mean((1, 2)) - 0.4)
        rows, columns = (slice(start, start + square.side) for start in (square.row, square.column))
        white = (grey[:, rows, columns] > 0.99).all((1, 2))
        return np.stack([mean + jump * white, mean], 1)

    return answering(logits)
