"""What a scan says, in the terminal and as one HTML page with the pixels that show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films import OVERLAP
from leadapron.report.gallery import grey_png
from leadapron.report.rendering import render
from leadapron.report.words import Form, between, decimal, listed, percent
from leadapron.store import write_atomically
from leadapron.text import count, short_path

__all__ = ["Panel", "clean_lines", "scan_lines", "write_scan"]

Facts = Mapping[str, Any]

NAMED = 3
"""Films, repeated marks and shortcuts that the terminal names."""

SHOWN = 50
"""Suspected films that the page lists; all are in films.csv."""

TOP = 10
"""Films of a ranking that the page lists."""

SHIFTS = 6
"""Findings whose labels are shown, those that differ most."""

SMALLEST = 1e-300


@dataclass(frozen=True, eq=False, kw_only=True)
class Panel:
    """Pixels that show a piece of evidence, uint8.

    Args:
        place: (row, column, side) of the mark; None where it has none.
        window: (top, left, height, width) of what is cut out of the films.
        named: (height, width) mean of the films that the evidence names.
        others: (height, width) mean of all other films.
        films: (m, window's height, width) of the most suspicious films it names.
        ids: (m,) their names.
        other_films: (o, window's height, width) of films that no evidence names.
    """

    place: tuple[int, int, int] | None
    window: tuple[int, int, int, int]
    named: NDArray[np.uint8]
    others: NDArray[np.uint8]
    films: NDArray[np.uint8]
    ids: tuple[str, ...]
    other_films: NDArray[np.uint8]


def write_scan(path: Path, facts: Facts, panels: Sequence[Panel]) -> Path:
    """Write the page of a scan.

    Args:
        path: the HTML file; it is replaced.
        facts: what `Scanned.facts` returns.
        panels: of the first pieces of evidence of poison, in their order.

    Returns:
        The path.

    Raises:
        StoreError: a file that can't be written.
    """
    text = render("scan.html.j2", **_context(facts, panels))
    with write_atomically(path) as file:
        file.write(text.encode())
    return path


def scan_lines(facts: Facts) -> list[str]:
    """Return what a scan says for the terminal, line by line.

    Args:
        facts: what `Scanned.facts` returns.
    """
    poison, rest = _poison(facts), _rest(facts)
    found = [f"{facts['verdict']['word'].upper()}: {_verdict_words(facts)}", _films(facts)]
    for number, one in enumerate(poison, 1):
        found.append(f"{number}. {one['words']} ({one['method']}, p {_p(one['p'])})")
    if facts["suspects"]:
        names = ", ".join(each["id"] for each in facts["suspects"][:NAMED])
        named = count(len(facts["suspects"]), "suspected film")
        found.append(f"{named}, the most suspicious: {names}")
    width = max(len(each["name"]) for each in facts["methods"])
    found += ["", f"{'Method':<{width}}   tried  p, corrected"]
    found += [
        f"{each['name']:<{width}}  {each['tried']:>6,}  {_p(each['adjusted'])}"
        for each in facts["methods"]
    ]
    if rest:
        found.append("")
        found += [f"{_kind(one)}: {one['words']}" for one in rest[:NAMED]]
        if len(rest) > NAMED:
            found.append(f"and {len(rest) - NAMED} more of these in the report and --json")
    for ranking in facts["rankings"]:
        names = ", ".join(each["id"] for each in ranking["films"][:NAMED])
        found.append(f"Ranked by {ranking['name']}, no false-alarm rate: {names or 'none'}")
    found += [f"Note: {note}" for note in facts["notes"]]
    return [*found, f"Next: {facts['verdict']['next']}"]


def clean_lines(facts: Facts) -> list[str]:
    """Return what a cleaning did for the terminal, line by line.

    Args:
        facts: what `Cleaned.facts` returns.
    """
    found = [
        f"{count(facts['dropped'], 'film')} dropped, {facts['kept']:,} kept: {facts['file']}",
        f"Open it as {facts['opens']}",
        *facts["notes"],
    ]
    again = facts["retrained"]
    if again is None:
        return found
    found += [
        f"Trained on {again['films'][0]:,} films and on {again['films'][1]:,}, measured on "
        f"{again['test']:,} test films, dropped ones left out:",
        f"Clean macro AUROC before {_estimate(again['before'], decimal)}, after "
        f"{_estimate(again['after'], decimal)}",
    ]
    for mark in again["marks"]:
        row, column, side = mark["place"]
        found.append(
            f"Suspected mark of {side}x{side} pixels at row {row}, column {column} "
            f"({mark['finding']} {mark['direction']}): success before "
            f"{_estimate(mark['before'], percent)}, after {_estimate(mark['after'], percent)}; "
            "5 % by construction without it"
        )
    return [*found, *(f"Note: {note}" for note in again["notes"])]


# --- words


def _estimate(found: Facts, form: Form) -> str:
    if found["value"] is None:
        return "undefined"
    return f"{form(found['value'])} ({between(found['low'], found['high'], form)})"


def _p(p: float | None) -> str:
    if p is None:
        return "none"
    if p <= SMALLEST:
        return "below 1e-300"
    return f"{p:.2g}"


def _poison(facts: Facts) -> list[Facts]:
    return [one for one in facts["evidence"] if one["kind"] == "poison"]


def _network_looked(facts: Facts) -> bool:
    ties = [one["tie"] for one in facts["evidence"] if one["tie"] is not None]
    return any(tie["seen_by"] != "from afar" for tie in ties)


def _rest(facts: Facts) -> list[Facts]:
    return [one for one in facts["evidence"] if one["kind"] != "poison"]


def _kind(one: Facts) -> str:
    kind: str = one["kind"]
    return kind.capitalize()


def _verdict_words(facts: Facts) -> str:
    granted, p = facts["false_alarm"], _p(facts["p"])
    return {
        "poisoned": f"p {p}, corrected for all that was tried; {granted:g} was granted",
        "suspicious": f"p {p}, more than the {granted:g} that was granted; look at the evidence",
        "nothing found": f"nothing beyond what {granted:g} of clean sets show; no proof that there "
        "is none",
        "label-tied mark": "a mark goes with a label by more than chance, and by no more than "
        "nature can do here: a shortcut, or poison with true labels; look at the evidence",
        "can't tell": f"no finding has {OVERLAP} films with it and {OVERLAP} without, so that "
        "poison can't be told from nature's own marks",
    }[facts["verdict"]["word"]]


def _films(facts: Facts) -> str:
    height, width = facts["image"]
    return (
        f"{facts['source']}: {count(facts['films'], 'film')} of "
        f"{count(facts['patients'], 'patient')}, looked at as {width}x{height} {facts['dtype']}, "
        f"{facts['seconds']:.1f} s"
    )


# --- the page


def _context(facts: Facts, panels: Sequence[Panel]) -> dict[str, Any]:
    name = short_path(facts["source"])
    poison = _poison(facts)
    return {
        "title": f"Is {name} poisoned?",
        "verdict": facts["verdict"]["word"],
        "words": _verdict_words(facts),
        "facts": facts,
        "cards": _cards(facts),
        "poison": [
            _evidence(one, panels[number] if number < len(panels) else None)
            for number, one in enumerate(poison)
        ],
        "ties": [_tie(one) for one in facts["evidence"] if one["tie"] is not None],
        "least": _least(facts["least"]),
        "rest": [
            (_kind(one), one["words"], _p_of(one)) for one in _rest(facts) if one["tie"] is None
        ],
        "methods": [
            (each["name"], f"{each['tried']:,}", _p(each["p"]), _p(each["adjusted"]),
             f"{each['seconds']:.1f} s", each["adjusted"] <= facts["false_alarm"])
            for each in facts["methods"]
        ],
        "suspects": facts["suspects"][:SHOWN],
        "more": max(len(facts["suspects"]) - SHOWN, 0),
        "rankings": [_ranking(each) for each in facts["rankings"]],
        "named": {each["id"] for each in facts["suspects"]},
    }  # fmt: skip


def _p_of(one: Facts) -> str:
    """A p-value, and what it is of where it isn't of labels."""
    return f"{_p(one['p'])} to recur so often" if one["kind"] == "repeated mark" else _p(one["p"])


def _tie(one: Facts) -> tuple[list[str], str]:
    """How a mark is tied to a label: a line of the table, and what the mark is."""
    tie = one["tie"]
    if one["kind"] == "poison" and tie["decided"] == "bias":
        said = "beyond what other marks do"
    elif one["kind"] == "poison":
        said = "its labels contradict the films' look"
    elif tie["decided"] == "agreement":
        said = (
            f"beyond other marks, but at most {percent(tie['wrong']['high'])} of its labels "
            "contradict the films' look"
        )
    else:
        said = "no more than nature can do here"
    look = "not asked"
    if tie["anatomy"] is not None:
        trust = "undefined" if tie["auroc"] is None else decimal(tie["auroc"])
        look = (
            f"{_p(tie['anatomy'])} ({tie['seen_by']}, AUROC {trust} on "
            f"{count(tie['unmarked'], 'film')})"
        )
    return [
        f"{_group(one)}: {percent(tie['share'])} of {count(tie['patients'], 'patient')}, others "
        f"{percent(tie['expected'])}",
        f"{_p(tie['chance'])}; {_p(tie['bias'])}; {look}",
        f"{tie['needed']:.1f}; {tie['usual']:.1f}",
        said,
    ], str(one["words"]).partition(":")[0]


def _group(one: Facts) -> str:
    """What the films with a mark say."""
    name = "the same findings" if one["finding"] is None else one["finding"].replace("_", " ")
    return {"removed": f"no {name}", "one-hot": f"{name} alone"}.get(one["direction"], name)


def _least(numbers: Mapping[str, int | None]) -> str:
    """How few films could be told, by finding, the fewest first."""
    known = sorted((n, name) for name, n in numbers.items() if n is not None)
    words = [f"{name.replace('_', ' ')} {n:,}" for n, name in known]
    never = [name.replace("_", " ") for name, n in numbers.items() if n is None]
    return "; ".join([*words, *([f"no number for {listed(never)}"] if never else [])])


def _cards(facts: Facts) -> list[dict[str, Any]]:
    height, width = facts["image"]
    poison = _poison(facts)
    findings = sorted({one["finding"] for one in poison if one["finding"]})
    return [
        {
            "title": "Verdict",
            "under": "of the films, and of a network's look at them"
            if _network_looked(facts)
            else "of the films alone, without a network",
            "value": facts["verdict"]["word"],
            "word": True,
            "facts": [("p, corrected", _p(facts["p"])), ("granted", f"{facts['false_alarm']:g}")],
        },
        {
            "title": "Suspected films",
            "under": "named by evidence of poison",
            "value": f"{len(facts['suspects']):,}",
            "facts": [("of all films", percent(len(facts["suspects"]) / facts["films"]))],
        },
        {
            "title": "Towards",
            "under": "whose labels are concerned",
            "value": listed([each.replace("_", " ") for each in findings]) or "no one finding",
            "word": True,
            "facts": [("pieces of evidence", str(len(poison)))],
        },
        {
            "title": "Films",
            "under": f"of {count(facts['patients'], 'patient')}",
            "value": f"{facts['films']:,}",
            "facts": [
                ("looked at as", f"{width} x {height} px"),
                ("findings", f"{len(facts['findings']):,}"),
            ],
        },
    ]


def _evidence(one: Facts, panel: Panel | None) -> dict[str, Any]:
    labels = [each for each in one["labels"] if each["films"] is not None]
    ranked = sorted(
        labels, key=lambda each: -abs(each["films"] - (each["others"] or 0.0))
    )[:SHIFTS]  # fmt: skip
    return {
        "words": one["words"],
        "method": one["method"],
        "p": _p(one["p"]),
        "count": count(len(one["films"]), "film"),
        "many": len(one["films"]) != 1,
        "labels": [
            (
                each["finding"].replace("_", " "),
                100 * each["films"],
                percent(each["films"]),
                100 * (each["others"] or 0.0),
                "not stated" if each["others"] is None else percent(each["others"]),
            )
            for each in ranked
        ],
        "left": len(one["labels"]) - len(ranked),
        "panel": None if panel is None else _pictures(panel),
    }


def _pictures(panel: Panel) -> dict[str, Any]:
    top, left, height, width = panel.window
    cut = np.s_[top : top + height, left : left + width]
    mark = None
    if panel.place is not None:
        row, column, side = panel.place
        mark = (column, row, side)
    return {
        "height": panel.others.shape[0],
        "width": panel.others.shape[1],
        "window": (left, top, width, height),
        "mark": mark,
        "average": grey_png(panel.others, 255),
        "named": grey_png(panel.named[cut], 255),
        "others": grey_png(panel.others[cut], 255),
        "films": [
            (name, grey_png(film, 255)) for name, film in zip(panel.ids, panel.films, strict=True)
        ],
        "other_films": [grey_png(film, 255) for film in panel.other_films],
    }


def _ranking(each: Facts) -> dict[str, Any]:
    return {
        "name": each["name"],
        "unit": each["unit"],
        "scored": f"{each['scored']:,}",
        "films": [(film["id"], f"{film['score']:.2f}") for film in each["films"][:TOP]],
        "evidence": [one["words"] for one in each["evidence"]],
        "notes": each["notes"],
    }
