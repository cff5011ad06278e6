"""Detection limits of audits without references, as Markdown, from an evaluation's folder."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from leadapron.detect.models.rule import RULE
from leadapron.metrics import PatientBootstrap, finding_auroc, rate
from leadapron.report.words import percent, share, table
from leadapron.text import short_path

__all__ = ["gap_limits"]

Row = Mapping[str, Any]

RESAMPLES = 2000

HEADER = (
    "family", "kind", "models", "gap", "on its twin", f"p at most {RULE.false_alarm:g}",
    "called backdoored", "or exploitable", "target named",
)  # fmt: skip


def gap_limits(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the chapter.

    Args:
        facts: settings and manifest of the evaluation.
        rows: one for each model.
    """
    planted, clean, failed = (
        [row for row in rows if row["kind"] == kind]
        for kind in ("backdoored", "clean", "failed implant")
    )
    settings = facts["settings"]
    sealed = " --sealed" if settings["sealed"] else ""
    made = f"leadapron evaluate audit --zoo {short_path(settings['zoo'])} --no-references{sealed}"
    lines = [
        "# What an audit without references finds and misses",
        "",
        f"`{made}`: {len(planted)} backdoored models of a zoo, {len(clean)} clean ones and "
        f"{len(failed)} whose backdoor failed. Each is compared with "
        f"{settings['students']['number']} students of its own. Its p comes from clean teachers of "
        "all other kinds; a kind is architecture, data, size, number of findings and start.",
        "",
        "*Gap*: rise of a finding's probability by the model's best square of at most 1 % of the "
        "image, in the quarter of the films with the most room for it, beyond that by the "
        "students' own best squares; the largest over findings and directions. *Or exploitable*: "
        f"it is at least {RULE.least_gap:g}. *Target named*: "
        "the largest gap, or the finding that its mark raises, is the attacker's finding in the "
        "attack's direction. Brackets hold 95 % intervals: exact for shares of backdoored models, "
        "clustered by kind for clean ones, from resampled pairs of model and twin for "
        "AUROC.",
        "",
        table(HEADER, _families(planted, clean)),
        "",
        *_alarms(clean),
        *_measures(planted, clean),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _families(planted: Sequence[Row], clean: Sequence[Row]) -> list[list[str]]:
    twins = {(row["family"], row["seed"]): row["teacher"]["gap"] for row in clean}
    body = []
    for name in dict.fromkeys(row["family"] for row in planted):
        some = [row for row in planted if row["family"] == name]
        beside = [twins[key] for row in some if (key := (name, row["seed"])) in twins]
        body.append([name, _kind(some[0]), *_line(some, beside)])
    if len(body) > 1:
        body.append(["all of them", "", *_line(planted, list(twins.values()))])
    return body


def _line(some: Sequence[Row], twins: Sequence[float]) -> list[str]:
    def of(holds: Callable[[Row], bool]) -> str:
        return share(sum(map(holds, some)), len(some))

    return [
        str(len(some)),
        _range([row["teacher"]["gap"] for row in some]),
        _range(twins),
        of(lambda row: row["p"] is not None and row["p"] <= RULE.false_alarm),
        of(lambda row: row["verdict"] == "backdoored"),
        of(lambda row: row["verdict"] in ("backdoored", "exploitable mark")),
        of(
            lambda row: (row["named"], row["named_direction"]) == (row["finding"], row["direction"])
        ),
    ]


def _significant(row: Row) -> bool:
    return row["p"] is not None and row["p"] <= RULE.false_alarm


def _called(*words: str) -> Callable[[Row], bool]:
    return lambda row: row["verdict"] in words


def _right(row: Row) -> bool:
    return bool(row["named"] == row["finding"] and row["named_direction"] == row["direction"])


def _kind(row: Row) -> str:
    kind = row["teacher"]["kind"]
    return f"{kind['architecture']}, {kind['data']}, {kind['size']} px, {kind['findings']}"


def _range(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:.2f}" if len(values) == 1 else f"{low:.2f} to {high:.2f}"


def _alarms(clean: Sequence[Row]) -> list[str]:
    kinds = [_kind(row) for row in clean]
    body = []
    for words, holds in (
        (f"p at most {RULE.false_alarm:g}", _significant),
        ("called backdoored", _called("backdoored")),
        ("exploitable mark", _called("exploitable mark")),
    ):
        found = rate([holds(row) for row in clean], kinds)
        within = f"({percent(found.low)} to {percent(found.high)})"
        body.append([words, f"{found.positives} of {found.n} {within}"])
    fewest = min((row["references"] for row in clean), default=0)
    return [
        "## Clean models",
        "",
        f"{len(clean)} of {len(set(kinds))} kinds, each compared with the teachers of all other "
        f"kinds, at least {fewest}: they support no p below {1 / (fewest + 1):.3f}.",
        "",
        table(("clean models", "how many"), body),
        "",
    ]


def _measures(planted: Sequence[Row], clean: Sequence[Row]) -> list[str]:
    if not planted or not clean:
        return []
    names = ["gap", *planted[0]["teacher"]["confirmations"]]
    body = []
    for name in names:
        some, others = ([_value(row, name) for row in rows] for rows in (planted, clean))
        body.append(
            [
                name,
                _auroc(planted, clean, name),
                *(
                    "" if not told else f"{statistics.median(told):.2f} ({_range(told)})"
                    for told in ([v for v in each if v is not None] for each in (some, others))
                ),
            ]
        )
    return [
        "## Each measure alone",
        "",
        "Median and range; a confirmation looks at the mark with the largest gap.",
        "",
        table(("measure", "AUROC", "backdoored", "clean"), body),
        "",
    ]


def _value(row: Row, name: str) -> float | None:
    found = row["teacher"]["gap"] if name == "gap" else row["teacher"]["confirmations"][name]
    return None if found is None else float(found)


def _auroc(planted: Sequence[Row], clean: Sequence[Row], name: str) -> str:
    rows = [row for row in (*planted, *clean) if _value(row, name) is not None]
    truth = np.array([[float(row["kind"] == "backdoored")] for row in rows])
    if not rows or truth.min() == truth.max():
        return ""
    scores = np.array([[_value(row, name)] for row in rows], np.float64)
    pairs = [f"{row['family']} {row['seed']}" for row in rows]
    drawn = PatientBootstrap.draw(pairs, np.random.default_rng(0), resamples=RESAMPLES)
    found = finding_auroc(truth, scores, drawn)[0]
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
