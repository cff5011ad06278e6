"""Shifts of labels: do some films' labels differ from the others' beyond a natural association?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.films.cohort import Cohort, Rows

__all__ = ["Counts", "Group", "Labelled", "Shift"]

Direction = Literal["added", "removed", "one-hot", "same labels"]

ATTAINABLE = 1e-3
"""Largest attainable p-value of a group that is tested: that of films that are all in it."""

NEAR = 0.01
"""Binomial p-value below which the exact one is computed. The binomial one treats the other films'
rate as known."""

SHARE = 0.005
"""Smallest share of the films with the same label vector of several findings that forms a group."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Films with the same label: the possible target of a shift.

    Args:
        finding: its name; None for a group of several findings.
        direction: "added" (films with the finding), "removed" (films labelled as without it),
            "one-hot" (films with this finding alone) or "same labels" (one vector of several).
        words: the label that its films have in common.
    """

    finding: str | None
    direction: Direction
    words: str


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The share of a group among some films, compared with the other films.

    Args:
        group: number of the group.
        p: one-sided p-value.
        share: of the films' patients whose films are in the group, 0 to 1.
        expected: the same share among all other films, 0 to 1.
        patients: number of the films' patients.
    """

    group: int
    p: float
    share: float
    expected: float
    patients: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Counts:
    """Some films' labels, counted by group.

    Args:
        hits: (groups,) patients whose films are in the group; a patient counts with the share of
            their films that are in it.
        trials: (groups,) patients whose membership is stated.
        expected: (groups,) share of the group among the other films of their strata, 0 to 1.
        rest: (groups,) number of the other films, converted to patients.
    """

    hits: NDArray[np.float64]
    trials: NDArray[np.int64]
    expected: NDArray[np.float64]
    rest: NDArray[np.float64]

    @property
    def whole(self) -> NDArray[np.int64]:
        """(groups,): `hits`, rounded down."""
        return np.floor(self.hits + 1e-9).astype(np.int64)

    def tail(self, group: int, odds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the p-value of the hits under each natural odds ratio.

        Args:
            group: number of the group.
            odds: (o,) odds ratios, above 0.

        Returns:
            (o,) one-sided p-values by Fisher's noncentral hypergeometric distribution.
        """
        hits, trials = int(self.whole[group]), int(self.trials[group])
        rest, expected = self.rest[group], self.expected[group]
        carriers = hits + max(round(expected * rest), 1)
        everyone = trials + max(round(rest), carriers - hits)
        return _tail(hits, everyone, carriers, trials, odds)

    def shift(self, group: int, p: float) -> Shift:
        """Return a group's counts with a p-value."""
        return Shift(
            group=group,
            p=float(np.clip(p, 0, 1)),
            share=float(self.whole[group] / self.trials[group]),
            expected=float(self.expected[group]),
            patients=int(self.trials[group]),
        )


class Labelled:
    """A cohort's labels, prepared for many tests.

    Films of one patient are not independent, so a patient counts once, with the share of their
    films that are in the group.

    Args:
        cohort: the films; they are compared within strata, by the columns of `STRATA` that it has.
    """

    def __init__(self, cohort: Cohort) -> None:
        self.groups, self.members, self.stated = _groups(cohort.labels, cohort.findings)
        names, self.patients = np.unique(cohort.patients, return_inverse=True)
        self.patient_count = len(names)
        self.strata = _strata(cohort)
        self._inside = self._by_stratum(self.members, np.arange(len(cohort)))
        self._known = self._by_stratum(self.stated, np.arange(len(cohort)))

    def _by_stratum(self, values: NDArray[np.bool_], films: Rows) -> NDArray[np.float64]:
        """(strata, groups): number of some films for which `values` is true."""
        held, strata = values[films], self.strata[films]
        count = int(self.strata.max()) + 1 if len(self.strata) else 0
        return np.stack(
            [held[strata == number].sum(axis=0, dtype=np.float64) for number in range(count)]
        )

    def counts(self, films: Rows) -> Counts:
        """Return the observed and the expected number of some films' patients in each group.

        Args:
            films: (m,) distinct rows, at least one.
        """
        # Sorted by patient, for `reduceat`.
        films = films[np.argsort(self.patients[films], kind="stable")]
        others = self._known - self._by_stratum(self.stated, films)
        theirs = self._inside - self._by_stratum(self.members, films)
        # A continuity correction of 0.5 gives a group without other films a rate above 0.
        rate = ((theirs + 0.5) / (others + 1.0))[self.strata[films]]
        stated = self.stated[films]
        starts = np.flatnonzero(np.diff(self.patients[films], prepend=-1))
        sums = [
            np.add.reduceat(values, starts, axis=0, dtype=np.float64)
            for values in (self.members[films], stated, rate * stated)
        ]
        share, chance = (
            np.divide(each, sums[1], out=np.zeros_like(each), where=sums[1] > 0)
            for each in (sums[0], sums[2])
        )
        trials = (sums[1] > 0).sum(axis=0)
        return Counts(
            hits=share.sum(axis=0),
            trials=trials,
            expected=chance.sum(axis=0) / np.maximum(trials, 1),
            # The number of other films, converted to patients.
            rest=np.maximum(others.sum(axis=0) * self.patient_count / len(self.patients), 1),
        )

    def shifts(self, films: Rows, odds: float, only: int | None = None) -> list[Shift]:
        """Test the films' labels against those of all other films, group by group.

        The null hypothesis allows for a natural association: the odds of being in the group may
        be `odds` times as high as among the comparable films. Groups for which so few films can't
        reach significance are left out (Tarone, Biometrics 46 (1990) 515), so they don't count in
        the correction for multiple tests.

        Args:
            films: (m,) distinct rows.
            odds: largest natural odds ratio, 1 or more; 1 tests for any shift.
            only: number of the only group to test, even if it can't reach significance; all groups
                if left out.

        Returns:
            One for each group that was tested. The p-value is that of Fisher's noncentral
            hypergeometric distribution, with patients in place of films.
        """
        from scipy import stats

        if not len(films) or not self.groups:
            return []
        counts = self.counts(films)
        raised = odds * counts.expected / (1 - counts.expected + odds * counts.expected)
        p = np.asarray(stats.binom.sf(counts.whole - 1, counts.trials, raised))
        tested = (counts.trials > 0) & (raised**counts.trials <= ATTAINABLE)
        numbers = np.flatnonzero(tested) if only is None else np.array([only])
        return [
            counts.shift(
                int(number),
                float(counts.tail(int(number), np.array([odds]))[0])
                if p[number] < NEAR
                else float(p[number]),
            )
            for number in numbers[counts.trials[numbers] > 0]
        ]

    def lopsided(self, films: Rows) -> Shift | None:
        """Return the group whose share among some films most exceeds the others', tested or not."""
        if not len(films) or not self.groups:
            return None
        counts = self.counts(films)
        known = np.flatnonzero(counts.trials)
        shifts = [counts.shift(int(number), float("nan")) for number in known]
        return max(shifts, key=lambda shift: shift.share - shift.expected, default=None)

    def strongest(self, films: Rows, odds: float) -> Shift | None:
        """Return the shift with the smallest p-value, corrected for the number of groups."""
        found = self.shifts(films, odds)
        if not found:
            return None
        best = min(found, key=lambda shift: (shift.p, -shift.share))
        return replace(best, p=min(1.0, best.p * len(found)))


def _tail(
    hits: int, everyone: int, carriers: int, trials: int, odds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One-sided p-values of Fisher's noncentral hypergeometric distribution.

    scipy's survival function is 1 minus the distribution function: below 1e-12 it is noise.
    """
    from scipy import special

    k = np.arange(max(0, trials + carriers - everyone), min(trials, carriers) + 1)
    logs = np.log(odds)[:, None] * k - sum(
        special.gammaln(count + 1.0)
        for count in (k, carriers - k, trials - k, everyone - carriers - trials + k)
    )
    tail = special.logsumexp(logs[:, k >= hits], axis=1) - special.logsumexp(logs, axis=1)
    p: NDArray[np.float64] = np.exp(tail)
    return p


def _groups(
    labels: NDArray[np.float32], findings: Sequence[str]
) -> tuple[list[Group], NDArray[np.bool_], NDArray[np.bool_]]:
    """The groups, and twice (n, groups): whether a film is in them, and whether that is stated."""
    present, stated = labels == 1, ~np.isnan(labels)
    groups, members, known = [], [], []
    for column, finding in enumerate(findings):
        groups.append(Group(finding=finding, direction="added", words=finding))
        members.append(present[:, column])
        known.append(stated[:, column])
        groups.append(Group(finding=finding, direction="removed", words=f"no {finding}"))
        members.append(labels[:, column] == 0)
        known.append(stated[:, column])
    # The present findings are packed as bits, so that equal vectors are one group.
    packed = np.packbits(present, axis=1)
    vectors, inverse, counts = np.unique(packed, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    every = np.ones(len(labels), dtype=np.bool_)
    for number, vector in enumerate(vectors):
        columns = np.flatnonzero(np.unpackbits(vector)[: len(findings)])
        if len(findings) < 2 or not len(columns):
            continue
        if len(columns) > 1 and counts[number] < SHARE * len(labels):
            continue
        names = [findings[int(column)] for column in columns]
        single = len(names) == 1
        groups.append(
            Group(
                finding=names[0] if single else None,
                direction="one-hot" if single else "same labels",
                words=" and ".join(names) + " alone",
            )
        )
        members.append(inverse == number)
        known.append(every)
    shape = (len(labels), len(groups))
    if not groups:
        return [], np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    return groups, np.stack(members, axis=1), np.stack(known, axis=1)


STRATA = ("site", "view", "scanner", "native_size")
"""Columns that define the strata, if a source states them. Someone who changes a film's pixels
can't change these; compression and borders can be changed, so they are left out."""

STRATUM = 50
"""Fewest films of a stratum; rarer values are merged."""


def _strata(cohort: Cohort) -> Rows:
    """(n,) number of each film's site, view, scanner and native size.

    Each column divides the strata of the columns before it; rare values of a stratum are merged.
    """
    strata = np.zeros(len(cohort), dtype=np.int64)
    for name in STRATA:
        if name not in cohort.attributes:
            continue
        column = np.unique(cohort.attributes[name].astype(str), return_inverse=True)[1]
        finer = strata * (int(column.max(initial=0)) + 1) + column
        for stratum in np.unique(strata):
            within = strata == stratum
            values, counts = np.unique(finer[within], return_counts=True)
            rare = values[counts < STRATUM]
            if len(rare):
                finer[within & np.isin(finer, rare)] = rare[0]
        strata = np.unique(finer, return_inverse=True)[1].astype(np.int64)
    return strata
