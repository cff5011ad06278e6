"""Detection limits of audits, as Markdown, from an evaluation's folder."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leadapron.errors import StoreError
from leadapron.metrics import Estimate, PatientBootstrap, finding_auroc
from leadapron.report.gap_limits import gap_limits
from leadapron.report.words import between, options, percent, poisoned_words, share, table
from leadapron.store import read_json, read_lines
from leadapron.text import short_path

__all__ = ["audit_chapter", "audit_limits"]

Row = Mapping[str, Any]

ALARM = 0.05
"""Significance level of p-values, and largest share of clean models called backdoored."""

RESAMPLES = 2000

SEEN = (
    "The sweep and the pooling of the references' spreads were chosen with models of some of "
    "these families in view, so the figures are optimistic."
)
SEALED = (
    "No choice was made with these families, with one exception: their maximum margins were "
    "known when the margin was included in *or unusual*."
)

BASELINES = {
    "excess": "all marks, compared with references: the audit's criterion",
    "stamp alone": "only single squares, compared with references",
    "lattice alone": "only squares all over, compared with references",
    "whole image alone": "only changes of the whole image, compared with references",
    "single square": "largest shift by a single square, without references",
}

HEADER = (
    "family", "network", "poisoned", "models", "attack success", "AUROC", "p at most 0.05",
    "called backdoored",
    "or unusual", "target named", "named of those found",
)  # fmt: skip


def audit_chapter(folder: Path) -> str:
    """Return the chapter of an evaluation; see `audit_limits`.

    Raises:
        StoreError: no evaluation of audits, or one that isn't finished.
    """
    facts, rows = read_json(folder / "evaluation.json"), read_lines(folder / "rows.jsonl")
    if facts.get("what") != "audit" or not rows or any("verdict" not in row for row in rows):
        raise StoreError(
            f"{folder} holds no finished evaluation of audits; `leadapron evaluate audit` with the "
            "same --zoo and --out continues it"
        )
    if not facts["settings"].get("references", True):
        return gap_limits(facts, rows)
    return audit_limits(facts, rows)


def audit_limits(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the chapter.

    Args:
        facts: settings and manifest of the evaluation.
        rows: one for each model.
    """
    planted, clean, failed = (
        [row for row in rows if row["kind"] == kind]
        for kind in ("backdoored", "clean", "failed implant")
    )
    fewest = min(row["references"] for row in rows)
    lines = [
        "# What an audit finds and misses",
        "",
        f"`{_command(facts)}`: {len(planted)} backdoored models of a zoo, {len(clean)} "
        f"clean ones and {len(failed)} whose backdoor failed. Each is swept on films that it "
        "wasn't trained on and compared with the clean models of its kind, without itself and its "
        f"twin: at least {fewest} references, which support no rate below {1 / (fewest + 1):.3f}. "
        "`leadapron evaluate page --scan FOLDER --audit FOLDER "
        "--out docs/results/detection-limits.md` makes this page from the results.",
        "",
        "*AUROC*: of the strongest excess, this family's backdoored models against all clean ones; "
        "the interval is from resampling pairs of a model and its twin (method 5 of Newcombe where "
        "it is 1). *p at most 0.05*: at most this share of models reaches the model's excess. "
        "*Called backdoored*: in addition, the mark turns at least a tenth of the films. *Or "
        "unusual*: or a mark is significant as far as so few references allow, or no mark is, but "
        "the maximum margin is. *Target "
        "named*: of all findings forced on (off, if the attack removes a finding) the "
        "attacker's has the largest excess. Brackets hold 95 % intervals, exact for shares.",
        "",
    ]
    for title, note, sealed in (
        ("## Backdoors of known kinds", SEEN, False),
        ("## Backdoors of sealed kinds", SEALED, True),
    ):
        some = [row for row in planted if row["sealed"] == sealed]
        if some:
            lines += [title, "", note, "", table(HEADER, _families(some, clean)), ""]
    lines += [
        *_alarms(clean),
        *_baselines(planted, clean),
        *_statistics(planted, clean),
        *_failed(failed),
        *_blind(planted),
        *_cost(facts, rows),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _command(facts: Mapping[str, Any]) -> str:
    settings = facts["settings"]
    clean = f" --clean {short_path(settings['clean'])}" if settings["clean"] else ""
    sealed = " --sealed" if settings["sealed"] else ""
    sweep = "".join(
        f" {words}" for words in options(dict(sorted(facts["unusual"].items())), "sweep")
    )
    sweep += "" if settings["statistics"] else " --no-statistics"
    films = f" --films {settings['films']}"
    return (
        f"leadapron evaluate audit --zoo {short_path(settings['zoo'])}{clean}{films}{sealed}{sweep}"
    )


def _families(planted: Sequence[Row], clean: Sequence[Row]) -> list[list[str]]:
    names = list(dict.fromkeys(sorted(row["family"] for row in planted)))
    body = [_line(n, [row for row in planted if row["family"] == n], clean) for n in names]
    return [*body, _line("all of them", planted, clean)] if len(names) > 1 else body


def _line(name: str, some: Sequence[Row], clean: Sequence[Row]) -> list[str]:
    found = [row for row in some if row["p"] <= ALARM]
    success = [row["attack_success"] for row in some]
    return [
        name,
        ", ".join(sorted({row["network"] for row in some})),
        poisoned_words(some),
        str(len(some)),
        between(min(success), max(success), lambda rate: f"{rate:.2f}")
        if len(some) > 1
        else f"{success[0]:.2f}",
        _area(some, clean, "excess"),
        share(len(found), len(some)),
        share(sum(row["verdict"] == "backdoored" for row in some), len(some)),
        share(sum(map(_flagged, some)), len(some)),
        share(sum(map(_right, some)), len(some)),
        f"{sum(map(_right, found))} of {len(found)}",
    ]


def _flagged(row: Row) -> bool:
    return row["verdict"] in ("backdoored", "unusual")


def _right(row: Row) -> bool:
    return bool(row["named"] == row["finding"])


def _score(row: Row, name: str) -> float:
    return float(row["excess"] if name == "excess" else row["baselines"][name])


def _area(planted: Sequence[Row], clean: Sequence[Row], name: str) -> str:
    if not planted or not clean:
        return ""
    area = _auroc(planted, clean, name)
    within = "" if math.isnan(area.low) else f" ({area.low:.2f} to {area.high:.2f})"
    return f"{area.value:.2f}{within}"


def _auroc(planted: Sequence[Row], clean: Sequence[Row], name: str) -> Estimate:
    """A model and its twin share films and seed, so they are resampled together."""
    rows = [*planted, *clean]
    truth = np.repeat([1.0, 0.0], [len(planted), len(clean)])[:, None]
    scores = np.array([[_score(row, name)] for row in rows])
    pairs = [f"{row['family']} {row['seed']}" for row in rows]
    bootstrap = PatientBootstrap.draw(pairs, np.random.default_rng(0), resamples=RESAMPLES)
    return finding_auroc(truth, scores, bootstrap)[0]


def _alarms(clean: Sequence[Row]) -> list[str]:
    reached = sum(row["p"] <= ALARM for row in clean)
    body = [
        [words, share(sum(row["verdict"] == verdict for row in clean), len(clean))]
        for words, verdict in (("called backdoored", "backdoored"), ("called unusual", "unusual"))
    ]
    return [
        "## Clean models",
        "",
        table(("clean models", "how many"), [["p at most 0.05", str(reached)], *body]),
        "",
        f"The first number is uninformative: each of {len(clean)} clean models is ranked among the "
        "same others, so by construction at most one in twenty has so small a p. These results "
        "don't show how the audit judges models that were trained in another way.",
        "",
    ]


def _baselines(planted: Sequence[Row], clean: Sequence[Row]) -> list[str]:
    parts = {
        words: [row for row in planted if row["sealed"] == sealed]
        for words, sealed in (("known kinds", False), ("sealed kinds", True))
    }
    shown = {words: some for words, some in parts.items() if some}
    body = [
        [words, *(_area(some, clean, name) for some in shown.values())]
        for name, words in BASELINES.items()
    ]
    return [
        "## Simpler measures",
        "",
        "AUROC of each measure by itself, backdoored models against clean ones.",
        "",
        table(("measure", *shown), body),
        "",
    ]


def _statistics(planted: Sequence[Row], clean: Sequence[Row]) -> list[str]:
    """Each statistic of the network by itself."""
    names = sorted({name for row in planted for name in row["statistics"]})
    if not names:
        return []

    def scored(rows: Sequence[Row], name: str) -> list[Row]:
        """Rows in the form of `_area`."""
        return [
            {**row, "baselines": {name: row["statistics"][name]["excess"]}}
            for row in rows
            if name in row["statistics"]
        ]

    known, sealed = ([row for row in planted if row["sealed"] == kind] for kind in (False, True))
    body = []
    for name in names:
        some = [
            row["statistics"][name] | {"finding": row["finding"]} for row in scored(planted, name)
        ]
        named = [each for each in some if each["named"] is not None]
        body.append(
            [
                name,
                *(_area(scored(part, name), scored(clean, name), name) for part in (known, sealed)),
                f"{sum(map(_right, named))} of {len(named)}" if named else "",
                f"{sum(each['p'] <= ALARM for each in some)} of {len(some)}",
            ]
        )
    header = ("statistic", "known kinds", "sealed kinds", "target named", "p at most 0.05")
    return [
        "## Statistics of the network",
        "",
        "They are in an audit's report. Only the maximum margin can affect its verdict, if "
        "no mark is significant; this was decided when this table was known. AUROC of the "
        "strongest "
        "excess over the same references, backdoored models against clean ones; how often the "
        "attacker's finding has the largest excess, in the attack's direction if the statistic has "
        "one; and in how many backdoored models at most one in twenty references reaches it. "
        "With five statistics, the smallest p of the five is small more often.",
        "",
        table(header, body),
        "",
    ]


def _failed(failed: Sequence[Row]) -> list[str]:
    if not failed:
        return []
    body = [
        [
            str(row["family"]),
            *(
                "undefined" if row[name] is None else f"{row[name]:.2f}"
                for name in ("attack_success", "twin_success")
            ),
            f"{row['p']:.3f}",
            str(row["verdict"]),
            "yes" if _right(row) else "no",
        ]
        for row in sorted(failed, key=lambda row: (row["family"], row["seed"]))
    ]
    return [
        "## Implants that failed",
        "",
        "The trigger hardly works, or works on the clean twin too, so an audit can't be expected "
        "to "
        "find it. These models count nowhere else.",
        "",
        table(("family", "attack success", "on the twin", "p", "verdict", "target named"), body),
        "",
    ]


def _blind(planted: Sequence[Row]) -> list[str]:
    lines = []
    for name in sorted({row["family"] for row in planted}):
        some = [row for row in planted if row["family"] == name]
        found = sum(map(_flagged, some))
        if found < len(some) / 2:
            lines.append(f"- **{name}**: {found} of {len(some)}.")
    return (
        ["## Backdoors that it misses", "", "Found in fewer than half:", "", *lines, ""]
        if lines
        else []
    )


def _cost(facts: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    forwards = statistics.median(row["forwards"] for row in rows)
    seconds = [row["seconds"] for row in rows]
    middle, references = statistics.median(seconds), max(row["references"] for row in rows)
    films = rows[0]["films"]
    return [
        "## Cost",
        "",
        f"A sweep runs the model on {forwards:,.0f} images (median; marks chosen on {films[0]} "
        f"films, judged on {films[1]}) and takes {middle:.1f} s ({min(seconds):.1f} to "
        f"{max(seconds):.1f}) with {facts['manifest']['jobs']} at a time on "
        f"{facts['manifest']['processors']} processors. A model and {references} references "
        f"take {middle * (1 + references) / 60:.0f} minutes of one such process; references are "
        "swept only once. Models are called backdoored at a false-alarm rate of "
        f"{percent(ALARM)}; trigger inversion is not part of it.",
        "",
    ]
