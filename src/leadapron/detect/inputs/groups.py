"""Groups of a gate's calibration films (view, sex, age, device, finding) and the rates on each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.documents import Estimated
from leadapron.films.cohort import Cohort, Rows
from leadapron.text import clean as cleaned

__all__ = ["Group", "GroupRates", "groups_of"]

KINDS = ("view", "sex", "age", "site", "scanner")
"""Attributes of films that groups are made of."""

AGES = {"under 18": 0, "18 to 39": 18, "40 to 64": 40, "65 and over": 65}
"""Groups by age, and the first year of each."""

MOST = 12
"""Most groups of a kind, the largest ones."""


NONE = "none"
"""Name of the group of films without any finding."""


@dataclass(frozen=True, eq=False)
class Group:
    """Some of a clinic's m calibration films.

    Args:
        kind: what they have in common, as "view" or "finding".
        name: which, as "AP".
        films: (m,) whether a film belongs to it.
    """

    kind: str
    name: str
    films: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class GroupRates:
    """Rates on a group of calibration films, each judged by the films of other patients.

    Args:
        kind: as `Group`.
        name: as `Group`.
        patients: number of the group's patients.
        suspicious: share called suspicious.
        cant_tell: share that gets "can't tell", since it is untypical.
    """

    kind: str
    name: str
    patients: int
    suspicious: Estimated
    cant_tell: Estimated


def groups_of(clean: Cohort, rows: Rows) -> tuple[Group, ...]:
    """Return the groups of some films by the attributes and findings that are known.

    Args:
        clean: the films, of which an attribute or a label may be unknown.
        rows: which of them.

    Returns:
        The groups of each kind with two groups or more, of each finding that a film has, and of the
        films that are known to have none; a film may be in none or several.
    """
    found: list[Group] = []
    for kind in KINDS:
        if kind in clean.attributes:
            made = list(_of_attribute(kind, clean.attributes[kind][rows]))
            found += made if len(made) > 1 else []
    for column, finding in enumerate(clean.findings):
        if (with_it := clean.labels[rows, column] == 1).any():
            found.append(Group("finding", cleaned(finding), with_it))
    healthy = (clean.labels[rows] == 0).all(axis=1)
    if clean.findings and healthy.any():
        found.append(Group("finding", NONE, healthy))
    return tuple(found)


def _of_attribute(kind: str, values: NDArray[Any]) -> Iterator[Group]:
    if kind == "age":
        years = values.astype(np.float64)
        ends = [*list(AGES.values())[1:], np.inf]
        for (name, first), end in zip(AGES.items(), ends, strict=True):
            if (inside := (years >= first) & (years < end)).any():
                yield Group(kind, name, inside)
        return
    names, films = np.unique(values.astype(np.str_), return_counts=True)
    for name in names[np.argsort(-films, kind="stable")][:MOST]:
        if str(name).strip():
            yield Group(kind, cleaned(str(name)), values.astype(np.str_) == name)
