"""Principal directions, whitening and 2-means with numpy and scipy, with reproducible results."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from numpy.typing import NDArray

__all__ = ["inverse_root", "top_directions", "two_means"]

Floats = NDArray[np.float64]

DENSE = 200
"""Side of a matrix up to which all eigenvectors are computed at once."""

TRIAL = 10
"""Iterations of Lloyd's algorithm before the starts are compared."""

ROUNDS = 300
"""Most iterations of the best start."""


def top_directions(values: NDArray[Any], count: int) -> Floats:
    """Return (d, count) unit directions of largest variance of (m, d) centred values, in order.

    They are eigenvectors of the smaller product of the values with themselves (d x d or m x m). If
    the rank is lower than `count`, there are fewer.
    """
    m, d = values.shape
    count = min(count, m, d)
    product = (values.T @ values if d <= m else values @ values.T).astype(np.float64)
    side = len(product)
    if side <= DENSE or count > side // 4:
        found, vectors = scipy.linalg.eigh(product, subset_by_index=(side - count, side - 1))
    else:
        # A fixed start: scipy's default is random.
        start = np.random.default_rng(0).standard_normal(side)
        found, vectors = scipy.sparse.linalg.eigsh(product, count, v0=start)
    order = np.argsort(-found, kind="stable")
    order = order[found[order] > 1e-6 * max(float(found.max()), 1e-300)]
    vectors = vectors[:, order]
    if d > m:
        vectors = values.T @ vectors
        vectors /= np.linalg.norm(vectors, axis=0)
    return np.asarray(vectors, dtype=np.float64)


def inverse_root(covariance: Floats) -> Floats:
    """Return the symmetric inverse square root, without directions of zero variance."""
    found, vectors = np.linalg.eigh(covariance)
    root = np.where(found > 1e-9 * found.max(initial=1e-290), found, np.inf) ** -0.5
    whitening: Floats = (vectors * root) @ vectors.T
    return whitening


def two_means(
    points: Floats, rng: np.random.Generator, starts: int = 8
) -> tuple[NDArray[np.bool_], Floats]:
    """Divide points in two by Lloyd's algorithm, from several starts in parallel.

    Args:
        points: (m, k).
        rng: draws the starts by k-means++.
        starts: number of starts for a few iterations; the one with the smallest squared distances
            then continues alone.

    Returns:
        (m,) bool, members of the smaller part, and the two centres (2, k), the smaller part's
        first.
    """
    points = points - points.mean(axis=0)
    first = points[rng.integers(len(points), size=starts)]
    away = (points**2).sum(1)[:, None] - 2 * points @ first.T + (first**2).sum(1)  # (m, starts)
    edges = np.cumsum(np.clip(away, 0, None), axis=0)
    drawn = rng.random(starts) * edges[-1]
    second = points[np.minimum((edges < drawn).sum(axis=0), len(points) - 1)]
    # All starts for some iterations, then only the best one to the end.
    inside, first, second = _rounds(points, first, second, TRIAL)
    ours = inside.sum(axis=0)
    between = ours * (first**2).sum(1) + (len(points) - ours) * (second**2).sum(1)
    best = [int(between.argmax())]
    inside, first, second = _rounds(points, first[best], second[best], ROUNDS)
    part, centres = inside[:, 0], np.concatenate([first, second])
    return (part, centres) if 2 * part.sum() <= len(points) else (~part, centres[::-1])


def _rounds(
    points: Floats, first: Floats, second: Floats, most: int
) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """Lloyd's iterations of several starts at once, on centred points."""
    inside = np.zeros((len(points), len(first)), dtype=np.bool_)
    for _ in range(most):
        middle = ((first**2).sum(1) - (second**2).sum(1)) / 2
        before, inside = inside, points @ (first - second).T > middle
        if np.array_equal(before, inside):
            break
        ours = inside.sum(axis=0)
        sums = inside.T.astype(np.float64) @ points  # the other part's sum is the negative
        first = sums / np.maximum(ours, 1)[:, None]
        second = -sums / np.maximum(len(points) - ours, 1)[:, None]
    return inside, first, second
