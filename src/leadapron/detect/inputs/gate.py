"""The gate: several input detectors fused into one score, with thresholds from clean films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.clinic import Clinic
from leadapron.detect.inputs.readings import InputDetector, Readings, State, read
from leadapron.detect.inputs.region import EvidenceRegion, Examined
from leadapron.detect.inputs.typical import Typicality
from leadapron.films.cohort import ImageArray, blocks
from leadapron.models.protocols import BlackBox, lacking, operating_points_of
from leadapron.text import count

__all__ = [
    "REGION",
    "SMOOTHED",
    "Gate",
    "Judged",
    "fuse",
    "judge",
    "rate_words",
    "score_films",
    "score_names",
    "steps_of",
    "untypical_films",
    "usable",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

Arrays = TypeVar("Arrays")
"""A dataclass of arrays with the same number of rows."""

REGION, SMOOTHED = "evidence region", "lost by smoothing"
"""Names of the two scores of the evidence region."""

BATCH = 64
"""Films in memory at a time."""

LARGEST = 1e12
"""Upper bound of a score, since infinite scores have no quantiles."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Gate:
    """Everything that screening needs, computed from clean films and one model.

    Args:
        detectors: detectors by name; the evidence region, if used, as `REGION`.
        typical: the out-of-distribution detector.
        weights: weight of each score in the fused score.
        clinics: what is kept of each clinic's films, one or more.
        false_alarm: largest share of a clinic's clean films that is called suspicious; at most the
            same share gets "can't tell".
        left_out: detectors that can't be used with this model, and the reason.
    """

    detectors: Mapping[str, InputDetector]
    typical: InputDetector | None
    weights: Mapping[str, float]
    clinics: tuple[Clinic, ...]
    false_alarm: float
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Rate at which each threshold of a clinic is set.

        It is the false-alarm rate for one clinic. With several clinics it is half: a clinic's film
        is suspicious only if it exceeds that clinic's threshold, or if it is untypical of that
        clinic and another one's threshold decides.
        """
        return rate_of(self.false_alarm, len(self.clinics))

    @property
    def passes(self) -> int:
        """Forward passes per film; a backward pass counts as two."""
        return 1 + sum(each.passes for each in self.detectors.values())

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Fused score that suspicious films exceed, by clinic, where its films share one."""
        return tuple(each.threshold(self.rate) for each in self.clinics)


def rate_of(false_alarm: float, clinics: int) -> float:
    """Return the rate of each threshold of a gate; see `Gate.rate`."""
    return false_alarm if clinics == 1 else false_alarm / 2


def most_alike(gate: Gate, clinic: int, image: NDArray[Any]) -> NDArray[Any] | None:
    """Return (h, w) the clinic's film that looks most like a film; None if it keeps no pictures.

    Args:
        gate: the gate.
        clinic: number of the clinic that decided, from 0.
        image: (h, w) the film, as the gate judged it.
    """
    kept = gate.clinics[clinic]
    if kept.pictures is None or not isinstance(gate.typical, Typicality):
        return None
    if image.shape != kept.pictures.shape[1:] or image.dtype != kept.pictures.dtype:
        return None  # a film of another gate
    found = gate.typical.compare(image[None], kept.typical or {})
    picture: NDArray[Any] = kept.pictures[found.nearest[0, 0]]
    return picture


@dataclass(frozen=True, eq=False, kw_only=True)
class Judged:
    """A gate's results for n films.

    Args:
        readings: the model's outputs.
        findings: the model's k findings.
        head: the model's head, "sigmoid" or "softmax".
        operating_points: the model's, as in `squashed`; empty if none.
        scores: (n, s) scores in the order of the gate's weights; NaN where not scored.
        clinic: (n,) number of the clinic whose thresholds decide, from 0; for a film that is
            typical of none, the clinic that it is least unlike.
        nearest: (n, r) numbers of that clinic's reference films that look most like this film, the
            nearest first; r is 0 for a gate that compares with none.
        fused: (n,) fused scores.
        p: (n,) share of that clinic's clean films, or of their stratum, with as high a score.
        drives: (n,) share of clean films whose evidence region drives the reading as much; NaN
            without such a score.
        unlike: (n,) share of clean films as unlike the others as this film, the largest of all
            clinics; NaN for a gate without an out-of-distribution detector.
        typical: (n,) whether a film is in the distribution of a clinic's calibration films.
        suspicious: (n,) whether the fused score exceeds the threshold.
        scored: (n,) whether a film has all scores that nearly every clean film has.
        examined: the evidence regions; None for a black-box model.
    """

    readings: Readings
    findings: tuple[str, ...]
    head: str
    operating_points: tuple[float, ...]
    scores: Floats
    clinic: Integers
    nearest: Integers
    fused: Floats
    p: Floats
    drives: Floats
    unlike: Floats
    typical: NDArray[np.bool_]
    suspicious: NDArray[np.bool_]
    scored: NDArray[np.bool_]
    examined: Examined | None


def usable(
    classifier: BlackBox, detectors: Mapping[str, InputDetector], weights: Mapping[str, float]
) -> tuple[dict[str, InputDetector], dict[str, str]]:
    """Return the detectors that can be used with a model, and the reasons for the others.

    Args:
        classifier: the model.
        detectors: by name.
        weights: weights of their scores. Detectors without a weight are in neither result; with
            weight 0 they run but don't count.
    """
    wanted = {n: d for n, d in detectors.items() if any(s in weights for s in score_names(n))}
    reasons = {name: lacking(classifier, each.needs) for name, each in wanted.items()}
    return (
        {name: each for name, each in wanted.items() if not reasons[name]},
        {name: reason for name, reason in reasons.items() if reason},
    )


def judge(gate: Gate, classifier: BlackBox, images: NDArray[Any]) -> Judged:
    """Score films independently of each other.

    A film is judged by the clinic of which it is most typical. If it is suspicious there, it is
    judged by the other clinics of which it is typical too, and the one with the largest p decides:
    a film is suspicious if each clinic that it may come from calls it so. A clinic's film is
    therefore suspicious only if that clinic's threshold says so, or if it is untypical of that
    clinic, and each of the two happens to at most `gate.rate` of its films.

    Args:
        gate: the gate of this classifier.
        classifier: the model.
        images: (n, h, w) of its preprocessing.
    """
    readings = read(classifier, images)
    looks = _looks(gate, classifier, readings)
    turns = np.lexsort((looks.beyond, -looks.unlike), axis=0)  # (c, n), the most typical first
    parts: list[_Part] = []
    chosen = np.full(len(images), -1)
    p = np.full(len(images), -1.0)
    accused = np.ones(len(images), bool)
    done = 0
    for number, turn in enumerate(turns):
        for clinic in np.unique(turn):
            asked = accused if number == 0 else accused & looks.typical[clinic]
            rows = np.flatnonzero(asked & (turn == clinic))
            if not len(rows):
                continue
            part = _judged_by(gate, int(clinic), classifier, _some(readings, rows))
            parts.append(part)
            milder = part.p > p[rows]
            chosen[rows[milder]] = done + np.flatnonzero(milder)
            p[rows] = np.maximum(p[rows], part.p)
            done += len(rows)
        accused = _picked(parts, chosen).suspicious
    whole = _picked(parts, chosen)
    films = np.arange(len(images))
    unlike = looks.unlike.max(axis=0)
    return Judged(
        readings=readings,
        findings=tuple(classifier.findings),
        head=classifier.head,
        operating_points=operating_points_of(classifier),
        scores=whole.scores,
        clinic=whole.clinic,
        nearest=looks.nearest[whole.clinic, films],
        fused=whole.fused,
        p=whole.p,
        drives=whole.drives,
        unlike=np.full(len(images), np.nan) if gate.typical is None else unlike,
        typical=np.asarray(looks.typical.any(axis=0)),
        suspicious=whole.suspicious,
        scored=whole.scored,
        examined=whole.examined,
    )


@dataclass(frozen=True, eq=False)
class _Looks:
    """How n films look to each of c clinics.

    Args:
        typical: (c, n) whether a film is in the distribution of the clinic's films.
        unlike: (c, n) share of the clinic's films as unlike the others; 1 without a detector.
        beyond: (c, n) how far the film is beyond the clinic's limit, in the detector's unit.
        nearest: (c, n, r) numbers of the clinic's reference films.
    """

    typical: Booleans
    unlike: Floats
    beyond: Floats
    nearest: Integers


def _looks(gate: Gate, classifier: BlackBox, readings: Readings) -> _Looks:
    n, c, detector = len(readings), len(gate.clinics), gate.typical
    if detector is None:
        same = np.ones((c, n))
        return _Looks(same > 0, same, same, np.empty((c, n, 0), np.int64))
    beyond, unlike, nearest = [], [], []
    for clinic in gate.clinics:
        state = clinic.typical or {}
        if isinstance(detector, Typicality):
            compared = detector.compare(readings.images, state)
            far, near = compared.scores, compared.nearest
        else:
            far, near = detector.score(classifier, readings, state), np.empty((n, 0), np.int64)
        beyond.append(far - clinic.farthest(gate.rate))
        unlike.append(clinic.shares(clinic.typicality, far, gate.rate))
        nearest.append(near)
    distances = np.stack(beyond)
    return _Looks(distances <= 0, np.stack(unlike), distances, np.stack(nearest))


@dataclass(frozen=True, eq=False)
class _Part:
    """Some films, judged by one clinic's thresholds; fields as those of `Judged`."""

    scores: Floats
    clinic: Integers
    fused: Floats
    p: Floats
    drives: Floats
    suspicious: Booleans
    scored: Booleans
    examined: Examined | None


def _judged_by(gate: Gate, number: int, classifier: BlackBox, readings: Readings) -> _Part:
    """The films, judged by one clinic's thresholds."""
    clinic = gate.clinics[number]
    scores, examined = score_films(
        gate.detectors, clinic.states, list(gate.weights), classifier, readings
    )
    fused = fuse(scores, clinic.steps, gate.weights)
    drives = np.full(len(readings), np.nan)
    if REGION in gate.weights:
        column = list(gate.weights).index(REGION)
        drives = clinic.shares(clinic.scores[:, column], scores[:, column], gate.rate)
    expected = np.isnan(clinic.scores).mean(axis=0) <= gate.false_alarm  # (s,)
    return _Part(
        scores=scores,
        clinic=np.full(len(readings), number),
        fused=fused,
        p=clinic.p(readings.logits, fused, gate.rate),
        drives=drives,
        suspicious=fused > clinic.thresholds(readings.logits, gate.rate),
        scored=~(np.isnan(scores) & expected).any(axis=1),
        examined=examined,
    )


def _some(readings: Readings, rows: Integers) -> Readings:
    """Some films; the readings themselves if it is all of them."""
    return readings if len(rows) == len(readings) else readings.take(rows)


def _picked(parts: Sequence[Arrays], rows: Integers) -> Arrays:
    """Rows of dataclasses of arrays that are joined."""
    values: dict[str, Any] = {}
    for each in fields(parts[0]):  # type: ignore[arg-type]
        columns = [getattr(part, each.name) for part in parts]
        if is_dataclass(columns[0]):
            values[each.name] = _picked(columns, rows)
        else:
            values[each.name] = None if columns[0] is None else np.concatenate(columns)[rows]
    return type(parts[0])(**values)


def untypical_films(gate: Gate, classifier: BlackBox, images: ImageArray) -> int:
    """Return how many films are in the distribution of no clinic's calibration films.

    Args:
        gate: the gate of this classifier.
        classifier: the model.
        images: (n, h, w) of its preprocessing.
    """
    return sum(
        int((~_looks(gate, classifier, read(classifier, images[rows])).typical.any(axis=0)).sum())
        for rows in blocks(images.shape[0], BATCH)
    )


def rate_words(false_alarm: float, patients: int, likely: tuple[float, float]) -> str:
    """Return how far one gate's rate may be from the chosen rate, in sentences after a space.

    Args:
        false_alarm: chosen false-alarm rate.
        patients: number of patients of the films that set the threshold.
        likely: range of the gate's own rate in 95 of 100 calibrations.
    """
    low, high = (100 * rate for rate in likely)
    words = (
        " That is the average over calibrations: one gate's own rate is "
        f"{low:.1f} to {high:.1f} % in 95 of 100."
    )
    least = 1 / (patients + 1)
    if false_alarm >= least:
        return words
    return words + (
        f" Films of one patient are similar, so with {count(patients, 'patient')} "
        f"no rate below {100 * least:.1f} % is guaranteed."
    )


def steps_of(scores: Floats) -> Floats:
    """Return (2, s) median and 95th percentile of (n, s) scores of clean films, without NaN."""
    steps: Floats = np.nanquantile(scores, [0.5, 0.95], axis=0)
    return steps


def fuse(scores: Floats, steps: Floats, weights: Mapping[str, float]) -> Floats:
    """Return (n,) one score: the weighted sum of log(1 + excess) over the scores.

    A score's excess is its distance above the median of clean films, in units of the distance from
    the median to their 95th percentile, and 0 below. The logarithm keeps one score with long tails
    from dominating the threshold. A NaN score adds nothing.

    Args:
        scores: (n, s).
        steps: (2, s) as `steps_of`.
        weights: s weights by name.
    """
    middle, high = steps
    excess = np.maximum((scores - middle) / np.maximum(high - middle, 1e-9), 0)
    terms = np.log1p(np.nan_to_num(excess, nan=0.0, posinf=1e9))
    fused: Floats = terms @ np.array(list(weights.values()))
    return fused


def score_films(
    detectors: Mapping[str, InputDetector],
    states: Mapping[str, State],
    names: Sequence[str],
    classifier: BlackBox,
    readings: Readings,
) -> tuple[Floats, Examined | None]:
    """Return (n, s) scores of films, and their evidence regions.

    Args:
        detectors: by name.
        states: their fitted states, by the same names.
        names: names of the s scores, in order.
        classifier: the model.
        readings: the n films, and the model's outputs.
    """
    found: dict[str, Floats] = {}
    examined = None
    for name, detector in detectors.items():
        if isinstance(detector, EvidenceRegion):
            examined = detector.examine(classifier, readings, states[name])
            found |= {REGION: examined.scores, SMOOTHED: examined.smoothed}
        else:
            found[name] = detector.score(classifier, readings, states[name])
    scores = np.stack([found[name] for name in names], axis=1)
    return np.clip(scores, -LARGEST, LARGEST), examined


def score_names(detector: str) -> tuple[str, ...]:
    """Return the names of a detector's scores."""
    return (REGION, SMOOTHED) if detector == REGION else (detector,)
