"""What methods find and where they are blind, as Markdown; from evaluations' folders alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leadapron.metrics import clopper_pearson
from leadapron.report.audit_limits import audit_chapter
from leadapron.report.screening_limits import screening_chapter
from leadapron.report.words import percent, table
from leadapron.store import read_json, read_lines, write_atomically
from leadapron.text import short_path

__all__ = ["limits_page", "write_limits"]

Row = Mapping[str, Any]

ALARM = 0.01
"""False-alarm rate of the scans of an evaluation."""

SEEN = (
    "The scan was made with kinds like these in view, and changed after draws of the first and the "
    "fifth had been missed: their figures are optimistic."
)
SEALED = "Kinds that no choice was made on; they were scanned once, after the last change."

HEADER = (
    "poison", "films", "sets", "found", "finding named", "mark listed", "place, px", "recall",
    "precision", "plain z", "outliers", "duplicates", "target",
)  # fmt: skip


def write_limits(
    page: Path,
    *,
    scan: tuple[Path, Sequence[Row]] | None = None,
    audit: Path | None = None,
    screen: Path | None = None,
) -> Path:
    """Write a chapter for each evaluation that is given, and return the page.

    Args:
        page: the Markdown file.
        scan: folder of `evaluate_scan`, and its cells as `limits_page`.
        audit: folder of `evaluate_audit`.
        screen: folder of `evaluate_screen`.

    Raises:
        StoreError: no evaluation, or a page that can't be written.
    """
    chapters = []
    if scan is not None:
        folder, cells = scan
        facts, rows = read_json(folder / "evaluation.json"), read_lines(folder / "rows.jsonl")
        chapters.append(limits_page(facts, rows, cells))
    if audit is not None:
        chapters.append(audit_chapter(audit))
    if screen is not None:
        chapters.append(screening_chapter(screen))
    with write_atomically(page) as file:
        file.write("\n".join(chapters).encode())
    return page


def limits_page(facts: Mapping[str, Any], rows: Sequence[Row], cells: Sequence[Row]) -> str:
    """Return the chapter on scans.

    Args:
        facts: settings and manifest of the evaluation.
        rows: one for each scan.
        cells: of each setting, in the order of the page: its `name`, its `target`, whether it is
            `sealed`, whether the attacker `knows` the scan, and the `reason` why a scan is blind.
    """
    settings = facts["settings"]
    poisoned = [row for row in rows if row["kind"] == "poisoned"]
    lines = [
        "# What a scan finds, and where it is blind",
        "",
        f"`{_command(settings)}`: "
        f"{len(rows)} scans without a model, each at a false-alarm rate of {percent(ALARM)}. "
        "Every poisoned set is the whole source with a few films replaced; target, place, grey "
        "level and films are drawn anew each time. This page is made from the results alone.",
        "",
        '*Found*: the verdict is "poisoned". *Finding named*: the strongest evidence names the '
        "target. *Mark listed*: as poison or as a repeated mark, at its place. *Place*: median "
        "distance from the middle of the mark to the nearest evidence. "
        "*Recall* and *precision* of the films that are named, medians over the sets in which any "
        "were. Brackets hold exact 95 % intervals. *Plain z*, *outliers*, *duplicates*: how often "
        "the first guess of a simple statistic lies within 2 px of the mark (and names the "
        "finding); no threshold is asked of them, and *outliers* is told what the clean set had: "
        "they are flattered. *Target*: what the "
        "project set itself, met where the interval's lower end is above it; otherwise the figure "
        "is just measured.",
        "",
    ]
    worlds = [row for row in rows if row["kind"] == "world"]
    # What was missed and led to changes was seen on the sets of the other presets.
    seen = "" if worlds else SEEN
    for title, note, wanted in (
        ("## Poison of known kinds", seen, lambda cell: not cell["sealed"] and not cell["knows"]),
        ("## An attacker who knows the scan", "", lambda cell: cell["knows"]),
        ("## Sealed", SEALED, lambda cell: cell["sealed"]),
    ):
        chosen = [cell for cell in cells if wanted(cell)]
        body = [
            _line(cell, [row for row in poisoned if row["name"] == cell["name"]])
            for cell in chosen
            if any(row["name"] == cell["name"] for row in poisoned)
        ]
        if body:
            lines += [title, "", *([note, ""] if note else []), table(HEADER, body), ""]
    lines += [
        *_worlds(worlds),
        *_alarms(rows),
        *_ablation(poisoned),
        *_blind(cells, poisoned),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _command(settings: Mapping[str, Any]) -> str:
    also = "".join(f" --also {short_path(source)}" for source in settings["also"])
    size = f" --size {settings['size']}" if settings.get("size") else ""
    return (
        f"leadapron evaluate scan --preset {settings['preset']} "
        f"--source {short_path(settings['source'])}{also}{size}"
    )


def _share(hits: Sequence[bool]) -> str:
    low, high = clopper_pearson(sum(hits), len(hits))
    return f"{100 * sum(hits) / len(hits):.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def _median(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(statistics.median(known)) if known else ""


def _line(cell: Row, rows: Sequence[Row]) -> list[str]:
    found = [row["found"] for row in rows]
    placed = rows[0]["baselines"] is not None
    films = sorted({row["films"] for row in rows})
    target = ""
    if cell["target"] is not None:
        low = clopper_pearson(sum(found), len(found))[0]
        goal = f"{100 * cell['target']:.0f} %"
        target = f"{goal}: met" if low >= cell["target"] else f"{goal}: measured"
    return [
        str(cell["name"]),
        f"{films[0]}" if len(films) == 1 else f"{films[0]} to {films[-1]}",
        str(len(rows)),
        _share(found),
        _share([row["right"] for row in rows]),
        _share([row["marked"] for row in rows]) if placed else "",
        _median([row["away"] for row in rows], "{:.1f}") if placed else "",
        _median([row["recall"] if row["found"] else None for row in rows], "{:.2f}"),
        _median([row["precision"] for row in rows], "{:.2f}"),
        *(
            _share([row["baselines"][name] for row in rows]) if placed else ""
            for name in ("plain z", "outliers", "duplicates")
        ),
        target,
    ]


def _worlds(rows: Sequence[Row]) -> list[str]:
    """Sets of two classes, with machines that have habits, and without."""
    if not rows:
        return []
    lines = [
        "## Two classes",
        "",
        "Sets of phantoms with any finding and without, drawn anew each time: half of each, or "
        "75 % with. *Habits*: two machines with defects, letters, tones and crops of their own, "
        "and odds of 20 (or 100) between class and machine. *A ward's letter* is on 60 % of the "
        "one class and 5 % of the other. Labels of *poison* are wrong where the film was of the "
        "other class; *true labels*: the mark is on films of one class, which are labelled "
        "right. A clean set should be no more than a label-tied mark.",
        "",
    ]
    for title, sealed in (("### Open", False), ("### Sealed", True)):
        body = []
        for name in dict.fromkeys(row["name"] for row in rows if row["sealed"] == sealed):
            some = [row for row in rows if row["name"] == name]
            verdicts = [row["verdict"] for row in some]
            body.append(
                [
                    name,
                    some[0]["expected"],
                    str(len(some)),
                    _share([verdict == "poisoned" for verdict in verdicts]),
                    str(verdicts.count("suspicious")),
                    str(verdicts.count("label-tied mark")),
                    str(verdicts.count("nothing found")),
                    _median([row["recall"] for row in some], "{:.2f}"),
                    _median([row["precision"] for row in some], "{:.2f}"),
                ]
            )
        if body:
            header = ("set", "in truth", "sets", "called poisoned", "suspicious",
                      "label-tied mark", "nothing found", "recall", "precision")  # fmt: skip
            lines += [title, "", table(header, body), ""]
    return lines


def _alarms(rows: Sequence[Row]) -> list[str]:
    body = []
    for kind, words in (("phantoms", "fresh phantoms"), ("half", "half of the patients of")):
        for name in dict.fromkeys(row["name"] for row in rows if row["kind"] == kind):
            some = [row for row in rows if row["kind"] == kind and row["name"] == name]
            alarms = sum(row["verdict"] == "poisoned" for row in some)
            doubts = sum(row["verdict"] == "suspicious" for row in some)
            low, high = clopper_pearson(alarms, len(some))
            shown = words if kind == "phantoms" else f"{words} `{str(name).rpartition('/')[2]}`"
            body.append(
                [
                    shown,
                    str(len(some)),
                    str(alarms),
                    f"{100 * low:.1f} to {100 * high:.1f} %",
                    str(doubts),
                ]
            )
    if not body:
        return []
    return [
        "## Clean sets",
        "",
        table(("sets", "scanned", "called poisoned", "95 % interval", "called suspicious"), body),
        "",
        "Only the phantoms are independent of each other. Halves of one source share its letters "
        "and its devices: they say whether the verdict is stable, not how often a new source would "
        "be called poisoned. How a scan judges was chosen with these sources in view.",
        "",
    ]


def _ablation(rows: Sequence[Row]) -> list[str]:
    """How many poisoned sets each method finds by itself, and how many are lost without it."""
    if not rows:
        return []
    names = list(rows[0]["methods"])
    whole = sum(_verdict(row["methods"].values()) for row in rows)
    body = []
    for name in names:
        alone = sum(_verdict([row["methods"][name]]) for row in rows)
        without = sum(
            _verdict([p for other, p in row["methods"].items() if other != name]) for row in rows
        )
        body.append([name, str(alone), str(whole - without)])
    return [
        "## What each method adds",
        "",
        f"Of the {len(rows)} poisoned sets above, {whole} are found. Each method by itself, and "
        "how many fewer are found without it, corrected for the methods that are left.",
        "",
        table(("method", "finds alone", "lost without it"), body),
        "",
    ]


def _verdict(p_values: Any) -> bool:
    """Whether the smallest p-value stands after Holm's first step."""
    found = list(p_values)
    return bool(found) and min(found) * len(found) <= ALARM


def _blind(cells: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    lines = []
    for cell in cells:
        some = [row["found"] for row in rows if row["name"] == cell["name"]]
        if some and sum(some) < len(some) / 2:
            why = str(cell["reason"])
            marked = [row["marked"] for row in rows if row["name"] == cell["name"]]
            note = (
                f"; listed as a repeated mark in {sum(marked)} of {len(marked)}"
                if any(marked)
                else ""
            )
            lines.append(
                f"- **{cell['name']}**: {sum(some)} of {len(some)}{note}"
                + (f". {why[0].upper()}{why[1:]}." if why else ".")
            )
    return (
        ["## Where it is blind", "", "Found in fewer than half of the sets:", "", *lines, ""]
        if lines
        else []
    )
