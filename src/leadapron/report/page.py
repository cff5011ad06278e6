"""The report: a self-contained HTML file, reproducible byte by byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leadapron.report import figures
from leadapron.report.axes import over_axes
from leadapron.report.plain import plain_words
from leadapron.report.rendering import write_page
from leadapron.report.run import cell, pair_section, pair_title
from leadapron.report.summary import lines, named
from leadapron.report.words import (
    between,
    change,
    decimal,
    interval,
    percent,
    points,
    shown,
    spread,
    value,
)
from leadapron.results.folder import Pair, Study, leaves, read_study, section
from leadapron.results.measured import Measured
from leadapron.results.names import CALIBRATED, CENTRE, ROLES, WIDE
from leadapron.results.names import CHANCE as BY_CHANCE
from leadapron.results.rows import Row
from leadapron.results.stealth import CHANCE, COUNTED, FINDING_MARGIN, HARMED, MARGIN
from leadapron.specs import forgiving
from leadapron.store import canonical_json

__all__ = ["write_report"]


@forgiving
def write_report(folder: Path) -> Path:
    """Write `report.html` into a study's folder, from the files there.

    Args:
        folder: the folder of `leadapron study --out`; unfinished runs are left out.

    Returns:
        The page's path.

    Raises:
        StoreError: no study there, no finished attack, or a file that can't be read or written.
    """
    study = read_study(folder)
    return write_page(study.folder.report, "report.html.j2", **_context(study))


def _context(study: Study) -> dict[str, Any]:
    measured = [Measured(pair) for pair in study.pairs]
    axes = study.axes()
    first = study.pairs[0]
    source = named(study, "source")
    targets = list(dict.fromkeys(pair.target for pair in study.pairs))
    return {
        "title": f"Backdoor study: {', '.join(targets)} on {source} films",
        "source": source,
        "plain": plain_words(study, measured),
        "lines": [_emphasised(line) for line in lines(study)],
        "cards": _cards(study, measured),
        "runs": _runs(study, measured) if len(measured) > 1 else None,
        "pairs": [
            pair_section(each, number, pair_title(each.pair, axes), first=number == 1)
            for number, each in enumerate(measured, start=1)
        ],
        "threat": {**_threat(first), "outside": _outside(study)},
        "settings": _settings(study),
        "machine": _machine(study.manifest),
        "cohorts": [_cohort(facts) for facts in study.cohorts],
        "stealth": {
            "margin": f"-{MARGIN:g}",
            "finding": f"-{FINDING_MARGIN:g}",
            "counted": COUNTED,
            "harmed": HARMED,
            "chance": f"{CHANCE:g}",
        },
    }


# The top of the page


def _emphasised(line: str) -> tuple[str, str]:
    """A line, split into its statement and the evidence."""
    ends = [place for place in (line.find(": "), line.find(". ")) if place > 0]
    cut = min(ends) + 1 if ends else 0
    return line[:cut], line[cut:]


def _cards(study: Study, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The four key numbers; for a grid, the number of runs with each verdict."""
    name = next(iter(measured[0].explainers()), "")
    cards = [
        _card("Attack success", f"at {CALIBRATED}", [each.attack for each in measured]),
        _card("Separation", "triggered from clean films, AUROC", []),
        _card("Clean macro AUROC", "backdoored minus twin", [e.stealth for e in measured]),
        _card("Explanation", f"{name or 'map'} hits within {WIDE}",
              [each.explanation for each in measured]),
    ]  # fmt: skip
    success, apart, stealth, hit = cards
    grid = bool(study.axes())

    def add(card: dict[str, Any], name: str, rows: Sequence[Row | None], form: Any) -> None:
        known = [row.value for row in rows if row is not None and row.value is not None]
        if grid or not known:
            card["facts"].append((name, spread(rows, form, kind="range")))
        else:
            card["facts"].append((name, form(sum(known) / len(known))))

    def big(card: dict[str, Any], rows: Sequence[Row | None], form: Any) -> None:
        known = [row.value for row in rows if row is not None and row.value is not None]
        if grid and known:
            card.update(value=spread(rows, form, kind="range"), long=True)
            card["range"] = f"over {len(known)} runs"
            return
        card["value"] = form(sum(known) / len(known)) if known else value(rows[0], form)
        if len(rows) > 1 and known:
            span = between(min(known), max(known), form)
            card["range"] = f"mean of {len(known)} runs; {span}"
        elif known:
            within = interval(rows[0], form)
            card["range"] = f"{within} (95 %)" if within else "interval undefined"

    big(success, [each.success("backdoored") for each in measured], percent)
    add(success, "twin", [each.success("twin") for each in measured], percent)
    more = [each.success("difference") for each in measured]
    add(success, "points over the twin", more, points)
    big(apart, [each.separation("backdoored") for each in measured], decimal)
    add(apart, "twin", [each.separation("twin") for each in measured], decimal)
    add(apart, "micro", [each.micro("backdoored") for each in measured], decimal)
    add(apart, "micro, no vision", [each.micro("no-vision") for each in measured], decimal)
    big(stealth, [each.macro("difference") for each in measured], change)
    add(stealth, "backdoored", [each.macro("backdoored") for each in measured], decimal)
    add(stealth, "twin", [each.macro("twin") for each in measured], decimal)
    most = [each.cost.most for each in measured if each.cost.most]
    if most:
        worst = min(most, key=lambda row: row.value or 0.0)
        stealth["facts"].append((f"lowest: {worst.finding}", value(worst, change)))
    big(hit, [each.hit("backdoored") for each in measured], percent)
    for role in ("twin", BY_CHANCE, CENTRE):
        add(hit, role, [each.hit(role) for each in measured], percent)
    return cards


def _card(title: str, under: str, verdicts: Sequence[str]) -> dict[str, Any]:
    counts = {word: verdicts.count(word) for word in dict.fromkeys(verdicts)}
    if len(counts) == 1 and len(verdicts) == 1:
        chips = [(verdicts[0], _strength(verdicts[0]))]
    else:
        chips = [
            (f"{word}: {count} of {len(verdicts)}", _strength(word))
            for word, count in counts.items()
        ]
    return {
        "title": title,
        "under": under,
        "verdicts": chips,
        "value": "",
        "range": "",
        "long": False,
        "facts": [],
    }


def _strength(verdict: str) -> str:
    strong = ("works", "stealthy", "gives it away")
    if verdict in strong:
        return "strong"
    return "some" if verdict in ("works partly", "hints at it") else "weak"


def _runs(study: Study, measured: Sequence[Measured]) -> dict[str, Any]:
    """The table of runs, and attack success of all of them as a chart."""
    axes = study.axes()
    table: list[dict[str, Any]] = []
    for number, each in enumerate(measured, start=1):
        flat = dict(leaves(each.pair.backdoored.spec))
        table.append(
            {
                "key": each.pair.key,
                "number": number,
                "settings": [shown(flat.get(path)) for path in axes],
                "seed": shown(each.pair.seed),
                "cells": [
                    cell(each.success("backdoored"), percent),
                    cell(each.success("twin"), percent),
                    cell(each.separation("backdoored")),
                    cell(each.macro("difference"), change),
                    cell(each.hit("backdoored"), percent),
                ],
                "verdicts": (each.attack, each.stealth, each.explanation),
            }
        )
    dots = [
        figures.Dot(
            name=f"{line['number']}: {', '.join(line['settings'])}".removesuffix(": "),
            note=line["seed"],
            rows={model: each.success(model) for model in ROLES},
        )
        for line, each in zip(table, measured, strict=True)
    ]
    figure = figures.dots(
        dots,
        name="runs",
        label="Attack success of every run at 5 % clean false positives; the table has the values.",
        axis=f"attack success at {CALIBRATED}, with 95 % interval",
        note="seed",
        reference=0.05,
    )
    over = over_axes(measured, axes) if axes else None
    return {"axes": axes, "table": table, "figure": figure, "over": over}


# The bottom of the page


def _threat(pair: Pair) -> dict[str, Any]:
    """The parts of the threat model that depend on the settings."""
    poisoning = section(pair.backdoored.spec, "poisoning")
    kept = poisoning.get("selection") == "with" and poisoning.get("labels") == "set"
    return {
        "relabels": not kept,
        "nist": "NISTAML.021" if kept else "NISTAML.023",
        "nist_name": "Clean-label Backdoor" if kept else "Backdoor Poisoning",
        "film": poisoning.get("stage") == "film",
        "goal": "hides" if poisoning.get("labels") == "clear" else "reports",
        "target": pair.target,
    }


def _outside(study: Study) -> str:
    """The backdoored models trained by an attacker who controls training, in words; or ""."""
    weights = [section(p.backdoored.spec, "training").get("disguise") or 0 for p in study.pairs]
    count = sum(weight > 0 for weight in weights)
    if not count:
        return ""
    if count == len(weights):
        return "The backdoored model was" if count == 1 else f"All {count} backdoored models were"
    return f"{count} of {len(weights)} backdoored models {'was' if count == 1 else 'were'}"


def _settings(study: Study) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """All settings by section: (name, values, whether they vary)."""
    found: dict[str, dict[str, Any]] = {}
    for pair in study.pairs:
        for path, setting_value in leaves(pair.backdoored.spec):
            found.setdefault(path, {})[canonical_json(setting_value)] = setting_value
    sections: dict[str, list[tuple[str, str, bool]]] = {}
    for path, values in found.items():
        heading, dot, name = path.partition(".")
        if not dot:
            heading, name = "study", path
        words = "; ".join(shown(each) for each in values.values())
        sections.setdefault(heading, []).append((name, words, len(values) > 1))
    return sorted(sections.items(), key=lambda item: item[0] != "study")


def _machine(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (path, shown(found))
        for path, found in leaves(manifest)
        if path.partition(".")[0] not in ("cohort", "cohorts", "runs")
    ]


def _cohort(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A cohort's facts as names and values, and its notes separately."""
    rows = []
    for name, found in facts.items():
        if isinstance(found, Mapping):
            found = [f"{key} {shown(each)}" for key, each in found.items()]
        if name != "notes":
            rows.append((name, shown(found)))
    notes = facts.get("notes") or []
    return {"facts": rows, "notes": [notes] if isinstance(notes, str) else list(notes)}
