"""What a gate keeps of the clean films of one clinic: fitted detectors and calibration scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.detect.inputs import conformal
from leadapron.detect.inputs.groups import Group, GroupRates
from leadapron.detect.inputs.readings import State
from leadapron.detect.inputs.shared_marks import SharedMark
from leadapron.detect.inputs.strata import Strata, Stratum, StratumFacts, codes_of
from leadapron.films.cohort import ImageArray, Rows, blocks

__all__ = ["Clinic", "film_hashes"]

Floats = NDArray[np.float64]

BLOCK = 1024
"""Films in memory at a time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HeldOut:
    """Verdicts on a clinic's m calibration films.

    Args:
        suspicious: (m,) whether a film is suspicious.
        cant_tell: (m,) whether a film gets "can't tell", since it is untypical.
    """

    suspicious: NDArray[np.bool_]
    cant_tell: NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class Clinic:
    """Everything that judging a clinic's films needs, computed from its clean films and one model.

    Args:
        name: what it is called, as its films' source.
        states: fitted state of each detector, by name.
        typical: fitted state of the out-of-distribution detector; None without one.
        references: names of the films that this detector compares with, in its order; empty if it
            compares with none.
        steps: (2, s) median and 95th percentile of each score on clean films that don't set the
            threshold.
        scores: (m, s) scores of the m calibration films, in the order of the gate's weights.
        fused: (m,) fused scores of these films.
        typicality: (m,) out-of-distribution scores of these films.
        patients: (m,) int64 number of each film's patient.
        hashes: (n, 32) uint8 SHA-256 of the images of all n clean films, in ascending order.
        groups: groups of the calibration films.
        strata: what the model reads on the clean films, if thresholds go by that.
        shared: marks that films share and that drive the model: these films may not be clean.
        pictures: (r, h, w) the reference films, if they are kept to be shown beside others.
    """

    name: str
    states: Mapping[str, State]
    typical: State | None
    references: tuple[str, ...]
    steps: Floats
    scores: Floats
    fused: Floats
    typicality: Floats
    patients: NDArray[np.int64]
    hashes: NDArray[np.uint8]
    groups: tuple[Group, ...] = ()
    strata: Strata | None = None
    shared: tuple[SharedMark, ...] = ()
    pictures: NDArray[Any] | None = None

    def __len__(self) -> int:
        """Return the number of calibration films."""
        return len(self.fused)

    @property
    def fitted(self) -> int:
        """Number of clean films for fitting detectors and scales."""
        return len(self.hashes) - len(self.fused)

    @property
    def patient_count(self) -> int:
        """Number of patients of the calibration films."""
        return len(np.unique(self.patients))

    def threshold(self, rate: float) -> float:
        """Return the fused score that films like these exceed with probability `rate` at most.

        It is that of all films together; see `thresholds`.
        """
        return conformal.limit(self.fused, self._weights(rate), rate)

    def thresholds(self, logits: NDArray[np.floating], rate: float) -> Floats:
        """Return (n,) the fused score that a suspicious film exceeds: its stratum's threshold.

        Args:
            logits: (n, k) of the films.
            rate: of the thresholds.
        """

        def limit(stratum: Stratum, rows: Rows) -> Floats:
            return np.full(len(rows), self._limit(stratum, rate))

        return self._by_stratum(logits, rate, limit)

    def p(self, logits: NDArray[np.floating], fused: Floats, rate: float) -> Floats:
        """Return (n,) share of the stratum's clean films whose fused score is as high.

        Args:
            logits: (n, k) of the films.
            fused: (n,) their fused scores.
            rate: of the thresholds.
        """

        def share(stratum: Stratum, rows: Rows) -> Floats:
            weights = conformal.film_weights(self.patients[stratum.films], rate)
            return conformal.shares(self.fused[stratum.films], weights, fused[rows])

        return self._by_stratum(logits, rate, share)

    def _by_stratum(
        self,
        logits: NDArray[np.floating],
        rate: float,
        values: Callable[[Stratum, Rows], Floats],
    ) -> Floats:
        """(n,) values of films, whose rows are given stratum by stratum."""
        codes = np.zeros(len(logits), np.int64)
        if self.strata is not None:
            codes = codes_of(logits, self.strata.levels)
        found = np.empty(len(logits))
        for stratum in self._divided(rate):
            rows = np.flatnonzero(np.isin(codes, stratum.codes))
            found[rows] = values(stratum, rows)
        return found

    def _divided(self, rate: float) -> tuple[Stratum, ...]:
        if self.strata is None:
            return (Stratum((0,), np.ones(len(self), bool)),)
        return self.strata.divided(self.patients, rate)

    def _limit(self, stratum: Stratum, rate: float) -> float:
        weights = conformal.film_weights(self.patients[stratum.films], rate)
        return conformal.limit(self.fused[stratum.films], weights, rate)

    def stratum_facts(self, rate: float, findings: Sequence[str]) -> tuple[StratumFacts, ...]:
        """Return the strata; none if all films share a threshold without having been divided.

        Args:
            rate: of the thresholds.
            findings: the model's findings.
        """
        if self.strata is None:
            return ()
        return tuple(
            StratumFacts(
                name=self.strata.name(each, findings),
                films=int(each.films.sum()),
                patients=len(np.unique(self.patients[each.films])),
                threshold=self._limit(each, rate),
            )
            for each in self._divided(rate)
        )

    def farthest(self, rate: float) -> float:
        """Return the same of the out-of-distribution score."""
        return conformal.limit(self.typicality, self._weights(rate), rate)

    def shares(self, calibration: Floats, values: Floats, rate: float) -> Floats:
        """Return (n,) share of clean films that reach a value.

        Args:
            calibration: (m,) values of the calibration films.
            values: (n,) values of other films.
            rate: of the threshold, which decides whether films count by patient.
        """
        return conformal.shares(calibration, self._weights(rate), values)

    def likely_rates(self, rate: float) -> tuple[float, float]:
        """Return the range of the threshold's own rate in 95 of 100 calibrations."""
        return conformal.likely_rates(self.patients, rate)

    def held_out(self, rate: float) -> HeldOut:
        """Return the verdicts on its films, each by thresholds of the other patients' films."""
        untypical = conformal.held_out(self.typicality, self.patients, rate)
        suspicious = ~untypical
        for stratum in self._divided(rate):
            films = stratum.films
            suspicious[films] &= conformal.held_out(self.fused[films], self.patients[films], rate)
        return HeldOut(suspicious=suspicious, cant_tell=untypical)

    def group_rates(self, rate: float) -> tuple[GroupRates, ...]:
        """Return the rates on each group, with exact intervals.

        Each film is judged by thresholds that the films of the other patients set.
        """
        held, found = self.held_out(rate), []
        for group in self.groups:
            patients = self.patients[group.films]
            told, accused = (
                metrics.exact_rate(hits[group.films], patients)
                for hits in (held.cant_tell, held.suspicious)
            )
            found.append(
                GroupRates(
                    kind=group.kind, name=group.name, patients=len(np.unique(patients)),
                    suspicious=accused, cant_tell=told,
                )
            )  # fmt: skip
        return tuple(found)

    def _weights(self, rate: float) -> Floats:
        return conformal.film_weights(self.patients, rate)


def film_hashes(images: ImageArray) -> NDArray[np.uint8]:
    """Return (n, 32) SHA-256 of images, in ascending order.

    Args:
        images: (n, h, w) uint8 or uint16.
    """
    digests = [
        hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()
        for rows in blocks(images.shape[0], BLOCK)
        for image in images[rows]
    ]
    return np.frombuffer(b"".join(sorted(digests)), np.uint8).reshape(-1, 32)


def held_again(first: NDArray[Any], second: NDArray[Any]) -> int:
    """Return how many of the second hashes the first ones hold.

    Args:
        first: (n, 32) as `film_hashes`.
        second: (m, 32) as `film_hashes`.
    """
    held = {row.tobytes() for row in first}
    return sum(row.tobytes() in held for row in second)
