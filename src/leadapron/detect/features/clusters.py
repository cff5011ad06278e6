"""Groups that split into two clusters, one of which may be poisoned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.features.extraction import Features
from leadapron.detect.features.groups import (
    LEAST,
    Floats,
    Group,
    by_group,
    check_least,
    divide,
    residuals,
)
from leadapron.detect.features.linear import inverse_root, top_directions, two_means
from leadapron.detect.scale import mad_spread
from leadapron.detect.scores import Evidence, Scores
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.seeds import stream

__all__ = ["ActivationClustering", "Division", "Parts", "SCAn", "divide_in_two", "untangle"]

SAMPLE = 400
"""Most films of a group used for the mean silhouette."""

NULL_FILMS = 2000
"""Most films of the random groups that give the null distribution."""

NULL_DRAWS = 3

FEWEST_GROUPS = 5
"""Fewest groups among which an outlier can be detected."""

CONFIDENT = float(np.exp(2))
"""Anomaly index above which Tang et al. call a group contaminated."""


class Division(NamedTuple):
    """A group divided in two.

    Args:
        smaller: (m,) bool, members of the smaller part.
        widths: (m,) simplified silhouette, 0 to 1: how much closer a film is to its own part's
            centre than to the other's.
        silhouette: the plain silhouette's mean over up to 400 films.
    """

    smaller: NDArray[np.bool_]
    widths: Floats
    silhouette: float

    @property
    def share(self) -> float:
        """The smaller part's share of the group, 0 to 0.5."""
        return float(self.smaller.mean())


@dataclass(frozen=True, kw_only=True)
class ActivationClustering:
    """Films in the smaller part of a group that 2-means divides unequally.

    A film's score is its silhouette, simplified to centres, positive in the smaller part and
    negative in the larger, times 1 - 2 * (the smaller part's share), since clean groups split into
    halves. A group is evidence if its smaller part is at most `share` of it and the plain
    silhouette reaches `silhouette`.

    Args:
        components: number of principal components.
        reduction: "ica" as in the paper, or "pca".
        share: largest share of the smaller part that is reported.
        silhouette: least mean silhouette of a group that is reported.
        least: fewest films of a group, 10 or more.
        seed: seed of the starting points, 0 or more.

    Raises:
        UsageError: a value outside its range.

    Source: Chen et al., Detecting Backdoor Attacks on Deep Neural Networks by Activation
    Clustering, 2018, arXiv 1811.03728: 10 components of an independent component analysis, two
    means, relative size and silhouette (their thresholds: 0.35 and 0.10 to 0.15). Independent
    components are a rotation of the whitened principal ones, to which 2-means is invariant: "ica"
    whitens without rotating, with the same result. They retrain without a part to judge it; we
    don't. The score of each film is ours.
    """

    components: int = 10
    reduction: Literal["pca", "ica"] = "pca"
    share: float = 0.35
    silhouette: float = 0.15
    least: int = LEAST
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self.least)
        if self.components < 1 or not 0 < self.share <= 0.5 or self.reduction not in ("ica", "pca"):
            raise UsageError(
                f"{self.components} components by {self.reduction}, share {self.share}; expected 1 "
                'or more by "ica" or "pca", and a share above 0 and at most 0.5'
            )

    def score(self, cohort: Cohort, features: Features) -> Scores:
        """Return (n,) signed silhouettes in -1 to 1, the highest of a film's groups."""
        evidence: list[Evidence] = []

        def group_scores(group: Group) -> Floats:
            found = self.group(residuals(cohort, features, group), group.name)
            if 0 < found.share <= self.share and found.silhouette >= self.silhouette:
                evidence.append(
                    _cluster(
                        group,
                        "activation clustering",
                        found.smaller,
                        [f"silhouette {found.silhouette:.2f}"],
                    )
                )
            signed = np.where(found.smaller, found.widths, -found.widths)
            return signed * (1 - 2 * found.share)

        values, notes = by_group(
            cohort, features, self.least, "activation clustering", group_scores
        )
        return Scores(
            values,
            "silhouette in the smaller part, times how unequal the parts are",
            tuple(evidence),
            notes,
        )

    def group(self, values: NDArray[Any], name: str) -> Division:
        """Divide (m, d) centred features in two; `name` selects the group's random stream."""
        whiten = self.reduction == "ica"
        rng = stream(self.seed, "activation clustering", name)
        return divide_in_two(values, self.components, rng, whiten=whiten)


def divide_in_two(
    values: NDArray[Any], components: int, rng: np.random.Generator, *, whiten: bool
) -> Division:
    """Divide (m, d) centred features in two by their principal components, whitened or not."""
    points = (values @ top_directions(values, components)).astype(np.float64)
    if not points.shape[1]:  # all films are equal
        return Division(np.zeros(len(values), np.bool_), np.zeros(len(values)), 0.0)
    if whiten:
        points /= np.maximum(points.std(axis=0), 1e-300)
    smaller, centres = two_means(points, rng)
    away = np.sqrt(((points[:, None] - centres) ** 2).sum(axis=2))  # (m, 2)
    near, far = away.min(axis=1), away.max(axis=1)
    widths = np.divide(far - near, far, out=np.zeros_like(far), where=far > 0)
    some = np.sort(rng.permutation(len(points))[:SAMPLE])
    return Division(smaller, widths, _silhouette(points[some], smaller[some]))


def _silhouette(points: Floats, part: NDArray[np.bool_]) -> float:
    """Mean silhouette of two parts (Rousseeuw 1987); 0 where one is empty."""
    if part.all() or not part.any():
        return 0.0
    squares = (points**2).sum(axis=1)
    away = np.sqrt(np.clip(squares[:, None] + squares - 2 * points @ points.T, 0, None))
    sums = np.stack([away[:, part].sum(axis=1), away[:, ~part].sum(axis=1)])
    sizes = np.array([part.sum(), (~part).sum()])
    own = np.where(part, 0, 1)
    rows = np.arange(len(points))
    inside = sums[own, rows] / np.maximum(sizes[own] - 1, 1)
    outside = sums[1 - own, rows] / sizes[1 - own]
    widths = (outside - inside) / np.maximum(np.maximum(outside, inside), 1e-300)
    return float(np.where(sizes[own] > 1, widths, 0.0).mean())


class Parts(NamedTuple):
    """A group modelled as two normal distributions with a common covariance.

    Args:
        smaller: (m,) bool, members of the smaller part.
        nats: (m,) a film's log-likelihood in the smaller part minus that in the larger.
        ratio: twice the log-likelihood ratio of two parts to one, per film.
    """

    smaller: NDArray[np.bool_]
    nats: Floats
    ratio: float


@dataclass(frozen=True, kw_only=True)
class SCAn:
    """Films of the smaller of two normal distributions in a group.

    Features are modelled as a group's mean plus an error with a covariance common to all groups. A
    group that two means explain much better than one is contaminated. A film's score is the
    log-likelihood ratio, in nats, of the smaller part to the larger; a group is evidence if its
    anomaly index J* = (J - median of J) / (1.4826 MAD of J) passes exp(2).

    Args:
        components: number of principal components of the error.
        least: fewest films of a group, 10 or more.
        seed: seed of the starting points, 0 or more.

    Raises:
        UsageError: a value outside its range.

    Source: Tang et al., Demon in the Variant (SCAn), USENIX Security 2021, arXiv 1908.00686:
    decomposition and untangling by expectation maximisation, likelihood ratio, J*. We differ:
    (1) they estimate the covariances on clean films, which aren't available here, so poison widens
    the common one slightly; (2) `components` instead of all features, since small groups don't
    support more; (3) J is the ratio per film minus its value for as many normal points, since
    2-means divides any group, and small ones more strongly; (4) groups overlap, so the effect of
    other findings is removed first (see `residuals`); (5) J* counts only above the median.
    """

    components: int = 32
    least: int = LEAST
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self.least)
        if self.components < 1:
            raise UsageError(f"{self.components} components; expected 1 or more")

    def score(self, cohort: Cohort, features: Features) -> Scores:
        """Return (n,) nats in favour of the smaller part, the highest of a film's groups."""
        if len(cohort) != len(features.values):
            raise DataError(f"features of {len(features.values)} films for {len(cohort)} films")
        groups, notes = divide(cohort, self.least, "SCAn")
        values = np.full(len(cohort), np.nan)
        if not groups:
            return Scores(values, "nats", notes=notes)
        points, centres = self._reduced(cohort, features, groups)
        means, error = decompose(points, centres)
        whitening = inverse_root(error)
        found, indices = [], []
        for group, some, centre, mean in zip(groups, points, centres, means, strict=True):
            rng = stream(self.seed, "SCAn", group.name)
            parts = untangle((some + centre - mean) @ whitening, rng)
            values[group.rows] = np.fmax(values[group.rows], parts.nats)
            found.append(parts)
            indices.append(parts.ratio - _by_chance(some.shape, rng))
        if len(groups) < FEWEST_GROUPS:
            notes += (
                f"SCAn: {len(groups)} groups are too few to detect an outlier; at least "
                f"{FEWEST_GROUPS}",
            )
            return Scores(values, "nats", notes=notes)
        anomaly = _anomaly(np.array(indices))
        evidence = tuple(
            _cluster(group, "SCAn", parts.smaller, [f"anomaly index {index:.1f}"])
            for group, parts, index in zip(groups, found, anomaly, strict=True)
            if index > CONFIDENT
        )
        return Scores(values, "nats", evidence, notes)

    def _reduced(
        self, cohort: Cohort, features: Features, groups: list[Group]
    ) -> tuple[list[Floats], list[Floats]]:
        """The groups' centred points and their centres, in the error's principal components."""
        overall = features.values.mean(axis=0, dtype=np.float64)
        product = np.zeros((features.values.shape[1],) * 2)
        count = min(self.components, max(sum(len(g.rows) for g in groups) // 10, 1))
        errors = [residuals(cohort, features, group) for group in groups]
        for values in errors:
            product += values.T @ values
        found, directions = np.linalg.eigh(product)
        directions = directions[:, found > 1e-9 * found.max(initial=1e-290)][:, -count:]
        points = [values @ directions for values in errors]
        centres = [
            (features.values[group.rows].mean(axis=0, dtype=np.float64) - overall) @ directions
            for group in groups
        ]
        return points, centres


def decompose(points: list[Floats], centres: list[Floats]) -> tuple[list[Floats], Floats]:
    """Return each group's expected mean, and the common covariance of the error.

    Means are modelled as N(0, between), films as N(mean, error). Covariances and means are
    estimated alternately.

    Args:
        points: for each group (m, k), centred.
        centres: for each group (k,), its films' mean.

    Source: arXiv 1908.00686, section 4.2; Chen et al., Bayesian Face Revisited, ECCV 2012.
    """
    total = sum(len(some) for some in points)
    inside = sum((some.T @ some for some in points), np.zeros((len(centres[0]),) * 2))
    stacked = np.stack(centres)
    error, between = inside / total, stacked.T @ stacked / len(stacked)
    means = centres
    for _ in range(50):
        means = [
            between @ np.linalg.pinv(between + error / len(some), hermitian=True) @ centre
            for some, centre in zip(points, centres, strict=True)
        ]
        stacked = np.stack(means)
        between = stacked.T @ stacked / len(stacked)
        before, error = error, inside / total
        for some, centre, mean in zip(points, centres, means, strict=True):
            error = error + len(some) / total * np.outer(centre - mean, centre - mean)
        if np.linalg.norm(error - before) <= 1e-9 * np.linalg.norm(error):
            break
    return means, error


def untangle(white: Floats, rng: np.random.Generator) -> Parts:
    """Divide points, whitened by the error and centred on the group's mean, into two.

    With a common covariance and hard assignments, expectation maximisation is 2-means on whitened
    points.

    Args:
        white: (m, k).
        rng: draws the starting points.
    """
    smaller, centres = two_means(white, rng)
    middle = white.mean(axis=0)
    one, two = ((white - middle - centre) ** 2 @ np.ones(white.shape[1]) for centre in centres)
    apart = np.where(smaller, one, two)
    return Parts(smaller, (two - one) / 2, float(((white**2).sum(axis=1) - apart).mean()))


def _by_chance(shape: tuple[int, ...], rng: np.random.Generator) -> float:
    """The null value of the ratio per film: that of `untangle` on normal points."""
    films, k = min(shape[0], NULL_FILMS), shape[1]
    draws = [untangle(rng.standard_normal((films, k)), rng).ratio for _ in range(NULL_DRAWS)]
    return float(np.mean(draws))


def _anomaly(values: Floats) -> Floats:
    away: Floats = values - np.median(values)
    return away / max(float(mad_spread(values)), 1e-12)


def _cluster(group: Group, method: str, smaller: NDArray[np.bool_], facts: list[str]) -> Evidence:
    count, share = int(smaller.sum()), 100 * float(smaller.mean())
    words = (
        f"{group.name}: {count} of {len(group.rows)} films ({share:.1f} %) form a separate "
        "cluster in the "
        f"network's features ({', '.join(facts)})."
    )
    return Evidence(
        kind="cluster", method=method, finding=group.finding, films=group.rows[smaller], words=words
    )
