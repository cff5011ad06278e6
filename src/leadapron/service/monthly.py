"""What a gate did in a month of service: verdicts, promised and seen rates, and drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from leadapron import metrics
from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL
from leadapron.detect.inputs.gate_file import read_gate
from leadapron.documents import Estimated
from leadapron.errors import StoreError
from leadapron.report import figures
from leadapron.report.rendering import write_page
from leadapron.report.words import between, percent
from leadapron.service.drift import ALL, ANOTHER, FALSE_ALARM, KINDS, About
from leadapron.service.figures import (
    Alarmed,
    Line,
    alarms_of,
    drift_of,
    lines_of,
    months_of,
    place_of,
    tested,
)
from leadapron.service.reviews import REVIEWS, Tally, read_reviews, tallies
from leadapron.specs import forgiving
from leadapron.store import reason, sha256_of
from leadapron.text import count

__all__ = ["DriftTest", "Month", "Rates", "month_lines", "monthly", "write_month"]

CLASSES = 10
"""Classes of equal width that p values are counted in."""

NAMES = {"view": "view", "scanner": "device"}

ABOUT: dict[About, str] = {"scores": "scores", "looks": "looks"}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Verdicts on a group of films.

    Args:
        kind: of the group, as "view"; "" for all films.
        name: of the group.
        films: their number, without films that couldn't be decoded.
        suspicious: share called suspicious.
        cant_tell: share that got "can't tell".
    """

    kind: str
    name: str
    films: int
    suspicious: Estimated
    cant_tell: Estimated


@dataclass(frozen=True, kw_only=True)
class DriftTest:
    """A test of drift.

    Args:
        kind: of the group of films, as "view"; "" for all films.
        name: of the group.
        about: "scores" or "looks".
        films: number of films that it compared.
        evidence: at the end of the month: 0 none, 1 an alarm.
        alarmed: whether it raised the alarm in this month.
    """

    kind: str
    name: str
    about: About
    films: int
    evidence: float
    alarmed: bool


@dataclass(frozen=True, kw_only=True)
class Month:
    """A month of a gate in service.

    Args:
        month: as 2026-11, in UTC.
        gate: SHA-256 of the gate's file.
        films: number of films that were judged.
        bad: number of these that couldn't be decoded.
        promised: largest share of clean films that are called suspicious; at most as many get
            "can't tell" if the gate tests how typical films look.
        rates: verdicts on all films and on each view and device.
        p: number of films in each tenth of p; as many in each if films are clean.
        days: number of films by day.
        false_alarm: largest probability of an alarm of drift in a month without drift.
        tests: the tests of drift.
        alarms: alarms since the gate was calibrated.
        reviewed: what readers said of its films of this month, by the gate's verdict.
    """

    SCHEMA: ClassVar[int] = 1

    month: str
    gate: str
    films: int
    bad: int
    promised: float
    rates: tuple[Rates, ...]
    p: tuple[int, ...]
    days: dict[str, int]
    false_alarm: float
    tests: tuple[DriftTest, ...]
    alarms: tuple[Alarmed, ...]
    reviewed: tuple[Tally, ...] = ()


@forgiving
def monthly(gate: Path, *, spool: Path = Path("spool"), month: str = "") -> Month:
    """Count what a gate did in a month of service, and test its films for drift.

    Args:
        gate: the file that calibrate wrote.
        spool: Folder of the service.
        month: Month in UTC, as 2026-11; the newest if left out.

    Raises:
        StoreError: a gate that can't be read, or no figures of it.
    """
    stored, digest = read_gate(gate, INPUT_DETECTORS, TYPICAL).gate, sha256_of(gate)
    place = place_of(spool, digest)
    try:
        months = months_of(place)
        if not months:
            raise StoreError(f"{spool} holds no figures of {gate.name}; has it judged films?")
        month = month or months[-1]
        if month not in months:
            raise StoreError(f"no figures of {month}; there are {', '.join(months)}")
        lines, alarms = list(lines_of(place, month)), alarms_of(place)
    except OSError as error:
        raise StoreError(f"can't read {place}: {reason(error)}") from error
    drift = drift_of(stored, digest, month)
    for line in lines:
        tested(drift, line)
    p = [line.p for line in lines if line.p is not None]
    days = sorted({line.day for line in lines})
    return Month(
        month=month,
        gate=digest,
        films=len(lines),
        bad=sum(line.bad for line in lines),
        promised=stored.false_alarm,
        rates=tuple(_rates(lines)),
        p=tuple(int(n) for n in np.histogram(p, CLASSES, (0, 1))[0]),
        days={day: sum(line.day == day for line in lines) for day in days},
        false_alarm=FALSE_ALARM,
        tests=tuple(
            DriftTest(
                kind=group.kind, name=group.name, about=about, films=test.films,
                evidence=test.evidence, alarmed=test.alarmed,
            )
            for (group, about), test in drift.tests.items()
        ),
        alarms=tuple(alarms),
        reviewed=tuple(
            each
            for each in tallies(read_reviews(spool / REVIEWS))
            if (each.month, each.gate) == (month, digest)
        ),
    )  # fmt: skip


def month_lines(made: Month) -> list[str]:
    """Return a month for the terminal, line by line.

    Args:
        made: the month.
    """
    whole = made.rates[0]
    bad = f", {made.bad:,} of them no usable film" if made.bad else ""
    return [
        *(f"ALARM: {_alarm_words(alarm)}" for alarm in made.alarms),
        f"{made.month}: {count(made.films, 'film')}{bad}",
        f"Suspicious: {_share(whole.suspicious)}; promised for clean films: at most "
        f"{_stated(made.promised)}",
        f"Can't tell: {_share(whole.cant_tell)}",
        *(
            f"  {_group_name(each.kind, each.name)}, {count(each.films, 'film')}: suspicious "
            f"{_share(each.suspicious)}, can't tell {_share(each.cant_tell)}"
            for each in made.rates[1:]
        ),
        *(
            f"Readers, {count(each.films, 'film')} that the gate calls {each.verdict}: "
            f"{each.trigger:,} with a trigger, {each.no_trigger:,} without, {each.cant_tell:,} "
            f"can't tell, {each.divided:,} on which they differ"
            for each in made.reviewed
        ),
        _drift_words(made),
    ]


def write_month(path: Path, made: Month) -> Path:
    """Write the page of a month; it holds nothing of single films.

    Args:
        path: the HTML file; it is replaced.
        made: the month.

    Returns:
        The path.

    Raises:
        StoreError: a file that can't be written.
    """
    return write_page(
        path,
        "month.html.j2",
        title=f"The gate in {made.month}",
        facts=made,
        alarms=[_alarm_words(alarm) for alarm in made.alarms],
        cards=_cards(made),
        rates=[
            (_group_name(each.kind, each.name), f"{each.films:,}", _share(each.suspicious),
             _share(each.cant_tell))
            for each in made.rates
        ],
        reviewed=[
            (each.verdict, f"{each.films:,}", f"{each.trigger:,}", f"{each.no_trigger:,}",
             f"{each.cant_tell:,}", f"{each.divided:,}")
            for each in made.reviewed
        ],
        figure=_drawn(made),
        classes=[
            (f"{i / CLASSES:g} to {(i + 1) / CLASSES:g}", f"{n:,}") for i, n in enumerate(made.p)
        ],
        tests=[
            (_group_name(each.kind, each.name), ABOUT[each.about], f"{each.films:,}",
             f"{each.evidence:.2f}", "alarm" if each.alarmed else "")
            for each in made.tests
        ],
        words=_drift_words(made),
        days=[(day, f"{n:,}") for day, n in made.days.items()],
    )  # fmt: skip


def _rates(lines: Sequence[Line]) -> list[Rates]:
    """Verdicts on all films, then on each group that occurs."""
    good = [line for line in lines if not line.bad]
    groups: dict[tuple[str, str], list[Line]] = {ALL: good}
    for kind in KINDS:
        for line in good:
            if name := str(getattr(line, kind)):
                groups.setdefault((kind, name), []).append(line)
    return [
        Rates(
            kind=kind,
            name=name,
            films=len(inside),
            suspicious=_rate([line.verdict == "suspicious" for line in inside]),
            cant_tell=_rate([line.verdict == "can't tell" for line in inside]),
        )
        for (kind, name), inside in groups.items()
    ]


def _rate(hits: Sequence[bool]) -> Any:
    return metrics.exact_rate(np.asarray(hits, bool), np.arange(len(hits)))


def _share(rate: Any) -> str:
    if not rate.defined:
        return "undefined"
    return f"{percent(rate.value)} ({between(rate.low, rate.high, percent)})"


def _stated(rate: float) -> str:
    return f"{100 * rate:g} %"


def _group_name(kind: str, name: str) -> str:
    if name == ANOTHER:
        return f"another {NAMES[kind]}"
    return f"{NAMES[kind]} {name}" if kind else "all films"


def _alarm_words(alarm: Alarmed) -> str:
    return (
        f"{alarm.month}: the {ABOUT[alarm.about]} of {_group_name(alarm.kind, alarm.name)} are no "
        f"longer like those of the calibration films, noticed after {count(alarm.films, 'film')}; "
        "calibrate again"
    )


def _drift_words(made: Month) -> str:
    alarmed = sum(each.alarmed for each in made.tests)
    found = f"{alarmed} of {len(made.tests)} tests raised the alarm" if alarmed else "not noticed"
    return (
        f"Drift in this month: {found}; without drift the probability of any alarm in a month is "
        f"at most {_stated(made.false_alarm)}"
    )


def _cards(made: Month) -> list[dict[str, Any]]:
    """The four numbers at the top."""
    whole = made.rates[0]
    return [
        {
            "title": "Films",
            "value": f"{made.films:,}",
            "under": "judged in this month",
            "facts": [("no usable film", f"{made.bad:,}")],
        },
        {
            "title": "Suspicious",
            "value": percent(whole.suspicious.value) if whole.films else "none",
            "under": "of usable films",
            "facts": [("promised for clean films", f"at most {_stated(made.promised)}")],
        },
        {
            "title": "Can't tell",
            "value": percent(whole.cant_tell.value) if whole.films else "none",
            "under": "of usable films",
            "facts": [],
        },
        {
            "title": "Drift",
            "value": "alarm" if made.alarms else "none",
            "under": "noticed since calibration",
            "facts": [("alarms", f"{len(made.alarms)}")],
        },
    ]


def _drawn(made: Month) -> str:
    """Rates by group, with intervals."""
    return figures.intervals(
        [
            figures.Interval(
                name=_group_name(each.kind, each.name), note=f"{each.films:,}", share=rate
            )
            for each in made.rates
            for rate in (each.cant_tell,)
        ],
        name="cant-tell",
        label='Share of "can\'t tell" by group with its interval; the table has the values.',
        axis='"can\'t tell", with 95 % interval',
        note="films",
    )
