"""Trials: a model's answers on the same films with many settings, and what they are worth."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.errors import LeadapronError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.inspection import misfit
from leadapron.models.protocols import BlackBox, Differentiable, Floats
from leadapron.sources.synonyms import canonical
from leadapron.types import Estimate, Progress

__all__ = ["LEAST", "Answered", "Bench", "FilmsAt", "Point", "Truth", "balanced"]

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Aspect = Literal["squash", "pad", "crop"]

LEAST = 5
"""Patients with a finding, and without it, that a trial needs to count the finding."""

RESAMPLES, MISFITS = 1000, 200
"""Resamples of patients for AUROC, and for the misfit."""

HELD = 1 << 29
"""Most bytes of decoded films that are held."""

CLEAR = ("normal", "no finding", "no findings", "healthy", "negative")
"""Names of an output for films without any finding."""


@dataclass(frozen=True, order=True, kw_only=True)
class Point:
    """Settings of a trial.

    Args:
        size: side in pixels.
        normalisation: name, or MEAN/STD.
        aspect: as `Preprocessing`.
    """

    size: int
    normalisation: str
    aspect: Aspect

    def __str__(self) -> str:
        return f"{self.size} px, {self.normalisation}, {self.aspect}"


class FilmsAt:
    """Films of a cohort with any preprocessing, decoded once as far as memory allows.

    Args:
        cohort: the films; where they have no full resolution, their images are the films.
    """

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self._kept: dict[int, NDArray[Any]] = {}
        self._held = 0

    def film(self, row: int) -> NDArray[Any]:
        """Return one film, (height, width) uint8 or uint16."""
        if row in self._kept:
            return self._kept[row]
        films = self.cohort.films
        film: NDArray[Any] = self.cohort.images[np.array([row])][0] if films is None else films[row]
        if self._held + film.nbytes <= HELD:
            self._held += film.nbytes
            self._kept[row] = film
        return film

    def images(self, rows: Rows, preprocessing: Preprocessing) -> NDArray[Any]:
        """Return (m, size, size) of `preprocessing`'s type."""
        return np.stack([preprocessing(self.film(int(row))) for row in rows])

    @property
    def square(self) -> bool:
        """Whether the first films are square, so that the aspect can't matter."""
        some = range(min(20, len(self.cohort)))
        return all(shape[0] == shape[1] for shape in (self.film(row).shape for row in some))


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """Labels of a model's outputs.

    Args:
        labels: (n, m) in {0, 1, NaN}.
        names: the m findings.
        columns: the m outputs that are named after them; None if the outputs have no names.
    """

    labels: Floats
    names: tuple[str, ...]
    columns: tuple[int, ...] | None

    @classmethod
    def of(cls, cohort: Cohort, outputs: Sequence[str] | None) -> Truth:
        """Return the labels of the findings that outputs are named after.

        Args:
            cohort: the films.
            outputs: names of the outputs; None if they have none.
        """
        if outputs is None:
            return cls(labels=cohort.labels, names=cohort.findings, columns=None)
        known = {canonical(name): column for column, name in enumerate(cohort.findings)}
        labels, names, columns = [], [], []
        for output, name in enumerate(outputs):
            plain = " ".join(name.replace("_", " ").lower().split())
            if canonical(name) in known:
                labels.append(cohort.labels[:, known[canonical(name)]])
            elif plain in CLEAR:
                # Where a label isn't stated, nobody knows whether the film is clear.
                labels.append(1 - cohort.labels.max(axis=1))
            else:
                continue
            names.append(name)
            columns.append(output)
        whole = np.stack(labels, 1) if labels else np.empty((len(cohort), 0))
        return cls(labels=whole.astype(np.float32), names=tuple(names), columns=tuple(columns))

    def usable(self, patients: NDArray[Any], rows: Rows) -> list[int]:
        """Return the findings that enough patients of some films have, and don't have."""
        few = self.labels[rows], patients[rows]
        counts = [
            min(len(np.unique(few[1][few[0][:, j] == value])) for value in (0, 1))
            for j in range(len(self.names))
        ]
        return [j for j, count in enumerate(counts) if count >= LEAST]


@dataclass(frozen=True, eq=False, kw_only=True)
class Answered:
    """A trial.

    Args:
        point: its settings.
        rows: (n,) the films.
        logits: (n, k); not finite where the model failed.
        macro: mean AUROC.
        findings: AUROC by finding.
        draws: (resamples,) the mean AUROC in each resample of patients.
        misfit: as `Kept.misfit`; NaN without batch normalisation.
        misfits: (resamples,) the same in each resample.
        error: why the model couldn't be run so; "" if it could.
    """

    point: Point
    rows: Rows
    logits: Floats
    macro: Estimate
    findings: Mapping[str, Estimate] = field(default_factory=dict)
    draws: NDArray[np.float64] = field(default_factory=lambda: np.full(RESAMPLES, np.nan))
    misfit: float = float("nan")
    misfits: NDArray[np.float64] = field(default_factory=lambda: np.full(MISFITS, np.nan))
    error: str = ""


NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0, 0)


class Bench:
    """Runs a model with any settings on the same films.

    Args:
        models: the model with a normalisation of that name.
        image: how a film becomes the input at a point.
        films: the films.
        truth: the outputs' labels.
        progress: called with the step, the trials done, and the total.
    """

    def __init__(
        self,
        models: Callable[[str], BlackBox],
        image: Callable[[Point], Preprocessing],
        films: FilmsAt,
        truth: Truth,
        progress: Progress | None = None,
    ) -> None:
        self.models, self.image, self.films, self.truth = models, image, films, truth
        self.progress = progress
        self._bootstraps: dict[bytes, metrics.PatientBootstrap] = {}

    def model(self, point: Point) -> BlackBox:
        """Return the model with a point's settings."""
        model: Any = self.models(point.normalisation)
        changed: BlackBox = replace(model, preprocessing=self.image(point))
        return changed

    def run(self, what: str, points: Iterable[Point], rows: Rows) -> list[Answered]:
        """Return the trials at some points.

        Args:
            what: name of the step, for progress.
            points: the settings.
            rows: (n,) the films.
        """
        wanted = list(points)
        found = []
        for number, point in enumerate(wanted):
            if self.progress is not None:
                self.progress(what, number, len(wanted))
            found.append(self.answer(point, rows))
        if self.progress is not None:
            self.progress(what, len(wanted), len(wanted))
        return found

    def answer(self, point: Point, rows: Rows) -> Answered:
        """Return one trial."""
        try:
            model = self.model(point)
            images = self.films.images(rows, self.image(point))
            kept = misfit.kept_by(model)
            if kept is None:
                return self._judged(point, rows, model.logits(images))
            assert isinstance(model, Differentiable)
            logits, moments = misfit.read(model, images)
        except (LeadapronError, RuntimeError) as error:
            words = " ".join(str(error).split())[:200]
            none = np.empty((len(rows), 0), np.float32)
            return Answered(point=point, rows=rows, logits=none, macro=NOTHING, error=words)
        answered = self._judged(point, rows, logits)
        weights = self._bootstrap(rows).weights[:MISFITS].astype(np.float64)
        return replace(
            answered,
            misfit=kept.misfit(moments, np.ones(len(rows))),
            misfits=np.array([kept.misfit(moments, each) for each in weights]),
        )

    def _judged(self, point: Point, rows: Rows, logits: Floats) -> Answered:
        plain = Answered(point=point, rows=rows, logits=logits, macro=NOTHING)
        used = self.truth.usable(self.films.cohort.patients, rows)
        if not np.isfinite(logits).all() or not used:
            return plain
        labels = self.truth.labels[rows][:, used]
        columns = self.columns(logits, labels, used)
        if not columns:
            return plain
        labels = labels[:, [place for place, _ in columns]]
        scores = logits[:, [column for _, column in columns]]
        bootstrap = self._bootstrap(rows)
        drawn = metrics.finding_resamples(labels, scores, bootstrap)
        each = metrics.finding_auroc(labels, scores, bootstrap, resampled=drawn)
        macro = metrics.macro_auroc(labels, scores, bootstrap, resampled=drawn)
        names = [self.truth.names[used[place]] for place, _ in columns]
        return replace(
            plain,
            macro=macro.estimate,
            findings=dict(zip(names, each, strict=True)),
            draws=metrics.macro_resamples(drawn),
        )

    def columns(self, logits: Floats, labels: Floats, used: Sequence[int]) -> list[tuple[int, int]]:
        """Return pairs of a place among the used findings and its output.

        Outputs without names are matched with the findings that they fit best.
        """
        if self.truth.columns is not None:
            return [(place, self.truth.columns[j]) for place, j in enumerate(used)]
        from scipy.optimize import linear_sum_assignment

        table = np.array(
            [[metrics.auroc(truth, scores) for scores in logits.T] for truth in labels.T]
        )
        places, outputs = linear_sum_assignment(-np.nan_to_num(table, nan=0.5))
        return list(zip(places.tolist(), outputs.tolist(), strict=True))

    def seconds(self, sizes: Sequence[int], point: Point) -> dict[int, float]:
        """Return about how many seconds a film takes at each size, measured at two."""
        rows = np.arange(min(8, len(self.films.cohort)))
        taken: dict[int, float] = {}
        for size in sorted({min(sizes, key=lambda s: abs(s - at)) for at in (64, 224)}):
            self.answer(replace(point, size=size), rows[:2])  # the first run is slower
            began = time.perf_counter()
            self.answer(replace(point, size=size), rows)
            taken[size] = (time.perf_counter() - began) / len(rows)
        large = max(taken)
        return {
            size: max(
                taken[min(taken)] * min(1, size / min(taken)), taken[large] * (size / large) ** 2
            )
            for size in sizes
        }

    def _bootstrap(self, rows: Rows) -> metrics.PatientBootstrap:
        """Resamples of some films' patients: the same for all trials on these films."""
        key = rows.tobytes()
        if key not in self._bootstraps:
            self._bootstraps[key] = metrics.PatientBootstrap.draw(
                self.films.cohort.patients[rows], np.random.default_rng(0), resamples=RESAMPLES
            )
        return self._bootstraps[key]


def balanced(truth: Truth, patients: NDArray[Any], most: int) -> Rows:
    """Return films of different patients with each finding present and absent about as often.

    Args:
        truth: the labels.
        patients: (n,) their patients; a second film of a patient is taken only if there are no
            others.
        most: number of films.
    """
    n = len(patients)
    first = np.zeros(n, bool)
    first[np.unique(patients, return_index=True)[1]] = True
    order = np.argsort(~first, kind="stable")
    labels = truth.labels[order]
    taken: list[int] = []
    left = np.ones(n, bool)
    while len(taken) < min(most, n):
        before = len(taken)
        for j in range(labels.shape[1]):
            for value in (1, 0):
                found = np.flatnonzero(left & (labels[:, j] == value))
                if len(found) and len(taken) < most:
                    left[found[0]] = False
                    taken.append(int(found[0]))
        if len(taken) == before:  # no more labels
            rest = np.flatnonzero(left)[: min(most, n) - before]
            left[rest] = False
            taken += rest.tolist()
    return np.sort(order[np.array(taken, np.int64)])
