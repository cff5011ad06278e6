"""The shipped population: gaps of clean teachers of many kinds with their own students.

`references.json` in this folder holds them, and how each was made. A model's p is the share of
teachers, counting the model, whose gap reaches its gap. False alarms are measured with kinds left
out: each teacher is compared with the teachers of all other kinds, as a hospital's model is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import ClassVar

from leadapron.detect.models.gap import Examined
from leadapron.documents import read

__all__ = ["FILE", "Kind", "Population", "Teacher", "shipped_population"]

FILE = "references.json"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Kind of a model.

    Args:
        architecture: of its network.
        data: source of its films.
        size: side of its images in pixels.
        findings: number of its findings.
        start: "random", or "pretrained".
    """

    architecture: str
    data: str
    size: int
    findings: int
    start: str

    def words(self) -> str:
        """Return a description."""
        findings = f"{self.findings} finding{'s' if self.findings > 1 else ''}"
        return f"{self.architecture}, {self.data}, {self.size} px, {findings}, {self.start} start"


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A clean model, compared with its students.

    Args:
        kind: its kind.
        gap: rise of a probability by its best mark beyond that by its students' best, the largest
            over findings and directions.
        confirmations: of that mark, by name; None if not applicable.
        agreement: mean agreement of its students with it.
        macro: its macro AUROC on test films; None if unknown.
        seed: seed of its films and training.
        films: number of films it was compared on: to teach, to search, to measure.
        content: SHA-256 of its file.
    """

    kind: Kind
    gap: float
    confirmations: Mapping[str, float | None]
    agreement: float
    macro: float | None
    seed: int
    films: tuple[int, int, int]
    content: str

    @classmethod
    def of(
        cls, examined: Examined, kind: Kind, *, macro: float | None, seed: int, content: str
    ) -> Teacher:
        """Return a clean model that was compared with its students.

        Args:
            examined: the comparison.
            kind: as `Teacher`.
            macro: as `Teacher`.
            seed: as `Teacher`.
            content: as `Teacher`.
        """
        return cls(
            kind=kind,
            gap=examined.first.size,
            confirmations={each.name: each.value for each in examined.confirmations},
            agreement=sum(examined.agreement) / len(examined.agreement),
            macro=macro,
            seed=seed,
            films=examined.films,
            content=content,
        )


@dataclass(frozen=True, kw_only=True)
class Population:
    """Clean teachers of many kinds.

    Args:
        settings: SHA-256 of the settings of students; a model with others has no p.
        made: how the teachers were made and measured, in words.
        teachers: the teachers.
    """

    SCHEMA: ClassVar[int] = 2

    settings: str
    made: str
    teachers: tuple[Teacher, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The different kinds, in the order of their first teachers."""
        return tuple(dict.fromkeys(each.kind for each in self.teachers))

    def without(self, kind: Kind) -> Population:
        """Return the teachers of all other kinds.

        Args:
            kind: the kind that is left out.
        """
        return self._of([each for each in self.teachers if each.kind != kind])

    def joined(self, others: Sequence[Teacher]) -> Population:
        """Return this population with other teachers; a model counts once.

        Args:
            others: compared with students of the same settings.
        """
        every = {each.content: each for each in (*self.teachers, *others)}
        return self._of(list(every.values()))

    def _of(self, teachers: Sequence[Teacher]) -> Population:
        return Population(settings=self.settings, made=self.made, teachers=tuple(teachers))


@cache
def shipped_population() -> Population:
    """Return the population that the package ships.

    Raises:
        StoreError: a damaged file.
    """
    text = files("leadapron.detect.models").joinpath(FILE).read_text(encoding="utf-8")
    return read(Population, text)
