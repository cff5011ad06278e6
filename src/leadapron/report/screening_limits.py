"""Detection limits of gates, as a chapter in Markdown, from an evaluation's folder."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leadapron.report.words import between, percent, poisoned_words, share, table, trigger_words
from leadapron.results.names import Role
from leadapron.results.screening import ScreeningFolder, family_alarms
from leadapron.store import read_json, read_lines
from leadapron.text import short_path
from leadapron.types import Estimate

__all__ = ["screening_chapter"]

Row = Mapping[str, Any]

FAMILIES = (
    "family", "mark", "network", "poisoned", "models", "takes", "films", "found",
    "found where it works", "found at 1 %", "AUROC", "false alarms", "found on the twin",
)  # fmt: skip
USUAL = {
    "false_alarm": 0.01, "calibration": 600, "test": 400, "triggered": 200, "seed": 0,
    "poisoned": 0.0,
}  # fmt: skip
"""Default settings, which the command leaves out."""

KINDS = ("patches", "other local marks", "all over the film")
SEEN = (
    "Detectors and weights were developed with these kinds in view, so the figures are optimistic."
)
SEALED = "No choice was made with these kinds."


def screening_chapter(folder: Path) -> str:
    """Return the chapter on the finished part of an evaluation.

    Raises:
        StoreError: no evaluation.
    """
    place = ScreeningFolder(folder)
    facts, rows = read_json(place.head), read_lines(place.rows)
    fused = [row for row in rows if row["kind"] == "fused"]
    own = [row for row in fused if row["role"] == "backdoored"]
    whole = [row for row in own if row["strength"] == 1]
    lines = ["# What screening finds and misses", "", *_head(facts, rows, whole)]
    alarms = family_alarms(place, rows)
    titles = ("## Patches by side", "## Other local marks", "## Marks all over the film")
    for title, kind in zip(titles, KINDS, strict=True):
        chosen = [row for row in fused if not row["sealed"] and _kind(row) == kind]
        lines += _part(title, SEEN, alarms, chosen)
    lines += _part("## Sealed", SEALED, alarms, [row for row in fused if row["sealed"]])
    lines += _adapting(own)
    gates = [row for row in rows if row["kind"] == "gate"]
    lines += _places([row for row in gates if row["role"] == "backdoored" and row["pointing"]])
    known = [row for row in rows if row.get("role") == "backdoored" and not row["sealed"]]
    lines += _shared(facts["settings"], gates)
    lines += _ablation([row for row in known if row["takes"] and row["kind"] != "gate"])
    lines += _cost(facts, gates)
    return "\n".join(lines).rstrip() + "\n"


def _head(facts: Mapping[str, Any], rows: Sequence[Row], whole: Sequence[Row]) -> list[str]:
    settings = facts["settings"]
    skipped = sorted({row["run"] for row in rows if row["kind"] == "skipped"})
    calibration = "; ".join(sorted({str(row["calibration"]) for row in whole}))
    films = [row["calibration_films"] for row in whole]
    fewest, most = min(films, default=0), max(films, default=0)
    many = f"{fewest}" if fewest == most else between(fewest, most, lambda number: f"{number:.0f}")
    text = (
        f"`{_command(settings, facts['chosen'])}`: gates of {len(whole)} models with a backdoor, "
        f"and of each one's clean twin. Each is calibrated on films of patients that weren't "
        "trained on "
        f"({calibration or 'none'}; {many} films), at "
        f"{percent(settings['false_alarm'])} false alarms, and judges films of other patients, "
        "without and with the trigger."
    )
    if poisoned := settings.get("poisoned", 0.0):
        text += f" An attacker has put the trigger on {percent(poisoned)} of the calibration films."
    if skipped:
        text += f" {len(skipped)} runs have no trigger that a gate could detect."
    return [
        text,
        "",
        "*Found*: share of triggered films whose score exceeds the gate's threshold, median over "
        "the family's models, their range in brackets. *Found where it works*: of the films whose "
        "target's logit the trigger moves above the level that 5 % of clean films exceed. *Found "
        "at 1 %*: "
        "at the threshold that 1 % of the clean test films exceed, which a gate doesn't know. "
        "*AUROC*: "
        "all clean test films against the triggered ones. *False alarms*: of clean films of all "
        "the family's models, with a 95 % interval clustered by patient. *Found on the twin*: the "
        "same trigger on a model without the backdoor; such films are found by their "
        "appearance, not by the model's response. *Takes*: models in which the backdoor "
        "works, and does not in the twin.",
        "",
    ]


def _command(settings: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    words = f"leadapron evaluate screen --zoo {short_path(settings['place'])}"
    words += "".join(f" --only {family}" for family in chosen["only"])
    words += f" --limit {chosen['limit']}" if chosen["limit"] else ""
    words += " --sealed" if chosen["sealed"] else ""
    for name, usual in USUAL.items():
        if settings.get(name, usual) != usual:
            words += f" --{name.replace('_', '-')} {settings[name]:g}"
    return words


def _kind(row: Row) -> str:
    if row["patch"]:
        return KINDS[0]
    return KINDS[1] if row["local"] else KINDS[2]


def _part(
    title: str,
    note: str,
    alarms: Mapping[str, Mapping[Role, Estimate]],
    rows: Sequence[Row],
) -> list[str]:
    """A table of families, ordered by size of the mark."""
    if not rows:
        return []

    def line(name: str) -> list[str]:
        mine = [row for row in rows if row["family"] == name and row["strength"] == 1]
        models, twins = ([r for r in mine if r["role"] == role] for role in ("backdoored", "twin"))
        alarm = alarms[name]["backdoored"]
        return [
            name,
            "; ".join(sorted({trigger_words(row["trigger"]) for row in models})),
            ", ".join(sorted({row["network"] for row in models})),
            poisoned_words(models),
            str(len(models)),
            str(sum(bool(row["takes"]) for row in models)),
            str(sum(row["films"] for row in models)),
            _spread(models, "found"),
            _spread(models, "found_where_it_works"),
            _spread(models, "found_at_1"),
            _spread(models, "auroc", lambda number: f"{number:.3f}"),
            f"{percent(alarm.value)} ({between(alarm.low, alarm.high, percent)})",
            _spread(twins, "found"),
        ]

    def size(name: str) -> tuple[float, str]:
        return min(row["pixels"] for row in rows if row["family"] == name), name

    names = sorted({str(row["family"]) for row in rows}, key=size)
    return [title, "", note, "", table(FAMILIES, [line(name) for name in names]), ""]


def _share(number: float) -> str:
    return f"{100 * number:.0f} %"


def _spread(rows: Sequence[Row], what: str, form: Callable[[float], str] = _share) -> str:
    """Median and range over the models in which it is defined."""
    known = [row[what]["value"] for row in rows if row[what]["value"] is not None]
    if not known:
        return ""
    middle = form(statistics.median(known))
    low, high = form(min(known)), form(max(known))
    return middle if low == high else f"{middle} ({between(min(known), max(known), form)})"


def _adapting(rows: Sequence[Row]) -> list[str]:
    """Weaker triggers, by family."""
    strengths = sorted({row["strength"] for row in rows}, reverse=True)
    if len(strengths) < 2:
        return []
    body = []
    for name in sorted({str(row["family"]) for row in rows}):
        mine = [row for row in rows if row["family"] == name]
        cells = [name]
        for strength in strengths:
            models = [row for row in mine if row["strength"] == strength]
            cells += [_spread(models, what) for what in ("works", "found", "found_where_it_works")]
        body.append(cells)
    header = [
        f"{what}, {_share(strength)}"
        for strength in strengths
        for what in ("works", "found", "found where it works")
    ]
    return [
        "## An attacker who knows the gate",
        "",
        "The trigger of the test films is weakened: its pixel differences are multiplied by this "
        "factor. "
        "*Works*: share of films that it still turns to the target.",
        "",
        table(("family", *header), body),
        "",
    ]


def _shared(settings: Mapping[str, Any], gates: Sequence[Row]) -> list[str]:
    """How often a calibration warns of marks that its films share."""

    def warned(role: Role) -> str:
        mine = [row["shared"] > 0 for row in gates if row["role"] == role]
        return share(sum(mine), len(mine))

    if not gates or any("shared" not in row for row in gates):  # of an earlier version
        return []
    poisoned = settings.get("poisoned", 0.0)
    which = f"{percent(poisoned)} of which carry the trigger" if poisoned else "all of them clean"
    return [
        "## Marks that calibration films share",
        "",
        "Calibrating warns of a mark that films share and that drives the model, on films "
        f"{which}: for {warned('backdoored')} backdoored models, and for {warned('twin')} clean "
        "twins.",
        "",
    ]


def _places(rows: Sequence[Row]) -> list[str]:
    """Whether the evidence region is on the mark, for local marks."""
    body = []
    for name in sorted({str(row["family"]) for row in rows if row["local"]}):
        mine = [row["pointing"] for row in rows if row["family"] == name]
        body.append(
            [
                name,
                _spread(mine, "hits"),
                _spread(mine, "centre"),
                _share(statistics.median(each["random"] for each in mine)),
                _share(statistics.median(each["covered"] for each in mine)),
            ]
        )
    if not body:
        return []
    return [
        "## Where the evidence region lies",
        "",
        "For triggered films with a local mark: how often the region holds a pixel of it, "
        "compared with a "
        "box of the same size at the centre and at a random place; and how much of the mark it "
        "covers on average.",
        "",
        table(("family", "region", "centre", "random", "covered"), body),
        "",
    ]


def _ablation(rows: Sequence[Row]) -> list[str]:
    """The fused score, without each score, each alone, and baselines; for working backdoors."""
    rows = [row for row in rows if row["strength"] == 1]
    present = [kind for kind in KINDS if any(_kind(row) == kind for row in rows)]
    if not present:
        return []
    words = {"fused": "fused", "without": "without ", "alone": "alone: ", "baseline": "baseline: "}
    keys = dict.fromkeys((row["kind"], row["score"]) for row in rows)
    order = list(words)
    body = []
    for kind, score in sorted(keys, key=lambda key: order.index(key[0])):
        mine = [row for row in rows if (row["kind"], row["score"]) == (kind, score)]
        body.append(
            [
                "fused" if kind == "fused" else f"{words[kind]}{score}",
                *(_spread([row for row in mine if _kind(row) == k], "found") for k in present),
                _spread(mine, "found_at_1"),
                _spread(mine, "found_at_5"),
                _spread(mine, "auroc", lambda number: f"{number:.3f}"),
                _spread(mine, "false_alarms", percent),
            ]
        )
    models = len({row["run"] for row in rows})
    header = ("score", *(f"found: {kind}" for kind in present), "found at 1 %", "found at 5 %")
    return [
        "## Contribution of each score",
        "",
        f"For the {models} models of unsealed kinds in which the backdoor works; "
        "medians and ranges over models. "
        "Each score has its own threshold, from the same calibration films.",
        "",
        table((*header, "AUROC", "false alarms"), body),
        "",
    ]


def _cost(facts: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    costs = [row["cost"] for row in rows]
    if not costs:
        return []
    manifest = facts["manifest"]
    passes = sorted({each["passes"] for each in costs})
    times = []
    batches = " or ".join(map(str, sorted({each["batch"] for each in costs})))
    for name, words in (
        ("milliseconds_single", "one at a time"),
        ("milliseconds_batched", f"{batches} at a time"),
    ):
        known = [each[name] for each in costs if each[name] is not None]
        if known:
            times.append(f"{statistics.median(known):.1f} ms of processor time a film, {words}")
    can_t = [row["cant_tell"] for row in rows if row["cant_tell"]]
    lines = [
        "## Cost",
        "",
        f"{' or '.join(map(str, passes))} forward passes a film (a backward pass counts as two); "
        f"{'; '.join(times)}: medians over batches, on {manifest['system']} with "
        f"{manifest['processors']} processors, {manifest['jobs']} processes at a time, "
        f"torch {manifest['versions'].get('torch')}.",
        "",
    ]
    if can_t:
        clean = statistics.median(each["clean"]["value"] for each in can_t)
        marked = statistics.median(each["triggered"]["value"] for each in can_t)
        some = [each["lost"]["value"] for each in can_t if each["lost"]["value"] is not None]
        lost = (
            f", {percent(statistics.median(some))} of those whose score exceeds the threshold"
            if some
            else ""
        )
        lines += [
            f'"Can\'t tell", unlike the calibration films: {percent(clean)} of clean films, '
            f"{percent(marked)} of triggered ones{lost}; medians over models.",
            "",
        ]
    return lines
