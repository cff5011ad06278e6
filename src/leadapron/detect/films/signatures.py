"""Signatures: films of one label that a description of whole films tells from all others.

For blended pictures, waves, noise, warps, codecs and changed tones, which have no place: for each
group of labels the direction that tells its films best is learnt on half of the patients (Fisher's
linear discriminant) and used to rank the others. Nature ranks a group's films higher too, where a
disease shows in the fine structure of a film. A planted signature puts films of one label, and
hardly any others, at the top.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.method import Films, Found
from leadapron.detect.films.observe import TRACES, Observed
from leadapron.detect.films.shift import Labelled, Shift
from leadapron.detect.films.ties import QUESTIONS, Controls
from leadapron.films.cohort import Rows
from leadapron.seeds import stream

__all__ = ["Signature", "Signatures", "signatures"]

PURE = 0.8
"""The null hypothesis grants nature so large a share of one group at the top of a ranking. On
NIH's films the largest is about .3, on phantoms, whose diseases are easy to see, .9 of few films
and .85 of many."""

SHARES = (0.005, 0.01, 0.02, 0.04, 0.08)
"""Shares of the films that are the top of a ranking."""

UNLIKELY = 1e-3
"""A top that isn't less likely than this by chance alone isn't judged further."""

FEWEST = 15
"""Films at the top, at least; and members of a group in each half, so that it is looked at."""

RIDGE = 0.05
"""Added to the variances, as a share of their mean."""

OUTSIDE = 0.995
"""A member is named where it ranks above this share of the films that are no members."""


@dataclass(frozen=True, kw_only=True)
class Signatures:
    """Signatures of whole films, as a method of the scan.

    Args:
        odds: ratio between the top of a ranking and a group that nature is granted, 1 or more.
    """

    odds: float = 10.0

    def find(self, films: Films) -> Iterator[Found]:
        """Rank the films by each description for each group, and test the tops."""
        rng = stream(films.seed, "signatures")
        signs, tests = signatures(films.seen, films.controls, self.odds, rng)
        for sign in signs:
            yield Found(
                p=min(1.0, sign.p * tests),
                chance=min(1.0, sign.shift.p * tests),
                group=films.labelled.groups[sign.shift.group],
                share=sign.shift.share,
                expected=sign.shift.expected,
                films=np.sort(sign.films),
                what=f"a signature in the films' {sign.trace}",
            )


@dataclass(frozen=True, eq=False)
class Signature:
    """A group at the top of a ranking.

    Args:
        trace: the description that ranks, of `TRACES`.
        p: binomial p-value where nature may have PURE of the top in one group, or the odds that it
            is granted, whichever is more; not corrected.
        shift: the group, and how much of the top is in it; its p-value grants nature nothing.
        films: the group's films above nearly all others, the highest first.
    """

    trace: str
    p: float
    shift: Shift
    films: Rows


def signatures(
    seen: Observed, controls: Controls, odds: float, rng: np.random.Generator
) -> tuple[list[Signature], int]:
    """Rank the films by each description for each group, and test the top.

    Args:
        seen: what was seen of the films.
        controls: what is natural in this source.
        odds: of a top film to be in the group, over those of another, that nature is granted.
        rng: divides the patients in halves.

    Returns:
        For each description and group the top with the smallest p-value, and how many tops were
        tested in all.

    Source: Fisher, Annals of Eugenics 7 (1936) 179.
    """
    labelled = controls.labelled
    half = rng.permutation(labelled.patient_count) % 2
    first = half[labelled.patients] == 0
    found, tests = list[Signature](), 0
    for trace in TRACES:
        scores = _scores(seen.traces[trace], labelled, first)
        for group in np.flatnonzero(~np.isnan(scores).any(axis=0)):
            order = np.argsort(-scores[:, group], kind="stable")
            tops = [
                (_p_value(shift, odds, controls, np.sort(order[:size]), scores[:, group]), shift)
                for size in _sizes(len(order))
                for shift in labelled.shifts(np.sort(order[:size]), 1.0, only=int(group))
            ]
            tests += len(tops)
            if tops:
                p, shift = min(tops, key=lambda each: (each[0], each[1].p))
                members = labelled.members[:, group]
                above = _above(scores[:, group], members)
                if not len(above):  # no member is beyond nearly all others: those at the top
                    top = order[: round(shift.patients)]
                    above = top[members[top]]
                found.append(Signature(trace=trace, p=p, shift=shift, films=above))
    return found, tests


def _p_value(
    shift: Shift, odds: float, controls: Controls, films: Rows, scores: NDArray[np.float64]
) -> float:
    """Of the two questions the smaller p-value, corrected for there being two."""
    from scipy import stats

    if shift.p > UNLIKELY:
        return 1.0
    follows, anatomy = controls.top(shift.group, films, scores, PURE)
    expected = max(shift.expected, follows)
    natural = odds * expected / (1 - expected + odds * expected)
    hits = round(shift.share * shift.patients)
    purity = float(stats.binom.sf(hits - 1, shift.patients, max(PURE, natural)))
    return float(min(1.0, QUESTIONS * np.nanmin([purity, anatomy])))


def _sizes(n: int) -> list[int]:
    """How many films are the top of n; never more than half of them."""
    return sorted({min(max(FEWEST, round(share * n)), n // 2) for share in SHARES})


def _scores(
    values: NDArray[np.float32], labelled: Labelled, first: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(n, groups): how far along its direction each film lies, learnt on the other half.

    NaN for groups with too few films, and for groups of films without a finding.
    """
    scores = np.full((len(values), len(labelled.groups)), np.nan)
    standard = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
    inside = labelled.members & labelled.stated
    outside = ~labelled.members & labelled.stated
    wanted = np.array([group.direction != "removed" for group in labelled.groups], dtype=np.bool_)
    for half in (first, ~first):
        for side in (inside, outside):
            wanted &= side[half].sum(axis=0) >= FEWEST
    groups = np.flatnonzero(wanted)
    if not len(groups):
        return scores
    for half in (first, ~first):
        known = standard[half]
        if known.var(axis=0).max() < 1e-6:  # films that are all alike have no direction
            return np.full_like(scores, np.nan)
        within, without = inside[half][:, groups], outside[half][:, groups]
        difference = known.T @ (
            within / within.sum(axis=0) - without / without.sum(axis=0)
        )  # (d, groups)
        covariance = np.cov(known, rowvar=False, dtype=np.float64).reshape(2 * (known.shape[1],))
        covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        direction = np.linalg.solve(covariance, difference)
        other = standard[~half] @ direction
        centre = np.median(other, axis=0)
        spread = np.median(np.abs(other - centre), axis=0)
        scores[np.ix_(~half, groups)] = (other - centre) / np.maximum(spread, 1e-12)
    return scores


def _above(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> Rows:
    """Members that lie above nearly all films that are none, the highest first."""
    others = scores[~members]
    named = np.flatnonzero(members & (scores > np.quantile(others, OUTSIDE)))
    return named[np.argsort(-scores[named], kind="stable")]
