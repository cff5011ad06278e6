"""Orthanc as the door: its changes are polled, its films fetched, and results put back.

Nothing is installed in the hospital's Orthanc. The number of the last change that was dealt with is
on disk, written after its film is in the spool: what came while the service was down is fetched at
the next start, and what comes twice has one answer. It needs the extra `serve`.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from leadapron.errors import StoreError, UsageError
from leadapron.reading import read_regular
from leadapron.service.engine import MODALITIES, Engine, FullError, Watch
from leadapron.service.outbox import RefusedError, Send, UnreachableError
from leadapron.service.parts import Part
from leadapron.service.tokens import refuse_readable
from leadapron.store import read_json, reason, write_json

__all__ = ["Orthanc", "polling", "read_user"]

logger = logging.getLogger(__name__)

# Its lines name what is fetched.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
"""Orthanc's name of an instance, made from its UIDs."""

CHANGES = 100
"""Changes that are read at a time."""

POLL, PAUSE, LONGEST_PAUSE = 1.0, 1.0, 60.0
"""Seconds between two looks; between attempts while it is down, doubled each time, and most."""

TIMEOUT, LONGEST_ANSWER = 15.0, 120.0
"""Seconds without progress, and for a whole answer."""

LARGEST_JSON = 1 << 20
"""Most bytes of an answer that isn't a film."""

MOST_ATTEMPTS = 5
"""Attempts at one film that Orthanc can't give, before the service goes on without it."""


class _MissingError(Exception):
    """Orthanc no longer has it."""


class _FailedError(Exception):
    """Orthanc answers, and can't give this."""


class _TooLargeError(Exception):
    """An answer is larger than allowed."""


@dataclass(frozen=True)
class Page:
    """A part of Orthanc's list of changes.

    Args:
        instances: names of instances that came.
        last: number of the last change of the part.
        done: whether it is the end of the list.
    """

    instances: tuple[str, ...]
    last: int
    done: bool


def read_user(path: Path | None) -> tuple[str, str] | None:
    """Return user and password of a file; UsageError if it can't be used."""
    if path is None:
        return None
    refuse_readable(path, "umask 077; echo USER:PASSWORD > orthanc-user")
    try:
        text = read_regular(path, 4096).decode().strip("\r\n")
    except (OSError, ValueError) as error:
        words = reason(error) if isinstance(error, OSError) else "it isn't text"
        raise UsageError(f"can't read {path}: {words}") from error
    user, colon, password = text.partition(":")
    if not colon or not user or not text.isprintable():
        raise UsageError(f"{path}: expected one line, USER:PASSWORD")
    return user, password


class Orthanc:
    """Orthanc's REST interface, as far as the gate needs it; also a `Destination`.

    Args:
        url: its address.
        user: name and password, if it wants them.
        trusted: what its certificate is checked with; the system's if left out.
    """

    def __init__(
        self, url: str, user: tuple[str, str] | None = None, trusted: ssl.SSLContext | None = None
    ) -> None:
        self._client = httpx.Client(
            base_url=url,
            auth=user,
            timeout=TIMEOUT,
            trust_env=False,  # no proxy, no .netrc
            verify=trusted or ssl.create_default_context(),
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    @contextmanager
    def connected(self) -> Iterator[Send]:
        """Return what stores an object; see `Destination`."""
        yield self._store

    def last_change(self) -> int:
        """Return the number of its last change."""
        return self._changes("last", "").last

    def changes(self, since: int) -> Page:
        """Return the changes after a number."""
        return self._changes(f"since={since}&limit={CHANGES}", "NewInstance")

    def modality(self, instance: str) -> str:
        """Return an instance's modality; "" if its series states none."""
        facts = self._json(f"instances/{instance}/series")
        tags = facts.get("MainDicomTags")
        return str(tags.get("Modality", "")).strip() if isinstance(tags, dict) else ""

    def film(self, instance: str, most: int) -> Iterator[bytes]:
        """Yield an instance's file, piece by piece."""
        yield from self._pieces("GET", f"instances/{instance}/file", most)

    def _changes(self, query: str, kind: str) -> Page:
        try:
            facts = self._json(f"changes?{query}")
        except (_FailedError, _MissingError) as error:
            raise UnreachableError(f"it has no list of changes ({error})") from None
        found, last, done = facts.get("Changes"), facts.get("Last"), facts.get("Done")
        if not isinstance(found, list) or not isinstance(last, int) or not isinstance(done, bool):
            raise UnreachableError("its list of changes isn't Orthanc's")
        named = [
            str(each.get("ID"))
            for each in found
            if isinstance(each, dict) and each.get("ChangeType") == kind
        ]
        return Page(tuple(name for name in named if ID.fullmatch(name)), last, done)

    def _json(self, path: str) -> dict[str, Any]:
        try:
            facts = json.loads(b"".join(self._pieces("GET", path, LARGEST_JSON)))
        except (ValueError, RecursionError, _TooLargeError):
            facts = None
        if not isinstance(facts, dict):
            raise UnreachableError("it doesn't answer as an Orthanc")
        return facts

    def _store(self, content: bytes) -> None:
        try:
            for _ in self._pieces("POST", "instances", LARGEST_JSON, content):
                pass
        except (_MissingError, _FailedError, _TooLargeError) as error:
            raise RefusedError(str(error)) from None

    def _pieces(
        self, method: str, path: str, most: int, content: bytes | None = None
    ) -> Iterator[bytes]:
        """Yield an answer's body as it comes."""
        size, end = 0, time.monotonic() + LONGEST_ANSWER
        try:
            with self._client.stream(method, f"/{path}", content=content) as answer:
                if answer.status_code == 404:
                    raise _MissingError("HTTP status 404")
                if answer.status_code in (401, 403):
                    raise UnreachableError("it refuses the user of --orthanc-user-file")
                if answer.status_code in (502, 503, 504):
                    raise UnreachableError(f"it answers with HTTP status {answer.status_code}")
                if answer.status_code != 200:
                    raise _FailedError(f"HTTP status {answer.status_code}")
                for piece in answer.iter_bytes():
                    size += len(piece)
                    if size > most:
                        raise _TooLargeError("its answer is too large")
                    if time.monotonic() > end:
                        raise UnreachableError("it is too slow")
                    yield piece
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            raise UnreachableError(_why(error)) from None


def _why(error: Exception) -> str:
    """Why there is no answer, in words that repeat nothing of a request."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate isn't trusted; give that of its authority as --orthanc-ca"
        cause = cause.__cause__ or cause.__context__
    return f"no answer ({type(error).__name__})"


@contextmanager
def polling(
    engine: Engine, orthanc: Orthanc, *, number: Path, url: str, largest: int, backlog: bool,
    watch: Watch,
) -> Iterator[None]:  # fmt: skip
    """Hand Orthanc's films to an engine until the block ends.

    Args:
        engine: judges them.
        orthanc: gives them.
        number: file that keeps the number of the last change.
        url: Orthanc's address; another one begins its own count.
        largest: most bytes of a film.
        backlog: at the first start, take the films that are there.
        watch: what counts.
    """
    poller = _Poller(engine, orthanc, number, url, largest, backlog, watch)
    poller.start()
    try:
        with engine.relying_on(poller.part):
            yield
    finally:
        poller.stop()


class _Poller:
    def __init__(
        self, engine: Engine, orthanc: Orthanc, number: Path, url: str, largest: int,
        backlog: bool, watch: Watch,
    ) -> None:  # fmt: skip
        self._engine, self._orthanc, self._watch = engine, orthanc, watch
        self._file, self._url, self._largest, self._backlog = number, url, largest, backlog
        self._done: int | None = None
        self._dealt: set[str] = set()  # instances of the part that is being dealt with
        self._failed: dict[str, int] = {}
        self._stopping = threading.Event()
        self.part = Part("taking films from Orthanc", self._keep_polling)

    def start(self) -> None:
        self.part.start()

    def stop(self) -> None:
        self._stopping.set()
        self.part.join(TIMEOUT)

    def _keep_polling(self) -> None:
        pause, known = PAUSE, False
        while not self._stopping.is_set():
            try:
                if not known:
                    self._begin()
                    logger.info("films are taken from Orthanc")
                    known, pause = True, PAUSE
                if not self._look():
                    self._stopping.wait(POLL)
            except FullError:
                self._stopping.wait(POLL)
            except Exception as error:
                if known or pause == PAUSE:
                    kind = str(error) if isinstance(error, UnreachableError) else _kind(error)
                    logger.warning("can't take films from Orthanc: %s; it is tried again", kind)
                known = False
                self._stopping.wait(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)

    def _begin(self) -> None:
        """Find the number of the last change that was dealt with."""
        last = self._orthanc.last_change()
        if self._done is None:
            self._done = _read_number(self._file, self._url)
        if self._done is None:
            self._note(0 if self._backlog else last)
        elif self._done > last:
            logger.warning("Orthanc counts its changes from the start again; so does the gate")
            self._note(0)

    def _look(self) -> bool:
        """Deal with a part of the changes, and return whether there are more."""
        assert self._done is not None
        page = self._orthanc.changes(self._done)
        for instance in page.instances:
            if self._stopping.is_set():
                return False
            if instance not in self._dealt:
                self._deal_with(instance)
                self._dealt.add(instance)
        if page.last > self._done:
            self._note(page.last)
        self._dealt.clear()
        return not page.done

    def _deal_with(self, instance: str) -> None:
        """Take an instance if it is a film; FullError and UnreachableError are for another time."""
        try:
            # The gate's own results have other modalities.
            if self._orthanc.modality(instance) in MODALITIES:
                self._take(instance)
        except _MissingError:
            pass  # deleted meanwhile
        except _TooLargeError:
            logger.error("a film of Orthanc is left out: it is larger than --largest")
            self._watch.left_out()
        except _FailedError as error:
            tried = self._failed.get(instance, 0) + 1
            self._failed[instance] = tried
            if tried < MOST_ATTEMPTS:
                raise UnreachableError(f"it can't give a film ({error})") from None
            logger.error("a film of Orthanc is left out after %d attempts (%s)", tried, error)
            self._watch.left_out()
        self._failed.pop(instance, None)

    def _take(self, instance: str) -> None:
        with closing(self._engine.arrive()) as film:
            for piece in self._orthanc.film(instance, self._largest):
                try:
                    film.write(piece)
                except OSError as error:
                    raise FullError("the disk is full") from error
            self._engine.accept(film)

    def _note(self, number: int) -> None:
        write_json(self._file, {"url": self._url, "number": number})
        self._done = number


def _read_number(path: Path, url: str) -> int | None:
    """The number on disk; None at the first start, or for another Orthanc."""
    if not path.exists():
        return None
    facts = read_json(path)
    number = facts.get("number") if isinstance(facts, dict) else None
    if not isinstance(number, int) or number < 0:
        raise StoreError(f"{path.name} is damaged")
    return number if facts.get("url") == url else None


def _kind(error: Exception) -> str:
    return str(error) if isinstance(error, StoreError) else type(error).__name__
