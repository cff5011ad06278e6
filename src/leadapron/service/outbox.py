"""Result objects that wait to be delivered, on disk, so that a killed service loses none.

    SPOOL/outbox/ID-KIND        a result object of the film ID, a DICOM file
    SPOOL/undelivered/ID-KIND   one that nobody took for `GIVE_UP` seconds

The objects of a film are on disk before the film is wiped, and leave the outbox once the
destination has acknowledged them; `commitment` then keeps them until a PACS commits to them. A kill
in between sends one again: its SOP instance UID is made from the film's, the gate and the kind of
object, so that the destination has it once.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset

from leadapron.documents import read
from leadapron.errors import LeadapronError, StoreError
from leadapron.reading import open_regular, read_regular
from leadapron.service.answers import FilmAnswer
from leadapron.service.headers import is_dicom, read_header
from leadapron.service.parts import Part
from leadapron.service.spool import sync, wipe
from leadapron.store import make_folder, reason, write_atomically
from leadapron.text import count

if TYPE_CHECKING:
    from leadapron.service.commitment import Commitment

__all__ = ["Destination", "Make", "Outbox", "RefusedError", "Send", "UnreachableError"]

logger = logging.getLogger(__name__)

PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second attempt at a destination that is down, doubled each time; most."""

REFUSED_PAUSE = 300.0
"""Seconds before another attempt at an object that was refused."""

GIVE_UP = 3 * 86400.0
"""Seconds after which an object is no longer sent."""

GRACE = 20.0
"""Seconds that a stop waits for the object that is being sent."""

BATCH = 64
"""Most objects that are sent over one connection."""

LARGEST = 1 << 28
"""Most bytes of an object."""

Make = Callable[[Dataset, FilmAnswer, NDArray[Any] | None], Sequence[Dataset]]
"""Makes a film's result objects from its header, its answer and the model's input, if known."""

Send = Callable[[bytes], None]
"""Sends a DICOM file, and returns once it is acknowledged; see `Destination`."""


class UnreachableError(LeadapronError):
    """The destination doesn't answer, or takes nothing at the moment."""


class RefusedError(LeadapronError):
    """The destination refuses this one object."""


class Destination(Protocol):
    """Where results go."""

    def connected(self) -> AbstractContextManager[Send]:
        """Connect, and return what sends an object.

        Both raise UnreachableError; sending also raises RefusedError. Their messages repeat nothing
        of an object or of an answer.
        """


class Told(Protocol):
    """What is counted about results."""

    def delivered(self) -> None:
        """A result object was acknowledged."""

    def undelivered(self) -> None:
        """A result object was given up."""

    def unmade(self) -> None:
        """A film's result objects couldn't be made."""


class Outbox:
    """Makes result objects, keeps them, and delivers them in a thread of its own.

    Args:
        spool: folder of the service; its lock is held from `start` to `stop`.
        make: makes the objects.
        destination: where they go.
        told: what counts.
        keep: seconds that objects which weren't delivered are kept.
        commitment: keeps objects that were delivered until the destination commits to them; None
            if nobody asks it to.
    """

    def __init__(
        self, spool: Path, make: Make, destination: Destination, told: Told, keep: float,
        commitment: Commitment | None = None,
    ) -> None:  # fmt: skip
        self._folder, self._given_up = spool / "outbox", spool / "undelivered"
        self._make, self._destination, self._told = make, destination, told
        self._keep, self._commitment = keep, commitment
        self._stopping, self._new = threading.Event(), threading.Event()
        self._not_before: dict[str, float] = {}  # by name, for objects that were refused
        self._thread = Part("the outbox", self._keep_delivering)

    def start(self) -> None:
        """Deliver what is there, and what comes; StoreError if the spool can't be written."""
        try:
            for each in (self._folder, self._given_up):
                make_folder(each)
            for left in self._folder.glob(".*.part"):
                wipe(left)
        except OSError as error:
            raise StoreError(f"can't write {self._folder}: {reason(error)}") from error
        if waiting := self.waiting:
            logger.info("%s of an earlier run wait to be delivered", count(waiting, "result"))
        if self._commitment is not None:
            self._commitment.start(self._send_again)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the object that is being sent; the others stay on disk."""
        self._stopping.set()
        self._new.set()
        self._thread.join(GRACE)
        if self._commitment is not None:
            self._commitment.stop()

    @property
    def parts(self) -> tuple[Part, ...]:
        """What delivers, and asks for commitment."""
        return (self._thread, *(() if self._commitment is None else (self._commitment.part,)))

    @property
    def waiting(self) -> int:
        """Number of objects that wait."""
        return len(self._names())

    @property
    def uncommitted(self) -> int:
        """Number of objects that were delivered and that the destination may still lose."""
        return 0 if self._commitment is None else self._commitment.waiting

    def put(self, film: str, path: Path, answer: bytes, image: NDArray[Any] | None) -> None:
        """Write a film's result objects, if it is a DICOM film; they then survive a kill.

        Args:
            film: its id.
            path: its file.
            answer: a `FilmAnswer` as JSON.
            image: (h, w) the model's input; None if the film wasn't decoded.

        Raises:
            StoreError, OSError: the disk is full or broken.
        """
        with open_regular(path) as file:
            if not is_dicom(file.read(132)):
                return
            file.seek(0)
            try:
                made = self._make(read_header(file), read(FilmAnswer, answer), image)
                objects = [(str(each.Modality).lower(), _written(each)) for each in made]
            except Exception as error:  # an odd header; another attempt would fail as well
                logger.error("film %s: no results were made (%s)", film[:8], type(error).__name__)
                self._told.unmade()
                return
        for kind, content in objects:
            with write_atomically(self._folder / f"{film}-{kind}") as written:
                written.write(content)
        sync(self._folder)
        self._new.set()

    # --- the thread

    def _keep_delivering(self) -> None:
        pause, down = PAUSE, False
        while not self._stopping.is_set():
            self._new.clear()
            try:
                self._put_away()
                due = self._due()
                if due:
                    self._deliver(due[:BATCH])
                    if down:
                        logger.info("results are delivered again")
                    pause, down = PAUSE, False
                if len(due) <= BATCH:
                    self._new.wait(LONGEST_PAUSE)
            except UnreachableError as error:
                if not down:
                    logger.warning("results can't be delivered: %s; it is tried again", error)
                down = True
                self._stopping.wait(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)
            except OSError as error:
                logger.error("the outbox can't be read (%s)", type(error).__name__)
                self._stopping.wait(LONGEST_PAUSE)

    def _deliver(self, due: Sequence[str]) -> None:
        with self._destination.connected() as send:
            for name in due:
                if self._stopping.is_set():
                    return
                path = self._folder / name
                try:
                    send(read_regular(path, LARGEST))
                except RefusedError as error:
                    if name not in self._not_before:
                        logger.error("a result of film %s was refused: %s", name[:8], error)
                    self._not_before[name] = time.monotonic() + REFUSED_PAUSE
                    continue
                self._not_before.pop(name, None)
                if self._commitment is None:
                    wipe(path)
                else:
                    self._commitment.hold(path)
                self._told.delivered()

    def _send_again(self, path: Path) -> None:
        """Send an object once more, after a while, that was delivered and then not kept."""
        self._not_before[path.name] = time.monotonic() + REFUSED_PAUSE
        path.replace(self._folder / path.name)
        self._new.set()

    def _due(self) -> list[str]:
        now = time.monotonic()
        return [name for name in self._names() if self._not_before.get(name, now) <= now]

    def _kept(self) -> list[Path]:
        folders = [self._folder] + ([] if self._commitment is None else [self._commitment.folder])
        return [path for folder in folders for path in folder.glob("[!.]*")]

    def _names(self) -> list[str]:
        return sorted(path.name for path in self._folder.glob("[!.]*"))

    def _put_away(self) -> None:
        """Give up what is old, and wipe what was given up long ago."""
        now = time.time()
        for path in self._kept():
            with suppress(FileNotFoundError):  # committed to just now
                if path.stat().st_mtime >= now - GIVE_UP:
                    continue
                path.rename(self._given_up / path.name)
                logger.error(
                    "a result of film %s was given up: it is in undelivered", path.name[:8]
                )
                self._told.undelivered()
        for path in self._given_up.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < now - GIVE_UP - self._keep:
                    wipe(path)


def _written(dataset: Dataset) -> bytes:
    content = io.BytesIO()
    dcmwrite(content, dataset, enforce_file_format=True)
    return content.getvalue()
