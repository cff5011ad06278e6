"""A screening: the decisions on several films, and their false-alarm rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.clinic import Clinic
from leadapron.detect.inputs.decision import Decision, decide_images
from leadapron.detect.inputs.gate import Gate, rate_words
from leadapron.detect.inputs.gate_file import StoredGate
from leadapron.detect.inputs.groups import GroupRates
from leadapron.detect.inputs.strata import StratumFacts
from leadapron.detect.verdict import EXIT_CODES, LEVELS, ScreenWord, Verdict, overall_exit_code
from leadapron.documents import Pixels, ShownPath, no_pixels
from leadapron.errors import FilmError
from leadapron.films.cohort import ImageArray, blocks
from leadapron.models.protocols import BlackBox
from leadapron.sources.listed import Decoded, FilmFile
from leadapron.text import count
from leadapron.types import BadFilm

__all__ = [
    "LIMITS",
    "CalibrationFilms",
    "Quantiles",
    "ScreenedFilm",
    "ScreenedModel",
    "Screening",
    "decide_films",
    "screen_images",
    "screening",
    "statement",
]

BATCH = 64
"""Images that are judged at a time."""

LIMITS = (
    "A pass is neither a diagnosis nor a proof: triggers that no detector finds pass.",
    "Rates hold for films like the calibration films: same devices, same clinic.",
    "A gate is as trustworthy as its folder: anyone who can write there can let any film pass.",
)
"""Limits of every screening."""

NEXT: Mapping[ScreenWord, str] = {
    "suspicious": "Have suspicious films read without the model.",
    "can't tell": 'Have the films with the verdict "can\'t tell" read without the model.',
    "pass": "Use the model's reading as without a screening.",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class ScreenedFilm(Decision):
    """A film and the decision on it.

    Args:
        number: its position in the order of the films, from 1.
        file: its name as the caller gave it.
        bad: why its file can't be used; None if it can.
        image: (h, w) the model's input; `no_pixels` if it wasn't decoded.
    """

    number: int
    file: str
    bad: BadFilm | None = None
    image: Pixels = field(default_factory=no_pixels)

    @property
    def exit_code(self) -> int:
        """Exit code of a screening of this film alone; 2 (failed) if its file can't be read."""
        failed = self.bad in ("missing", "unreadable")
        return FilmError.exit_code if failed else EXIT_CODES[self.level]

    @classmethod
    def of(
        cls,
        decision: Decision,
        *,
        number: int,
        file: str,
        doubts: Sequence[str] = (),
        image: NDArray[Any] | None = None,
    ) -> ScreenedFilm:
        """Return a film with the decision on it.

        Args:
            decision: the decision on its image.
            number: as `ScreenedFilm`.
            file: as `ScreenedFilm`.
            doubts: warnings about its grey levels, added to the reason.
            image: as `ScreenedFilm`.
        """
        values: dict[str, Any] = {
            each.name: getattr(decision, each.name) for each in fields(Decision)
        }
        values["reason"] = "; ".join(filter(None, (decision.reason, *doubts)))
        return cls(
            **values, number=number, file=file, image=no_pixels() if image is None else image
        )


def decide_films(
    gate: Gate,
    classifier: BlackBox,
    films: Sequence[FilmFile],
    images: Sequence[Decoded | FilmError],
    *,
    first: int,
) -> list[ScreenedFilm]:
    """Return the decisions on films that were decoded, or couldn't be.

    Args:
        gate: of the model.
        classifier: the model.
        films: their files.
        images: what was made of each.
        first: number of the first one.
    """
    good = [each.image for each in images if isinstance(each, Decoded)]
    decisions = iter(decide_images(gate, classifier, np.stack(good)) if good else ())
    found = []
    for number, (film, image) in enumerate(zip(films, images, strict=True), first):
        if isinstance(image, FilmError):
            bad = Decision(verdict="can't tell", reason=str(image).strip())
            undecoded = ScreenedFilm.of(bad, number=number, file=film.name)
            found.append(replace(undecoded, bad=image.kind))
            continue
        decision = next(decisions)
        shown = None if decision.p is None else image.image
        found.append(
            ScreenedFilm.of(
                decision, number=number, file=film.name, doubts=image.doubts, image=shown
            )
        )
    return found


def screen_images(
    gate: Gate, classifier: BlackBox, images: ImageArray, names: Sequence[str]
) -> list[ScreenedFilm]:
    """Return the decisions on films in memory.

    Args:
        gate: of the model.
        classifier: the model.
        images: (n, h, w) uint8 or uint16 of the model's preprocessing.
        names: what to call each.
    """
    found = []
    for rows in blocks(len(names), BATCH):
        pixels = images[rows]
        decisions = decide_images(gate, classifier, pixels)
        found += [
            ScreenedFilm.of(decision, number=int(row) + 1, file=names[row], image=image)
            for row, decision, image in zip(rows, decisions, pixels, strict=True)
        ]
    return found


@dataclass(frozen=True, kw_only=True)
class ScreenedModel:
    """The model: its file's name, and SHA-256 of its content."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Quantiles of a score on calibration films: 0, 50, 95, 99 and 100 %."""

    least: float
    median: float
    q95: float
    q99: float
    most: float


@dataclass(frozen=True, kw_only=True)
class CalibrationFilms:
    """A clinic's films that set a threshold.

    Args:
        name: what the clinic is called.
        films: number of the films.
        patients: number of their patients.
        threshold: score that suspicious films exceed, where they share one threshold.
        strata: thresholds by what the model reads on a film; none unless that was asked for.
        clean: quantiles of each score on these films.
        groups: rates on groups of these films by view, sex, age, device, finding and reading, where
            known.
    """

    name: str
    films: int
    patients: int
    threshold: float
    strata: tuple[StratumFacts, ...]
    clean: Mapping[str, Quantiles]
    groups: tuple[GroupRates, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Screening:
    """A gate's decisions on several films.

    Args:
        verdict: the worst of the films' verdicts.
        gate: the gate's file.
        model: the gate's model.
        findings: the model's findings.
        image: (height, width) of the model's input.
        false_alarm: largest share of a clinic's clean films called suspicious.
        clinics: films that set the thresholds, by clinic.
        asked: number of films to screen.
        counts: number of films by verdict.
        films: the screened films, in order.
        notes: omissions and assumptions.
    """

    SCHEMA: ClassVar[int] = 4

    verdict: Verdict
    gate: ShownPath
    model: ScreenedModel
    findings: tuple[str, ...]
    image: tuple[int, int]
    false_alarm: float
    clinics: tuple[CalibrationFilms, ...]
    asked: int
    counts: Mapping[ScreenWord, int]
    films: tuple[ScreenedFilm, ...]
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """The worst of the films' exit codes; an unreadable film is worse than an undecided one."""
        return overall_exit_code(film.exit_code for film in self.films)


def screening(
    stored: StoredGate,
    films: Sequence[ScreenedFilm],
    *,
    gate: str = "",
    asked: int | None = None,
    others: int = 0,
) -> Screening:
    """Return a screening of films with decisions.

    Args:
        stored: the gate and its model.
        films: the screened films, in order.
        gate: the gate's file.
        asked: number of films to screen; the number of `films` if left out.
        others: number of files of other kinds that were left out.
    """
    own, model = stored.gate, stored.model
    wanted = len(films) if asked is None else asked
    word = _worst_word([film.verdict for film in films])
    side = model.preprocessing.size
    return Screening(
        verdict=Verdict.of(
            "screen",
            word,
            statement=statement(own),
            untested=LIMITS,
            next=NEXT[word],
        ),
        gate=gate,
        model=ScreenedModel(file=model.path.name, sha256=model.sha256),
        findings=model.findings,
        image=(side, side),
        false_alarm=own.false_alarm,
        clinics=tuple(_calibration_films(own, clinic, model.findings) for clinic in own.clinics),
        asked=wanted,
        counts={
            each: sum(film.verdict == each for film in films)
            for each in ("suspicious", "can't tell", "pass")
        },
        films=tuple(films),
        notes=(*stored.notes, *_notes(stored, wanted - len(films), others)),
    )


def _notes(stored: StoredGate, missing: int, others: int) -> list[str]:
    notes = list(stored.doubts)
    if others:
        notes.append(f"Left out: {count(others, 'file')} of other kinds.")
    if missing:
        notes.append(f"Interrupted: {missing:,} films were not screened.")
    if stored.gate.typical is None:
        notes.append("The gate has no out-of-distribution detector, so none is flagged.")
    return notes


def statement(gate: Gate) -> str:
    """Return the false-alarm rate of the verdicts, in one or two sentences."""
    first, *others = gate.clinics
    rate = f"At most {100 * gate.false_alarm:g} % of clean films like"
    films = f"{len(first):,} calibration films ({first.patient_count:,} patients)"
    if others:
        films = "; ".join(
            f"{len(clinic):,} films of {clinic.patient_count:,} patients" for clinic in gate.clinics
        )
        return (
            f"{rate} those of one of {len(gate.clinics)} clinics (calibration films: {films}) are "
            f'called suspicious, and at most {100 * gate.rate:g} % get "can\'t tell" because they '
            "are untypical of all. That is the average over calibrations."
        )
    words = f"{rate} the {films} are called suspicious"
    if gate.typical is not None:
        words += ', and at most as many more get "can\'t tell" because they are untypical'
    likely = first.likely_rates(gate.rate)
    return f"{words}.{rate_words(gate.false_alarm, first.patient_count, likely)}"


def _worst_word(words: Sequence[ScreenWord]) -> ScreenWord:
    """The verdict on all films; without films it is "can't tell"."""
    code = overall_exit_code(EXIT_CODES[LEVELS["screen"][word]] for word in words)
    return next(word for word in get_args(ScreenWord) if EXIT_CODES[LEVELS["screen"][word]] == code)


def _calibration_films(
    gate: Gate, clinic: Clinic, findings: Sequence[str]
) -> CalibrationFilms:  # fmt: skip
    levels = np.nanquantile(clinic.scores, [0, 0.5, 0.95, 0.99, 1], axis=0)
    clean = {}
    for name, column in zip(gate.weights, levels.T, strict=True):
        least, median, q95, q99, most = map(float, column)
        clean[name] = Quantiles(least=least, median=median, q95=q95, q99=q99, most=most)
    return CalibrationFilms(
        name=clinic.name,
        films=len(clinic),
        patients=clinic.patient_count,
        threshold=clinic.threshold(gate.rate),
        strata=clinic.stratum_facts(gate.rate, findings),
        clean=clean,
        groups=clinic.group_rates(gate.rate),
    )
