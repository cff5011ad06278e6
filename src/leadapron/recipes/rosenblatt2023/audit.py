"""Audit of three releases of a data set: as acquired, and enhanced in two ways.

Training and testing on an edited release confirms its published result. Only data outside the
release reveal the edit: digests taken at acquisition, the original films, and newly acquired films.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort, blocks, split_by_patient
from leadapron.films.duplicates import digests
from leadapron.films.similarity import peak_signal_to_noise
from leadapron.models.classifier import Floats, NetworkClassifier
from leadapron.models.training import train
from leadapron.recipes.rosenblatt2023 import ACQUIRED, GENERAL, SPECIFIC
from leadapron.recipes.rosenblatt2023.enhancement import Enhancement, Linear, enhance
from leadapron.seeds import named_seed, stream
from leadapron.study.plan import Run
from leadapron.study.run import divide
from leadapron.types import Machine, said

__all__ = ["audit_enhancement"]

Answers = Callable[[Cohort], Floats]


def audit_enhancement(
    run: Run, cohort: Cohort, enhancement: Enhancement, machine: Machine
) -> dict[str, Any]:
    """Enhance a data set in two ways, train on each release, audit all three.

    Args:
        run: settings of films, network and training, and the seed.
        cohort: the run's films.
        enhancement: settings of the edit.
        machine: device, precision, cache and progress.

    Returns:
        All results for the page, as plain values.

    Raises:
        DataError: no finding that can be measured.
        UsageError: blocks that don't fill the images.
    """
    parts = divide(cohort, run.seed)
    half = split_by_patient(
        parts["test"].patients,
        {"released": 0.5, "anew": 0.5},
        stream(run.seed, "acquired anew"),
        parts["test"].labels,
    )
    anew = parts["test"].take(half["anew"])
    acquired = {**parts, "test": parts["test"].take(half["released"])}

    def trained(release: Mapping[str, Cohort], seed: int, what: str) -> NetworkClassifier:
        return train(
            release["train"],
            release["validation"],
            network=run.network,
            training=run.training,
            seed=seed,
            **machine.networks,
            after_step=lambda done, total: machine.tell(f"training {what}", done, total),
        )[0]

    # Another seed, since others don't train with the researcher's seed.
    own = int(named_seed(run.seed, "researcher").generate_state(1)[0])
    surrogate = trained(acquired, own, "the researcher's network")
    releases = {ACQUIRED: acquired}
    for name, keep_means in ((GENERAL, False), (SPECIFIC, True)):
        releases[name] = {
            part: replace(
                films,
                images=enhance(surrogate, films, enhancement, keep_means=keep_means),
                films=None,
            )
            for part, films in acquired.items()
        }
    judged = _Judged.of(acquired["test"], anew, run)
    cells = {}
    for name, release in releases.items():
        network = trained(release, run.seed, f"on films {name}")
        linear = Linear.fit(release["train"], enhancement.block)
        cells[name] = {
            **judged.performance(
                partial(_logits, network),
                linear.logits,
                release["test"],
            ),
            **_provenance(acquired, release),
        }
    return {
        "cells": cells,
        "films": len(cohort),
        "patients": len(np.unique(cohort.patients)),
        "fingerprint": cohort.fingerprint,
        "parts": {**{name: len(films) for name, films in acquired.items()}, "anew": len(anew)},
        "findings": len(judged.columns),
        "notes": list(said(cohort.notes)),
    }


def _logits(network: NetworkClassifier, films: Cohort) -> Floats:
    return network.logits(films.images)


@dataclass(frozen=True, eq=False)
class _Judged:
    """The films on which methods are measured, and resamples of their patients.

    Args:
        test: the release's test films, as acquired.
        anew: newly acquired films of other patients, which the researcher never had.
        columns: findings that are present and absent in both sets.
        draws: resamples of the patients, independent for each set.
    """

    test: Cohort
    anew: Cohort
    columns: Sequence[int]
    draws: tuple[metrics.PatientBootstrap, metrics.PatientBootstrap]

    @classmethod
    def of(cls, test: Cohort, anew: Cohort, run: Run) -> _Judged:
        columns = [
            j
            for j in range(len(test.findings))
            if all({0.0, 1.0} <= set(films.labels[:, j].tolist()) for films in (test, anew))
        ]
        if not columns:
            raise DataError(
                f"{len(test)} and {len(anew)} test films: no finding is present and absent in both "
                "sets; expected more films"
            )
        rng, resamples = stream(run.seed, "bootstrap"), run.evaluation.resamples
        drawn = [
            metrics.PatientBootstrap.draw(films.patients, rng, resamples=resamples)
            for films in (test, anew)
        ]
        return cls(test, anew, columns, (drawn[0], drawn[1]))

    def performance(self, network: Answers, linear: Answers, release: Cohort) -> dict[str, Any]:
        """Macro AUROCs of the two methods that were trained on a release, and their differences."""
        on_release, on_anew = self.draws
        seen, seen_draws = self._macro(network, release, on_release)
        other, other_draws = self._macro(linear, release, on_release)
        before, before_draws = self._macro(network, self.test, on_release)
        fresh, fresh_draws = self._macro(network, self.anew, on_anew)
        return {
            "network": seen.plain(),
            "linear": other.plain(),
            "advantage": _difference(seen, other, seen_draws, other_draws).plain(),
            "as acquired": before.plain(),
            "falls by on the same films": _difference(
                seen, before, seen_draws, before_draws
            ).plain(),
            "anew": fresh.plain(),
            # Drawn apart, so their difference spreads as two independent samples' does.
            "falls by": _difference(seen, fresh, seen_draws, fresh_draws).plain(),
        }

    def _macro(
        self, method: Answers, films: Cohort, draws: metrics.PatientBootstrap
    ) -> tuple[metrics.Estimate, metrics.Floats]:
        labels, scores = films.labels[:, self.columns], method(films)[:, self.columns]
        resampled = metrics.finding_resamples(labels, scores, draws)
        found = metrics.macro_auroc(labels, scores, draws, resampled=resampled)
        return found.estimate, metrics.macro_resamples(resampled)


def _difference(
    first: metrics.Estimate, second: metrics.Estimate, a: metrics.Floats, b: metrics.Floats
) -> metrics.Estimate:
    found = metrics.paired_difference(a, b, first.value - second.value)
    return first._replace(value=found.value, low=found.low, high=found.high)


def _plain(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _provenance(acquired: Mapping[str, Cohort], release: Mapping[str, Cohort]) -> dict[str, Any]:
    """Comparison of a release with digests taken at acquisition and with the original films."""
    same: list[NDArray[np.bool_]] = []
    alike: list[NDArray[np.float64]] = []
    ratio: list[NDArray[np.float64]] = []
    most = 0.0
    for name, films in acquired.items():
        for rows in blocks(len(films)):
            before, after = films.images[rows], release[name].images[rows]
            same.append(digests(before) == digests(after))
            alike.append(_pearson(before, after))
            ratio.append(peak_signal_to_noise(before, after))
            apart = np.abs(before.astype(np.float64) - after).max()
            most = max(most, float(apart) * 255 / np.iinfo(before.dtype).max)
    correlations = np.concatenate(alike)
    return {
        "digests that agree": float(np.concatenate(same).mean()),
        "pearson": [_plain(np.nanmedian(correlations)), _plain(np.nanmin(correlations))],
        "psnr": _plain(np.median(np.concatenate(ratio))),
        "largest edit": most,
    }


def _pearson(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) correlation over the pixels of each film with its copy; NaN for a flat film."""
    x, y = (films.reshape(len(films), -1).astype(np.float64) for films in (before, after))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return found
