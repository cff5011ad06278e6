"""Choosing settings: by trials, and only where a lead is beyond chance.

Every combination is run on a few films, each finding present and absent about as often; the best
go on to all films and, while time is left, so do values that a few films can't exclude. A setting
is taken if the best combination leads the best one of every other value beyond chance: in mean
AUROC or, where AUROC tells neither from the other, in how well the films fit what batch
normalisation kept from training. Where the two contradict each other beyond chance, neither
counts. Patients are resampled, the same for both; p-values are multiplied by the number of
combinations tried.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.films.cohort import subsample
from leadapron.models.inspection.trials import Answered, Bench, Point, balanced

__all__ = ["COARSE", "FEW", "SECONDS", "SIGNIFICANCE", "SIZES", "Axes", "Chosen", "choose"]

logger = logging.getLogger(__name__)

SIZES = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
COARSE = (64, 128, 256)
"""Sizes at which normalisations are compared first."""
FEW = 60
"""Films of the first trials."""
SECONDS = 300.0
"""Most seconds that trials are planned for."""
SIGNIFICANCE = 0.05
FIT = 1.5
"""Ratio of misfits from which a difference counts. Statistics that lag behind a short training fit
a neighbouring size a little better: 0.162 against 0.183 in a network of 60 steps."""
LATER = 3
"""Most trials of rivals that a few films leave open."""
KEPT = 2
"""Normalisations that are tried at all sizes."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The values that are tried of each setting; one value if it is stated.

    Args:
        sizes: sides in pixels.
        normalisations: names or MEAN/STD, the likeliest first.
        aspects: as `Preprocessing`, the likeliest first.
    """

    sizes: tuple[int, ...]
    normalisations: tuple[str, ...]
    aspects: tuple[Any, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Chosen:
    """What trials say.

    Args:
        best: the best trial, on all films.
        trials: every combination's trial on most films, best first.
        tried: number of combinations.
        settled: by setting that was tried, the evidence for its value in words; None if its lead
            isn't beyond chance.
        rivals: by setting, the values that can't be excluded, of those that aren't settled.
        sees: whether the best trial's AUROC is above 0.5 beyond chance.
        left_out: sizes that weren't tried, since they would take too long.
    """

    best: Answered
    trials: tuple[Answered, ...]
    tried: int
    settled: Mapping[str, str | None]
    rivals: Mapping[str, tuple[Any, ...]]
    sees: bool
    left_out: tuple[int, ...]


def choose(bench: Bench, axes: Axes, rows: NDArray[np.int64]) -> Chosen:
    """Try settings, and take those that lead beyond chance.

    Args:
        bench: runs the trials.
        axes: the values.
        rows: (n,) the films, of which a few are used at first.
    """
    began = time.perf_counter()
    patients = bench.films.cohort.patients
    few = balanced(bench.truth, patients, FEW) if len(rows) > FEW else rows
    normalisations, aspect = axes.normalisations, axes.aspects[0]

    def point(size: int, normalisation: str, aspect: Any = aspect) -> Point:
        return Point(size=size, normalisation=normalisation, aspect=aspect)

    cost = bench.seconds(axes.sizes, point(axes.sizes[0], normalisations[0]))
    kept = min(KEPT, len(normalisations))
    coarse = _coarse(axes, cost, len(few))
    sizes, many, seconds = _within(axes, cost, len(few), coarse, kept, len(rows))
    rows = rows if many >= len(rows) else rows[subsample(len(rows), many)]
    logger.info(
        "trying %d sizes, %d normalisations and %d aspects on %d films, then the best on %d: "
        "about %.0f s, more if settings are alike",
        len(sizes), len(normalisations), len(axes.aspects), len(few), len(rows), seconds,
    )  # fmt: skip
    found = {
        each.point: each
        for each in bench.run(
            "normalisations", [point(s, n) for n in normalisations for s in coarse], few
        )
    }
    first = [each.point.normalisation for each in _leaders(list(found.values()), len(found))]
    ranked = list(dict.fromkeys([*first, *normalisations]))
    rest = [point(s, n) for n in ranked[:kept] for s in sizes if point(s, n) not in found]
    found |= {each.point: each for each in bench.run("sizes", rest, few)}
    top = _leaders(list(found.values()), len(found))
    others = [
        point(top[0].point.size, top[0].point.normalisation, other) for other in axes.aspects[1:]
    ]
    found |= {each.point: each for each in bench.run("aspects", others, few)}
    tried = len(found)
    named = {"size": sizes, "normalisation": normalisations, "aspect": axes.aspects}
    whole = dict(found)
    wanted = [each.point for each in _leaders(list(found.values()), tried)]
    for _ in range(1 + LATER):
        if len(few) < len(rows):
            whole |= {each.point: each for each in bench.run("best", wanted, rows)}
        judged = _judged(found, whole, len(rows), named, tried)
        left = SECONDS - (time.perf_counter() - began)
        wanted = [
            each.point for each in judged.undecided if cost[each.point.size] * len(rows) < left
        ][:1]
        if not wanted:
            break
    best = judged.best
    order = sorted(whole.values(), key=lambda each: (each is not best, _rank(each)))
    return Chosen(
        best=best, trials=tuple(order), tried=tried,
        settled=judged.settled, rivals=judged.rivals, sees=judged.sees,
        left_out=tuple(size for size in axes.sizes if size not in sizes),
    )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class _Judged:
    """What trials say, some of them on all films; the first four as in `Chosen`.

    Args:
        undecided: trials of rivals on a few films, where all might tell; the likeliest first.
    """

    best: Answered
    sees: bool
    settled: Mapping[str, str | None]
    rivals: Mapping[str, tuple[Any, ...]]
    undecided: tuple[Answered, ...]


def _judged(
    found: Mapping[Point, Answered],
    whole: Mapping[Point, Answered],
    films: int,
    named: Mapping[str, Sequence[Any]],
    tried: int,
) -> _Judged:
    """Judge trials on a few films, and those that went on to all of them.

    Args:
        found: every trial, on a few films.
        whole: the same, with those on all films in their place.
        films: number of all films.
        named: the values of each setting.
        tried: number of combinations.
    """
    best = _leaders([each for each in whole.values() if len(each.rows) == films], tried)[0]
    sees = _leads(best.draws, np.full_like(best.draws, 0.5), best.macro.value - 0.5, tried)
    settled: dict[str, str | None] = {}
    rivals: dict[str, tuple[Any, ...]] = {}
    undecided: list[Answered] = []
    for name, values in named.items():
        if len(values) == 1:
            continue
        own = getattr(best.point, name)
        reasons: list[str] = []
        open_values: list[Any] = []
        for value in values:
            if value == own:
                continue
            there = _best_of(whole.values(), name, value)
            # Both on the same films: on a few, where the other one didn't go on.
            mine = best if there is None or len(there.rows) == films else found[best.point]
            why = _excluded(mine, there, tried)
            if why is not None:
                reasons.append(why)
                continue
            open_values.append(value)
            if there is not None and len(there.rows) < films:
                undecided.append(there)
        rivals[name] = tuple(open_values)
        settled[name] = _evidence(reasons) if sees and not open_values else None
    undecided.sort(key=lambda each: (each.misfit if each.misfit >= 0 else 0.0, _rank(each)))
    return _Judged(best=best, sees=sees, settled=settled, rivals=rivals, undecided=tuple(undecided))


def _coarse(axes: Axes, cost: Mapping[int, float], few: int) -> list[int]:
    """The sizes at which all normalisations are tried; none where there is one normalisation."""
    coarse = [size for size in COARSE if size in axes.sizes] or list(axes.sizes)
    if len(axes.normalisations) == 1:
        return []
    each = few * len(axes.normalisations)
    while len(coarse) > 1 and each * sum(cost[size] for size in coarse) > SECONDS / 3:
        coarse = coarse[:-1]
    return coarse


def _within(
    axes: Axes,
    cost: Mapping[int, float],
    few: int,
    coarse: Sequence[int],
    kept: int,
    films: int,
) -> tuple[tuple[int, ...], int, float]:
    """The sizes and the number of films that the time allows, and the seconds."""

    def first(sizes: Sequence[int]) -> float:
        normalisations = (len(axes.normalisations) - kept) * sum(cost[size] for size in coarse)
        return few * (normalisations + kept * sum(cost[size] for size in sizes))

    sizes = axes.sizes
    while len(sizes) > 1 and first(sizes) > 0.75 * SECONDS:
        sizes = sizes[:-1]
    # The best three, at a size in the upper half.
    each = 3 * cost[sizes[(3 * len(sizes)) // 4 if len(sizes) > 1 else 0]]
    many = int(min(films, max(few, (SECONDS - first(sizes)) / each)))
    return sizes, many, first(sizes) + (each * many if many > few else 0)


def _rank(each: Answered | None) -> tuple[float, float]:
    """Sorts the best first: by AUROC, then by misfit."""
    if each is None or math.isnan(each.macro.value):
        return (0.0, math.inf)
    return (-each.macro.value, each.misfit if not math.isnan(each.misfit) else 0.0)


def _best_of(trials: Any, name: str, value: Any) -> Answered | None:
    """The best trial with a value of a setting, of those on most films."""
    there = [each for each in trials if getattr(each.point, name) == value]
    most = max((len(each.rows) for each in there), default=0)
    return min((each for each in there if len(each.rows) == most), key=_rank, default=None)


def _leaders(trials: Sequence[Answered], tried: int) -> list[Answered]:
    """The best trials, first the one to take.

    That is the one with the highest AUROC or, of those that AUROC doesn't tell from it, the one
    with the smallest misfit. The runner-up of each kind follows.
    """
    if not trials:
        return []
    ranked = sorted(trials, key=_rank)
    level = [each for each in ranked if not _leads(ranked[0].draws, each.draws,
             ranked[0].macro.value - each.macro.value, tried)]  # fmt: skip
    fitting = sorted(
        (each for each in level if not math.isnan(each.misfit)), key=lambda each: each.misfit
    )
    order = [*fitting[:1], *ranked[:2], *fitting[1:2]]
    unique = list({each.point: each for each in order}.values())
    return unique[:3]


def _excluded(best: Answered, other: Answered | None, tried: int) -> str | None:
    """Why another trial is excluded: "AUROC", "misfit" or "failed"; None if it isn't."""
    if other is None:
        return None
    if other.error or not np.isfinite(other.logits).all():
        return "failed"
    lead = best.macro.value - other.macro.value
    better = _leads(best.draws, other.draws, lead, tried)
    worse = _leads(other.draws, best.draws, -lead, tried)
    if better:
        return None if _fits(other, best, tried) else "AUROC"
    return "misfit" if _fits(best, other, tried) and not worse else None


def _fits(one: Answered, other: Answered, tried: int) -> bool:
    """Whether the misfit of one is smaller beyond chance, and by enough to mean something."""
    lead = other.misfit - one.misfit
    return other.misfit > FIT * one.misfit and _leads(other.misfits, one.misfits, lead, tried)


def _leads(
    high: NDArray[np.float64], low: NDArray[np.float64], observed: float, tried: int
) -> bool:
    """Whether a difference of two numbers on the same resamples is above 0 beyond chance.

    The p-value is a normal one, since resamples alone can't give one small enough to correct.
    """
    drawn = (high - low)[~np.isnan(high - low)]
    if math.isnan(observed) or observed <= 0 or len(drawn) < len(high) / 2:
        return False
    spread = float(drawn.std(ddof=1))
    if not spread:  # as between two trials that are right, or wrong, on every film
        return True
    return math.erfc(observed / spread / math.sqrt(2)) * tried < SIGNIFICANCE


WORDS: Mapping[str, str] = {
    "AUROC": "a higher AUROC",
    "misfit": "a better fit to the network's own means and variances",
    "failed": "finite outputs",
}


def _evidence(reasons: Sequence[str]) -> str:
    kinds = [WORDS[kind] for kind in WORDS if kind in reasons]
    return " or ".join(kinds)
