"""A linear classifier of films at low resolution: does a film's label fit its anatomy?

Films are reduced to 16 x 16 cells, and a linear reader learns to distinguish the films of a group
from the others. It sees the chest's shape, its density and the acquisition, but hardly a mark of a
few pixels; the cells that a mark touches are hidden from it. If the classes can be distinguished
at this resolution, a mislabelled film is recognised: its label contradicts its anatomy. Readings
are held-out: each film is read by a reader that was trained on other patients' films, and films
with the mark train no reader.

A network, if there is one, may read the films as well (`SecondLook`). It sees more of the chest
and follows the same rules. This module runs no network.

Source: cross-fitting as Chernozhukov and others, The Econometrics Journal 21 (2018) C1; ridge
regression, Hoerl and Kennard, Technometrics 12 (1970) 55.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

from leadapron.detect.films.observe import CELLS, cell_edges
from leadapron.detect.films.shift import Labelled
from leadapron.detect.scores import SeenBy
from leadapron.films.cohort import Rows

__all__ = ["FEWEST", "Hidden", "Look", "Reader", "SecondLook", "calibrated"]

Floats = NDArray[np.float64]
Place = tuple[int, int, int]

PARTS = 4
"""Number of folds of the cross-fitting, by patient."""

RIDGE = 0.05
"""Penalty of the ridge regression, as a share of the features' mean variance."""

FEWEST = 20
"""Fewest training films of a reader inside a group, and outside."""

TAUGHT = 0.75
"""Smallest share of the stated films that a reader is trained on. A mark on all the others may be
on most films of a machine or a ward, and a reader trained without these can't read them."""

STEPS = 25
"""Most steps of Newton's method."""

SURE = 0.005
"""Smallest distance of a reading from 0 and from 1."""

EVENTS = 10
"""Fewest films of the rarer class for each parameter of a logistic regression.

Source: Peduzzi and others, Journal of Clinical Epidemiology 49 (1996) 1373.
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Hidden:
    """Films and squares that are hidden from a network.

    Squares are hidden on all films, with a mark or without, so that a hidden square doesn't reveal
    a mark.

    Args:
        films: (m,) rows that carry any of the marks, ascending. They are read but train nothing.
        places: (p, 3) row, column and side of squares in pixels, hidden on all films.
        own: (s, 4) film, row, column and side of squares that are hidden on one film.
    """

    films: Rows
    places: NDArray[np.int64]
    own: NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Look:
    """A network's held-out predictions.

    Args:
        logits: (n, k) of each film, from a network trained neither on the film's patient nor on
            any film with a mark. A column is NaN if nothing could be learnt.
        findings: the k findings.
        seen_by: the kind of the network.
        notes: the reasons, if there are no predictions.
    """

    logits: Floats
    findings: tuple[str, ...]
    seen_by: SeenBy
    notes: tuple[str, ...] = ()


class SecondLook(Protocol):
    """A network that reads the films once the marks to hide from it are known."""

    def __call__(self, hidden: Hidden) -> Look:
        """Return the network's predictions for all films."""
        ...


class Reader:
    """Reader of films at low resolution, for one group after another.

    Args:
        features: (n, d) of the films, as `observe.from_afar`.
        cells: (d,) cell that each feature describes, 0 to 255; -1 for features of the whole film.
        shape: height and width of the films in pixels.
        labelled: their labels and patients.
        rng: divides the patients into folds.
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        cells: Rows,
        shape: tuple[int, int],
        labelled: Labelled,
        rng: np.random.Generator,
    ) -> None:
        self.labelled, self._shape, self._cells = labelled, shape, cells
        self._look: Look | None = None
        strata = np.eye(int(labelled.strata.max()) + 1)[labelled.strata][:, 1:]
        seen = np.concatenate([features, strata], axis=1, dtype=np.float64)
        seen = (seen - seen.mean(axis=0)) / np.maximum(seen.std(axis=0), 1e-6)
        self._features = np.concatenate([seen, np.ones((len(seen), 1))], axis=1)
        self._part = (rng.permutation(labelled.patient_count) % PARTS)[labelled.patients]
        self._rows = [np.flatnonzero(self._part == part) for part in range(PARTS)]
        self._films = [self._features[rows] for rows in self._rows]
        # Sums over all films: one reading subtracts only the few films that it leaves out.
        self._grams = np.stack([films.T @ films for films in self._films])
        self._moments: dict[int, Floats] = {}

    @property
    def seen_by(self) -> SeenBy:
        """The kind of the reader."""
        return "from afar" if self._look is None else self._look.seen_by

    def with_network(self, look: Look) -> Reader:
        """Return a reader that uses a network's predictions as well."""
        other = copy.copy(self)
        other._look = look
        return other

    def read(self, group: int, marked: Rows, places: Sequence[Place] = ()) -> Floats | None:
        """Return the predicted probability that each film is in a group, from its appearance.

        Args:
            group: number of the group.
            marked: films left out of the training.
            places: row, column and side of marks, hidden from all readers.

        Returns:
            (n,) held-out predictions, 0 to 1. None if there are too few films to learn from, or if
            the network has no output for the group.
        """
        teaches = self.labelled.stated[:, group].copy()
        stated = int(teaches.sum())
        teaches[marked] = False
        if teaches.sum() < TAUGHT * stated:
            return None
        inside = self.labelled.members[:, group] & teaches
        kept = self._kept(places)
        learning = np.bincount(self._part[teaches], minlength=PARTS)
        members = np.bincount(self._part[inside], minlength=PARTS)
        slopes = np.zeros((PARTS, self._features.shape[1]))
        moments = self._moment(group)
        for part in range(PARTS):
            others = np.arange(PARTS) != part
            n, k = learning[others].sum(), members[others].sum()
            if min(k, n - k) < FEWEST:
                return None
            left_out = self._features[~teaches & (self._part != part)]
            wanted = self.labelled.members[~teaches & (self._part != part), group]
            gram = self._grams[others].sum(axis=0) - left_out.T @ left_out
            moment = moments[others].sum(axis=0) - wanted @ left_out
            penalty = np.full(len(gram), RIDGE * n)
            penalty[-1] = 1e-9  # the constant
            gram[np.diag_indices_from(gram)] += penalty
            slopes[part, kept] = linalg.solve(
                gram[np.ix_(kept, kept)], moment[kept], assume_a="pos", check_finite=False
            )
        scores = np.empty(len(teaches))
        for rows, films, slope in zip(self._rows, self._films, slopes, strict=True):
            scores[rows] = films @ slope
        if self._look is None:
            return calibrated(scores[:, None], inside, teaches)
        rarer = min(int(inside.sum()), int(teaches.sum() - inside.sum()))
        columns = self._columns(self._look, group, rarer // EVENTS - 1)
        if not columns:
            return None
        both = np.concatenate([scores[:, None], self._look.logits[:, columns]], axis=1)
        return calibrated(both, inside, teaches)

    def _columns(self, look: Look, group: int, most: int) -> list[int]:
        """The network's columns that are informative for a group."""
        known = np.flatnonzero(np.isfinite(look.logits).all(axis=0)).tolist()
        one = self.labelled.groups[group]
        own = [column for column in known if look.findings[column] == one.finding]
        if one.direction in ("added", "removed"):
            return own
        # For a label vector the other findings count as well.
        return known if len(known) <= most else own

    def _moment(self, group: int) -> Floats:
        """(parts, features): sums over the group's films."""
        if group not in self._moments:
            members = self.labelled.members[:, group].astype(np.float64)
            self._moments[group] = np.stack(
                [members[rows] @ films for rows, films in zip(self._rows, self._films, strict=True)]
            )
        return self._moments[group]

    def _kept(self, places: Sequence[Place]) -> NDArray[np.bool_]:
        kept = np.ones(self._features.shape[1], dtype=np.bool_)
        cells = np.zeros((CELLS, CELLS), dtype=np.bool_)
        for *starts, side in places:
            touched = []
            for start, length in zip(starts, self._shape, strict=True):
                edges = cell_edges(length)
                touched.append((edges[1:] > start - 1) & (edges[:-1] < start + side + 1))
            cells[np.ix_(*touched)] = True
        kept[: len(self._cells)] = (self._cells < 0) | ~cells.ravel()[self._cells]
        return kept


def calibrated(scores: Floats, inside: NDArray[np.bool_], teaches: NDArray[np.bool_]) -> Floats:
    """Return scores as probabilities, by a logistic regression.

    Args:
        scores: (n, m), m scores of each film.
        inside: (n,) whether a film is in the group.
        teaches: (n,) whether a film is used for training.

    Returns:
        (n,) probabilities of all films, 0.005 to 0.995.

    Source: Platt, in Advances in Large Margin Classifiers (1999).
    """
    known, target = scores[teaches], inside[teaches].astype(np.float64)
    middle, spread = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-9)
    design = np.concatenate([np.ones((len(scores), 1)), (scores - middle) / spread], axis=1)
    some, penalty = design[teaches], 1e-6 * len(known)
    beta = np.zeros(design.shape[1])
    for _ in range(STEPS):
        chance = special.expit(some @ beta)
        hessian = (some * (chance * (1 - chance))[:, None]).T @ some + penalty * np.eye(len(beta))
        step = np.linalg.solve(hessian, some.T @ (target - chance) - penalty * beta)
        beta += step
        if np.abs(step).max() < 1e-8:
            break
    read: Floats = special.expit(design @ beta)
    return np.clip(read, SURE, 1 - SURE)
