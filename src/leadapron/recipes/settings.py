"""Converts a recipe or a preset to a study."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leadapron.errors import UsageError
from leadapron.recipes.nwadike2020 import CORRECTED, Preset
from leadapron.recipes.recipe import Recipe
from leadapron.sources.nih import NWADIKE2020_FIRST_TEST_PATIENT, read_labels
from leadapron.specs import merge
from leadapron.study.settings import complete

__all__ = ["own_settings", "preset_settings", "recipe_settings"]

logger = logging.getLogger(__name__)

Tree = Mapping[str, Any]


def recipe_settings(recipe: Recipe, source: str | None = None, over: Tree | None = None) -> Tree:
    """Return a recipe's study with all defaults written out.

    Args:
        recipe: the recipe, whose cells become the study's.
        source: where films come from; the recipe's own if left out.
        over: settings that override the recipe's, but not its cells'.
    """
    cells = [cell.settings for cell in recipe.cells.values()]
    return complete({**merge(own_settings(recipe, source), over or {}), "cells": cells})


def own_settings(recipe: Recipe, source: str | None = None) -> Tree:
    """Return a recipe's own settings for films of a source, without cells."""
    opened = source or recipe.source
    scaled = recipe.phantom if opened.partition(":")[0] == "phantom" else {}
    return merge(merge(recipe.settings, scaled), {"source": {"name": opened}})


def preset_settings(preset: Preset, source: str | None, over: Tree) -> Tree:
    """Return a preset's study with all defaults written out.

    Args:
        preset: one of `PRESETS`.
        source: where films come from; the preset's own if left out.
        over: settings that override the preset's, but not its axes.

    Raises:
        UsageError: no source, for a preset without films of its own.
    """
    name = source or preset.source
    if not name:
        raise UsageError("this preset needs real films; give them, as --source nih:PATH")
    base = merge(CORRECTED, preset.settings)
    opened: dict[str, Any] = {"name": name}
    if name.partition(":")[0] == preset.source.partition(":")[0]:
        opened |= base.get("source", {})
    if name.startswith("nih:"):
        opened["split"] = _split(name)
    geometry = {"size": preset.size, "film_size": preset.film}
    base = merge({**base, "source": opened}, {"preprocessing": geometry})
    measured = {
        "evaluation": over.get("evaluation", {})
    }  # never an axis, so the user's settings apply
    cells = [merge(cell, measured) if "evaluation" in cell else cell for cell in preset.cells]
    return complete({**merge(base, over), "cells": cells})


def _split(source: str) -> str:
    """The paper's split if the source has its test patients, otherwise the source's own."""
    patients = read_labels(Path(source.partition(":")[2])).patients
    there = sum(int(p) >= NWADIKE2020_FIRST_TEST_PATIENT for p in set(patients.tolist()))
    if there:
        return "nwadike2020"
    logger.info(
        "no patient from %d on, the paper's test patients: the source's own split is used",
        NWADIKE2020_FIRST_TEST_PATIENT,
    )
    return "lists"
