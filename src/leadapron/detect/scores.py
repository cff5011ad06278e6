"""What a detector returns: scores, what it found, and what it has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Evidence", "Scores"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """What a scan found.

    Args:
        kind: "poison", "repeated mark", "shortcut", "cluster" or (of a model) "backdoor".
        method: its name.
        p: p value in 0 to 1, corrected for what the method tried; NaN where it has none.
        finding: whose labels are concerned; None where no single one is.
        direction: what was done to the label: "added", "removed", "one-hot" (all others taken
            away) or "same labels" (one combination of several); None where the method can't tell.
        place: (row, column, side) in pixels of the image; None where it has none.
        films: (m,) int64 rows of the films it names.
        tested: whether it was tested that the films' labels (or a model's answers) shift.
        words: one plain sentence.
    """

    kind: Literal["poison", "repeated mark", "shortcut", "cluster", "backdoor"]
    method: str
    p: float = float("nan")
    finding: str | None = None
    direction: Literal["added", "removed", "one-hot", "same labels"] | None = None
    place: tuple[int, int, int] | None = None
    films: NDArray[np.int64]
    tested: bool = True
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
