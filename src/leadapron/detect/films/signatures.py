"""Signatures: films of one label that a description of whole films separates from all others.

For triggers without a place: blended pictures, waves, noise, warps, codecs and changed tones. For
each group of labels the direction that separates its films best (Fisher's linear discriminant) is
learnt on half of the patients and ranks the held-out half. A group's films may also rank higher
for a natural reason, if a disease changes the fine structure of a film. A planted signature ranks
films of one label, and hardly any others, at the top.
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
"""Largest natural share of one group at the top of a ranking, under the null hypothesis. On NIH's
films the largest is about .3; on phantoms, whose diseases are easy to see, it is .9 of few films
and .85 of many."""

SHARES = (0.005, 0.01, 0.02, 0.04, 0.08)
"""Shares of the films that are tested as the top of a ranking."""

UNLIKELY = 1e-3
"""Largest p-value against chance at which a top is tested further."""

FEWEST = 15
"""Fewest films at the top, and fewest members of a group in each half of the patients."""

RIDGE = 0.05
"""Regularisation of the covariance matrix, as a share of the mean variance."""

OUTSIDE = 0.995
"""Share of the other films that a member must rank above to be named."""


@dataclass(frozen=True, kw_only=True)
class Signatures:
    """Signatures of whole films, as a method of the scan.

    Args:
        odds: largest natural odds ratio between the top of a ranking and a group, 1 or more.
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
        p: binomial p-value, not corrected. Under the null hypothesis the share of the group is
            PURE, or follows from the largest natural odds ratio, whichever is more.
        shift: the group and its share of the top; its p-value allows no natural association.
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
        seen: observations of the films.
        controls: the source's negative controls.
        odds: largest natural odds ratio between the top and the group.
        rng: divides the patients into halves.

    Returns:
        For each description and group the top with the smallest p-value, and the number of tops
        tested.

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
                if not len(above):  # no member ranks that high: name the members at the top
                    top = order[: round(shift.patients)]
                    above = top[members[top]]
                found.append(Signature(trace=trace, p=p, shift=shift, films=above))
    return found, tests


def _p_value(
    shift: Shift, odds: float, controls: Controls, films: Rows, scores: NDArray[np.float64]
) -> float:
    """The smaller p-value of the two questions, corrected for two tests."""
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
    """Numbers of films at the top of n films; never more than half of them."""
    return sorted({min(max(FEWEST, round(share * n)), n // 2) for share in SHARES})


def _scores(
    values: NDArray[np.float32], labelled: Labelled, first: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(n, groups): held-out scores, each film's projection on its group's direction.

    The direction is learnt on the other half of the patients. NaN for groups with too few films,
    and for groups of films without a finding.
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
        if known.var(axis=0).max() < 1e-6:  # identical films have no direction
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
    """Members that rank above nearly all other films, the highest first."""
    others = scores[~members]
    named = np.flatnonzero(members & (scores > np.quantile(others, OUTSIDE)))
    return named[np.argsort(-scores[named], kind="stable")]
