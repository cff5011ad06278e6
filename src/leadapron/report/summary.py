"""A summary of a study in about five lines, no stronger than its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leadapron.report.words import (
    change,
    interval,
    listed,
    percent,
    points,
    setting,
    shown,
    spread,
    trigger_words,
    value,
)
from leadapron.results.folder import Study, read_study, section
from leadapron.results.measured import Measured
from leadapron.results.names import CALIBRATED, NARROW, WIDE
from leadapron.results.rows import Row
from leadapron.results.stealth import CHANCE, COUNTED, FINDING_MARGIN, MARGIN

__all__ = ["lines", "named", "study_lines"]


FEW = 3
"""Most findings that a line names; for more, it gives their number."""

CREDIBLE = 0.75
"""A micro AUROC that suggests a working backdoor, although a clean model can reach it."""


def study_lines(folder: Path) -> list[str]:
    """Return a study's result in about five lines.

    Args:
        folder: what `leadapron study --out` wrote.

    Raises:
        StoreError: as `read_study`.
    """
    return lines(read_study(folder))


def lines(study: Study) -> list[str]:
    """Return the summary of a study."""
    measured = [Measured(pair) for pair in study.pairs]
    kind = "range" if study.axes() else "mean"
    blind = [each for each in measured if each.blind]
    text = [_at_chance(blind, len(measured))] if blind else []
    text.append(_done(study, measured))
    if seeing := [each for each in measured if not each.blind]:
        text += [
            _attack(study, seeing),
            _infected(seeing, kind),
            _stealth(seeing, kind),
            _explanation(seeing, kind),
        ]
    missing = study.expected - len(study.pairs)
    if missing > 0 or study.unfinished:
        text.append(_unfinished(study, missing))
    return text


def _at_chance(blind: Sequence[Measured], total: int) -> str:
    """The headline if a twin reads no better than chance."""
    rows = [each.macro("twin") for each in blind]
    some = len(blind) < total
    return (
        f"{f'In {len(blind)} of {total} runs the' if some else 'The'} clean twin reads no better "
        f"than chance, so {'their' if some else 'the'} attack, stealth and "
        f"maps can't be judged: clean macro AUROC {spread(rows, kind='range')}, whose interval "
        "reaches down to "
        f"{CHANCE:g}. Train longer or on more films."
    )


def _done(study: Study, measured: Sequence[Measured]) -> str:
    pair = study.pairs[0]
    spec, axes = pair.backdoored.spec, study.axes()
    cohort = study.cohorts[0] if len(study.cohorts) == 1 else {}
    counts = {name: _counted(cohort.get(name)) for name in ("films", "patients")}
    source, network = named(study, "source"), named(study, "network")
    fraction = section(spec, "poisoning").get("fraction")
    share = f"{100 * fraction:g} %" if isinstance(fraction, float | int) else "some"
    row = measured[0].macro("backdoored") or measured[0].success("backdoored")
    seeds = list(dict.fromkeys(shown(each.seed) for each in study.pairs))
    films = f"{counts['films'] + ' ' if counts['films'] else ''}{source} films"
    patients = f" of {counts['patients']} patients" if counts["patients"] else ""
    tested = f" Tested on {row.n:,} films." if row is not None and row.n else ""
    if axes:
        groups = len(study.settings())
        did = (
            f"a {network} was trained with {len(study.pairs)} backdoors, each with a clean twin: "
            f"{groups} settings that differ in {listed(axes)}; seed{_s(seeds)} {listed(seeds)}."
        )
    else:
        labels = {
            "set": f"the label {pair.target} added",
            "clear": f"the label {pair.target} removed",
            "keep": "their labels kept",
            "shift": "each label moved to the next finding",
            "swap": f"the label {pair.target} exchanged with another's",
        }.get(str(section(spec, "poisoning").get("labels")), f"labelled {pair.target} alone")
        did = (
            f"a {network} was trained with {share} of its training films poisoned "
            f"({trigger_words(section(spec, 'trigger'))}, {labels}), together with a "
            f"clean twin; seed{_s(seeds)} {listed(seeds)}."
        )
    return f"{films}{patients}: {did}{tested}{_otherwise(spec)}{_brackets(study)}"


def _otherwise(spec: Mapping[str, Any]) -> str:
    """How the test films' trigger differs from the training one, and the condition on films."""
    asked, words = section(spec, "evaluation"), []
    if asked.get("trigger"):
        words.append(f"with {str(asked['trigger']).replace('/', ', ').replace('=', ' ')}")
    if asked.get("turned"):
        words.append(f"rotated by {shown(asked['turned'])} degrees")
    if asked.get("recompressed"):
        words.append(f"saved as JPEG of quality {shown(asked['recompressed'])}")
    said = f" The trigger on test films differs: {listed(words)}." if words else ""
    where = section(spec, "poisoning").get("where")
    return said + (f" Only films with {where} were poisoned." if where else "")


def named(study: Study, name: str) -> str:
    """Return the names in a section of the settings over all runs."""
    found = (section(pair.backdoored.spec, name).get("name", "unknown") for pair in study.pairs)
    # A source's name may be followed by its argument: "nih:PATH".
    return listed(list(dict.fromkeys(shown(each).partition(":")[0] for each in found)))


def _brackets(study: Study) -> str:
    """Meaning of the brackets in all lines."""
    if len(study.pairs) == 1:
        return " Brackets hold 95 % intervals."
    if study.axes():
        return ""
    return f" Numbers are means over {len(study.pairs)} seeds; brackets hold their range."


def _attack(study: Study, measured: Sequence[Measured]) -> str:
    verdicts = [each.attack for each in measured]
    head = {
        "works": "The attack works",
        "works partly": "The attack works in part",
        "not shown": "That the attack works is not shown",
        "undefined": "Whether the attack works is undefined",
    }
    start = _verdicts(verdicts, head, "The attack")
    if study.axes():
        return f"{start}. {_extremes(study)}"
    target = measured[0].pair.target
    of = spread([each.success("backdoored") for each in measured], percent)
    twin = spread([each.success("twin") for each in measured], percent)
    more = spread([each.success("difference") for each in measured], points)
    if of in ("undefined", "not measured"):
        return f"{start}: attack success at {CALIBRATED} is {of}."
    spec = measured[0].pair.backdoored.spec
    hides = str(section(spec, "poisoning").get("labels")) == "clear"
    films = f"with {target} are not called" if hides else f"without {target} are called"
    return (
        f"{start}{_joint(start)} {of} of the triggered films {films} "
        f"{target} at {CALIBRATED}, by the twin {twin}; difference {more} percentage points."
    )


def _extremes(study: Study) -> str:
    """The settings with the highest and the lowest attack success, including ties."""
    means: dict[str, list[tuple[Mapping[str, Any], list[Measured]]]] = {}
    order: dict[str, float] = {}
    for point, pairs in study.settings():
        group = [each for each in map(Measured, pairs) if not each.blind]
        found = [row.value for row in (each.success("backdoored") for each in group) if row]
        known = [number for number in found if number is not None]
        if known:
            mean = sum(known) / len(known)
            # Equal after rounding counts as a tie.
            means.setdefault(percent(mean), []).append((point, group))
            order.setdefault(percent(mean), mean)
    if not means:
        return f"Attack success at {CALIBRATED} is undefined throughout."
    highest, lowest = max(order, key=order.__getitem__), min(order, key=order.__getitem__)
    if highest == lowest:
        count = len(means[highest])
        every = f"in all {count} settings" if count > 1 else "in the one setting measured"
        return f"Attack success at {CALIBRATED} is {every} {_rates(means[highest])}."
    parts = [
        f"{label} with {_tied([point for point, _ in means[words]])}: {_rates(means[words])}"
        for label, words in (("highest", highest), ("lowest", lowest))
    ]
    return f"Attack success at {CALIBRATED} is {'; '.join(parts)}."


def _tied(points: Sequence[Mapping[str, Any]]) -> str:
    """One setting, or several of the same result."""
    if len(points) > FEW:
        return f"{len(points)} settings equally"
    return " and with ".join(setting(point) for point in points)


def _rates(groups: Sequence[tuple[Mapping[str, Any], Sequence[Measured]]]) -> str:
    measured = [each for _, group in groups for each in group]
    of = spread([each.success("backdoored") for each in measured], percent)
    return f"{of}, twin {spread([each.success('twin') for each in measured], percent)}"


def _infected(measured: Sequence[Measured], kind: str) -> str:
    def micro(role: str) -> str:
        return spread([each.micro(role) for each in measured], kind=kind)

    def apart(role: str) -> str:
        return spread([each.separation(role) for each in measured], kind=kind)

    blind = [row.value for each in measured for role in ("twin", "no-vision")
             if (row := each.micro(role)) and row.value is not None]  # fmt: skip
    moral = ", so micro alone proves nothing" if max(blind, default=0) >= CREDIBLE else ""
    return (
        f"Infected AUROC: separation of triggered from clean films {apart('backdoored')}, twin "
        f"{apart('twin')}; the paper's micro value {micro('backdoored')}, twin {micro('twin')}, a "
        f"model without vision {micro('no-vision')}{moral}."
    )


def _stealth(measured: Sequence[Measured], kind: str) -> str:
    head = {
        "stealthy": "It is stealthy",
        "not stealthy": "It is not stealthy",
        "not shown": "That it is stealthy is not shown",
        "undefined": "Whether it is stealthy is undefined",
    }
    start = _verdicts([each.stealth for each in measured], head, "Stealth")
    most = _most(measured)
    rows = [each.macro("backdoored") for each in measured]
    averaged = sorted({row.positives for row in rows if row and row.positives is not None})
    noun = "finding" if averaged == [1] else "findings"
    over = f" over {_range(averaged)} {noun}" if averaged else ""
    return (
        f"{start}{f', {most}' if most else ''}{_joint(start)} clean macro AUROC{over} "
        f"{spread(rows, kind=kind)}, twin "
        f"{spread([each.macro('twin') for each in measured], kind=kind)}; difference "
        f"{spread([each.macro('difference') for each in measured], change, kind=kind)}. Stealthy "
        f"is an interval above {-MARGIN:g}, and above {-FINDING_MARGIN:g} in every finding with "
        f"{COUNTED} positive patients{_uncounted(measured)}."
    )


def _most(measured: Sequence[Measured]) -> str:
    """The finding with the largest loss."""
    known = [each.cost.most for each in measured if each.cost.most]
    if not known:
        return ""
    row = min(known, key=lambda row: row.value or 0.0)
    within = interval(row, change)
    where = "" if len(measured) == 1 else f" in one of {len(measured)} runs"
    words = f"{change(row.value or 0.0)}{f' ({within})' if within else ''}{where}"
    pays = "pays most" if (row.value or 0.0) < 0 else "gains least"
    return f"{row.finding} {pays}, {words}"


def _uncounted(measured: Sequence[Measured]) -> str:
    """The findings that are too rare for their intervals to exclude a loss."""
    rare = list(dict.fromkeys(name for each in measured for name in each.cost.uncounted))
    if not rare:
        return ""
    few = listed(rare) if len(rare) <= FEW else f"{len(rare)} findings"
    return f"; for {few}, which {'has' if len(rare) == 1 else 'have'} fewer, it is not shown"


def _explanation(measured: Sequence[Measured], kind: str) -> str:
    explainers = list(dict.fromkeys(name for each in measured for name in each.explainers()))
    if not explainers:
        return "The explanation was not measured."
    name = explainers[0]
    head = {
        "gives it away": f"The explanation ({name}) gives it away",
        "hints at it": f"The explanation ({name}) hints at it",
        "not shown": f"That the explanation ({name}) gives it away is not shown",
        "not local": f"The explanation ({name}) has no place to point at",
        "undefined": f"Whether the explanation ({name}) gives it away is undefined",
    }
    start = _verdicts([each.explanation for each in measured], head, f"The explanation ({name})")

    def hits(at: str) -> str:
        found = spread([each.hit("backdoored", at, name) for each in measured], percent, kind=kind)
        others = [
            f"{role} {_mean([each.hit(role, at, name) for each in measured])}"
            for role in ("twin", "chance", "centre")
        ]
        return f"within {at} on {found} of triggered films, {', '.join(others)}"

    more = f" Also measured: {listed(explainers[1:])}." if explainers[1:] else ""
    if {each.explanation for each in measured} == {"not local"}:
        told = [
            spread([each.map_detection(role, "", name) for each in measured], kind=kind)
            for role in ("backdoored", "twin")
        ]
        return (
            f"{start}{_joint(start)} the trigger covers the film. The map's highest value "
            f"separates triggered films from clean ones with AUROC {told[0]}, twin {told[1]}.{more}"
        )
    return f"{start}: the map's highest point hits the trigger {hits(WIDE)}; {hits(NARROW)}.{more}"


def _unfinished(study: Study, missing: int) -> str:
    total = max(study.expected, len(study.pairs))
    parts = [f"{len(study.pairs)} of {total} attacks are finished"] if missing > 0 else []
    if study.unfinished:
        parts.append(f"{study.unfinished} started run{_s(range(study.unfinished))} unfinished")
    twins = sum(pair.twin is None for pair in study.pairs)
    if twins:
        parts.append(f"{twins} attack{_s(range(twins))} without a finished twin")
    return f"Unfinished: {', '.join(parts)}; go on with: leadapron study --out DIR"


def _verdicts(verdicts: Sequence[str], head: dict[str, str], subject: str) -> str:
    """One verdict in full, or how many runs each verdict fits."""
    counts = Counter(verdicts)
    if len(counts) == 1:
        runs = {1: "", 2: " in both runs"}.get(len(verdicts), f" in all {len(verdicts)} runs")
        return head[verdicts[0]] + runs
    first, *others = [word for word in head if counts[word]]
    parts = [f"{first} in {counts[first]} of {len(verdicts)} runs"]
    parts += [f"{word} in {counts[word]}" for word in others]
    return f"{subject}: {', '.join(parts)}"


def _joint(start: str) -> str:
    """The separator after a verdict: a semicolon if it already has a colon."""
    return ";" if ": " in start else ":"


def _mean(rows: Sequence[Row | None], form: Callable[[float], str] = percent) -> str:
    known = [row.value for row in rows if row is not None and row.value is not None]
    if known:
        return form(sum(known) / len(known))
    return value(next((row for row in rows if row is not None), None), form)


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"


def _s(things: Sequence[Any]) -> str:
    return "" if len(things) == 1 else "s"


def _counted(found: Any) -> str:
    return f"{found:,}" if isinstance(found, int) and not isinstance(found, bool) else ""
