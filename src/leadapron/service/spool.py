"""The spool: accepted films and answers on disk, so that a killed service loses neither.

    FOLDER/arriving/RANDOM      a film that is being received; removed at the next start
    FOLDER/waiting/ID-ATTEMPTS  an accepted film
    FOLDER/done/ID.json         its answer, and in ID.npy the model's input
    FOLDER/dead/ID              a film that couldn't be judged in several attempts
    FOLDER/salt                 makes ids from contents
    FOLDER/outbox, undelivered  results for a PACS (`outbox`)
    FOLDER/stored               results that a PACS hasn't committed to (`commitment`)
    FOLDER/figures/             what is counted by month (`figures`)

A film is accepted once it is in `waiting` and both file and folder have reached the disk. It is
answered once ID.json is in `done`, after its results are in `outbox`; only then it leaves
`waiting`. A service that is killed in between finds the film in both places, and removes it.

Names are ids alone: HMAC-SHA256 of the film's content and the gate, with a salt that never leaves
the spool. The id isn't made from a header's SOP instance UID, since the sender chooses that: a film
with the UID of another one would get the other one's verdict.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import StoreError
from leadapron.reading import read_regular
from leadapron.service.uids import derived_uid
from leadapron.store import make_folder, reason, write_atomically

__all__ = ["Arriving", "Spool", "SpooledFilm", "private", "sync", "wipe"]

ID = re.compile(r"[0-9a-f]{32}")
WAITING = re.compile(r"([0-9a-f]{32})-(\d{1,4})")

LARGEST_ANSWER = 1 << 20
LARGEST_IMAGE = 1 << 27
"""Most bytes of an answer, and of a model's input."""

WIPED = 1 << 20
"""Bytes that are overwritten at a time."""


@dataclass(frozen=True, kw_only=True)
class SpooledFilm:
    """An accepted film.

    Args:
        id: its id.
        path: its file.
        received: when it was on disk, in seconds since 1970.
        attempts: number of times that judging began.
    """

    id: str
    path: Path
    received: float
    attempts: int = 0


class Arriving:
    """A film that is being received; `close` removes what wasn't accepted.

    Args:
        path: file that is written.
        key: salt of ids.
        gate: SHA-256 of the gate.
    """

    def __init__(self, path: Path, key: bytes, gate: str) -> None:
        self.path = path
        self.size = 0
        self._digest = hmac.new(key, gate.encode(), hashlib.sha256)
        self._file = open(path, "xb", opener=private)  # noqa: SIM115

    def write(self, chunk: bytes) -> None:
        """Append bytes; OSError if the disk is full."""
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def finish(self) -> str:
        """Bring the file to the disk, and return the film's id; OSError if the disk is full."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()[:32]

    def close(self) -> None:
        """Remove the file unless it was accepted."""
        with contextlib.suppress(OSError):  # a full disk fails the flush too
            self._file.close()
        wipe(self.path)


class Spool:
    """The folder of one service and its gate; the caller holds the folder's lock.

    Args:
        folder: created if missing, readable by its owner alone.
        gate: SHA-256 of the gate's file.

    Raises:
        StoreError: it can't be written, or its salt is damaged.
    """

    def __init__(self, folder: Path, gate: str) -> None:
        self.folder, self._gate = folder, gate
        self._arriving, self._waiting, self._done, self._dead = (
            folder / name for name in ("arriving", "waiting", "done", "dead")
        )
        try:
            for each in (self._arriving, self._waiting, self._done, self._dead):
                make_folder(each)
            for left in self._arriving.iterdir():
                wipe(left)
            for left in self._done.glob(".*.part"):
                left.unlink()
            self._salt = _salt(folder / "salt")
        except OSError as error:
            raise StoreError(f"can't write {folder}: {reason(error)}") from error

    @property
    def device(self) -> str:
        """UID of this installation: the same as long as the spool's salt."""
        return derived_uid("installation", self._salt.hex())

    def arrive(self) -> Arriving:
        """Return a new film to write; OSError if the disk is full."""
        return Arriving(self._arriving / secrets.token_hex(16), self._salt, self._gate)

    def accept(self, arriving: Arriving, film: str) -> SpooledFilm:
        """Move a finished film to the accepted ones; afterwards it survives a kill.

        A film that failed before gets another attempt, and loses its answer.

        Args:
            arriving: the film.
            film: its id, as `Arriving.finish` returned it.

        Raises:
            OSError: it can't be moved.
        """
        path = self._waiting / f"{film}-0"
        arriving.path.rename(path)
        for old in (self._done / f"{film}.json", self._dead / film):
            wipe(old)
        return SpooledFilm(id=film, path=path, received=path.stat().st_mtime)

    def sync(self) -> None:
        """Bring the names of accepted films to the disk; OSError if that fails."""
        sync(self._waiting)

    def waiting(self) -> list[SpooledFilm]:
        """Return the accepted films without an answer, those with the fewest attempts first.

        Called at the start, it also repairs what a kill left: an answered film is removed, and a
        dead letter without an answer waits again.
        """
        for path in self._dead.iterdir():
            if ID.fullmatch(path.name) and not self.answered(path.name):
                path.rename(self._waiting / f"{path.name}-1")
        found = []
        for path in self._waiting.iterdir():
            match = WAITING.fullmatch(path.name)
            if match is None:
                continue
            if self.answered(match[1]):
                wipe(path)
                continue
            time_on_disk = path.stat().st_mtime
            found.append(
                SpooledFilm(id=match[1], path=path, received=time_on_disk, attempts=int(match[2]))
            )
        return sorted(found, key=lambda film: (film.attempts, film.received, film.id))

    def recount(self, film: SpooledFilm, attempts: int) -> SpooledFilm:
        """Note the number of attempts on disk, so that a film that crashes the service is noticed.

        Args:
            film: the film.
            attempts: their number, with the one that begins.

        Raises:
            OSError: the disk is broken.
        """
        path = film.path.with_name(f"{film.id}-{attempts}")
        film.path.rename(path)
        return replace(film, path=path, attempts=attempts)

    def finish(self, film: SpooledFilm, answer: bytes, image: NDArray[Any] | None) -> None:
        """Write a film's answer, then remove the film.

        Args:
            film: the film.
            answer: JSON.
            image: (h, w) the model's input; None if the film wasn't decoded.

        Raises:
            StoreError: the disk is full; the film still waits.
        """
        if image is not None:
            content = io.BytesIO()
            np.save(content, image, allow_pickle=False)
            with write_atomically(self._done / f"{film.id}.npy") as file:
                file.write(content.getvalue())
        self._write_answer(film, answer)
        wipe(film.path)

    def bury(self, film: SpooledFilm, answer: bytes) -> None:
        """Move a film to the dead letters and write its answer; StoreError as `finish`."""
        place = self._dead / film.id
        try:
            film.path.rename(place)
        except OSError as error:
            raise StoreError(f"can't write {self.folder}: {reason(error)}") from error
        try:
            self._write_answer(film, answer)
        except StoreError:
            place.rename(film.path)
            raise

    def _write_answer(self, film: SpooledFilm, answer: bytes) -> None:
        with write_atomically(self._done / f"{film.id}.json") as file:
            file.write(answer)
        try:
            sync(self._done)
        except OSError as error:
            raise StoreError(f"can't write {self.folder}: {reason(error)}") from error

    def answered(self, film: str) -> bool:
        """Return whether a film has an answer."""
        return (self._done / f"{film}.json").exists()

    def failed(self, film: str) -> bool:
        """Return whether a film is among the dead letters."""
        return (self._dead / film).exists()

    def answer(self, film: str) -> bytes | None:
        """Return a film's answer as JSON; None for an unknown, waiting or expired film."""
        return self._read(film, "json", LARGEST_ANSWER)

    def answered_films(self) -> dict[str, int]:
        """Return when each answer was written, in nanoseconds since 1970, by the film's id."""
        found = {}
        with os.scandir(self._done) as entries:
            for entry in entries:
                film, _, ending = entry.name.partition(".")
                if ending == "json" and ID.fullmatch(film):
                    with contextlib.suppress(FileNotFoundError):  # expired just now
                        found[film] = entry.stat().st_mtime_ns
        return found

    def image(self, film: str) -> NDArray[Any] | None:
        """Return (h, w) the model's input; None if there is none."""
        content = self._read(film, "npy", LARGEST_IMAGE)
        if content is None:
            return None
        image: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        return image

    def _read(self, film: str, ending: str, most: int) -> bytes | None:
        if not ID.fullmatch(film):
            return None
        try:
            return read_regular(self._done / f"{film}.{ending}", most)
        except OSError:
            return None

    def expire(self, seconds: float) -> int:
        """Wipe answers, images and dead letters that are older, and return their number."""
        oldest, removed = time.time() - seconds, 0
        for path in _files(self._done, self._dead):
            with contextlib.suppress(FileNotFoundError):  # sent again meanwhile
                if path.stat().st_mtime < oldest:
                    wipe(path)
                    removed += 1
        return removed


def wipe(path: Path) -> None:
    """Overwrite a file with zeros and remove it; nothing happens if it is missing.

    Overwriting reaches the old blocks only on file systems that write in place. Copy-on-write,
    journals of data, snapshots and the spare blocks of an SSD keep them; only encryption with a key
    that is destroyed helps there.
    """
    with contextlib.suppress(OSError), open(path, "r+b", buffering=0) as file:  # noqa: PTH123
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            left -= file.write(bytes(min(left, WIPED)))
        os.fsync(file.fileno())
    path.unlink(missing_ok=True)


def _files(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from folder.iterdir()


def _salt(path: Path) -> bytes:
    if not path.exists():
        with write_atomically(path) as file:
            file.write(secrets.token_bytes(32))
    salt = read_regular(path, 32)
    if len(salt) != 32:
        raise StoreError(f"{path} is damaged; expected 32 bytes; choose another spool")
    return salt


def private(path: str, flags: int) -> int:
    """Open a file that its owner alone reads, as an opener of `open`."""
    return os.open(path, flags, 0o600)


def sync(folder: Path) -> None:
    """Bring the names in a folder to the disk; OSError if that fails."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
