"""What a detector returns: scores, what it found, and what it has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Evidence", "LabelTie", "Question", "Scores"]


Question = Literal["bias", "anatomy"]
"""Whether a mark is tied to a label beyond this source's other marks; or whether its films' labels
contradict what the films look like."""


@dataclass(frozen=True, kw_only=True)
class LabelTie:
    """How films that share a mark are tied to a label. The p-values are not corrected.

    Args:
        patients: with the mark.
        share: of them in the group, 0 to 1.
        expected: share of the group among the other films of the same view and site.
        chance: p-value where nature ties no mark to any label.
        bias: p-value where nature ties marks to labels as strongly as this source's other marks
            are tied.
        anatomy: p-value where labels may depart from what films look like as far as those of the
            other marks do; NaN where that couldn't be asked.
        read: mean chance of the group, going by what the films look like; NaN as before.
        needed: odds ratio that a hidden cause must have to explain the mark, at the false-alarm
            rate and corrected for all that was tried; 1 or less where chance explains it.
        usual: odds ratio that 95 % of the other marks stay below.
        controls: other marks of the same kind that this was learnt from, and of other kinds.
        overlap: films without the mark that have the finding, or that don't, whichever are fewer,
            in the views and sites where the mark occurs.
        decided: the question that finds it to be poison, or would sooner: the first of those whose
            p-value is evidence, else the one with the smaller p-value.
    """

    patients: int
    share: float
    expected: float
    chance: float
    bias: float
    anatomy: float
    read: float
    needed: float
    usual: float
    controls: tuple[int, int]
    overlap: int
    decided: Question


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """What a scan found.

    Args:
        kind: "poison"; "label-tied mark": tied to a label by more than chance and by no more than
            nature can do here; "shortcut": so is a whole group of films; "repeated mark"
            or "cluster".
        method: its name.
        p: p value in 0 to 1, corrected for what the method tried; NaN where it has none.
        finding: whose labels are concerned; None where no single one is.
        direction: what was done to the label: "added", "removed", "one-hot" (all others taken
            away) or "same labels" (one combination of several); None where the method can't tell.
        place: (row, column, side) in pixels of the image; None where it has none.
        films: (m,) int64 rows of the films it names.
        tested: whether it was tested that the films' labels shift.
        tie: of a mark, how its films are tied to the label; None where that wasn't judged.
        words: one plain sentence.
    """

    kind: Literal["poison", "label-tied mark", "repeated mark", "shortcut", "cluster"]
    method: str
    p: float = float("nan")
    finding: str | None = None
    direction: Literal["added", "removed", "one-hot", "same labels"] | None = None
    place: tuple[int, int, int] | None = None
    films: NDArray[np.int64]
    tested: bool = True
    tie: LabelTie | None = None
    words: str


@dataclass(frozen=True, eq=False)
class Scores:
    """How suspicious each film is, or each finding of a model, and why.

    Args:
        values: (n,) float64 of films, or (k, 2) of a model: each finding forced on, forced off.
            Higher is more suspicious; NaN is "not scored", never "clean".
        unit: what the values are measured in.
        evidence: what was found beyond single films.
        notes: what was left out and why, one sentence each.
    """

    values: NDArray[np.float64]
    unit: str
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()
