"""A study's settings by section, with their defaults; torch is not loaded for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from leadapron.attacks.poisoning import Poisoning
from leadapron.attacks.triggers import TRIGGERS
from leadapron.errors import UnknownNameError, UsageError
from leadapron.explainers import EXPLAINERS
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.settings import Network, Training
from leadapron.plugins import Registry, refuse_plugins
from leadapron.sources import SOURCES, source_settings
from leadapron.specs import MOST_SEEDS, REQUIRED, Parameter, grids, merge, parameters, united

__all__ = ["SECTIONS", "SHORTHANDS", "Evaluation", "complete", "sections", "settings"]

Tree = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How models are measured.

    Args:
        resamples: patient-bootstrap resamples behind the AUROCs' intervals, 20 or more.
        explainer: name of the explainer, or several as "layer-cam/occlusion"; the report shows the
            first one's maps.
        explained: test films whose maps are measured, 1 or more.
        gallery: films shown in the report.
        trigger: settings in which the test films' trigger differs from the planted one, as
            "value=200/place=corner"; "" for none.
        turned: degrees by which triggered test films are rotated, -180 to 180.
        recompressed: JPEG quality at which triggered test films are saved again; 0 for none.

    Raises:
        UsageError: a value outside its range, or an unknown explainer.
    """

    resamples: int = 1000
    explainer: str = "layer-cam"
    explained: int = 300
    gallery: int = 6
    trigger: str = ""
    turned: float = 0.0
    recompressed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("resamples", 20), ("explained", 1), ("gallery", 0)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"`evaluation.{name}` {getattr(self, name)}: expected {least} or more"
                )
        for name in self.explainers:
            EXPLAINERS.require(name)

    @property
    def differences(self) -> dict[str, str]:
        """Settings of the test films' trigger that differ, as text.

        Raises:
            UsageError: a setting without a value.
        """
        found = {}
        for part in filter(None, self.trigger.split("/")):
            name, equals, value = part.partition("=")
            if not (name.strip() and equals and value.strip()):
                raise UsageError(
                    f"`evaluation.trigger` {self.trigger}: expected settings, as value=200/side=4"
                )
            found[name.strip()] = value.strip()
        return found

    @property
    def explainers(self) -> list[str]:
        """The explainers by name, in order."""
        return self.explainer.split("/")


LARGEST_SEED = 2**31 - 1

SHORTHANDS = {
    "size": ("preprocessing", "size"),
    "dtype": ("preprocessing", "dtype"),
    "epochs": ("training", "epochs"),
    "finding": ("poisoning", "finding"),
}
"""Short names of settings."""

_NAMED: dict[str, tuple[str, Registry[Callable[..., Any]]]] = {
    "source": ("phantom", SOURCES),
    "trigger": ("patch", TRIGGERS),
}
"""Sections whose `name` decides which settings they have, with the default name."""

_FIXED: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "preprocessing": (Preprocessing, {"size": 64}),
    "network": (Network, {}),
    "poisoning": (Poisoning, {"finding": ""}),
    "training": (Training, {}),
    "evaluation": (Evaluation, {}),
}
"""The other sections, with what a study adds to their own defaults."""

SECTIONS = ("source", "preprocessing", "network", "trigger", "poisoning", "training", "evaluation")


def sections(tree: Tree) -> dict[str, dict[str, Parameter]]:
    """Return each section's settings, which may depend on its name.

    Args:
        tree: a study's settings; "source" and "trigger" may be names or hold a "name".
    """
    found = {}
    for name in SECTIONS:
        if name in _NAMED:
            default, known = _NAMED[name]
            given = _name_of(tree.get(name), default)
            if name == "source":
                found[name] = source_settings(given)
            else:
                found[name] = parameters(known.find(given))
        else:
            found[name] = parameters(_FIXED[name][0])
    found["poisoning"].pop("trigger")
    return found


def complete(tree: Tree) -> Tree:
    """Return a study's settings with every default written out.

    Args:
        tree: settings by section; "source", "network" and "trigger" may be a plain name, lists
            are axes, and `SHORTHANDS` are understood. "cells" is a list of such trees: each is
            laid over the other settings and gives a grid of its own.

    Raises:
        UnknownNameError: an unknown section, setting, source or trigger.
        UsageError: a value of the wrong type.
    """
    refuse_plugins(tree, "a spec")
    tree = {**_spelled_out(tree)}
    cells = tree.pop("cells", None)
    known = (*SECTIONS, "seed", "seeds")
    for name in tree:
        if name not in known:
            raise UnknownNameError("setting", name, (*known, *SHORTHANDS, "cells"))
    whole: dict[str, Any] = {
        section: _completed(section, settings, tree.get(section, {}))
        for section, settings in sections(tree).items()
    }
    whole["seed"] = tree.get("seed", 0)
    whole["seeds"] = tree.get("seeds", 1)
    for name, least, most in (("seed", 0, LARGEST_SEED), ("seeds", 1, MOST_SEEDS)):
        value = whole[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UsageError(f"--{name} {value}: expected a whole number, {least} to {most:,}")
    if cells is not None:
        grids({"cells": cells})  # raises the precise error
        whole["cells"] = [_spelled_out(cell) for cell in cells]
        for tree in grids(whole):
            complete(tree)
    return whole


def _spelled_out(tree: Tree) -> Tree:
    """Settings with shorthands and plain names moved into their sections."""
    spelled = dict(tree)
    for short, (section, setting) in SHORTHANDS.items():
        if short in spelled:
            spelled = merge(spelled, {section: {setting: spelled.pop(short)}})
    for section in (*_NAMED, "network"):
        if section in spelled and not isinstance(spelled[section], Mapping):
            spelled[section] = {"name": spelled[section]}
    return spelled


def _completed(section: str, settings: Mapping[str, Parameter], given: Any) -> Tree:
    """One section's settings with its defaults."""
    if not isinstance(given, Mapping):
        raise UsageError(f"{section}: {given!r}; expected settings, as {section}.NAME: value")
    defaults = {n: p.default for n, p in settings.items() if p.default is not REQUIRED}
    if section in _NAMED:
        defaults = {"name": _NAMED[section][0], **defaults}
    else:
        defaults |= _FIXED[section][1]
    for name in given:
        if name not in defaults:
            raise UnknownNameError(f"setting of {section}", name, defaults)
    return {**defaults, **given}


def settings() -> dict[str, dict[str, Parameter]]:
    """Return every setting by section; of "source" and "trigger" those of all kinds together."""
    found = sections({})
    for section, (_, kinds) in _NAMED.items():
        found[section] = united(kinds)
    return found


def _name_of(given: Any, default: str) -> str:
    if isinstance(given, Mapping):
        given = given.get("name", default)
    return str(default if given is None else given)
