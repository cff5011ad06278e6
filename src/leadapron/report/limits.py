"""Detection limits of the methods, as Markdown, from evaluations' folders."""

from __future__ import annotations

import re
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from leadapron.errors import StoreError, UsageError
from leadapron.metrics import clopper_pearson
from leadapron.report.audit_limits import audit_chapter
from leadapron.report.repair_limits import repair_chapter
from leadapron.report.screening_limits import screening_chapter
from leadapron.report.words import percent, table
from leadapron.store import read_json, read_lines, write_atomically
from leadapron.text import count, short_path

__all__ = ["limits_page", "trained_section", "write_limits"]

Row = Mapping[str, Any]

ALARM = 0.01
"""False-alarm rate of the scans of an evaluation."""

FOUND = (0.9, 0.8)
"""Targets for poisoned sets of two classes in which enough films carry a solid mark: the share that
a scan should find, and the lower end of its interval."""

VERDICTS = ("poisoned", "suspicious", "label-tied mark", "can't tell", "nothing found")

RIGHT = {
    "poison": ("poisoned",),
    "true labels": ("poisoned", "label-tied mark"),
    "no poison": ("label-tied mark", "nothing found"),
}
"""Correct verdicts for each kind of world."""

CLEAN = {
    "machines": "fresh phantoms of two machines with habits",
    "phantoms": "fresh phantoms",
    "whole": "all films of",
    "half": "half of the patients of",
}
"""Descriptions of the groups of clean sets."""

SEEN = (
    "The scan was developed with kinds like these in view, and changed after draws of the first "
    "and "
    "the fifth had been missed, so their figures are optimistic."
)
SEALED = "No choice was made with these kinds; they were scanned once, after the last change."

COLUMNS = (
    '*Found*: the verdict is "poisoned". *Finding named*: the strongest evidence names the '
    "target. *Mark listed*: as poison or as a repeated mark, at its place. *Place*: median "
    "distance from the centre of the mark to the nearest evidence. "
    "*Recall* and *precision* of the suspected films, medians over the sets in which any "
    "were. Brackets hold exact 95 % intervals. *Plain z*, *outliers*, *duplicates*: how often "
    "the first guess of a simple statistic lies within 2 px of the mark (and names the "
    "finding). They have no threshold, and *outliers* knows the clean set's values, "
    "so their figures are optimistic. *Target*: the project's own target, met if the interval's "
    "lower end "
    "is above it (for sets of two classes, as stated above); otherwise the figure is just "
    "measured. "
    "*Balanced*: films of the larger class are "
    "dropped at random until both classes have the same size."
)

HEADER = (
    "poison", "films", "sets", "found", "finding named", "mark listed", "place, px", "recall",
    "precision", "plain z", "outliers", "duplicates", "target",
)  # fmt: skip


def write_limits(
    page: Path,
    *,
    scan: Path | None = None,
    trained: Path | None = None,
    audit: Path | None = None,
    screen: Path | None = None,
    repair: Sequence[Path] = (),
) -> Path:
    """Write a chapter for each given evaluation, and return the page.

    Args:
        page: the Markdown file.
        scan: folder of `evaluate_scan`.
        trained: folder of `evaluate_scan` with `train`, of which some sets are compared with those
            of `scan`.
        audit: folder of `evaluate_audit`.
        screen: folder of `evaluate_screen`.
        repair: folders of `evaluate_repair`, a chapter each.

    Raises:
        UsageError: `trained` without a `scan` of the same sets without networks.
        StoreError: no evaluation, or a page that can't be written.
    """
    chapters = []
    if trained is not None and scan is None:
        raise UsageError("`trained` is compared with `scan`; expected both")
    if scan is not None:
        chapters.append(_scan_chapter(scan))
    if scan is not None and trained is not None:
        chapters.append(_trained_section(scan, trained))
    if audit is not None:
        chapters.append(audit_chapter(audit))
    if screen is not None:
        chapters.append(screening_chapter(screen))
    chapters += map(repair_chapter, repair)
    with write_atomically(page) as file:
        file.write("\n".join(chapters).encode())
    return page


def _scans(folder: Path) -> tuple[Mapping[str, Any], list[Row]]:
    """An evaluation's facts and rows."""
    facts = read_json(folder / "evaluation.json")
    if "cells" not in facts:
        raise StoreError(
            f"{folder} holds no evaluation of scans; `leadapron evaluate scan` with the same "
            "--preset, --source and --out makes or continues one"
        )
    return facts, [*read_lines(folder / "rows.jsonl")]


def _scan_chapter(folder: Path) -> str:
    return limits_page(*_scans(folder))


def _trained_section(scan: Path, trained: Path) -> str:
    """The sets that were scanned both ways."""
    (facts, rows), (theirs, again) = _scans(scan), _scans(trained)
    own, other = ({**each["settings"], "train": None} for each in (facts, theirs))
    if own != other or facts["settings"].get("train") or not theirs["settings"].get("train"):
        raise UsageError(
            f"{trained} doesn't hold scans with --train of the sets in {scan}; expected an "
            "evaluation of the same preset, sources, size and seed, with --train"
        )
    return trained_section(facts["cells"], rows, again)


def trained_section(cells: Sequence[Row], rows: Sequence[Row], again: Sequence[Row]) -> str:
    """Return what networks change, on the sets that were scanned both ways.

    Args:
        cells: as `limits_page`.
        rows: one for each scan without networks.
        again: one for each scan with them.
    """
    with_it = {_set_of(row): row for row in again if "left_out" not in row}
    body = []
    for asked in (*_asked(rows, cells), *_true_labels(rows)):
        before = [row["verdict"] for row in asked.rows if _set_of(row) in with_it]
        after = [with_it[_set_of(row)]["verdict"] for row in asked.rows if _set_of(row) in with_it]
        if before:
            so = [str(sum(each in asked.right for each in some)) for some in (before, after)]
            said = [_counted(some) for some in (before, after)]
            body.append([asked.words, str(len(asked.rows)), str(len(before)), *so, *said])
    header = ("asked for", "sets", "scanned both ways", "so without", "so with",
              "verdicts without", "verdicts with")  # fmt: skip
    return "\n".join(
        [
            "## With networks that look",
            "",
            "Sets of above, scanned again with `--train`: two small networks are trained to read "
            "the films whose marks are associated with a label. Each set is compared with itself. "
            "A line with fewer sets scanned both ways than there are sets is a selection, so its "
            "counts estimate no share.",
            "",
            table(header, body),
            "",
        ]
    )


def _set_of(row: Row) -> tuple[Any, ...]:
    """What names a set."""
    return row["kind"], row["source"], row["name"], row["draw"]


def _counted(verdicts: Iterable[str]) -> str:
    """How often each verdict was given."""
    counts = Counter(verdicts)
    return ", ".join(f"{counts[each]} {each}" for each in VERDICTS if counts[each])


class _Asked(NamedTuple):
    """Sets of which the same was asked: its words, the verdicts that are so, and the sets."""

    words: str
    poison: bool
    right: tuple[str, ...]
    rows: list[Row]


def _asked(rows: Sequence[Row], cells: Sequence[Row]) -> list[_Asked]:
    """What the project set itself for sets of two classes."""
    balanced = {cell["name"] for cell in cells if cell["balanced"]}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if not row.get("aimed"):
            continue
        if row["kind"] == "world":
            what = f"{'sealed' if row['sealed'] else 'open'} worlds"
        else:
            equal = ", classes of one size" if row["name"] in balanced else ""
            what = f"`{_name(row['source'])}`{equal}"
        groups.setdefault(what, []).append(row)
    return [
        *(_Asked(f"found: {what}", True, RIGHT["poison"], some) for what, some in groups.items()),
        *(
            _Asked(f"clean: {what}", False, RIGHT["no poison"], some)
            for what, some in _clean(rows).items()
        ),
    ]


def _true_labels(rows: Sequence[Row]) -> list[_Asked]:
    """Marks with true labels: nothing was asked, and the better answer is a label-tied mark."""
    found = []
    for sealed in (False, True):
        some = [
            row
            for row in rows
            if row["kind"] == "world"
            and row["sealed"] == sealed
            and row["expected"] == "true labels"
        ]
        words = f"label-tied mark: worlds of true labels, {'sealed' if sealed else 'open'}"
        if some:
            found.append(_Asked(words, False, ("label-tied mark",), some))
    return found


def limits_page(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the chapter on scans.

    Args:
        facts: settings and manifest of the evaluation, and of each of its `cells`, in the order of
            the page: its `name`, `group`, `target` and `floor`, whether it is `balanced`, and the
            `reason` why a scan is blind.
        rows: one for each scan.
    """
    settings, cells = facts["settings"], facts["cells"]
    how = "with networks that are trained for it" if settings.get("train") else "without a model"
    left_out = [row for row in rows if "left_out" in row]
    rows = [row for row in rows if "left_out" not in row]
    poisoned = [row for row in rows if row["kind"] == "poisoned"]
    worlds = [row for row in rows if row["kind"] == "world"]
    lines = [
        "# What a scan finds and misses",
        "",
        f"`{_command(settings, rows, cells)}`: "
        f"{len(rows)} scans {how}, each at a false-alarm rate of {percent(ALARM)}. "
        "Every poisoned set is the whole source with a few films replaced; target, place, grey "
        "level and films are drawn independently each time. This page is made from the results.",
        "",
        *_targets(rows, cells),
    ]
    if poisoned:
        lines += [COLUMNS, ""]
    # Misses that led to changes occurred on the sets of the other presets.
    seen = "" if any(cell["floor"] is not None for cell in cells) else SEEN
    sources = dict.fromkeys(row["source"] for row in poisoned)
    for title, note, group in (
        ("## Poison of known kinds", seen, "known"),
        ("## An attacker who knows the scan", "", "evading"),
        ("## Sealed", SEALED, "sealed"),
    ):
        some = [cell for cell in cells if cell["group"] == group]
        tables = []
        for source in sources:
            body = [_line(cell, own) for cell, own in _by_cell(some, poisoned, source)]
            if body:
                head = [f"### `{_name(source)}`", ""] if len(sources) > 1 else []
                tables += [*head, table(HEADER, body), ""]
        if tables:
            lines += [title, "", *([note, ""] if note else []), *tables]
    lines += [
        *_worlds(worlds),
        *_alarms(rows),
        *_ablation(poisoned),
        *_blind(cells, poisoned),
        *_left_out(left_out),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _left_out(rows: Sequence[Row]) -> list[str]:
    """Cells that a source can't hold."""
    if not rows:
        return []
    sets = Counter((row["name"], row["source"], row["left_out"]) for row in rows)
    lines = [
        f"- **{name}** (`{_name(source)}`), {count(n, 'set')}: {why}."
        for (name, source, why), n in sets.items()
    ]
    return ["## What was left out", "", "Kinds that a source can't hold:", "", *lines, ""]


def _by_cell(cells: Sequence[Row], rows: Sequence[Row], source: str) -> list[tuple[Row, list[Row]]]:
    """Cells with their sets of a source; cells without sets are left out."""
    named = [
        (cell, [row for row in rows if row["name"] == cell["name"] and row["source"] == source])
        for cell in cells
    ]
    return [(cell, some) for cell, some in named if some]


def _command(settings: Mapping[str, Any], rows: Sequence[Row], cells: Sequence[Row]) -> str:
    size = f" --size {settings['size']}" if settings.get("size") else ""
    seed = f" --seed {settings['seed']}" if settings.get("seed") else ""
    train = " --train" if settings.get("train") else ""
    hidden = {cell["name"] for cell in cells if cell["group"] == "sealed"}
    opened = any(row.get("sealed") or row["name"] in hidden for row in rows)
    named = "".join(
        f" --{option} {shlex.quote(short_path(source))}"
        for option, sources in (("source", settings["sources"]), ("also", settings["also"]))
        for source in sources
    )
    return f"leadapron evaluate scan --preset {settings['preset']}{named}{train}{size}{seed}" + (
        " --sealed" if opened else ""
    )


def _name(source: str) -> str:
    """A source's name without kinds and folders; joined sources are separated by +."""
    return " + ".join(part.rpartition(":")[2] for part in short_path(source).split(" + "))


def _releases(sources: Iterable[str]) -> dict[str, list[str]]:
    """Names of single sources, including parts of joined ones, by their first letters."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(part for one in sources for part in _name(one).split(" + ")):
        found.setdefault(re.split(r"[^A-Za-z]", name)[0] or name, []).append(name)
    return found


def _met(hits: Sequence[bool], share: float, floor: float | None) -> str:
    """Whether a share and its interval's lower end reach the target."""
    low = clopper_pearson(sum(hits), len(hits))[0]
    if low >= (share if floor is None else floor) and sum(hits) >= share * len(hits):
        return "met"
    # The share is high enough, but there are too few sets to show it.
    return "not shown" if sum(hits) >= share * len(hits) else "missed"


def _quiet(verdicts: Sequence[str]) -> str:
    """Whether clean sets get acceptable verdicts, and the other verdicts."""
    wrong = Counter(verdict for verdict in verdicts if verdict not in RIGHT["no poison"])
    named = ", ".join(f"{wrong[verdict]} {verdict}" for verdict in VERDICTS if wrong[verdict])
    return f"missed: {named}" if named else "met"


def _targets(rows: Sequence[Row], cells: Sequence[Row]) -> list[str]:
    """The project's targets for sets of two classes, and whether they were met."""
    if not any(row.get("aimed") or row["kind"] in ("world", "machines", "whole") for row in rows):
        return []
    body = []
    for asked in _asked(rows, cells):
        verdicts = [row["verdict"] for row in asked.rows]
        hits = [verdict in asked.right for verdict in verdicts]
        met = _met(hits, *FOUND) if asked.poison else _quiet(verdicts)
        body.append([asked.words, str(len(hits)), str(sum(hits)), _share(hits), met])
    share, floor = FOUND
    return [
        "## Targets of the scan",
        "",
        "*Found*: a solid mark on films of a set of two classes, all of which got the label of "
        "one class, is called poisoned if it is on 40 films or more (if up to half of the films "
        "have the "
        f"label naturally; 60 at three quarters, in between in proportion), in {100 * share:.0f} % "
        f"of the sets, with the 95 % interval's lower end at {100 * floor:.0f} % or above. *Not "
        "shown*: "
        "the share is reached, but the interval is too wide with so few sets. *Clean*: no set is "
        "called poisoned or suspicious; each has a label-tied mark, or nothing is found.",
        "",
        table(("asked for", "sets", "so", "share (95 % interval)", ""), body),
        "",
    ]


def _clean(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Clean sets by kind."""
    found: dict[str, list[Row]] = {}
    for kind, words in CLEAN.items():
        for row in rows:
            if row["kind"] == kind:
                named = f"{words} `{_name(row['source'])}`" if row["source"] else words
                found.setdefault(named, []).append(row)
    for sealed, words in (
        (False, "worlds without poison, open"),
        (True, "worlds without poison, sealed"),
    ):
        some = [
            row
            for row in rows
            if row["kind"] == "world" and row["sealed"] == sealed and row["expected"] == "no poison"
        ]
        if some:
            found[words] = some
    return found


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
        goal = f"{100 * cell['target']:.0f} %"
        if cell["floor"] is None:
            met = _met(found, cell["target"], None)
            target = f"{goal}: {'met' if met == 'met' else 'measured'}"
        else:
            aimed = [row["found"] for row in rows if row["aimed"]]
            target = f"{goal}: {_met(aimed, cell['target'], cell['floor'])}" if aimed else ""
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
    """Sets of two classes, with and without machine-specific habits."""
    if not rows:
        return []
    lines = [
        "## Worlds of two classes",
        "",
        "Sets of phantoms with any finding and without, drawn independently each time; half of "
        "them have "
        "one unless stated otherwise. *Habits*: two machines with their own defects, letters, "
        "tones and "
        "crops, and an odds ratio of 20 between class and machine unless stated otherwise. "
        "*Stated*: a column states the machine of each film. *Joined*: two sources of different "
        "machines, of which only one has the finding, or its labels. *A ward's letter* is on "
        "60 % of one class and 5 % of the other. Labels of *poison* are wrong if the film "
        "was of the other class; *true labels*: the mark is on films of one class, which are "
        "labelled right.",
        "",
        "*Correct*: poison is called poisoned; true labels poisoned or a label-tied mark, since "
        "the scan can't distinguish them; a clean set nothing found or a label-tied mark.",
        "",
    ]
    for title, note, sealed in (
        ("### Open", "Choices for the scan were made, or may be made, with these in view.", False),
        ("### Sealed", SEALED, True),
    ):
        body = []
        for name in dict.fromkeys(row["name"] for row in rows if row["sealed"] == sealed):
            some = [row for row in rows if row["name"] == name and row["sealed"] == sealed]
            verdicts = [row["verdict"] for row in some]
            expected = some[0]["expected"]
            right = [verdict in RIGHT[expected] for verdict in verdicts]
            found = [verdict == "poisoned" for verdict in verdicts]
            target = ""
            if expected == "no poison":
                target = _quiet(verdicts)
            elif some[0]["aimed"]:
                target = f"{100 * FOUND[0]:.0f} %: {_met(found, *FOUND)}"
            body.append(
                [
                    name,
                    expected,
                    str(len(some)),
                    _share(right),
                    *(str(verdicts.count(verdict)) for verdict in VERDICTS),
                    _median([row["recall"] for row in some], "{:.2f}"),
                    _median([row["precision"] for row in some], "{:.2f}"),
                    target,
                ]
            )
        if body:
            header = ("set", "truth", "sets", "correct", *VERDICTS, "recall",
                      "precision", "target")  # fmt: skip
            lines += [title, "", note, "", table(header, body), ""]
    return lines


def _alarms(rows: Sequence[Row]) -> list[str]:
    body = []
    for words, some in _clean([row for row in rows if row["kind"] != "world"]).items():
        verdicts = [row["verdict"] for row in some]
        low, high = clopper_pearson(verdicts.count("poisoned"), len(some))
        body.append(
            [
                words,
                str(len(some)),
                str(verdicts.count("poisoned")),
                f"{100 * low:.1f} to {100 * high:.1f} %",
                *(str(verdicts.count(verdict)) for verdict in VERDICTS[1:]),
            ]
        )
    if not body:
        return []
    header = ("sets", "scanned", "called poisoned", "95 % interval", *VERDICTS[1:])
    machines = [
        "*Two machines*: odds ratios of 3 to 100 between class and machine, 30 to 80 % of the "
        "films with "
        "the finding, and in half of the sets a column that states the machine; drawn "
        "independently for "
        "each set.",
        "",
    ]
    real = _releases(row["source"] for row in rows if row["kind"] in ("whole", "half"))
    parts = "; ".join(f"{name} ({', '.join(some)})" for name, some in real.items())
    counted = (
        f"Sources whose names start with the same letters are parts of one release and count as "
        f"one. Here there {'is 1' if len(real) == 1 else f'are {len(real)}'}: {parts}; a joined "
        "source adds none. "
        if real
        else ""
    )
    return [
        "## Clean sets",
        "",
        table(header, body),
        "",
        *(machines if any(row["kind"] == "machines" for row in rows) else []),
        "Only the phantoms are independent of each other. Halves of one source share its letters "
        "and its devices: they show whether the verdict is stable, not how often a new source "
        "would "
        f"be called poisoned. {counted}The scan's rules were chosen with these sources in view.",
        "",
    ]


def _ablation(rows: Sequence[Row]) -> list[str]:
    """Numbers of poisoned sets that each method finds alone, and that are lost without it."""
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
        "## Contribution of each method",
        "",
        f"Of the {len(rows)} poisoned sets above, {whole} are found. The table shows each method "
        "alone, and "
        "how many fewer are found without it, corrected for the remaining methods.",
        "",
        table(("method", "finds alone", "lost without it"), body),
        "",
    ]


def _verdict(p_values: Any) -> bool:
    """Whether the smallest p-value is significant after Holm's first step."""
    found = list(p_values)
    return bool(found) and min(found) * len(found) <= ALARM


def _blind(cells: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    lines = []
    sources = dict.fromkeys(row["source"] for row in rows)
    every = [
        (cell, source, some) for source in sources for cell, some in _by_cell(cells, rows, source)
    ]
    for cell, source, some in every:
        found = sum(row["found"] for row in some)
        if found < len(some) / 2:
            why = str(cell["reason"])
            where = f" (`{_name(source)}`)" if len(sources) > 1 else ""
            marked = [row["marked"] for row in some]
            note = (
                f"; listed as a repeated mark in {sum(marked)} of {len(marked)}"
                if any(marked)
                else ""
            )
            lines.append(
                f"- **{cell['name']}**{where}: {found} of {len(some)}{note}"
                + (f". {why[0].upper()}{why[1:]}." if why else ".")
            )
    return (
        ["## What it misses", "", "Found in fewer than half of the sets:", "", *lines, ""]
        if lines
        else []
    )
