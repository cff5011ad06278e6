"""The scan of a data set without a model: all methods, one verdict."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.association import LEAST_SIDE
from leadapron.detect.films.evidence import (
    label_tied_marks,
    poison,
    repeated_marks,
    shortcuts,
)
from leadapron.detect.films.marks import SIZES, mark_kind
from leadapron.detect.films.method import FilmMethod, Films, Found, MarkMethod
from leadapron.detect.films.methods import AT_A_PLACE, METHODS
from leadapron.detect.films.observe import Observed, limits, observe
from leadapron.detect.films.preparation import Prepared, prepare
from leadapron.detect.films.reader import SecondLook
from leadapron.detect.films.second_look import looked_again
from leadapron.detect.scores import Evidence
from leadapron.detect.verdict import refuse_rate
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.seeds import stream
from leadapron.text import count
from leadapron.types import Progress, said

__all__ = ["Method", "Scan", "scan_films"]

FEWEST = 10
"""Fewest films that can be scanned."""

SMALLEST = 1e-300
"""Smaller p-values don't raise the films' scores further."""

Verdict = Literal["nothing found", "label-tied mark", "suspicious", "poisoned"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method's part in the verdict.

    Args:
        name: name in `METHODS`.
        tried: number of marks, tops of rankings or outliers whose labels were tested.
        p: smallest p-value, corrected for all tests of the method; 1 without any.
        adjusted: p, corrected for the number of methods as well (Holm).
        seconds: duration.
    """

    name: str
    tried: int
    p: float
    adjusted: float
    seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Scan:
    """Result of a scan of a data set.

    Args:
        verdict: "poisoned" if p is at most the false-alarm rate; "suspicious" up to ten times the
            rate; "label-tied mark" if a mark is associated with a label by more than chance: a
            shortcut, or clean-label poison; otherwise "nothing found", which is no proof: see the
            page on a scan's limits.
        p: smallest p-value over all methods, corrected for all tests.
        false_alarm: false-positive rate: chance of calling a clean set poisoned.
        methods: the methods' results.
        evidence: poison first, the strongest first; then label-tied marks, repeated marks and
            shortcuts.
        scores: (n,) float64: -log10 of the smallest p-value of the evidence that names the film,
            0 for films without evidence.
        least: for each finding, the smallest number of patients with a solid mark, all with the
            finding, that would be evidence of poison by labels alone; None if no number would be.
        notes: untested attacks and the reasons.
    """

    verdict: Verdict
    p: float
    false_alarm: float
    methods: tuple[Method, ...]
    evidence: tuple[Evidence, ...]
    scores: NDArray[np.float64]
    least: Mapping[str, int | None]
    notes: tuple[str, ...]


def scan_films(
    cohort: Cohort,
    *,
    false_alarm: float = 0.01,
    seed: int = 0,
    seen: Observed | None = None,
    look: SecondLook | None = None,
    progress: Progress | None = None,
) -> Scan:
    """Scan a data set for poison. No model is needed.

    Marks that recur (at one place or anywhere), textures, descriptions of whole films, and outliers
    of single pixels are found without labels. They are then tested for a shift of labels: towards
    a finding, away from it, or to one label vector. Each method corrects for all its tests, and
    Holm's procedure corrects for the number of methods.

    Args:
        cohort: the films, at least 10, and their labels.
        false_alarm: false-positive rate on clean sets, above 0, below 1.
        seed: seed of the halves that signatures are learnt on, and of the pixels' limits.
        seen: earlier observations of these films; computed if left out.
        look: a network that tests the films of marks that are associated with a label; it isn't
            called if there are no such marks.
        progress: called with the name of the step, the films done and their total.

    Raises:
        UsageError: a false-alarm rate out of range.
        DataError: fewer than 10 films, or films of fewer than 16 x 16 pixels.
    """
    refuse_rate(false_alarm)
    if len(cohort) < FEWEST or min(cohort.images.shape[1:]) < 16:
        raise DataError(
            f"{count(len(cohort), 'film')} of {cohort.images.shape[1]} x "
            f"{cohort.images.shape[2]} pixels; "
            f"a scan needs {FEWEST} of 16 x 16 or more"
        )
    if seen is None:
        bounds = limits(cohort.images, stream(seed, "limits"))
        seen = observe(cohort.images, bounds, progress=progress)
    methods = dict(METHODS)
    prepared = prepare(cohort, seen, methods, false_alarm=false_alarm, seed=seed)
    notes = _notes(prepared)
    if look is not None:
        listed = {n: one for n, one in methods.items() if isinstance(one, MarkMethod)}
        marks = [each for some in _found(prepared, listed)[0].values() for each in some]
        films, more = looked_again(prepared.films, marks, look)
        prepared, notes = prepared._replace(films=films), notes + more
    found, tried = _found(prepared, methods, progress)
    return _judged(prepared.films, found, _holm(tried), notes)


def _found(
    prepared: Prepared, methods: Mapping[str, FilmMethod], progress: Progress | None = None
) -> tuple[dict[str, list[Found]], list[Method]]:
    """Each method's findings; p-values aren't corrected for the number of methods yet."""
    results, tried = dict[str, list[Found]](), list[Method]()
    for number, (name, method) in enumerate(methods.items(), 1):
        if progress is not None:
            progress(f"testing {name}", number, len(methods))
        begun = time.perf_counter()
        try:
            results[name] = list(method.find(prepared.of(name)))
        except DataError as error:
            raise DataError(f"the film method {name}: {error}") from error
        tried.append(
            Method(
                name=name,
                tried=len(results[name]),
                p=min((each.p for each in results[name]), default=1.0),
                adjusted=1.0,
                seconds=time.perf_counter() - begun,
            )
        )
    return results, tried


def _holm(methods: Sequence[Method]) -> list[Method]:
    """Holm's step-down correction for the number of methods (Scand. J. Statist. 6 (1979) 65)."""
    adjusted, worst = dict[str, float](), 0.0
    for rank, method in enumerate(sorted(methods, key=lambda one: one.p)):
        worst = max(worst, min(1.0, method.p * (len(methods) - rank)))
        adjusted[method.name] = worst
    return [replace(method, adjusted=adjusted[method.name]) for method in methods]


def _judged(
    films: Films,
    found: Mapping[str, list[Found]],
    methods: Sequence[Method],
    notes: tuple[str, ...],
) -> Scan:
    """The verdict, and the evidence for it."""
    p = min(method.adjusted for method in methods)
    strong = poison(found, films)
    tied = list(label_tied_marks(found, films, strong))
    verdict: Verdict = "label-tied mark" if tied else "nothing found"
    if p <= films.false_alarm:
        verdict = "poisoned"
    elif p <= films.suspicious:
        verdict = "suspicious"
    scores = np.zeros(len(films.cohort))
    for each in strong:
        scores[each.films] = np.maximum(scores[each.films], -np.log10(max(each.p, SMALLEST)))
    return Scan(
        verdict=verdict,
        p=p,
        false_alarm=films.false_alarm,
        methods=tuple(methods),
        evidence=(
            *strong,
            *tied,
            *repeated_marks(found, films.labelled, (*strong, *tied)),
            *shortcuts(found, strong, films.false_alarm),
        ),
        scores=scores,
        least=_least(films),
        notes=notes,
    )


def _least(films: Films) -> dict[str, int | None]:
    """For each finding, the fewest films with a solid 3x3 mark that could be detected."""
    labelled = films.labelled
    found: dict[str, int | None] = {}
    for number, group in enumerate(labelled.groups):
        if group.direction == "added" and group.finding is not None:
            known = labelled.stated[:, number]
            share = float(labelled.members[known, number].mean()) if known.any() else 0.0
            # As if it were the most repeated mark of its size, tied to any of the groups.
            tests = (len(SIZES) + 1) * len(labelled.groups)
            kind = mark_kind(AT_A_PLACE, 3, (0, 0))
            found[group.finding] = films.controls.least(kind, number, share, films.rate / tests)
    return found


def _notes(prepared: Prepared) -> tuple[str, ...]:
    cohort, labelled = prepared.films.cohort, prepared.films.labelled
    notes = list(said(cohort.notes))
    if copies := prepared.copies:
        films = "1 film is" if copies == 1 else f"{copies:,} films are"
        notes.append(
            f"{films} identical to another film in every pixel; identical films count once"
        )
    if not labelled.groups:
        notes.append("no labels: repeated marks are listed, but can't be tested for poison")
    elif len(cohort.findings) == 1:
        notes.append("one finding: label vectors weren't tested, since they equal the finding")
    if labelled.patient_count == len(cohort):
        notes.append("each patient has one film, or patients are unknown")
    if min(prepared.films.seen.shape[1:]) < LEAST_SIDE:
        notes.append(
            f"associations of single pixels weren't tested: they need films of {LEAST_SIDE} pixels"
        )
    if cohort.images.dtype == np.uint16:
        notes.append("only the upper 8 of 16 bits were scanned")
    return tuple(notes)
