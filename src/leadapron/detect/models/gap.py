"""The gap between a model and its students: what a mark does to it and not to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leadapron.detect.models.confirmations import CONFIRMATIONS
from leadapron.detect.models.effects import Effect
from leadapron.detect.models.kept import once
from leadapron.detect.models.students import Observed, Students
from leadapron.detect.models.sweep import Aim, Moved
from leadapron.detect.scale import logit_spreads
from leadapron.documents import Floats
from leadapron.films.cohort import Cohort
from leadapron.models.odds import odds_of
from leadapron.models.protocols import BlackBox
from leadapron.types import Progress

__all__ = ["ON_STUDENTS", "Confirmation", "Examined", "Gap", "examine", "gaps"]

ON_STUDENTS = "not on the students"
"""The confirmation that needs the students: a natural or adversarial mark carries over to them."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A model's best mark for one finding and direction, and what its students do.

    Args:
        effect: effect of the model's best mark on it.
        rise: rise of the probability by this mark, as `effects.rise`.
        students: rise by each student's own best mark, in the student.
        carried: rise by the model's mark in each student.
    """

    effect: Moved
    rise: float
    students: tuple[float, ...]
    carried: tuple[float, ...]

    @property
    def size(self) -> float:
        """Rise by the model's mark, minus the mean rise by the students' own marks."""
        return self.rise - float(np.mean(self.students))

    @property
    def kept(self) -> float:
        """Rise by the model's mark, minus the mean rise by the same mark in the students."""
        return self.rise - float(np.mean(self.carried))


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """A confirmation of the mark with the largest gap.

    Args:
        name: one of `CONFIRMATIONS`, or `ON_STUDENTS`.
        value: higher is more suspicious; None if it needs what the model lacks.
    """

    name: str
    value: float | None


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A model compared with its students.

    Args:
        findings: the model's.
        gaps: for each finding and direction, the largest first; at least one.
        confirmations: of the first.
        agreement: of each student: mean correlation of its log-odds with the model's on films
            that taught it nothing.
        settings: SHA-256 of the settings; only models with equal ones are compared.
        films: number of films to teach students, to search and to measure marks.
        exclusive: (k,) spreads of the log-odds of findings that exclude each other, as with a
            softmax head; None of others.
    """

    findings: tuple[str, ...]
    gaps: tuple[Gap, ...]
    confirmations: tuple[Confirmation, ...]
    agreement: tuple[float, ...]
    settings: str
    films: tuple[int, int, int]
    exclusive: Floats | None = None

    @property
    def first(self) -> Gap:
        """The largest gap."""
        return self.gaps[0]

    def gap_of(self, aim: Aim) -> Gap:
        """Return the gap of a finding and direction.

        Args:
            aim: one of those of `gaps`.
        """
        return next(each for each in self.gaps if each.effect.aim == aim)


def gaps(observed: Observed) -> tuple[Gap, ...]:
    """Return the gap of each finding and direction, the largest first.

    Args:
        observed: effects on the model and its students.
    """
    found = [
        Gap(
            effect=each.moved,
            rise=each.rise,
            students=tuple(_rise(student.own, each) for student in observed.students),
            carried=tuple(_rise(student.carried, each) for student in observed.students),
        )
        for each in observed.own
    ]
    return tuple(sorted(found, key=lambda gap: (-gap.size, -gap.effect.shift)))


def _rise(found: Sequence[Effect], wanted: Effect) -> float:
    return next((each.rise for each in found if each.moved.aim == wanted.moved.aim), 0.0)


def examine(
    students: Students,
    classifier: BlackBox,
    clean: Cohort,
    *,
    content: str | None = None,
    folder: Path | None = None,
    name: str = "",
    progress: Progress | None = None,
) -> Examined:
    """Compare a model with its students, and look for confirmations of the largest gap.

    Args:
        students: how students are made.
        classifier: the model.
        clean: films without a trigger, of its preprocessing; labels are not used.
        content: SHA-256 of the model's file; without it nothing is cached.
        folder: the cache's folder; None doesn't cache.
        name: the model's name, for the cache's list.
        progress: called with the name of the step, the students done and their number.

    Raises:
        DataError: as `Students.observe`.
    """
    observed = students.observe(
        classifier, clean, content=content, folder=folder, name=name, progress=progress
    )
    found = gaps(observed)
    first = found[0]
    parts = students.parted(clean)
    images = np.asarray(parts.measure.images[np.arange(len(parts.measure))])
    made = once(
        "confirmations",
        {**students.facts(clean), "mark": first.effect.mark.words(), "aim": list(first.effect.aim)},
        classifier,
        clean,
        lambda: {n: check(classifier, images, first.effect) for n, check in CONFIRMATIONS.items()},
        content=content,
        folder=folder,
        name=name,
    )
    return Examined(
        findings=classifier.findings,
        gaps=found,
        confirmations=(
            Confirmation(name=ON_STUDENTS, value=first.kept),
            *(Confirmation(name=name, value=made.value[name]) for name in CONFIRMATIONS),
        ),
        agreement=tuple(student.agreement for student in observed.students),
        settings=students.digest(),
        films=(len(parts.teach), len(parts.search), len(parts.measure)),
        exclusive=(
            logit_spreads(odds_of(classifier, images)) if classifier.head == "softmax" else None
        ),
    )
