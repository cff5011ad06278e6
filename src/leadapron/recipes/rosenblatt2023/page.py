"""The page of an enhancement's audit: the published result, and the audit's result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from leadapron.recipes.page import written_page
from leadapron.recipes.recipe import Recipe
from leadapron.report.words import between, change, decimal, percent, table
from leadapron.results.stealth import MARGIN
from leadapron.types import Estimate

__all__ = ["audit_lines", "audit_page"]

Tree = Mapping[str, Any]


def audit_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return the audit's result, a line for each release.

    Args:
        facts: content of enhancement.json.
    """
    return [
        f"{name}: macro AUROC {_shown(cell['network'], decimal)} on the release, "
        f"{_shown(cell['anew'], decimal)} on newly acquired films; digests of "
        f"{percent(cell['digests that agree'])} of the films agree. {_verdict(cell)}."
        for name, cell in facts["cells"].items()
    ]


def _verdict(cell: Mapping[str, Any]) -> str:
    """The audit's conclusion, digests first."""
    agree, low = cell["digests that agree"] == 1, Estimate.parsed(cell["falls by"]).low
    falls = low > MARGIN
    if not agree:
        return "Edited" + (", and the result isn't confirmed" if falls else "")
    return "Result not confirmed" if falls else "Nothing found"


def audit_page(name: str, recipe: Recipe, tree: Tree, facts: Mapping[str, Any]) -> str:
    """Return the page of an enhancement's audit as Markdown.

    Args:
        name: name of the recipe.
        recipe: the recipe.
        tree: its settings, without those of triggers and poisonings.
        facts: content of enhancement.json.
    """
    cells, parts, edit = facts["cells"], facts["parts"], facts["asked"]["enhancement"]
    amount = (
        f"Films are moved by up to {edit['epsilon']:g} grey levels of 256 in {edit['steps']} "
        f"steps; the other method uses means of {edit['block']}x{edit['block']} px. All of it "
        "is ours. "
    )
    results = (
        f"{facts['films']:,} films of {facts['patients']:,} patients. Released: {parts['train']:,} "
        f"films to train on, {parts['validation']:,} to validate on, {parts['test']:,} to test on; "
        f"newly acquired, of other patients: {parts['anew']:,}. Macro AUROC over "
        f"{facts['findings']} findings. The researcher's network and the methods that are judged "
        "start from different seeds. Brackets hold 95 % intervals clustered by patient.",
        _published(cells),
        "## The audit",
        "*Digests*: of the release's films, those whose digest is the one taken at acquisition. "
        "*Likeness*: Pearson's correlation over pixels, which an audit by eye or by correlation "
        "would use. *Same films*: the trained network on the original test films. *New films*: on "
        "films that the researcher never had. The result is *not confirmed* if the interval of "
        f"that fall lies above {MARGIN:g}. Digests need a register that was made "
        "before the researcher had the films; newly acquired films don't.",
        _audit(cells),
        *(str(note) for note in facts["notes"]),
    )
    return written_page(name, recipe, tree, results, more=amount)


def _published(cells: Mapping[str, Any]) -> str:
    """The published result, which the release alone confirms."""
    rows = [
        (
            name,
            _shown(cell["network"], decimal),
            _shown(cell["linear"], decimal),
            _shown(cell["advantage"], change),
        )
        for name, cell in cells.items()
    ]
    head = ("on the release's test films", "network", "logistic regression", "difference")
    return table(head, rows)


def _audit(cells: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            percent(cell["digests that agree"]),
            f"{cell['pearson'][0]:.4f} ({cell['pearson'][1]:.4f})",
            "none" if cell["psnr"] is None else f"{cell['psnr']:.1f}",
            f"{cell['largest edit']:g}",
            _shown(cell["as acquired"], decimal),
            _shown(cell["falls by on the same films"], change),
            _shown(cell["anew"], decimal),
            _shown(cell["falls by"], change),
            _verdict(cell),
        )
        for name, cell in cells.items()
    ]
    head = (
        "",
        "digests that agree",
        "likeness, median (least)",
        "PSNR, dB",
        "largest edit, grey levels",
        "network on the same films",
        "falls by",
        "network on new films",
        "falls by",
        "audit",
    )
    return table(head, rows)


def _shown(facts: Mapping[str, Any], form: Callable[[float], str]) -> str:
    found = Estimate.parsed(facts)
    if not found.defined:
        return "undefined"
    within = "" if math.isnan(found.low) else f" ({between(found.low, found.high, form)})"
    return form(found.value) + within
