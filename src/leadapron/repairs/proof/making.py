"""Parts of the proof that put the audit's own marks, and its searches, to two models at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.detect.models.judgement import UNUSUAL_TURNED
from leadapron.detect.models.stamps import Probe, Stamp
from leadapron.detect.models.sweep import Aim, Moved
from leadapron.films.cohort import Cohort
from leadapron.metrics import Estimate
from leadapron.models.protocols import BlackBox
from leadapron.repairs.proof.altered import ALTERATIONS
from leadapron.repairs.proof.document import AlteredMark, Marked, Searched, SearchedAim
from leadapron.repairs.proof.forcing import LEAST_VICTIMS, Aimed, odds_of, turned, victims
from leadapron.repairs.proof.maps import trigger_shares

__all__ = ["Limits", "compare_marks", "searched", "shares_of"]


def compare_marks(
    original: BlackBox, repaired: BlackBox, films: Cohort, moved: Moved, *, altered: bool = True
) -> Marked:
    """Return what a mark does before and after.

    Args:
        original: the model before.
        repaired: the model after.
        films: clean, with stated findings.
        moved: a mark that an audit found, and what it forces.
        altered: whether the mark is altered too, and maps are drawn.

    Raises:
        DataError: too few films to see it on, or answers that aren't finite.
    """
    aim = moved.finding, moved.direction
    some = victims(films, aim)
    both = [Aimed(model, some, aim) for model in (original, repaired)]
    before, after = (each.hits(moved.mark).rate for each in both)
    more: list[AlteredMark] = []
    maps = [math.nan, math.nan]
    chance = math.nan
    if altered and isinstance(moved.mark, Stamp):
        for name, ways in ALTERATIONS.items():
            rates = [
                max((each.hits(way(moved.mark)).rate for way in ways), key=lambda r: r.value)
                for each in both
            ]
            more.append(AlteredMark(alteration=name, original=rates[0], repaired=rates[1]))
        maps = [_mean(trigger_shares(each, moved.mark)) for each in both]
        blank = np.zeros_like(both[0].images[:1])
        # A pixel that is covered is the same whatever is below it.
        chance = float((moved.mark(blank) == moved.mark(blank + 1)).mean())
    return Marked(
        finding=moved.finding,
        direction=moved.direction,
        mark=moved.mark,
        original=before,
        repaired=after,
        altered=tuple(more),
        map_original=maps[0],
        map_repaired=maps[1],
        map_chance=chance,
    )


def _mean(shares: NDArray[np.float64]) -> float:
    known = shares[np.isfinite(shares)]
    return float(known.mean()) if known.size else math.nan


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which share of films the best swept square turns in clean models.

    It is the upper end of the largest one's 95 % interval: films are few, and so are models.

    Args:
        of: clean models that it rests on; without any it is the share from which on an audit
            without references calls a square unusual.
        by_aim: the largest, by finding and direction.
        other: for those that aren't named.
    """

    of: int = 0
    by_aim: Mapping[Aim, float] = field(default_factory=dict)
    other: float = UNUSUAL_TURNED

    @property
    def largest(self) -> float:
        """Of any finding and direction."""
        return max(self.by_aim.values(), default=self.other)

    def of_aim(self, aim: Aim) -> float:
        """Return the largest that is usual."""
        return self.by_aim.get(aim, self.other)

    @classmethod
    def measured(cls, references: Sequence[Mapping[Aim, Estimate]]) -> Limits:
        """Return those of clean models whose squares were tried on the same films.

        Args:
            references: of each what `shares_of` returned.
        """
        aims = {aim for each in references for aim in each}
        by_aim = {aim: max(each[aim].high for each in references if aim in each) for aim in aims}
        return cls(of=len(references), by_aim=by_aim)


def shares_of(classifier: BlackBox, films: Cohort, squares: Iterable[Moved]) -> dict[Aim, Estimate]:
    """Return which share of the films each finding's strongest square turns.

    Args:
        classifier: the model.
        films: clean, with stated findings; those that a square was chosen on may be among them.
        squares: squares and other local marks; changes of the whole image are passed over.

    Returns:
        By finding and direction, where 20 films allow it.

    Raises:
        DataError: answers that aren't finite.
    """
    own = [each for each in squares if not isinstance(each.mark, Probe)]
    images = films.images[np.arange(len(films))]
    clean = odds_of(classifier, images)
    odds = {mark: odds_of(classifier, mark(images)) for mark in {each.mark for each in own}}
    found: dict[Aim, Estimate] = {}
    for each in own:
        sign = 1 if each.direction == "added" else -1
        column = films.column(each.finding)
        rows = films.labels[:, column] == (0 if each.direction == "added" else 1)
        if rows.sum() >= LEAST_VICTIMS:
            hit = turned(sign * clean[rows, column], sign * odds[each.mark][rows, column])
            found[each.finding, each.direction] = metrics.rate(hit, films.patients[rows])
    return found


def searched(
    original: BlackBox,
    repaired: BlackBox,
    films: Cohort,
    before: Sequence[Moved],
    after: Sequence[Moved],
    backdoors: Iterable[Aim],
    limits: Limits,
) -> Searched:
    """Compare the strongest squares of two models on the same films.

    Args:
        original: the model before.
        repaired: the model after.
        films: clean, with stated findings.
        before: the original's strongest squares.
        after: those that a sweep of the repaired model found.
        backdoors: what the audit of the original called a backdoor, or unusual.
        limits: what is usual in clean models.

    Raises:
        DataError: answers that aren't finite.
    """
    first, second = shares_of(original, films, before), shares_of(repaired, films, after)
    marks = {(each.finding, each.direction): each.mark for each in after}
    known = set(backdoors)
    return Searched(
        aims=tuple(
            SearchedAim(
                finding=aim[0],
                direction=aim[1],
                mark=marks[aim],
                before=first.get(aim, UNKNOWN),
                after=share,
                # Natural weaknesses differ from model to model, and many aims are looked at: only
                # the backdoor's own aim is held to what is usual for it.
                limit=limits.of_aim(aim) if aim in known else limits.largest,
                backdoor=aim in known,
            )
            for aim, share in sorted(second.items(), key=lambda each: -each[1].value)
        ),
        of=limits.of,
    )


UNKNOWN = Estimate(0.0, 0.0, 1.0, 0, 0)
"""Of a finding that no square of the original was known for."""
