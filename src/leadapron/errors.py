"""Every error that leadapron raises on purpose, with its exit code on the command line.

    LeadapronError            2   something failed ├── UsageError            4   the call is wrong:
    a name, a value, an option │   └── UnknownNameError  4   an unknown name, with the nearest known
    ones ├── DataError             2   films, labels or tables that can't be used │ ├── FilmError
    2   one film that can't be used, and why │   └── VanishedTriggerError  a trigger that changes no
    pixel of the network's input └── StoreError 2 a folder or file that can't be read or written, or
    has other contents

A message is one line: the given value, the expected value, and what to type. It names arguments in
backquotes, as `false_alarm` or, in a section of settings, `training.epochs`; the command line
replaces them by its options.
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
    """Root of the tree. Its message is made printable, since it may contain text of a file."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))

    def __reduce__(self) -> tuple[Any, ...]:
        # Without this, unpickling a worker's error calls its constructor with only the message,
        # which fails for other signatures, and the caller would see a broken pool.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UsageError(LeadapronError):
    """The call is wrong; nothing was started."""

    exit_code = 4


class UnknownNameError(UsageError):
    """An unknown name.

    Args:
        kind: kind of name, for example "source" or "finding".
        name: the given name.
        known: the known names.
        more: text after the suggestions.
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
    """Films, labels or tables that can't be used."""


class FilmError(DataError):
    """One film that can't be used. The message follows its name and quotes none of its content.

    Args:
        message: the reason.
        kind: kind of failure.
    """

    def __init__(self, message: str = "", kind: BadFilm = "undecodable") -> None:
        super().__init__(message)
        self.kind: BadFilm = kind


class VanishedTriggerError(DataError):
    """A trigger that changes no pixel of any film's image."""


class StoreError(LeadapronError):
    """A folder or file that can't be read or written, or has unexpected contents."""
