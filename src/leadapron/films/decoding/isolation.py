"""Decoding in worker processes that may crash, hang or exhaust memory without harming the job.

A worker gets an open film and answers with raw pixels (see `leadapron.workers`), so a worker that a
hostile film has compromised can only send a picture. It is confined (`leadapron.confinement`) to
the films that it is given, limited in memory, and killed after `SECONDS` on one film. Workers are
reused; one thread at a time uses each. If a film crashes a worker that has read other films, it is
tried again in a new worker, since an earlier film may be the cause.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import FilmError, LeadapronError
from leadapron.reading import open_regular
from leadapron.types import BadFilm
from leadapron.workers import BROKEN, TOO_LATE, Worker, environment

__all__ = [
    "LARGEST_FILM_PIXELS",
    "SECONDS",
    "ask",
    "give_up",
    "processors",
    "read_headers",
]

logger = logging.getLogger(__name__)

LARGEST_FILM_PIXELS = 100_000_000
SECONDS = 60.0
"""Most seconds for one film."""

LONGEST_WORDS = 500
"""Most characters of a worker's error message."""

# -P: otherwise Python imports from the working directory, which may be the folder of films.
COMMAND = (sys.executable, "-P", "-m", "leadapron.films.decoding.worker")

_TYPES: dict[Any, np.dtype[Any]] = {str(np.dtype(t)): np.dtype(t) for t in (np.uint8, np.uint16)}


def ask(question: Mapping[str, Any]) -> tuple[dict[str, Any], NDArray[Any] | None]:
    """Send a worker a file and return its answer.

    Args:
        question: "do" ("film" or "header"), "path" and the other arguments of `decoding.worker`.

    Returns:
        The worker's facts, and a (height, width) uint8 or uint16 picture if there is one.

    Raises:
        FilmError: the file can't be decoded, or the worker crashed or exceeded its time or memory.
            The message doesn't name the file.
        LeadapronError: workers can't be started.
    """
    question = dict(question)
    try:
        with open_regular(question.pop("path")) as film:
            facts, pixels = _asked(question, film.fileno())
    except OSError as error:
        kind: BadFilm = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        reason = error.strerror or type(error).__name__
        raise FilmError(f"can't be read ({reason})", kind) from None
    if "error" in facts:
        kind = facts["kind"] if facts.get("kind") in get_args(BadFilm) else "undecodable"
        raise FilmError(str(facts["error"])[:LONGEST_WORDS], kind)
    return facts, pixels


def _asked(question: Mapping[str, Any], film: int) -> tuple[dict[str, Any], NDArray[Any] | None]:
    try:
        with _borrowed() as worker:
            return worker.ask(question, film)
    except _CrashError as crash:
        if not crash.again:
            raise FilmError("crashes its decoder") from None
    with _borrowed(new=True) as worker:
        try:
            return worker.ask(question, film)
        except _CrashError:
            raise FilmError("crashes its decoder") from None


def give_up() -> None:
    """Kill the workers that are decoding; their callers get a FilmError."""
    with _lock:
        for worker in _busy:
            worker.given_up = True
            worker.process.kill()


def read_headers(
    paths: Sequence[str], question: Mapping[str, Any]
) -> Iterator[dict[str, Any] | FilmError]:
    """Yield the files' headers in order, or the error of a file."""

    def header(path: str) -> dict[str, Any] | FilmError:
        try:
            return ask({**question, "do": "header", "path": path})[0]
        except FilmError as error:
            return error

    with ThreadPoolExecutor(processors(), thread_name_prefix="leadapron-header") as pool:
        try:
            yield from pool.map(header, paths)
        except (KeyboardInterrupt, GeneratorExit):
            pool.shutdown(wait=False, cancel_futures=True)
            give_up()
            raise


def processors() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _CrashError(Exception):
    """A worker ended; `again` if an earlier film may be the cause."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.again = again


class _Worker(Worker):
    """A process that decodes."""

    def __init__(self) -> None:
        few = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        super().__init__(COMMAND, "decodes", environment(**few))
        self.deadline = float("inf")
        self.answered: int | None = None  # None: not even started
        self.given_up = False

    def ask(
        self, question: Mapping[str, Any], film: int
    ) -> tuple[dict[str, Any], NDArray[Any] | None]:
        self.deadline = time.monotonic() + SECONDS
        _watch()
        try:
            if self.answered is None:
                self._begin()
            self.say({**question, "seconds": SECONDS}, descriptor=film)
            answer = self._answer()
            self.answered = cast("int", self.answered) + 1
            return answer
        except BROKEN as error:
            late = time.monotonic() >= self.deadline or self.ended() == TOO_LATE
            self.close()
            if self.given_up:
                raise FilmError("was abandoned because the run stopped") from None
            if late:
                raise FilmError(f"took more than {SECONDS:g} s to decode") from None
            if self.answered is None:
                raise LeadapronError(
                    "the process that decodes films doesn't start; to see the cause, run "
                    "python -P -m leadapron.films.decoding.worker"
                ) from None
            raise _CrashError(self.answered > 0) from error
        except BaseException:  # Ctrl-C before the answer: the next question must not get it
            self.close()
            raise
        finally:
            self.deadline = float("inf")

    def _begin(self) -> None:
        _say_what_is_missing(str(self.hear()["lacking"]))
        self.answered = 0

    def _answer(self) -> tuple[dict[str, Any], NDArray[Any] | None]:
        facts = self.hear()
        if "shape" not in facts:
            return facts, None
        height, width = facts.pop("shape")
        if not (isinstance(height, int) and isinstance(width, int)):
            raise TypeError
        dtype = _TYPES[facts.pop("dtype")]
        if not (height > 0 and width > 0 and height * width <= LARGEST_FILM_PIXELS):
            raise ValueError
        pixels: NDArray[Any] = np.empty((height, width), dtype)
        self.fill(pixels.data.cast("B"))
        return facts, pixels


@lru_cache(maxsize=1)
def _say_what_is_missing(lacking: str) -> None:
    if lacking:
        logger.warning(
            "decoders are limited in time and memory only: this system lacks %s, which would keep "
            "a compromised decoder from files and network",
            lacking,
        )


_idle: list[_Worker] = []
_busy: set[_Worker] = set()
_lock = threading.Lock()
_watching: threading.Thread | None = None


@contextlib.contextmanager
def _borrowed(*, new: bool = False) -> Iterator[_Worker]:
    with _lock:
        worker = _idle.pop() if _idle and not new else None
    if worker is not None and not worker.alive:
        worker.close()
        worker = None
    if worker is None:
        worker = _Worker()
    with _lock:
        _busy.add(worker)
    try:
        yield worker
    finally:
        with _lock:
            _busy.discard(worker)
            kept = worker.alive and not worker.given_up
            if kept:
                _idle.append(worker)
        if not kept:
            worker.close()


def _watch() -> None:
    """Kill workers that are overdue; one thread for all of them."""
    global _watching
    if _watching is None or not _watching.is_alive():
        with _lock:
            _watching = threading.Thread(target=_kill_overdue, name="leadapron-watch", daemon=True)
            _watching.start()


def _kill_overdue() -> None:
    while True:
        time.sleep(min(1.0, SECONDS / 4))
        now = time.monotonic()
        with _lock:
            overdue = [worker for worker in _busy if worker.deadline <= now]
        for worker in overdue:
            worker.process.kill()


@atexit.register
def _close_all() -> None:
    while _idle:
        _idle.pop().close()


def _forget() -> None:
    """After a fork the workers are the parent's."""
    global _watching, _lock
    for worker in (*_idle, *_busy):
        worker.forget()
    _idle.clear()
    _busy.clear()
    _watching, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
