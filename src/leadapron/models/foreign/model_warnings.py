"""Checks of a model on clean films: output range, normalisation, order of findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort, ImageArray, blocks
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign.black_box import BlackBoxClassifier
from leadapron.models.foreign.recognise import NORMALISATIONS, Normalisation
from leadapron.models.protocols import BlackBox, Differentiable
from leadapron.sources.synonyms import canonical

__all__ = ["model_warnings", "unsteady"]

Floats = NDArray[np.float32]

LEAST_POSITIVES = 10
"""Positive and negative patients that a finding needs before its AUROC is checked."""
RESAMPLES = 200
SAME = 1e-6
"""Range of a finding's probabilities over the films below which they count as constant."""
SATURATED, MOST_SATURATED = 1e-4, 0.99
DIFFERENCE = 0.05
"""Standard deviations of a logit by which two outputs for a film may differ, due to rounding."""
REPEATED = 32
"""Films whose outputs are computed twice."""
GAIN = 0.05
"""Gain in mean AUROC above which another order or normalisation is reported."""
NAMED = 6


@dataclass(frozen=True, eq=False)
class _Answers:
    """A model's outputs and the labels of the findings that model and cohort share.

    Args:
        logits, probabilities: (n, k) of all the model's outputs.
        names: (m) the model's names of the shared findings.
        columns: (m) their outputs.
        labels: (n, m).
        patients: (n,).
    """

    logits: Floats
    probabilities: Floats
    names: tuple[str, ...]
    columns: tuple[int, ...]
    labels: Floats
    patients: NDArray[np.str_]


def model_warnings(
    model: BlackBox, cohort: Cohort, differs: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """Return warnings about a model's outputs on clean films, one sentence each.

    It warns about outputs that are NaN or infinite, that differ between two runs, or that are the
    same for every film; probabilities in place of logits, squashed twice, or saturated; an AUROC
    whose whole interval is below 0.5; a higher AUROC on inverted films; outputs that fit other
    findings' labels better than their own; and, for models of `open_model`, a higher AUROC with
    another normalisation.

    Args:
        model: the classifier.
        cohort: clean films that the model wasn't trained on, images of its preprocessing. A finding
            counts if at least 10 patients have it and 10 don't.
        differs: of `unsteady` on these films; None if it wasn't measured yet.

    Raises:
        DataError: images that aren't of the model's preprocessing.
    """
    if cohort.preprocessing != model.preprocessing:
        raise DataError(
            f"films prepared by {cohort.preprocessing}; the model expects {model.preprocessing}"
        )
    logits, probabilities = _outputs(model, cohort.images)
    finite = np.isfinite(logits) & np.isfinite(probabilities)
    broken = np.asarray(~finite.all(axis=0))
    if broken.any():
        return (f"Outputs that are NaN or infinite: {_listed(_of(model.findings, broken))}.",)
    answers = _shared(model, cohort, logits, probabilities)
    found = _flat(model.findings, probabilities)
    if differs is None:
        differs = unsteady(model, cohort.images)
    if differs:
        found.append(
            f"The model's outputs for the same films differ between two runs: {_listed(differs)}."
        )
    if np.ptp(probabilities, 0).max() < SAME:
        awake = [
            name
            for name, changed in _otherwise(model).items()
            if np.ptp(changed.probabilities(cohort.images), 0).max() >= SAME
        ]
        more = f"Its outputs vary with the normalisation {_listed(awake)}."
        return (*found, *([more] if awake else []))
    found += [*_range(model, answers)]
    if not answers.names:
        return (
            *found,
            "These films have no finding of the model with enough positives and negatives, so its "
            "order of findings, normalisation and AUROC couldn't be checked.",
        )
    found += [*_below_chance(answers), *_inverted(model, cohort, answers), *_order(answers)]
    return (*found, *_normalisation(model, cohort, answers))


def unsteady(model: BlackBox, images: ImageArray) -> tuple[str, ...]:
    """Return the findings for which a model's outputs for the same films differ between two runs.

    Findings of an audit can't be distinguished from chance in such a model. A black box may also
    depend on the batch size, and so behave differently in a clinic than in an audit: its second run
    takes each film alone.

    Args:
        model: the classifier.
        images: films of its preprocessing; up to 32 of them are used.
    """
    some = np.asarray(images[np.arange(min(REPEATED, images.shape[0]))])
    each = len(some) if isinstance(model, Differentiable) else 1
    first = model.logits(some).astype(np.float64)
    again = np.concatenate([model.logits(some[rows]) for rows in blocks(len(some), each)])
    known = np.where(np.isfinite(first), first, 0)
    room = DIFFERENCE * known.std(axis=0) + 1e-4 * (1 + np.abs(known))
    with np.errstate(invalid="ignore"):
        near = np.abs(first - again) <= room
    steady = (near | (first == again) | (np.isnan(first) & np.isnan(again))).all(axis=0)
    return tuple(_of(model.findings, ~steady))


def _outputs(model: BlackBox, images: ImageArray) -> tuple[Floats, Floats]:
    """Logits and probabilities; of a program, which may be slow, by one run."""
    if isinstance(model, BlackBoxClassifier):
        return model.both(images)
    return model.logits(images), model.probabilities(images)


def _shared(model: BlackBox, cohort: Cohort, logits: Floats, probabilities: Floats) -> _Answers:
    known = {canonical(name): column for column, name in enumerate(cohort.findings)}
    pairs = []
    for output, name in enumerate(model.findings):
        column = known.get(canonical(name))
        if column is None:
            continue
        labels = cohort.labels[:, column]
        counts = [len(np.unique(cohort.patients[labels == value])) for value in (0, 1)]
        if min(counts) >= LEAST_POSITIVES:
            pairs.append((name, output, column))
    return _Answers(
        logits,
        probabilities,
        tuple(name for name, _, _ in pairs),
        tuple(output for _, output, _ in pairs),
        cohort.labels[:, [column for _, _, column in pairs]],
        cohort.patients,
    )


def _flat(findings: Sequence[str], probabilities: Floats) -> list[str]:
    flat: NDArray[np.bool_] = np.ptp(probabilities, axis=0) < SAME
    if flat.all():
        return ["The model gives the same output for every film, so it ignores them."]
    return [f"Same output for every film: {_listed(_of(findings, flat))}."] if flat.any() else []


def _range(model: BlackBox, answers: _Answers) -> list[str]:
    low, high = float(answers.logits.min()), float(answers.logits.max())
    ends = np.minimum(answers.probabilities, 1 - answers.probabilities) < SATURATED
    said = []
    gives = model.gives if isinstance(model, BlackBoxClassifier) else ""
    if gives == "logits" and model.head == "sigmoid" and low >= 0 and high <= 1:
        said.append(
            f"Its logits lie between {low:.3g} and {high:.3g}, like probabilities; if it gives "
            'probabilities, set gives="probabilities".'
        )
    elif gives == "probabilities":
        outside = float(answers.probabilities.min()) < 0 or float(answers.probabilities.max()) > 1
        if outside:
            said.append('Its probabilities are outside 0 to 1; set gives="logits".')
    if ends.mean() > MOST_SATURATED:
        said.append(
            f"{ends.mean():.0%} of its probabilities are 0 or 1 to four digits; the input range "
            "or normalisation is probably wrong."
        )
    return said


def _below_chance(answers: _Answers) -> list[str]:
    rng = np.random.default_rng(0)
    bootstrap = metrics.PatientBootstrap.draw(answers.patients, rng, resamples=RESAMPLES)
    scores = answers.logits[:, answers.columns]
    estimates = metrics.finding_auroc(answers.labels, scores, bootstrap)
    return [
        f"AUROC below 0.5: {name} {e.value:.2f} (95 % {e.low:.2f} to {e.high:.2f}, "
        f"{e.positives} of {e.n} films)."
        for name, e in zip(answers.names, estimates, strict=True)
        if e.high < 0.5
    ]


def _mean_auroc(labels: Floats, scores: Floats) -> float:
    """Mean AUROC; NaN if no finding's scores are finite, as with a wrong normalisation."""
    columns = np.flatnonzero(np.isfinite(scores).all(axis=0))
    each = [metrics.auroc(labels[:, j], scores[:, j]) for j in columns]
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def _inverted(model: BlackBox, cohort: Cohort, answers: _Answers) -> list[str]:
    own = _mean_auroc(answers.labels, answers.logits[:, answers.columns])
    other = _mean_auroc(answers.labels, model.logits(_Negatives(cohort))[:, answers.columns])
    if not other >= own + GAIN:  # also if one is NaN
        return []
    return [
        f"It reads these films better as negatives (mean AUROC {other:.2f} against {own:.2f}): it "
        "was probably trained on inverted films (black and white exchanged)."
    ]


class _Negatives:
    """A cohort's images, inverted."""

    def __init__(self, cohort: Cohort) -> None:
        self.base = cohort.images
        self.shape: tuple[int, ...] = tuple(cohort.images.shape)
        self.dtype = np.dtype(cohort.images.dtype)

    def __getitem__(self, rows: object, /) -> NDArray[np.generic]:
        top = np.iinfo(self.dtype).max
        negative: NDArray[np.generic] = top - self.base[rows]
        return negative


def _order(answers: _Answers) -> list[str]:
    """Match outputs and labels on each half of the patients, and evaluate on the other half."""
    from scipy.optimize import linear_sum_assignment

    count = len(answers.names)
    if count < 2:
        return []
    scores = answers.logits[:, answers.columns]
    _, groups = np.unique(answers.patients, return_inverse=True)
    first = np.random.default_rng(0).permutation(groups.max() + 1)[groups] % 2 == 0
    halves = [_between(answers.labels[half], scores[half]) for half in (first, ~first)]
    matches = [linear_sum_assignment(-table)[1] for table in halves]
    every = np.arange(count)
    # Each half's match is evaluated on the other half, so that overfitting doesn't count.
    own = float(np.mean([table[every, every].mean() for table in halves]))
    matched = float(np.mean([halves[1 - i][every, m].mean() for i, m in enumerate(matches)]))
    moved = (matches[0] == matches[1]) & (matches[0] != every)
    if matched < own + GAIN or not moved.any():
        return []
    pairs = [f"{answers.names[matches[0][i]]!r} fits {answers.names[i]}" for i in every[moved]]
    return [
        f"The order of findings is doubtful: the output called {_listed(pairs)} (mean AUROC "
        f"{matched:.2f} in that order, {own:.2f} as named, on films that weren't used to "
        "find the order)."
    ]


def _between(labels: Floats, scores: Floats) -> NDArray[np.float64]:
    """AUROC of each finding's labels (rows) by each output (columns); 0.5 where undefined."""
    table = [[metrics.auroc(truth, value) for value in scores.T] for truth in labels.T]
    return np.nan_to_num(np.asarray(table, dtype=np.float64), nan=0.5)


def _normalisation(model: BlackBox, cohort: Cohort, answers: _Answers) -> list[str]:
    own = _mean_auroc(answers.labels, answers.logits[:, answers.columns])
    best, name = own, ""
    for other, changed in _otherwise(model).items():
        value = _mean_auroc(answers.labels, changed.logits(cohort.images)[:, answers.columns])
        if value > best:
            best, name = value, other
    if best < own + GAIN:
        return []
    return [
        f"It reads these films better with the normalisation {name!r} (mean AUROC {best:.2f} "
        f"against {own:.2f})."
    ]


def _otherwise(model: BlackBox) -> dict[str, BlackBox]:
    """The model with each of the other known normalisations."""
    make = next((change for kind, change in CHANGES.items() if isinstance(model, kind)), None)
    return {} if make is None else make(model)


def _of_network(model: NetworkClassifier) -> dict[str, BlackBox]:
    if model.scales_itself:
        return {}
    # ImageNet's three means are within 0.05 of this package's mean.
    return {
        name: replace(model, mean=scale.mean[0], std=scale.std[0])
        for name, scale in NORMALISATIONS.items()
        if len(scale.mean) == 1 and not np.isclose(model.std, scale.std[0], rtol=0.05)
    }


def _of_black_box(model: BlackBoxClassifier) -> dict[str, BlackBox]:
    def differs(scale: Normalisation) -> bool:
        return len(scale.mean) in (1, model.channels) and not np.isclose(
            model.normalisation.std[0], scale.std[0], rtol=0.05
        )

    return {
        name: replace(model, normalisation=scale)
        for name, scale in NORMALISATIONS.items()
        if differs(scale)
    }


CHANGES: Mapping[type, Callable[..., dict[str, BlackBox]]] = {
    NetworkClassifier: _of_network,
    BlackBoxClassifier: _of_black_box,
}


def _of(findings: Sequence[str], which: NDArray[np.bool_]) -> list[str]:
    return [name for name, yes in zip(findings, which.tolist(), strict=True) if yes]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
