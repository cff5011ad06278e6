"""The shelf of answered films: their list, the most suspicious first."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from leadapron.detect.verdict import ScreenWord
from leadapron.documents import read
from leadapron.errors import StoreError
from leadapron.service.answers import FilmAnswer
from leadapron.service.engine import Engine

__all__ = ["MOST_LISTED", "ListedFilm", "Listing", "Shelf"]

MOST_LISTED = 1000
"""Most films that a list holds."""

RANKS: dict[ScreenWord, int] = {"suspicious": 0, "can't tell": 1, "pass": 2}


@dataclass(frozen=True, kw_only=True)
class ListedFilm:
    """A film in the list.

    Args:
        id: its id.
        verdict: the gate's verdict.
        p: share of clean films with as high a score; None if it wasn't scored.
        finding: finding that the evidence region supports; None if there is none.
        judged: when it was judged, in UTC.
    """

    id: str
    verdict: ScreenWord
    p: float | None
    finding: str | None
    judged: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A list of films.

    Args:
        films: at most `MOST_LISTED` films: suspicious ones, then those of "can't tell", then those
            that passed, each by p, and the newest first where that is equal.
        counts: number of all films by verdict.
    """

    films: tuple[ListedFilm, ...]
    counts: dict[ScreenWord, int]


class Shelf:
    """What is known of the answers in the spool; each is read once.

    Args:
        engine: keeps the answers.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, ListedFilm]] = {}

    def listing(self) -> Listing:
        """Return the list; OSError if the spool can't be read."""
        with self._lock:
            answered = self._engine.answered_films()
            self._known = {
                film: known
                for film, written in answered.items()
                if (known := self._known_of(film, written)) is not None
            }
            films = [film for _, film in self._known.values()]
        counts = Counter(film.verdict for film in films)
        films.sort(key=lambda film: film.judged, reverse=True)
        films.sort(key=lambda film: (RANKS[film.verdict], 2.0 if film.p is None else film.p))
        return Listing(
            films=tuple(films[:MOST_LISTED]), counts={word: counts[word] for word in RANKS}
        )

    def _known_of(self, film: str, written: int) -> tuple[int, ListedFilm] | None:
        known = self._known.get(film)
        if known is not None and known[0] == written:
            return known
        told = self._engine.answer(film)
        if told is None or told.waits:
            return None
        try:
            answer = read(FilmAnswer, told.content)
        except StoreError:  # of another version of the program
            return None
        return written, _listed(answer)


def _listed(answer: FilmAnswer) -> ListedFilm:
    decision = answer.decision
    assert decision is not None
    assert answer.judged is not None
    return ListedFilm(
        id=answer.id,
        verdict=decision.verdict,
        p=decision.p,
        finding=decision.finding,
        judged=answer.judged,
    )
