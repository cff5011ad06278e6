"""The verdict: one type for all commands, and the exit codes that follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from leadapron.errors import UsageError

__all__ = [
    "EXIT_CODES",
    "LEVELS",
    "AuditWord",
    "Command",
    "DescribeWord",
    "Level",
    "RepairWord",
    "ScanWord",
    "ScreenWord",
    "Verdict",
    "overall_exit_code",
    "refuse_rate",
]

Level = Literal["found", "unusual", "nothing found", "can't tell"]
"""Outcome of a command. There is no level "clean", since finding nothing proves nothing."""

EXIT_CODES: Mapping[Level, int] = MappingProxyType(
    {"found": 1, "unusual": 3, "nothing found": 0, "can't tell": 3}
)
"""Exit code of a detection command for each level."""

WORST_FIRST = (1, 2, 3, 0)
"""Exit codes from worst to best: found, failed, unusual or can't tell, nothing found."""

Command = Literal["scan", "audit", "screen", "describe", "repair"]

ScanWord = Literal["poisoned", "suspicious", "label-tied mark", "nothing found", "can't tell"]
AuditWord = Literal[
    "backdoored", "exploitable mark", "unusual", "nothing found", "can't tell"
]  # fmt: skip
ScreenWord = Literal["suspicious", "pass", "can't tell"]
DescribeWord = Literal["leakage", "done"]
RepairWord = Literal[
    "repaired", "no longer found", "nothing found to repair", "stays", "can't tell"
]

LEVELS: Mapping[Command, Mapping[str, Level]] = MappingProxyType(
    {
        "scan": {
            "poisoned": "found",
            "suspicious": "unusual",
            "label-tied mark": "unusual",
            "nothing found": "nothing found",
            "can't tell": "can't tell",
        },
        "audit": {
            "backdoored": "found",
            "exploitable mark": "unusual",
            "unusual": "unusual",
            "nothing found": "nothing found",
            "can't tell": "can't tell",
        },
        "screen": {"suspicious": "found", "pass": "nothing found", "can't tell": "can't tell"},
        "describe": {"leakage": "found", "done": "nothing found"},
        "repair": {
            "repaired": "nothing found",
            "no longer found": "nothing found",
            "nothing found to repair": "nothing found",
            "stays": "found",
            "can't tell": "can't tell",
        },
    }
)
"""The level of each command's own words. A scan's "suspicious" set exceeds the requested
false-alarm rate; a screening's "suspicious" film doesn't. A repair searches the repaired model for
the backdoor: "no longer found" if the error rate of that search isn't known."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict of a command.

    Args:
        level: one of four levels, the same for all commands.
        word: the command's own word, one of `LEVELS`.
        p: corrected p-value behind the verdict; None if there is none.
        statement: the false-alarm rate and how it was measured, in one or two sentences.
        untested: descriptions of what was not tested.
        next: the recommended next step, in a sentence.
    """

    level: Level
    word: str
    p: float | None = None
    statement: str = ""
    untested: tuple[str, ...] = ()
    next: str = ""

    @classmethod
    def of(
        cls,
        command: Command,
        word: str,
        *,
        p: float | None = None,
        statement: str = "",
        untested: tuple[str, ...] = (),
        next: str = "",  # noqa: A002
    ) -> Verdict:
        """Return a command's verdict with this word.

        Args:
            command: the command.
            word: one of `LEVELS[command]`.
            p: as `Verdict`.
            statement: as `Verdict`.
            untested: as `Verdict`.
            next: as `Verdict`.
        """
        return cls(
            level=LEVELS[command][word],
            word=word,
            p=p,
            statement=statement,
            untested=untested,
            next=next,
        )

    def __str__(self) -> str:
        return self.word

    @property
    def exit_code(self) -> int:
        """Exit code of a detection command; commands that only describe exit with 0."""
        return EXIT_CODES[self.level]


def refuse_rate(false_alarm: float) -> None:
    """Raise UsageError unless a rate of false alarms is above 0 and below 1."""
    if not 0 < false_alarm < 1:
        raise UsageError(f"`false_alarm` {false_alarm:g}: expected above 0 and below 1")


def overall_exit_code(codes: Iterable[int]) -> int:
    """Return the exit code for several films or models: the worst of 1, 2, 3, 0.

    Args:
        codes: one exit code for each film or model; without any, the code of "can't tell".
    """
    return min(codes, key=WORST_FIRST.index, default=EXIT_CODES["can't tell"])
