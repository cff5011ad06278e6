"""A scan of a cohort: of its films, and optionally with a network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leadapron.detect.films import Scan, scan_films
from leadapron.detect.films.document import (
    NamedRanking,
    ScanDocument,
    Suspect,
    named_evidence,
    ranked_films,
    suspects_of,
)
from leadapron.detect.films.ties import OVERLAP
from leadapron.detect.rankings import Ranking, ranked_by, ranked_by_training
from leadapron.detect.second_look import given_network, trained_network
from leadapron.detect.verdict import ScanWord, Verdict
from leadapron.films.cohort import Cohort
from leadapron.specs import forgiving
from leadapron.types import AUTO, Machine

if TYPE_CHECKING:
    from leadapron.models.protocols import WhiteBox

__all__ = ["Scanned", "scan_cohort"]

UNTESTED = (
    "marks that vanish at the scanned image size, and faint marks that differ between films",
    "marks on so few films that their labels may agree by chance",
    "marks that remove a finding: most films are without it anyway",
    "blended low frequencies of another film: they look like anatomy",
    "wrong labels without a mark",
)
"""Attacks that no scan tests."""

LOOK_AGAIN = "Scan these films with networks too (leadapron scan --train). "
"""Comes before the next step if the films alone don't decide what a mark is."""

NEXT: Mapping[ScanWord, str] = {
    "poisoned": "Review the suspected films, and train without them (leadapron clean).",
    "suspicious": "Review the evidence before anyone trains on these films.",
    "label-tied mark": "Review the marked films, and ask their supplier what the mark is.",
    "nothing found": "Audit models trained on these films (leadapron audit): not every trigger "
    "was tested.",
    "can't tell": f"Scan films of at least {OVERLAP} patients with a finding, and of {OVERLAP} "
    "patients whose films state its absence.",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Scanned:
    """Result of a scan of a source.

    Args:
        source: name of the scanned source.
        cohort: its films, as scanned.
        scan: verdict, methods, evidence, scores.
        suspects: films named by evidence of poison, the most suspicious first.
        rankings: rankings of the feature detectors; none without a network.
        learnt: films and epochs of a network that was trained for this scan; otherwise "".
        seconds: duration, without opening the source.
    """

    source: str
    cohort: Cohort
    scan: Scan
    suspects: tuple[Suspect, ...]
    rankings: tuple[Ranking, ...]
    learnt: str
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The scan's verdict, or "can't tell" if there was nothing to test."""
        comparable = any(
            all(len(np.unique(self.cohort.patients[column == side])) >= OVERLAP for side in (0, 1))
            for column in self.cohort.labels.T
        )
        word: ScanWord = self.scan.verdict
        if word == "nothing found" and not comparable:
            word = "can't tell"
        open_ = word in ("suspicious", "label-tied mark")
        return Verdict.of(
            "scan",
            word,
            p=self.scan.p,
            statement=f"At most {self.scan.false_alarm:g} of clean sets are called poisoned, if "
            "natural associations of marks with labels are no stronger than those of this source's "
            "other marks (Holm's procedure over all methods, each corrected for its own tests).",
            untested=UNTESTED,
            next=(LOOK_AGAIN if open_ and not self.rankings else "") + NEXT[word],
        )

    def document(self) -> ScanDocument:
        """Return the result with films by name, as in scan.json."""
        cohort, found = self.cohort, self.scan
        height, width = cohort.images.shape[1:]
        return ScanDocument(
            verdict=self.verdict,
            source=self.source,
            films=len(cohort),
            patients=len(np.unique(cohort.patients)),
            findings=cohort.findings,
            image=(int(height), int(width)),
            dtype=str(cohort.images.dtype),
            preprocessing=cohort.preprocessing,
            p=found.p,
            false_alarm=found.false_alarm,
            seconds=self.seconds,
            methods=found.methods,
            least=found.least,
            evidence=named_evidence(found.evidence, cohort),
            suspects=self.suspects,
            rankings=tuple(
                NamedRanking(
                    name=one.name,
                    unit=one.unit,
                    scored=int(np.isfinite(one.scores).sum()),
                    films=ranked_films(one.scores, cohort),
                    evidence=named_evidence(one.evidence, cohort),
                    notes=one.notes,
                )
                for one in self.rankings
            ),
            notes=(
                *found.notes,
                *([f"films are ranked by {self.learnt}"] if self.learnt else []),
            ),
        )


@forgiving
def scan_cohort(
    cohort: Cohort,
    source: str = "",
    *,
    false_alarm: float = 0.01,
    network: WhiteBox | None = None,
    theirs: Cohort | None = None,
    train: bool = False,
    seed: int = 0,
    machine: Machine = AUTO,
    folder: Path | None = None,
) -> Scanned:
    """Scan a cohort that is open.

    Args:
        cohort: the films.
        source: name of the source, for reports.
        false_alarm: false-positive rate: chance of calling a clean set poisoned.
        network: a network that was trained on these films. It tests the labels of films with marks
            that are associated with a label; detectors rank the films by its features, which
            doesn't change the verdict.
        theirs: the same films with this network's preprocessing, if it differs.
        train: train small networks on these films for the same purpose.
        seed: seed of all random draws.
        machine: device, precision, cache and progress.
        folder: keeps the state of a training of `train` until it is finished, so that the same call
            continues it after an interruption; nothing is kept if left out.

    Raises:
        UsageError: a false-alarm rate out of range.
        DataError: fewer than 10 films, or films smaller than 16 x 16 pixels.
    """
    began = time.perf_counter()
    look = None
    if network is not None:
        look = given_network(network, cohort, seed=seed, progress=machine.progress)
    elif train:
        look = trained_network(cohort, seed=seed, **machine.networks, progress=machine.progress)
    found = scan_films(
        cohort, false_alarm=false_alarm, seed=seed, look=look, progress=machine.progress
    )
    rankings, learnt = tuple[Ranking, ...](), ""
    if network is not None:
        own = cohort if theirs is None else theirs
        rankings = ranked_by(network, own, None, seed, machine)
    elif train:
        rankings, learnt = ranked_by_training(cohort, seed, machine, folder)
    return Scanned(
        source=source,
        cohort=cohort,
        scan=found,
        suspects=suspects_of(found, cohort),
        rankings=rankings,
        learnt=learnt,
        seconds=time.perf_counter() - began,
    )
