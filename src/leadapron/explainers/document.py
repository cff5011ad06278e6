"""Maps as documents: where each is highest, and what the model said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from leadapron.documents import Floats, ShownPath

__all__ = ["Explained", "MapsOfModel", "Method"]


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


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method on a sheet of a model's maps.

    Args:
        name: name of the explainer.
        layer: the explained layer.
        highest: value of the last colour, which the maps of all films share.
        peaks: row and column of the highest value of each film's map, in pixels.
    """

    name: str
    layer: str
    highest: float
    peaks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class MapsOfModel:
    """Content of a sheet of a model's maps.

    Args:
        verdict: nothing is judged.
        file: the sheet.
        model: as it was named.
        origin: description of the model and its library.
        notes: what was assumed of the model and its films, a sentence each.
        finding: the explained finding.
        films: ids of the n films.
        labels: whether each has the finding; None where its source doesn't say.
        probabilities: the model's, of the finding.
        methods: in the order of the columns.
        skipped: methods that don't fit this model, with the reasons.
    """

    SCHEMA: ClassVar[int] = 1

    verdict: Literal["done"] = "done"
    file: str
    model: ShownPath
    origin: str
    notes: tuple[str, ...]
    finding: str
    films: tuple[str, ...]
    labels: tuple[bool | None, ...]
    probabilities: tuple[float, ...]
    methods: tuple[Method, ...]
    skipped: dict[str, str]
