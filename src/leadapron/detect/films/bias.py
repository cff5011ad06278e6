"""How strongly this source ties marks to labels by nature, learnt from its own marks.

Acquisition ties marks to labels: a detector's defect goes with a ward, a ward with a diagnosis. How
strongly it does so differs between sources more than anything else that a scan must know: hardly at
all in one hospital's archive, by odds of a hundred where each class came from another machine. So a
mark is compared with the other marks of its own source, its negative controls. Their log odds
ratios with a group of films are taken to be normal around 0; the spreads that the controls leave
possible say how far the next innocent mark may go.

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
"""Log odds ratios that nature may have between a mark and a group of films."""

SPREADS = np.geomspace(0.05, 6.0, 25)
"""Standard deviations of the log odds ratios of a source's marks that are thought possible."""

TYPICAL, UNCERTAINTY = 0.4, 0.7
"""Before any control is seen the spread's logarithm is normal around that of the one, with the
other as its standard deviation: one innocent mark in forty goes with a label by odds of three or
more."""

ENOUGH = 50
"""Controls of a mark's own kind from which on those of other kinds aren't asked."""

TRIMMED = 0.02
"""Share of the controls that is left out, those that fit the others worst: a second mark of the
poisoner's must not count as nature."""

RAREST = 1e-4
"""Rates of a group among the other films are taken to be no closer to 0 and to 1."""

_WEIGHTS = np.exp(-0.5 * (LOG_ODDS / SPREADS[:, None]) ** 2)
_WEIGHTS /= _WEIGHTS.sum(axis=1, keepdims=True)
"""(spreads, log odds): how likely each log odds ratio is for each spread."""

_PRIOR = -0.5 * ((np.log(SPREADS) - np.log(TYPICAL)) / UNCERTAINTY) ** 2


@dataclass(frozen=True, eq=False)
class Bias:
    """What a source's controls say of the odds ratio between its next innocent mark and a group.

    Args:
        weights: (101,) chance of each of `LOG_ODDS`; they add up to 1.
        controls: marks of the same kind that it was learnt from.
        others: marks of other kinds, which count for less; 0 where they weren't asked.
    """

    weights: Floats
    controls: int = 0
    others: int = 0

    def expected(self, chances: Floats) -> float:
        """Return the mean of the chances (101,) of something at each of `LOG_ODDS`."""
        return float(chances @ self.weights)

    def below(self, share: float = 0.95) -> float:
        """Return the odds ratio that this share of innocent marks stays below."""
        reached = int(np.searchsorted(np.cumsum(self.weights), share))
        return float(np.exp(LOG_ODDS[min(reached, len(LOG_ODDS) - 1)]))


def profiles(hits: Floats, trials: Floats, expected: Floats) -> Floats:
    """Return the log likelihood of each of `LOG_ODDS`, up to a constant.

    Args:
        hits: (...) patients with a mark whose films are in the group; shares of a patient count.
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
    """Return what controls say.

    Args:
        own: (m, 25) of `evidence_of_spreads`, of controls of the mark's own kind.
        others: (o, 25) of other kinds. Where there are fewer than `ENOUGH` of its own, these count
            together for as many as are missing.
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
    """Without the controls that are least likely at the spread that fits all of them best."""
    cut = int(TRIMMED * len(known))
    if not cut:
        return known
    best = int((known.sum(axis=0) + _PRIOR).argmax())
    # Beside the best that any spread could make of it: a mark on few films is never unlikely.
    unlikely = known.max(axis=1) - known[:, best]
    return known[np.sort(np.argsort(unlikely, kind="stable")[: len(known) - cut])]
