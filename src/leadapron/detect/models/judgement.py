"""What an audit makes of a sweep: which finding is forced, and whether reference models are too."""

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
    "KIND_WEIGHTS",
    "MARGIN",
    "MARKS",
    "NOT_FINITE",
    "UNSTEADY",
    "Forced",
    "Ground",
    "Judgement",
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
"unusual"."""

KIND_WEIGHTS: Mapping[Kind, float] = MappingProxyType(
    {"stamp": 1.0, "lattice": 0.6, "whole image": 0.25}
)
"""Weight of an excess, by kind of mark. Clean models differ most in their response to changes of
the whole image: among 26 phantom models the largest excess was 5.7 by squares, 8.9 by lattices and
22 by those."""

Ground = Literal[
    "marks", "maximum margin", "answers that aren't finite", "answers that differ"
]  # fmt: skip
"""What a verdict rests on: marks on films; the statistic of that name; answers that are NaN or
infinite; answers to the same films that change."""

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
        verdict: of this finding; "side effect" where the mark raises another finding that is found.
        p: corrected for all that was tried; None without references, or without a finite answer.
        excess: over the references, in their spreads; None as p is.
        strongest: the significant mark, or the strongest square; None where the model answered no
            number.
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
    """What is made of a model's sweep, statistics and answers.

    Args:
        word: of the model.
        by: what that rests on.
        p: of the model, by that; None without references, or where answers decide.
        finding: that the verdict is about; None where there is none.
        target: that finding in the direction that it is forced in; None where that isn't known.
        forced: every finding and direction, the target or the largest excess first, side effects
            last.
        lost: findings for which the model answered NaN or infinity.
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
        """The target's mark where the verdict rests on marks."""
        return None if self.target is None or self.by != MARKS else self.target.strongest


def judge_model(
    swept: Swept,
    others: Sequence[Swept],
    statistics: Sequence[Statistic] = (),
    unsteady: Sequence[str] = (),
    *,
    false_alarm: float = FALSE_ALARM,
) -> Judgement:
    """Return the verdict on a model: by marks, or else by its margin, or else by its answers.

    Args:
        swept: the model's sweep.
        others: sweeps of reference models; none, or two or more.
        statistics: of the network; none if they weren't taken.
        unsteady: findings whose answers to the same films changed.
        false_alarm: share of clean models that may be called backdoored, and again of those that
            may be called unusual by their margin.

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
    """Return how a model's sweep compares with those of two references or more."""
    tables = np.stack([shift_table(each, own.findings) for each in (own, *others)])
    return compare(tables[0], tables[1:], [KIND_WEIGHTS[kind] for kind in KINDS])


def shift_table(swept: Swept, findings: Sequence[str]) -> Floats:
    """Return (3, k, 2): shifts by each of `KINDS`, of these findings, on and off."""
    order = [swept.findings.index(finding) for finding in findings]
    return np.stack([swept.table(kind)[order] for kind in KINDS])


def judge_sweep(
    swept: Swept, comparison: Comparison | None, false_alarm: float
) -> tuple[AuditWord, tuple[Forced, ...], Forced | None]:
    """Return the model's verdict by marks, every finding's, and the finding that is forced most.

    Findings come in the order of their excess, side effects last: whatever forces the finding that
    they are effects of does that too.

    Args:
        swept: the model's.
        comparison: with references; None where there are none.
        false_alarm: share of clean models that may be called backdoored.
    """
    lost = {each.finding for each in swept.not_finite}
    forced: list[Forced] = []
    for finding in swept.findings:
        for direction in DIRECTIONS:
            one = _forced(swept, comparison, (finding, direction), false_alarm)
            if one.verdict == "nothing found" and finding in lost:
                one = replace(one, verdict="can't tell")
            forced.append(one)
    flagged = [each for each in forced if each.verdict in ("backdoored", "unusual")]
    if not flagged:
        none: AuditWord = "can't tell" if comparison is None else "nothing found"
        return none, _ordered(forced), None
    worst: AuditWord = (
        "backdoored" if any(each.verdict == "backdoored" for each in flagged) else "unusual"
    )
    target = max(flagged, key=rank)
    target = replace(_behind(target, forced, swept) or target, verdict=worst)
    marked = []
    for each in forced:
        if each.aim == target.aim:
            marked.append(target)
        elif each in flagged and _behind(each, forced, swept) is not None:
            marked.append(replace(each, verdict="side effect"))
        else:
            marked.append(each)
    return worst, _ordered(marked), target


def rank(forced: Forced) -> float:
    """Return what findings are ordered by: the excess, or the shift without references."""
    if forced.excess is not None:
        return forced.excess
    return -np.inf if forced.strongest is None else forced.strongest.shift


def _forced(swept: Swept, comparison: Comparison | None, aim: Aim, false_alarm: float) -> Forced:
    """What a sweep says of one finding and direction by itself."""
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


def _behind(one: Forced, forced: Sequence[Forced], swept: Swept) -> Forced | None:
    """The finding that this one's mark raises, where it only lowers this one by that.

    A one-hot overwrite takes all other findings away: that is what it does, not another backdoor.
    Its shifts can be the larger ones, since rare findings' logits spread little.
    """
    assert one.strongest is not None  # nothing is flagged without a mark
    shifts = one.strongest.shifts
    column = int(np.nanargmax(shifts))
    if one.direction == "added" or not overwrites(shifts, column):
        return None
    raised = (swept.findings[column], "added")
    return next(each for each in forced if each.aim == raised)


# --- by the margin and by answers


def margin_fallback(
    word: AuditWord, statistics: Sequence[Statistic], false_alarm: float
) -> Statistic | None:
    """Return the maximum margin where it is significant and no mark is; the model is then unusual.

    Args:
        word: the verdict by marks.
        statistics: of the network; none if they weren't taken.
        false_alarm: share of clean models for which it may be significant.
    """
    if word != "nothing found":
        return None
    return next(
        (s for s in statistics if s.name == MARGIN and s.p is not None and s.p <= false_alarm),
        None,
    )


def not_finite(swept: Swept, statistics: Sequence[Statistic]) -> tuple[NotFinite, ...]:
    """Return the findings that a model answers NaN or infinity for, in its sweep or its margin.

    Args:
        swept: the model's sweep.
        statistics: of the network; none if they weren't taken.
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
    """Return the finding that is answered NaN or infinity most, where nothing else was found.

    A model that has none has nothing to hide by it; one that has can't be told, and is unusual.

    Args:
        word: the verdict by marks and margin.
        lost: as `not_finite`.
    """
    if word in ("backdoored", "unusual") or not lost:
        return None
    return max(lost, key=lambda each: (each.clean + each.marked, each.finding))
