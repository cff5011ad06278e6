"""Decoding in processes that may crash, hang or eat memory without harm to the job.

A worker is asked by a line of JSON and answers with a line of JSON and raw pixels: nothing that
comes back is unpickled or run, so even a worker that a film has taken over can only send a picture.
It is limited in memory, may write no file, and is killed after `SECONDS` on one film. Workers are
kept for later films; each is asked by one thread at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError

__all__ = ["LARGEST_FILM_PIXELS", "SECONDS", "ask", "processors", "read_headers"]

LARGEST_FILM_PIXELS = 100_000_000
SECONDS = 60.0
"""Most time for one film."""

LONGEST_ANSWER = 1_000_000
"""Bytes of the line before the pixels."""

_TYPES: dict[Any, np.dtype[Any]] = {str(np.dtype(t)): np.dtype(t) for t in (np.uint8, np.uint16)}


def ask(question: Mapping[str, Any]) -> tuple[dict[str, Any], NDArray[Any] | None]:
    """Have a worker do something with a file.

    Args:
        question: "do" ("film" or "header"), "path" and what `leadapron.decoding.worker` takes.

    Returns:
        What it says, and a (height, width) uint8 or uint16 picture where there is one.

    Raises:
        DataError: what is wrong with the file, without its name; also where the worker crashed,
            took too long or too much memory.
    """
    with _borrowed() as worker:
        facts, pixels = worker.ask(question)
    if "error" in facts:
        raise DataError(str(facts["error"]))
    return facts, pixels


def read_headers(
    paths: Sequence[str], question: Mapping[str, Any]
) -> Iterator[dict[str, Any] | DataError]:
    """Yield what the files' headers say, in order, or what is wrong with a file."""

    def header(path: str) -> dict[str, Any] | DataError:
        try:
            return ask({**question, "do": "header", "path": path})[0]
        except DataError as error:
            return error

    with ThreadPoolExecutor(processors(), thread_name_prefix="leadapron-header") as pool:
        yield from pool.map(header, paths)


def processors() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Worker:
    """A process that decodes, and the pipes to it."""

    def __init__(self) -> None:
        few = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "leadapron.decoding.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **few},
            # Ctrl-C is for us; the worker goes when we close its pipe.
            start_new_session=True,
        )
        self.deadline = float("inf")

    def ask(self, question: Mapping[str, Any]) -> tuple[dict[str, Any], NDArray[Any] | None]:
        self.deadline = time.monotonic() + SECONDS
        _watch()
        try:
            questions = cast("BinaryIO", self.process.stdin)
            questions.write(json.dumps(question).encode() + b"\n")
            questions.flush()
            return self._answer()
        except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
            late = time.monotonic() >= self.deadline
            self.close()
            reason = f"took more than {SECONDS:g} s to decode" if late else "crashes its decoder"
            raise DataError(reason) from error
        except BaseException:  # Ctrl-C between question and answer: the next one must not get it
            self.close()
            raise
        finally:
            self.deadline = float("inf")

    def _answer(self) -> tuple[dict[str, Any], NDArray[Any] | None]:
        answers = cast("BinaryIO", self.process.stdout)
        line = answers.readline(LONGEST_ANSWER)
        if not line.endswith(b"\n"):
            raise EOFError
        facts = json.loads(line)
        if not isinstance(facts, dict):
            raise TypeError
        if "shape" not in facts:
            return facts, None
        height, width = (int(side) for side in facts.pop("shape"))
        dtype = _TYPES[facts.pop("dtype")]
        if not (height > 0 and width > 0 and height * width <= LARGEST_FILM_PIXELS):
            raise ValueError
        pixels: NDArray[Any] = np.empty((height, width), dtype)
        view, filled = pixels.data.cast("B"), 0
        while filled < len(view):
            got = answers.readinto(view[filled:])  # type: ignore[attr-defined]
            if not got:
                raise EOFError
            filled += got
        return facts, pixels

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                cast("BinaryIO", pipe).close()


_idle: list[_Worker] = []
_busy: set[_Worker] = set()
_lock = threading.Lock()
_watching: threading.Thread | None = None


@contextlib.contextmanager
def _borrowed() -> Iterator[_Worker]:
    with _lock:
        worker = _idle.pop() if _idle else None
    if worker is None or not worker.alive:
        worker = _Worker()
    with _lock:
        _busy.add(worker)
    try:
        yield worker
    finally:
        with _lock:
            _busy.discard(worker)
            if worker.alive:
                _idle.append(worker)


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
    _idle.clear()
    _busy.clear()
    _watching, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
