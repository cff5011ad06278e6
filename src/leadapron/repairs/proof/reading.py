"""What a repair costs: every finding's AUROC and sensitivity, before and after, film by film."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.documents import Estimated, Number
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.metrics import FALSE_POSITIVES, Booleans, Difference, PatientBootstrap
from leadapron.models.protocols import BlackBox
from leadapron.repairs.proof.forcing import odds_of
from leadapron.seeds import stream

__all__ = [
    "COUNTED",
    "FINDING_MARGIN",
    "HARMED",
    "LEAST_PATIENTS",
    "MACRO_MARGIN",
    "Claim",
    "ReadFinding",
    "Reading",
    "at_chance",
    "compare_odds",
    "compare_reading",
]

MACRO_MARGIN = 0.01
"""How much macro AUROC a repair may cost."""

FINDING_MARGIN = 0.03
"""How much AUROC of a single finding it may cost."""

COUNTED = 100
"""Patients with a finding from which on its interval can show that nothing is lost."""

HARMED = 20
"""Patients with a finding from which on it can show that something is."""

LEAST_PATIENTS = 3
"""Patients with a finding, and without it, that its AUROC needs."""

RESAMPLES = 1000

Claim = Literal["no harm", "harm", "not shown"]


@dataclass(frozen=True, kw_only=True)
class ReadFinding:
    """How a finding is read, before and after.

    Args:
        finding: its name.
        patients: with the finding.
        before: AUROC of the original.
        after: AUROC of the repaired model.
        change: after minus before.
        low: lower end of its paired 95 % interval, clustered by patient, uncorrected.
        high: the upper end.
        sensitivity_before: at each model's own threshold, which 5 % of these films without the
            finding exceed.
        sensitivity_after: the same of the repaired model.
        sensitivity_change: the difference of both, paired.
    """

    finding: str
    patients: int
    before: Estimated
    after: Estimated
    change: Number
    low: Number
    high: Number
    sensitivity_before: Estimated
    sensitivity_after: Estimated
    sensitivity_change: Estimated


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a repair costs.

    Args:
        findings: with 3 patients who have it and 3 who don't.
        before: macro AUROC of the original, over these findings.
        after: macro AUROC of the repaired model.
        change: after minus before.
        low: lower end of its paired 95 % interval, clustered by patient.
        high: the upper end.
        claim: "no harm" where every finding's lower end is above -.03, with 100 patients who have
            it, and the macro's above -.01; "harm" where a loss is shown; else "not shown".
        paid: the finding whose AUROC fell most, of those with 20 patients where there are any.
    """

    SCHEMA: ClassVar[int] = 1

    findings: tuple[ReadFinding, ...]
    before: Estimated
    after: Estimated
    change: Number
    low: Number
    high: Number
    claim: Claim
    paid: str


def compare_reading(
    original: BlackBox, repaired: BlackBox, films: Cohort, seed: int = 0
) -> Reading:
    """Compare how two models read the same films.

    Args:
        original: the model before.
        repaired: the model after, of the same findings.
        films: that no repair saw, with stated findings.
        seed: of the resamples of patients.

    Raises:
        DataError: no finding with 3 patients who have it and 3 who don't, or answers that aren't
            finite.
    """
    return compare_odds(
        odds_of(original, films.images), odds_of(repaired, films.images), films, seed
    )


def compare_odds(
    before: NDArray[np.float64], after: NDArray[np.float64], films: Cohort, seed: int = 0
) -> Reading:
    """Compare two models' log-odds on the same films.

    Args:
        before: (n, k) of the original.
        after: (n, k) of the repaired model.
        films: n that no repair saw, with these k findings stated.
        seed: of the resamples of patients.

    Raises:
        DataError: no finding with 3 patients who have it and 3 who don't.
    """
    columns = _columns(films)
    labels = films.labels[:, columns]
    bootstrap = PatientBootstrap.draw(
        films.patients, stream(seed, "bootstrap"), resamples=RESAMPLES
    )
    odds = [each[:, columns] for each in (before, after)]
    resampled = [metrics.finding_resamples(labels, each, bootstrap) for each in odds]
    each_before, each_after = (
        metrics.finding_auroc(labels, one, bootstrap, resampled=drawn)
        for one, drawn in zip(odds, resampled, strict=True)
    )
    macro_before, macro_after = (
        metrics.macro_auroc(labels, one, bootstrap, resampled=drawn).estimate
        for one, drawn in zip(odds, resampled, strict=True)
    )
    macro = _change(
        metrics.macro_resamples(resampled[0]),
        metrics.macro_resamples(resampled[1]),
        macro_after.value - macro_before.value,
    )
    found = []
    for place, column in enumerate(columns):
        change = _change(
            resampled[0][place],
            resampled[1][place],
            each_after[place].value - each_before[place].value,
        )
        has = labels[:, place] == 1
        patients = films.patients[has]
        seen = [_seen(one[:, place], labels[:, place]) for one in odds]
        found.append(
            ReadFinding(
                finding=films.findings[column],
                patients=len(np.unique(patients)),
                before=each_before[place],
                after=each_after[place],
                change=change.value,
                low=change.low,
                high=change.high,
                sensitivity_before=metrics.rate(seen[0], patients),
                sensitivity_after=metrics.rate(seen[1], patients),
                sensitivity_change=metrics.rate_difference(seen[1], seen[0], patients),
            )
        )
    shown = [each for each in found if each.patients >= HARMED] or found
    return Reading(
        findings=tuple(found),
        before=macro_before,
        after=macro_after,
        change=macro.value,
        low=macro.low,
        high=macro.high,
        claim=claim_of(found, macro.low, macro.high),
        paid=min(shown, key=lambda each: each.change).finding,
    )


def claim_of(findings: list[ReadFinding], low: float, high: float) -> Claim:
    """Return what may be said of harm.

    That there is none needs uncorrected lower ends: an interval widened for the number of findings
    would hide a loss. That there is some needs an upper end below 0, widened for their number
    (Bonferroni), so that chance among many findings shows none.

    Args:
        findings: each one's change.
        low: lower end of the macro AUROC's change.
        high: its upper end.
    """
    shown = [each for each in findings if each.patients >= HARMED]
    wide = NormalDist().inv_cdf(1 - 0.025 / max(1, len(shown))) / metrics.Z
    if high < -MACRO_MARGIN or any(
        each.low <= -FINDING_MARGIN and each.change + wide * (each.high - each.change) < 0
        for each in shown
    ):
        return "harm"
    held = all(each.patients >= COUNTED and each.low > -FINDING_MARGIN for each in findings)
    return "no harm" if low > -MACRO_MARGIN and held else "not shown"


def at_chance(model: BlackBox, films: Cohort, seed: int = 0) -> metrics.Estimate | None:
    """Return a model's macro AUROC where it isn't shown to be above chance, else None.

    Args:
        model: the model.
        films: clean, with stated findings.
        seed: of the resamples of patients.

    Raises:
        DataError: as `compare_reading`.
    """
    columns = _columns(films)
    bootstrap = PatientBootstrap.draw(films.patients, stream(seed, "chance"), resamples=RESAMPLES)
    odds = odds_of(model, films.images)[:, columns]
    macro = metrics.macro_auroc(films.labels[:, columns], odds, bootstrap).estimate
    return None if macro.low > 0.5 or math.isnan(macro.low) else macro


def _columns(films: Cohort) -> list[int]:
    """Findings that enough patients have, and haven't."""
    labels, patients = films.labels, films.patients
    found = [
        column
        for column in range(labels.shape[1])
        if all(
            len(np.unique(patients[labels[:, column] == stated])) >= LEAST_PATIENTS
            for stated in (0, 1)
        )
    ]
    if not found:
        raise DataError(
            f"no finding has {LEAST_PATIENTS} patients with it and {LEAST_PATIENTS} without it "
            f"among {len(films):,} clean films; add films"
        )
    return found


def _change(before: NDArray[np.float64], after: NDArray[np.float64], observed: float) -> Difference:
    """The paired difference; resamples that all agree leave it as it was observed."""
    change = metrics.paired_difference(after, before, observed)
    return change._replace(low=observed, high=observed) if math.isnan(change.low) else change


def _seen(odds: NDArray[np.float64], labels: NDArray[np.float32]) -> Booleans:
    """Which films with the finding exceed the threshold that 5 % of those without it exceed."""
    at = metrics.threshold_at_false_positive_rate(odds[labels == 0], FALSE_POSITIVES)
    return np.asarray(odds[labels == 1] > at)
