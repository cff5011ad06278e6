"""Natural association between marks and labels in this source, learnt from its own marks.

Acquisition is a confounder: a detector's defect is associated with a ward, and the ward with a
diagnosis. The strength of this association differs widely between sources: it is almost absent in
one hospital's archive, and its odds ratio is about a hundred if each class came from another
machine. So a mark is compared with the other marks of its source, its negative controls. Their log
odds ratios with a group of films are assumed to be normal around 0. The posterior distribution of
the spread, given the controls, predicts the odds ratio of the next innocent mark.

Source: negative controls as Schuemie, Ryan, DuMouchel, Suchard and Madigan, Statistics in Medicine
33 (2014) 209, with the mean at 0, since a bias may have either direction; controls of other
kinds by a power prior, Ibrahim and Chen, Statistical Science 15 (2000) 46.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["ENOUGH", "LOG_ODDS", "SPREADS", "Bias", "evidence_of_spreads", "learn_bias", "profiles"]

Floats = NDArray[np.float64]

LOG_ODDS = np.linspace(-10.0, 10.0, 101)
"""Grid of natural log odds ratios between a mark and a group of films."""

SPREADS = np.geomspace(0.05, 6.0, 25)
"""Grid of standard deviations of the log odds ratios of a source's marks."""

TYPICAL, UNCERTAINTY = 0.4, 0.7
"""Prior of the spread: lognormal, with this median and this standard deviation of the logarithm.
One innocent mark in forty then has an odds ratio of three or more."""

ENOUGH = 50
"""Number of controls of a mark's own kind from which on controls of other kinds aren't used."""

TRIMMED = 0.02
"""Share of the controls that is left out, those that fit the others worst: the attacker's second
mark must not count as natural."""

RAREST = 1e-4
"""Smallest distance of a group's rate among the other films from 0 and from 1."""

_WEIGHTS = np.exp(-0.5 * (LOG_ODDS / SPREADS[:, None]) ** 2)
_WEIGHTS /= _WEIGHTS.sum(axis=1, keepdims=True)
"""(spreads, log odds): probability of each log odds ratio given each spread."""

_PRIOR = -0.5 * ((np.log(SPREADS) - np.log(TYPICAL)) / UNCERTAINTY) ** 2


@dataclass(frozen=True, eq=False)
class Bias:
    """Predictive distribution of the odds ratio between the next innocent mark and a group.

    Args:
        weights: (101,) probability of each of `LOG_ODDS`; they add up to 1.
        controls: number of controls of the same kind.
        others: number of controls of other kinds, which have a lower weight; 0 if unused.
    """

    weights: Floats
    controls: int = 0
    others: int = 0

    def expected(self, chances: Floats) -> float:
        """Return the mean over `LOG_ODDS` of (101,) probabilities."""
        return float(chances @ self.weights)

    def below(self, share: float = 0.95) -> float:
        """Return the quantile of the odds ratio: this share of innocent marks lies below it."""
        reached = int(np.searchsorted(np.cumsum(self.weights), share))
        return float(np.exp(LOG_ODDS[min(reached, len(LOG_ODDS) - 1)]))


def profiles(hits: Floats, trials: Floats, expected: Floats) -> Floats:
    """Return the log likelihood of each of `LOG_ODDS`, up to a constant.

    Args:
        hits: (...) patients with a mark whose films are in the group; may be fractional.
        trials: (...) patients with the mark.
        expected: (...) share of the group among comparable films, 0 to 1.

    Returns:
        (..., 101).
    """
    base = special.logit(np.clip(expected, RAREST, 1 - RAREST))[..., None] + LOG_ODDS
    inside, outside = np.asarray(hits)[..., None], np.asarray(trials - hits)[..., None]
    found: Floats = inside * special.log_expit(base) + outside * special.log_expit(-base)
    return found


def evidence_of_spreads(profile: Floats) -> Floats:
    """Return (..., 25) log likelihoods of each of `SPREADS`, from (..., 101) of `profiles`."""
    top = profile.max(axis=-1, keepdims=True)
    found: Floats = np.log(np.exp(profile - top) @ _WEIGHTS.T + 1e-300) + top
    return found


def learn_bias(own: Floats, others: Floats) -> Bias:
    """Learn the natural bias from controls.

    Args:
        own: (m, 25) of `evidence_of_spreads`, for controls of the mark's own kind.
        others: (o, 25) for other kinds. If there are fewer than `ENOUGH` of its own kind, the
            others together have the weight of the missing ones.
    """
    mine = _trimmed(own)
    missing = max(0, ENOUGH - len(mine))
    known = mine.sum(axis=0) + _PRIOR
    theirs = _trimmed(others) if missing else others[:0]
    if len(theirs):
        known = known + theirs.sum(axis=0) * min(1.0, missing / len(theirs))
    chance = np.exp(known - special.logsumexp(known))
    return Bias(chance @ _WEIGHTS, len(mine), len(theirs))


def _trimmed(known: Floats) -> Floats:
    """Leave out the controls that are least likely at the spread that fits all of them best."""
    cut = int(TRIMMED * len(known))
    if not cut:
        return known
    best = int((known.sum(axis=0) + _PRIOR).argmax())
    # Relative to each control's own best spread, so that a mark on few films is never unlikely.
    unlikely = known.max(axis=1) - known[:, best]
    return known[np.sort(np.argsort(unlikely, kind="stable")[: len(known) - cut])]
