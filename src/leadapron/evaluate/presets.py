"""Presets of an evaluation of scans: cells and their numbers of sets, from the files in cells/.

A preset's file states the number of clean sets and the poisoned sets: `cells`, each of which
overrides `base`; or `kinds`, the number of draws for each of the two lists of kinds.yaml.
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
"""Kinds that were used to develop the scan; attackers who know the scan; kinds that were held out
from development."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting that is drawn repeatedly, each time with another target and place.

    Args:
        name: name in the report; it seeds the draws too.
        group: what the attacker and the scan know about each other.
        trigger: settings of a trigger; a patch "fixed" without a row gets a place for each draw.
        poisoning: settings beside trigger and finding; a `fraction` may be "half" of the target's
            films, and `films` stands in place of one.
        draws: number of draws.
        contrast: grey levels between a patch and its surroundings on each poisoned film, at least;
            the patch's level is drawn from five. 0 leaves level and films as they are.
        reduced: the patch is stamped on a film so many times as large, and made smaller.
        target: the project's goal for the detection rate; None if there is no goal.
        floor: the goal for the lower end of its 95 % interval, in sets where `worlds.enough` films
            carry the mark; None if that end must reach the target itself.
        balanced: films of the larger of a source's two classes are dropped at random until both
            have the same size; each draw drops others.
        commonest: the target is the most frequent finding instead of a random one.
        reason: why a scan can't detect it, if that is known.
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
        """Whether it was held out from the scan's development."""
        return self.group == "sealed"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The sets of an evaluation.

    Args:
        cells: poisoned sets.
        phantoms: clean sets of fresh phantoms, each of 1,000 films.
        halves: clean sets of half of the patients, of each source.
        worlds: sets of each of the kinds in `WORLDS`.
        machines: clean sets of fresh phantoms from two machines, as `worlds.draw_habits`.
        whole: scans of each source as it is.
    """

    cells: tuple[Cell, ...]
    phantoms: int = 0
    halves: int = 0
    worlds: int = 0
    machines: int = 0
    whole: int = 0


def preset(name: str) -> Preset:
    """Return a preset, read from its file.

    Raises:
        UnknownNameError: no such preset.
        UsageError: an invalid file.
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
    """Return the content of a file in cells/."""
    file = resources.files("leadapron.evaluate") / "cells" / f"{name}.yaml"
    tree: Mapping[str, Any] = parse_yaml(file.read_bytes())
    return tree


def _cells(base: Mapping[str, Any], cells: list[Mapping[str, Any]]) -> list[Cell]:
    return [build(Cell, tree, "cell") for tree in grids({**base, "cells": cells})] if cells else []
