"""What a model's outputs are: their kind, their order, and how well they are calibrated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.models.classifier import squashed
from leadapron.models.inspection.document import OutputFacts
from leadapron.models.inspection.trials import LEAST, Truth

__all__ = ["Head", "head_of", "named_by_films", "output_facts", "probabilities_given"]

Floats = NDArray[np.float32]

BINS = 10
SATURATED = 1e-4
SUM = 1e-3
"""Largest deviation from 1 of the sum of a film's exclusive probabilities."""


class Head(NamedTuple):
    """A head that films speak for.

    Args:
        name: "sigmoid" or "softmax".
        words: the evidence.
    """

    name: Literal["sigmoid", "softmax"]
    words: str


def probabilities_given(outputs: Floats) -> bool:
    """Return whether outputs are probabilities: all in 0 to 1, and not all the same.

    Args:
        outputs: (n, k) of a black box.
    """
    inside = bool(np.isfinite(outputs).all() and outputs.min() >= 0 and outputs.max() <= 1)
    return inside and bool(np.ptp(outputs) > 0)


def head_of(
    outputs: Floats, truth: Truth, rows: NDArray[np.int64], patients: NDArray[np.str_], given: bool
) -> Head | None:
    """Return the head that outputs or labels speak for; None if they can't tell.

    Args:
        outputs: (n, k) logits, or probabilities.
        truth: the labels.
        rows: (n,) the films.
        patients: (n,) their patients.
        given: whether the outputs are probabilities.
    """
    k = outputs.shape[1]
    if k == 1:
        return Head("sigmoid", "there is one output")
    if given:
        sums = outputs.sum(axis=1)
        if np.abs(sums - 1).max() < SUM:
            return Head("softmax", "the probabilities of each film add up to 1")
        return Head("sigmoid", "the probabilities of a film don't add up to 1")
    if truth.columns is None or len(truth.columns) != k:
        return None
    labels = truth.labels[rows][:, np.argsort(truth.columns)]
    labels, outputs = labels[~np.isnan(labels).any(axis=1)], outputs[~np.isnan(labels).any(axis=1)]
    if len(labels) < 2 * LEAST:
        return None
    several = (labels.sum(axis=1) != 1).mean()
    if several > 0.05:
        return Head("sigmoid", f"{several:.0%} of the films have several of its findings, or none")
    losses = {name: _loss(labels, squashed(outputs, name), name) for name in ("sigmoid", "softmax")}
    known = ~np.isnan(truth.labels[rows]).any(axis=1)
    change = losses["sigmoid"] - losses["softmax"]
    _, groups = np.unique(patients[known], return_inverse=True)
    each = np.bincount(groups, change) / np.bincount(groups)
    error = float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else math.inf
    if not abs(float(each.mean())) > 3 * error:
        return None
    name: Literal["sigmoid", "softmax"] = "softmax" if each.mean() > 0 else "sigmoid"
    return Head(name, "the labels are likelier with it, beyond chance")


def _loss(labels: Floats, given: NDArray[np.float64], head: str) -> NDArray[np.float64]:
    """Negative log-likelihood of each film's one finding, (n,)."""
    inside = np.clip(given, 1e-7, 1 - 1e-7)
    if head == "sigmoid":  # of exactly one finding, as its outputs are independent
        odds = inside / (1 - inside)
        inside = odds / odds.sum(axis=1, keepdims=True)
        return np.asarray(-(labels * np.log(inside)).sum(axis=1), np.float64)
    return np.asarray(-(labels * np.log(inside)).sum(axis=1), np.float64)


def named_by_films(
    labels: Floats, names: Sequence[str], logits: Floats, patients: NDArray[np.str_]
) -> tuple[str, ...] | None:
    """Return the names of outputs in order, by the labels that they fit; None if unclear.

    Outputs and findings are matched on each half of the patients. Both matches must be the same,
    and each output must have an AUROC above 0.5 beyond chance for its finding.

    Args:
        labels: (n, m) in {0, 1, NaN}.
        names: the m findings.
        logits: (n, k) of outputs without names.
        patients: (n,) patients of the films.
    """
    from scipy.optimize import linear_sum_assignment

    if logits.shape[1] > len(names) or not np.isfinite(logits).all():
        return None
    _, groups = np.unique(patients, return_inverse=True)
    first = np.random.default_rng(0).permutation(int(groups.max()) + 1)[groups] % 2 == 0
    matches = []
    for half in (first, ~first):
        table = [
            [metrics.auroc(truth, each) for truth in labels[half].T] for each in logits[half].T
        ]
        matches.append(linear_sum_assignment(-np.nan_to_num(np.array(table), nan=0.5))[1])
    if not np.array_equal(matches[0], matches[1]):
        return None
    bootstrap = metrics.PatientBootstrap.draw(patients, np.random.default_rng(0), resamples=200)
    estimates = metrics.finding_auroc(labels[:, matches[0]], logits, bootstrap)
    if not all(each.low > 0.5 for each in estimates):
        return None
    return tuple(names[column] for column in matches[0].tolist())


def output_facts(
    findings: Sequence[str], probabilities: Floats, truth: Truth, rows: NDArray[np.int64]
) -> tuple[OutputFacts, ...]:
    """Return what the outputs are on some films.

    Args:
        findings: the k findings.
        probabilities: (n, k).
        truth: the labels.
        rows: (n,) the films.
    """
    known = dict(zip(truth.columns or (), truth.labels[rows].T, strict=False))
    found = []
    for column, name in enumerate(findings):
        given = probabilities[:, column].astype(np.float64)
        labels = known.get(column, np.full(len(given), np.nan, np.float32))
        stated = ~np.isnan(labels)
        ends = np.minimum(given, 1 - given) < SATURATED
        found.append(
            OutputFacts(
                finding=name,
                low=float(given.min()),
                mean=float(given.mean()),
                high=float(given.max()),
                prevalence=float(labels[stated].mean()) if stated.any() else math.nan,
                error=_calibration_error(labels[stated], given[stated]),
                saturated=float(ends.mean()),
            )
        )
    return tuple(found)


def _calibration_error(labels: Floats, given: NDArray[np.float64]) -> float:
    """Expected calibration error in ten bins of equal width; NaN where it is undefined.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599.
    """
    if not len(labels) or not np.isfinite(given).all():
        return math.nan
    bins = np.clip((given * BINS).astype(int), 0, BINS - 1)
    total = np.bincount(bins, minlength=BINS)
    apart = np.bincount(bins, given, BINS) - np.bincount(bins, labels.astype(np.float64), BINS)
    return float(np.abs(apart).sum() / total.sum())
