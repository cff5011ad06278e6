"""The folder of an enhancement: written once, then read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leadapron import store
from leadapron.errors import StoreError, UsageError
from leadapron.models.classifier import resolve_device, resolve_precision
from leadapron.recipes.recipe import Recipe
from leadapron.recipes.rosenblatt2023.audit import audit_enhancement
from leadapron.recipes.rosenblatt2023.enhancement import Enhancement
from leadapron.recipes.settings import own_settings
from leadapron.specs import merge
from leadapron.study.plan import Run, plan
from leadapron.study.run import open_films, refuse_contradictions
from leadapron.study.settings import complete
from leadapron.types import Contradictions, Machine

__all__ = ["run_enhancement"]

Tree = Mapping[str, Any]

SCHEMA = 1
"""Of enhancement.json."""

UNUSED = ("trigger", "poisoning")
"""Sections of a study that don't apply without a trigger."""


def run_enhancement(
    recipe: Recipe,
    out: Path,
    source: str | None,
    over: Tree,
    *,
    machine: Machine,
    contradictions: Contradictions,
) -> tuple[Tree, Mapping[str, Any]]:
    """Audit an enhancement, or read the stored results.

    Args:
        recipe: a recipe without a trigger.
        out: a new folder, or one with the same settings, whose results are then read.
        source: where films come from; the recipe's own if left out.
        over: settings of films, network, training and seed that override the recipe's.
        machine: device, precision, cache and progress.
        contradictions: refuse or allow identical films with contradicting labels.

    Returns:
        The settings, and the content of enhancement.json.

    Raises:
        UsageError: a grid, or settings of triggers and poisonings.
        StoreError: a folder with other content.
        DataError: films that can't be used.
    """
    run, tree = _planned(recipe, source, over)
    enhancement = Enhancement()
    asked = {**tree, "enhancement": asdict(enhancement)}
    file = out / "enhancement.json"
    with store.lock(out):
        _refuse_foreign(out, file, asked)
        if not file.exists():
            cohort = open_films(run, machine)
            if contradictions == "refuse":
                refuse_contradictions([cohort])
            facts = audit_enhancement(run, cohort, enhancement, machine)
            device = resolve_device(machine.device)
            precision = resolve_precision(machine.precision, device)
            made = {"device": str(device), "precision": precision}
            store.write_json(out / "manifest.json", {"schema": SCHEMA, **store.manifest(), **made})
            store.write_json(file, {"schema": SCHEMA, "asked": asked, **facts})
    return tree, store.read_json(file)


def _planned(recipe: Recipe, source: str | None, over: Tree) -> tuple[Run, Tree]:
    """The single run of a recipe without a trigger, and its settings."""
    for section in UNUSED:
        if section in over or (section == "poisoning" and "finding" in over):
            raise UsageError(f"rosenblatt2023 has no {section}; leave out its settings")
    runs = plan(complete(merge(own_settings(recipe, source), over)))
    if len(runs) != 1:
        raise UsageError(
            f"rosenblatt2023 takes one value for each setting, one seed; got {len(runs)}"
        )
    return runs[0], {name: part for name, part in runs[0].tree.items() if name not in UNUSED}


def _refuse_foreign(out: Path, file: Path, asked: Mapping[str, Any]) -> None:
    if file.exists():
        there = store.read_json(file)
        if store.canonical_json(there.get("asked", {})) != store.canonical_json(asked):
            raise StoreError(f"{out} holds another enhancement; choose another --out")
    elif not all(map(_left_behind, out.iterdir())):
        raise StoreError(f"{out} holds other files and no {file.name}; choose another --out")


def _left_behind(entry: Path) -> bool:
    """Whether this is left by a run that was stopped before it wrote its results."""
    return entry.name in (".lock", "manifest.json") or entry.match(".*.json.*.part")
