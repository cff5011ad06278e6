"""An inspection in the terminal and as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from leadapron.models.inspection.document import Inspected, Setting, Trial
from leadapron.models.stated import ModelSettings
from leadapron.report.gallery import grey_png
from leadapron.report.rendering import write_page
from leadapron.report.words import listed, percent
from leadapron.text import count
from leadapron.types import Estimate

__all__ = ["inspect_lines", "write_inspection"]

SHOWN = 8
"""Trials that are shown at once."""

BASIS = {
    "stated": "stated",
    "file": "from the file",
    "tried": "found by trials",
    "outputs": "found in the outputs",
    "labels": "found in the outputs",
    "assumed": "ASSUMED",
    "unknown": "UNKNOWN",
}


TYPED = {
    "size": "N",
    "normalisation": "NAME|MEAN/STD",
    "findings": "NAME,NAME",
    "architecture": "NAME",
    "weights_key": "NAME",
    "operating_points": "X,X",
}
"""What follows an option that isn't one of a few words."""


def write_inspection(path: Path, found: Inspected) -> Path:
    """Write the page of an inspection; it holds the pixels of a few films.

    Args:
        path: the HTML file; it is replaced.
        found: the inspection.

    Returns:
        The path.

    Raises:
        StoreError: a file that can't be written.
    """
    best = found.trials[0] if found.trials else None
    return write_page(
        path,
        "inspect.html.j2",
        facts=found,
        headline=headline(found),
        cost=trials_sentence(found),
        basis=BASIS,
        evidence=_evidence,
        best=best,
        shown=SHOWN,
        cards=_cards(found),
        auroc=auroc,
        number=_number,
        percent=percent,
        chart=_chart(found.trials),
        views=[
            (view.words, [grey_png(image, 255) for image in view.images]) for view in found.views
        ],
    )


def headline(found: Inspected) -> str:
    """Return what is settled and what must be stated, in a sentence."""
    if found.verdict == "settled":
        return "SETTLED: nothing has to be stated"
    return f"CAN'T TELL: state {listed([_typed(option) for option in found.missing])}"


def _typed(option: str) -> str:
    """An option with what follows it."""
    name = option.removeprefix("--model.").replace("-", "_")
    kind = next(k for k in get_args(get_type_hints(ModelSettings)[name]) if k is not type(None))
    values = "|".join(map(str, get_args(kind))) if get_origin(kind) is Literal else TYPED[name]
    return f"{option} {values}"


def trials_sentence(found: Inspected) -> str:
    """Return what was tried, in a sentence."""
    if not found.tried:
        return "Nothing was tried: --clean gives films with true labels"
    return (
        f"{count(found.tried, 'combination')} of settings tried, the best on "
        f"{count(found.films, 'film')} of {count(found.patients, 'patient')}; p-values are "
        f"multiplied by {found.tried}"
    )


def inspect_lines(found: Inspected) -> list[str]:
    """Return an inspection for the terminal, line by line.

    Args:
        found: the inspection.
    """
    said = [headline(found), f"{found.origin[:1].upper()}{found.origin[1:]}.", ""]
    width = max(len(each.name) for each in found.settings)
    wide = min(40, max(len(each.value) for each in found.settings))
    said += [
        f"{each.name.replace('_', ' '):<{width}}  {each.value or '-':<{wide}}  {_basis(each)}"
        for each in found.settings
    ]
    said += ["", f"{trials_sentence(found)}."]
    for each in found.trials[:SHOWN]:
        fit = "" if math.isnan(each.misfit) else f", misfit {each.misfit:.3f}"
        said.append(f"  {words(each)}: AUROC {auroc(each.macro)} on {each.films} films{fit}")
    if len(found.trials) > SHOWN:
        said.append(f"  and {len(found.trials) - SHOWN} more (--json, --page)")
    if found.trials:
        said += [
            f"  {name}: AUROC {auroc(value)}" for name, value in found.trials[0].findings.items()
        ]
    said += [
        f"Output {each.finding}: probability {each.mean:.3f} on average ({each.low:.3f} to "
        f"{each.high:.3f}), prevalence {_number(each.prevalence)}, calibration error "
        f"{_number(each.error)}, saturated {percent(each.saturated)}"
        for each in found.outputs
    ]
    if len(found.networks) > 1:
        said += [
            f"Network {each.key}: {each.architecture}, {count(each.outputs, 'output')}"
            f"{', inspected' if each.opened else ''}"
            for each in found.networks
        ]
    if found.program is not None:
        said += [f"Program: {line}" for line in found.program.words]
    said += [f"Doubt: {line}" for line in found.doubts]
    said += [f"Note: {line}" for line in found.notes]
    return [*said, *([] if found.card is None else [f"Card: {found.card}"])]


def words(trial: Trial) -> str:
    """Return a trial's settings."""
    return f"{trial.size} px, {trial.normalisation}, {trial.aspect}"


def auroc(value: Estimate) -> str:
    """Return an AUROC with its interval."""
    if not value.defined:
        return "undefined"
    if math.isnan(value.low):
        return f"{value.value:.3f}"
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def _basis(setting: Setting) -> str:
    return ": ".join(filter(None, (BASIS[setting.basis], _evidence(setting))))


def _evidence(setting: Setting) -> str:
    """The words that say more than the basis does."""
    return "" if setting.basis in ("stated", "file") else setting.words


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def _cards(found: Inspected) -> list[dict[str, Any]]:
    """The tiles below the headline."""
    own = {each.name: each for each in found.settings}
    cards = []
    for name, title in (("size", "Size"), ("normalisation", "Normalisation"), ("head", "Head")):
        each = own.get(name)
        if each is not None:
            value = f"{each.value} px" if name == "size" else each.value
            cards.append({"title": title, "under": BASIS[each.basis].lower(), "value": value})
    if found.trials:
        macro = found.trials[0].macro
        cards.append(
            {
                "title": "AUROC",
                "under": "mean over findings"
                + (
                    ", no interval"
                    if math.isnan(macro.low)
                    else f", 95 % {macro.low:.3f} to {macro.high:.3f}"
                ),
                "value": _number(macro.value),
            }
        )
    return cards


LEFT, TOP, WIDTH, HEIGHT = 44, 12, 540, 200
"""Of the chart's field, in its own units."""


def _chart(trials: Sequence[Trial]) -> dict[str, Any] | None:
    """AUROC by size, a line for each normalisation; None for fewer than two sizes."""
    sizes = sorted({each.size for each in trials})
    if len(sizes) < 2:
        return None
    low, high = math.log(sizes[0]), math.log(sizes[-1])

    def across(size: int) -> float:
        return round(LEFT + WIDTH * (math.log(size) - low) / (high - low), 1)

    def down(value: float) -> float:
        return round(TOP + HEIGHT * (1 - value), 1)

    lines = []
    for name in dict.fromkeys(each.normalisation for each in trials):
        most = {}
        for each in sorted(trials, key=lambda each: each.films):
            if each.normalisation == name and each.macro.defined:
                most[each.size] = each
        dots = [
            {
                "x": across(size),
                "y": down(each.macro.value),
                "low": None if math.isnan(each.macro.low) else down(each.macro.low),
                "high": None if math.isnan(each.macro.high) else down(each.macro.high),
                "words": f"{words(each)}: {auroc(each.macro)}",
            }
            for size, each in sorted(most.items())
        ]
        if dots:
            lines.append({"name": name, "dots": dots})
    return {
        "lines": lines,
        "sizes": [(size, across(size)) for size in sizes],
        "levels": [(f"{level:.2f}", down(level)) for level in (0, 0.25, 0.5, 0.75, 1)],
        "left": LEFT, "right": LEFT + WIDTH, "bottom": TOP + HEIGHT,
        "width": LEFT + WIDTH + 16, "height": TOP + HEIGHT + 44,
    }  # fmt: skip
