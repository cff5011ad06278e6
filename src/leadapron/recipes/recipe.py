"""Recipes: a published attack as settings, with the origin of each setting.

Nothing is guessed: a setting that the paper doesn't state is ours, and marked as ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["COMMON", "SCALED", "Cell", "Recipe", "Stated"]

Tree = Mapping[str, Any]


class Stated(NamedTuple):
    """A setting's values in a publication.

    Args:
        values: values that the publication uses.
        where: the part of the publication that states them, as far as it was read.
    """

    values: Sequence[Any]
    where: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attack or control of a recipe.

    Args:
        what: description, in a sentence.
        whose: "paper" for an attack of the publication, "ours" for our addition.
        settings: settings that override the recipe's.
    """

    what: str
    whose: Literal["paper", "ours"]
    settings: Tree = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published attack in the vocabulary of a study.

    Args:
        citation: the publication.
        what: the attack, and the parts of the publication that were read.
        settings: settings of all cells, at the published scale as far as it is known.
        cells: cells by name.
        published: the publication's values, by setting.
        ours: reasons for our other values, by setting or by section.
        left_out: parts of the publication that this study omits or does differently.
        source: default source of films.
        phantom: settings that override the others on phantoms.
    """

    citation: str
    what: str
    settings: Tree
    cells: Mapping[str, Cell]
    published: Mapping[str, Stated]
    ours: Mapping[str, str]
    left_out: Sequence[str]
    source: str
    phantom: Tree


SCALED = "phantom scale, so that it takes minutes"
COMMON = {
    "source": SCALED,
    "evaluation": "how we measure",
    "seeds": "phantom scale",
    "poisoning.allow_vanished": "a trigger that vanishes is a control",
}
