"""The page of a recipe: the origin of each setting, omissions, and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leadapron.recipes.recipe import Cell, Recipe
from leadapron.recipes.settings import own_settings
from leadapron.report.words import change, percent, points, shown, spread, table
from leadapron.results.folder import Pair, leaves
from leadapron.results.measured import Measured
from leadapron.results.names import CALIBRATED
from leadapron.specs import merge
from leadapron.store import canonical_json
from leadapron.study.plan import plan, without
from leadapron.study.settings import complete

__all__ = ["recipe_page", "written_page"]

Tree = Mapping[str, Any]


def recipe_page(name: str, recipe: Recipe, tree: Tree, pairs: Sequence[Pair]) -> str:
    """Return a recipe's page as Markdown.

    Args:
        name: name of the recipe.
        recipe: the recipe.
        tree: the study's settings.
        pairs: the finished attacks, each with its twin.
    """
    results = (
        f"Attack success: share of the triggered test films on which the attack changes the "
        f"report as intended, at {CALIBRATED}; *twin*: the clean twin on the same films. Brackets "
        "hold 95 % intervals, or the range over several seeds. Clean difference: macro AUROC on "
        "clean films, backdoored minus twin.",
        _results_table(recipe, tree, pairs),
    )
    return written_page(name, recipe, tree, results)


def written_page(
    name: str, recipe: Recipe, tree: Tree, results: Sequence[str], *, more: str = ""
) -> str:
    """Return the page that all recipes share as Markdown, with the results of one.

    Args:
        name: name of the recipe.
        recipe: the recipe.
        tree: its complete settings.
        results: paragraphs and tables below "Results".
        more: further remarks on the settings.
    """
    parts = [
        f"# Recipe {name}",
        recipe.citation,
        recipe.what,
        "## Settings: the paper's and ours",
        _settings_table(recipe, tree),
        f"{more}All other settings are defaults of `leadapron study`, and ours.",
        "## Omissions and differences",
        "\n".join(f"- {sentence}" for sentence in recipe.left_out),
        "## Attacks and controls",
        "\n".join(
            f"- **{label}** ({'the paper has it' if cell.whose == 'paper' else 'ours'}): "
            f"{cell.what}."
            for label, cell in recipe.cells.items()
        ),
        "## Results",
        *results,
    ]
    return "\n\n".join(parts) + "\n"


def _settings_table(recipe: Recipe, tree: Tree) -> str:
    """Settings of the recipe and the user, and their origin."""
    base = without(tree, "cells")
    here = dict(leaves(base))
    source = str(here["source.name"])
    own = own_settings(recipe, source)
    meant = dict(leaves(complete(own)))
    set_here = {path for path, _ in leaves(own)}
    rows = []
    for path, found in here.items():
        asked = found != meant.get(path)
        if path in set_here or asked:
            rows.append((path, shown(found), _whose(recipe, path, found, asked)))
    for label, cell in recipe.cells.items():
        rows += [
            (f"{path} ({label})", shown(found), _whose(recipe, path, found, False))
            for path, found in leaves(cell.settings)
        ]
    return table(("setting", "here", "whose"), rows)


def _whose(recipe: Recipe, path: str, found: Any, asked: bool) -> str:
    """The part of the publication that states a value, or the reason for ours."""
    stated = recipe.published.get(path)
    if stated is not None and found in stated.values:
        return f"the paper's ({stated.where})"
    reason = recipe.ours.get(path) or recipe.ours.get(path.partition(".")[0], "")
    reason = "set by the user" if asked else reason
    theirs = "" if stated is None else f"; the paper's: {shown(stated.values)} ({stated.where})"
    return f"ours: {reason}{theirs}"


def _results_table(recipe: Recipe, tree: Tree, pairs: Sequence[Pair]) -> str:
    rows = []
    for label, cell in recipe.cells.items():
        found = _of_cell(tree, cell, pairs)
        settings = {canonical_json(without(each.pair.backdoored.spec, "seed")) for each in found}
        kind = "mean" if len(settings) == 1 else "range"
        rows.append(
            (
                label,
                spread([each.success("backdoored") for each in found], percent, kind=kind),
                spread([each.success("twin") for each in found], percent, kind=kind),
                spread([each.success("difference") for each in found], points, kind=kind),
                spread([each.macro("difference") for each in found], change, kind=kind),
            )
        )
    head = ("", "attack success", "twin", "difference, points", "clean difference")
    return table(head, rows)


def _of_cell(tree: Tree, cell: Cell, pairs: Sequence[Pair]) -> list[Measured]:
    """The finished attacks of one cell."""
    runs = [run.tree for run in plan({**tree, "cells": [cell.settings]})]
    found = []
    for pair in pairs:
        aimed = {
            "poisoning": {"finding": pair.target}
        }  # the run names a target that the settings left open
        wanted = [r if r["poisoning"]["finding"] else merge(r, aimed) for r in runs]
        if canonical_json(pair.backdoored.spec) in map(canonical_json, wanted):
            found.append(Measured(pair))
    return found
