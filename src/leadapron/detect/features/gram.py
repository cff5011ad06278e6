"""Films with unusual correlations between channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.features.extraction import Features
from leadapron.detect.features.groups import LEAST, Floats, Group, by_group, check_least, robust_z
from leadapron.detect.scores import Scores
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort, blocks
from leadapron.seeds import stream

__all__ = ["Beatrix", "gram_deviations", "gram_powers"]

REFERENCE = 2000
"""Most films of a group used for its medians."""


@dataclass(frozen=True, kw_only=True)
class Beatrix:
    """Films whose Gram matrices of the last map's channels are outside the group's usual range.

    Args:
        powers: highest power of the activations; all powers from 1 are used.
        width: half-width of the usual range around the median, in MADs.
        least: films that a group has at least, 10 or more.
        seed: seed of the films used for the medians, 0 or more.

    Raises:
        UsageError: a value outside its range.

    Source: Ma et al., The Beatrix Resurrections, NDSS 2023, arXiv 2209.11715: Gram matrices of
    powers 1 to 8, deviations from median -/+ 10 MAD, for each class. We differ: medians come from
    the suspicious films themselves (theirs from 30 clean ones a class), so poison in half of a
    group isn't detected; the layer is the last map, with the channels that `extract` keeps; scores
    are robust z-scores within the group. Their verdict on classes, a regularised MMD between a
    class's suspicious and clean films, is left out: it needs clean films, and parts of a group that
    were divided by score differ by construction.
    """

    powers: int = 8
    width: float = 10.0
    least: int = LEAST
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self.least)
        if not 1 <= self.powers <= 16 or self.width <= 0:
            raise UsageError(
                f"powers {self.powers}, width {self.width}; expected 1 to 16, and above 0"
            )

    def score(self, cohort: Cohort, features: Features) -> Scores:
        """Return (n,) robust z-scores of the deviation, the highest of a film's groups.

        Raises:
            UsageError: the activations weren't kept.
        """
        activations = features.activations
        if activations is None:
            raise UsageError("Beatrix needs activations; extract features with channels above 0")

        def group_scores(group: Group) -> Floats:
            rng = stream(self.seed, "beatrix", group.name)
            some = activations[group.rows]
            return robust_z(gram_deviations(some, self.powers, self.width, rng))

        values, notes = by_group(cohort, features, self.least, "Beatrix", group_scores)
        unit = "standard deviations from the group's median, by its MAD"
        return Scores(values, unit, notes=notes)


def gram_deviations(
    activations: NDArray[Any], powers: int, width: float, rng: np.random.Generator
) -> Floats:
    """Return (m,) mean relative deviations of (m, c, s) activations from their usual range.

    An entry g of a Gram matrix with range low to high adds (low - g) / |low| if below, (g - high) /
    |high| if above, and 0 if inside.
    """
    # Powers would overflow; deviations are relative, so the scale doesn't matter.
    scaled = activations / max(float(np.abs(activations).max()), 1e-300)
    reference = np.sort(rng.permutation(len(scaled))[:REFERENCE])
    deviations = np.zeros(len(scaled))
    entries = 0
    for power, usual in enumerate(gram_powers(scaled[reference], powers), start=1):
        median = np.median(usual, axis=0)
        spread = width * np.median(np.abs(usual - median), axis=0)
        low, high = median - spread, median + spread
        for rows in blocks(len(scaled)):
            found = _gram(scaled[rows], power)
            below = np.clip(low - found, 0, None) / (np.abs(low) + 1e-6)
            above = np.clip(found - high, 0, None) / (np.abs(high) + 1e-6)
            deviations[rows] += (below + above).sum(axis=1)
        entries += len(median)
    return deviations / entries


def gram_powers(activations: NDArray[Any], powers: int) -> Iterator[Floats]:
    """Yield, for each power from 1 on, (m, c (c + 1) / 2) entries of (m, c, s) activations."""
    for power in range(1, powers + 1):
        yield _gram(activations, power)


def _gram(activations: NDArray[Any], power: int) -> Floats:
    """Upper triangles of (F^p F^p')^(1/p), the powers element by element."""
    raised = activations.astype(np.float64) ** power
    product = raised @ raised.transpose(0, 2, 1)
    upper = np.triu_indices(product.shape[1])
    entries = product[:, upper[0], upper[1]]
    rooted: Floats = np.sign(entries) * np.abs(entries) ** (1 / power)
    return rooted
