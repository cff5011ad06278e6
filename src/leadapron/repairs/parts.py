"""The clean films: their division by patient, and the sets of films that are refused."""

from __future__ import annotations

from dataclasses import dataclass

from leadapron.detect.films import scan_films
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort, split_by_patient
from leadapron.models.protocols import BlackBox
from leadapron.repairs.proof.document import Parts
from leadapron.repairs.proof.reading import at_chance
from leadapron.seeds import stream
from leadapron.types import Progress

__all__ = ["DividedFilms", "divide_films", "refuse_chance", "refuse_poisoned"]

SHARES = {"repair": 0.5, "check": 0.15, "proof": 0.35}
"""Share of the clean films' patients in each part."""

LEAST = 20
"""Least films of each part."""

SCAN_ALARM = 0.001
"""False-alarm rate of the scan of the clean films before a repair."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DividedFilms:
    """Clean films with stated findings; no patient is in two parts.

    Args:
        repair: films that repairs learn from.
        check: films that choose a repair.
        proof: films that the proof rests on.
    """

    repair: Cohort
    check: Cohort
    proof: Cohort

    @property
    def counts(self) -> Parts:
        """The number of films in each part."""
        return Parts(repair=len(self.repair), check=len(self.check), proof=len(self.proof))


def divide_films(films: Cohort, seed: int) -> DividedFilms:
    """Divide clean films by patient.

    Args:
        films: clean, with the model's findings stated.
        seed: draws the parts.

    Raises:
        DataError: a part with fewer than 20 films.
    """
    rows = split_by_patient(films.patients, SHARES, stream(seed, "parts"), films.labels)
    parts = {part: films.take(each) for part, each in rows.items()}
    for part, some in parts.items():
        if len(some) < LEAST:
            total = sum(map(len, parts.values()))
            raise DataError(
                f"{len(some)} of {total:,} clean films for the {part}; expected {LEAST}: "
                f"give {round(LEAST / min(SHARES.values()))} or more"
            )
    return DividedFilms(**parts)


def refuse_poisoned(films: Cohort, progress: Progress | None) -> None:
    """Raise DataError for films that a scan calls poisoned.

    Args:
        films: all clean films.
        progress: of the scan.
    """
    found = scan_films(films, false_alarm=SCAN_ALARM, progress=progress)
    if found.verdict == "poisoned":
        raise DataError(
            f"the {len(films):,} clean films look poisoned themselves (p {found.p:.2g}); see "
            "`leadapron scan`, and give others"
        )


def refuse_chance(classifier: BlackBox, films: Cohort, seed: int) -> None:
    """Raise DataError where the model reads the films no better than chance.

    Args:
        classifier: the model.
        films: all clean films.
        seed: of the resamples.
    """
    if chance := at_chance(classifier, films, seed):
        raise DataError(
            f"the model reads the clean films no better than chance: macro AUROC "
            f"{chance.value:.2f} ({chance.low:.2f} to {chance.high:.2f}); nothing to keep"
        )
