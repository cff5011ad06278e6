"""Sessions of the reader's page, in memory: a restart signs everybody out."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

__all__ = ["IDLE_SECONDS", "LONGEST_SECONDS", "Session", "Sessions"]

IDLE_SECONDS = 30 * 60.0
"""Seconds without a request after which a session ends."""

LONGEST_SECONDS = 10 * 3600.0
"""Seconds after which a session ends anyhow: a long shift."""

MOST = 200
"""Most sessions; a further one ends the one that was idle for longest."""


@dataclass(kw_only=True)
class Session:
    """A person who signed in.

    Args:
        reader: the person's name.
        csrf: what the page sends with each change; a foreign page doesn't know it.
        begun: when it began, in seconds of the monotonic clock.
        used: when the last request came.
    """

    reader: str
    csrf: str
    begun: float
    used: float

    @property
    def seconds_left(self) -> float:
        """Seconds until it ends if nothing else is requested; 0 or less if it has ended."""
        end = min(self.used + IDLE_SECONDS, self.begun + LONGEST_SECONDS)
        return end - time.monotonic()

    def proved(self, csrf: str) -> bool:
        """Return whether a request comes from the page that this session opened."""
        return hmac.compare_digest(csrf.encode(), self.csrf.encode())


class Sessions:
    """Sessions by the hash of their cookie, so that a look-up's time tells nothing of a cookie."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, Session] = {}

    def begin(self, reader: str) -> tuple[str, Session]:
        """Return a new session and its cookie's value.

        Args:
            reader: the person's name.
        """
        self._drop_ended()
        if len(self._sessions) >= MOST:
            del self._sessions[min(self._sessions, key=lambda each: self._sessions[each].used)]
        now = time.monotonic()
        cookie = secrets.token_urlsafe(32)
        session = Session(reader=reader, csrf=secrets.token_urlsafe(32), begun=now, used=now)
        self._sessions[_hash(cookie)] = session
        return cookie, session

    def find(self, cookie: str) -> Session | None:
        """Return a cookie's session, which is thereby in use; None if it has ended."""
        self._drop_ended()
        session = self._sessions.get(_hash(cookie))
        if session is not None:
            session.used = time.monotonic()
        return session

    def end(self, cookie: str) -> None:
        """End a session; nothing happens if it has ended."""
        self._sessions.pop(_hash(cookie), None)

    def _drop_ended(self) -> None:
        ended = [key for key, session in self._sessions.items() if session.seconds_left <= 0]
        for key in ended:
            del self._sessions[key]


def _hash(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()
