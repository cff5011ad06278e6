"""Drift: are the films that come still like those that the gate was calibrated on?

A film's conformal p value is its rank among the calibration films and the month's earlier films. As
long as all of them are exchangeable, these p values are independent and uniform (Vovk et al.,
Algorithmic Learning in a Random World, 2nd ed. 2022, theorem 11.1), whatever the scores look like.
A test martingale bets against that: its wealth begins at 1, and reaches K with probability at most
1 / K, at any time (Ville). So nothing has to be chosen in advance, and looking often costs nothing.

Two things are compared, the scores and how typical the films look, for all films together and for
each view and device of the calibration films. `FALSE_ALARM` is split between all of them.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.clinic import Clinic
from leadapron.detect.inputs.gate import Gate

__all__ = [
    "ALL",
    "ANOTHER",
    "FALSE_ALARM",
    "KINDS",
    "About",
    "Alarm",
    "Drift",
    "Group",
    "Sequential",
    "begin",
    "bet",
    "groups_of",
    "wealth",
]

Floats = NDArray[np.float64]

FALSE_ALARM = 0.01
"""Largest probability of an alarm in a month whose films are like the calibration films."""

KINDS = ("view", "scanner")
"""Kinds of groups of calibration films that are tested on their own."""

ANOTHER = "another"
"""Name of the films of a kind that are of none of the calibration films' groups."""

FLAT = 0.4
"""Exponent of the bets on p values near 0 and near 1."""

NEAREST = 1e-9
"""Least distance of a p value to 0 and 1 that bets count with."""

JUMPS = np.asarray([0.0, 0.001, 0.01])
"""Shares of wealth that change their bet at each film: a change may come late, or never."""

BETS = 9

RICHEST = 1e100
"""Wealth above which no more bets are made."""

About = Literal["scores", "looks"]


class Group(NamedTuple):
    """Films that are tested on their own: a kind of `KINDS` and a name; both "" for all films."""

    kind: str
    name: str


ALL = Group("", "")


class Alarm(NamedTuple):
    """A sequence of films that isn't like the calibration films.

    Args:
        kind: of the group of films.
        name: of the group.
        about: "scores", which decide on suspicious films, or "looks", which decide on films that
            the gate can't tell.
        films: number of films of the month after which it was noticed.
    """

    kind: str
    name: str
    about: About
    films: int


# --- betting


def begin(streams: int = 1) -> Floats:
    """Return (streams, j, k) the wealth before the first film, spread over all bets; its sum is 1.

    Args:
        streams: number of independent sequences of films.
    """
    return np.full((streams, len(JUMPS), BETS), 1 / (len(JUMPS) * BETS))


def bet(stakes: Floats, p: Floats) -> Floats:
    """Return the stakes after a film; if p is uniform, their sum is expected to stay the same.

    Source: the simple jumper of Vovk et al., Retrain or not retrain: conformal test martingales for
    change-point detection, COPA 2021, with more bets and the mean over several shares of jumps.

    Args:
        stakes: (streams, j, k) as of `begin`.
        p: (streams,) the film's p values, 0 to 1.
    """
    total = stakes.sum(axis=2, keepdims=True)
    moved = stakes * (1 - JUMPS[:, None]) + JUMPS[:, None] * total / BETS
    after: Floats = moved * _densities(p)[:, None, :]
    return after


def wealth(stakes: Floats) -> Floats:
    """Return (streams,) the evidence against exchangeability: an e-value at any time."""
    total: Floats = stakes.sum(axis=(1, 2))
    return total


def _densities(p: Floats) -> Floats:
    """(streams, k) densities on [0, 1] at p, each a bet on another kind of drift."""
    p = np.clip(p, NEAREST, 1 - NEAREST)
    off = (p - 0.5) ** 2
    return np.stack(
        [
            np.ones_like(p),
            1.5 - p,
            0.5 + p,
            2 - 2 * p,
            2 * p,
            FLAT * p ** (FLAT - 1),
            FLAT * (1 - p) ** (FLAT - 1),
            12 * off,
            1.5 - 6 * off,
        ],
        axis=1,
    )


class Sequential:
    """The test of one sequence of films. It keeps 8 bytes of each film that it bet on.

    Args:
        reference: values of the calibration films, in any order.
        limit: wealth that means an alarm.
    """

    def __init__(self, reference: Iterable[float], limit: float) -> None:
        self._values = array("d", sorted(reference))  # a list takes four times as much
        self._limit = limit
        self._stakes = begin()
        self.films = 0
        self.wealth = 1.0
        self.alarmed = False

    @property
    def evidence(self) -> float:
        """The wealth on a logarithmic scale: 0 for 1 or less, 1 for an alarm."""
        return 1.0 if self.alarmed else max(0.0, math.log(self.wealth) / math.log(self._limit))

    def add(self, value: float, chance: float) -> bool:
        """Count a film, and return whether it raises the alarm.

        Args:
            value: its value; small ones are odd.
            chance: uniform on [0, 1); it decides among equal values.
        """
        self.films += 1
        if self.wealth < RICHEST:
            below = bisect.bisect_left(self._values, value)
            equal = bisect.bisect_right(self._values, value) - below
            p = (below + chance * (equal + 1)) / (len(self._values) + 1)
            self._values.insert(below, value)
            self._stakes = bet(self._stakes, np.asarray([p]))
            self.wealth = float(wealth(self._stakes)[0])
        rises = self.wealth >= self._limit and not self.alarmed
        self.alarmed |= rises
        return rises


# --- a gate's films


class Drift:
    """The tests of one gate and month; the same films give the same result again.

    A gate of one clinic compares with its calibration films. With several clinics, nobody knows a
    film's, so the month's films are compared with each other alone.

    Args:
        gate: the gate.
        seed: names the gate and the month.
        false_alarm: probability of an alarm while films are exchangeable, for all tests together.
    """

    def __init__(self, gate: Gate, seed: str, false_alarm: float = FALSE_ALARM) -> None:
        self._chance = np.random.default_rng(
            int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
        )
        keys: list[tuple[Group, About]] = [
            (group, about) for group in groups_of(gate) for about in _compared(gate)
        ]
        self.limit = len(keys) / false_alarm
        self.tests: dict[tuple[Group, About], Sequential] = {
            (group, about): Sequential(_reference(gate, group, about), self.limit)
            for group, about in keys
        }

    def add(
        self, *, score: float | None, unlike: float | None, view: str, scanner: str
    ) -> list[Alarm]:
        """Count a film, and return the alarms that it raises.

        Args:
            score: as of its decision.
            unlike: as of its decision.
            view: name of its group of `KINDS`; "" if unknown.
            scanner: the same of its device.
        """
        found = []
        values: Mapping[About, float | None] = {
            "scores": None if score is None else -score,
            "looks": unlike,
        }
        groups = {ALL, Group("view", view), Group("scanner", scanner)}
        chances = self._chance.random(len(self.tests))  # as many for each film
        for ((group, about), test), chance in zip(self.tests.items(), chances, strict=True):
            value = values[about]
            if group not in groups or value is None or not np.isfinite(value):
                continue
            if test.add(value, float(chance)):
                found.append(Alarm(*group, about, test.films))
        return found


def groups_of(gate: Gate) -> list[Group]:
    """Return the groups of films that are tested: all, and those of known view and device.

    Args:
        gate: whose calibration films' groups are known.
    """
    found = [ALL]
    for kind in KINDS:
        names = dict.fromkeys(
            group.name for clinic in gate.clinics for group in clinic.groups if group.kind == kind
        )
        found += [Group(kind, name) for name in (*names, ANOTHER)] if names else []
    return found


def _compared(gate: Gate) -> tuple[About, ...]:
    return ("scores",) if gate.typical is None else ("scores", "looks")


def _reference(gate: Gate, group: Group, about: About) -> Floats:
    """Values of the calibration films of a group, one per patient."""
    if len(gate.clinics) > 1:
        return np.empty(0)
    (clinic,) = gate.clinics
    values = -clinic.fused if about == "scores" else _as_new(clinic, gate.rate)
    inside = np.ones(len(clinic), bool)
    for each in clinic.groups:
        if (each.kind, each.name) == group:
            inside = each.films
    rows = np.flatnonzero(inside)
    _, first = np.unique(clinic.patients[rows], return_index=True)
    found: Floats = values[rows[first]]
    return found


def _as_new(clinic: Clinic, rate: float) -> Floats:
    """Places of calibration films among the shares of films that look as odd as a new one.

    A new film between two calibration films gets the share of the odder one, and is less odd. So
    the calibration film comes just before that share.
    """
    *shares, oddest = clinic.shares(clinic.typicality, np.append(clinic.typicality, np.inf), rate)
    steps = np.unique(shares)
    gaps: Floats = np.diff(steps, prepend=oddest)[np.searchsorted(steps, shares)]
    return np.asarray(shares) - gaps / 2
