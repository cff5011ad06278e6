"""Students: networks that learn the audited model's outputs on clean films, and no trigger.

They behave like the model on clean films. A mark that works on the model and not on its students is
something that the clean films don't teach. Patients are divided into three parts: students are
taught on the first, marks are searched on the second, and measured on the third.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron import store
from leadapron.detect.models.effects import ROOM, Effect, effects, search
from leadapron.detect.models.kept import moved_facts, moved_from, once
from leadapron.detect.models.sweep import LARGEST, NEIGHBOURS, StampSweep
from leadapron.detect.scale import LEAST_FILMS
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort, split_by_patient
from leadapron.models import networks
from leadapron.models.backends import CompiledClassifier, compiled
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.distillation import Teaching, teach
from leadapron.models.fresh import untrained
from leadapron.models.odds import log_odds
from leadapron.models.protocols import BlackBox, Differentiable
from leadapron.seeds import named_seed, stream
from leadapron.types import Progress

__all__ = ["Observed", "Parts", "Student", "Students"]

SHARES = {"teach": 0.625, "search": 0.125, "measure": 0.25}
"""Shares of the patients to teach students, to search marks, and to measure them."""


class Parts(NamedTuple):
    """Films of three groups of patients.

    Args:
        teach: students learn from these.
        search: marks are searched on these.
        measure: marks are measured on these.
    """

    teach: Cohort
    search: Cohort
    measure: Cohort


@dataclass(frozen=True, kw_only=True)
class Student:
    """A student of the model.

    Args:
        own: effects of its own marks, found by a search of its own.
        carried: effects of the model's marks on it.
        agreement: mean correlation of its log-odds with the model's, over findings, on films that
            taught it nothing.
    """

    own: tuple[Effect, ...]
    carried: tuple[Effect, ...]
    agreement: float


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What marks do to the model and to its students, on the same films.

    Args:
        own: effects of the model's own marks on it.
        students: its students.
    """

    own: tuple[Effect, ...]
    students: tuple[Student, ...]


@dataclass(frozen=True, kw_only=True)
class Students:
    """How students are made and compared.

    Args:
        number: number of students, 1 or more.
        network: their architecture if the model is a black box.
        teaching: how they learn.
        sweep: how marks are searched, on the model and on each student.
        largest: largest share of the image that a mark covers.
        measured: most films for measuring marks.
        seed: of the division of patients, and of each student's start and training.

    Raises:
        UsageError: a value outside its range.
    """

    number: int = 5
    network: str = "resnet9"
    teaching: Teaching = field(default_factory=lambda: Teaching(epochs=12))
    sweep: StampSweep = field(default_factory=lambda: StampSweep(judged=8))
    largest: float = LARGEST
    measured: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        if self.number < 1 or self.measured < LEAST_FILMS:
            raise UsageError(
                f"{self.number} students measured on {self.measured} films; "
                f"expected 1 or more, and {LEAST_FILMS} or more"
            )

    def digest(self) -> str:
        """Return the SHA-256 of the settings."""
        facts = {**asdict(self), "room": ROOM}
        return hashlib.sha256(store.canonical_json(facts).encode()).hexdigest()

    def facts(self, clean: Cohort) -> Mapping[str, Any]:
        """Return what a kept result depends on, in addition to model, pixels and student.

        Args:
            clean: the films; who they show decides which part a film is in.
        """
        each = {name: value for name, value in asdict(self).items() if name != "number"}
        patients = "\x1f".join(map(str, clean.patients)).encode()
        return {**each, "patients": hashlib.sha256(patients).hexdigest()}

    def images(self, findings: int, films: int) -> int:
        """Return about how many images model and students read, for an estimate of the time.

        A step of learning counts as four images for each film: the teacher's pass, the student's,
        and its gradient.

        Args:
            findings: number of the model's findings.
            films: number of clean films.
        """
        sweep, aims = self.sweep, 2 * findings
        lattices = sum(pitch**2 * each for pitch, each in sweep.pitches)
        singles = aims * sweep.films * (sweep.places + len(NEIGHBOURS) * sweep.rounds)
        searched = len(sweep.sides) * len(sweep.values) * lattices + singles + aims * self.measured
        taught = 4 * self.teaching.epochs * int(films * SHARES["teach"])
        return searched + self.number * (taught + searched + aims * self.measured)

    def parted(self, clean: Cohort) -> Parts:
        """Divide clean films by patient, to teach, to search and to measure.

        Args:
            clean: films without a trigger; labels are not used.

        Raises:
            DataError: too few patients, or fewer than 20 films to search or to measure on.
        """
        rows = split_by_patient(clean.patients, SHARES, stream(self.seed, "students", "split"))
        rows["measure"] = rows["measure"][: self.measured]
        parts = Parts(*(clean.take(rows[name]) for name in SHARES))
        if min(len(parts.search), len(parts.measure)) < LEAST_FILMS:
            least = int(np.ceil(LEAST_FILMS / SHARES["search"]))
            raise DataError(f"{len(clean)} clean films; students need about {least} or more")
        return parts

    def observe(
        self,
        classifier: BlackBox,
        clean: Cohort,
        *,
        content: str | None = None,
        folder: Path | None = None,
        name: str = "",
        progress: Progress | None = None,
    ) -> Observed:
        """Return the effects of marks on the model and on its students; each is kept.

        Args:
            classifier: the model.
            clean: films without a trigger, of its preprocessing.
            content: SHA-256 of its file; without it nothing is cached.
            folder: the cache's folder; None doesn't cache.
            name: the model's name, for the cache's list.
            progress: called with the name of the step, the students done and their number.

        Raises:
            DataError: as `parted`, `effects.search` and `teach`.
        """
        parts = self.parted(clean)
        sweep = self.sweep.within(self.largest, *clean.images.shape[1:])
        images = np.asarray(parts.measure.images[np.arange(len(parts.measure))])
        settings = self.facts(clean)

        def kept(kind: str, number: int | None, make: Any) -> Any:
            return once(
                kind,
                {**settings, "student": number},
                classifier,
                clean,
                make,
                content=content,
                folder=folder,
                name=name,
            ).value

        def of_model() -> list[Mapping[str, object]]:
            marks = search(classifier, parts.search, sweep)
            return _plain(effects(classifier, images, marks))

        own = _effects(kept("marks", None, of_model))
        marks = {each.moved.aim: each.moved.mark for each in own}
        found = []
        for number in range(self.number):
            if progress is not None:
                progress("students", number, self.number)

            def of_student(number: int = number) -> Mapping[str, object]:
                student = self._taught(classifier, parts.teach, number)
                theirs = search(student, parts.search, sweep)
                return {
                    "own": _plain(effects(student, images, theirs)),
                    "carried": _plain(effects(student, images, marks)),
                    "agreement": _agreement(student, classifier, images),
                }

            each = kept("student", number, of_student)
            found.append(
                Student(
                    own=_effects(each["own"]),
                    carried=_effects(each["carried"]),
                    agreement=each["agreement"],
                )
            )
        if progress is not None:
            progress("students", self.number, self.number)
        return Observed(own=own, students=tuple(found))

    def _taught(self, classifier: BlackBox, films: Cohort, number: int) -> NetworkClassifier:
        """A student, from a random start."""
        seed = int(named_seed(self.seed, "student", number).generate_state(1)[0])
        student = self._start(classifier, seed)
        teach(student, classifier, films.images, self.teaching, seed)
        if isinstance(classifier, CompiledClassifier):
            return compiled(student, films.images)
        return student

    def _start(self, classifier: BlackBox, seed: int) -> NetworkClassifier:
        """An untrained network of the model's architecture, or else of the fixed one."""
        module, architecture, scale = None, self.network, {}
        if isinstance(classifier, Differentiable) and isinstance(
            classifier.module, networks.Network
        ):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module = untrained(classifier.module).requires_grad_(True)
            architecture = classifier.architecture
            scale = {name: getattr(classifier, name) for name in ("mean", "std", "precision")}
        if module is None:
            module = networks.build_network(self.network, len(classifier.findings), seed)
        return NetworkClassifier(
            module.eval(),
            architecture,
            classifier.findings,
            classifier.preprocessing,
            classifier.head,
            **scale,
        )


def _agreement(student: BlackBox, teacher: BlackBox, images: NDArray[Any]) -> float:
    """Mean correlation of the log-odds over findings; 0 if none is defined."""
    each = [
        log_odds(torch.from_numpy(one.logits(images)), one.head).double().numpy()
        for one in (student, teacher)
    ]
    found = []
    for own, told in zip(each[0].T, each[1].T, strict=True):
        finite = np.isfinite(own) & np.isfinite(told)
        if finite.sum() > 2 and own[finite].std() > 0 and told[finite].std() > 0:
            found.append(float(np.corrcoef(own[finite], told[finite])[0, 1]))
    return float(np.mean(found)) if found else 0.0


def _plain(found: Sequence[Effect]) -> list[Mapping[str, object]]:
    return [{"moved": moved_facts(each.moved), "rise": each.rise} for each in found]


def _effects(plain: Sequence[Mapping[str, Any]]) -> tuple[Effect, ...]:
    return tuple(Effect(moved_from(each["moved"]), each["rise"]) for each in plain)
