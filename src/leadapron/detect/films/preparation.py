"""The input of a scan's methods: observations, groups of labels, marks and readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.marks import mark_kind
from leadapron.detect.films.method import FilmMethod, Films, Mark, MarkMethod
from leadapron.detect.films.observe import CELLS, TRACES, Observed
from leadapron.detect.films.reader import Reader
from leadapron.detect.films.shift import Labelled
from leadapron.detect.films.ties import Control, Controls
from leadapron.films.cohort import Cohort
from leadapron.seeds import stream

__all__ = ["Prepared", "prepare"]


class Prepared(NamedTuple):
    """Films, ready to be scanned.

    Args:
        films: the input of any method, without its own marks.
        marks: by the method that listed them.
        copies: number of films that are copies of another film.
    """

    films: Films
    marks: Mapping[str, tuple[Mark, ...]]
    copies: int

    def of(self, method: str) -> Films:
        """Return the films for one method."""
        return replace(self.films, marks=self.marks.get(method, ()))


def prepare(
    cohort: Cohort,
    seen: Observed,
    methods: Mapping[str, FilmMethod],
    *,
    false_alarm: float,
    seed: int,
) -> Prepared:
    """Prepare films for the methods of a scan.

    Args:
        cohort: the films and their labels.
        seen: observations of the films.
        methods: all methods of the scan, by name.
        false_alarm: allowed false-alarm rate, 0 to 1: the probability that a clean set is called
            poisoned.
        seed: of all random draws.
    """
    patients, copies = _patients(cohort, seen)
    cohort = replace(cohort, patients=patients)
    labelled = Labelled(cohort)
    marks = {
        name: _marks(name, method, seen, labelled)
        for name, method in methods.items()
        if isinstance(method, MarkMethod)
    }
    controls = Controls(
        [mark.control for some in marks.values() for mark in some],
        labelled,
        *_readers(seen, labelled, seed),
    )
    films = Films(
        cohort=cohort,
        seen=seen,
        labelled=labelled,
        controls=controls,
        methods=len(methods),
        false_alarm=false_alarm,
        seed=seed,
    )
    return Prepared(films, marks, copies)


def _patients(cohort: Cohort, seen: Observed) -> tuple[NDArray[np.str_], int]:
    """Each film's patient, and the number of copies; a copy belongs to its original's patient.

    A copy isn't an independent observation: without this rule, joining a source with itself would
    make anything significant. The other films of a copy's patient keep their patient, so an
    attacker can't merge patients by planting copies.
    """
    afar = np.ascontiguousarray(seen.afar)
    rows = afar.view(np.dtype((np.void, afar.strides[0]))).ravel()
    _, alike = np.unique(rows, return_inverse=True)
    patients, copies = cohort.patients.copy(), 0
    order = np.argsort(alike, kind="stable")
    for some in np.split(order, np.flatnonzero(np.diff(alike[order])) + 1):
        if len(some) < 2:
            continue
        first = dict[bytes, int]()
        for row, image in zip(some.tolist(), np.asarray(cohort.images[some]), strict=True):
            original = first.setdefault(image.tobytes(), row)
            copies += original != row
            patients[row] = cohort.patients[original]
    return patients, copies


def _marks(name: str, method: MarkMethod, seen: Observed, labelled: Labelled) -> tuple[Mark, ...]:
    """Repeated marks, each with its films' labels."""
    return tuple(
        Mark(
            repeat,
            Control(
                kind=mark_kind(name, repeat.side, repeat.levels),
                films=repeat.films,
                place=None
                if repeat.row is None or repeat.column is None
                else (repeat.row, repeat.column, repeat.side),
                counts=labelled.counts(repeat.films),
            ),
        )
        for repeat in method.marks(seen, labelled.patients)
    )


def _readers(seen: Observed, labelled: Labelled, seed: int) -> tuple[Reader | None, Reader | None]:
    """A reader of films at low resolution, and a reader of their acquisition and storage."""
    if not labelled.groups:
        return None, None
    cells = np.arange(CELLS**2)
    rows, columns = np.divmod(cells, CELLS)
    edges = (0, CELLS - 1)
    border = cells[np.isin(rows, edges) | np.isin(columns, edges)]
    traces = [seen.traces[name] for name in TRACES]
    taken = np.concatenate([*traces, seen.afar[:, border]], axis=1)
    whole = np.full(taken.shape[1] - len(border), -1)
    return (
        Reader(seen.afar, cells, seen.shape[1:], labelled, stream(seed, "reader")),
        Reader(
            taken,
            np.concatenate([whole, border]),
            seen.shape[1:],
            labelled,
            stream(seed, "acquisition"),
        ),
    )
