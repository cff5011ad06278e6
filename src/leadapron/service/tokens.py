"""Tokens of programs and readers, from a file that only its owner can read.

They are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from leadapron.errors import UsageError
from leadapron.reading import read_regular
from leadapron.store import reason

__all__ = ["ReaderToken", "Tokens", "read_tokens", "refuse_readable"]

SHORTEST = 24
"""Least characters of a token: `openssl rand -hex 32` makes 64."""

LARGEST = 1 << 16
"""Most bytes of the file."""

NAME = re.compile(r"[^\W_][\w.@-]{0,39}")
"""A reader's name: it begins with a letter or digit, so no spreadsheet takes it for a formula."""


class ReaderToken(NamedTuple):
    """The token of a person, who signs in to the reader's page with it.

    Args:
        name: who it is, as kept with each review.
        token: the token.
    """

    name: str
    token: bytes


class Tokens:
    """Tokens that are let in; only their hashes are kept.

    A program's token can't sign in to the page, a reader's token can't send films.

    Args:
        programs: tokens of programs.
        readers: tokens of people; two may have the same name.
    """

    def __init__(self, programs: Sequence[bytes], readers: Sequence[ReaderToken] = ()) -> None:
        self._hashes = [hashlib.sha256(token).digest() for token in programs]
        self._readers = [(name, hashlib.sha256(token).digest()) for name, token in readers]

    @property
    def has_readers(self) -> bool:
        """Whether anybody can sign in to the page."""
        return bool(self._readers)

    def admit(self, header: bytes) -> bool:
        """Return whether a request may pass, in a time that doesn't depend on the token.

        Args:
            header: value of its Authorization header; empty if there is none.
        """
        scheme, _, token = header.partition(b" ")
        given = hashlib.sha256(token.strip()).digest()
        # Every token is compared, whether or not one before it was the same.
        same = [hmac.compare_digest(given, known) for known in self._hashes]
        return scheme.lower() == b"bearer" and any(same)

    def reader(self, token: bytes) -> str | None:
        """Return the name of the reader with this token, as slowly for a wrong one; else None."""
        given = hashlib.sha256(token.strip()).digest()
        found = [
            name if hmac.compare_digest(given, known) else None for name, known in self._readers
        ]
        return next(filter(None, found), None)


def read_tokens(path: Path) -> Tokens:
    """Return the tokens of a file: on each line a program's token, or a reader's name and token.

    Raises:
        UsageError: it is missing, others can read it, or a token is short.
    """
    refuse_readable(path, "umask 077; openssl rand -hex 32 > token")
    try:
        lines = read_regular(path, LARGEST).split(b"\n")
    except OSError as error:
        raise UsageError(f"can't read {path}: {reason(error)}") from error
    words = [line.split() for line in lines if line.strip()]
    programs = [line[0] for line in words if len(line) == 1]
    readers = [ReaderToken(line[0].decode(errors="replace"), line[-1]) for line in words
               if len(line) == 2]  # fmt: skip
    wrong = (
        not words
        or len(programs) + len(readers) < len(words)
        or any(len(line[-1]) < SHORTEST for line in words)
        or not all(NAME.fullmatch(name) for name, _ in readers)
    )
    if wrong:
        raise UsageError(
            f"{path}: expected on each line a token of at least {SHORTEST} characters, for a "
            "reader with a name before it; make one: umask 077; openssl rand -hex 32 > token"
        )
    return Tokens(programs, readers)


def refuse_readable(path: Path, make: str = "") -> None:
    """Raise UsageError if a secret's file is missing or others than its owner can read it.

    Args:
        path: the file.
        make: how such a file is made.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        hint = f"; make it: {make}" if make else ""
        raise UsageError(f"can't read {path}: {reason(error)}{hint}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"{path} has mode {stat.S_IMODE(mode):04o}: others can read or change it; "
            f"chmod 600 {path}, and make a new one if they may have read it"
        )
