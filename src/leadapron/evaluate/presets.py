"""What an evaluation of scans draws: cells and how many sets of each, from the files in cells/.

A preset's file says how many clean sets there are, and which poisoned ones: `cells`, each laid over
`base`; or `kinds`, how often each of the two lists of kinds.yaml is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, get_args

from leadapron.errors import UnknownNameError, UsageError
from leadapron.specs import build, grids, validated
from leadapron.store import parse_yaml

__all__ = ["GROUPS", "PRESETS", "Cell", "Group", "Kind", "Preset", "cells_file", "preset"]

PRESETS = ("smoke", "quick", "full", "two-class", "joined")
"""Files in cells/."""

Kind = Literal["poisoned", "world", "machines", "phantoms", "whole", "half"]

GROUPS: tuple[Kind, ...] = get_args(Kind)
"""Poisoned sources; worlds; clean phantoms of two machines with habits; clean phantoms; sources as
they are; halves of them."""

Group = Literal["known", "evading", "sealed"]
"""Kinds that choices for the scan were made on; attackers who know the scan; kinds that were kept
from all choices."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting that is drawn again and again, each time with another target and place.

    Args:
        name: in the report; it decides the draws too.
        group: what the attacker and the scan know of each other.
        trigger: settings of a trigger; a patch "fixed" without a row gets a place for each draw.
        poisoning: settings beside trigger and finding; a `fraction` may be "half" of the target's
            films, and `films` stands in place of one.
        draws: how often.
        contrast: grey levels between a patch and its surroundings on each poisoned film, at least;
            the patch's level is drawn from five. 0 leaves level and films as they are.
        reduced: the patch is stamped on a film so many times as large, and made smaller.
        target: power that the project set itself; None where it only measures.
        floor: lower end of the 95 % interval that it set itself beside it, in sets where
            `worlds.enough` films carry the mark; None where that end is to reach the target itself.
        balanced: films of the larger of a source's two classes are dropped by chance until both are
            of one size, others in each draw.
        commonest: the target is the finding that most films state, rather than drawn.
        reason: why a scan is blind to it, where one knows.
    """

    name: str
    group: Group = "known"
    trigger: Mapping[str, Any]
    poisoning: Mapping[str, Any] = field(default_factory=dict)
    draws: int = 10
    contrast: int = 0
    reduced: int = 1
    target: float | None = None
    floor: float | None = None
    balanced: bool = False
    commonest: bool = False
    reason: str = ""

    @property
    def sealed(self) -> bool:
        """Whether it was kept from all choices that were made for the scan."""
        return self.group == "sealed"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What is evaluated.

    Args:
        cells: poisoned sets.
        phantoms: clean sets of fresh phantoms, each of 1,000 films.
        halves: clean sets of half of the patients, of each source.
        worlds: sets of each of the kinds in `WORLDS`.
        machines: clean sets of fresh phantoms that two machines took, as `worlds.draw_habits`.
        whole: scans of each source as it is.
    """

    cells: tuple[Cell, ...]
    phantoms: int = 0
    halves: int = 0
    worlds: int = 0
    machines: int = 0
    whole: int = 0


def preset(name: str) -> Preset:
    """Return what a preset's file says.

    Raises:
        UnknownNameError: no such preset.
        UsageError: a file that says it wrongly.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    tree = dict(cells_file(name))
    cells = _cells(tree.pop("base", {}), tree.pop("cells", []))
    if kinds := tree.pop("kinds", {}):
        known = cells_file("kinds")
        for part, draws in kinds.items():
            cells += _cells({**known["base"], "draws": draws}, known[part])
    if len({cell.name for cell in cells}) < len(cells):
        raise UsageError(f"cells of the preset {name} share a name")
    return Preset(cells=tuple(cells), **validated(Preset, tree, name, elsewhere=["cells"]))


def cells_file(name: str) -> Mapping[str, Any]:
    """Return what a file in cells/ says."""
    file = resources.files("leadapron.evaluate") / "cells" / f"{name}.yaml"
    tree: Mapping[str, Any] = parse_yaml(file.read_bytes())
    return tree


def _cells(base: Mapping[str, Any], cells: list[Mapping[str, Any]]) -> list[Cell]:
    return [build(Cell, tree, "cell") for tree in grids({**base, "cells": cells})] if cells else []
