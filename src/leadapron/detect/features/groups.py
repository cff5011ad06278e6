"""Groups of films that are compared with each other, and the combination of their scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.features.extraction import Features
from leadapron.detect.scale import mad_spread
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort, Rows

__all__ = ["LEAST", "Group", "by_group", "check_least", "divide", "residuals", "robust_z"]

Floats = NDArray[np.float64]

LEAST = 30
"""Default for the fewest films of a group."""

COMPANIONS = 10
"""Fewest films with another finding, and without it, for removing its effect."""


@dataclass(frozen=True, eq=False)
class Group:
    """Films with the same finding, or without any.

    Args:
        name: the finding, or "no finding".
        finding: the finding; None for films without any.
        rows: (m,) ascending.
    """

    name: str
    finding: str | None
    rows: Rows


def check_least(least: int) -> None:
    """Raise UsageError if groups may have fewer than 10 films."""
    if least < 10:
        raise UsageError(f"groups of {least} films and more; expected 10 or more")


def divide(cohort: Cohort, least: int, method: str) -> tuple[list[Group], tuple[str, ...]]:
    """Return the groups of at least `least` films, and a sentence for each smaller one.

    A film is in the group of every finding that is stated present. With none stated present and at
    least one stated absent it is in "no finding". With nothing stated it is in no group, since the
    network learned nothing from it.
    """
    present = cohort.labels == 1
    absent = (cohort.labels == 0).any(axis=1) & ~present.any(axis=1)
    groups = [
        Group(finding, finding, np.flatnonzero(present[:, j]))
        for j, finding in enumerate(cohort.findings)
    ]
    groups.append(Group("no finding", None, np.flatnonzero(absent)))
    notes = tuple(
        f"{group.name}: {len(group.rows)} films are too few for {method}; at least {least}"
        for group in groups
        if len(group.rows) < least
    )
    return [group for group in groups if len(group.rows) >= least], notes


def by_group(
    cohort: Cohort,
    features: Features,
    least: int,
    method: str,
    score: Callable[[Group], Floats],
) -> tuple[Floats, tuple[str, ...]]:
    """Score each group; a film keeps the highest of its groups' scores.

    Args:
        cohort: the films.
        features: of those films.
        least: films that a group has at least.
        method: name of the method, for the sentences.
        score: returns (m,) scores of a group, comparable across groups.

    Returns:
        (n,) scores, NaN for films in no group, and a sentence for each omitted group.

    Raises:
        DataError: features of other films.
    """
    if len(cohort) != len(features.values):
        raise DataError(f"features of {len(features.values)} films for {len(cohort)} films")
    values = np.full(len(cohort), np.nan)
    groups, notes = divide(cohort, least, method)
    for group in groups:
        values[group.rows] = np.fmax(values[group.rows], score(group))
    return values, notes


def residuals(cohort: Cohort, features: Features, group: Group) -> NDArray[np.float32]:
    """Return (m, d) features of a group, minus their mean and the effects of other findings.

    Films with Effusion differ most by their other findings. So within the group the mean effect of
    every other finding is fitted by least squares and removed, if at least 10 films have it and 10
    don't; labels that aren't stated count as absent. In a group without other findings this is the
    centring of the papers.
    """
    values: NDArray[np.float32] = features.values[group.rows]
    values -= values.mean(axis=0, dtype=np.float64).astype(np.float32)
    others = (cohort.labels[group.rows] == 1).astype(np.float64)
    counts = others.sum(axis=0)
    others = others[:, (counts >= COMPANIONS) & (len(values) - counts >= COMPANIONS)]
    if others.shape[1]:
        others -= others.mean(axis=0)
        # Findings that always co-occur have no unique solution; any one is fine.
        effects = np.linalg.pinv(others.T @ others, hermitian=True) @ (others.T @ values)
        values -= (others @ effects).astype(np.float32)
    return values


def robust_z(values: Floats) -> Floats:
    """Return deviations from the median in standard deviations, estimated by the MAD.

    If more than half of the values are equal, the mean absolute deviation is used; if all are, all
    deviations are 0.
    """
    if not len(values):
        return values
    away = values - np.median(values)
    scale = float(mad_spread(values))
    if scale <= 1e-12 * float(np.abs(away).max(initial=0.0)):
        scale = float(np.sqrt(np.pi / 2) * np.abs(away).mean())
    return away / scale if scale > 0 else np.zeros_like(away)
