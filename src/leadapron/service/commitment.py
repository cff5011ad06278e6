"""Results that a PACS has stored and has not committed to yet, on disk until it has.

    SPOOL/stored/ID-KIND   a result object of the film ID that was stored

A PACS that stores an object may still lose it. One that offers storage commitment (PS3.4 J) says
later which objects it keeps. An object that it doesn't keep is sent again. Which transaction names
which objects is known to this process alone: after a restart, all of them are asked for again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from pydicom.uid import generate_uid

from leadapron.errors import FilmError, LeadapronError, StoreError
from leadapron.reading import open_regular
from leadapron.service.headers import read_header
from leadapron.service.outbox import UnreachableError
from leadapron.service.parts import Part
from leadapron.service.spool import wipe
from leadapron.store import make_folder, reason

__all__ = ["Ask", "Commitment", "NotOfferedError", "Report"]

logger = logging.getLogger(__name__)

PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second attempt at a PACS that is down, doubled each time; most."""

ASK_AGAIN = 3600.0
"""Seconds that a PACS has for its report before it is asked again."""

BATCH = 64
"""Most objects of a transaction."""

GRACE = 20.0
"""Seconds that a stop waits for the transaction that is being asked for."""

INSTANCE = 0x00080018
"""Tag of the SOP instance UID."""


class NotOfferedError(LeadapronError):
    """The PACS doesn't commit to what it stores."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a PACS says of the objects of a transaction.

    Args:
        transaction: UID of the transaction.
        committed: SOP instance UIDs of objects that it keeps.
        failed: reasons (PS3.3 C.14.1.1) by the SOP instance UID of objects that it doesn't keep.
    """

    transaction: str
    committed: Sequence[str]
    failed: Mapping[str, int]


class Ask(Protocol):
    """Asks a PACS to commit to objects."""

    def __call__(
        self, transaction: str, objects: Mapping[str, str], take: Callable[[Report], None]
    ) -> None:
        """Ask; the report may come later, by whatever way.

        Args:
            transaction: UID of the transaction.
            objects: SOP class UIDs by SOP instance UID.
            take: takes a report that comes at once.

        Raises:
            NotOfferedError: the PACS doesn't commit to anything.
            UnreachableError: it doesn't answer, or can't do it at the moment.
        """


class Told(Protocol):
    """What is counted."""

    def committed(self) -> None:
        """A result object was committed to."""


@dataclass(frozen=True)
class _Asked:
    """A transaction: the names of its objects by SOP instance UID, and when it was asked for."""

    names: dict[str, str]
    at: float = field(default_factory=time.monotonic)


class Commitment:
    """Keeps stored results until the PACS has committed to them, in a thread of its own.

    Args:
        spool: folder of the service; its lock is held from `start` to `stop`.
        ask: asks the PACS.
        told: what counts.

    Attributes:
        folder: where they are.
        part: asks, and takes reports.
    """

    def __init__(self, spool: Path, ask: Ask, told: Told) -> None:
        self.folder = spool / "stored"
        self._ask, self._told = ask, told
        self._offered = True
        self._asked: dict[str, _Asked] = {}  # by transaction
        self._reports: SimpleQueue[Report | None] = SimpleQueue()
        self._stopping = threading.Event()
        self.part = Part("storage commitment", self._keep_asking)

    def start(self, again: Callable[[Path], None]) -> None:
        """Ask for what is there, and for what comes; StoreError if the spool can't be written.

        Args:
            again: takes an object that the PACS doesn't keep, to send it again.
        """
        self._again = again
        try:
            make_folder(self.folder)
        except OSError as error:
            raise StoreError(f"can't write {self.folder}: {reason(error)}") from error
        self.part.start()

    def stop(self) -> None:
        """Stop; what isn't committed to stays on disk."""
        self._stopping.set()
        self._reports.put(None)
        self.part.join(GRACE)

    @property
    def waiting(self) -> int:
        """Number of stored objects that the PACS hasn't committed to."""
        return len(self._names())

    def hold(self, path: Path) -> None:
        """Take over an object that the PACS has stored; OSError if the disk is broken."""
        if self._offered:
            path.replace(self.folder / path.name)
            self._reports.put(None)  # wakes the thread
        else:
            wipe(path)

    def report(self, report: Report) -> None:
        """Take a report of the PACS, from any thread."""
        self._reports.put(report)

    # --- the thread

    def _keep_asking(self) -> None:
        pause, wait = PAUSE, 0.0
        while not self._stopping.is_set():
            try:
                with suppress(Empty):
                    report = self._reports.get(timeout=wait)
                    if report is not None:
                        self._settle(report)
                due = self._due()
                if due:
                    self._ask_for(due)
                pause, wait = PAUSE, 0.0 if len(due) == BATCH else LONGEST_PAUSE
            except UnreachableError as error:
                if pause == PAUSE:
                    logger.warning("results aren't committed to: %s; it is tried again", error)
                wait, pause = pause, min(LONGEST_PAUSE, 2 * pause)
            except NotOfferedError as error:
                logger.info("results count as delivered once they are stored: %s", error)
                self._offered = False
                self._let_go()
            except OSError as error:
                logger.error("stored results can't be read (%s)", type(error).__name__)
                wait = LONGEST_PAUSE

    def _due(self) -> list[str]:
        """Names of objects that no transaction is about."""
        if not self._offered:
            self._let_go()
            return []
        now = time.monotonic()
        self._asked = {
            transaction: asked
            for transaction, asked in self._asked.items()
            if asked.names and asked.at + ASK_AGAIN > now
        }
        known = {name for asked in self._asked.values() for name in asked.names.values()}
        return [name for name in self._names() if name not in known][:BATCH]

    def _ask_for(self, names: Sequence[str]) -> None:
        objects, found = {}, {}
        for name in names:
            path = self.folder / name
            try:
                with open_regular(path) as file:
                    header = read_header(file, INSTANCE)
            except FileNotFoundError:  # given up meanwhile
                continue
            except FilmError:  # nothing that this service wrote; the PACS has it
                wipe(path)
                continue
            objects[str(header.SOPInstanceUID)] = str(header.SOPClassUID)
            found[str(header.SOPInstanceUID)] = name
        if not objects:
            return
        transaction = generate_uid(None)
        self._asked[transaction] = _Asked(found)  # first: the report may come before the answer
        try:
            self._ask(transaction, objects, self.report)
        except LeadapronError:
            del self._asked[transaction]
            raise

    def _settle(self, report: Report) -> None:
        """Deal with a report; one of an unknown transaction changes nothing."""
        asked = self._asked.get(report.transaction)
        if asked is None:
            return
        for uid in report.committed:
            name = asked.names.pop(uid, None)
            if name is not None:
                wipe(self.folder / name)
                self._told.committed()
        for uid, why in report.failed.items():
            name = asked.names.pop(uid, None)
            if name is not None:
                logger.error(
                    "the PACS doesn't keep a result of film %s (reason 0x%04X); it is sent again",
                    name[:8], why,
                )  # fmt: skip
                with suppress(FileNotFoundError):  # given up meanwhile
                    self._again(self.folder / name)

    def _let_go(self) -> None:
        for name in self._names():
            wipe(self.folder / name)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("[!.]*"))
