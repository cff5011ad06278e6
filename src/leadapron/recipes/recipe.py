"""What a recipe is: a published attack as settings, and whose each setting is.

Nothing of a paper is filled in by guessing: what is not known of it is ours, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["COMMON", "SCALED", "Cell", "Recipe", "Stated"]

Tree = Mapping[str, Any]


class Stated(NamedTuple):
    """What a publication says of a setting.

    Args:
        values: any of these is the publication's.
        where: in which part of it, as far as it was read.
    """

    values: Sequence[Any]
    where: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attack or control of a recipe.

    Args:
        what: in a sentence.
        whose: "paper" for an attack that the publication has, "ours" for what we add.
        settings: laid over the recipe's.
    """

    what: str
    whose: Literal["paper", "ours"]
    settings: Tree = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published attack in the vocabulary of a study.

    Args:
        citation: the publication.
        what: the attack, and what was read of it.
        settings: of all cells, at the published scale as far as that is known.
        cells: by name.
        published: what the publication says, by setting.
        ours: why we chose the others, by setting or by section.
        left_out: what the publication has and this study hasn't, or does otherwise.
        source: where films come from unless told otherwise.
        phantom: laid over the settings where they are phantoms.
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
