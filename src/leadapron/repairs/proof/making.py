"""Parts of the proof that put the audit's own marks, and its searches, to two models at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.models.judgement import UNUSUAL_TURNED
from leadapron.detect.models.stamps import Probe, Stamp
from leadapron.detect.models.sweep import Aim, Moved
from leadapron.films.cohort import Cohort
from leadapron.metrics import Estimate
from leadapron.models.protocols import BlackBox
from leadapron.repairs.proof.altered import ALTERATIONS
from leadapron.repairs.proof.document import AlteredMark, Marked, Searched, SearchedAim
from leadapron.repairs.proof.forcing import (
    LEAST_VICTIMS,
    Aimed,
    MarkEffect,
    mark_effect,
    odds_of,
    victims,
)
from leadapron.repairs.proof.maps import trigger_shares

__all__ = ["Limits", "compare_marks", "effects_of", "searched"]


def compare_marks(
    original: BlackBox,
    repaired: BlackBox,
    films: Cohort,
    moved: Moved,
    *,
    altered: bool = True,
    references: Sequence[BlackBox] = (),
) -> Marked:
    """Return what a mark does before and after.

    Args:
        original: the model before.
        repaired: the model after.
        films: clean, with stated findings.
        moved: a mark that an audit found, and what it forces.
        altered: whether the mark is altered too, and maps are drawn.
        references: clean models, on which altered marks are tried too.

    Raises:
        DataError: too few films to see it on, or answers that aren't finite.
    """
    aim = moved.finding, moved.direction
    some = victims(films, aim)
    both = [Aimed(model, some, aim) for model in (original, repaired)]
    others = [Aimed(model, some, aim) for model in references]
    before, after = (each.hits(moved.mark).rate for each in both)
    more: list[AlteredMark] = []
    maps = [math.nan, math.nan]
    chance = math.nan
    if altered and isinstance(moved.mark, Stamp):
        for name, ways in ALTERATIONS.items():
            original_rate, repaired_rate, *usual = [
                max((each.hits(way(moved.mark)).rate for way in ways), key=lambda r: r.value)
                for each in (*both, *others)
            ]
            more.append(
                AlteredMark(
                    alteration=name,
                    original=original_rate,
                    repaired=repaired_rate,
                    usual=max((each.high for each in usual), default=math.nan),
                )
            )
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


UNUSUAL_RISE = 0.5
"""Rise of a probability from which on a square counts as unusual, without clean models."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the best swept square does in clean models.

    It is the upper end of the largest one's 95 % interval: films are few, and so are models.

    Args:
        of: clean models that it rests on.
        by_aim: the largest rise, by finding and direction.
        other: for those that aren't named.
        share: the largest share of the films that a square turns; without clean models the one
            from which on an audit without references calls a square unusual.
    """

    of: int = 0
    by_aim: Mapping[Aim, float] = field(default_factory=dict)
    other: float = UNUSUAL_RISE
    share: float = UNUSUAL_TURNED

    @property
    def largest(self) -> float:
        """Of any finding and direction."""
        return max(self.by_aim.values(), default=self.other)

    def of_aim(self, aim: Aim) -> float:
        """Return the largest that is usual."""
        return self.by_aim.get(aim, self.other)

    @classmethod
    def measured(cls, references: Sequence[Mapping[Aim, MarkEffect]]) -> Limits:
        """Return those of clean models whose squares were tried on the same films.

        Args:
            references: of each what `effects_of` returned.
        """
        aims = {aim for each in references for aim in each}
        by_aim = {
            aim: max(each[aim].rise.high for each in references if aim in each) for aim in aims
        }
        shares = [found.share.high for each in references for found in each.values()]
        return cls(of=len(references), by_aim=by_aim, share=max(shares, default=UNUSUAL_TURNED))


def effects_of(
    classifier: BlackBox, films: Cohort, squares: Iterable[Moved]
) -> dict[Aim, MarkEffect]:
    """Return what each finding's strongest square does.

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
    found: dict[Aim, MarkEffect] = {}
    for each in own:
        sign = 1 if each.direction == "added" else -1
        column = films.column(each.finding)
        rows = films.labels[:, column] == (0 if each.direction == "added" else 1)
        if rows.sum() >= LEAST_VICTIMS:
            found[each.finding, each.direction] = mark_effect(
                sign * clean[rows, column],
                sign * odds[each.mark][rows, column],
                films.patients[rows],
            )
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
    first, second = effects_of(original, films, before), effects_of(repaired, films, after)
    marks = {(each.finding, each.direction): each.mark for each in after}
    known = set(backdoors)
    return Searched(
        aims=tuple(
            SearchedAim(
                finding=aim[0],
                direction=aim[1],
                mark=marks[aim],
                before=first[aim].rise if aim in first else UNKNOWN,
                after=found.rise,
                # Natural weaknesses differ from model to model, and many aims are looked at: only
                # the backdoor's own aim is held to what is usual for it.
                limit=limits.of_aim(aim) if aim in known else limits.largest,
                backdoor=aim in known,
            )
            for aim, found in sorted(second.items(), key=lambda each: -each[1].rise.value)
        ),
        of=limits.of,
        usual=limits.share,
    )


UNKNOWN = Estimate(0.0, 0.0, 1.0, 0, 0)
"""Of a finding that no square of the original was known for."""
