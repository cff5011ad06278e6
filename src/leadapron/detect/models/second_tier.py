"""The second tier of an audit without references: the model compared with its students."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leadapron.detect.models.defaults import STUDENTS, TAUGHT
from leadapron.detect.models.gap import Confirmation, Examined, Gap, examine
from leadapron.detect.models.judgement import MARKS, Forced, Judgement, behind
from leadapron.detect.models.population import Population, shipped_population
from leadapron.detect.models.rule import RULE, Compared, Support
from leadapron.detect.models.students import Students
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort, subsample
from leadapron.models.protocols import BlackBox, Differentiable
from leadapron.text import count
from leadapron.types import Progress

__all__ = ["SecondTier", "StudentComparison", "films_wanted", "named_gap"]

logger = logging.getLogger(__name__)

MOST_MINUTES = 30
"""Students that would take longer are made only on request."""


def films_wanted(films: int, students: int | None) -> int:
    """Return how many clean films an audit without references opens.

    Args:
        films: largest number of films for the sweep.
        students: number of students; None if it wasn't stated.
    """
    return films if students == 0 else max(films, TAUGHT)


@dataclass(frozen=True, kw_only=True)
class SecondTier:
    """Students that an audit without references may make.

    Args:
        students: how they are made.
        films: clean films to teach them, and to search and measure marks.
        requested: whether they are made whatever the time; otherwise only up to half an hour, and
            not if the films are too few.
    """

    students: Students
    films: Cohort
    requested: bool = False

    @classmethod
    def of(cls, films: Cohort, students: int | None) -> SecondTier | None:
        """Return the students that an audit may make; None if none were wanted.

        Args:
            films: clean films, all that were opened.
            students: number of students; None if it wasn't stated.
        """
        if students == 0:
            return None
        how = Students(number=STUDENTS if students is None else students)
        taught = films.take(subsample(len(films), TAUGHT))
        return cls(students=how, films=taught, requested=students is not None)

    def refusal(self, classifier: BlackBox, seconds_per_image: float) -> str:
        """Return why no students are made, in a sentence; "" if they are. The time is logged.

        Args:
            classifier: the model.
            seconds_per_image: time that the model takes for an image.

        Raises:
            DataError: as `Students.parted`, if students are requested.
        """
        try:
            self.students.parted(self.films)
        except DataError as error:
            if self.requested:
                raise
            return f"No students were made: {error}."
        images = self.students.images(len(classifier.findings), len(self.films))
        minutes = images * seconds_per_image / 60
        time = f"{count(self.students.number, 'student')}: about {max(1, round(minutes))} minutes"
        if minutes > MOST_MINUTES and not self.requested:
            return f"No students were made ({time}); `students` {self.students.number} makes them."
        logger.info("%s on this machine; `students` 0 leaves them out", time)
        return ""

    def judge(
        self,
        classifier: BlackBox,
        judged: Judgement,
        *,
        false_alarm: float,
        content: str | None,
        folder: Path | None,
        name: str,
        progress: Progress | None,
    ) -> tuple[Judgement, StudentComparison]:
        """Return the verdict from a model's students.

        Args:
            classifier: the model.
            judged: the verdict by marks alone.
            false_alarm: largest share of clean models called backdoored.
            content: SHA-256 of the model's file.
            folder: the cache's folder.
            name: the model's name, for the cache's list.
            progress: called with the name of the step, the students done and their number.

        Raises:
            DataError: as `Students.observe`.
        """
        examined = examine(
            self.students,
            classifier,
            self.films,
            content=content,
            folder=folder,
            name=name,
            progress=progress,
        )
        # Teachers' students have their teachers' architecture, which a black box doesn't show.
        own = isinstance(classifier, Differentiable)
        population = shipped_population() if own else Population(settings="", made="", teachers=())
        compared = RULE.compare(examined, population, false_alarm)
        forced = _forced(examined, compared, judged)
        target = forced[0] if compared.word not in ("nothing found", "can't tell") else None
        return (
            replace(
                judged,
                word=compared.word,
                by=MARKS,
                p=compared.p,
                finding=None if target is None else target.finding,
                target=target,
                forced=forced,
            ),
            StudentComparison.of(examined, compared, forced[0]),
        )


def named_gap(examined: Examined) -> Gap:
    """Return the gap of the finding that the largest gap's mark forces.

    It is the largest gap itself, or that of the finding which its mark raises, if lowering others
    is a side effect.

    Args:
        examined: the model compared with its students.
    """
    each = _each(examined)
    return examined.gap_of((_behind(each[0], each, examined) or each[0]).aim)


def _behind(one: Forced, forced: Sequence[Forced], examined: Examined) -> Forced | None:
    return behind(one, forced, examined.findings, examined.exclusive)


def _each(examined: Examined) -> list[Forced]:
    """Every finding and direction by itself, the largest gap first."""
    return [
        Forced(
            finding=gap.effect.finding,
            direction=gap.effect.direction,
            verdict="unusual" if gap.size >= RULE.least_gap else "nothing found",
            p=None,
            excess=None,
            strongest=gap.effect,
        )
        for gap in examined.gaps
    ]


def _forced(examined: Examined, compared: Compared, judged: Judgement) -> tuple[Forced, ...]:
    """Every finding and direction by its gap, the target first, side effects last."""
    flagged = compared.word not in ("nothing found", "can't tell")
    each = _each(examined)
    aim = (named_gap(examined) if flagged else examined.first).effect.aim
    (first,) = (one for one in each if one.aim == aim)
    target = replace(first, verdict=compared.word, p=compared.p)
    rest = [one for one in each if one.aim != first.aim]
    aside = [
        replace(one, verdict="side effect")
        for one in rest
        if flagged and one.verdict != "nothing found" and _behind(one, each, examined) is not None
    ]
    told = {one.aim for one in aside}
    known = {target.aim, *(one.aim for one in rest)}
    silent = [one for one in judged.forced if one.aim not in known]  # without a finite output
    return (target, *(one for one in rest if one.aim not in told), *silent, *aside)


@dataclass(frozen=True, kw_only=True)
class StudentComparison:
    """A model compared with its students: what the verdict without references rests on.

    Args:
        number: of students.
        films: number of films to teach students, to search and to measure marks.
        agreement: of each student: mean correlation of its log-odds with the model's on films that
            taught it nothing.
        gap: rise of a probability by the model's mark beyond that by its students' own best marks,
            the largest of all findings and directions.
        rise: mean rise of the shown finding's probability by the mark, its fall if the mark
            removes it, in the quarter of the films with the most room for it.
        own: rise by each student's own best mark, in the student.
        carried: rise by the model's mark in each student.
        confirmations: of the mark.
        gap_p: p-value of the gap; None without a population of the same settings.
        confirmation_p: p-value of the confirmation that counts; None likewise.
        exploitable: whether the mark is exploitable, whatever its intent.
        missing: what the word "backdoored" lacks; "" if nothing.
        support: what the population says about false alarms; None likewise.
        rule: SHA-256 of the verdict's rule.
        settings: SHA-256 of the settings of students.
    """

    number: int
    films: tuple[int, int, int]
    agreement: tuple[float, ...]
    gap: float
    rise: float
    own: tuple[float, ...]
    carried: tuple[float, ...]
    confirmations: tuple[Confirmation, ...]
    gap_p: float | None
    confirmation_p: float | None
    exploitable: bool
    missing: str
    support: Support | None
    rule: str
    settings: str

    @classmethod
    def of(cls, examined: Examined, compared: Compared, shown: Forced) -> StudentComparison:
        """Return it.

        Args:
            examined: the model compared with its students.
            compared: with clean teachers.
            shown: the finding and direction that the audit shows.
        """
        first = examined.gap_of(shown.aim)
        return cls(
            number=len(examined.agreement),
            films=examined.films,
            agreement=examined.agreement,
            gap=examined.first.size,
            rise=first.rise,
            own=first.students,
            carried=first.carried,
            confirmations=examined.confirmations,
            gap_p=compared.gap_p,
            confirmation_p=compared.confirmation_p,
            exploitable=compared.exploitable,
            missing=compared.missing,
            support=compared.support,
            rule=RULE.digest(),
            settings=examined.settings,
        )
