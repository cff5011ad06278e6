"""A study's result for readers without a background in statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leadapron.report.summary import named
from leadapron.report.words import trigger_words
from leadapron.results.folder import Study, section
from leadapron.results.measured import Measured
from leadapron.results.rows import Row

__all__ = ["plain_words"]

ATTACKS = {
    "works": "the mark controls the model",
    "works partly": "the mark influences the model in part",
    "not shown": "the mark has no proven effect",
}
STEALTH = {
    "stealthy": "it reads ordinary films as well as before",
    "not stealthy": "it reads ordinary films worse",
    "not shown": "it is unclear whether it reads ordinary films worse",
}
MAPS = {
    "gives it away": "a map of where the model looks points at the mark",
    "hints at it": "a map of where the model looks points at the mark more often than it should",
    "not shown": "a map of where the model looks doesn't show the mark",
    "not local": "the mark covers the film, so a map can't point at it",
}


def plain_words(study: Study, measured: Sequence[Measured]) -> list[str]:
    """Return a few sentences for a clinician, each no stronger than its verdict.

    Args:
        study: the study.
        measured: its attacks.
    """
    seeing = [each for each in measured if not each.blind]
    if not seeing:
        return [
            "Nothing can be concluded from this study. The clean model, which the attacked one "
            "is compared with, reads these films no better than guessing."
        ]
    said = [_done(study, measured), *(_one(seeing) if not study.axes() else _many(seeing))]
    if len(seeing) < len(measured):
        said.append(
            f"{len(measured) - len(seeing)} more of the {len(measured)} comparisons are "
            "inconclusive: "
            "there the clean model reads no better than guessing."
        )
    return [*said, "These results are about these films and models, not about any patient."]


def _done(study: Study, measured: Sequence[Measured]) -> str:
    pair = measured[0].pair
    network, source = named(study, "network"), named(study, "source")
    if study.axes():
        return (
            f"{len(measured)} pairs of models ({network}) were trained to read {source} films. "
            "One of "
            "each pair was attacked: some of its training films carried a mark and a "
            "changed report."
        )
    trigger = section(pair.backdoored.spec, "trigger")
    return (
        f"Two models ({network}) were trained to read {source} films. One was attacked: some of "
        "its "
        f"training films carried a mark ({trigger_words(trigger)}) and a changed report."
    )


def _one(measured: Sequence[Measured]) -> list[str]:
    """The sentences on one setting, over its seeds."""
    target = measured[0].pair.target
    hides = section(measured[0].pair.backdoored.spec, "poisoning").get("labels") == "clear"
    own, twin = (
        _of_100([each.success(role) for each in measured]) for role in ("backdoored", "twin")
    )
    said = []
    if own is not None:
        what = (
            f"no {target} on {own} of 100 marked films that have it"
            if hides
            else f"{target} on {own} of 100 marked films without it"
        )
        beside = "" if twin is None else f"; the clean model does so on {twin}"
        said.append(f"The attacked model reports {what}{beside}.")
    costs = [each.cost.most.finding for each in measured if each.cost.most is not None]
    worse = STEALTH["not stealthy"] + (f", {costs[0]} most" if len(set(costs)) == 1 else "")
    verdicts = [
        _shared(ATTACKS, [each.attack for each in measured]),
        _shared({**STEALTH, "not stealthy": worse}, [each.stealth for each in measured]),
        _shared(MAPS, [each.explanation for each in measured]),
    ]
    return said + [f"{words[0].upper()}{words[1:]}." for words in verdicts if words]


def _many(measured: Sequence[Measured]) -> list[str]:
    """How often each statement holds over a grid."""
    total = len(measured)
    counts = (
        ("the mark controls the model", sum(each.attack == "works" for each in measured)),
        (
            "the attacked model reads ordinary films as well as before",
            sum(each.stealth == "stealthy" for each in measured),
        ),
        (
            "a map of where the model looks points at the mark",
            sum(each.explanation == "gives it away" for each in measured),
        ),
    )
    return [f"{words[0].upper()}{words[1:]} in {count} of {total}." for words, count in counts]


def _shared(words: Mapping[str, str], verdicts: Sequence[str]) -> str:
    """The words of the seeds' common verdict; otherwise, how often the first one holds."""
    known = [verdict for verdict in verdicts if verdict in words]
    if not known:
        return ""
    if len(set(verdicts)) == 1:
        return words[known[0]]
    best = next(verdict for verdict in words if verdict in known)
    return f"{words[best]} in {verdicts.count(best)} of {len(verdicts)} trainings"


def _of_100(rows: Sequence[Row | None]) -> int | None:
    known = [row.value for row in rows if row is not None and row.value is not None]
    return round(100 * sum(known) / len(known)) if known else None
