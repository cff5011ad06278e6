"""Fit the weights of a gate's fused score to the films of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leadapron import store
from leadapron.detect.inputs.baselines import BASELINES
from leadapron.detect.inputs.gate import fuse, steps_of
from leadapron.errors import DataError
from leadapron.results.screening import ScreeningFolder

__all__ = ["fit_weights"]

Floats = NDArray[np.float64]


def fit_weights(
    folders: Sequence[Path], *, without: Sequence[str] = (), ridge: float = 0.01
) -> dict[str, float]:
    """Fit the weights of the fused score to an evaluation's films by logistic regression.

    It separates clean from triggered films of the models with a successful backdoor. Each family
    has the same weight, and within it each model, and within it clean and triggered films. Weights
    are 0 or more; the largest is scaled to 1, since a gate's threshold follows the scale, and all
    are rounded to 0.1. Sealed families are never used.

    Args:
        folders: folders of `evaluate_screen`, with every detector measured.
        without: scores that get no weight.
        ridge: penalty on the sum of squared weights, so that they stay finite if the films can be
            separated without error.

    Raises:
        StoreError: not an evaluation.
        DataError: no model with a successful backdoor.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    families: dict[str, set[Path]] = {}
    for folder in folders:
        evaluation = ScreeningFolder(folder)
        for row in store.read_lines(evaluation.rows):
            if row["kind"] == "fused" and row["takes"] and not row["sealed"]:
                families.setdefault(row["family"], set()).add(evaluation.scores(row["run"]))
    if not families:
        raise DataError("no evaluated model has a successful backdoor; there is nothing to fit")
    names: list[str] = []
    terms, truth, shares = [], [], []
    for runs in families.values():
        for run in sorted(runs):
            found = store.read_arrays(run)
            columns = [
                (j, str(name))
                for j, name in enumerate(found["backdoored_names"])
                if str(name) not in BASELINES and str(name) not in without
            ]
            names = [name for _, name in columns]
            steps = steps_of(found["backdoored_reference"])
            for label, kind in enumerate(("clean", "triggered")):
                scores = found[f"backdoored_{kind}"]
                each = [fuse(scores[:, [j]], steps[:, [j]], {name: 1.0}) for j, name in columns]
                terms.append(np.stack(each, axis=1))
                truth.append(np.full(len(scores), float(label)))
                share = 1 / (2 * len(families) * len(runs) * len(scores))
                shares.append(np.full(len(scores), share))
    x, y, weight = np.concatenate(terms), np.concatenate(truth), np.concatenate(shares)

    def loss(values: Floats) -> tuple[float, Floats]:
        margin = x @ values[1:] + values[0]
        wrong = weight * (expit(margin) - y)
        total = weight @ (np.logaddexp(0, margin) - y * margin) + ridge * (values[1:] ** 2).sum()
        gradient = np.concatenate([[wrong.sum()], wrong @ x + 2 * ridge * values[1:]])
        return float(total), gradient

    bounds = [(None, None), *[(0.0, None)] * len(names)]
    fitted = minimize(loss, np.ones(len(names) + 1), jac=True, method="L-BFGS-B", bounds=bounds)
    best: Floats = fitted.x[1:]
    largest = max(float(best.max()), 1e-9)
    return {name: round(float(value) / largest, 1) for name, value in zip(names, best, strict=True)}
