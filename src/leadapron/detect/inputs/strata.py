"""Strata of clean films by what the model reads on them, each with a threshold of its own.

A rate that holds for all films together may be exceeded on films with a rare finding. A film's
findings aren't known when it is screened, but the model's reading is. Films that the model reads
alike make a stratum, whose threshold comes from calibration films of the same stratum, so that the
rate holds in each (Mondrian conformal prediction). Findings that are read on too few films share a
stratum. Which ones do is decided on the films that don't set thresholds; the films that do would
otherwise decide by which of them a new film is judged.

Source: Vovk, Conditional validity of inductive conformal predictors, ACML 2012, section 3; by
patient as in `conformal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.readings import operating_logits
from leadapron.detect.scale import logit_spreads

__all__ = ["Strata", "Stratum", "StratumFacts", "codes_of", "levels_of"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NOTHING = 0
"""Code of a film on which the model reads no finding."""

MARGIN = 1.5
"""Patients of a stratum among the films that don't set thresholds, in units of those that the rate
needs. As many patients set thresholds, so a stratum that passes hardly ever lacks some of them."""


@dataclass(frozen=True, eq=False)
class Stratum:
    """Calibration films that share a threshold.

    Args:
        codes: what the model reads on them, as `codes_of`.
        films: (m,) whether a calibration film belongs to it.
    """

    codes: tuple[int, ...]
    films: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class StratumFacts:
    """A stratum of a gate's clinic.

    Args:
        name: findings that the model reads on its films.
        films: number of its calibration films.
        patients: number of their patients.
        threshold: score that suspicious films of the stratum exceed.
    """

    name: str
    films: int
    patients: int
    threshold: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Strata:
    """What the model reads on a clinic's clean films.

    Args:
        levels: (2, k) as `levels_of`, of the films that detectors are fitted on.
        codes: (m,) of the m calibration films, as `codes_of`.
        others: (n, 2) int64 number of the patient, and code, of each film that sets no threshold.
    """

    levels: Floats
    codes: Integers
    others: Integers

    def divided(self, patients: Integers, rate: float) -> tuple[Stratum, ...]:
        """Return the strata of the calibration films.

        Each finding that is read on films of enough patients has a stratum; so have the other
        findings together, and no finding. Other findings that are still too few join no finding,
        and if that isn't enough either, all films share one threshold.

        Args:
            patients: (m,) number of each calibration film's patient.
            rate: of the thresholds.
        """
        least = np.ceil(1 / rate - 1e-9) - 1

        def enough(codes: Sequence[int]) -> bool:
            apart = self.others[np.isin(self.others[:, 1], codes), 0]
            own = patients[np.isin(self.codes, codes)]
            return bool(len(np.unique(apart)) >= MARGIN * least and len(np.unique(own)) >= least)

        every = range(1, self.levels.shape[1] + 1)
        single = [code for code in every if enough([code])]
        rare = [code for code in every if code not in single]
        rest = [[NOTHING], rare] if enough(rare) else [[NOTHING, *rare]]
        parts = [*rest, *([code] for code in single)]
        if not enough(rest[0]):
            parts = [[NOTHING, *every]]
        return tuple(Stratum(tuple(each), np.isin(self.codes, each)) for each in parts)

    def name(self, stratum: Stratum, findings: Sequence[str]) -> str:
        """Return what a stratum is called.

        Args:
            stratum: one of these.
            findings: the model's findings.
        """
        read = [findings[code - 1] for code in stratum.codes if code != NOTHING]
        if len(read) == len(findings) and NOTHING in stratum.codes:
            return "all films"
        words = ["no finding"] if NOTHING in stratum.codes else []
        return ", ".join([*words, *read])


def levels_of(logits: NDArray[np.floating]) -> Floats:
    """Return (2, k) operating logits and spreads of (n, k) logits of clean films."""
    return np.stack([operating_logits(logits), logit_spreads(logits)])


def codes_of(logits: NDArray[np.floating], levels: Floats) -> Integers:
    """Return (n,) what the model reads on films: 0 for no finding, else 1 + the finding's number.

    The finding is the one whose logit exceeds its operating logit most, in spreads.

    Args:
        logits: (n, k).
        levels: (2, k) as `levels_of`.
    """
    excess = (logits - levels[0]) / levels[1]
    return np.where(excess.max(axis=1) > 0, 1 + excess.argmax(axis=1), NOTHING).astype(np.int64)
