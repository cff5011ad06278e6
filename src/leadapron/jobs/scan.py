"""Scan: is a data set poisoned, which of its films, where in them, towards which finding?"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films import Scan, scan_films
from leadapron.detect.films.document import (
    NamedRanking,
    ScanDocument,
    Suspect,
    named_evidence,
    ranked_films,
    suspects_of,
    verdict_of,
)
from leadapron.detect.second_look import given_network, trained_network
from leadapron.detect.verdict import Verdict
from leadapron.documents import dump
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort, Rows, blocks
from leadapron.jobs.rankings import Ranking, ranked_by, ranked_by_training
from leadapron.report.scan import Panel, write_scan
from leadapron.seeds import stream
from leadapron.sources import open_source
from leadapron.sources.own_pixels import allowing_leakage, open_own_pixels
from leadapron.specs import forgiving
from leadapron.store import write_atomically, write_json
from leadapron.text import quoted_cell
from leadapron.types import AUTO, Machine

if TYPE_CHECKING:
    from leadapron.models.protocols import WhiteBox

__all__ = [
    "Scanned",
    "open_network",
    "panels_of",
    "scan",
    "scan_cohort",
    "write_scanned",
]

FALSE_ALARM = 0.01
"""Chance that is granted of calling a clean set poisoned."""

PANELS = 6
"""Pieces of evidence that are drawn, and films and others for each."""

DRAWN = (12, 6)


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
        return verdict_of(self.scan, self.cohort, network=bool(self.rankings))

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
def scan(
    source: str,
    *,
    size: int | None = None,
    false_alarm: float = FALSE_ALARM,
    model: str | None = None,
    opening: Mapping[str, Any] | None = None,
    train: bool = False,
    out: Path | None = None,
    seed: int = 0,
    machine: Machine = AUTO,
    **options: Any,
) -> Scanned:
    """Say whether a source's films are poisoned: which, where in them, towards which finding.

    A split that shares patients, which other jobs refuse, is scanned all the same.

    Args:
        source: where films come from, as "phantom:64" or "nih:PATH".
        size: side of the images in pixels; the films' own, up to 224, if left out.
        false_alarm: chance that is granted of calling a clean set poisoned.
        model: a network that was trained on these films. It looks at the films of marks that go
            with a label; detectors rank the films by its features, which doesn't change the
            verdict.
        opening: further options of `open_model`: findings, normalisation's name, weights_key, ...
        train: train small networks on these films, which then do the same. Stopped, the same
            call with `out` continues the last and longest of these trainings.
        out: a folder for films.csv, scan.json and the page scan.html; nothing is written if left
            out.
        seed: of all that is drawn by chance.
        machine: where and how it is carried out.
        **options: the source's settings.

    Raises:
        UsageError: settings that contradict each other or are out of range.
        DataError: fewer than 10 films, or films smaller than 16 x 16 pixels.
        LeadapronError: as `open_source` and `open_model`.
    """
    if model is not None and train:
        raise UsageError("`model` and `train`: expected one of them")
    said = {name: value for name, value in (opening or {}).items() if value}
    if model is None and said:
        named = ", ".join(f"`{name}`" for name in sorted(said))
        raise UsageError(f"{named}: said of a model, and there is no `model`")
    network = None if model is None else open_network(model, said, machine)
    cohort = open_own_pixels(source, size=size, machine=machine, **options)
    theirs = None
    if network is not None and network.preprocessing != cohort.preprocessing:
        theirs = open_source(
            source,
            preprocessing=network.preprocessing,
            **machine.films,
            **allowing_leakage(source, options),
        )
    found = scan_cohort(
        cohort,
        source,
        false_alarm=false_alarm,
        network=network,
        theirs=theirs,
        train=train,
        seed=seed,
        machine=machine,
        folder=out,
    )
    if out is not None:
        write_scanned(out, found, seed)
    return found


@forgiving
def scan_cohort(
    cohort: Cohort,
    source: str = "",
    *,
    false_alarm: float = FALSE_ALARM,
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
        false_alarm: as `scan`.
        network: one that was trained on these films, as `scan`.
        theirs: the same films as this network takes them, if it takes others.
        train: as `scan`.
        seed: as `scan`.
        machine: as `scan`.
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


def write_scanned(folder: Path, found: Scanned, seed: int = 0) -> Path:
    """Write films.csv, scan.json and scan.html, and return the page's path.

    Args:
        folder: made where it is missing; files of these names are replaced.
        found: the scan.
        seed: of the films that are drawn beside the suspected ones.

    Raises:
        StoreError: files that can't be written.
    """
    document = found.document()
    write_json(folder / "scan.json", dump(document))
    _write_films(folder / "films.csv", found.suspects)
    return write_scan(folder / "scan.html", document, panels_of(found, seed))


# --- films.csv


def _write_films(path: Path, suspects: Sequence[Suspect]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["rank", "id", "path", "score", "finding", "row", "column", "reasons"])
    for one in suspects:
        place = ["" if each is None else each for each in (one.row, one.column)]
        words = [quoted_cell(each) for each in (one.id, one.path, one.finding)]
        reasons = quoted_cell("; ".join(one.reasons))
        table.writerow([one.rank, *words[:2], f"{one.score:.2f}", words[2], *place, reasons])
    with write_atomically(path) as file:
        # Paths that aren't UTF-8 can't be written as they are.
        file.write(text.getvalue().encode(errors="backslashreplace"))


# --- networks


def open_network(model: str, said: Mapping[str, Any], machine: Machine) -> WhiteBox:
    """Return a model that shows its features.

    Args:
        model: as `open_model`.
        said: further options of it.
        machine: where it runs.

    Raises:
        UsageError: one that only answers.
        LeadapronError: as `open_model`.
    """
    from leadapron.models.foreign import open_model
    from leadapron.models.protocols import WhiteBox

    classifier = open_model(model, **machine.networks, **said).classifier
    if not isinstance(classifier, WhiteBox):
        raise UsageError(
            f"`model` {model} can only be asked for its findings and shows no features; expected a "
            "network whose weights leadapron reads, or `train`"
        )
    return classifier


# --- pixels of the report


@dataclass
class _Sums:
    """Sums of films as they go by."""

    films: int = 0
    pixels: NDArray[np.float64] | float = field(default=0.0)

    def add(self, images: NDArray[np.uint8]) -> None:
        self.films += len(images)
        self.pixels = self.pixels + images.sum(axis=0, dtype=np.float64)

    def mean(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        mean: NDArray[np.float64] = np.broadcast_to(self.pixels, shape) / max(self.films, 1)
        return np.rint(mean).astype(np.uint8)


def panels_of(found: Scanned, seed: int) -> list[Panel]:
    """Return pixels for each piece of evidence of poison; all films are read once."""
    cohort = found.cohort
    poison = [one for one in found.scan.evidence if one.kind == "poison"][:PANELS]
    if not poison:
        return []
    named = np.zeros((len(poison), len(cohort)), dtype=np.bool_)
    for number, one in enumerate(poison):
        named[number, one.films] = True
    sums = [(_Sums(), _Sums()) for _ in poison]
    for rows in blocks(len(cohort)):
        images = _grey(cohort, rows)
        for (theirs, rest), here in zip(sums, named[:, rows], strict=True):
            theirs.add(images[here])
            rest.add(images[~here])
    panels = []
    for number, one in enumerate(poison):
        order = np.lexsort((one.films, -found.scan.scores[one.films]))
        films: Rows = one.films[order][: DRAWN[0]]
        free = np.flatnonzero(~named.any(axis=0))
        others = np.sort(stream(seed, "others", number).permutation(free)[: DRAWN[1]])
        top, left, height, width = _window(one.place, cohort.images.shape[1:])
        cut = np.s_[..., top : top + height, left : left + width]
        mean, other_mean = (each.mean(cohort.images.shape[1:]) for each in sums[number])
        panels.append(
            Panel(
                place=one.place,
                window=(top, left, height, width),
                named=mean,
                others=other_mean,
                films=_grey(cohort, films)[cut],
                ids=tuple(cohort.ids[films].tolist()),
                other_films=_grey(cohort, others)[cut],
            )
        )
    return panels


def _grey(cohort: Cohort, rows: Rows) -> NDArray[np.uint8]:
    images: NDArray[Any] = cohort.images[rows]
    return (images >> 8).astype(np.uint8) if images.dtype == np.uint16 else images


def _window(place: tuple[int, int, int] | None, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is cut out around a mark; all of it without one."""
    height, width = shape
    if place is None:
        return 0, 0, height, width
    row, column, side = place
    wide = min(max(16, 4 * side), height, width)
    top = int(np.clip(row + side // 2 - wide // 2, 0, height - wide))
    left = int(np.clip(column + side // 2 - wide // 2, 0, width - wide))
    return top, left, wide, wide
