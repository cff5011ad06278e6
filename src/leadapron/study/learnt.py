"""A surrogate to learn a trigger on, and what the learnt trigger does to it."""

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
    """What a learnt trigger does to the surrogate, on test films without the target.

    Args:
        kind: "noise" or "generator".
        finding: what it raises.
        epsilon: the most that a pixel is moved, in grey levels of 256.
        sha256: of the file.
        films: how many it was measured on.
        rise: mean rise of the target's logit.
        random_rise: by random signs of the same size.
        crossed_rise: by another film's pattern; None for noise, which is the same on all.
        success: share of the films that are called the target, at a threshold of 5 % clean false
            positives.
        random_success, crossed_success: the same by random signs, by another film's pattern.
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
    """Train a clean network of the attacker's own: its stream of chance is no study's.

    Args:
        run: settings of network and training, and the seed.
        parts: films to train and to validate on, by name.
        machine: where and how it is carried out.
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
        trigger: the learnt one.
        finding: what it raises.
        kind: "noise" or "generator".
        epsilon: the most that a pixel is moved, in grey levels of 256.

    Raises:
        DataError: too few films without the finding.
    """
    (column,) = network.columns([finding])
    test, validation = parts["test"], parts["validation"]
    without = validation.labels[:, validation.column(finding)] == 0
    rows = np.flatnonzero(test.labels[:, test.column(finding)] == 0)
    if len(rows) < 2 or not without.any():
        raise DataError(f"{len(rows)} test films are stated to be without {finding}; expected more")
    threshold = metrics.threshold_at_false_positive_rate(
        network.logits(validation.images)[without, column], metrics.FALSE_POSITIVES
    )
    films = test.images[rows]
    clean = network.logits(films)[:, column]

    def found(marked: NDArray[Any]) -> tuple[float, float]:
        logits = network.logits(marked)[:, column]
        return float((logits - clean).mean()), float((logits > threshold).mean())

    def by(mark: Trigger) -> NDArray[Any]:
        return mark(films, stream(0, "learn"))  # neither leaves anything to chance

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
