"""Bearer tokens: a file that only its owner can read, and a comparison in constant time."""

from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

from leadapron.errors import UsageError
from leadapron.reading import read_regular
from leadapron.store import reason

__all__ = ["Tokens", "read_tokens", "refuse_readable"]

SHORTEST = 24
"""Least characters of a token: `openssl rand -hex 32` makes 64."""

LARGEST = 1 << 16
"""Most bytes of the file."""


class Tokens:
    """Tokens that are let in; only their hashes are kept.

    Args:
        tokens: the tokens.
    """

    def __init__(self, tokens: list[bytes]) -> None:
        self._hashes = [hashlib.sha256(token).digest() for token in tokens]

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


def read_tokens(path: Path) -> Tokens:
    """Return the tokens of a file, one per line.

    Raises:
        UsageError: it is missing, others can read it, or a token is short.
    """
    refuse_readable(path, "umask 077; openssl rand -hex 32 > token")
    try:
        lines = read_regular(path, LARGEST).split(b"\n")
    except OSError as error:
        raise UsageError(f"can't read {path}: {reason(error)}") from error
    tokens = [line.strip() for line in lines if line.strip()]
    if not tokens or any(len(token) < SHORTEST or b" " in token for token in tokens):
        raise UsageError(
            f"{path}: expected tokens of at least {SHORTEST} characters, one per line; make one: "
            "umask 077; openssl rand -hex 32 > token"
        )
    return Tokens(tokens)


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
