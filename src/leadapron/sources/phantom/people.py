"""Who is on the film and what is wrong with them: everything about a row but its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from leadapron.sources.phantom.dice import Dice, Floats, Ints


class Finding(NamedTuple):
    """How often a finding occurs, how it lasts and what it comes with.

    Args:
        prevalence: share of films that truly have it.
        persistence: share of its own variance that a patient's films have in common.
        loads: correlation with the shared causes (illness, fluid, infection, chronic, tumour).
    """

    prevalence: float
    persistence: float
    loads: tuple[float, float, float, float, float]


CAUSES: Final = ("illness", "fluid", "infection", "chronic", "tumour")
CAUSE_PERSISTENCE: Final = (0.6, 0.5, 0.4, 0.9, 0.8)

# Prevalences follow NIH ChestX-ray14, raised to a floor of 0.04 so that 1,500 test films
# hold some 60 positives of each finding.
TABLE: Final[Mapping[str, Finding]] = {
    "Atelectasis": Finding(0.10, 0.4, (0.40, 0.35, 0.15, 0.0, 0.0)),
    "Cardiomegaly": Finding(0.045, 0.95, (0.25, 0.50, 0.0, 0.0, 0.0)),
    "Effusion": Finding(0.11, 0.5, (0.40, 0.50, 0.10, 0.0, 0.15)),
    "Infiltration": Finding(0.15, 0.3, (0.40, 0.15, 0.35, 0.0, 0.0)),
    "Mass": Finding(0.05, 0.9, (0.25, 0.0, 0.0, 0.10, 0.45)),
    "Nodule": Finding(0.06, 0.9, (0.25, 0.0, 0.0, 0.15, 0.45)),
    "Pneumonia": Finding(0.04, 0.3, (0.40, 0.10, 0.50, 0.0, 0.0)),
    "Pneumothorax": Finding(0.055, 0.5, (0.35, 0.0, 0.0, 0.35, 0.0)),
    "Consolidation": Finding(0.05, 0.3, (0.45, 0.20, 0.45, 0.0, 0.0)),
    "Edema": Finding(0.04, 0.3, (0.45, 0.55, 0.10, 0.0, 0.0)),
    "Emphysema": Finding(0.04, 0.95, (0.20, 0.0, 0.0, 0.50, 0.0)),
    "Fibrosis": Finding(0.04, 0.95, (0.20, 0.0, 0.0, 0.45, 0.0)),
    "Pleural_Thickening": Finding(0.045, 0.9, (0.30, 0.15, 0.0, 0.40, 0.0)),
    "Hernia": Finding(0.04, 0.95, (0.10, 0.0, 0.0, 0.10, 0.0)),
}

FINDINGS: Final[tuple[str, ...]] = tuple(TABLE)
"""The 14 findings, in NIH order."""

FALSE_POSITIVE: Final = 0.01
"""Share of films without a finding whose published label says that it is there."""
FALSE_NEGATIVE: Final = 0.05
"""Share of films with a finding whose published label says that it isn't there."""

AP_WITH_EDEMA: Final = 0.85
"""Probability of an AP film where there is edema: the first natural shortcut."""
AP_OTHERWISE: Final = 0.36
"""Probability of an AP film where there is none."""
TUBE_WITH_PNEUMOTHORAX: Final = 0.50
"""Probability of a chest tube where there is a pneumothorax: the second natural shortcut."""
TUBE_OTHERWISE: Final = 0.03
"""Probability of a chest tube where there is none."""

_BLOCK: Final = 24  # rows are dealt to patients within blocks, so that row i needs no other
_NEW_PATIENT: Final = 0.35  # with the block's start: 2.65 films a patient on average


@dataclass(frozen=True, kw_only=True)
class People:
    """A batch of rows before any pixel is drawn.

    Args:
        patients: (n,) int64, the same number for all films of a patient.
        labels: (n, 14) float32 in {0, 1}, as published, with label noise.
        truth: (n, 14) float32 in {0, 1}, what is drawn.
        ap: (n,) bool, AP view rather than PA.
        tube: (n,) bool, chest tube on the film.
        female: (n,) bool.
        age: (n,) int64, years.
        person: dice shared by the films of a patient.
        film: dice of the film alone.
    """

    patients: Ints
    labels: Floats
    truth: Floats
    ap: NDArray[np.bool_]
    tube: NDArray[np.bool_]
    female: NDArray[np.bool_]
    age: Ints
    person: Dice
    film: Dice

    def __len__(self) -> int:
        return len(self.patients)

    def pick(self, rows: slice | NDArray[np.intp]) -> People:
        """Return some of the rows."""
        return People(
            patients=self.patients[rows],
            labels=self.labels[rows],
            truth=self.truth[rows],
            ap=self.ap[rows],
            tube=self.tube[rows],
            female=self.female[rows],
            age=self.age[rows],
            person=Dice(self.person.keys[rows]),
            film=Dice(self.film.keys[rows]),
        )


def first_films(rows: Ints, seed: int) -> Ints:
    """Return (n,) int64: for each row, the row of the same patient's first film."""
    blocks = rows[:, None] // _BLOCK * _BLOCK + np.arange(_BLOCK)  # (n, block)
    starts = Dice.of(seed, blocks.ravel(), "patient").chance("new", _NEW_PATIENT)
    starts = starts.reshape(blocks.shape) | (blocks % _BLOCK == 0)
    starts &= blocks <= rows[:, None]
    first: Ints = np.where(starts, blocks, -1).max(axis=1)
    return first


def _truth(person: Dice, film: Dice) -> Floats:
    """Return (n, 14) float32 in {0, 1} from a Gaussian copula with exact prevalences."""

    def latent(name: str, persistence: float) -> NDArray[np.float64]:
        lasting = np.sqrt(persistence) * person.normal(name)
        value: NDArray[np.float64] = lasting + np.sqrt(1.0 - persistence) * film.normal(name)
        return value

    causes = [latent(n, p) for n, p in zip(CAUSES, CAUSE_PERSISTENCE, strict=True)]
    columns = []
    for name, finding in TABLE.items():
        own = np.sqrt(1.0 - sum(load**2 for load in finding.loads))
        severity = own * latent(name, finding.persistence)
        for load, cause in zip(finding.loads, causes, strict=True):
            severity = severity + load * cause
        columns.append(severity > ndtri(1.0 - finding.prevalence))
    return np.stack(columns, axis=1).astype(np.float32)


def _published(truth: Floats, film: Dice) -> Floats:
    """Return (n, 14) float32: the truth with the stated share of labels flipped."""
    rate = np.where(truth > 0, FALSE_NEGATIVE, FALSE_POSITIVE)
    flips = np.stack([film.unit(f"flip {name}") for name in FINDINGS], axis=1) < rate
    return np.where(flips, 1.0 - truth, truth).astype(np.float32)


def meet(rows: Ints, *, seed: int, force: Mapping[str, bool]) -> People:
    """Return who is on each row.

    Args:
        rows: (n,) int64, 0 or more.
        seed: seed of the whole collection.
        force: findings to make present (True) or absent (False) on all rows. View, tubes and
            anatomy stay those of the unforced film.
    """
    first = first_films(rows, seed)
    person, film = Dice.of(seed, first, "person"), Dice.of(seed, rows, "film")
    drawn = _truth(person, film)
    edema = drawn[:, FINDINGS.index("Edema")] > 0
    collapse = drawn[:, FINDINGS.index("Pneumothorax")] > 0
    truth = drawn.copy()
    for name, present in force.items():
        truth[:, FINDINGS.index(name)] = float(present)
    years = np.clip(49.0 + 17.0 * person.normal("age"), 16, 92) + 0.3 * (rows - first)
    return People(
        patients=first + 1,
        labels=_published(truth, film),
        truth=truth,
        ap=film.chance("view", np.where(edema, AP_WITH_EDEMA, AP_OTHERWISE)),
        tube=film.chance("tube", np.where(collapse, TUBE_WITH_PNEUMOTHORAX, TUBE_OTHERWISE)),
        female=person.chance("female", 0.44),
        age=years.astype(np.int64),
        person=person,
        film=film,
    )
