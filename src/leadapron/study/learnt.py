"""The surrogate network of a learnt trigger, and the trigger's effect on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.attacks.triggers import Learned, Noise, Trigger
from leadapron.attacks.triggers.learned import digest
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier, resolve_device
from leadapron.models.training import train
from leadapron.seeds import stream
from leadapron.study.plan import Run
from leadapron.types import Machine

__all__ = ["Learnt", "measure_learnt", "train_surrogate"]


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """Effect of a learnt trigger on the surrogate, on test films without the target.

    Args:
        kind: "noise" or "generator".
        finding: the target finding.
        epsilon: largest change of a pixel, in grey levels of 256.
        sha256: SHA-256 of the file.
        films: number of films measured.
        rise: mean rise of the target's logit.
        random_rise: mean rise with random signs of the same size.
        crossed_rise: mean rise with another film's pattern; None for noise, which is the same on
            all films.
        success: attack success rate, at a threshold with 5 % false positives on clean films.
        random_success, crossed_success: success with random signs, with another film's pattern.
    """

    kind: str
    finding: str
    epsilon: float
    sha256: str
    films: int
    rise: float
    random_rise: float
    crossed_rise: float | None
    success: float
    random_success: float
    crossed_success: float | None


def train_surrogate(run: Run, parts: Mapping[str, Cohort], machine: Machine) -> NetworkClassifier:
    """Train a clean network for the attacker; its random stream differs from every study's.

    Args:
        run: settings of network and training, and the seed.
        parts: training and validation films, by name.
        machine: device, precision, cache and progress.
    """
    resolve_device(machine.device)
    seed = int(stream(run.seed, "surrogate").integers(2**31))
    network, _ = train(
        parts["train"],
        parts["validation"],
        network=run.network,
        training=replace(run.training, disguise=0.0),
        seed=seed,
        **machine.networks,
        after_step=lambda done, total: machine.tell("training surrogate", done, total),
    )
    return replace(network, precision="fp32")


def measure_learnt(
    network: NetworkClassifier,
    parts: Mapping[str, Cohort],
    trigger: Learned,
    finding: str,
    kind: str,
    epsilon: float,
) -> Learnt:
    """Measure a trigger and its controls on test films without the target.

    Args:
        network: the surrogate.
        parts: films for the threshold ("validation") and for the measurement ("test").
        trigger: the learnt trigger.
        finding: the target finding.
        kind: "noise" or "generator".
        epsilon: largest change of a pixel, in grey levels of 256.

    Raises:
        DataError: too few films without the finding.
    """
    (column,) = network.columns([finding])
    test, validation = parts["test"], parts["validation"]
    without = validation.labels[:, validation.column(finding)] == 0
    rows = np.flatnonzero(test.labels[:, test.column(finding)] == 0)
    if len(rows) < 2 or not without.any():
        raise DataError(f"{len(rows)} test films are labelled as without {finding}; expected more")
    threshold = metrics.threshold_at_false_positive_rate(
        network.logits(validation.images)[without, column], metrics.FALSE_POSITIVES
    )
    films = test.images[rows]
    clean = network.logits(films)[:, column]

    def found(marked: NDArray[Any]) -> tuple[float, float]:
        logits = network.logits(marked)[:, column]
        return float((logits - clean).mean()), float((logits > threshold).mean())

    def by(mark: Trigger) -> NDArray[Any]:
        return mark(films, stream(0, "learn"))  # neither uses randomness

    marked = by(trigger)
    rise, success = found(marked)
    random_rise, random_success = found(by(Noise(epsilon=epsilon)))
    crossed_rise = crossed_success = None
    if kind == "generator":
        moved = np.roll(marked.astype(np.int64) - films, 1, axis=0)
        crossed = np.clip(films + moved, 0, np.iinfo(films.dtype).max).astype(films.dtype)
        crossed_rise, crossed_success = found(crossed)
    return Learnt(
        kind=kind,
        finding=finding,
        epsilon=epsilon,
        sha256=digest(Path(trigger.path)),
        films=len(rows),
        rise=rise,
        random_rise=random_rise,
        crossed_rise=crossed_rise,
        success=success,
        random_success=random_success,
        crossed_success=crossed_success,
    )
