"""The interface of a scan's methods: their input and output.

A method finds films that have something in common, and gives p-values for their labels. The scan
combines all methods' p-values into one verdict. Each method gets the same share of the false-alarm
rate: a sixth with six methods, a seventh with seven.
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
"""P-values up to this multiple of the false-alarm rate are suspicious."""


class Mark(NamedTuple):
    """A mark that comes again.

    Args:
        repeat: the mark, and the films that carry it.
        control: its films' labels, a control for other marks.
    """

    repeat: Repeat
    control: Control


@dataclass(frozen=True, eq=False, kw_only=True)
class Films:
    """A data set, prepared for a method. A method must not change it.

    Args:
        cohort: films and labels: 1, 0, or NaN where not stated. A copy of a film is of the same
            patient.
        seen: observations of the films.
        labelled: the labels by group, for tests: `Labelled.shifts`.
        controls: all methods' marks, as negative controls of a mark: `Controls.judge`.
        marks: the marks that this method listed itself.
        methods: number of all methods.
        false_alarm: false-positive rate: chance of calling a clean set poisoned.
        seed: seed of the method's random draws: `stream(seed, "your own words")`.
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
        """Largest suspicious corrected p-value: at most .5, or the false-alarm rate if higher."""
        return max(self.false_alarm, min(SUSPICIOUS * self.false_alarm, 0.5))

    def corrected(self, p: float) -> float:
        """Return a method's p-value, corrected for the number of methods."""
        return min(1.0, p * self.methods)


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """Films that have something in common, and the labels that they share.

    Args:
        p: p-value of these labels under the null hypothesis that allows for the method's natural
            associations; corrected for all tests of the method, 0 to 1.
        chance: p-value under the null hypothesis without any association. If it is small but `p`
            isn't, the finding is listed as a label-tied mark if it has a `tie`, or as a shortcut.
        group: one of `Labelled.groups`; None if no label was tested.
        share: share of the films in the group, 0 to 1.
        expected: share of the group among the films used for comparison; NaN if these are only
            films with outliers around a place.
        films: (m,) int64 rows, ascending; not empty if `p` or `chance` is below 1.
        what: their common property, in words: "a bright mark of 3x3 pixels anywhere".
        place: row, column and side in pixels; None if it has none.
        mark: the mark; None if it isn't one of `Films.marks`.
        tie: the result of `Controls.judge`; None if it wasn't called.
        tested: numbers of the groups that were tested.
        scattered: whether single pixels of it occur on many films, so that one pixel isn't enough
            to name a film.

    Raises:
        DataError: a p-value outside 0 to 1.
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
        """Return all tests, significant or not. Equal films give equal results."""
        ...


@runtime_checkable
class MarkMethod(FilmMethod, Protocol):
    """A method that lists marks without using labels.

    All methods' marks are each other's controls. The method's own marks are in `Films.marks`.
    """

    def marks(self, seen: Observed, patients: Rows) -> Sequence[Repeat]:
        """Return the marks that come again.

        Args:
            seen: observations of the films.
            patients: (n,) number of each film's patient.
        """
        ...
