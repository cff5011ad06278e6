"""The page of an enhancement's audit: what the researcher publishes, and what an audit sees."""

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
        facts: what enhancement.json holds.
    """
    return [
        f"{name}: macro AUROC {_shown(cell['network'], decimal)} on the release, "
        f"{_shown(cell['anew'], decimal)} on films acquired anew; digests of "
        f"{percent(cell['digests that agree'])} of the films agree. {_verdict(cell)}."
        for name, cell in facts["cells"].items()
    ]


def _verdict(cell: Mapping[str, Any]) -> str:
    """What the audit concludes, digests first."""
    agree, low = cell["digests that agree"] == 1, Estimate.parsed(cell["falls by"]).low
    falls = low > MARGIN
    if not agree:
        return "Edited" + (", and the result is not kept" if falls else "")
    return "Result not kept" if falls else "Nothing found"


def audit_page(name: str, recipe: Recipe, tree: Tree, facts: Mapping[str, Any]) -> str:
    """Return the page of an enhancement's audit as Markdown.

    Args:
        name: of the recipe.
        recipe: what was carried out.
        tree: its settings, those of triggers and poisonings left out.
        facts: what enhancement.json holds.
    """
    cells, parts, edit = facts["cells"], facts["parts"], facts["asked"]["enhancement"]
    amount = (
        f"Films are moved by up to {edit['epsilon']:g} grey levels of 256 in {edit['steps']} "
        f"steps; the other method sees means of {edit['block']}x{edit['block']} px. All of it "
        "is ours. "
    )
    results = (
        f"{facts['films']:,} films of {facts['patients']:,} patients. Released: {parts['train']:,} "
        f"films to train on, {parts['validation']:,} to validate on, {parts['test']:,} to test on; "
        f"acquired anew, of other patients: {parts['anew']:,}. Macro AUROC over "
        f"{facts['findings']} findings. The researcher's network and the methods that are judged "
        "start from different seeds. Brackets hold 95 % intervals clustered by patient.",
        _published(cells),
        "## The audit",
        "*Digests*: of the release's films, those whose digest is the one taken at acquisition. "
        "*Likeness*: Pearson's correlation over pixels, which an audit by eye or by correlation "
        "would go by. *Same films*: what the trained network makes of the test films as they were "
        "acquired. *Anew*: of films that the researcher never had. The result is *not kept* where "
        f"the interval of that fall lies above {MARGIN:g}. Digests need a register that was made "
        "before the researcher had the films; films acquired anew need none.",
        _audit(cells),
        *(str(note) for note in facts["notes"]),
    )
    return written_page(name, recipe, tree, results, more=amount)


def _published(cells: Mapping[str, Any]) -> str:
    """What the researcher publishes, and whoever has the release alone confirms."""
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
        "network on films anew",
        "falls by",
        "the audit says",
    )
    return table(head, rows)


def _shown(facts: Mapping[str, Any], form: Callable[[float], str]) -> str:
    found = Estimate.parsed(facts)
    if not found.defined:
        return "undefined"
    within = "" if math.isnan(found.low) else f" ({between(found.low, found.high, form)})"
    return form(found.value) + within
