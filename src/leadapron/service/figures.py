"""A gate's figures in service: a line for each film that was judged, with nothing that names it.

    FOLDER/GATE/2026-11.jsonl   the films of a month, GATE being digits of the gate's SHA-256
    FOLDER/GATE/alarms.jsonl    alarms of drift; they stand until the gate is calibrated again

A line holds the day, the verdict, p, the score, how unlike the film is, and its view and device
where the gate's calibration films have the same ones. The drift tests run on these lines, and give
the same result when they are read again.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, TypeVar

from leadapron.detect.inputs.decision import Decision
from leadapron.detect.inputs.gate import Gate
from leadapron.detect.verdict import ScreenWord
from leadapron.documents import parsed
from leadapron.errors import StoreError
from leadapron.service.drift import ANOTHER, KINDS, About, Alarm, Drift, groups_of
from leadapron.service.spool import private
from leadapron.store import make_folder, reason

__all__ = [
    "Alarmed",
    "Figures",
    "Line",
    "alarms_of",
    "drift_of",
    "lines_of",
    "months_of",
    "place_of",
    "tested",
]

logger = logging.getLogger(__name__)

FOLDER = "figures"

ALARMS = "alarms.jsonl"


@dataclass(frozen=True, kw_only=True)
class Line:
    """What is kept of a film that was judged.

    Args:
        day: when, as 2026-11-30, in UTC.
        verdict: the verdict.
        bad: whether it couldn't be decoded.
        p: as of the decision.
        score: as of the decision.
        unlike: as of the decision.
        view: its view, "another" if no calibration film has it, "" if unknown.
        scanner: the same of its device.
    """

    SCHEMA: ClassVar[int] = 1

    day: str
    verdict: ScreenWord
    bad: bool = False
    p: float | None = None
    score: float | None = None
    unlike: float | None = None
    view: str = ""
    scanner: str = ""


@dataclass(frozen=True, kw_only=True)
class Alarmed:
    """An alarm of drift.

    Args:
        month: when, as 2026-11, in UTC.
        kind: of the group of films, as "view"; "" for all.
        name: of the group.
        about: as `Alarm`.
        films: as `Alarm`.
    """

    SCHEMA: ClassVar[int] = 1

    month: str
    kind: str
    name: str
    about: About
    films: int


L = TypeVar("L", Line, Alarmed)


def place_of(spool: Path, gate: str) -> Path:
    """Return the folder of a gate's figures.

    Args:
        spool: the service's spool.
        gate: SHA-256 of the gate's file.
    """
    return spool / FOLDER / gate[:16]


def months_of(place: Path) -> list[str]:
    """Return the months that have figures, as 2026-11, the oldest first; OSError as `iterdir`."""
    return sorted(path.stem for path in place.glob("????-??.jsonl"))


def lines_of(place: Path, month: str) -> Iterator[Line]:
    """Yield a month's films in order.

    Args:
        place: as of `place_of`.
        month: as 2026-11.

    Raises:
        OSError: the file can't be read.
    """
    yield from _read(place / f"{month}.jsonl", Line)


def alarms_of(place: Path) -> list[Alarmed]:
    """Return the alarms, the oldest first; OSError if they can't be read.

    Args:
        place: as of `place_of`.
    """
    path = place / ALARMS
    return list(_read(path, Alarmed)) if path.exists() else []


def _read(path: Path, kind: type[L]) -> Iterator[L]:
    """Lines of a file; one that a kill cut off is left out."""
    with path.open("rb") as file:
        for text in file:
            try:
                yield parsed(kind, text)
            except ValueError:
                continue


def drift_of(gate: Gate, digest: str, month: str) -> Drift:
    """Return the tests of a month before its first film.

    Args:
        gate: the gate.
        digest: SHA-256 of its file.
        month: as 2026-11.
    """
    return Drift(gate, f"{digest} {month}")


class Figures:
    """The figures of a gate that is in service; its methods may be called from any thread.

    Args:
        spool: the service's spool.
        gate: the gate.
        digest: SHA-256 of the gate's file.

    Raises:
        StoreError: the folder can't be read or made.
    """

    def __init__(self, spool: Path, gate: Gate, digest: str) -> None:
        self._gate, self._digest = gate, digest
        self._place = place_of(spool, digest)
        self._known = {
            kind: {group.name for group in groups_of(gate) if group.kind == kind} for kind in KINDS
        }
        self._lock = threading.Lock()
        self._broken = False
        self._month, self._drift = "", Drift(gate, "")
        try:
            make_folder(self._place)
            self._alarms = alarms_of(self._place)
            for month in months_of(self._place)[-1:]:
                self._turn_to(month)
                for line in lines_of(self._place, month):
                    self._test(line)
        except OSError as error:
            raise StoreError(f"can't use {self._place}: {reason(error)}") from error

    @property
    def grouped(self) -> bool:
        """Whether the view or device of a film matters."""
        return any(self._known.values())

    @property
    def drift(self) -> Drift:
        """The present month's tests."""
        return self._drift

    @property
    def alarms(self) -> tuple[Alarmed, ...]:
        """The alarms since the gate was calibrated, the oldest first."""
        return tuple(self._alarms)

    def add(
        self, decision: Decision, *, bad: bool, view: str, scanner: str, seconds: float
    ) -> None:
        """Count a film; a disk that is full loses the line, and no verdict.

        Args:
            decision: on the film.
            bad: whether it couldn't be decoded.
            view: as its header has it, or "".
            scanner: as its header has it, or "".
            seconds: when it was judged, since 1970.
        """
        line = Line(
            day=datetime.fromtimestamp(seconds, UTC).date().isoformat(),
            verdict=decision.verdict,
            bad=bad,
            p=decision.p,
            score=decision.score,
            unlike=decision.unlike,
            view=self._named("view", view),
            scanner=self._named("scanner", scanner),
        )
        with self._lock:
            self._turn_to(line.day[:7])
            self._write(f"{self._month}.jsonl", line)
            self._test(line)

    def _named(self, kind: str, name: str) -> str:
        """A group's name; no other text of a header is kept."""
        if not name or not self._known[kind]:
            return ""
        return name if name in self._known[kind] else ANOTHER

    def _turn_to(self, month: str) -> None:
        if month > self._month:  # a clock that is set back doesn't begin a month again
            self._month, self._drift = month, drift_of(self._gate, self._digest, month)

    def _test(self, line: Line) -> None:
        for alarm in tested(self._drift, line):
            made = Alarmed(month=self._month, **alarm._asdict())
            if made in self._alarms:  # of an earlier run of the service
                continue
            self._alarms.append(made)
            self._write(ALARMS, made)
            logger.warning(
                "drift: the films are no longer like the calibration films (their %s, noticed "
                "after %d films of the month); the gate's rates may not hold: calibrate it again",
                alarm.about, alarm.films,
            )  # fmt: skip

    def _write(self, name: str, line: Line | Alarmed) -> None:
        try:
            with open(self._place / name, "ab", opener=private) as file:
                file.write(json.dumps(asdict(line)).encode() + b"\n")
        except OSError:
            if not self._broken:
                logger.error("figures can't be written: the disk is full or broken")
            self._broken = True
        else:
            self._broken = False


def tested(drift: Drift, line: Line) -> list[Alarm]:
    """Count a line's film in the tests, and return the alarms that it raises.

    Args:
        drift: the month's tests.
        line: what is kept of the film.
    """
    return drift.add(score=line.score, unlike=line.unlike, view=line.view, scanner=line.scanner)
