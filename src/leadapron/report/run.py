"""The page's section on one attack and its twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from leadapron.report import figures
from leadapron.report.gallery import gallery
from leadapron.report.words import (
    change,
    decimal,
    interval,
    percent,
    points,
    setting,
    shown,
    trigger_words,
    value,
)
from leadapron.results.folder import Pair, leaves, section
from leadapron.results.measured import Measured
from leadapron.results.names import (
    ALL_WEIGHTS,
    AUROC,
    CALIBRATED,
    CENTRE,
    CHANCE,
    ENERGY,
    FINDING,
    HEAD,
    LOOK_ALIKE_HIT,
    MACRO,
    MACRO_FREQUENT,
    MAP_DETECTION,
    NARROW,
    POINTING_HIT,
    POISONED_FILMS,
    RANDOMISED,
    ROLES,
    THRESHOLD,
    VISIBLE_PIXELS,
    VISIBLE_SHARE,
    WIDE,
    against,
)
from leadapron.results.rows import Row

__all__ = ["cell", "pair_section", "pair_title"]

_FIRST_GALLERY, _LATER_GALLERY = 12, 4
_REGIMES = ("clean", "triggered")
_SCORES = ("labels", "findings", *(f"{model}_{regime}" for model in ROLES for regime in _REGIMES))
_DETECTED = "Detection by the map, against the same films"
_MAP_NAMES = {
    (POINTING_HIT, WIDE): f"Pointing hit, within {WIDE}",
    (POINTING_HIT, NARROW): f"Pointing hit, within {NARROW}",
    (MAP_DETECTION, ""): f"{_DETECTED} untriggered (AUROC)",
    (
        MAP_DETECTION,
        against("letters"),
    ): f"{_DETECTED} with a letter (AUROC)",
    (MAP_DETECTION, against("leads")): f"{_DETECTED} with a lead (AUROC)",
    (LOOK_ALIKE_HIT, "letters"): "Pointing hit on a letter instead",
    (LOOK_ALIKE_HIT, "leads"): "Pointing hit on a lead instead",
    (RANDOMISED, HEAD): "Rank correlation with the maps of an untrained head",
    (RANDOMISED, ALL_WEIGHTS): "Rank correlation with the maps of an untrained network",
}
_MAP_LINES = (
    (POINTING_HIT, WIDE, percent),
    (POINTING_HIT, NARROW, percent),
    (ENERGY, "", percent),
    *((metric, at, percent if metric == LOOK_ALIKE_HIT else decimal)
      for metric, at in _MAP_NAMES if metric != POINTING_HIT),
)  # fmt: skip
_GALLERY = ("films", "triggered", "footprints", "twin_maps", "backdoored_maps", "probabilities")


def pair_title(pair: Pair, axes: Sequence[str]) -> str:
    """Return the settings that distinguish an attack from the study's others."""
    flat = dict(leaves(pair.backdoored.spec))
    point = {path: flat[path] for path in axes if path in flat}
    words = setting({**point, "seed": pair.seed})
    return words[0].upper() + words[1:] if not axes else words


def pair_section(measured: Measured, number: int, title: str, *, first: bool) -> dict[str, Any]:
    """Return the page's section on one attack.

    Args:
        measured: the attack.
        number: its position on the page, from 1.
        title: the settings that distinguish it from the others.
        first: whether the section is open, with a larger gallery.
    """
    pair = measured.pair
    scores = pair.backdoored.scores(_SCORES)
    names = [] if scores is None else [str(name) for name in scores["findings"]]
    target = names.index(pair.target) if pair.target in names else None
    name = f"r-{pair.key}"
    histories = {"twin": pair.twin, "backdoored": pair.backdoored}
    epochs = {model: run.history() for model, run in histories.items() if run is not None}
    epochs = {model: found for model, found in epochs.items() if found}
    roc = success = None
    # These figures show a feigned finding; for a hidden one, the table has the numbers.
    if scores is not None and target is not None and not _hides(pair):
        roc = _roc(measured, scores, target, name)
        success = _success(measured, scores, target, name)
    pictures = pair.backdoored.gallery(_GALLERY)
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
        if (row.metric, row.regime, row.method) == (AUROC, "clean", FINDING)
    }
    order = [found for found in names if found in seen] + sorted(seen - set(names))
    if not order:
        return None
    roles = (*ROLES, "difference")
    table, dots = [], []
    for finding in order:
        rows = {
            role: pair.row(AUROC, role, regime="clean", method=FINDING, finding=finding)
            for role in roles
        }
        positives = next((row.positives for row in rows.values() if row), None)
        target = finding == pair.target
        table.append((finding, positives, target, *_cells(rows)))
        note = "not stated" if positives is None else f"{positives:,}"
        label = f"{finding} (target)" if target else finding
        dots.append(figures.Dot(label, note, {m: rows[m] for m in ROLES}, strong=target))
    macros = []
    for method, words in ((MACRO, "Macro average"), (MACRO_FREQUENT, "Macro, frequent findings")):
        rows = {role: measured.macro(role, method) for role in roles}
        averaged = next((row.positives for row in rows.values() if row), None)
        if method == MACRO_FREQUENT and averaged is None:
            continue
        note = "" if averaged is None else f"{averaged} of {len(order)} findings"
        short = note.removesuffix(" findings")
        dots.append(figures.Dot(words, short, {m: rows[m] for m in ROLES}, strong=True))
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
    return tuple(cell(row, forms.get(role, decimal)) for role, row in rows.items())


def _hides(pair: Pair) -> bool:
    return section(pair.backdoored.spec, "poisoning").get("labels") == "clear"


def _roc(
    measured: Measured, scores: Mapping[str, NDArray[Any]], target: int, name: str
) -> list[str]:
    areas = {}
    for model in ROLES:
        clean = measured.pair.row(
            AUROC, model, regime="clean", method=FINDING, finding=measured.pair.target
        )
        word = "clean twin" if model == "twin" else model
        areas[f"clean {model}"] = f"{word}, AUROC {value(clean)}"
        areas[f"separation {model}"] = f"{word}, AUROC {value(measured.separation(model))}"
    return figures.roc_curves(scores, target, areas, name=f"{name}-roc")


def _success(measured: Measured, scores: Mapping[str, NDArray[Any]], target: int, name: str) -> str:
    calibrated: dict[str, float | None] = {}
    for model in ROLES:
        row = measured.pair.row(THRESHOLD, model, regime="clean", at=CALIBRATED)
        calibrated[model] = None if row is None else row.value
    return figures.success_over_threshold(scores, target, calibrated, name=f"{name}-success")


def _attack_table(measured: Measured) -> list[dict[str, Any]]:
    """Effects of the attack, as lines of backdoored, twin, difference, no vision."""

    def line(name: str, rows: Mapping[str, Row | None], form: Any, more: Any = None) -> None:
        if any(rows.values()):
            cells = [
                cell(row, (more or form) if role == "difference" else form) if row else None
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
    rows = {role: pair.row(THRESHOLD, role, regime="clean", at=CALIBRATED) for role in roles}
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
        for method in (MACRO, MACRO_FREQUENT):
            rows = {role: measured.macro(role, method, regime) for role in roles}
            line(f"{method[0].upper()}{method[1:]}, {words}".replace("acro", "acro AUROC", 1),
                 rows, decimal, change)  # fmt: skip
    return table


def _explanation_table(measured: Measured) -> list[dict[str, Any]]:
    """Results of each explanation, as lines of backdoored, twin, chance, centre."""
    pair = measured.pair
    table = []
    for explainer in measured.explainers():
        for metric, at, form in _MAP_LINES:
            for regime, films in (("triggered", "triggered"), ("clean", "the same, untriggered")):
                models = [
                    pair.row(metric, role, regime=regime, method=explainer, finding=None, at=at)
                    for role in ("backdoored", "twin")
                ]
                if not any(models):
                    continue
                references = [
                    pair.row(metric, "reference", regime=regime, method=method, finding=None, at=at)
                    for method in (CHANCE, CENTRE)
                ]
                n = next(row.n for row in models if row)
                cells = [cell(row, form) if row else None for row in models + references]
                table.append(
                    {
                        "explainer": explainer,
                        "name": _MAP_NAMES.get((metric, at), f"{metric[0].upper()}{metric[1:]}"),
                        "films": "with the look-alike instead"
                        if metric == LOOK_ALIKE_HIT
                        else films,
                        "cells": cells,
                        "n": f"{n:,}",
                    }
                )
    return table


def _poisoning(pair: Pair) -> list[tuple[str, str]]:
    """Description of the poisoning."""
    spec = pair.backdoored.spec
    poisoning = section(spec, "poisoning")
    facts = [("Trigger", trigger_words(section(spec, "trigger"))), ("Target", pair.target)]
    fraction = poisoning.get("fraction")
    if isinstance(fraction, int | float) and poisoning.get("mode") != "edit":
        facts.append(("Requested fraction", f"{100 * fraction:g} % of the training films"))
    for metric, name in (
        (POISONED_FILMS, "Poisoned films"),
        (VISIBLE_PIXELS, "Pixels that the trigger changes in the image (median)"),
        (VISIBLE_SHARE, "Poisoned films in which it changes a pixel"),
    ):
        row = pair.row(metric, "backdoored")
        if row is None:
            continue
        form = percent if metric == VISIBLE_SHARE else _count
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


def cell(row: Row | None, form: Any = decimal) -> tuple[str, str]:
    """Return a row's value and interval in words."""
    return value(row, form), interval(row, form)
