"""Results of a detector: scores, evidence and notes."""

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
"""Change of a label: added, removed, the only label left, or one combination of several labels."""

FEW = 0.5
"""Labels agree with the films if the upper bound of the share of wrong labels is below this
multiple of the share expected from relabelling random films."""


Question = Literal["bias", "anatomy", "agreement"]
"""The test that decides about a mark: whether its association with a label exceeds that of this
source's other marks; whether its films' labels contradict the films' appearance; or whether they
agree with it, which excludes poison by wrong labels."""


@dataclass(frozen=True, kw_only=True)
class WrongLabels:
    """The share of labels that contradict their films' appearance.

    Args:
        share: maximum-likelihood estimate, 0 to 1.
        low: lower end of a one-sided 95 % interval.
        high: upper end of a one-sided 95 % interval.
        random: the expected share of wrong labels if the label had been given to comparable random
            films.
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
"""How the films' appearance was measured."""


@dataclass(frozen=True, kw_only=True)
class LabelTie:
    """Association of a mark with a label. The p-values are not corrected.

    Args:
        patients: number of patients with the mark.
        share: share of these patients in the group (those with the label), 0 to 1.
        expected: share of the group among the other films of the same site, view, scanner and
            native size, where these are stated.
        chance: p-value under the null hypothesis that natural marks are independent of labels.
        bias: p-value under the null hypothesis that the mark is associated with the label as
            strongly as this source's other marks.
        anatomy: p-value under the null hypothesis that labels contradict the films' appearance no
            more than for the other marks; NaN if it couldn't be tested.
        read: mean probability of the group, predicted from the films' appearance; NaN if untested.
        seen_by: how the appearance was measured; of two measurements, the one with the smaller
            p-value. `anatomy` is then corrected for both.
        auroc: cross-fitted AUROC of this prediction on the unmarked films, 0 to 1; NaN if untested.
        unmarked: number of films that `auroc` was measured on.
        needed: odds ratio that a hidden confounder must have to explain the association, at the
            false-alarm rate and corrected for multiple testing; 1 or less if chance explains it.
        usual: 95th percentile of the other marks' odds ratios.
        controls: numbers of other marks, of the same kind and of other kinds, used for `bias`.
        overlap: unmarked films with the finding or without it, whichever are fewer, in the strata
            where the mark occurs.
        wrong: for a mark whose association exceeds that of the other marks, the share of its labels
            that contradict the films' appearance; None if untested or unknown.
        acquired: expected share of the group among films of the same compression, tone and borders;
            NaN if unknown. A poisoner can change all three, so this is a sensitivity analysis and
            doesn't affect the verdict.
        acquired_p: p-value of the films' labels against that share.
        decided: "agreement" if few labels contradict the films, with confidence; otherwise the test
            that decides about poison: the first with a significant p-value, or else the one with
            the smaller p-value.
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
    """One piece of evidence of a scan.

    Args:
        kind: "poison"; "label-tied mark": associated with a label by more than chance, but no more
            than natural marks in this source; "shortcut": the same for a whole group of films;
            "repeated mark"; or "cluster".
        method: name of the method.
        p: p-value, corrected for multiple testing within the method; NaN if it has none.
        finding: the affected finding; None if there isn't a single one.
        direction: change of the label: "added", "removed", "one-hot" (all others removed) or "same
            labels" (one combination of several); None if unknown.
        place: (row, column, side) in pixels of the image; None if it has none.
        films: (m,) int64 rows of the suspected films.
        tested: whether the association with labels was tested.
        tie: association of a mark with the label; None if untested.
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
    """Suspicion scores of films, or of a model's findings, with evidence.

    Args:
        values: (n,) float64 of films, or (k, 2) of a model: each finding forced on, forced off.
            Higher is more suspicious; NaN is "not scored", never "clean".
        unit: unit of the values.
        evidence: evidence beyond single films.
        notes: omissions and their reasons, one sentence each.
    """

    values: NDArray[np.float64]
    unit: str
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()
