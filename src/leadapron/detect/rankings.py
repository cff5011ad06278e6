"""Rankings of films by a network's features. They have no false-alarm rate."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.scores import Evidence
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort, ImageArray, subsample
from leadapron.films.preprocessing import Preprocessing
from leadapron.seeds import stream
from leadapron.store import RESULTS_VERSION, canonical_json
from leadapron.text import count
from leadapron.types import AUTO, Machine

if TYPE_CHECKING:
    from leadapron.models.protocols import WhiteBox

__all__ = ["Plan", "Ranking", "ranked_by", "ranked_by_training"]

logger = logging.getLogger(__name__)

SIDE = 128
"""Pixels of the films that a network is trained on, at most."""

EPOCHS, WATCHED = 6, 3
"""Of the quick training: passes over the films, and those whose losses are kept."""

TRAININGS = 20_000
"""Films that are shown in training, at most, each counted as often as it is shown."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """What a detector makes of a network's features. It has no false-alarm rate.

    Args:
        name: of `FEATURE_DETECTORS`.
        unit: of the scores.
        scores: (n,) float64; NaN is "not scored".
        evidence: what it found beyond single films.
        notes: what it left out, or why it gave nothing.
    """

    name: str
    unit: str
    scores: NDArray[np.float64]
    evidence: tuple[Evidence, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a network is trained to rank films, within the budget.

    Args:
        films: that it learns from, all or a part that is drawn by chance.
        of: films that there are; all are ranked.
        epochs: passes over the films it learns from.
        side: of the images in pixels.
    """

    films: int
    of: int
    epochs: int
    side: int

    @staticmethod
    def within_budget(cohort: Cohort) -> Plan:
        """Plan for a cohort: where the budget is short, fewer passes first, then fewer films."""
        n = len(cohort)
        epochs = min(EPOCHS, max(WATCHED, TRAININGS // n))
        return Plan(
            films=min(n, TRAININGS // epochs),
            of=n,
            epochs=epochs,
            side=min(SIDE, *cohort.images.shape[1:]),
        )

    def __str__(self) -> str:
        """Say what the network learns from."""
        films = "all" if self.films == self.of else f"{self.films:,} of"
        return (
            f"{films} {count(self.of, 'film')} at {self.side} x {self.side} pixels, "
            f"{self.epochs} epochs"
        )


class Smaller:
    """Images made smaller as they are read.

    Args:
        images: (n, h, w) uint8 or uint16.
        side: of the result in pixels.
    """

    def __init__(self, images: ImageArray, side: int) -> None:
        self._images = images
        self._how = Preprocessing(
            size=side, dtype="uint16" if images.dtype == np.uint16 else "uint8"
        )
        self.shape = (images.shape[0], side, side)
        self.dtype: np.dtype[Any] = np.dtype(images.dtype)

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        """Return (m, side, side) for an integer array of m rows."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for number, film in enumerate(self._images[rows]):
            out[number] = self._how(film)
        return out


def ranked_by_training(
    cohort: Cohort, seed: int, machine: Machine, folder: Path | None = None
) -> tuple[tuple[Ranking, ...], str]:
    """Rank films by the features of a network that is trained on them for the purpose.

    Args:
        cohort: the films.
        seed: of the network and of the films that it learns from.
        machine: where it is trained; its progress is called.
        folder: where the state after each epoch is kept until the training is finished. Stopped,
            the same call with the same folder continues.

    Returns:
        The rankings, and what the network learnt from; "" where it had nothing to learn.

    Raises:
        StoreError: a folder that can't be written, or a state there that can't be read.
    """
    from leadapron.detect.features import FEATURE_DETECTORS
    from leadapron.models.training import Network, Training, train

    if not any({0, 1} <= set(column.tolist()) for column in cohort.labels.T):
        nothing = DataError(
            "no finding is stated on some films and stated to be absent on others, so that a "
            "network has nothing to learn"
        )
        return _untold(list(FEATURE_DETECTORS), cohort, nothing), ""
    plan = Plan.within_budget(cohort)
    network, training = Network(), Training(epochs=plan.epochs)
    said = f"{network.name} on {plan}"
    logger.info(
        "ranking the films takes a training of %s: %s films shown", said,
        f"{plan.films * plan.epochs:,}",
    )  # fmt: skip
    if cohort.images.shape[1:] != (plan.side, plan.side):
        cohort = replace(
            cohort,
            images=Smaller(cohort.images, plan.side),
            preprocessing=replace(cohort.preprocessing, size=plan.side),
            films=None,
            masks=None,
            forms={},
        )
    taught = subsample(len(cohort), plan.films)
    losses = np.full((WATCHED, plan.films, cohort.labels.shape[1]), np.nan, np.float32)
    checkpoint = None
    if folder is not None:
        facts = {
            "films": cohort.fingerprint,
            "plan": asdict(plan),
            "network": asdict(network),
            "training": asdict(training),
            "seed": seed,
            "version": RESULTS_VERSION,
        }
        key = hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:16]
        checkpoint = folder / f"ranking-{key}.pt"
    try:
        trained, _ = train(
            cohort.take(taught),
            # The history isn't looked at, so what it is validated on doesn't matter.
            cohort.take(np.sort(stream(seed, "validation").permutation(len(cohort))[:64])),
            network=network,
            training=training,
            seed=seed,
            **machine.networks,
            film_losses=losses,
            checkpoint=checkpoint,
            after_step=lambda done, total: machine.tell("training a network to rank", done, total),
        )
    except DataError as error:  # the films' own verdict doesn't rest on the network
        return _untold(list(FEATURE_DETECTORS), cohort, error), ""
    every = np.full((WATCHED, *cohort.labels.shape), np.nan, np.float32)
    every[:, taught] = losses
    rankings = ranked_by(trained, cohort, every, seed, machine)
    if checkpoint is not None:
        with contextlib.suppress(OSError):
            checkpoint.unlink(missing_ok=True)
    return rankings, said


def ranked_by(
    network: WhiteBox,
    cohort: Cohort,
    losses: NDArray[np.float32] | None,
    seed: int,
    machine: Machine = AUTO,
) -> tuple[Ranking, ...]:
    """Rank films by one pass of a network over them.

    Args:
        network: one that was trained on these films, or on films like them.
        cohort: the films as it takes them.
        losses: (epochs, n, k) of its training, see `train`; None where it wasn't watched.
        seed: of what the detectors draw.
        machine: its progress is called.
    """
    from leadapron.detect.features import FEATURE_DETECTORS, extract

    names = [n for n in FEATURE_DETECTORS if n != "loss-dynamics" or losses is not None]
    try:
        features = extract(network, cohort, losses=losses, seed=seed)
    except DataError as error:  # the films' own verdict doesn't rest on the network
        return _untold(names, cohort, error)
    found = []
    for number, name in enumerate(names, 1):
        make = FEATURE_DETECTORS[name]
        scores = make().score(cohort, features)
        machine.tell("ranking the films", number, len(names))
        found.append(
            Ranking(
                name=name,
                unit=scores.unit,
                scores=scores.values,
                evidence=scores.evidence,
                notes=scores.notes,
            )
        )
    return tuple(found)


def _untold(names: Sequence[str], cohort: Cohort, error: DataError) -> tuple[Ranking, ...]:
    """Rankings without a score, and why."""
    scores = np.full(len(cohort), np.nan)
    return tuple(
        Ranking(name=name, unit="", scores=scores, evidence=(), notes=(f"Can't tell: {error}.",))
        for name in names
    )
