"""The engine behind all doors: accepted films are decoded, judged in batches, and answered.

Threads that decode take films from a queue and hand them to one thread that judges. What a door
accepted is on disk (`spool`), so every film is judged at least once, and answered once: a film that
comes again, at whatever door, gets the answer that is there.
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.decision import Decision, decide_images
from leadapron.detect.inputs.gate import most_alike
from leadapron.detect.verdict import ScreenWord
from leadapron.documents import dump
from leadapron.errors import FilmError, LeadapronError, StoreError
from leadapron.films.decoding import ask, give_up, processors
from leadapron.jobs.screen import OpenGate
from leadapron.service.answers import FilmAnswer, moment, verdict_of
from leadapron.service.figures import Figures
from leadapron.service.outbox import Outbox
from leadapron.service.parts import Part
from leadapron.service.settings import Keeping
from leadapron.service.spool import Arriving, Spool, SpooledFilm
from leadapron.sources.listed import Decoded, FilmFile, decoded
from leadapron.store import lock, sha256_of
from leadapron.text import count

__all__ = ["MODALITIES", "Engine", "FullError", "Told", "Watch", "running"]

logger = logging.getLogger(__name__)

MODALITIES = ("CR", "DX", "RG")
"""Modalities of chest radiographs; a film that states another one isn't judged."""

BATCH = 16
LINGER = 0.01
"""Most films in a batch, and seconds that its first film waits for others."""

WRITERS = 4
"""Threads that write a batch's answers; each waits for the disk."""

MOST_ATTEMPTS = 5
"""Attempts at a film before it goes to the dead letters."""

PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second attempt, doubled before each further one; most of them."""

STALLED = 300.0
"""Seconds on one batch after which the service isn't ready any more."""

DAY = 86400.0
SWEEP = 3600.0
"""Seconds between two looks for expired answers."""

GRACE = 20.0
"""Seconds that a stop waits for the batch that is being judged."""


DRIFTED = "the films are no longer like the calibration films: calibrate the gate again"


class FullError(LeadapronError):
    """No film is accepted at the moment: the queue or the disk is full, or the service stops."""


class Told(NamedTuple):
    """What is known of a film.

    Args:
        content: a `FilmAnswer` as JSON.
        waits: whether it says that the film waits.
    """

    content: bytes
    waits: bool


class Watch:
    """What is counted about the engine; a door may replace it. None of it names a film."""

    def accepted(self) -> None:
        """A film was accepted."""

    def judged(self, word: ScreenWord, *, bad: bool, seconds: float) -> None:
        """A film was answered.

        Args:
            word: its verdict.
            bad: whether it couldn't be decoded.
            seconds: from its acceptance.
        """

    def retried(self) -> None:
        """An attempt at a film failed."""

    def failed(self) -> None:
        """A film went to the dead letters."""

    def expired(self, removed: int) -> None:
        """Answers were wiped."""

    def refused(self, status: str) -> None:
        """A film was refused at the DICOM door.

        Args:
            status: its status in hexadecimal digits, as 0122, or "malformed".
        """

    def left_out(self) -> None:
        """A film of Orthanc couldn't be taken."""

    def delivered(self) -> None:
        """A result object was acknowledged."""

    def committed(self) -> None:
        """The PACS committed to a result object."""

    def undelivered(self) -> None:
        """A result object was given up."""

    def unmade(self) -> None:
        """A film's result objects couldn't be made."""


@dataclass(frozen=True, eq=False)
class _Read:
    """A film that was taken from the queue, and what was made of it."""

    film: SpooledFilm
    found: Decoded | FilmError | LeadapronError
    view: str = ""
    scanner: str = ""


@contextmanager
def running(
    opened: OpenGate,
    keeping: Keeping,
    watch: Watch | None = None,
    outgoing: Callable[[Spool], Outbox] | None = None,
) -> Iterator[Engine]:
    """Run an engine with its spool; it stops when the block ends.

    Args:
        opened: the gate and its model.
        keeping: where films are kept.
        watch: what counts.
        outgoing: makes the outbox that gets the results of DICOM films, and runs as long.

    Raises:
        StoreError: a spool that can't be written, or that another process uses.
    """
    assert opened.file is not None
    for words in opened.stored.doubts:
        logger.warning(words)
    gate = sha256_of(opened.file)
    with lock(keeping.spool):
        spool = Spool(keeping.spool, gate)
        outbox = None if outgoing is None else outgoing(spool)
        engine = Engine(opened, spool, gate, keeping, watch or Watch(), outbox)
        if outbox is not None:
            outbox.start()
        engine.start()
        try:
            yield engine
        finally:
            engine.stop()
            if outbox is not None:
                outbox.stop()


class Engine:
    """Judges films and keeps the answers; its methods may be called from any thread.

    It begins with the films that wait in the spool.

    Args:
        opened: the gate and its model.
        spool: the spool, locked.
        gate: SHA-256 of the gate's file.
        keeping: limits.
        watch: what counts.
        outbox: started, if there is one; it gets the results of DICOM films.
    """

    def __init__(
        self,
        opened: OpenGate,
        spool: Spool,
        gate: str,
        keeping: Keeping,
        watch: Watch,
        outbox: Outbox | None = None,
    ) -> None:
        self._opened, self._spool, self._gate = opened, spool, gate
        self._keeping, self._watch, self._outbox = keeping, watch, outbox
        self._figures = Figures(spool.folder, opened.stored.gate, gate)
        self._changed = threading.Condition()
        self._pending: dict[str, SpooledFilm] = {}
        self._due: list[tuple[float, int, SpooledFilm]] = []
        self._order = itertools.count()
        self._waiters: dict[str, list[Future[None]]] = {}
        self._read: queue.Queue[_Read] = queue.Queue(2 * BATCH)
        self._held: _Read | None = None
        self._stopping = threading.Event()
        self._busy_since: float | None = None
        self._disk_full = False
        self._threads = [
            *(Part("decoding", self._keep_decoding) for _ in range(processors())),
            Part("judging", self._keep_judging),
            Part("wiping", self._keep_sweeping),
        ]
        self._parts = [*self._threads, *(() if outbox is None else outbox.parts)]
        left = spool.waiting()
        if left:
            logger.info("the spool holds %s of an earlier run", count(len(left), "film"))
        with self._changed:
            for film in left:
                self._push(film, 0.0)

    # --- doors

    def arrive(self) -> Arriving:
        """Return a new film to write; FullError if none is accepted at the moment."""
        with self._changed:
            self._refuse_when_full()
        try:
            return self._spool.arrive()
        except OSError as error:
            raise FullError("the disk is full") from error

    def accept(self, arriving: Arriving) -> str:
        """Accept a film that was written, and return its id once it would survive a kill.

        Args:
            arriving: from `arrive`.

        Raises:
            FullError: no film is accepted at the moment.
        """
        with closing(arriving):
            try:
                film = arriving.finish()
                with self._changed:
                    known = film in self._pending or self._has_answer(film)
                    if not known:
                        self._refuse_when_full()
                        self._push(self._spool.accept(arriving, film), 0.0)
                self._spool.sync()  # also for a film that another thread accepted just now
                # A film that comes again gets its results again: someone may miss them.
                answer = self._spool.answer(film) if known and self._outbox is not None else None
                if answer is not None:
                    self._results(film, arriving.path, answer, self._spool.image(film))
            except (StoreError, OSError) as error:
                raise FullError("the disk is full") from error
        if not known:
            self._watch.accepted()
        return film

    def answer(self, film: str) -> Told | None:
        """Return a film's answer, or that it waits; None for an unknown film."""
        with self._changed:
            waiting = self._pending.get(film)
        if waiting is not None:
            return Told(self._answer(waiting, "waiting"), waits=True)
        content = self._spool.answer(film)
        return None if content is None else Told(content, waits=False)

    def answered_films(self) -> dict[str, int]:
        """Return when each answer was written, in nanoseconds since 1970, by the film's id."""
        return self._spool.answered_films()

    def image(self, film: str) -> NDArray[Any] | None:
        """Return (h, w) the model's input of an answered film; None if there is none."""
        return self._spool.image(film)

    def pictured(self, answer: FilmAnswer) -> bool:
        """Return whether this gate judged a film, and keeps pictures to show beside it."""
        clinic = None if answer.decision is None else answer.decision.clinic
        if clinic is None or answer.gate != self._gate:
            return False
        return self._opened.stored.gate.clinics[clinic - 1].pictures is not None

    def most_alike(self, answer: FilmAnswer) -> NDArray[Any] | None:
        """Return (h, w) the calibration film that looks most like an answered film.

        Args:
            answer: the film's answer.

        Returns:
            None for a gate that keeps no pictures, a film without one, or one that another gate
            judged.
        """
        image = self._spool.image(answer.id) if self.pictured(answer) else None
        if image is None or answer.decision is None or answer.decision.clinic is None:
            return None
        return most_alike(self._opened.stored.gate, answer.decision.clinic - 1, image)

    def when_answered(self, film: str) -> Future[None]:
        """Return a future that is done once the film no longer waits."""
        future: Future[None] = Future()
        with self._changed:
            if film in self._pending:
                self._waiters.setdefault(film, []).append(future)
                return future
        future.set_result(None)
        return future

    @property
    def waiting(self) -> int:
        """Number of films that wait or are judged."""
        with self._changed:
            return len(self._pending)

    @property
    def undelivered(self) -> int:
        """Number of result objects that wait to be delivered."""
        return 0 if self._outbox is None else self._outbox.waiting

    @property
    def uncommitted(self) -> int:
        """Number of result objects that were delivered and not committed to."""
        return 0 if self._outbox is None else self._outbox.uncommitted

    @property
    def figures(self) -> Figures:
        """The gate's figures."""
        return self._figures

    @property
    def alarm(self) -> str:
        """What the figures warn of, in a few words; "" if nothing."""
        return DRIFTED if self._figures.alarms else ""

    @contextmanager
    def relying_on(self, *parts: Part) -> Iterator[None]:
        """Count a door's parts to those that the service can't do without."""
        self._parts = [*self._parts, *parts]
        try:
            yield
        finally:
            self._parts = [each for each in self._parts if each not in parts]

    @property
    def parts(self) -> dict[str, bool]:
        """Whether each part of the service works."""
        found: dict[str, bool] = {}
        for part in self._parts:
            found[part.what] = found.get(part.what, True) and part.is_alive()
        return found

    @property
    def trouble(self) -> str:
        """Why the service isn't ready, in a few words; "" if it is."""
        since = self._busy_since
        if self._stopping.is_set():
            return "it stops"
        if ended := sorted(what for what, alive in self.parts.items() if not alive):
            return f"{', '.join(ended)} has ended"
        if since is not None and time.monotonic() - since > STALLED:
            return "judging takes too long"
        return "the disk is full" if self._disk_full else ""

    # --- life

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the batch that is being judged, and stop; what waits stays on disk."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        give_up()  # a film may take a minute to decode
        end = time.monotonic() + GRACE
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self._changed:
            left = [future for each in self._waiters.values() for future in each]
            self._waiters.clear()
        _tell(left)

    # --- the queue; the caller holds `_changed`

    def _refuse_when_full(self) -> None:
        if self._stopping.is_set():
            raise FullError("the service stops")
        if len(self._pending) >= self._keeping.queue:
            raise FullError(f"{count(self._keeping.queue, 'film')} wait already")

    def _has_answer(self, film: str) -> bool:
        """Whether an answer stands; a film that failed is tried again."""
        return self._spool.answered(film) and not self._spool.failed(film)

    def _push(self, film: SpooledFilm, pause: float) -> None:
        self._pending[film.id] = film
        heapq.heappush(self._due, (time.monotonic() + pause, next(self._order), film))
        self._changed.notify()

    def _next(self) -> SpooledFilm | None:
        """The next film that is due; None when the service stops."""
        with self._changed:
            while not self._stopping.is_set():
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait)
        return None

    # --- threads

    def _keep_decoding(self) -> None:
        while (film := self._next()) is not None:
            crashed = film.attempts >= MOST_ATTEMPTS  # else it would have been answered
            found = LeadapronError() if crashed else self._decoded(film)
            read = _Read(film, found, *self._circumstances(film))
            while not self._stopping.is_set():
                try:
                    self._read.put(read, timeout=0.2)
                    break
                except queue.Full:
                    continue

    def _decoded(self, film: SpooledFilm) -> Decoded | FilmError | LeadapronError:
        stored = self._opened.stored
        try:
            return decoded(
                FilmFile(str(film.path), ""),
                stored.model.preprocessing,
                stored.window,
                stored.bits,
                MODALITIES,
            )
        except LeadapronError as error:  # a FilmError too
            return error
        except Exception as error:
            return LeadapronError(type(error).__name__)

    def _circumstances(self, film: SpooledFilm) -> tuple[str, str]:
        """A film's view and device, if the figures need them; "" where they are unknown."""
        if not self._figures.grouped:
            return "", ""
        try:
            header, _ = ask({"do": "header", "path": str(film.path), "salt": ""})
        except LeadapronError:  # a picture has none
            return "", ""
        return str(header.get("view", "")), str(header.get("scanner", ""))

    def _keep_judging(self) -> None:
        with ThreadPoolExecutor(WRITERS, thread_name_prefix="leadapron-write") as writers:
            while not self._stopping.is_set():
                batch = self._batch()
                if batch:
                    self._busy_since = time.monotonic()
                    self._judge(batch, writers)
                    self._busy_since = None

    def _batch(self) -> list[_Read]:
        """Up to `BATCH` decoded films; one that was tried before comes alone."""
        first, self._held = self._held, None
        if first is None:
            try:
                first = self._read.get(timeout=0.2)
            except queue.Empty:
                return []
        batch, end = [first], time.monotonic() + LINGER
        while not first.film.attempts and len(batch) < BATCH:
            try:
                another = self._read.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if another.film.attempts:
                self._held = another
                break
            batch.append(another)
        return batch

    def _judge(self, batch: Sequence[_Read], writers: ThreadPoolExecutor) -> None:
        """Decide on each film and write its answer."""
        try:
            begun = [replace(each, film=self._begun(each.film)) for each in batch]
        except OSError:
            self._disk_full = True
            for each in batch:
                self._again(each.film)
            return
        decisions, errors = self._decisions(begun)
        tasks = [
            writers.submit(self._settle, each, decision, error)
            for each, decision, error in zip(begun, decisions, errors, strict=True)
        ]
        wait_for(tasks)
        for task in tasks:
            task.result()

    def _begun(self, film: SpooledFilm) -> SpooledFilm:
        begun = self._spool.recount(film, film.attempts + 1)
        with self._changed:
            self._pending[film.id] = begun
        return begun

    def _decisions(
        self, batch: Sequence[_Read]
    ) -> tuple[list[Decision | None], list[str]]:  # fmt: skip
        """The decision on each film, or None and the kind of error."""
        good = [each.found.image for each in batch if isinstance(each.found, Decoded)]
        error = ""
        made: Iterator[Decision] = iter(())
        if good:
            try:
                made = iter(
                    decide_images(self._opened.stored.gate, self._opened.classifier, np.stack(good))
                )
            except Exception as failure:
                error = type(failure).__name__
        decisions: list[Decision | None] = []
        errors = []
        for each in batch:
            found = each.found
            if isinstance(found, Decoded):
                decision = None if error else next(made)
                if decision is not None:
                    words = "; ".join(filter(None, (decision.reason, *found.doubts)))
                    # Names of calibration films are other patients'; answers leave this machine.
                    decision = replace(decision, reason=words, nearest=())
                decisions.append(decision)
                errors.append(error)
            elif isinstance(found, FilmError) and found.kind == "undecodable":
                words = f"the film {str(found).strip()}"
                decisions.append(Decision(verdict="can't tell", reason=words))
                errors.append("")
            else:  # the disk's or the decoders' fault
                decisions.append(None)
                errors.append(type(found).__name__)
        return decisions, errors

    def _settle(self, each: _Read, decision: Decision | None, error: str) -> None:
        film = each.film
        if self._stopping.is_set() and not isinstance(each.found, Decoded):
            self._blameless(film)  # a decoder that was given up says nothing about the film
            return
        try:
            if decision is not None:
                image = each.found.image if isinstance(each.found, Decoded) else None
                bad = each.found if isinstance(each.found, FilmError) else None
                answer = self._answer(film, "judged", decision, bad)
                self._results(film.id, film.path, answer, image)
                self._spool.finish(film, answer, image)
                self._figures.add(
                    decision, bad=bad is not None, view=each.view, scanner=each.scanner,
                    seconds=time.time(),
                )  # fmt: skip
                self._answered(film, decision.verdict, bad=bad is not None)
            elif film.attempts < MOST_ATTEMPTS:
                logger.warning("film %s: attempt %d failed (%s)", film.id[:8], film.attempts, error)
                self._watch.retried()
                self._again(film, PAUSE * 2 ** (film.attempts - 1))
            else:
                logger.error(
                    "film %s: %d attempts failed (%s); it is in the dead letters",
                    film.id[:8], film.attempts, error,
                )  # fmt: skip
                reason = f"the service failed to judge it in {film.attempts} attempts"
                decision = Decision(verdict="can't tell", reason=reason)
                answer = self._answer(film, "failed", decision)
                self._results(film.id, film.path, answer, None)
                self._spool.bury(film, answer)
                self._watch.failed()
                self._answered(film, decision.verdict, bad=False)
        except (StoreError, OSError):
            if not self._disk_full:
                logger.error("answers can't be written: the disk is full or broken")
            self._disk_full = True
            self._again(self._blameless(film))

    def _results(self, film: str, path: Path, answer: bytes, image: NDArray[Any] | None) -> None:
        """Put a film's results into the outbox, before its answer says that they are there."""
        if self._outbox is not None:
            self._outbox.put(film, path, answer, image)

    def _blameless(self, film: SpooledFilm) -> SpooledFilm:
        """The film without the attempt that the disk or a stop spoilt."""
        try:
            return self._spool.recount(film, film.attempts - 1)
        except OSError:
            return film

    def _again(self, film: SpooledFilm, pause: float = PAUSE) -> None:
        with self._changed:
            self._push(film, min(LONGEST_PAUSE, pause))

    def _answered(self, film: SpooledFilm, word: ScreenWord, *, bad: bool) -> None:
        self._disk_full = False
        with self._changed:
            self._pending.pop(film.id, None)
            waiters = self._waiters.pop(film.id, [])
        self._watch.judged(word, bad=bad, seconds=max(0.0, time.time() - film.received))
        _tell(waiters)

    def _answer(
        self,
        film: SpooledFilm,
        state: Literal["waiting", "judged", "failed"],
        decision: Decision | None = None,
        bad: FilmError | None = None,
    ) -> bytes:
        stored = self._opened.stored
        answer = FilmAnswer(
            id=film.id,
            state=state,
            received=moment(film.received),
            judged=None if decision is None else moment(time.time()),
            attempts=film.attempts,
            verdict=None if decision is None else verdict_of(stored.gate, decision),
            # Names of calibration films stay with the gate.
            decision=None if decision is None else replace(decision, nearest=()),
            bad=None if bad is None else bad.kind,
            gate=self._gate,
            model=stored.model.sha256,
        )
        return json.dumps(dump(answer), indent=2).encode() + b"\n"

    def _keep_sweeping(self) -> None:
        while not self._stopping.is_set():
            try:
                removed = self._spool.expire(self._keeping.keep * DAY)
            except OSError:
                removed = 0  # the next sweep finds them
            if removed:
                self._watch.expired(removed)
            self._stopping.wait(SWEEP)


def _tell(waiters: Sequence[Future[None]]) -> None:
    for future in waiters:
        if future.set_running_or_notify_cancel():  # its client may have left
            future.set_result(None)
