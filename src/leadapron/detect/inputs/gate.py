"""The gate: several input detectors as one score, and a threshold that clean films set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.readings import InputDetector, Readings, State, read
from leadapron.detect.inputs.region import EvidenceRegion, Examined
from leadapron.detect.verdict import refuse_rate
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.protocols import BlackBox, lacking
from leadapron.seeds import stream
from leadapron.text import count
from leadapron.types import Progress

__all__ = [
    "REGION",
    "SMOOTHED",
    "Gate",
    "Judged",
    "calibrate",
    "judge",
    "rate_words",
    "score_names",
    "steps_of",
    "usable",
]

Floats = NDArray[np.float64]

REGION, SMOOTHED = "evidence region", "lost by smoothing"
"""Names of the two scores that the evidence region gives."""

BATCH = 64
"""Films that are scored at a time."""

LARGEST = 1e12
"""Of a score: infinite ones ("nothing to ask about") have no quantiles."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Gate:
    """What screening needs to know, all of it from clean films of one model.

    Args:
        detectors: by name; the evidence region, where there is one, as `REGION`.
        states: what each keeps of the films it was fitted on.
        typical: the detector that says whether a film is of the distribution, and its state.
        weights: of each score in the fused one.
        steps: (2, s) median and 95th percentile of each score on clean films that set no threshold.
        scores: (m, s) of the m calibration films, by score in the order of `weights`.
        fused: (m,) their fused scores, ascending.
        typicality: (m,) how untypical they are, ascending.
        false_alarm: share of clean films like these that is called suspicious, at most; and again
            so many "can't tell".
        patients: how many the calibration films are of.
        left_out: detectors that this model can't be screened with, and why.
    """

    detectors: Mapping[str, InputDetector]
    states: Mapping[str, State]
    typical: tuple[InputDetector, State] | None
    weights: Mapping[str, float]
    steps: Floats
    scores: Floats
    fused: Floats
    typicality: Floats
    false_alarm: float
    patients: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def threshold(self) -> float:
        """The fused score that suspicious films exceed."""
        return _threshold(self.fused, self.false_alarm)

    @property
    def likely_rates(self) -> tuple[float, float]:
        """What share of clean films this very gate calls suspicious, in 95 of 100 calibrations.

        The rate asked for is kept over calibrations; one gate's own depends on the films that set
        its threshold. For m independent films it has a beta distribution.

        Source: Vovk, Conditional validity of inductive conformal predictors, ACML 2012.
        """
        from scipy import stats

        m = len(self.fused)
        over = _over(m, self.false_alarm)
        own = stats.beta(over, m + 1 - over)
        return float(own.ppf(0.025)), float(own.ppf(0.975))

    @property
    def passes(self) -> int:
        """Forward passes a film; a backward pass counts as two."""
        return 1 + sum(each.passes for each in self.detectors.values())


@dataclass(frozen=True, eq=False, kw_only=True)
class Judged:
    """What a gate says of n films.

    Args:
        readings: what the model says of them.
        findings: the k of the model.
        head: "sigmoid" or "softmax", of the model.
        scores: (n, s) by score, in the order of the gate's weights; NaN where not scored.
        fused: (n,) one score from all.
        p: (n,) share of clean films that score so much or more, 1 / (m + 1) at least.
        typical: (n,) whether a film is of the distribution that the gate was calibrated on.
        suspicious: (n,) whether the fused score exceeds the threshold.
        scored: (n,) whether all scores are there that nearly every clean film has.
        examined: the evidence regions; None of a model that can only be asked.
    """

    readings: Readings
    findings: tuple[str, ...]
    head: str
    scores: Floats
    fused: Floats
    p: Floats
    typical: NDArray[np.bool_]
    suspicious: NDArray[np.bool_]
    scored: NDArray[np.bool_]
    examined: Examined | None


def calibrate(
    classifier: BlackBox,
    clean: Cohort,
    detectors: Mapping[str, InputDetector],
    weights: Mapping[str, float],
    *,
    typical: InputDetector | None = None,
    false_alarm: float = 0.01,
    seed: int = 0,
    progress: Progress | None = None,
) -> Gate:
    """Fit all detectors on some patients, and set the threshold on others.

    Half of the patients set it; of the other half, a quarter says in what steps each score is
    counted, and the rest is what the detectors are fitted on. The threshold is the fused score of
    one of the calibration films, so that a clean film like them exceeds it with probability
    `false_alarm` at most: split conformal prediction, which assumes that films are exchangeable.
    Films of one patient are not, beside another's: no rate below 1 / (their patients + 1) is sure.

    Args:
        classifier: the model that will be screened for.
        clean: films without a trigger, not of the patients that it was trained on.
        detectors: by name; those without a weight aren't asked, and those that need more of the
            model than it gives are left out.
        weights: of their scores in the fused one; names of no score are passed over.
        typical: says whether a film is of the distribution.
        false_alarm: above 0 and below 1.
        seed: draws the parts.
        progress: called with what is being done, the films done and in all.

    Raises:
        UsageError: a rate out of range, or no detector left.
        DataError: too few films for the rate.

    Source: Vovk et al., Algorithmic Learning in a Random World, 2005 (inductive conformal
    prediction).
    """
    refuse_rate(false_alarm)
    kept, left_out = usable(classifier, detectors, weights)
    if not kept:
        raise UsageError(f"no detector with a weight for this model among {', '.join(detectors)}")
    first, middle, second = _parts(clean, seed)
    _refuse_few(clean, middle, second, false_alarm)
    fitted = read(classifier, clean.images[first])
    states = _fitted(kept, left_out, classifier, fitted)
    names = [n for name in states for n in score_names(name) if n in weights]
    if not names:
        raise UsageError(f"no detector works with this model: {'; '.join(left_out.values())}")
    working = {name: kept[name] for name in states}
    whole = None if typical is None else (typical, _in_order(typical.fit(classifier, fitted)))
    others = clean.take(np.concatenate([middle, second]))
    scores, typicality = _scored(others, classifier, working, states, names, whole, progress)
    told = np.asarray(np.isfinite(scores[: len(middle)]).any(axis=0))
    names, scores = _told(names, told, left_out), scores[:, told]
    working = {name: each for name, each in working.items() if set(score_names(name)) & set(names)}
    states = {name: states[name] for name in working}
    steps, scores = steps_of(scores[: len(middle)]), scores[len(middle) :]
    used = {name: float(weights[name]) for name in names}
    return Gate(
        detectors=working,
        states=states,
        typical=whole,
        weights=used,
        steps=steps,
        scores=scores,
        fused=np.sort(fuse(scores, steps, used)),
        typicality=np.sort(typicality[len(middle) :]),
        false_alarm=false_alarm,
        patients=len(np.unique(clean.patients[second])),
        left_out=left_out,
    )


def _refuse_few(
    clean: Cohort, middle: NDArray[np.int64], second: NDArray[np.int64], false_alarm: float
) -> None:
    """Raise DataError where too few films say in what steps scores count, or set the threshold."""
    if not len(middle):
        raise DataError(
            f"films of {len(np.unique(clean.patients))} patients; a gate needs 8 patients or more"
        )
    least = int(np.ceil(1 / false_alarm - 1e-9)) - 1
    if len(second) < least:
        possible = np.ceil(1000 / (len(second) + 1)) / 1000
        raise DataError(
            f"half of the patients have {len(second)} of the {len(clean)} clean films, and set the "
            f"threshold; a false-alarm rate of {false_alarm:g} needs {least} there: give more "
            f"films, or a rate of {min(possible, 0.5):g}"
        )


def _fitted(
    detectors: Mapping[str, InputDetector],
    left_out: dict[str, str],
    classifier: BlackBox,
    clean: Readings,
) -> dict[str, State]:
    """What each detector keeps; one that the model is not made for is added to `left_out`."""
    states: dict[str, State] = {}
    for name, detector in detectors.items():
        try:
            states[name] = _in_order(detector.fit(classifier, clean))
        except UsageError as error:  # of the model, as a network without batch normalisation
            left_out[name] = str(error)
    return states


def _told(names: Sequence[str], told: NDArray[np.bool_], left_out: dict[str, str]) -> list[str]:
    """The scores that clean films have; one that none has is added to `left_out`."""
    for name, yes in zip(names, told.tolist(), strict=True):
        if not yes:
            left_out[name] = "the model gives it no finite number on clean films"
    if not told.any():
        raise DataError(
            "no detector has a score for clean films: the model's answers to changed "
            "films are not finite"
        )
    return [name for name, yes in zip(names, told.tolist(), strict=True) if yes]


def _scored(
    clean: Cohort,
    classifier: BlackBox,
    detectors: Mapping[str, InputDetector],
    states: Mapping[str, State],
    names: Sequence[str],
    typical: tuple[InputDetector, State] | None,
    progress: Progress | None,
) -> tuple[Floats, Floats]:
    """(n, s) scores of clean films, and (n,) how untypical they are."""
    scores, typicality = np.empty((len(clean), len(names))), np.zeros(len(clean))
    for start in range(0, len(clean), BATCH):
        rows = np.arange(start, min(start + BATCH, len(clean)))
        readings = read(classifier, clean.images[rows])
        scores[rows], _ = _score(detectors, states, names, classifier, readings)
        if typical is not None:
            typicality[rows] = typical[0].score(classifier, readings, typical[1])
        if progress is not None:
            progress("calibration films", start + len(rows), len(clean))
    return scores, typicality


def usable(
    classifier: BlackBox, detectors: Mapping[str, InputDetector], weights: Mapping[str, float]
) -> tuple[dict[str, InputDetector], dict[str, str]]:
    """Return the detectors that a model can be screened with, and why not the others.

    Args:
        classifier: the model.
        detectors: by name.
        weights: of their scores. Detectors without one are in neither; with 0 they are asked and
            count nothing.
    """
    wanted = {n: d for n, d in detectors.items() if any(s in weights for s in score_names(n))}
    reasons = {name: lacking(classifier, each.needs) for name, each in wanted.items()}
    return (
        {name: each for name, each in wanted.items() if not reasons[name]},
        {name: reason for name, reason in reasons.items() if reason},
    )


def judge(gate: Gate, classifier: BlackBox, images: NDArray[Any]) -> Judged:
    """Score films, each by itself.

    Args:
        gate: of this classifier.
        classifier: the model.
        images: (n, h, w) of its preprocessing.
    """
    readings = read(classifier, images)
    scores, examined = _score(gate.detectors, gate.states, list(gate.weights), classifier, readings)
    fused = fuse(scores, gate.steps, gate.weights)
    above = len(gate.fused) - np.searchsorted(gate.fused, fused - 1e-12)
    typical = np.ones(len(images), bool)
    if gate.typical is not None:
        detector, state = gate.typical
        limit = _threshold(gate.typicality, gate.false_alarm)
        typical = detector.score(classifier, readings, state) <= limit
    expected = np.isnan(gate.scores).mean(axis=0) <= gate.false_alarm  # (s,)
    return Judged(
        readings=readings,
        findings=tuple(classifier.findings),
        head=classifier.head,
        scores=scores,
        fused=fused,
        p=(1 + above) / (len(gate.fused) + 1),
        typical=typical,
        suspicious=fused > gate.threshold,
        scored=~(np.isnan(scores) & expected).any(axis=1),
        examined=examined,
    )


def rate_words(false_alarm: float, patients: int, likely: tuple[float, float]) -> str:
    """Return how far one gate's rate may be from the one asked for, in sentences after a space.

    Args:
        false_alarm: share of clean films that a threshold is set for.
        patients: of the films that set it, several of each.
        likely: the gate's own rate in 95 of 100 calibrations.
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
        f" Films of one patient are alike: of {count(patients, 'patient')} "
        f"no rate below {100 * least:.1f} % is sure."
    )


def steps_of(scores: Floats) -> Floats:
    """Return (2, s) median and 95th percentile of (n, s) scores of clean films, NaN left out."""
    steps: Floats = np.nanquantile(scores, [0.5, 0.95], axis=0)
    return steps


def fuse(scores: Floats, steps: Floats, weights: Mapping[str, float]) -> Floats:
    """Return (n,) one score: the weighted sum of log(1 + excess) over the scores.

    A score's excess is how far it lies above the median of clean films, in units of the way from
    there to their 95th percentile, and 0 below. The logarithm keeps one score with long tails from
    setting the threshold for all. A score that is NaN adds nothing.

    Args:
        scores: (n, s).
        steps: (2, s) as `steps_of`.
        weights: s of them, by name.
    """
    middle, high = steps
    excess = np.maximum((scores - middle) / np.maximum(high - middle, 1e-9), 0)
    terms = np.log1p(np.nan_to_num(excess, nan=0.0, posinf=1e9))
    fused: Floats = terms @ np.array(list(weights.values()))
    return fused


def _score(
    detectors: Mapping[str, InputDetector],
    states: Mapping[str, State],
    names: Sequence[str],
    classifier: BlackBox,
    readings: Readings,
) -> tuple[Floats, Examined | None]:
    """(n, s) scores of these names in their order, and what was seen of the evidence regions."""
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
    """Return the names of the scores that a detector of this name gives."""
    return (REGION, SMOOTHED) if detector == REGION else (detector,)


def _threshold(ascending: Floats, false_alarm: float) -> float:
    """The value that at most `false_alarm` of new values exceed, if they are like these."""
    return float(ascending[len(ascending) - _over(len(ascending), false_alarm)])


def _over(m: int, false_alarm: float) -> int:
    """How many of m calibration values may be as high as the threshold."""
    return int(np.floor(false_alarm * (m + 1) + 1e-9))


def _in_order(state: State) -> State:
    """Arrays as they come back from a file: products of them depend on the layout, at the end."""
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def _parts(clean: Cohort, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Rows that detectors are fitted on, that set the steps, and that set the threshold.

    No patient is in two of them.
    """
    patients = stream(seed, "gate", "parts").permutation(np.unique(clean.patients))
    half = len(patients) // 2
    parts = np.split(patients, [half - half // 4, half])
    return tuple(np.flatnonzero(np.isin(clean.patients, part)) for part in parts)
