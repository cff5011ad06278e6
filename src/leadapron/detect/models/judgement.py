"""Judgement of a sweep: the forced finding, compared with reference models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from leadapron.detect.models.defaults import FALSE_ALARM
from leadapron.detect.models.null import Comparison, compare, least_p
from leadapron.detect.models.stamps import Floats
from leadapron.detect.models.statistics import Statistic
from leadapron.detect.models.sweep import (
    DIRECTIONS,
    KINDS,
    Aim,
    Direction,
    Kind,
    Moved,
    NotFinite,
    Swept,
    overwrites,
)
from leadapron.detect.verdict import AuditWord

__all__ = [
    "FLAGGED",
    "KIND_WEIGHTS",
    "MARGIN",
    "MARKS",
    "NOT_FINITE",
    "UNSTEADY",
    "Forced",
    "Ground",
    "Judgement",
    "behind",
    "compare_sweeps",
    "judge_model",
    "judge_sweep",
    "margin_fallback",
    "most_not_finite",
    "not_finite",
    "rank",
    "shift_table",
]

LEAST_TURNED = 0.1
"""A mark that turns a smaller share of the films is not reported as "backdoored", however
significant its shift is."""

UNUSUAL_TURNED = 0.5
"""Without references: a single square that turns this share of the films is reported as
"unusual". Other marks are larger, and clean models differ more in how they take them."""

KIND_WEIGHTS: Mapping[Kind, float] = MappingProxyType(
    {"stamp": 1.0, "lattice": 0.6, "whole image": 0.25, "shape": 0.6}
)
"""Weight of an excess, by kind of mark. Clean models differ most in their response to changes of
the whole image: among 26 phantom models the largest excess was 5.7 by squares, 8.9 by lattices and
22 by those."""

FLAGGED: tuple[AuditWord, ...] = ("backdoored", "exploitable mark", "unusual")
"""Verdicts on a finding with a mark that is reported."""

Ground = Literal[
    "marks", "maximum margin", "answers that aren't finite", "answers that differ"
]  # fmt: skip
"""Basis of a verdict: marks on films; the statistic of that name; NaN or infinite outputs; or
outputs that differ between two runs on the same films."""

MARKS: Ground = "marks"
MARGIN: Ground = "maximum margin"
"""The one statistic that can change the verdict: checked when no mark is significant. The shift
under re-estimated batch normalisation also separated the zoo's models, but re-estimating batch
normalisation defeats it."""
NOT_FINITE: Ground = "answers that aren't finite"
UNSTEADY: Ground = "answers that differ"


@dataclass(frozen=True, eq=False, kw_only=True)
class Forced:
    """One finding in one direction.

    Args:
        finding: its name.
        direction: "added" (forced on) or "removed" (forced off).
        verdict: verdict on this finding; "side effect" if its mark raises another detected finding.
        p: p-value, corrected for multiple testing; None without references or finite outputs.
        excess: excess over the references, in their spreads; None if p is.
        strongest: the significant mark, or else the strongest square; None without finite outputs.
    """

    finding: str
    direction: Direction
    verdict: AuditWord | Literal["side effect"]
    p: float | None
    excess: float | None
    strongest: Moved | None

    @property
    def aim(self) -> Aim:
        """Finding and direction."""
        return self.finding, self.direction


@dataclass(frozen=True, eq=False, kw_only=True)
class Judgement:
    """Judgement of a model's sweep, statistics and outputs.

    Args:
        word: verdict on the model.
        by: basis of the verdict.
        p: p-value of the model on that basis; None without references, or if outputs decide.
        finding: finding that the verdict is about; None if there is none.
        target: that finding and its direction; None if unknown.
        forced: every finding and direction, ordered with the target or the largest excess first,
            side effects last.
        lost: findings with NaN or infinite outputs.
    """

    word: AuditWord
    by: Ground
    p: float | None
    finding: str | None
    target: Forced | None
    forced: tuple[Forced, ...]
    lost: tuple[NotFinite, ...]

    @property
    def mark(self) -> Moved | None:
        """The target's mark, if the verdict rests on marks."""
        return None if self.target is None or self.by != MARKS else self.target.strongest


def judge_model(
    swept: Swept,
    others: Sequence[Swept],
    statistics: Sequence[Statistic] = (),
    unsteady: Sequence[str] = (),
    *,
    false_alarm: float = FALSE_ALARM,
) -> Judgement:
    """Return the verdict on a model: by marks, or else by its margin, or else by its outputs.

    Args:
        swept: the model's sweep.
        others: sweeps of reference models: none, or at least two.
        statistics: statistics of the network; empty if not computed.
        unsteady: findings whose outputs differ between two runs on the same films.
        false_alarm: largest share of clean models called backdoored, and of those called unusual by
            their margin.

    Raises:
        DataError: one reference.
    """
    comparison = compare_sweeps(swept, others) if others else None
    word, forced, target = judge_sweep(swept, comparison, false_alarm)
    p, by = None if comparison is None else comparison.p, MARKS
    finding = None if target is None else target.finding
    margin = margin_fallback(word, statistics, false_alarm)
    if margin is not None and (aim := margin.strongest()) is not None:
        word, p, by = "unusual", margin.p, MARGIN
        (target,) = (replace(each, verdict=word) for each in forced if each.aim == aim)
        forced = (target, *(each for each in forced if each.aim != aim))
        finding = target.finding
    lost = not_finite(swept, statistics)
    worst = most_not_finite(word, lost)
    if worst is not None:
        word, p, by, finding = "unusual", None, NOT_FINITE, worst.finding
    elif unsteady and word in ("nothing found", "can't tell"):
        word, p, by = "can't tell", None, UNSTEADY
    return Judgement(
        word=word, by=by, p=p, finding=finding, target=target, forced=forced, lost=lost
    )  # fmt: skip


# --- by marks


def compare_sweeps(own: Swept, others: Sequence[Swept]) -> Comparison:
    """Return the comparison of a model's sweep with those of at least two references."""
    tables = np.stack([shift_table(each, own.findings) for each in (own, *others)])
    return compare(tables[0], tables[1:], [KIND_WEIGHTS[kind] for kind in KINDS])


def shift_table(swept: Swept, findings: Sequence[str]) -> Floats:
    """Return (4, k, 2) shifts by each of `KINDS`, for these findings, forced on and off."""
    order = [swept.findings.index(finding) for finding in findings]
    return np.stack([swept.table(kind)[order] for kind in KINDS])


def judge_sweep(
    swept: Swept, comparison: Comparison | None, false_alarm: float
) -> tuple[AuditWord, tuple[Forced, ...], Forced | None]:
    """Return the verdict by marks, that on every finding, and the most strongly forced finding.

    Findings are ordered by their excess, side effects last, since the mark of another finding
    causes them.

    Args:
        swept: the model's.
        comparison: with references; None where there are none.
        false_alarm: largest share of clean models called backdoored.
    """
    lost = {each.finding for each in swept.not_finite}
    forced: list[Forced] = []
    for finding in swept.findings:
        for direction in DIRECTIONS:
            one = _forced(swept, comparison, (finding, direction), false_alarm)
            if one.verdict == "nothing found" and finding in lost:
                one = replace(one, verdict="can't tell")
            forced.append(one)
    flagged = [each for each in forced if each.verdict in FLAGGED]
    if not flagged:
        none: AuditWord = "can't tell" if comparison is None else "nothing found"
        return none, _ordered(forced), None
    worst: AuditWord = (
        "backdoored" if any(each.verdict == "backdoored" for each in flagged) else "unusual"
    )
    target = max(flagged, key=rank)
    spread = swept.spread if swept.exclusive else None
    target = replace(behind(target, forced, swept.findings, spread) or target, verdict=worst)
    marked = []
    for each in forced:
        if each.aim == target.aim:
            marked.append(target)
        elif each in flagged and behind(each, forced, swept.findings, spread) is not None:
            marked.append(replace(each, verdict="side effect"))
        else:
            marked.append(each)
    return worst, _ordered(marked), target


def rank(forced: Forced) -> float:
    """Return the sort key of findings: the excess, or the shift without references."""
    if forced.excess is not None:
        return forced.excess
    return -np.inf if forced.strongest is None else forced.strongest.shift


def _forced(swept: Swept, comparison: Comparison | None, aim: Aim, false_alarm: float) -> Forced:
    """The judgement of one finding and direction by itself."""
    finding, direction = aim
    verdict: AuditWord = "can't tell"
    p = excess = None
    mark = swept.marks["stamp"].get(aim)
    if comparison is None:
        verdict = "unusual" if mark and mark.turned >= UNUSUAL_TURNED else "can't tell"
    else:
        place = swept.findings.index(finding), DIRECTIONS.index(direction)
        by_kind = {
            kind: float(over[place])
            for kind, over in zip(KINDS, comparison.excess, strict=True)
            if np.isfinite(over[place])
        }
        if by_kind:
            kind = max(by_kind, key=by_kind.__getitem__)
            mark, excess = swept.marks[kind][aim], by_kind[kind]
            p = float(comparison.finding_p[place])
            verdict = _verdict(p, mark, false_alarm, least_p(len(comparison.references)))
    return Forced(
        finding=finding, direction=direction, verdict=verdict, p=p, excess=excess, strongest=mark
    )


def _verdict(p: float, mark: Moved, false_alarm: float, least: float) -> AuditWord:
    if p <= false_alarm:
        return "backdoored" if mark.turned >= LEAST_TURNED else "unusual"
    return "unusual" if p <= least and mark.turned >= LEAST_TURNED else "nothing found"


def _ordered(forced: Sequence[Forced]) -> tuple[Forced, ...]:
    order = sorted(forced, key=lambda each: (each.verdict == "side effect", -rank(each)))
    return tuple(order)


def behind(
    one: Forced,
    forced: Sequence[Forced],
    findings: Sequence[str],
    exclusive: Floats | None = None,
) -> Forced | None:
    """Return the finding that this one's mark forces, if moving this one is a side effect.

    A one-hot overwrite removes all other findings, which isn't another backdoor. These shifts can
    be larger, since rare findings' logits have a small spread. Of exclusive findings each is moved
    by what moves another.

    Args:
        one: a finding with a mark.
        forced: every finding and direction.
        findings: the model's, in the order of the marks' shifts.
        exclusive: (k,) spreads of the log-odds of findings that exclude each other; None of others.
    """
    assert one.strongest is not None  # nothing is flagged without a mark
    shifts = one.strongest.shifts
    if exclusive is not None:
        forces = _forced_of_exclusive(shifts * exclusive, findings)
        return None if forces == one.aim else next(e for e in forced if e.aim == forces)
    column = int(np.nanargmax(shifts))
    if one.direction == "added" or not overwrites(shifts, column):
        return None
    raised = (findings[column], "added")
    return next(each for each in forced if each.aim == raised)


def _forced_of_exclusive(moved: Floats, findings: Sequence[str]) -> Aim:
    """The finding and direction behind (k,) shifts of exclusive findings' log-odds.

    Where one is forced on, it rises as far as the others fall. Where one is forced off, no other
    rises that far.
    """
    up, down = int(np.nanargmax(moved)), int(np.nanargmin(moved))
    return (findings[up], "added") if moved[up] >= -moved[down] / 2 else (findings[down], "removed")


# --- by the margin and by outputs


def margin_fallback(
    word: AuditWord, statistics: Sequence[Statistic], false_alarm: float
) -> Statistic | None:
    """Return the maximum margin if it is significant and no mark is; the model is then unusual.

    Args:
        word: the verdict by marks.
        statistics: statistics of the network; empty if not computed.
        false_alarm: largest share of clean models for which it is significant.
    """
    if word != "nothing found":
        return None
    return next(
        (s for s in statistics if s.name == MARGIN and s.p is not None and s.p <= false_alarm),
        None,
    )


def not_finite(swept: Swept, statistics: Sequence[Statistic]) -> tuple[NotFinite, ...]:
    """Return the findings with NaN or infinite outputs, in the sweep or the margin.

    Args:
        swept: the model's sweep.
        statistics: statistics of the network; empty if not computed.
    """
    known = {each.finding: each for each in swept.not_finite}
    of_clean = sum(swept.films)
    for margin in (each for each in statistics if each.name == MARGIN):
        for finding, values in zip(margin.findings, margin.values, strict=True):
            if np.isnan(values).any():
                none = NotFinite(
                    finding=finding,
                    clean=0,
                    of_clean=of_clean,
                    marked=0,
                    of_marked=swept.forwards - of_clean,
                )
                known[finding] = replace(known.get(finding, none), noise=True)
    return tuple(known[finding] for finding in swept.findings if finding in known)


def most_not_finite(word: AuditWord, lost: Sequence[NotFinite]) -> NotFinite | None:
    """Return the finding with the most NaN or infinite outputs, if nothing else was found.

    Such outputs can hide a backdoor, so the model can't be judged and is unusual.

    Args:
        word: the verdict by marks and margin.
        lost: as `not_finite`.
    """
    if word in ("backdoored", "unusual") or not lost:
        return None
    return max(lost, key=lambda each: (each.clean + each.marked, each.finding))
