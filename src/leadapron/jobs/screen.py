"""Screen: does a film carry a trigger? A gate's verdict on films in files, one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL, Judged, judge
from leadapron.detect.inputs.gate_file import StoredGate, read_gate
from leadapron.errors import DataError, FilmError, LeadapronError, StoreError, UsageError
from leadapron.films.decoding import FilmFiles, give_up, processors
from leadapron.films.preprocessing import FULL
from leadapron.models.classifier import BlackBox, squashed
from leadapron.models.foreign import open_model
from leadapron.reading import other_than_file
from leadapron.report.words import rate_words
from leadapron.sources.assembly import doubts_of
from leadapron.sources.dicom import may_be_dicom
from leadapron.sources.folder import SUFFIXES, walk
from leadapron.specs import forgiving
from leadapron.store import sha256_of
from leadapron.text import count, printable, short_path

__all__ = ["FilmFile", "Opened", "Screened", "facts", "films_of", "open_gate", "screen", "worst"]

Verdict = Literal["pass", "suspicious", "can't tell"]

BATCH = 64
"""Films that are decoded and judged at a time."""

MOST = 1_000_000
"""Films of one call."""

LONGEST_LINE = 65_536
"""Bytes of a path in a list."""

CHANGED = 5
"""Findings whose probabilities are given, those that the region changes most."""

UNTYPICAL = "not of the kind of the calibration films; its scores mean little"

LIMITS = (
    "A pass is no diagnosis and no proof: triggers that no detector sees pass.",
    "Rates hold for films like the calibration films: same devices, same clinic.",
    "A gate is as trustworthy as its folder: who can write there can let any film pass.",
)
"""What no screening promises, in words."""


@dataclass(frozen=True)
class FilmFile:
    """A film's file.

    Args:
        path: of the file.
        name: what the caller called it.
    """

    path: str
    name: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Opened:
    """A gate with its model.

    Args:
        file: the gate's.
        stored: the gate, and what it is of.
        classifier: the model.
    """

    file: Path
    stored: StoredGate
    classifier: BlackBox


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A finding's probability on a film as it is, and with the region taken out."""

    finding: str
    probability: float
    without: float


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle in pixels of the image: its upper left one, from 0, and its sides."""

    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Screened:
    """What is said of one film.

    Args:
        number: its place in the order of the films, from 1.
        file: what the caller called it.
        verdict: of the film.
        reason: why it can't be told, and doubts about its greys; or "".
        failed: whether there is no such file, or it can't be read.
        p: share of clean films that score so much or more; None where it wasn't scored.
        score: all scores as one; above the gate's threshold it is suspicious.
        typical: whether it is of the kind of the calibration films.
        finding: that the region speaks for; None where there is none.
        region: the evidence region; None of a model that can only be asked.
        readings: probabilities as read and without the region, of the findings that change most.
        scores: by detector; None where a detector had none.
        image: (h, w) what the model was shown; None where it wasn't decoded.
    """

    number: int
    file: str
    verdict: Verdict
    reason: str = ""
    failed: bool = False
    p: float | None = None
    score: float | None = None
    typical: bool | None = None
    finding: str | None = None
    region: Region | None = None
    readings: tuple[Reading, ...] = ()
    scores: Mapping[str, float | None] = field(default_factory=dict)
    image: NDArray[Any] | None = None

    def facts(self) -> dict[str, Any]:
        """Return all of it but the pixels as plain values."""
        plain = {n: getattr(self, n) for n in self.__dataclass_fields__ if n != "image"}
        plain["region"] = None if self.region is None else asdict(self.region)
        plain["readings"] = [asdict(reading) for reading in self.readings]
        plain["scores"] = dict(self.scores)
        return plain


@forgiving
def open_gate(
    file: Path, *, model: Path | None = None, trust_programs: bool = False, device: str = "auto"
) -> Opened:
    """Open a gate and the model that it is of.

    Args:
        file: the gate's JSON file.
        model: where the model lies now; where the gate says, if left out.
        trust_programs: as `open_model`; a gate can't say so for whoever uses it.
        device: as `open_model`.

    Raises:
        StoreError: a gate that can't be read, or another model than it is of.
        LeadapronError: as `open_model`.
    """
    stored = read_gate(file, INPUT_DETECTORS, TYPICAL)
    said = stored.model
    path = said.path if model is None else model
    if not path.is_file():
        raise StoreError(f"no model at {path}; name it by --model FILE")
    other = StoreError(
        f"{path.name} is not the model that {file.name} was calibrated for: its SHA-256 differs; "
        "calibrate again"
    )
    if sha256_of(path) != said.sha256:  # another model may not even open as this one does
        raise other
    opening = dict(said.opening)
    named = bool(opening.pop("named", False))
    model_now = open_model(
        path,
        said.findings if named else None,
        preprocessing=said.preprocessing,
        trust_programs=trust_programs,
        device=device,
        precision=said.precision,
        **opening,  # type: ignore[arg-type]
    )
    if model_now.content != said.sha256:  # it was put there in between
        raise other
    classifier = model_now.classifier
    if classifier.findings != said.findings or classifier.preprocessing != said.preprocessing:
        raise StoreError(f"{file.name} states other findings or images than {path.name} has")
    _try(stored, classifier, file)
    return Opened(file=file, stored=stored, classifier=classifier)


@forgiving
def films_of(files: Sequence[str], listed: Iterable[bytes] = ()) -> tuple[list[FilmFile], int]:
    """Return the films that paths name, in order, and how many other files their folders hold.

    Args:
        files: files; folders, whose films are taken in the order of their paths; "-" for `listed`.
        listed: paths, one a line.

    Raises:
        UsageError: no path, or too many films.
        DataError: a folder without films, or that can't be read.
    """
    paths: list[str] = []
    for each in files:
        paths += _lines(listed) if each == "-" else [each]
    found: list[FilmFile] = []
    others = 0
    for path in paths:
        if "\0" not in path and os.path.isdir(path):  # noqa: PTH112 (paths may not be UTF-8)
            inside, left = _below(path)
            others += left
            found += inside
        else:
            found.append(FilmFile(path, short_path(path)))
        if len(found) > MOST:
            raise UsageError(f"more than {MOST:,} films; screen them in parts")
    if not found:
        raise UsageError("no films; expected files, folders, or - for a list of paths on stdin")
    return found, others


def screen(opened: Opened, films: Sequence[FilmFile]) -> Iterator[list[Screened]]:
    """Yield what is said of films, batch by batch; the next is decoded meanwhile.

    Each film is decoded in a process of its own kind, with the gate's preprocessing, as a source
    of films in files does it. One that can't be decoded stops no other.

    Args:
        opened: the gate and its model.
        films: as `films_of` returns them.

    Raises:
        LeadapronError: the model or the decoders fail.
    """
    starts = range(0, len(films), BATCH)
    executor = ThreadPoolExecutor(processors(), thread_name_prefix="leadapron-decode")

    def decoding(start: int) -> list[Future[_Decoded | _Bad]]:
        return [executor.submit(_image, film, opened) for film in films[start : start + BATCH]]

    try:
        ahead = decoding(0)
        for start in starts:
            waiting, ahead = ahead, decoding(start + BATCH)
            yield _judged(opened, films, start, [future.result() for future in waiting])
    except (KeyboardInterrupt, GeneratorExit):
        give_up()  # a film may take a minute
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def worst(films: Iterable[Mapping[str, Any]]) -> tuple[Verdict, int]:
    """Return the verdict of all films together, and the exit code: the worst of 1, 2, 3, 0.

    Args:
        films: what `Screened.facts` returns; none gives "can't tell".
    """
    verdicts, failed = set(), False
    for film in films:
        verdicts.add(film["verdict"])
        failed = failed or film["failed"]
    if "suspicious" in verdicts:
        return "suspicious", 1
    if "can't tell" in verdicts or not verdicts:
        return "can't tell", 2 if failed else 3
    return "pass", 0


def facts(
    opened: Opened, films: Sequence[Mapping[str, Any]], asked: int, others: int
) -> dict[str, Any]:
    """Return a screening as plain values, schema 1.

    Args:
        opened: the gate and its model.
        films: what `Screened.facts` returns of those that were screened.
        asked: how many were to be.
        others: files of other kinds in their folders.
    """
    gate, model = opened.stored.gate, opened.stored.model
    verdict, code = worst(films)
    notes = list(opened.stored.notes)
    if others:
        notes.append(f"Left out: {count(others, 'file')} of other kinds.")
    if len(films) < asked:
        notes.append(f"Interrupted: {asked - len(films):,} films were not screened.")
    if gate.typical is None:
        notes.append("The gate has no detector of untypical films: they are not told apart.")
    levels = np.nanquantile(gate.scores, [0, 0.5, 0.95, 0.99, 1], axis=0)
    return {
        "schema": 1,
        "verdict": verdict,
        "exit_code": code,
        "gate": short_path(str(opened.file)),
        "model": {"file": model.path.name, "sha256": model.sha256},
        "findings": list(model.findings),
        "image": [model.preprocessing.size, model.preprocessing.size],
        "false_alarm": gate.false_alarm,
        "threshold": gate.threshold,
        "calibration": {"films": len(gate.fused), "patients": gate.patients},
        "clean": {
            name: dict(zip(("least", "median", "q95", "q99", "most"), map(float, column),
                           strict=True))
            for name, column in zip(gate.weights, levels.T, strict=True)
        },
        "asked": asked,
        "counts": {
            name: sum(film["verdict"] == name for film in films)
            for name in ("suspicious", "can't tell", "pass")
        },
        "films": list(films),
        "statement": statement(opened.stored),
        "limits": list(LIMITS),
        "notes": notes,
    }  # fmt: skip


def statement(stored: StoredGate) -> str:
    """Return what the verdicts are worth, in a sentence or two."""
    gate = stored.gate
    said = (
        f"At most {100 * gate.false_alarm:g} % of clean films like the {len(gate.fused):,} "
        f"calibration films ({gate.patients:,} patients) are called suspicious"
    )
    if gate.typical is not None:
        said += ", and at most as many more can't be told for being untypical"
    return f"{said}.{rate_words(gate.false_alarm, gate.patients, gate.likely_rates)}"


# --- the films


def _lines(listed: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(listed, 1):
        if len(line) > LONGEST_LINE or number > MOST:
            raise UsageError(f"line {number} of the list is too long, or one too many")
        text = os.fsdecode(line.rstrip(b"\r\n"))
        if text.strip():
            yield text


def _below(folder: str) -> tuple[list[FilmFile], int]:
    """Films below a folder, by ending or by DICOM's mark, and how many other files there are."""
    root = Path(folder)
    names, others = [], 0
    for name in walk(root):
        if name.lower().endswith(SUFFIXES) or may_be_dicom(root / name):
            names.append(name)
            if len(names) > MOST:
                raise UsageError(f"{folder} holds more than {MOST:,} films; screen them in parts")
        else:
            others += 1
    if not names:
        raise DataError(f"no PNG, JPEG or DICOM file in {printable(str(folder))}")
    start = folder.rstrip("/")
    # Below a folder, films are called by their paths in it where its own path isn't shown.
    hidden = short_path(start) != start
    places = [(f"{start}/{name}", name) for name in sorted(names)]
    return [FilmFile(path, printable(name if hidden else path)) for path, name in places], others


@dataclass(frozen=True)
class _Bad:
    """Why there is no image, and whether that is the file's absence."""

    reason: str
    failed: bool = False


@dataclass(frozen=True, eq=False)
class _Decoded:
    """(size, size) image, and what may be wrong with it."""

    image: NDArray[Any]
    doubts: Sequence[str]


def _image(film: FilmFile, opened: Opened) -> _Decoded | _Bad:
    preprocessing = opened.stored.model.preprocessing
    try:
        mode = os.stat(film.path).st_mode  # noqa: PTH116 (paths may not be UTF-8)
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or "is no path"
        return _Bad(f"can't be read ({words})", failed=True)
    if kind := other_than_file(mode):
        return _Bad(f"is a {kind}; expected a file", failed=True)
    files = FilmFiles([film.path], [""], opened.stored.window, opened.stored.bits)
    try:
        image, form = files.image(0, preprocessing)
    except FilmError as error:
        return _Bad(str(error).strip(), failed=error.kind != "undecodable")
    if not opened.stored.bits and 0 < form.used < FULL:
        return _Bad(f"uses {form.used} of 16 bits, and no calibration film says how many count")
    side = preprocessing.size
    if image.shape != (side, side) or image.dtype != np.dtype(preprocessing.dtype):
        return _Bad("gives an image of another size or type")
    return _Decoded(image, doubts_of(form))


# --- the verdicts


def _judged(
    opened: Opened,
    films: Sequence[FilmFile],
    start: int,
    images: Sequence[_Decoded | _Bad],
) -> list[Screened]:
    good = [row for row, image in enumerate(images) if not isinstance(image, _Bad)]
    said: dict[int, Screened] = {}
    for rows, judged in _scored(opened, images, good):
        for place, row in enumerate(rows):
            film = films[start + row]
            screened = _screened(opened, judged, place, start + row + 1, film.name)
            reasons = [screened.reason, *images[row].doubts]  # type: ignore[union-attr]
            said[row] = replace(screened, reason="; ".join(filter(None, reasons)))
    for row, image in enumerate(images):
        if row not in said:
            bad = image if isinstance(image, _Bad) else _Bad("the model gives no number for it")
            said[row] = Screened(
                number=start + row + 1,
                file=films[start + row].name,
                verdict="can't tell",
                reason=bad.reason,
                failed=bad.failed,
            )
    return [said[row] for row in range(len(images))]


def _scored(
    opened: Opened, images: Sequence[Any], rows: list[int]
) -> Iterator[tuple[list[int], Judged]]:
    """Rows that were judged together; one for which the model has no number stops no other."""
    if not rows:
        return
    try:
        yield (
            rows,
            judge(opened.stored.gate, opened.classifier, np.stack([images[r].image for r in rows])),
        )
    except DataError:
        if len(rows) > 1:
            for row in rows:
                yield from _scored(opened, images, [row])


def _screened(opened: Opened, judged: Judged, row: int, number: int, name: str) -> Screened:
    gate, findings = opened.stored.gate, opened.classifier.findings
    suspicious, typical = bool(judged.suspicious[row]), bool(judged.typical[row])
    values = [None if np.isnan(v) else float(v) for v in judged.scores[row]]
    verdict: Verdict = "pass"
    reason = ""
    if not typical:
        verdict, reason = "can't tell", UNTYPICAL
    elif not judged.scored[row]:
        verdict, reason = "can't tell", "a detector has no score for it"
    if suspicious:
        verdict, reason = "suspicious", f"it is {reason}" if not typical else ""
    region, finding = None, None
    readings: tuple[Reading, ...] = ()
    if judged.examined is not None:
        seen = judged.examined
        sides = map(int, seen.boxes[row])
        region = Region(**dict(zip(("row", "column", "height", "width"), sides, strict=True)))
        before, after = (
            squashed(each[row : row + 1], opened.classifier.head)[0]
            for each in (judged.readings.logits, seen.logits)
        )
        told = np.isfinite(before) & np.isfinite(after)
        moved = np.where(told, np.abs(before - after), -1.0)
        # Where one finding is forced on and all others off, a rare one's fall has the most
        # spreads; what a reader sees is the probability.
        agree = np.sign(seen.falls[row]) == np.sign(seen.rises[row])
        if seen.scores[row] > 0:
            finding = findings[int(np.where(agree, moved, -1.0).argmax())]
        order = sorted(np.flatnonzero(told), key=lambda c: (findings[c] != finding, -moved[c]))
        readings = tuple(
            Reading(finding=findings[c], probability=float(before[c]), without=float(after[c]))
            for c in order[:CHANGED]
        )
    return Screened(
        number=number,
        file=name,
        verdict=verdict,
        reason=reason,
        p=float(judged.p[row]),
        score=float(judged.fused[row]),
        typical=typical if gate.typical is not None else None,
        finding=finding,
        region=region,
        readings=readings,
        scores=dict(zip(gate.weights, values, strict=True)),
        image=judged.readings.images[row],
    )


def _try(stored: StoredGate, classifier: BlackBox, file: Path) -> None:
    """Judge a plain grey image; StoreError where the states aren't what the detectors need."""
    preprocessing = stored.model.preprocessing
    dtype = np.dtype(preprocessing.dtype)
    grey = np.full((1, preprocessing.size, preprocessing.size), np.iinfo(dtype).max // 2, dtype)
    try:
        judge(stored.gate, classifier, grey)
    except (
        KeyError, ValueError, IndexError, TypeError, RuntimeError, LeadapronError
    ) as error:  # fmt: skip
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(
            f"{file.name} doesn't fit its detectors and model ({words}); calibrate again"
        ) from error
