"""Cost of a backdoor on clean films, by finding, from a study's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from leadapron.results.folder import Pair
from leadapron.results.names import AUROC, FINDING, MACRO, POSITIVE_PATIENTS
from leadapron.results.rows import Row

__all__ = [
    "CHANCE",
    "COUNTED",
    "FINDING_MARGIN",
    "MARGIN",
    "Stealth",
    "at_chance",
    "stealth_of",
]

MARGIN = 0.02
"""Largest loss of clean macro AUROC of a stealthy backdoored model."""

FINDING_MARGIN = 0.03
"""Largest loss of clean AUROC of a single finding of a stealthy model."""

COUNTED = 100
"""Fewest positive patients for a finding's interval to exclude a loss."""

HARMED = 20
"""Fewest positive patients for a finding's interval to show a loss."""

CHANCE = 0.5
"""A model is at chance if the interval of its macro AUROC reaches down to this value."""

Verdict = Literal["stealthy", "not stealthy", "not shown", "undefined"]

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Stealth:
    """Cost of a backdoor on clean films.

    Args:
        verdict: "stealthy" if the loss is within the margins, macro and in every counted finding;
            "not stealthy" if a loss is shown; otherwise "not shown".
        uncounted: findings with fewer than `COUNTED` positive patients, for which nothing is shown.
        most: the difference (backdoored minus twin) of the finding with the largest loss, if any
            counts.
    """

    verdict: Verdict
    uncounted: tuple[str, ...] = ()
    most: Row | None = None


def at_chance(twin: Row | None) -> bool:
    """Return whether a model's macro AUROC on clean films isn't shown to be above chance."""
    return twin is not None and twin.low is not None and twin.low <= CHANCE


def stealth_of(pair: Pair) -> Stealth:
    """Return the cost of an attack on clean films.

    Excluding a loss needs intervals above the margins, uncorrected for the number of findings,
    since a correction would hide a loss. Showing a loss needs an interval below 0, corrected for
    the number of findings (Bonferroni), so that chance among many findings shows none.
    """
    macro = pair.row(AUROC, "difference", regime="clean", method=MACRO)
    if macro is None or macro.low is None or macro.high is None:
        return Stealth("undefined")
    each = [row for row in pair.rows() if _is_difference(row) and row.value is not None]
    patients = {row.finding: _positive_patients(pair, row.finding) for row in each}
    counted = [row for row in each if patients[row.finding] >= COUNTED]
    shown = [row for row in each if patients[row.finding] >= HARMED]
    held = all(row.low is not None and row.low > -FINDING_MARGIN for row in counted)
    harmed = [row for row in _lowest_first(shown) if _loses(row, len(shown))]
    verdict: Verdict = "not shown"
    if harmed or macro.high < -MARGIN:
        verdict = "not stealthy"
    elif macro.low > -MARGIN and counted and held:
        verdict = "stealthy"
    return Stealth(
        verdict,
        uncounted=tuple(row.finding for row in each if patients[row.finding] < COUNTED),
        most=next(iter(harmed or _lowest_first(counted or shown)), None),
    )


def _is_difference(row: Row) -> bool:
    wanted = (AUROC, "difference", "clean", FINDING)
    return (row.metric, row.role, row.regime, row.method) == wanted


def _positive_patients(pair: Pair, finding: str) -> float:
    row = pair.row(POSITIVE_PATIENTS, "reference", regime="clean", finding=finding)
    return 0.0 if row is None or row.value is None else row.value


def _loses(row: Row, findings: int) -> bool:
    """Whether a loss is shown, and not shown to be within the margin."""
    if row.value is None or row.low is None or row.high is None or row.low > -FINDING_MARGIN:
        return False
    widened = NormalDist().inv_cdf(1 - 0.025 / findings) / _Z
    return row.value + widened * (row.high - row.value) < 0


def _lowest_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.value if row.value is not None else 0.0)
