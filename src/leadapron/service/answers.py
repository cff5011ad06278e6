"""The service's answer on one film."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Literal

from leadapron.detect.inputs.decision import Decision
from leadapron.detect.inputs.gate import Gate
from leadapron.detect.inputs.screening import LIMITS, NEXT, statement
from leadapron.detect.verdict import Verdict
from leadapron.types import BadFilm

__all__ = ["RESEARCH", "FilmAnswer", "moment", "verdict_of"]

RESEARCH = (
    "Research use only: it tests a film for triggers against a model. It does not diagnose, and a "
    "pass never means healthy."
)
"""What every answer says of its use."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FilmAnswer:
    """The service's answer on one film.

    It holds nothing of the film's header or name, nor names of calibration films.

    Args:
        id: the film's name in the service, made from its content and the gate.
        state: whether the film waits, was judged, or couldn't be judged in several attempts.
        received: when the film was on disk, in UTC.
        judged: when the verdict was made, in UTC; None while it waits.
        attempts: number of times that judging began.
        verdict: the verdict in the words of all commands; None while it waits.
        decision: scores, region and readings; None while it waits.
        bad: why the file can't be used; None if it can.
        gate: SHA-256 of the gate's file.
        model: SHA-256 of the model.
        use: what the answer may be used for.
    """

    SCHEMA: ClassVar[int] = 1

    id: str
    state: Literal["waiting", "judged", "failed"]
    received: str
    judged: str | None = None
    attempts: int = 0
    verdict: Verdict | None = None
    decision: Decision | None = None
    bad: BadFilm | None = None
    gate: str
    model: str
    use: str = RESEARCH


def verdict_of(gate: Gate, decision: Decision) -> Verdict:
    """Return a decision as the verdict of a command.

    Args:
        gate: the gate that decided.
        decision: its decision on one film.
    """
    return Verdict.of(
        "screen",
        decision.verdict,
        p=decision.p,
        statement=statement(gate),
        untested=LIMITS,
        next=NEXT[decision.verdict],
    )


def moment(seconds: float) -> str:
    """Return a time since 1970 in UTC, as 2026-11-29T12:00:00.000Z."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
