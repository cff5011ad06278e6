"""Scan: is a data set poisoned, which of its films, where in them, towards which finding?"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films import OVERLAP, Scan, SecondLook, scan_films
from leadapron.detect.scores import Evidence, LabelTie
from leadapron.detect.verdict import ScanWord, Verdict
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort, Rows, blocks
from leadapron.jobs.second_look import given_network, trained_network
from leadapron.report.scan import Panel, write_scan
from leadapron.seeds import stream
from leadapron.sources import open_source
from leadapron.sources.own_pixels import allowing_leakage, open_own_pixels
from leadapron.specs import forgiving
from leadapron.store import write_atomically, write_json
from leadapron.text import short_path
from leadapron.types import AUTO, Machine, Progress

if TYPE_CHECKING:
    from leadapron.models.protocols import WhiteBox

__all__ = [
    "Ranking",
    "Scanned",
    "Suspect",
    "plain_cell",
    "quoted_cell",
    "scan",
    "scan_cohort",
]

EPOCHS, WATCHED = 6, 3
"""Of the quick training: passes over the films, and those whose losses are kept."""

RANKED = 100
"""Films that a ranking names."""

PANELS = 6
"""Pieces of evidence that are drawn, and films and others for each."""

DRAWN = (12, 6)

UNTESTED = (
    "marks that vanish at the size looked at, and faint ones that differ from film to film",
    "marks on so few films that they may share them by chance",
    "marks whose finding was taken away: most films are without it anyway",
    "the low frequencies of another film: they are anatomy",
    "wrong labels without a mark",
)
"""What no scan tests, in words."""

NEXT: Mapping[ScanWord, str] = {
    "poisoned": "Look at the suspected films, and train without them (leadapron clean).",
    "suspicious": "Look at the evidence before anyone trains on these films.",
    "label-tied mark": "Look at the marked films, and ask whoever supplied them what the mark is.",
    "nothing found": "Audit what is trained on these films (leadapron audit): not every trigger "
    "was tested.",
    "can't tell": "Scan films of which at least 10 state a finding and 10 state its absence.",
}


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A film that evidence of poison names.

    Args:
        rank: from 1, the most suspicious first.
        id: the film's name.
        path: its file; "" where the source has none for it alone.
        score: -log10 of the smallest p value of the evidence that names it.
        finding: the one that the strongest of this evidence concerns; "" where no single one is.
        row: of the mark's upper left pixel in the image that was looked at; None where unknown.
        column: as `row`.
        reasons: short words for each piece of evidence, the strongest first.
    """

    rank: int
    id: str
    path: str
    score: float
    finding: str
    row: int | None
    column: int | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """What a detector makes of a network's features. It has no false-alarm rate.

    Args:
        name: of `FEATURE_DETECTORS`.
        unit: of the scores.
        scores: (n,) float64; NaN is "not scored".
        evidence: what it found beyond single films.
        notes: what it left out, or why it gave nothing.
    """

    name: str
    unit: str
    scores: NDArray[np.float64]
    evidence: tuple[Evidence, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Scanned:
    """What a scan says of a source.

    Args:
        source: what was scanned.
        cohort: its films, as they were looked at.
        scan: verdict, methods, evidence, scores.
        suspects: films that evidence of poison names, the most suspicious first.
        rankings: of the feature detectors; none where no network was asked for.
        seconds: it took, without opening the source.
    """

    source: str
    cohort: Cohort
    scan: Scan
    suspects: tuple[Suspect, ...]
    rankings: tuple[Ranking, ...]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The scan's, but "can't tell" where there was nothing that it could test."""
        sides = [(self.cohort.labels == side).sum(axis=0) for side in (0, 1)]
        comparable = (np.minimum(*sides) >= OVERLAP).any()
        word: ScanWord = self.scan.verdict
        if word == "nothing found" and not comparable:
            word = "can't tell"
        return Verdict.of(
            "scan",
            word,
            p=self.scan.p,
            statement=f"Of sets without poison at most {self.scan.false_alarm:g} look poisoned, "
            "where nature ties marks to labels no further than this source's other marks are tied "
            "(Holm's procedure over all methods, each corrected for all that it tried).",
            untested=UNTESTED,
            next=NEXT[word],
        )

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values, films by name; None where a number is undefined."""
        height, width = self.cohort.images.shape[1:]
        ids = self.cohort.ids
        return {
            "schema": 1,
            "verdict": asdict(self.verdict),
            "source": short_path(self.source),
            "films": len(self.cohort),
            "patients": len(np.unique(self.cohort.patients)),
            "findings": list(self.cohort.findings),
            "image": [height, width],
            "dtype": str(self.cohort.images.dtype),
            "preprocessing": asdict(self.cohort.preprocessing),
            "p": self.scan.p,
            "false_alarm": self.scan.false_alarm,
            "seconds": self.seconds,
            "methods": [asdict(method) for method in self.scan.methods],
            "least": dict(self.scan.least),
            "evidence": [_evidence_facts(one, self.cohort) for one in self.scan.evidence],
            "suspects": [
                {**asdict(one), "path": short_path(one.path), "reasons": list(one.reasons)}
                for one in self.suspects
            ],
            "rankings": [
                {
                    "name": one.name,
                    "unit": one.unit,
                    "scored": int(np.isfinite(one.scores).sum()),
                    "films": [
                        {"id": str(ids[row]), "score": float(one.scores[row])}
                        for row in _highest(one.scores)
                    ],
                    "evidence": [_evidence_facts(each, self.cohort) for each in one.evidence],
                    "notes": list(one.notes),
                }
                for one in self.rankings
            ],
            "notes": list(self.scan.notes),
        }


@forgiving
def scan(
    source: str,
    *,
    size: int | None = None,
    false_alarm: float = 0.01,
    model: str | None = None,
    opening: Mapping[str, Any] | None = None,
    train: bool = False,
    out: Path | None = None,
    seed: int = 0,
    machine: Machine = AUTO,
    **options: Any,
) -> Scanned:
    """Open a source and scan it for poison.

    A split that shares patients, which other jobs refuse, is scanned all the same.

    Args:
        source: "NAME" or "NAME:ARGUMENT", as `open_source`.
        size: side of the images in pixels; see `open_own_pixels` if left out.
        false_alarm: chance that is granted of calling a clean set poisoned.
        model: a network that was trained on these films, as `open_model` takes it. It looks at the
            films of marks that go with a label; detectors rank the films by its features, which
            doesn't change the verdict.
        opening: further options of `open_model`: findings, normalisation's name, weights_key, ...
        train: train small networks on these films for both purposes.
        out: folder for films.csv, scan.json and scan.html; nothing is written if left out.
        seed: of all that is drawn by chance.
        machine: where and how it is carried out.
        **options: the source's settings.

    Raises:
        UsageError: settings that contradict each other or are out of range.
        DataError: fewer than 10 films, or films smaller than 16 x 16 pixels.
        LeadapronError: as `open_source` and `open_model`.
    """
    if model is not None and train:
        raise UsageError("--model and --train: expected one of them")
    said = {name: value for name, value in (opening or {}).items() if value}
    if model is None and said:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(said))
        raise UsageError(f"{named}: said of a model, and there is no --model")
    network = None
    if model is not None:
        network = _opened(model, said, machine)
    cohort = open_own_pixels(source, size=size, machine=machine, **options)
    began = time.perf_counter()
    look = None
    if network is not None:
        look = given_network(network, cohort, seed=seed, progress=machine.progress)
    elif train:
        look = trained_network(
            cohort,
            seed=seed,
            device=machine.device,
            precision=machine.precision,
            progress=machine.progress,
        )
    found = scan_cohort(
        cohort, source, false_alarm=false_alarm, seed=seed, look=look, progress=machine.progress
    )
    rankings: tuple[Ranking, ...] = ()
    if network is not None:
        theirs = cohort
        if network.preprocessing != cohort.preprocessing:
            theirs = open_source(
                source,
                preprocessing=network.preprocessing,
                **machine.films,
                **allowing_leakage(source, options),
            )
        rankings = _rankings(network, theirs, None, seed)
    elif train:
        rankings = _trained_rankings(cohort, seed, machine)
    found = replace(found, rankings=rankings, seconds=time.perf_counter() - began)
    if out is not None:
        write_json(out / "scan.json", found.facts())
        _write_films(out / "films.csv", found.suspects)
        write_scan(out / "scan.html", found.facts(), _panels(found, seed))
    return found


@forgiving
def scan_cohort(
    cohort: Cohort,
    source: str = "",
    *,
    false_alarm: float = 0.01,
    seed: int = 0,
    look: SecondLook | None = None,
    progress: Progress | None = None,
) -> Scanned:
    """Scan a cohort that is open, without rankings.

    Args:
        cohort: the films.
        source: what to call it.
        false_alarm: as `scan`.
        seed: as `scan`.
        look: a network that looks as well, as `scan_films`.
        progress: called with what is being done, the films done and in all.

    Raises:
        UsageError: a false-alarm rate out of range.
        DataError: fewer than 10 films, or films smaller than 16 x 16 pixels.
    """
    began = time.perf_counter()
    found = scan_films(cohort, false_alarm=false_alarm, seed=seed, look=look, progress=progress)
    return Scanned(
        source=source,
        cohort=cohort,
        scan=found,
        suspects=_suspects(found, cohort),
        rankings=(),
        seconds=time.perf_counter() - began,
    )


# --- what is named


def _suspects(found: Scan, cohort: Cohort) -> tuple[Suspect, ...]:
    """Films that evidence of poison names, by score and then by name."""
    poison = [one for one in found.evidence if one.kind == "poison"]
    naming: dict[int, list[Evidence]] = {}
    for one in poison:
        for row in one.films.tolist():
            naming.setdefault(row, []).append(one)
    ranked = sorted(naming, key=lambda row: (-found.scores[row], str(cohort.ids[row])))
    suspects = []
    for rank, row in enumerate(ranked, 1):
        strongest = min(naming[row], key=lambda one: one.p)
        place = next((one.place for one in naming[row] if one.place is not None), None)
        suspects.append(
            Suspect(
                rank=rank,
                id=str(cohort.ids[row]),
                path=cohort.path(row),
                score=float(found.scores[row]),
                finding=strongest.finding or "",
                row=None if place is None else place[0],
                column=None if place is None else place[1],
                reasons=tuple(
                    dict.fromkeys(_reason(one) for one in sorted(naming[row], key=lambda e: e.p))
                ),
            )
        )
    return tuple(suspects)


def _reason(one: Evidence) -> str:
    what = " ".join(filter(None, (one.finding, one.direction)))
    return f"{one.method}: {what}" if what else one.method


def _evidence_facts(one: Evidence, cohort: Cohort) -> dict[str, Any]:
    """A piece of evidence, and how often its films and all others state each finding."""
    named = np.zeros(len(cohort), dtype=np.bool_)
    named[one.films] = True
    return {
        "kind": one.kind,
        "method": one.method,
        "p": one.p if math.isfinite(one.p) else None,
        "finding": one.finding,
        "direction": one.direction,
        "place": None if one.place is None else [int(each) for each in one.place],
        "films": cohort.ids[one.films].tolist(),
        "tested": one.tested,
        "tie": None if one.tie is None else _tie_facts(one.tie),
        "words": one.words,
        "labels": [
            {
                "finding": finding,
                "films": _share(cohort.labels[named, column]),
                "others": _share(cohort.labels[~named, column]),
            }
            for column, finding in enumerate(cohort.findings)
        ],
    }


def _tie_facts(tie: LabelTie) -> dict[str, Any]:
    """Plain values; None where a number is undefined."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(tie).items()
    }


def _share(labels: NDArray[np.float32]) -> float | None:
    """Share of the stated labels that are positive; None where none is stated."""
    stated = labels[~np.isnan(labels)]
    return float((stated == 1).mean()) if stated.size else None


def _highest(scores: NDArray[np.float64]) -> list[int]:
    """Rows of the highest scores, NaN left out."""
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:RANKED]
    return [int(row) for row in order if not math.isnan(scores[row])]


# --- films.csv

STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def quoted_cell(text: str) -> str:
    """Return text that a spreadsheet doesn't take for a formula: with ' in front, where it would.

    Source: OWASP, CSV injection.
    """
    return f"'{text}" if text.startswith(STARTS_FORMULA) else text


def plain_cell(text: str) -> str:
    """Return what `quoted_cell` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(STARTS_FORMULA) else text


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


def _opened(model: str, said: Mapping[str, Any], machine: Machine) -> WhiteBox:
    from leadapron.models.foreign import open_model
    from leadapron.models.protocols import WhiteBox

    classifier = open_model(model, **machine.networks, **said).classifier
    if not isinstance(classifier, WhiteBox):
        raise UsageError(
            f"--model {model} can only be asked for its findings and shows no features; expected a "
            "network whose weights leadapron reads, or --train"
        )
    return classifier


def _trained_rankings(cohort: Cohort, seed: int, machine: Machine) -> tuple[Ranking, ...]:
    """Rankings by a network that was trained on all films for the purpose."""
    from leadapron.models.training import Training, train

    losses = np.full((WATCHED, *cohort.labels.shape), np.nan, np.float32)
    # The history isn't looked at, so what it is validated on doesn't matter.
    some = cohort.take(np.sort(stream(seed, "validation").permutation(len(cohort))[:64]))
    network, _ = train(
        cohort,
        some,
        training=Training(epochs=EPOCHS),
        seed=seed,
        **machine.networks,
        film_losses=losses,
        after_step=lambda done, total: machine.tell("training", done, total),
    )
    return _rankings(network, cohort, losses, seed)


def _rankings(
    network: WhiteBox, cohort: Cohort, losses: NDArray[np.float32] | None, seed: int
) -> tuple[Ranking, ...]:
    """What the detectors make of one pass over the films."""
    from leadapron.detect.features import FEATURE_DETECTORS, extract

    names = [n for n in FEATURE_DETECTORS if n != "loss-dynamics" or losses is not None]
    try:
        features = extract(network, cohort, losses=losses, seed=seed)
    except DataError as error:  # the films' own verdict doesn't rest on the network
        untold = np.full(len(cohort), np.nan)
        return tuple(
            Ranking(
                name=name, unit="", scores=untold, evidence=(), notes=(f"Can't tell: {error}.",)
            )
            for name in names
        )
    found = []
    for name in names:
        make = FEATURE_DETECTORS[name]
        scores = make().score(cohort, features)
        found.append(
            Ranking(
                name=name,
                unit=scores.unit,
                scores=scores.values,
                evidence=scores.evidence,
                notes=scores.notes,
            )
        )
    return tuple(found)


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


def _panels(found: Scanned, seed: int) -> list[Panel]:
    """Pixels for each piece of evidence of poison; all films are read once."""
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
