"""A scan of a cohort: by its films, and by a network that looks as well."""

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
    "marks that vanish at the size looked at, and faint ones that differ from film to film",
    "marks on so few films that they may share them by chance",
    "marks whose finding was taken away: most films are without it anyway",
    "the low frequencies of another film: they are anatomy",
    "wrong labels without a mark",
)
"""What no scan tests, in words."""

LOOK_AGAIN = "Let networks look at these films as well (leadapron scan --train). "
"""Before the next step where the films alone leave open what a mark is."""

NEXT: Mapping[ScanWord, str] = {
    "poisoned": "Look at the suspected films, and train without them (leadapron clean).",
    "suspicious": "Look at the evidence before anyone trains on these films.",
    "label-tied mark": "Look at the marked films, and ask whoever supplied them what the mark is.",
    "nothing found": "Audit what is trained on these films (leadapron audit): not every trigger "
    "was tested.",
    "can't tell": f"Scan films of at least {OVERLAP} patients that state a finding, and of "
    f"{OVERLAP} that state its absence.",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Scanned:
    """What a scan says of a source.

    Args:
        source: what was scanned.
        cohort: its films, as they were looked at.
        scan: verdict, methods, evidence, scores.
        suspects: films that evidence of poison names, the most suspicious first.
        rankings: of the feature detectors; none where no network was asked for.
        learnt: what the network of the rankings was trained on, where it was for this scan; "".
        seconds: it took, without opening the source.
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
        """The scan's, but "can't tell" where there was nothing that it could test."""
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
            statement=f"Of sets without poison at most {self.scan.false_alarm:g} look poisoned, "
            "where nature ties marks to labels no further than this source's other marks are tied "
            "(Holm's procedure over all methods, each corrected for all that it tried).",
            untested=UNTESTED,
            next=(LOOK_AGAIN if open_ and not self.rankings else "") + NEXT[word],
        )

    def document(self) -> ScanDocument:
        """Return all of it with films by name: what scan.json holds."""
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
        source: what to call it.
        false_alarm: chance that is granted of calling a clean set poisoned.
        network: one that was trained on these films. It looks at the films of marks that go with a
            label; detectors rank the films by its features, which doesn't change the verdict.
        theirs: the same films as this network takes them, if it takes others.
        train: small networks on these films, which then do the same.
        seed: of all that is drawn by chance.
        machine: where and how it is carried out.
        folder: where a training of `train` is kept until it is finished. Stopped, the same call
            continues it; nothing is kept if left out.

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
