"""Networks trained with and without dropped films, and their comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.detect.films.cleaned import Mark, Retrained
from leadapron.detect.films.document import NamedEvidence, ScanDocument
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.training import Training, train
from leadapron.seeds import stream
from leadapron.study.run import divide
from leadapron.types import Machine

__all__ = ["compare_retrained"]

EPOCHS = 6
"""Epochs of both trainings."""


def compare_retrained(
    cohort: Cohort,
    dropped: NDArray[np.bool_],
    scan: ScanDocument | None,
    *,
    seed: int,
    machine: Machine,
) -> Retrained:
    """Train with and without the dropped films, and measure both on films that aren't dropped.

    Args:
        cohort: all films.
        dropped: (n,) whether a film is dropped.
        scan: a scan of these films at this size, if there is one; both networks are tested with its
            suspected marks.
        seed: seed of the networks, and of the split if the films have none.
        machine: device, precision, cache and progress.

    Raises:
        DataError: no test film is left.
    """
    evidence = _evidence(scan, cohort)
    names = cohort.ids[dropped]
    parts = divide(cohort, seed)
    left = {name: ~np.isin(part.ids, names) for name, part in parts.items()}
    test = parts["test"].take(left["test"])
    validation = parts["validation"].take(left["validation"])
    if not len(test):
        raise DataError("no test film is left to compare networks on")

    def trained(films: Cohort, when: str) -> NetworkClassifier:
        words = f"training {when} dropping"
        return train(
            films,
            validation,
            training=Training(epochs=EPOCHS),
            seed=seed,
            **machine.networks,
            after_step=lambda done, total: machine.tell(words, done, total),
        )[0]

    all_films, fewer = parts["train"], parts["train"].take(left["train"])
    networks = trained(all_films, "before"), trained(fewer, "after")
    bootstrap = metrics.PatientBootstrap.draw(test.patients, stream(seed, "bootstrap"))
    before, after = (
        metrics.macro_auroc(test.labels, network.logits(test.images), bootstrap)
        for network in networks
    )
    marks, notes = list[Mark](), list[str]()
    for one in evidence:
        mark = _tried(one, cohort, test, networks)
        if mark is None:
            notes.append(f"not tested, since no test film could show it: {one.words}")
        else:
            marks.append(mark)
    if not evidence:
        notes.append(
            "no suspected mark was tested: no scan.json of this image size next to the list has "
            "a mark with a place and a finding"
        )
    return Retrained(
        films=(len(all_films), len(fewer)),
        test=len(test),
        findings=(before.averaged, after.averaged),
        before=before.estimate,
        after=after.estimate,
        marks=tuple(marks),
        notes=tuple(notes),
    )


def _evidence(scan: ScanDocument | None, cohort: Cohort) -> list[NamedEvidence]:
    """Evidence of poison with a place and a finding, from a scan of these films at this size."""
    if scan is None or scan.image != cohort.images.shape[1:]:
        return []
    return [one for one in scan.poison if _usable(one, cohort)]


def _usable(one: NamedEvidence, cohort: Cohort) -> bool:
    """Whether it has a place in these images and a finding of these films."""
    if one.place is None or one.finding not in cohort.findings:
        return False
    row, column, side = one.place
    height, width = cohort.images.shape[1:]
    return min(one.place) >= 0 and 0 < side <= min(height - row, width - column)


def _tried(
    one: NamedEvidence,
    cohort: Cohort,
    test: Cohort,
    networks: tuple[NetworkClassifier, NetworkClassifier],
) -> Mark | None:
    """Stamp the evidence's mark (the median of its films at its place) on test films.

    Films without the finding are stamped, or films with it if the mark is suspected to remove it.
    """
    assert one.place is not None  # checked by `_usable`
    assert one.finding is not None
    row, column, side = one.place
    square = np.s_[:, row : row + side, column : column + side]
    named = np.flatnonzero(np.isin(cohort.ids, np.asarray(one.films, dtype=np.str_)))
    target, hides = cohort.column(one.finding), one.direction == "removed"
    victims = test.take(test.labels[:, target] == (1 if hides else 0))
    if not len(named) or not len(victims):
        return None
    plain: NDArray[Any] = victims.images[np.arange(len(victims))]
    mark = np.median(cohort.images[named][square], axis=0).astype(plain.dtype)
    stamped = plain.copy()
    stamped[square] = mark
    sign = -1 if hides else 1
    found = []
    for network in networks:
        unmarked, marked = (
            sign * network.logits(images)[:, target].astype(np.float64)
            for images in (plain, stamped)
        )
        threshold = metrics.threshold_at_false_positive_rate(unmarked, metrics.FALSE_POSITIVES)
        found.append(metrics.attack_success(marked, threshold, victims.patients))
    return Mark(
        finding=one.finding,
        direction=one.direction,
        place=(row, column, side),
        before=found[0],
        after=found[1],
    )
