"""The report: one HTML file that needs nothing else, the same bytes from the same folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from numpy.typing import NDArray

from leadapron.report import figures
from leadapron.report.folder import (
    CALIBRATED,
    NARROW,
    WIDE,
    Pair,
    StudyFolder,
    leaves,
    read_study,
)
from leadapron.report.gallery import gallery
from leadapron.report.summary import Measured, lines, named
from leadapron.report.words import (
    MARGIN,
    between,
    change,
    decimal,
    interval,
    percent,
    points,
    setting,
    shown,
    spread,
    trigger_words,
    value,
)
from leadapron.store import Row, canonical_json, write_atomically

__all__ = ["write_report"]

_FIRST_GALLERY, _LATER_GALLERY = 12, 4
_MODELS = ("twin", "backdoored")
_REGIMES = ("clean", "triggered")
_SCORES = ("labels", "findings", *(f"{model}_{regime}" for model in _MODELS for regime in _REGIMES))
_MACRO, _FREQUENT = "macro", "macro of frequent findings"
_GALLERY = ("films", "triggered", "footprints", "twin_maps", "backdoored_maps", "probabilities")


def write_report(folder: Path) -> Path:
    """Write `report.html` into a study's folder, from what lies there alone.

    Args:
        folder: what `leadapron study --out` wrote; runs that aren't finished are left out.

    Returns:
        The page's path.

    Raises:
        StoreError: no study there, no finished attack, or a file that can't be read or written.
    """
    study = read_study(folder)
    text = _environment().get_template("report.html.j2").render(_context(study))
    path = study.folder / "report.html"
    with write_atomically(path) as file:
        file.write(text.encode())
    return path


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("leadapron.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["typeset"] = _typeset
    environment.filters["shown"] = shown
    return environment


def _typeset(text: str) -> str:
    """Real minus and multiplication signs, and numbers that stay with their units."""
    text = re.sub(r"(?<![\w.-])-(?=\d)", "\N{MINUS SIGN}", text)
    text = re.sub(r"(?<=\d) x (?=\d)", "\N{NARROW NO-BREAK SPACE}\N{MULTIPLICATION SIGN}"
                  "\N{NARROW NO-BREAK SPACE}", text)  # fmt: skip
    return re.sub(r"(?<=\d) (?=%|px\b)", "\N{NARROW NO-BREAK SPACE}", text)


def _context(study: StudyFolder) -> dict[str, Any]:
    measured = [Measured(pair) for pair in study.pairs]
    axes = study.axes()
    first = study.pairs[0]
    source = named(study, "source")
    targets = list(dict.fromkeys(pair.target for pair in study.pairs))
    return {
        "title": f"Backdoor study: {', '.join(targets)} on {source} films",
        "source": source,
        "lines": [_emphasised(line) for line in lines(study)],
        "cards": _cards(study, measured),
        "runs": _runs(study, measured) if len(measured) > 1 else None,
        "pairs": [
            _pair(each, number, _pair_title(each.pair, axes), first=number == 1)
            for number, each in enumerate(measured, start=1)
        ],
        "threat": _threat(first),
        "settings": _settings(study),
        "machine": _machine(study.manifest),
        "cohorts": [_cohort(facts) for facts in study.cohorts],
        "margin": f"{MARGIN:g}",
    }


# The top of the page


def _emphasised(line: str) -> tuple[str, str]:
    """A line as its statement and what it rests on."""
    ends = [place for place in (line.find(": "), line.find(". ")) if place > 0]
    cut = min(ends) + 1 if ends else 0
    return line[:cut], line[cut:]


def _cards(study: StudyFolder, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The four key numbers; over a grid, how many runs each verdict fits."""
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
    stealth["facts"].append(("margin", f"-{MARGIN:g}"))
    big(hit, [each.hit("backdoored") for each in measured], percent)
    for role in ("twin", "chance", "centre"):
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
    return "some" if verdict in ("works partly", "hints at it", "can't tell") else "weak"


def _runs(study: StudyFolder, measured: Sequence[Measured]) -> dict[str, Any]:
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
                    _cell(each.success("backdoored"), percent),
                    _cell(each.success("twin"), percent),
                    _cell(each.separation("backdoored")),
                    _cell(each.macro("difference"), change),
                    _cell(each.hit("backdoored"), percent),
                ],
                "verdicts": (each.attack, each.stealth, each.explanation),
            }
        )
    dots = [
        figures.Dot(
            name=f"Run {line['number']}",
            note=", ".join((*line["settings"], f"seed {line['seed']}")),
            rows={model: each.success(model) for model in _MODELS},
        )
        for line, each in zip(table, measured, strict=True)
    ]
    figure = figures.dots(
        dots,
        name="runs",
        label="Attack success of every run at 5 % clean false positives; the table has the values.",
        axis=f"attack success at {CALIBRATED}, with 95 % interval",
        note=", ".join([*(axis.rpartition(".")[2] for axis in axes), "seed"]),
        reference=0.05,
    )
    return {"axes": axes, "table": table, "figure": figure}


def _cell(row: Row | None, form: Any = decimal) -> tuple[str, str]:
    return value(row, form), interval(row, form)


# One run


def _pair_title(pair: Pair, axes: Sequence[str]) -> str:
    flat = dict(leaves(pair.backdoored.spec))
    point = {path: flat[path] for path in axes if path in flat}
    words = setting({**point, "seed": pair.seed})
    return words[0].upper() + words[1:] if not axes else words


def _pair(measured: Measured, number: int, title: str, *, first: bool) -> dict[str, Any]:
    pair = measured.pair
    scores = pair.backdoored.arrays("scores.npz", _SCORES)
    names = [] if scores is None else [str(name) for name in scores["findings"]]
    target = names.index(pair.target) if pair.target in names else None
    name = f"r-{pair.key}"
    histories = {"twin": pair.twin, "backdoored": pair.backdoored}
    epochs = {model: run.history() for model, run in histories.items() if run is not None}
    epochs = {model: found for model, found in epochs.items() if found}
    roc = success = None
    if scores is not None and target is not None:
        roc = _roc(measured, scores, target, name)
        success = _success(measured, scores, target, name)
    pictures = pair.backdoored.arrays("gallery.npz", _GALLERY)
    return {
        "key": pair.key,
        "number": number,
        "title": title,
        "target": pair.target,
        "has_twin": pair.twin is not None,
        "findings": _findings(measured, names, name),
        "attack": _attack_table(measured),
        "roc": roc,
        "success": success,
        "curves": figures.curves_over_epochs(epochs, name=f"{name}-epochs") if epochs else None,
        "gallery": pictures and gallery(pictures, most=_FIRST_GALLERY if first else _LATER_GALLERY),
        "explanation": _explanation_table(measured),
        "poisoning": _poisoning(pair),
    }


def _findings(measured: Measured, names: Sequence[str], name: str) -> dict[str, Any] | None:
    """Clean AUROC by finding: the chart and its table, in the order of the data set."""
    pair = measured.pair
    seen = {
        row.finding
        for row in pair.rows()
        if (row.metric, row.regime, row.method) == ("auroc", "clean", "finding")
    }
    order = [found for found in names if found in seen] + sorted(seen - set(names))
    if not order:
        return None
    roles = (*_MODELS, "difference")
    table, dots = [], []
    for finding in order:
        rows = {
            role: pair.row("auroc", role, regime="clean", method="finding", finding=finding)
            for role in roles
        }
        positives = next((row.positives for row in rows.values() if row), None)
        target = finding == pair.target
        table.append((finding, positives, target, *_cells(rows)))
        note = "not stated" if positives is None else f"{positives:,}"
        label = f"{finding} (target)" if target else finding
        dots.append(figures.Dot(label, note, {m: rows[m] for m in _MODELS}, strong=target))
    macros = []
    for method, words in ((_MACRO, "Macro average"), (_FREQUENT, "Macro, frequent findings")):
        rows = {role: measured.macro(role, method) for role in roles}
        averaged = next((row.positives for row in rows.values() if row), None)
        if method == _FREQUENT and averaged is None:
            continue
        note = "" if averaged is None else f"{averaged} of {len(order)} findings"
        dots.append(figures.Dot(words, note, {m: rows[m] for m in _MODELS}, strong=True))
        macros.append((words, note, _cells(rows)))
    figure = figures.dots(
        dots,
        name=f"{name}-findings",
        label="Clean AUROC of every finding, twin and backdoored; the table below has the values.",
        axis="AUROC on clean films, with 95 % interval",
        note="positive films",
        reference=0.5,
    )
    return {"figure": figure, "table": table, "macros": macros}


def _cells(rows: Mapping[str, Row | None]) -> tuple[tuple[str, str], ...]:
    forms = {"difference": change}
    return tuple(_cell(row, forms.get(role, decimal)) for role, row in rows.items())


def _roc(measured: Measured, scores: Mapping[str, NDArray[Any]], target: int, name: str) -> str:
    areas = {}
    for model in _MODELS:
        clean = measured.pair.row(
            "auroc", model, regime="clean", method="finding", finding=measured.pair.target
        )
        word = "clean twin" if model == "twin" else model
        areas[f"clean {model}"] = f"{word}, AUROC {value(clean)}"
        areas[f"separation {model}"] = f"{word}, AUROC {value(measured.separation(model))}"
    return figures.roc_curves(scores, target, areas, name=f"{name}-roc")


def _success(measured: Measured, scores: Mapping[str, NDArray[Any]], target: int, name: str) -> str:
    calibrated = {}
    for model in _MODELS:
        row = measured.pair.row("threshold", model, regime="clean", at=CALIBRATED)
        calibrated[model] = None if row is None else row.value
    return figures.success_over_threshold(scores, target, calibrated, name=f"{name}-success")


def _attack_table(measured: Measured) -> list[dict[str, Any]]:
    """What the attack does, as lines of backdoored, twin, difference, no vision."""

    def line(name: str, rows: Mapping[str, Row | None], form: Any, more: Any = None) -> None:
        if any(rows.values()):
            cells = [
                _cell(row, (more or form) if role == "difference" else form) if row else None
                for role, row in rows.items()
            ]
            n = next(row.n for row in rows.values() if row)
            table.append({"name": name, "cells": cells, "n": f"{n:,}" if n else ""})

    table: list[dict[str, Any]] = []
    roles = ("backdoored", "twin", "difference", "no-vision")
    pair = measured.pair
    for at, words in ((CALIBRATED, CALIBRATED), ("0.6", "threshold 0.6"), ("0.9", "threshold 0.9")):
        rows = {role: measured.success(role, at) for role in roles}
        line(f"Attack success, {words}", rows, percent, points)
    rows = {role: pair.row("threshold", role, regime="clean", at=CALIBRATED) for role in roles}
    line(f"Threshold with {CALIBRATED}", rows, decimal)
    rows = {role: measured.separation(role) for role in roles}
    line("Separation, triggered from clean films", rows, decimal, change)
    for regime, words in (
        ("triggered", "Micro AUROC, triggered films, trigger's label (the paper's infected AUROC)"),
        ("clean", "Micro AUROC, clean films (the paper's clean AUROC)"),
        ("triggered-clean-labels", "Micro AUROC, triggered films, true labels"),
    ):
        line(words, {role: measured.micro(role, regime) for role in roles}, decimal, change)
    for regime, words in (
        ("clean", "clean films"),
        ("triggered-clean-labels", "triggered films, true labels"),
    ):
        for method in (_MACRO, _FREQUENT):
            rows = {role: measured.macro(role, method, regime) for role in roles}
            line(f"{method[0].upper()}{method[1:]}, {words}".replace("acro", "acro AUROC", 1),
                 rows, decimal, change)  # fmt: skip
    return table


def _explanation_table(measured: Measured) -> list[dict[str, Any]]:
    """What each explanation shows, as lines of backdoored, twin, chance, centre."""
    pair = measured.pair
    table = []
    for explainer in measured.explainers():
        for metric, at in (
            ("pointing hit", WIDE),
            ("pointing hit", NARROW),
            ("energy in footprint", ""),
        ):
            for regime, films in (("triggered", "triggered"), ("clean", "the same, untriggered")):
                models = [
                    pair.row(metric, role, regime=regime, method=explainer, finding=None, at=at)
                    for role in ("backdoored", "twin")
                ]
                if not any(models):
                    continue
                references = [
                    pair.row(metric, "reference", regime=regime, method=method, finding=None, at=at)
                    for method in ("chance", "centre")
                ]
                n = next(row.n for row in models if row)
                cells = [_cell(row, percent) if row else None for row in models + references]
                table.append(
                    {
                        "explainer": explainer,
                        "name": f"{metric[0].upper()}{metric[1:]}" + (f", within {at}" * bool(at)),
                        "films": films,
                        "cells": cells,
                        "n": f"{n:,}",
                    }
                )
    return table


def _poisoning(pair: Pair) -> list[tuple[str, str]]:
    """What was done to the training films, in words."""
    spec = pair.backdoored.spec
    poisoning = _section(spec, "poisoning")
    facts = [("Trigger", trigger_words(_section(spec, "trigger"))), ("Target", pair.target)]
    fraction = poisoning.get("fraction")
    if isinstance(fraction, int | float):
        facts.append(("Fraction asked for", f"{100 * fraction:g} % of the training films"))
    for metric, name in (
        ("poisoned films", "Poisoned films"),
        ("visible pixels (median)", "Pixels that the trigger changes in the image (median)"),
        ("visible share", "Poisoned films in which it changes a pixel"),
    ):
        row = pair.row(metric, "backdoored")
        if row is None:
            continue
        form = percent if metric == "visible share" else _count
        facts.append((name, value(row, form)))
    facts += [
        (name, shown(poisoning[key]))
        for key, name in (("stage", "Stage"), ("mode", "Mode"), ("selection", "Selection"),
                          ("labels", "Labels"))
        if key in poisoning
    ]  # fmt: skip
    return facts


def _count(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"


# The bottom of the page


def _threat(pair: Pair) -> dict[str, Any]:
    """What depends on the settings in the threat model."""
    poisoning = _section(pair.backdoored.spec, "poisoning")
    kept = poisoning.get("selection") == "with" and poisoning.get("labels") == "set"
    return {
        "relabels": not kept,
        "nist": "NISTAML.021" if kept else "NISTAML.023",
        "nist_name": "Clean-label Backdoor" if kept else "Backdoor Poisoning",
        "film": poisoning.get("stage") == "film",
        "goal": "hides" if poisoning.get("labels") == "clear" else "reports",
        "target": pair.target,
    }


def _settings(study: StudyFolder) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """All settings by section: (name, values, whether they vary)."""
    found: dict[str, dict[str, Any]] = {}
    for pair in study.pairs:
        for path, setting_value in leaves(pair.backdoored.spec):
            found.setdefault(path, {})[canonical_json(setting_value)] = setting_value
    sections: dict[str, list[tuple[str, str, bool]]] = {}
    for path, values in found.items():
        section, dot, name = path.partition(".")
        if not dot:
            section, name = "study", path
        words = "; ".join(shown(each) for each in values.values())
        sections.setdefault(section, []).append((name, words, len(values) > 1))
    return sorted(sections.items(), key=lambda item: item[0] != "study")


def _machine(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (path, shown(found))
        for path, found in leaves(manifest)
        if path.partition(".")[0] not in ("cohort", "cohorts")
    ]


def _cohort(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A cohort's facts as names and values, its notes apart."""
    rows = []
    for name, found in facts.items():
        if isinstance(found, Mapping):
            found = [f"{key} {shown(each)}" for key, each in found.items()]
        if name != "notes":
            rows.append((name, shown(found)))
    notes = facts.get("notes") or []
    return {"facts": rows, "notes": [notes] if isinstance(notes, str) else list(notes)}


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tree.get(name)
    return found if isinstance(found, Mapping) else {}
