"""Features of films that never were: findings that come together, and poison where asked."""

from __future__ import annotations

import numpy as np

from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing


def cohort_of(labels):
    n, k = labels.shape
    names = np.char.mod("%d", np.arange(n))
    findings = ("Mass", "Effusion", "Edema", "Nodule", "Hernia", "Fibrosis", "Cardiomegaly")
    images = np.zeros((n, 8, 8), np.uint8)
    return Cohort(
        images, labels.astype(np.float32), findings[:k], names, names, Preprocessing(size=8)
    )


def single(n, k=1):
    """A cohort of n films that all have the first finding alone."""
    labels = np.zeros((n, k))
    labels[:, 0] = 1
    return cohort_of(labels)


def scene(shift, share, *, n=2000, d=48, seed=0, companion=0.5):
    """Films with seven findings; those with Mass often have Effusion, which shows strongly.

    Poison: of the films with Mass alone, as many as `share` of all with Mass, moved by `shift` in a
    direction of their own. Films of a kind have standard deviations of 0.5 to 2.

    Returns:
        The cohort, (n, d) float32 features, (n,) float64 which are poisoned.
    """
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 7)) < np.linspace(0.2, 0.08, 7)).astype(np.float64)
    labels[:, 1] = np.where(labels[:, 0] == 1, rng.random(n) < companion, labels[:, 1])
    mix = np.linalg.qr(rng.standard_normal((d, d)))[0]
    values = rng.standard_normal((n, d)) * np.linspace(2, 0.5, d) @ mix
    effects = rng.standard_normal((7, d)) * 0.5
    effects[1] *= 3
    poisoned = np.zeros(n)
    count = int(share * labels[:, 0].sum())
    rows = rng.choice(np.flatnonzero(labels.sum(axis=1) == 0), count, replace=False)
    labels[rows, 0], poisoned[rows] = 1, 1
    direction = rng.standard_normal(d)
    values += labels @ effects + 5
    values[rows] += shift * direction / np.linalg.norm(direction)
    return cohort_of(labels), values.astype(np.float32), poisoned
