"""What a method of the scan is: what it is given, and what it gives.

A method finds films that have something in common, and says how unlikely their labels are. The scan
makes its p-values part of one verdict. Each method gets the same share of the false-alarm rate,
whoever wrote it: with six methods a sixth of it, with a seventh a seventh.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from leadapron.detect.films.observe import Observed
from leadapron.detect.films.repeats import Repeat
from leadapron.detect.films.shift import Group, Labelled
from leadapron.detect.films.ties import Control, Controls, Place
from leadapron.detect.scores import LabelTie
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort, Rows

__all__ = ["FilmMethod", "Films", "Found", "Mark", "MarkMethod"]

SUSPICIOUS = 10
"""A p-value up to so many times the false-alarm rate is suspicious, not more."""


class Mark(NamedTuple):
    """A mark that comes again.

    Args:
        repeat: what it is, and which films carry it.
        control: its films' labels; other marks are judged beside them.
    """

    repeat: Repeat
    control: Control


@dataclass(frozen=True, eq=False, kw_only=True)
class Films:
    """A data set, ready for a method. Nothing of it may be changed.

    Args:
        cohort: films and labels: 1, 0, or NaN where not stated. A copy of a film is of the same
            patient.
        seen: what was seen of the films.
        labelled: the labels by group, ready to be tested: `Labelled.shifts`.
        controls: all methods' marks, beside which a mark is judged: `Controls.judge`.
        marks: those that this method listed itself.
        methods: how many are tried, this one among them.
        false_alarm: chance that is granted of calling a clean set poisoned.
        seed: of all that the method draws: `stream(seed, "own words")`.
    """

    cohort: Cohort
    seen: Observed
    labelled: Labelled
    controls: Controls
    marks: Sequence[Mark] = ()
    methods: int
    false_alarm: float
    seed: int

    @property
    def rate(self) -> float:
        """The method's share of the false-alarm rate."""
        return self.false_alarm / self.methods

    @property
    def suspicious(self) -> float:
        """Up to which corrected p-value films are suspicious; what is as likely as not never is."""
        return max(self.false_alarm, min(SUSPICIOUS * self.false_alarm, 0.5))

    def corrected(self, p: float) -> float:
        """Return a method's p-value, corrected for the number of methods."""
        return min(1.0, p * self.methods)


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """Films that have something in common, and the labels that they share.

    Args:
        p: chance of such labels where nature may do what the method grants it; corrected for all
            that the method tried, 0 to 1.
        chance: the same where nature is granted nothing. What is small here and not in `p` is
            listed as a label-tied mark where there is a `tie`, else as a shortcut.
        group: of `Labelled.groups`; None where no label was tested.
        share: of the films in the group, 0 to 1.
        expected: share of the group among the films that they are compared with; NaN where these
            are only those around a place.
        films: (m,) int64 rows, ascending; some where `p` or `chance` is below 1.
        what: they have in common, in words: "a bright mark of 3x3 pixels anywhere".
        place: row, column and side in pixels; None where it has none.
        mark: the mark; None where it is none of `Films.marks`.
        tie: what `Controls` says of the label; None where it wasn't asked.
        tested: numbers of the groups that were tested.
        scattered: whether each film shows a pixel of it here and there, so that one such pixel
            names no film.

    Raises:
        DataError: a p-value that is none.
    """

    p: float
    chance: float
    group: Group | None = None
    share: float = 0.0
    expected: float = 0.0
    films: Rows
    what: str
    place: Place | None = None
    mark: Mark | None = None
    tie: LabelTie | None = None
    tested: frozenset[int] = frozenset()
    scattered: bool = False

    def __post_init__(self) -> None:
        for name, p in (("p", self.p), ("chance", self.chance)):
            if not 0 <= p <= 1:
                raise DataError(f"{self.what}: {name} is {p}; expected 0 to 1")


class FilmMethod(Protocol):
    """A method of the scan."""

    def find(self, films: Films) -> Iterable[Found]:
        """Return all that was tried, evidence or not. Equal films give equal answers."""
        ...


@runtime_checkable
class MarkMethod(FilmMethod, Protocol):
    """A method that lists marks before anyone looks at a label.

    All methods' marks are each other's controls. Its own stand in `Films.marks`.
    """

    def marks(self, seen: Observed, patients: Rows) -> Sequence[Repeat]:
        """Return the marks that come again.

        Args:
            seen: what was seen of the films.
            patients: (n,) number of each film's patient.
        """
        ...
