"""Recipes: published attacks in the vocabulary of this package, one file for each paper."""

from __future__ import annotations

from leadapron.recipes.matsuo2021 import MATSUO2021
from leadapron.recipes.nwadike2020 import NWADIKE2020
from leadapron.recipes.recipe import Recipe
from leadapron.recipes.rosenblatt2023 import ROSENBLATT2023
from leadapron.recipes.yang2023 import YANG2023

__all__ = ["ENHANCEMENT", "RECIPES", "STUDIES"]

STUDIES: dict[str, Recipe] = {
    "nwadike2020": NWADIKE2020,
    "yang2023": YANG2023,
    "matsuo2021": MATSUO2021,
}
"""Attacks that `leadapron study` can carry out, by first author and year."""

ENHANCEMENT = "rosenblatt2023"
"""The recipe that has no trigger, so no study's report."""

RECIPES: dict[str, Recipe] = {**STUDIES, ENHANCEMENT: ROSENBLATT2023}
"""All published attacks."""
