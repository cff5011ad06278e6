"""Maps as a document: where each is highest, and what the model said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from leadapron.documents import Floats

__all__ = ["Explained"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Explained:
    """Where a model looked on n films for k findings; the maps themselves are arrays.

    Args:
        verdict: nothing is judged.
        method: name of the explainer.
        findings: the k findings.
        probabilities: (n, k).
        peaks: row and column of each map's highest value, in pixels: n lists of k pairs.
    """

    SCHEMA: ClassVar[int] = 1

    verdict: Literal["done"] = "done"
    method: str
    findings: tuple[str, ...]
    probabilities: Floats
    peaks: tuple[tuple[tuple[int, int], ...], ...]
