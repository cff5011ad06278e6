"""The folder as a door: new films in it are judged by the engine, and their answers told.

The folder is read again and again: that works on network shares too, where the system announces no
changes.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from leadapron.documents import read
from leadapron.errors import DataError
from leadapron.jobs.screen import OpenGate
from leadapron.reading import is_folder, open_regular
from leadapron.service.answers import FilmAnswer
from leadapron.service.engine import Engine, FullError, running
from leadapron.service.settings import Keeping
from leadapron.sources.dicom import may_be_dicom
from leadapron.sources.folder import SUFFIXES, walk
from leadapron.text import printable

__all__ = ["until_stopped", "watch"]

logger = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks; a film must not change from one to the next."""

PIECE = 1 << 20
"""Bytes that are read at a time."""

Tell = Callable[[str, FilmAnswer], None]
"""Called with a film's path in the folder, printable, and its answer."""

Change = tuple[int, int]
"""A file's size, and the time of its last change in nanoseconds."""


def watch(
    opened: OpenGate, folder: Path, keeping: Keeping, tell: Tell, stop: threading.Event
) -> None:
    """Judge the films in a folder, and those that come into it, until stopped.

    Args:
        opened: the gate and its model.
        folder: the folder; nothing in it is changed.
        keeping: where accepted films and answers are kept.
        tell: called once for each file, also for one that was answered before a restart.
        stop: ends it.

    Raises:
        DataError: no such folder.
        StoreError: as `running`.
    """
    if not is_folder(folder):
        raise DataError(f"no folder {folder}; expected one that films come into")
    with running(opened, keeping) as engine:
        watched = _Watched(engine, folder, tell)
        while not stop.is_set():
            watched.look()
            stop.wait(POLL)


@contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and Ctrl-C set."""
    stop = threading.Event()

    def stopping(*_: Any) -> None:
        stop.set()

    before = {each: signal.signal(each, stopping) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Watched:
    """What is known of the files in a folder."""

    def __init__(self, engine: Engine, folder: Path, tell: Tell) -> None:
        self._engine, self._folder, self._tell = engine, folder, tell
        self._last: dict[str, Change] = {}
        self._done: dict[str, Change] = {}
        self._accepted: dict[str, str] = {}  # by path: the film's id
        self._gone = False

    def look(self) -> None:
        """Hand over files that no longer change, and tell answers that have come."""
        try:
            found = {name: change for name in walk(self._folder)
                     if (change := self._change(name)) is not None}  # fmt: skip
        except DataError:
            if not self._gone:
                logger.error("the folder can't be read; it is tried again")
            self._gone = True
            return
        self._gone = False
        for name, change in found.items():
            if self._last.get(name) == change != self._done.get(name):
                self._hand_over(name, change)
        self._last = found
        self._done = {name: change for name, change in self._done.items() if name in found}
        self._tell_answers()

    def _change(self, name: str) -> Change | None:
        try:
            facts = (self._folder / name).stat()
        except OSError:
            return None
        return facts.st_size, facts.st_mtime_ns

    def _hand_over(self, name: str, change: Change) -> None:
        path = self._folder / name
        if not name.lower().endswith(SUFFIXES) and not may_be_dicom(path):
            self._done[name] = change
            return
        try:
            with closing(self._engine.arrive()) as film:
                with open_regular(path) as file:
                    while piece := file.read(PIECE):
                        film.write(piece)
                if self._change(name) != change:  # it still grows
                    return
                self._accepted[name] = self._engine.accept(film)
        except FullError:
            return  # the next look tries again
        except OSError as error:
            logger.warning("a file can't be handed over (%s)", type(error).__name__)
            return
        self._done[name] = change

    def _tell_answers(self) -> None:
        for name, film in list(self._accepted.items()):
            told = self._engine.answer(film)
            if told is not None and told.waits:
                continue
            if told is not None:
                self._tell(printable(name), read(FilmAnswer, told.content))
            del self._accepted[name]
