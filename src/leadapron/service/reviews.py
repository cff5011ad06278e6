"""Reviews: what people said of films that the gate judged, kept in the spool.

    FOLDER/reviews.jsonl    a line of JSON for each review, in the order of time

They outlive the films and answers, which expire. They name a film by its id, and nothing of a
patient; and the person who judged.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, get_args

from leadapron.detect.verdict import ScreenWord
from leadapron.documents import dump, read
from leadapron.errors import StoreError
from leadapron.reading import read_regular
from leadapron.service.answers import RESEARCH
from leadapron.service.spool import sync
from leadapron.store import reason

__all__ = [
    "CALLS",
    "REVIEWS",
    "Call",
    "Review",
    "ReviewExport",
    "Reviews",
    "Tally",
    "latest",
    "read_reviews",
    "tallies",
]

logger = logging.getLogger(__name__)

Call = Literal["trigger", "no trigger", "can't tell"]
"""A person's verdict: whether the film carries a trigger."""

CALLS: tuple[Call, ...] = get_args(Call)

REVIEWS = "reviews.jsonl"
"""Name of the file in the spool."""

LARGEST = 1 << 28
"""Most bytes of the file: a million reviews have 300 MB."""


@dataclass(frozen=True, kw_only=True)
class Review:
    """A person's verdict on a film.

    Args:
        film: the film's id.
        reader: name of the person, as signed in.
        call: whether the film carries a trigger.
        at: when it was given, in UTC.
        verdict: the gate's verdict on the film, which the person saw.
        p: share of clean films with as high a score; None if the film wasn't scored.
        judged: when the gate judged the film, in UTC.
        gate: SHA-256 of the gate's file.
        model: SHA-256 of the model.
    """

    SCHEMA: ClassVar[int] = 1

    film: str
    reader: str
    call: Call
    at: str
    verdict: ScreenWord
    p: float | None
    judged: str
    gate: str
    model: str


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Reviewed films of a month and a verdict of the gate; each film counts once.

    Args:
        month: when the gate judged them, as 2026-11.
        gate: SHA-256 of the gate's file.
        verdict: the gate's verdict.
        films: number of films.
        trigger: films that all their readers say carry a trigger.
        no_trigger: films that all their readers say carry none.
        cant_tell: films of which no reader can tell.
        divided: films whose readers disagree.
    """

    month: str
    gate: str
    verdict: ScreenWord
    films: int
    trigger: int
    no_trigger: int
    cant_tell: int
    divided: int


@dataclass(frozen=True, kw_only=True)
class ReviewExport:
    """All reviews of a spool, and what they come to by month.

    Args:
        reviews: every one, also those that the same person replaced later, in the order of time.
        months: figures of each reader's last review of each film.
        use: what they may be used for.
    """

    SCHEMA: ClassVar[int] = 1

    reviews: tuple[Review, ...]
    months: tuple[Tally, ...]
    use: str = RESEARCH


class Reviews:
    """The reviews of a spool; its methods may be called from any thread.

    Args:
        path: the file; the caller holds the spool's lock.

    Raises:
        StoreError: it can't be read or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._reviews: list[Review] = []
        self._by_film: dict[str, list[Review]] = {}
        content, whole = _content(path)
        if whole < len(content):
            logger.warning("the last review was cut short by a kill, and is removed")
            os.truncate(path, whole)
        for review in _parsed(path, content[:whole]):
            self._keep(review)

    def add(self, review: Review) -> None:
        """Append a review; it is on disk afterwards.

        Raises:
            StoreError: the disk is full; nothing was kept.
        """
        line = json.dumps(dump(review)).encode() + b"\n"
        with self._lock:
            try:
                _append(self._path, line)
            except OSError as error:
                raise StoreError(f"can't write {self._path}: {reason(error)}") from error
            self._keep(review)

    def all(self) -> tuple[Review, ...]:
        """Return all reviews in the order of time."""
        with self._lock:
            return tuple(self._reviews)

    def of(self, film: str) -> tuple[Review, ...]:
        """Return each reader's last review of a film, in the order of time."""
        with self._lock:
            return latest(self._by_film.get(film, ()))

    def _keep(self, review: Review) -> None:
        self._reviews.append(review)
        self._by_film.setdefault(review.film, []).append(review)


def latest(reviews: Iterable[Review]) -> tuple[Review, ...]:
    """Return the last review of each reader and film, in the order of time."""
    last: dict[tuple[str, str], Review] = {}
    for review in reviews:
        last.pop((review.film, review.reader), None)
        last[review.film, review.reader] = review
    return tuple(last.values())


class _Kind(NamedTuple):
    month: str
    gate: str
    verdict: ScreenWord


def tallies(reviews: Iterable[Review]) -> tuple[Tally, ...]:
    """Return the figures of reviews by month, gate and the gate's verdict, in this order.

    Args:
        reviews: in the order of time.
    """
    calls: dict[str, set[Call]] = {}
    kinds: dict[str, _Kind] = {}
    for review in latest(reviews):
        calls.setdefault(review.film, set()).add(review.call)
        kinds[review.film] = _Kind(review.judged[:7], review.gate, review.verdict)
    counts: dict[_Kind, Counter[str]] = {}
    for film, kind in kinds.items():
        said = calls[film]
        counts.setdefault(kind, Counter())["divided" if len(said) > 1 else next(iter(said))] += 1
    return tuple(
        Tally(
            month=kind.month, gate=kind.gate, verdict=kind.verdict, films=found.total(),
            trigger=found["trigger"], no_trigger=found["no trigger"],
            cant_tell=found["can't tell"], divided=found["divided"],
        )
        for kind, found in sorted(counts.items())
    )  # fmt: skip


def _append(path: Path, line: bytes) -> None:
    """Append a line and bring it to the disk; if that fails, the file is as before."""
    new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if new:
        sync(path.parent)


def read_reviews(path: Path) -> list[Review]:
    """Return all reviews in the order of time, also while a service writes to the file.

    Args:
        path: the file; without it there are none.

    Raises:
        StoreError: it can't be read or is damaged.
    """
    content, whole = _content(path)
    return _parsed(path, content[:whole])


def _content(path: Path) -> tuple[bytes, int]:
    """The file, and the number of bytes in whole lines; a line cut short wasn't acknowledged."""
    try:
        content = read_regular(path, LARGEST)
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}") from error
    return content, content.rfind(b"\n") + 1


def _parsed(path: Path, content: bytes) -> list[Review]:
    lines = content.splitlines()
    return [read(Review, line, f"{path}, line {n}") for n, line in enumerate(lines, 1)]
