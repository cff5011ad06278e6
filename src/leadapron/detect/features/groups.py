"""Groups of films that are compared with one another, and how their scores become one."""

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
"""Films that a group has at least, unless another number is asked for."""

COMPANIONS = 10
"""Films with another finding, and without it, from which on its effect is taken out."""


@dataclass(frozen=True, eq=False)
class Group:
    """Films that share a finding, or have none.

    Args:
        name: the finding, or "no finding".
        finding: the finding; None for the films without any.
        rows: (m,) ascending.
    """

    name: str
    finding: str | None
    rows: Rows


def check_least(least: int) -> None:
    """Raise UsageError where a group would have fewer than 10 films."""
    if least < 10:
        raise UsageError(f"groups of {least} films and more; expected 10 or more")


def divide(cohort: Cohort, least: int, method: str) -> tuple[list[Group], tuple[str, ...]]:
    """Return the groups of `least` films and more, and a sentence for each that is smaller.

    A film is in the group of every finding that is stated present. One with none stated present
    and at least one stated absent is in "no finding". One with nothing stated is in no group: the
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
        f"{group.name}: {len(group.rows)} films, too few for {method}; at least {least}"
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
        method: its name, for the sentences.
        score: gives (m,) scores of a group, comparable across groups.

    Returns:
        (n,) scores, NaN for films in no group, and a sentence for each group that was left out.

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
    """Return (m, d) features of a group, less their mean and less what other findings add.

    Films with Effusion differ most by what else they have. So within the group the mean effect of
    every other finding is fitted by least squares and taken out, wherever 10 films have it and 10
    have not; labels that aren't stated count as absent. In a group whose films have nothing else
    this is the centring that the papers ask for.
    """
    values: NDArray[np.float32] = features.values[group.rows]
    values -= values.mean(axis=0, dtype=np.float64).astype(np.float32)
    others = (cohort.labels[group.rows] == 1).astype(np.float64)
    counts = others.sum(axis=0)
    others = others[:, (counts >= COMPANIONS) & (len(values) - counts >= COMPANIONS)]
    if others.shape[1]:
        others -= others.mean(axis=0)
        # Findings that always come together leave no unique answer; any one will do.
        effects = np.linalg.pinv(others.T @ others, hermitian=True) @ (others.T @ values)
        values -= (others @ effects).astype(np.float32)
    return values


def robust_z(values: Floats) -> Floats:
    """Return deviations from the median in units of the standard deviation, as the MAD tells it.

    Where more than half of the values are equal, the mean absolute deviation takes its place;
    where all are, all are 0.
    """
    if not len(values):
        return values
    away = values - np.median(values)
    scale = float(mad_spread(values))
    if scale <= 1e-12 * float(np.abs(away).max(initial=0.0)):
        scale = float(np.sqrt(np.pi / 2) * np.abs(away).mean())
    return away / scale if scale > 0 else np.zeros_like(away)
