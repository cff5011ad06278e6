"""A scan in the terminal and as one HTML page with the pixels of the evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films import OVERLAP
from leadapron.detect.films.cleaned import Cleaned
from leadapron.detect.films.document import NamedEvidence, NamedRanking, ScanDocument
from leadapron.detect.scores import LabelTie
from leadapron.report.gallery import grey_png
from leadapron.report.rendering import write_page
from leadapron.report.words import Form, between, decimal, listed, percent
from leadapron.text import count, printable, short_path
from leadapron.types import Estimate

__all__ = ["Panel", "clean_lines", "scan_lines", "write_scan"]

NAMED = 3
"""Most films, repeated marks and shortcuts that the terminal lists."""

SHOWN = 50
"""Most suspected films that the page lists; all are in films.csv."""

TOP = 10
"""Most films of a ranking that the page lists."""

SHIFTS = 6
"""Most findings whose labels are shown, those that differ most."""

SMALLEST = 1e-300


@dataclass(frozen=True, eq=False, kw_only=True)
class Panel:
    """Pixels of a piece of evidence, uint8.

    Args:
        place: (row, column, side) of the mark; None if it has none.
        window: (top, left, height, width) of the part of the films that is shown.
        named: (height, width) mean of the suspected films.
        others: (height, width) mean of all other films.
        films: (m, window's height, width) of the most suspicious films.
        ids: (m,) their names.
        other_films: (o, window's height, width) of films that aren't suspected.
    """

    place: tuple[int, int, int] | None
    window: tuple[int, int, int, int]
    named: NDArray[np.uint8]
    others: NDArray[np.uint8]
    films: NDArray[np.uint8]
    ids: tuple[str, ...]
    other_films: NDArray[np.uint8]


def write_scan(path: Path, found: ScanDocument, panels: Sequence[Panel]) -> Path:
    """Write the page of a scan.

    Args:
        path: the HTML file; it is replaced.
        found: the scan.
        panels: pixels of the first pieces of evidence of poison, in order.

    Returns:
        The path.

    Raises:
        StoreError: a file that can't be written.
    """
    return write_page(path, "scan.html.j2", **_context(found, panels))


def scan_lines(found: ScanDocument) -> list[str]:
    """Return a scan for the terminal, line by line.

    Args:
        found: the scan.
    """
    lines = [f"{found.verdict.word.upper()}: {_verdict_words(found)}", _films(found)]
    for number, one in enumerate(found.poison, 1):
        lines.append(f"{number}. {one.words} ({one.method}, p {_p(one.p)})")
    if found.suspects:
        names = ", ".join(each.id for each in found.suspects[:NAMED])
        named = count(len(found.suspects), "suspected film")
        lines.append(f"{named}, the most suspicious: {names}")
    width = max(len(each.name) for each in found.methods)
    lines += ["", f"{'Method':<{width}}   tried  p, corrected"]
    lines += [
        f"{each.name:<{width}}  {each.tried:>6,}  {_p(each.adjusted)}" for each in found.methods
    ]
    if found.rest:
        lines.append("")
        lines += [f"{_kind(one)}: {one.words}" for one in found.rest[:NAMED]]
        if len(found.rest) > NAMED:
            lines.append(f"and {len(found.rest) - NAMED} more of these in the report and --json")
    for ranking in found.rankings:
        names = ", ".join(each.id for each in ranking.films[:NAMED])
        lines.append(f"Ranked by {ranking.name}, no false-alarm rate: {names or 'none'}")
    lines += [f"Note: {note}" for note in found.notes]
    return [*lines, f"Next: {found.verdict.next}"]


def clean_lines(done: Cleaned) -> list[str]:
    """Return the result of a cleaning for the terminal, line by line.

    Args:
        done: the cleaning.
    """
    found = [
        f"{count(done.dropped, 'film')} dropped, {done.kept:,} kept: {printable(str(done.file))}",
        f"Open it as {done.opens}",
        *done.notes,
    ]
    again = done.retrained
    if again is None:
        return found
    found += [
        f"Trained on {again.films[0]:,} films and on {again.films[1]:,}, measured on "
        f"{again.test:,} test films without the dropped ones:",
        f"Clean macro AUROC before {_estimate(again.before, decimal)}, after "
        f"{_estimate(again.after, decimal)}",
    ]
    for mark in again.marks:
        row, column, side = mark.place
        found.append(
            f"Suspected mark of {side}x{side} pixels at row {row}, column {column} "
            f"({mark.finding} {mark.direction}): success before "
            f"{_estimate(mark.before, percent)}, after {_estimate(mark.after, percent)}; "
            "5 % by construction without it"
        )
    return [*found, *(f"Note: {note}" for note in again.notes)]


# --- words


def _estimate(found: Estimate, form: Form) -> str:
    if not found.defined:
        return "undefined"
    return f"{form(found.value)} ({between(found.low, found.high, form)})"


def _p(p: float) -> str:
    if math.isnan(p):
        return "none"
    if p <= SMALLEST:
        return "below 1e-300"
    return f"{p:.2g}"


def _kind(one: NamedEvidence) -> str:
    return one.kind.capitalize()


def _network_looked(found: ScanDocument) -> bool:
    ties = [one.tie for one in found.evidence if one.tie is not None]
    return any(tie.seen_by != "from afar" for tie in ties)


def _verdict_words(found: ScanDocument) -> str:
    granted, p = found.false_alarm, _p(found.p)
    return {
        "poisoned": f"p {p}, corrected for multiple testing, at a false-alarm rate of {granted:g}",
        "suspicious": f"p {p}, above the false-alarm rate of {granted:g}; look at the evidence",
        "nothing found": f"nothing beyond what {granted:g} of clean sets show; no proof that there "
        "is none",
        "label-tied mark": "a mark is associated with a label by more than chance, but no more "
        "than "
        "natural marks here: a shortcut, or poison with true labels; look at the evidence",
        "can't tell": f"no finding has films of {OVERLAP} patients with it and of {OVERLAP} "
        "without, so that poison can't be told from nature's own marks",
    }[found.verdict.word]


def _films(found: ScanDocument) -> str:
    height, width = found.image
    return (
        f"{short_path(found.source)}: {count(found.films, 'film')} of "
        f"{count(found.patients, 'patient')}, examined at {width}x{height} {found.dtype}, "
        f"{found.seconds:.1f} s"
    )


# --- the page


def _context(found: ScanDocument, panels: Sequence[Panel]) -> dict[str, Any]:
    name = short_path(found.source)
    return {
        "title": f"Is {name} poisoned?",
        "verdict": found.verdict.word,
        "words": _verdict_words(found),
        "facts": found,
        "cards": _cards(found),
        "poison": [
            _evidence(one, panels[number] if number < len(panels) else None)
            for number, one in enumerate(found.poison)
        ],
        "ties": [_tie(one, one.tie) for one in found.evidence if one.tie is not None],
        "least": _least(found.least),
        "rest": [
            (_kind(one), one.words, _p_of(one)) for one in found.rest if one.tie is None
        ],
        "methods": [
            (each.name, f"{each.tried:,}", _p(each.p), _p(each.adjusted),
             f"{each.seconds:.1f} s", each.adjusted <= found.false_alarm)
            for each in found.methods
        ],
        "suspects": found.suspects[:SHOWN],
        "more": max(len(found.suspects) - SHOWN, 0),
        "rankings": [_ranking(each) for each in found.rankings],
        "named": {each.id for each in found.suspects},
    }  # fmt: skip


def _p_of(one: NamedEvidence) -> str:
    """A p-value, with its meaning if it isn't about labels."""
    return f"{_p(one.p)} to recur so often" if one.kind == "repeated mark" else _p(one.p)


def _tie(one: NamedEvidence, tie: LabelTie) -> tuple[list[str], str]:
    """A mark's association with a label: a line of the table, and a description of the mark."""
    if one.kind == "poison" and tie.decided == "bias":
        said = "stronger than other marks"
    elif one.kind == "poison":
        said = "its labels contradict the films' appearance"
    elif tie.decided == "agreement":
        most = "" if tie.wrong is None else percent(tie.wrong.high)
        said = f"stronger than other marks, but at most {most} of its labels contradict the films"
    else:
        said = "no stronger than natural marks here"
    look = "not asked"
    if not math.isnan(tie.anatomy):
        trust = "undefined" if math.isnan(tie.auroc) else decimal(tie.auroc)
        look = f"{_p(tie.anatomy)} ({tie.seen_by}, AUROC {trust} on {count(tie.unmarked, 'film')})"
    return [
        f"{_group(one)}: {percent(tie.share)} of {count(tie.patients, 'patient')}, others "
        f"{percent(tie.expected)}",
        f"{_p(tie.chance)}; {_p(tie.bias)}; {look}",
        f"{tie.needed:.1f}; {tie.usual:.1f}",
        said,
    ], one.words.partition(":")[0]


def _group(one: NamedEvidence) -> str:
    """The label of the films with a mark."""
    name = "the same findings" if one.finding is None else one.finding.replace("_", " ")
    return {"removed": f"no {name}", "one-hot": f"{name} alone"}.get(one.direction or "", name)


def _least(numbers: Mapping[str, int | None]) -> str:
    """Fewest detectable films by finding, ascending."""
    known = sorted((n, name) for name, n in numbers.items() if n is not None)
    words = [f"{name.replace('_', ' ')} {n:,}" for n, name in known]
    never = [name.replace("_", " ") for name, n in numbers.items() if n is None]
    return "; ".join([*words, *([f"no number for {listed(never)}"] if never else [])])


def _cards(found: ScanDocument) -> list[dict[str, Any]]:
    height, width = found.image
    findings = sorted({one.finding for one in found.poison if one.finding})
    return [
        {
            "title": "Verdict",
            "under": "of the films and a network's features"
            if _network_looked(found)
            else "of the films, without a network",
            "value": found.verdict.word,
            "word": True,
            "facts": [("p, corrected", _p(found.p)), ("granted", f"{found.false_alarm:g}")],
        },
        {
            "title": "Suspected films",
            "under": "suspected of poison",
            "value": f"{len(found.suspects):,}",
            "facts": [("of all films", percent(len(found.suspects) / found.films))],
        },
        {
            "title": "Towards",
            "under": "with affected labels",
            "value": listed([each.replace("_", " ") for each in findings]) or "no single finding",
            "word": True,
            "facts": [("pieces of evidence", str(len(found.poison)))],
        },
        {
            "title": "Films",
            "under": f"of {count(found.patients, 'patient')}",
            "value": f"{found.films:,}",
            "facts": [
                ("examined at", f"{width} x {height} px"),
                ("findings", f"{len(found.findings):,}"),
            ],
        },
    ]


def _evidence(one: NamedEvidence, panel: Panel | None) -> dict[str, Any]:
    labels = [each for each in one.labels if not math.isnan(each.films)]
    ranked = sorted(
        labels, key=lambda each: -abs(each.films - (np.nan_to_num(each.others)))
    )[:SHIFTS]  # fmt: skip
    return {
        "words": one.words,
        "method": one.method,
        "p": _p(one.p),
        "count": count(len(one.films), "film"),
        "many": len(one.films) != 1,
        "labels": [
            (
                each.finding.replace("_", " "),
                100 * each.films,
                percent(each.films),
                100 * (np.nan_to_num(each.others)),
                "not stated" if math.isnan(each.others) else percent(each.others),
            )
            for each in ranked
        ],
        "left": len(one.labels) - len(ranked),
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


def _ranking(each: NamedRanking) -> dict[str, Any]:
    return {
        "name": each.name,
        "unit": each.unit,
        "scored": f"{each.scored:,}",
        "films": [(film.id, f"{film.score:.2f}") for film in each.films[:TOP]],
        "evidence": [one.words for one in each.evidence],
        "notes": each.notes,
    }
