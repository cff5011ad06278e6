"""The words that identify rows, shared by writers and readers.

They are in the `rows.jsonl` of every study, so changing a word makes existing studies unreadable.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "ALL_WEIGHTS",
    "ATTACK_SUCCESS",
    "AUROC",
    "CALIBRATED",
    "CENTRE",
    "CHANCE",
    "ENERGY",
    "FINDING",
    "HEAD",
    "LOOK_ALIKE_HIT",
    "MACRO",
    "MACRO_FREQUENT",
    "MAP_DETECTION",
    "MICRO",
    "NARROW",
    "POINTING_HIT",
    "POISONED_FILMS",
    "POSITIVE_PATIENTS",
    "RANDOMISED",
    "ROLES",
    "SEPARATION",
    "THRESHOLD",
    "TOP_OVERLAP",
    "VISIBLE_PIXELS",
    "VISIBLE_SHARE",
    "WIDE",
    "Role",
    "against",
    "mixed",
]

Role = Literal["twin", "backdoored"]
ROLES: tuple[Role, Role] = ("twin", "backdoored")
"""The two models of a pair; the reference (the twin) comes first."""

# Metrics of predictions.
AUROC = "auroc"
SEPARATION = "separation"
ATTACK_SUCCESS = "attack success"
THRESHOLD = "threshold"
POSITIVE_PATIENTS = "positive patients"

# Metrics of explanations.
POINTING_HIT = "pointing hit"
LOOK_ALIKE_HIT = "pointing hit on a look-alike"
ENERGY = "energy in footprint"
TOP_OVERLAP = "overlap of the highest 1 %"
MAP_DETECTION = "films told by the map"
RANDOMISED = "rank correlation with a randomised network"

# Metrics of the poisoned training films.
POISONED_FILMS = "poisoned films"
VISIBLE_PIXELS = "visible pixels (median)"
VISIBLE_SHARE = "visible share"

# Methods: how an AUROC is averaged, and what a map's pointing is compared with.
FINDING = "finding"
MACRO = "macro"
MACRO_FREQUENT = "macro of frequent findings"
MICRO = "micro"
CHANCE = "chance"
CENTRE = "centre"

# At: thresholds, tolerances, what was randomised.
CALIBRATED = "5 % clean false positives"
"""The threshold that 5 % of the clean validation films without the target exceed."""

WIDE = "one eighth of the side"
NARROW = "max(2 px, trigger side)"
"""The two tolerances of the pointing game."""

HEAD = "head"
ALL_WEIGHTS = "all weights"


def mixed(epsilon: float) -> str:
    """Return the "at" of a test set in which a share of the films, 0 to 1, is triggered."""
    return f"epsilon {epsilon:g}"


def against(look_alike: str) -> str:
    """Return the "at" of films with the trigger against the same films with a look-alike."""
    return f"beside {look_alike}"
