"""Measurements of two models on a test set, as rows with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.attacks.poisoning import Poisoning, desired, stamp, victims
from leadapron.explainers import EXPLAINERS
from leadapron.films.cohort import Cohort, Rows
from leadapron.models.classifier import NetworkClassifier
from leadapron.results.names import (
    ATTACK_SUCCESS,
    AUROC,
    CALIBRATED,
    CENTRE,
    CHANCE,
    ENERGY,
    FINDING,
    MACRO,
    MACRO_FREQUENT,
    MAP_DETECTION,
    MICRO,
    NARROW,
    POINTING_HIT,
    POSITIVE_PATIENTS,
    ROLES,
    SEPARATION,
    THRESHOLD,
    TOP_OVERLAP,
    WIDE,
    Role,
    mixed,
)
from leadapron.results.rows import Row
from leadapron.study.settings import Evaluation

__all__ = [
    "Explained",
    "Triggered",
    "attack_rows",
    "clean_rows",
    "explain",
    "explanation_rows",
    "predict",
    "row_of",
]

Floats = NDArray[np.float32]
Models = Mapping[Role, NetworkClassifier]

PAPER_THRESHOLDS = (0.6, 0.9)
PAPER_EPSILONS = (0.001, 0.01, 0.8, 1.0)
"""Shares of triggered films in the mixed test sets of arXiv 2101.00008."""
FREQUENT = 20
"""Fewest positive patients of a finding in the macro AUROC of frequent findings."""


class Triggered(NamedTuple):
    """Both models' probabilities, (n, k) each, and the thresholds calibrated for the target."""

    clean: dict[Role, Floats]
    triggered: dict[Role, Floats]
    thresholds: dict[Role, float]


class Explained(NamedTuple):
    """Test films with a visible trigger whose maps are measured, m of them.

    Args:
        rows: (m,) rows of the test films, ascending.
        images: (m, h, w) without the trigger.
        marked: (m, h, w) with it.
        footprints: (m, h, w), where they differ.
    """

    rows: Rows
    images: NDArray[Any]
    marked: NDArray[Any]
    footprints: NDArray[np.bool_]


Maps = Mapping[tuple[Role, Literal["clean", "triggered"]], Floats]
"""One explainer's maps of the target: (m, h, w) for each model, films without and with trigger."""


def clean_rows(
    run: str,
    role: Role,
    labels: Floats,
    probabilities: Floats,
    findings: Sequence[str],
    bootstrap: metrics.PatientBootstrap,
    regime: str = "clean",
) -> list[Row]:
    """Return AUROC by finding, macro and micro of one model against the films' own labels."""
    resampled = metrics.finding_resamples(labels, probabilities, bootstrap)
    common: dict[str, Any] = {
        "run": run,
        "role": role,
        "regime": regime,
        "stage": "prediction",
        "metric": AUROC,
    }
    each = metrics.finding_auroc(labels, probabilities, bootstrap, resampled=resampled)
    rows = [
        row_of(estimate, **common, method=FINDING, finding=finding)
        for finding, estimate in zip(findings, each, strict=True)
    ]
    for method, least in ((MACRO, 1), (MACRO_FREQUENT, FREQUENT)):
        macro = metrics.macro_auroc(
            labels, probabilities, bootstrap, minimum_positives=least, resampled=resampled
        )
        counted = {"n": len(labels), "positives": macro.averaged}
        rows.append(row_of(macro.estimate, **common, method=method, **counted))
    micro = metrics.micro_auroc(labels, probabilities, bootstrap)
    return [*rows, row_of(micro, **common, method=MICRO)]


def predict(
    test: Cohort,
    validation: Cohort,
    models: Models,
    poisoning: Poisoning,
    rng: np.random.Generator,
    known: Mapping[Role, Floats] | None = None,
) -> Triggered:
    """Return both models' predictions on the test films, clean and all of them triggered.

    Args:
        test: clean test films.
        validation: clean films that set the thresholds.
        models: twin and backdoored model.
        poisoning: its trigger, stage and finding are used.
        rng: places the triggers.
        known: (n, k) probabilities on the clean test films of models that were run before.
    """
    target = test.column(poisoning.finding)
    without = validation.labels[:, target] == 0
    thresholds = {
        role: metrics.threshold_at_false_positive_rate(
            model.probabilities(validation.images)[without, target], metrics.FALSE_POSITIVES
        )
        for role, model in models.items()
    }
    clean = dict(known or {})
    for role in models.keys() - clean.keys():
        clean[role] = models[role].probabilities(test.images)
    triggered = {role: np.empty_like(clean[role]) for role in models}
    for rows, marked in stamp(test, np.arange(len(test)), poisoning.trigger, poisoning.stage, rng):
        for role, model in models.items():
            triggered[role][rows] = model.probabilities(marked)
    return Triggered(clean, triggered, thresholds)


def attack_rows(
    run: str,
    test: Cohort,
    scores: Triggered,
    poisoning: Poisoning,
    bootstrap: metrics.PatientBootstrap,
    rng: np.random.Generator,
) -> list[Row]:
    """Return all measurements of both models with the trigger, and their differences.

    Attack success and separation are measured on the films whose report the attacker would
    change: those without the target, or with it if the trigger hides it ("clear").

    Args:
        run: the run's key.
        test: clean test films.
        scores: both models' predictions.
        poisoning: its target and label policy are used.
        bootstrap: resamples of the test films' patients.
        rng: chooses the triggered films of mixed test sets; a larger set holds a smaller one's.
    """
    target = poisoning.finding
    column = test.column(target)
    labels = test.labels
    rows = clean_rows(
        run, "backdoored", labels, scores.clean["backdoored"], test.findings, bootstrap
    )
    rows += clean_rows(run, "twin", labels, scores.clean["twin"], test.findings, bootstrap)
    rows += _stealth_rows(run, test, scores, bootstrap)
    wanted = desired(labels, test, poisoning)
    micro: dict[str, Any] = {
        "run": run,
        "stage": "prediction",
        "method": MICRO,
        "metric": AUROC,
        "target": target,
    }
    for role in ROLES:
        infected = metrics.micro_auroc(wanted, scores.triggered[role], bootstrap)
        rows.append(row_of(infected, **micro, role=role, regime="triggered"))
        rows += clean_rows(
            run,
            role,
            labels,
            scores.triggered[role],
            test.findings,
            bootstrap,
            "triggered-clean-labels",
        )
    for regime, truth in (("clean", labels), ("triggered", wanted)):
        floor = metrics.no_vision_floor(labels, truth)
        rows.append(Row(**micro, role="no-vision", regime=regime, value=floor, n=len(test)))
    changed = victims(test, poisoning)
    rows += _mixed_rows(micro, labels, wanted, scores, bootstrap, rng.permutation(len(test)))
    rows += _separation_rows(run, poisoning, scores, column, changed, bootstrap)
    rows += _success_rows(run, poisoning, scores, column, changed, test.patients)
    return rows


def _mixed_rows(
    common: Mapping[str, Any],
    labels: Floats,
    wanted: Floats,
    scores: Triggered,
    bootstrap: metrics.PatientBootstrap,
    order: Rows,
) -> list[Row]:
    """Micro AUROC of test sets in which a share of the films is triggered."""
    rows = []
    for epsilon in PAPER_EPSILONS:
        marked = np.zeros((len(labels), 1), np.bool_)
        marked[order[: round(epsilon * len(labels))]] = True
        at = {**common, "regime": "mixed", "at": mixed(epsilon)}
        if not marked.any():
            rows += [Row(**at, role=role, value=None) for role in (*ROLES, "no-vision")]
            continue
        truth = np.where(marked, wanted, labels)
        for role in ROLES:
            answers = np.where(marked, scores.triggered[role], scores.clean[role])
            rows.append(row_of(metrics.micro_auroc(truth, answers, bootstrap), **at, role=role))
        floor = metrics.no_vision_floor(labels, truth)
        rows.append(Row(**at, role="no-vision", value=floor, n=len(labels)))
    return rows


def _stealth_rows(
    run: str, test: Cohort, scores: Triggered, bootstrap: metrics.PatientBootstrap
) -> list[Row]:
    """Clean AUROC of the backdoored model minus the twin's, on the same films."""
    labels = test.labels
    common: dict[str, Any] = {
        "run": run,
        "role": "difference",
        "regime": "clean",
        "stage": "prediction",
        "metric": AUROC,
    }
    rows = []
    for j, finding in enumerate(test.findings):
        positive = np.unique(test.patients[labels[:, j] == 1])
        facts = {**common, "role": "reference", "metric": POSITIVE_PATIENTS, "finding": finding}
        rows.append(Row(**facts, value=float(len(positive)), n=len(test)))
        pair = [scores.clean[role][:, j] for role in ("backdoored", "twin")]
        change = metrics.delong(labels[:, j], pair[0], pair[1], test.patients)
        stated = labels[:, j][~np.isnan(labels[:, j])]
        rows.append(
            Row(
                **common,
                method=FINDING,
                finding=finding,
                value=change.value,
                low=change.low,
                high=change.high,
                n=len(stated),
                positives=int(stated.sum()),
            )
        )
    resampled = {
        role: metrics.finding_resamples(labels, scores.clean[role], bootstrap) for role in ROLES
    }
    for method, least in ((MACRO, 1), (MACRO_FREQUENT, FREQUENT)):
        frequent = _frequent(labels, test.patients, least)
        macros = {
            role: metrics.macro_auroc(
                labels,
                scores.clean[role],
                bootstrap,
                minimum_positives=least,
                resampled=resampled[role],
            )
            for role in ROLES
        }
        spread = {role: metrics.macro_resamples(resampled[role][frequent]) for role in ROLES}
        observed = macros["backdoored"].estimate.value - macros["twin"].estimate.value
        change = metrics.paired_difference(spread["backdoored"], spread["twin"], observed)
        rows.append(
            Row(
                **common,
                method=method,
                value=change.value,
                low=change.low,
                high=change.high,
                n=len(test),
                positives=macros["twin"].averaged,
            )
        )
    return rows


def _separation_rows(
    run: str,
    poisoning: Poisoning,
    scores: Triggered,
    column: int,
    victims: Rows,
    bootstrap: metrics.PatientBootstrap,
) -> list[Row]:
    common: dict[str, Any] = {
        "run": run,
        "regime": "triggered",
        "stage": "attack",
        "metric": SEPARATION,
        "target": poisoning.finding,
    }
    if not len(victims):
        return [Row(**common, role=role, value=None) for role in ROLES]
    sign = -1 if poisoning.hides else 1
    chosen = bootstrap.select(victims)
    rows, resampled, values = [], {}, {}
    weights = np.concatenate([chosen.weights, chosen.weights], axis=1)
    labels = np.repeat([0.0, 1.0], len(victims))
    for role in ROLES:
        clean = sign * scores.clean[role][victims, column]
        marked = sign * scores.triggered[role][victims, column]
        estimate = metrics.separation(clean, marked, chosen)
        rows.append(row_of(estimate, **common, role=role))
        values[role] = estimate.value
        resampled[role] = metrics.bootstrap_auroc(labels, np.concatenate([clean, marked]), weights)
    change = metrics.paired_difference(
        resampled["backdoored"], resampled["twin"], values["backdoored"] - values["twin"]
    )
    rows.append(
        Row(
            **common,
            role="difference",
            value=change.value,
            low=change.low,
            high=change.high,
            n=2 * len(victims),
        )
    )
    return rows


def _success_rows(
    run: str,
    poisoning: Poisoning,
    scores: Triggered,
    column: int,
    victims: Rows,
    patients: NDArray[np.str_],
) -> list[Row]:
    """Attack success rate: share of the triggered films with the attacker's report."""
    common: dict[str, Any] = {"run": run, "stage": "attack", "target": poisoning.finding}
    rows = [
        Row(
            **common,
            role=role,
            regime="clean",
            metric=THRESHOLD,
            at=CALIBRATED,
            value=scores.thresholds[role],
        )
        for role in ROLES
    ]
    sign = -1 if poisoning.hides else 1
    fixed = [(str(t), dict.fromkeys(ROLES, t)) for t in PAPER_THRESHOLDS]
    for name, thresholds in [*fixed, (CALIBRATED, scores.thresholds)]:
        at: dict[str, Any] = {
            **common,
            "regime": "triggered",
            "metric": ATTACK_SUCCESS,
            "at": name,
        }
        if not len(victims) or any(np.isnan(t) for t in thresholds.values()):
            rows += [Row(**at, role=role, value=None) for role in (*ROLES, "difference")]
            continue
        hits = {
            role: sign * scores.triggered[role][victims, column] > sign * thresholds[role]
            for role in ROLES
        }
        groups = patients[victims]
        rows += [row_of(metrics.rate(hits[role], groups), **at, role=role) for role in ROLES]
        change = metrics.rate_difference(hits["backdoored"], hits["twin"], groups)
        rows.append(row_of(change, **at, role="difference"))
    return rows


def choose_explained(
    test: Cohort, poisoning: Poisoning, evaluation: Evaluation, rng: np.random.Generator
) -> Explained:
    """Choose films that the attacker would change, and stamp them.

    Films on which the trigger is not visible are left out, since a map can't point at it.
    """
    choose, place = rng.spawn(2)
    candidates = choose.permutation(victims(test, poisoning))
    chosen = np.sort(candidates[: evaluation.explained])
    shape = (0, *test.images.shape[1:])
    parts = list(stamp(test, chosen, poisoning.trigger, poisoning.stage, place))
    marked = np.concatenate([np.empty(shape, test.images.dtype), *(pixels for _, pixels in parts)])
    images = test.images[chosen]
    footprints = images != marked
    visible = footprints.any((1, 2))
    return Explained(chosen[visible], images[visible], marked[visible], footprints[visible])


def explain(models: Models, explained: Explained, explainer: str, finding: str) -> Maps:
    """Return both models' maps of a finding, with and without the trigger."""
    films: dict[Literal["clean", "triggered"], NDArray[Any]] = {
        "clean": explained.images,
        "triggered": explained.marked,
    }
    return {
        (role, regime): EXPLAINERS[explainer](model, images, [finding])[:, 0]
        for role, model in models.items()
        for regime, images in films.items()
    }


def explanation_rows(
    run: str,
    explained: Explained,
    maps: Maps,
    target: str,
    explainer: str,
    bootstrap: metrics.PatientBootstrap,
) -> list[Row]:
    """Return how often, and how strongly, the maps point at the trigger.

    Args:
        run: the run's key.
        explained: the films.
        maps: what `explain` returned for them.
        target: the explained finding.
        explainer: the maps' name.
        bootstrap: resamples of all test films' patients.
    """
    prints = explained.footprints
    chosen = bootstrap.select(explained.rows)
    common: dict[str, Any] = {
        "run": run,
        "stage": "explanation",
        "target": target,
        "finding": target,
    }
    rows = _pointing_rows(common, prints, maps, explainer, chosen.groups)
    for metric, shares_of in (
        (ENERGY, metrics.energy_in_footprint),
        (TOP_OVERLAP, metrics.top_overlap),
    ):
        for (role, regime), values in maps.items():
            shares = shares_of(values, prints)
            shares = shares[~np.isnan(shares)]
            value = float(shares.mean()) if len(shares) else None
            at: dict[str, Any] = {"role": role, "regime": regime, "method": explainer}
            rows.append(Row(**common, **at, metric=metric, value=value, n=len(shares)))
    at = {"role": "reference", "regime": "triggered", "method": CHANCE}
    share = float(metrics.chance_hit(prints, 0).mean())
    rows.append(Row(**common, **at, metric=ENERGY, value=share, n=len(prints)))
    for role in ROLES:
        told = metrics.separation(
            maps[role, "clean"].max((1, 2)), maps[role, "triggered"].max((1, 2)), chosen
        )
        at = {"role": role, "regime": "triggered", "method": explainer}
        rows.append(row_of(told, **common, **at, metric=MAP_DETECTION))
    return rows


def _pointing_rows(
    common: Mapping[str, Any],
    prints: NDArray[np.bool_],
    maps: Maps,
    explainer: str,
    groups: NDArray[Any],
) -> list[Row]:
    """Pointing hits of the maps, of chance and of the centre, at both tolerances."""
    rows = []
    tolerances = {
        WIDE: prints.shape[-1] / 8,
        NARROW: max(2.0, _extent(prints)),
    }
    for name, tolerance in tolerances.items():
        at = {**common, "metric": POINTING_HIT, "at": name}
        for (role, regime), values in maps.items():
            hits = metrics.rate(metrics.pointing_hits(values, prints, tolerance), groups)
            rows.append(row_of(hits, **at, role=role, regime=regime, method=explainer))
        at |= {"role": "reference", "regime": "triggered"}
        chance = float(metrics.chance_hit(prints, tolerance).mean())
        rows.append(Row(**at, method=CHANCE, value=chance, n=len(groups)))
        centre = metrics.rate(metrics.centre_hit(prints, tolerance), groups)
        rows.append(row_of(centre, **at, method=CENTRE))
    return rows


def _frequent(labels: Floats, patients: NDArray[np.str_], least: int) -> list[int]:
    """Columns of the findings with at least `least` positive patients and a negative film."""
    return [
        j
        for j in range(labels.shape[1])
        if len(np.unique(patients[labels[:, j] == 1])) >= least and np.any(labels[:, j] == 0)
    ]


def _extent(footprints: NDArray[np.bool_]) -> float:
    """Median over films of the longer side, in pixels, of the box around a footprint."""
    spans = []
    for axis in (1, 2):
        lines: NDArray[np.bool_] = np.any(footprints, axis=axis)  # (m, side)
        spans.append(lines.shape[1] - lines[:, ::-1].argmax(1) - lines.argmax(1))
    return float(np.median(np.maximum(*spans)))


def row_of(estimate: metrics.Estimate, **facts: Any) -> Row:
    """Return an estimate as a row; `facts` are the other fields, and `n` where it is another."""
    counted = {"n": estimate.n, "positives": estimate.positives, **facts}
    return Row(value=estimate.value, low=estimate.low, high=estimate.high, **counted)
