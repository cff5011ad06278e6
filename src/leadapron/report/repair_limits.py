"""How well repairs work, as a chapter in Markdown, from an evaluation's folder."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leadapron.report.words import between, change, options, percent, share, table
from leadapron.results.repairing import AUTO_METHOD, RepairRow, read_repairs
from leadapron.store import read_json
from leadapron.text import count, short_path

__all__ = ["repair_chapter", "repair_limits"]

RELEARNED = 0.1
"""The goal: the upper end of what relearning brings back beyond the repaired twin."""

HEADER = (
    "repair", "clean films", "models", "attack success before", "after", "truly repaired",
    "macro AUROC", "no harm", "harm", "relearned from 5 films", "relearns no more than the twin",
    "clean twin's AUROC", "processor seconds", "film trainings",
)  # fmt: skip

COLUMNS = (
    "*Attack success*: share of test films that the true trigger turns, at a threshold which 5 % "
    "of the same films exceed without it, fitted for each model; median over the models, with "
    "their range. *Truly repaired*: it exceeds the clean twin's by .03 at most, or the 5 % without "
    "the trigger. *Macro AUROC*: "
    "mean change on test films, with its range. *No harm*: every finding has 100 patients and a "
    "lower end above -.03, and the macro AUROC one above -.01; *harm*: a loss is shown; the others "
    "show neither. *Relearned from 5 films*: attack success after 5 poisoned films among 240 clean "
    "ones, 5 epochs, 3 seeds; median, and that of the repaired twin. *Relearns no more than the "
    "twin*: the interval of the difference ends at .10 or below. *Clean twin's AUROC*: mean change "
    "of the clean models by the same repair. Brackets after counts hold exact 95 % intervals. "
    "Repairs that need the audit's marks count as failed where the audit finds none."
)


def repair_chapter(folder: Path) -> str:
    """Return the chapter on the finished part of an evaluation.

    Raises:
        StoreError: no evaluation of repairs.
    """
    return repair_limits(read_json(folder / "evaluation.json"), read_repairs(folder))


def repair_limits(facts: Mapping[str, Any], rows: Sequence[RepairRow]) -> str:
    """Return the chapter.

    Args:
        facts: settings and manifest of the evaluation.
        rows: one for each repair.
    """
    working = [row for row in rows if row.kind == "backdoored"]
    models = {row.model for row in working}
    lines = [
        f"# How well repairs work: {short_path(facts['settings']['zoo'])}",
        "",
        f"`{_command(facts)}`: {count(len(models), 'model')} with a working backdoor, of "
        f"{count(len({row.family for row in working}), 'kind')}, {_networks(rows)}; "
        f"{_references(facts)}. Each repair "
        f"sees clean films alone ({_clean(rows)}); the truth, the trigger and the test films are "
        "the evaluation's. `leadapron evaluate page --repair FOLDER --out FILE` makes "
        f"this chapter. {facts['manifest']['processors']} processors, "
        f"{facts['manifest']['jobs']} at a time.",
        "",
        COLUMNS,
        "",
    ]
    for title, sealed in (("## Known kinds", False), ("## Sealed kinds", True)):
        some = [row for row in working if row.sealed == sealed]
        if some:
            lines += [title, "", table(HEADER, _by_method(some)), "", *_families(some)]
    lines += [*_whole([row for row in working if row.method == AUTO_METHOD])]
    lines += [*_second(working), *_failed(rows), *_refused(rows)]
    return "\n".join(lines).rstrip() + "\n"


def _command(facts: Mapping[str, Any]) -> str:
    settings, chosen = facts["settings"], facts["chosen"]
    words = [f"leadapron evaluate repair --zoo {short_path(settings['zoo'])}"]
    words += [f"--method {name}" for name in chosen["methods"]]
    words += [f"--films {number}" for number in chosen["films"]]
    words += [f"--only {family}" for family in chosen["only"]]
    words += [f"--limit {chosen['limit']}"] if chosen["limit"] else []
    words += [f"--clean {short_path(settings['clean'])}"] if settings["clean"] else []
    words += ["--sealed"] if chosen["sealed"] else []
    words += options(facts["unusual"]["setting"]) + options(facts["unusual"]["sweep"], "sweep")
    return " ".join(words)


def _networks(rows: Sequence[RepairRow]) -> str:
    return ", ".join(sorted({row.network for row in rows}))


def _clean(rows: Sequence[RepairRow]) -> str:
    return ", ".join(sorted({row.clean for row in rows}))


def _references(facts: Mapping[str, Any]) -> str:
    number = facts["settings"]["references"]
    return f"audits compare with {count(number, 'clean model')}" if number else "no references"


def _by_method(rows: Sequence[RepairRow]) -> list[list[str]]:
    groups: dict[tuple[int, str], list[RepairRow]] = {}
    for row in rows:
        groups.setdefault((row.films, row.method), []).append(row)
    ordered = sorted(groups.items(), key=lambda each: (-each[0][0], _remaining(each[1])))
    return [_line(method, films, some) for (films, method), some in ordered]


def _remaining(rows: Sequence[RepairRow]) -> float:
    return statistics.median(row.success.value for row in rows)


def _line(method: str, films: int, rows: Sequence[RepairRow]) -> list[str]:
    taught = [row.retaught for row in rows if row.retaught is not None]
    twins = [row.twin_row for row in rows if row.twin_row is not None]
    done = [row for row in rows if row.chosen is not None]
    return [
        method,
        f"{films:,}",
        str(len(rows)),
        _spread([row.before.value for row in rows], percent),
        _spread([row.success.value for row in rows], percent),
        share(sum(row.right for row in rows), len(rows)),
        _mean([row.change for row in rows]),
        *(str(sum(row.claim == claim for row in rows)) for claim in ("no harm", "harm")),
        f"{percent(statistics.median(each.model.value for each in taught))}, twin "
        f"{percent(statistics.median(each.twin.value for each in taught))}" if taught else "",
        share(sum(each.excess.high <= RELEARNED for each in taught), len(taught)),
        _mean([each.change for each in twins]),
        _spread([row.processor_seconds for row in done], lambda each: f"{each:.0f}"),
        _spread([float(row.trainings) for row in done], lambda each: f"{each:,.0f}"),
    ]  # fmt: skip


def _families(rows: Sequence[RepairRow]) -> list[str]:
    """What remains, by family, with the most clean films."""
    most = max(row.films for row in rows)
    some = [row for row in rows if row.films == most]
    names = list(dict.fromkeys(row.family for row in some))
    methods = list(dict.fromkeys(row.method for row in some))
    if len(names) < 2:
        return []
    body = []
    for method in methods:
        cells = []
        for name in names:
            own = [row for row in some if row.method == method and row.family == name]
            cells.append(_spread([row.success.value for row in own], percent))
        body.append([method, *cells])
    twin = [
        _spread([row.twin.value for row in some if row.family == name], percent) for name in names
    ]
    return [
        f"Attack success after the repair, with {most:,} clean films; the last line is the clean "
        "twin's without a repair.",
        "",
        table(("repair", *names), [*body, ["clean twin", *twin]]),
        "",
    ]


def _whole(rows: Sequence[RepairRow]) -> list[str]:
    """Verdicts of the whole command beside the truth."""
    if not rows:
        return []
    words = list(dict.fromkeys(row.word or "refused" for row in rows))
    body = []
    for word in words:
        some = [row for row in rows if (row.word or "refused") == word]
        chosen = Counter(row.chosen for row in some if row.chosen)
        failing = Counter(what for row in some for what in row.failing)
        body.append(
            [
                word,
                str(len(some)),
                share(sum(row.right for row in some), len(some)),
                _spread([row.success.value for row in some], percent),
                *(
                    ", ".join(f"{name} {times}" for name, times in each.most_common())
                    for each in (chosen, failing)
                ),
            ]
        )
    named = sum(row.named for row in rows)
    return [
        f"## The whole of `leadapron repair --method {AUTO_METHOD}`",
        "",
        "The verdict rests on films and searches of its own; *truly repaired* is the truth. In "
        f"{named} of {len(rows)} models one of the audit's marks forces the attacker's finding.",
        "",
        table(
            ("verdict", "models", "truly repaired", "attack success after", "by", "doesn't hold"),
            body,
        ),
        "",
    ]


def _second(rows: Sequence[RepairRow]) -> list[str]:
    some = [row for row in rows if row.second == row.second]
    if not some:
        return []
    body = []
    for method in dict.fromkeys(row.method for row in some):
        own = [row for row in some if row.method == method]
        body.append(
            [
                method,
                str(len(own)),
                *(
                    _spread(values, percent)
                    for values in (
                        [row.success.value for row in own],
                        [row.second_before for row in own],
                        [row.second for row in own],
                    )
                ),
            ]
        )
    return [
        "## A second backdoor",
        "",
        "A checkerboard in a corner that forces another finding, edited into the same weights.",
        "",
        table(
            ("repair", "models", "first after", "second before", "second after"), body
        ),
        "",
    ]  # fmt: skip


def _failed(rows: Sequence[RepairRow]) -> list[str]:
    some = [row for row in rows if row.kind != "backdoored"]
    if not some:
        return []
    body = [
        [row.family, row.method, f"{row.films:,}", percent(row.before.value),
         percent(row.twin.value), percent(row.success.value), change(row.change)]
        for row in some
    ]  # fmt: skip
    header = ("family", "repair", "clean films", "before", "clean twin", "after", "macro AUROC")
    return [
        "## Implants that failed",
        "",
        "The trigger hardly works, or works on the clean twin too. They count nowhere else.",
        "",
        table(header, body),
        "",
    ]


def _refused(rows: Sequence[RepairRow]) -> list[str]:
    lines: list[str] = []
    for why, times in Counter(row.refused for row in rows if row.refused).most_common():
        lines.append(f"- {times} times: {why}")
    unmarked = [row for row in rows if row.chosen is None and not row.refused]
    if unmarked:
        families = Counter(row.family for row in unmarked)
        words = ", ".join(f"{name} {times}" for name, times in families.most_common())
        lines.append(f"- {len(unmarked)} times no mark was found to unlearn ({words}).")
    return ["## Left as they were", "", *lines, ""] if lines else []


def _spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    if not values:
        return ""
    middle = form(statistics.median(values))
    if len(values) == 1 or form(min(values)) == form(max(values)):
        return middle
    return f"{middle} ({between(min(values), max(values), form)})"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    within = between(min(values), max(values), change)
    return change(statistics.fmean(values)) + (f" ({within})" if len(values) > 1 else "")
