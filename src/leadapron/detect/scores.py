"""What a detector returns: scores, what it found, and what it has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.documents import Number

__all__ = [
    "Direction",
    "Evidence",
    "EvidenceKind",
    "LabelTie",
    "Question",
    "Scores",
    "SeenBy",
    "WrongLabels",
]

EvidenceKind = Literal["poison", "label-tied mark", "repeated mark", "shortcut", "cluster"]
Direction = Literal["added", "removed", "one-hot", "same labels"]
"""What was done to a label: stated, taken away, stated alone, or one combination of several."""

FEW = 0.5
"""Labels agree with the films where surely fewer are wrong than this part of what relabelling films
drawn at random would have made wrong."""


Question = Literal["bias", "anatomy", "agreement"]
"""Whether a mark is tied to a label beyond this source's other marks; whether its films' labels
contradict what the films look like; or whether they agree with it, so that it is no poison by wrong
labels."""


@dataclass(frozen=True, kw_only=True)
class WrongLabels:
    """The share of labels that contradict what their films look like.

    Args:
        share: the most likely, 0 to 1.
        low: end of a one-sided 95 % interval.
        high: the other end.
        random: the share that would be wrong if the label had been given to comparable films drawn
            at random.
    """

    share: Number
    low: Number
    high: Number
    random: Number

    @property
    def agree(self) -> bool:
        """Return whether the labels agree with the films."""
        return self.high < FEW * self.random


SeenBy = Literal["from afar", "a network trained on these films", "the given network"]
"""How films were looked at, to compare their labels with what they look like."""


@dataclass(frozen=True, kw_only=True)
class LabelTie:
    """How films that share a mark are tied to a label. The p-values are not corrected.

    Args:
        patients: with the mark.
        share: of them in the group, 0 to 1.
        expected: share of the group among the other films of the same site, view, scanner and
            native size, where these are stated.
        chance: p-value where nature ties no mark to any label.
        bias: p-value where nature ties marks to labels as strongly as this source's other marks
            are tied.
        anatomy: p-value where labels may depart from what films look like as far as those of the
            other marks do; NaN where that couldn't be asked.
        read: mean chance of the group, going by what the films look like; NaN as before.
        seen_by: how they were looked at; where there were two looks, the one whose p-value is
            smaller. `anatomy` is then corrected for there being two.
        auroc: how well that look tells the group among the unmarked films, cross-fitted: 0 to 1;
            NaN as before.
        unmarked: films that `auroc` was measured on.
        needed: odds ratio that a hidden cause must have to explain the mark, at the false-alarm
            rate and corrected for all that was tried; 1 or less where chance explains it.
        usual: odds ratio that 95 % of the other marks stay below.
        controls: other marks of the same kind that this was learnt from, and of other kinds.
        overlap: films without the mark that have the finding, or that don't, whichever are fewer,
            in the strata where the mark occurs.
        wrong: of a mark that is tied beyond this source's other marks, how many of its labels
            contradict what the films look like; None where that wasn't asked or can't be told.
        acquired: share of the group that films of the same compression, tone and borders would
            have; NaN where that can't be told. A poisoner can change all three, so this is a
            sensitivity analysis and decides nothing.
        acquired_p: p-value of the films' labels beside that share.
        decided: "agreement" where surely few labels contradict the films; else the question that
            finds it to be poison, or would sooner: the first of those whose p-value is evidence,
            else the one with the smaller p-value.
    """

    patients: int
    share: Number
    expected: Number
    chance: Number
    bias: Number
    anatomy: Number
    read: Number
    seen_by: SeenBy
    auroc: Number
    unmarked: int
    needed: Number
    usual: Number
    controls: tuple[int, int]
    overlap: int
    wrong: WrongLabels | None = None
    acquired: Number = float("nan")
    acquired_p: Number = float("nan")
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

    kind: EvidenceKind
    method: str
    p: float = float("nan")
    finding: str | None = None
    direction: Direction | None = None
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
