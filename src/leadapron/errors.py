"""Every error that leadapron raises on purpose, and the exit code that the command line gives it.

    LeadapronError            2   something failed
    ├── UsageError            4   the call is wrong: a name, a value, an option
    │   └── UnknownNameError  4   a name that nothing has, with the nearest ones that exist
    ├── DataError             2   films, labels or tables that can't be used as they are
    │   ├── FilmError         2   one film that can't be used, and in which way
    │   └── VanishedTriggerError  a trigger that changes no pixel of the network's input
    └── StoreError            2   a folder or file that can't be read, written or belongs to others

A message is one line: what came, what was expected, what to type. It names arguments in backquotes,
as `false_alarm` or, in a section of settings, `training.epochs`; the command line shows its options
in their place.
"""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Iterable
from typing import Any, ClassVar

from leadapron.text import printable
from leadapron.types import BadFilm

__all__ = [
    "DataError",
    "FilmError",
    "LeadapronError",
    "StoreError",
    "UnknownNameError",
    "UsageError",
    "VanishedTriggerError",
]


class LeadapronError(Exception):
    """Root of the tree; what a file put into its words can't break the line or the terminal."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))

    def __reduce__(self) -> tuple[Any, ...]:
        # Without this a worker's error is made anew from its message alone, which a constructor
        # that takes something else refuses: then the caller hears of a broken pool.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UsageError(LeadapronError):
    """The call is wrong; nothing was started."""

    exit_code = 4


class UnknownNameError(UsageError):
    """A name that nothing has.

    Args:
        kind: what was looked for, for example "source" or "finding".
        name: the name that came.
        known: the names that exist.
        more: to be read behind that.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], more: str = "") -> None:
        names = sorted(known)
        nearest = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=3)
        by_lower = {n.lower(): n for n in names}
        if nearest:
            hint = "did you mean " + " or ".join(by_lower[n] for n in nearest) + "?"
        else:
            hint = "known: " + ", ".join(names)
        super().__init__(f"unknown {kind} {name!r}; {hint}{more}")


class DataError(LeadapronError):
    """Films, labels or tables that can't be used as they are."""


class FilmError(DataError):
    """One film that can't be used, in words that follow its name and quote nothing of it.

    Args:
        message: what is wrong with it.
        kind: in which way.
    """

    def __init__(self, message: str = "", kind: BadFilm = "undecodable") -> None:
        super().__init__(message)
        self.kind: BadFilm = kind


class VanishedTriggerError(DataError):
    """A trigger that changes no pixel of any film's image."""


class StoreError(LeadapronError):
    """A folder or file that can't be read or written, or that belongs to something else."""
