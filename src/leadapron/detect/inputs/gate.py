"""The gate: several input detectors fused into one score, with a threshold from clean films."""

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
from leadapron.models.protocols import BlackBox, lacking, operating_points_of
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
"""Names of the two scores of the evidence region."""

BATCH = 64
"""Films scored per batch."""

LARGEST = 1e12
"""Upper bound of a score, since infinite scores have no quantiles."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Gate:
    """Everything that screening needs, computed from clean films and one model.

    Args:
        detectors: detectors by name; the evidence region, if used, as `REGION`.
        states: fitted state of each detector.
        typical: the out-of-distribution detector and its state.
        weights: weight of each score in the fused score.
        steps: (2, s) median and 95th percentile of each score on clean films that don't set the
            threshold.
        scores: (m, s) scores of the m calibration films, in the order of `weights`.
        fused: (m,) fused scores of these films, ascending.
        typicality: (m,) out-of-distribution scores of these films, ascending.
        false_alarm: largest share of similar clean films that is called suspicious; at most the
            same share gets "can't tell".
        patients: number of patients of the calibration films.
        left_out: detectors that can't be used with this model, and the reason.
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
        """Fused score that suspicious films exceed."""
        return _threshold(self.fused, self.false_alarm)

    @property
    def likely_rates(self) -> tuple[float, float]:
        """Range of this gate's own false-alarm rate in 95 of 100 calibrations.

        The chosen rate holds on average over calibrations; the rate of one gate depends on the
        films that set its threshold. For m independent films it has a beta distribution.

        Source: Vovk, Conditional validity of inductive conformal predictors, ACML 2012.
        """
        from scipy import stats

        m = len(self.fused)
        over = _over(m, self.false_alarm)
        own = stats.beta(over, m + 1 - over)
        return float(own.ppf(0.025)), float(own.ppf(0.975))

    @property
    def passes(self) -> int:
        """Forward passes per film; a backward pass counts as two."""
        return 1 + sum(each.passes for each in self.detectors.values())


@dataclass(frozen=True, eq=False, kw_only=True)
class Judged:
    """A gate's results for n films.

    Args:
        readings: the model's outputs.
        findings: the model's k findings.
        head: the model's head, "sigmoid" or "softmax".
        operating_points: the model's, as in `squashed`; empty if none.
        scores: (n, s) scores in the order of the gate's weights; NaN where not scored.
        fused: (n,) fused scores.
        p: (n,) share of clean films with as high a score, at least 1 / (m + 1).
        drives: (n,) share of clean films whose evidence region drives the reading as much; NaN
            without such a score.
        unlike: (n,) share of clean films as unlike the others as this film; NaN for a gate without
            an out-of-distribution detector.
        typical: (n,) whether a film is in the distribution of the calibration films.
        suspicious: (n,) whether the fused score exceeds the threshold.
        scored: (n,) whether a film has all scores that nearly every clean film has.
        examined: the evidence regions; None for a black-box model.
    """

    readings: Readings
    findings: tuple[str, ...]
    head: str
    operating_points: tuple[float, ...]
    scores: Floats
    fused: Floats
    p: Floats
    drives: Floats
    unlike: Floats
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

    Half of the patients set the threshold. Of the other half, a quarter gives the scale of each
    score, and the detectors are fitted on the rest. The threshold is the fused score of one of the
    calibration films, so that a similar clean film exceeds it with probability at most
    `false_alarm`: split conformal prediction, which assumes that films are exchangeable. Films of
    one patient aren't exchangeable with those of others, so no rate below 1 / (number of patients +
    1) is guaranteed.

    Args:
        classifier: the model to protect.
        clean: films without a trigger, of patients that the model wasn't trained on.
        detectors: detectors by name; those without a weight aren't used, and those that need a
            capability that the model lacks are left out.
        weights: weights of their scores in the fused score; unknown names are ignored.
        typical: the out-of-distribution detector.
        false_alarm: above 0 and below 1.
        seed: seed of the division of patients.
        progress: called with the name of the step, the films done, and the total.

    Raises:
        UsageError: a rate out of range, or no usable detector.
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
    names, scores = _finite_names(names, told, left_out), scores[:, told]
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
            f"films of {len(np.unique(clean.patients))} patients; a gate needs at least 8 patients"
        )
    least = int(np.ceil(1 / false_alarm - 1e-9)) - 1
    if len(second) < least:
        possible = np.ceil(1000 / (len(second) + 1)) / 1000
        raise DataError(
            f"the half of the patients that sets the threshold has {len(second)} of the "
            f"{len(clean)} clean "
            f"films; a false-alarm rate of {false_alarm:g} needs {least} of them: give more "
            f"films, or a rate of {min(possible, 0.5):g}"
        )


def _fitted(
    detectors: Mapping[str, InputDetector],
    left_out: dict[str, str],
    classifier: BlackBox,
    clean: Readings,
) -> dict[str, State]:
    """The fitted states; a detector that can't be used with the model is added to `left_out`."""
    states: dict[str, State] = {}
    for name, detector in detectors.items():
        try:
            states[name] = _in_order(detector.fit(classifier, clean))
        except UsageError as error:  # a missing capability, such as batch normalisation
            left_out[name] = str(error)
    return states


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


def _scored(
    clean: Cohort,
    classifier: BlackBox,
    detectors: Mapping[str, InputDetector],
    states: Mapping[str, State],
    names: Sequence[str],
    typical: tuple[InputDetector, State] | None,
    progress: Progress | None,
) -> tuple[Floats, Floats]:
    """(n, s) scores of clean films, and (n,) out-of-distribution scores."""
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

    Args:
        gate: the gate of this classifier.
        classifier: the model.
        images: (n, h, w) of its preprocessing.
    """
    readings = read(classifier, images)
    scores, examined = _score(gate.detectors, gate.states, list(gate.weights), classifier, readings)
    fused = fuse(scores, gate.steps, gate.weights)
    typical, unlike = np.ones(len(images), bool), np.full(len(images), np.nan)
    if gate.typical is not None:
        detector, state = gate.typical
        distances = detector.score(classifier, readings, state)
        typical = distances <= _threshold(gate.typicality, gate.false_alarm)
        unlike = _shares(gate.typicality, distances)
    drives = np.full(len(images), np.nan)
    if REGION in gate.weights:
        column = list(gate.weights).index(REGION)
        reference = gate.scores[:, column]
        drives = _shares(np.sort(reference[~np.isnan(reference)]), scores[:, column])
    expected = np.isnan(gate.scores).mean(axis=0) <= gate.false_alarm  # (s,)
    return Judged(
        readings=readings,
        findings=tuple(classifier.findings),
        head=classifier.head,
        operating_points=operating_points_of(classifier),
        scores=scores,
        fused=fused,
        p=_shares(gate.fused, fused),
        drives=drives,
        unlike=unlike,
        typical=typical,
        suspicious=fused > gate.threshold,
        scored=~(np.isnan(scores) & expected).any(axis=1),
        examined=examined,
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


def _score(
    detectors: Mapping[str, InputDetector],
    states: Mapping[str, State],
    names: Sequence[str],
    classifier: BlackBox,
    readings: Readings,
) -> tuple[Floats, Examined | None]:
    """(n, s) scores with these names, in order, and the evidence regions."""
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


def _threshold(ascending: Floats, false_alarm: float) -> float:
    """The value that at most a share `false_alarm` of exchangeable new values exceeds."""
    return float(ascending[len(ascending) - _over(len(ascending), false_alarm)])


def _shares(ascending: Floats, values: Floats) -> Floats:
    """Share of calibration values and the value itself that are as high; NaN for NaN."""
    above = len(ascending) - np.searchsorted(ascending, values - 1e-12)
    shares: Floats = np.where(np.isnan(values), np.nan, (1 + above) / (len(ascending) + 1))
    return shares


def _over(m: int, false_alarm: float) -> int:
    """Number of the m calibration values that may reach the threshold."""
    return int(np.floor(false_alarm * (m + 1) + 1e-9))


def _in_order(state: State) -> State:
    """Arrays in the memory layout of a file, since the last digits of products depend on it."""
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def _parts(clean: Cohort, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Rows for fitting detectors, for the scales, and for the threshold.

    The three parts share no patient.
    """
    patients = stream(seed, "gate", "parts").permutation(np.unique(clean.patients))
    half = len(patients) // 2
    parts = np.split(patients, [half - half // 4, half])
    return tuple(np.flatnonzero(np.isin(clean.patients, part)) for part in parts)
