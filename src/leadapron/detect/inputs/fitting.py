"""Making gates: detectors are fitted on a clinic's clean films, and its thresholds are set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.clinic import Clinic, film_hashes, held_again
from leadapron.detect.inputs.gate import (
    Gate,
    fuse,
    rate_of,
    score_films,
    score_names,
    steps_of,
    usable,
)
from leadapron.detect.inputs.groups import groups_of, groups_read
from leadapron.detect.inputs.readings import InputDetector, Readings, State, read
from leadapron.detect.inputs.region import EvidenceRegion, Examined
from leadapron.detect.inputs.shared_marks import SharedMark, shared_marks
from leadapron.detect.inputs.strata import NOTHING, Strata, codes_of, levels_of
from leadapron.detect.inputs.typical import Typicality
from leadapron.detect.scale import LEAST_FILMS
from leadapron.detect.verdict import refuse_rate
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort, Rows, blocks
from leadapron.models.protocols import BlackBox
from leadapron.seeds import stream
from leadapron.text import count, printable
from leadapron.types import Progress

__all__ = ["calibrate", "extend", "threshold_rows", "with_pictures"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BATCH = 64
"""Films scored per batch."""


def calibrate(
    classifier: BlackBox,
    clean: Cohort,
    detectors: Mapping[str, InputDetector],
    weights: Mapping[str, float],
    *,
    typical: InputDetector | None = None,
    false_alarm: float = 0.01,
    by_reading: bool = False,
    name: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> Gate:
    """Fit all detectors on some patients, and set the threshold on others.

    Half of the patients set the threshold. Of the other half, a quarter gives the scale of each
    score, and the detectors are fitted on the rest. The threshold is the fused score of one of the
    calibration films, so that a film of a similar new patient exceeds it with probability at most
    `false_alarm`: split conformal prediction by patient, which assumes that patients are
    exchangeable. With fewer than 1 / false_alarm - 1 patients films count singly, and no rate below
    1 / (number of patients + 1) is guaranteed.

    Args:
        classifier: the model to protect.
        clean: films without a trigger, of patients that the model wasn't trained on.
        detectors: detectors by name; those without a weight aren't used, and those that need a
            capability that the model lacks are left out.
        weights: weights of their scores in the fused score; unknown names are ignored.
        typical: the out-of-distribution detector.
        false_alarm: above 0 and below 1.
        by_reading: whether films on which the model reads the same finding have a threshold of
            their own, where there are enough of them; see `strata`.
        name: what the films' clinic is called.
        seed: seed of the division of patients.
        progress: called with the name of the step, the films done, and the total.

    Raises:
        UsageError: a rate out of range, or no usable detector.
        DataError: too few films for the rate.

    Source: Vovk et al., Algorithmic Learning in a Random World, 2005 (inductive conformal
    prediction); by patient, Lee et al., arXiv 2306.06342.
    """
    refuse_rate(false_alarm)
    kept, left_out = usable(classifier, detectors, weights)
    if not kept:
        raise UsageError(f"no detector with a weight for this model among {', '.join(detectors)}")
    parts = _parts(clean, seed)
    _refuse_few(clean, parts, false_alarm)
    made = _fitted(
        classifier, clean, parts, _Asked(kept, typical, weights, name, by_reading), progress
    )
    working = {detector: kept[detector] for detector in made.clinic.states}
    return Gate(
        detectors=working,
        typical=typical,
        weights={score: float(weights[score]) for score in made.names},
        clinics=(made.clinic,),
        false_alarm=false_alarm,
        left_out={**left_out, **made.left_out},
    )


def extend(
    gate: Gate,
    classifier: BlackBox,
    clean: Cohort,
    *,
    name: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> Gate:
    """Return a gate that judges films of one more clinic.

    The gate's detectors are fitted on the new clinic's films, which set thresholds of their own.
    Each threshold of a gate of several clinics is set at half of the false-alarm rate, so that the
    choice among clinics keeps the rate for each of them; see `judge`.

    Args:
        gate: the gate.
        classifier: its model.
        clean: films of the new clinic without a trigger, of the model's preprocessing; the model
            wasn't trained on their patients.
        name: what the clinic is called.
        seed: seed of the division of patients.
        progress: called with the name of the step, the films done, and the total.

    Raises:
        UsageError: a gate without an out-of-distribution detector.
        DataError: too few films of a clinic for half of the rate; films that the gate has already;
            or films on which one of the gate's detectors doesn't work.
    """
    if gate.typical is None:
        raise UsageError(
            "the gate has no out-of-distribution detector, which tells the clinics apart; "
            "calibrate again"
        )
    _refuse_held(gate, clean)
    rate = rate_of(gate.false_alarm, len(gate.clinics) + 1)
    for number, clinic in enumerate(gate.clinics, 1):
        if not np.isfinite(clinic.threshold(rate)):
            raise DataError(
                f"{count(len(clinic), 'film')} set the threshold of the gate's clinic {number}; "
                f"with several clinics a false-alarm rate of {gate.false_alarm:g} needs "
                f"{_least(rate)} in each: calibrate it again with more films, or at a rate of "
                f"{_possible(len(clinic), 2)}"
            )
    parts = _parts(clean, seed)
    _refuse_few(clean, parts, gate.false_alarm, clinics=len(gate.clinics) + 1)
    by_reading = gate.clinics[0].strata is not None
    asked = _Asked(gate.detectors, gate.typical, gate.weights, name, by_reading)
    made = _fitted(classifier, clean, parts, asked, progress)
    if made.left_out:
        (score, why), *_ = made.left_out.items()
        raise DataError(f"the gate's {score} doesn't work on these films: {why}")
    return replace(gate, clinics=(*gate.clinics, made.clinic))


def threshold_rows(clean: Cohort, seed: int = 0) -> Rows:
    """Return the rows of the films that set the threshold in `calibrate`, in its order."""
    return _parts(clean, seed).threshold


def with_pictures(gate: Gate, clean: Cohort, seed: int = 0) -> Gate:
    """Return a gate that keeps the films that others are compared with, to be shown.

    Args:
        gate: a gate whose last clinic was made of these films.
        clean: as `calibrate` or `extend`.
        seed: as there.
    """
    *others, last = gate.clinics
    if not isinstance(gate.typical, Typicality) or last.typical is None:
        return gate
    rows = _parts(clean, seed).fit[gate.typical.compared_rows(last.typical)]
    return replace(gate, clinics=(*others, replace(last, pictures=clean.images[rows])))


def _refuse_held(gate: Gate, clean: Cohort) -> None:
    """Raise DataError if the gate was calibrated on some of these films."""
    hashes = film_hashes(clean.images)
    for number, clinic in enumerate(gate.clinics, 1):
        if held := held_again(clinic.hashes, hashes):
            raise DataError(
                f"the gate's clinic {number} holds {held:,} of these {count(len(clean), 'film')} "
                "already (same SHA-256 of their images); give other films"
            )


def _least(rate: float) -> int:
    """Fewest films for a rate."""
    return int(np.ceil(1 / rate - 1e-9)) - 1


def _possible(films: int, thresholds: int = 1) -> str:
    """The lowest false-alarm rate, in thousandths, for which this many films are enough."""
    return f"{min(np.ceil(1000 * thresholds / (films + 1)) / 1000, 0.5):g}"


def _refuse_few(clean: Cohort, parts: _Rows, false_alarm: float, clinics: int = 1) -> None:
    """Raise DataError where too few films say in what steps scores count, or set the threshold."""
    if not len(parts.scale):
        raise DataError(
            f"films of {len(np.unique(clean.patients))} patients; a gate needs at least 8 patients"
        )
    least, there = _least(rate_of(false_alarm, clinics)), len(parts.threshold)
    if there < least:
        several = "" if clinics == 1 else f" of a gate of {clinics} clinics"
        raise DataError(
            f"the half of the patients that sets the threshold has {there} of the {len(clean)} "
            f"clean films; a false-alarm rate of {false_alarm:g}{several} needs {least} of them: "
            + ("give more films" if clinics > 1 else
               f"give more films, or a rate of {_possible(there)}")
        )  # fmt: skip


class _Rows(NamedTuple):
    """Rows for fitting detectors, for the scales, and for the threshold; they share no patient."""

    fit: Rows
    scale: Rows
    threshold: Rows


def _parts(clean: Cohort, seed: int) -> _Rows:
    patients = stream(seed, "gate", "parts").permutation(np.unique(clean.patients))
    half = len(patients) // 2
    parts = np.split(patients, [half - half // 4, half])
    return _Rows(*(np.flatnonzero(np.isin(clean.patients, part)) for part in parts))


@dataclass(frozen=True, eq=False)
class _Asked:
    """What a clinic is made with; as the arguments of `calibrate`."""

    detectors: Mapping[str, InputDetector]
    typical: InputDetector | None
    weights: Mapping[str, float]
    name: str
    by_reading: bool


class _Made(NamedTuple):
    """A clinic, the names of its scores, and what doesn't work on its films with the reason."""

    clinic: Clinic
    names: Sequence[str]
    left_out: Mapping[str, str]


def _fitted(
    classifier: BlackBox, clean: Cohort, parts: _Rows, asked: _Asked, progress: Progress | None
) -> _Made:
    """Fit the detectors on the first part, and score the others."""
    if asked.typical is not None and len(parts.fit) < LEAST_FILMS:
        raise DataError(
            f"the three eighths of the patients that detectors are fitted on have {len(parts.fit)} "
            f"of the {len(clean)} clean films; expected {LEAST_FILMS} or more: give about "
            f"{-(-8 * LEAST_FILMS // 3)} films"
        )
    first = read(classifier, clean.images[parts.fit])
    states, left_out = _states(asked.detectors, classifier, first)
    scored_by = {score for name in states for score in score_names(name)}
    names = [score for score in asked.weights if score in scored_by]
    if not names:
        raise UsageError(f"no detector works with this model: {'; '.join(left_out.values())}")
    look: State | None = None
    references: tuple[str, ...] = ()
    if asked.typical is not None:
        look = _in_order(asked.typical.fit(classifier, first))
        if isinstance(asked.typical, Typicality):
            compared = clean.ids[parts.fit][asked.typical.compared_rows(look)]
            references = tuple(map(printable, compared.tolist()))
    others = clean.take(np.concatenate([parts.scale, parts.threshold]))
    scored = _Scoring(asked, classifier, states, names, look)(others, progress)
    scale, rest = np.split(scored.scores, [len(parts.scale)])
    told = np.asarray(np.isfinite(scale).any(axis=0))
    names = _finite_names(names, told, left_out)
    working = {each for each in states if set(score_names(each)) & set(names)}
    steps, scores = steps_of(scale[:, told]), rest[:, told]
    numbers = np.unique(clean.patients, return_inverse=True)[1]
    strata = _strata(first, scored, parts, numbers)
    clinic = Clinic(
        name=asked.name,
        states={each: state for each, state in states.items() if each in working},
        typical=look,
        references=references,
        steps=steps,
        scores=scores,
        fused=fuse(scores, steps, {each: float(asked.weights[each]) for each in names}),
        typicality=scored.typicality[len(parts.scale) :],
        patients=np.unique(clean.patients[parts.threshold], return_inverse=True)[1],
        hashes=film_hashes(clean.images),
        groups=(*groups_of(clean, parts.threshold), *groups_read(strata.codes > NOTHING)),
        strata=strata if asked.by_reading else None,
        shared=_shared(classifier, others, asked.detectors, scored.examined),
    )
    return _Made(clinic, names, left_out)


def _shared(
    classifier: BlackBox,
    films: Cohort,
    detectors: Mapping[str, InputDetector],
    examined: Examined | None,
) -> tuple[SharedMark, ...]:
    """Marks that films share; none of a gate without evidence regions."""
    if examined is None:
        return ()
    sides = [each.filter_side for each in detectors.values() if isinstance(each, EvidenceRegion)]
    return shared_marks(films, examined, side=sides[0], findings=classifier.findings)


def _strata(first: Readings, scored: _Scored, parts: _Rows, patients: Integers) -> Strata:
    """What the model reads on the films of each part; patients are numbers."""
    levels = levels_of(first.logits)
    scale, rest = np.split(scored.logits, [len(parts.scale)])
    codes = codes_of(np.concatenate([first.logits, scale]), levels)
    apart = patients[np.concatenate([parts.fit, parts.scale])]
    return Strata(
        levels=levels, codes=codes_of(rest, levels), others=np.stack([apart, codes], axis=1)
    )


def _states(
    detectors: Mapping[str, InputDetector], classifier: BlackBox, clean: Readings
) -> tuple[dict[str, State], dict[str, str]]:
    """The fitted states, and the reasons of detectors that can't be used with the model."""
    states: dict[str, State] = {}
    left_out: dict[str, str] = {}
    for name, detector in detectors.items():
        try:
            states[name] = _in_order(detector.fit(classifier, clean))
        except UsageError as error:  # a missing capability, such as batch normalisation
            left_out[name] = str(error)
    return states, left_out


def _finite_names(
    names: Sequence[str], told: NDArray[np.bool_], left_out: dict[str, str]
) -> list[str]:
    """The scores that clean films have; a score that is never finite is added to `left_out`."""
    for name, yes in zip(names, told.tolist(), strict=True):
        if not yes:
            left_out[name] = "it has no finite score on clean films"
    if not told.any():
        raise DataError(
            "no detector has a score for clean films: the model's outputs for changed "
            "films are not finite"
        )
    return [name for name, yes in zip(names, told.tolist(), strict=True) if yes]


class _Scored(NamedTuple):
    """(n, s) scores of clean films, (n,) out-of-distribution scores, (n, k) logits, and regions."""

    scores: Floats
    typicality: Floats
    logits: NDArray[np.float32]
    examined: Examined | None


@dataclass(frozen=True, eq=False)
class _Scoring:
    """Scores clean films with fitted detectors."""

    asked: _Asked
    classifier: BlackBox
    states: Mapping[str, State]
    names: Sequence[str]
    look: State | None

    def __call__(self, clean: Cohort, progress: Progress | None) -> _Scored:
        """Return their scores, a batch at a time."""
        scores, typicality = np.empty((len(clean), len(self.names))), np.zeros(len(clean))
        logits = np.empty((len(clean), len(self.classifier.findings)), np.float32)
        detectors = {name: self.asked.detectors[name] for name in self.states}
        examined: list[Examined] = []
        for rows in blocks(len(clean), BATCH):
            readings = read(self.classifier, clean.images[rows])
            logits[rows] = readings.logits
            scores[rows], found = score_films(
                detectors, self.states, self.names, self.classifier, readings
            )
            examined += [] if found is None else [found]
            if self.asked.typical is not None and self.look is not None:
                typicality[rows] = self.asked.typical.score(self.classifier, readings, self.look)
            if progress is not None:
                progress("calibration films", int(rows[-1]) + 1, len(clean))
        return _Scored(scores, typicality, logits, Examined.joined(examined) if examined else None)


def _in_order(state: State) -> State:
    """Arrays in the memory layout of a file, since the last digits of products depend on it."""
    return {name: np.ascontiguousarray(array) for name, array in state.items()}
