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
"""Largest number of pixels on a side of the training images."""

EPOCHS, WATCHED = 6, 3
"""Epochs of the quick training, and epochs whose losses are kept."""

TRAININGS = 20_000
"""Training budget: films times epochs, at most."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """A detector's ranking of films by a network's features. It has no false-alarm rate.

    Args:
        name: name in `FEATURE_DETECTORS`.
        unit: unit of the scores.
        scores: (n,) float64; NaN is "not scored".
        evidence: evidence beyond single films.
        notes: omissions and their reasons, or why there are no scores.
    """

    name: str
    unit: str
    scores: NDArray[np.float64]
    evidence: tuple[Evidence, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Training of a network for rankings, within the budget.

    Args:
        films: number of training films: all, or a random sample.
        of: number of all films; all are ranked.
        epochs: epochs over the training films.
        side: side of the images in pixels.
    """

    films: int
    of: int
    epochs: int
    side: int

    @staticmethod
    def within_budget(cohort: Cohort) -> Plan:
        """Plan for a cohort: if the budget is short, first fewer epochs, then fewer films."""
        n = len(cohort)
        epochs = min(EPOCHS, max(WATCHED, TRAININGS // n))
        return Plan(
            films=min(n, TRAININGS // epochs),
            of=n,
            epochs=epochs,
            side=min(SIDE, *cohort.images.shape[1:]),
        )

    def __str__(self) -> str:
        """Describe the training films."""
        films = "all" if self.films == self.of else f"{self.films:,} of"
        return (
            f"{films} {count(self.of, 'film')} at {self.side} x {self.side} pixels, "
            f"{self.epochs} epochs"
        )


class Smaller:
    """Images that are shrunk as they are read.

    Args:
        images: (n, h, w) uint8 or uint16.
        side: side of the result in pixels.
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
    """Train a network on films, and rank the films by its features.

    Args:
        cohort: the films.
        seed: seed of the network and of the sample of training films.
        machine: device and precision of the training; its progress is called.
        folder: keeps the state after each epoch until the training is finished, so that the same
            call continues it after an interruption.

    Returns:
        The rankings, and a description of the training; "" if there was nothing to learn.

    Raises:
        StoreError: a folder that can't be written, or a state in it that can't be read.
    """
    from leadapron.detect.features import FEATURE_DETECTORS
    from leadapron.models.training import Network, Training, train

    if not any({0, 1} <= set(column.tolist()) for column in cohort.labels.T):
        nothing = DataError(
            "no finding is present on some films and absent on others, so a network has nothing "
            "to learn"
        )
        return _unscored(list(FEATURE_DETECTORS), cohort, nothing), ""
    plan = Plan.within_budget(cohort)
    network, training = Network(), Training(epochs=plan.epochs)
    said = f"{network.name} on {plan}"
    logger.info(
        "ranking the films: training %s, %s films in all epochs", said,
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
            # The history isn't used, so the validation films don't matter.
            cohort.take(np.sort(stream(seed, "validation").permutation(len(cohort))[:64])),
            network=network,
            training=training,
            seed=seed,
            **machine.networks,
            film_losses=losses,
            checkpoint=checkpoint,
            after_step=lambda done, total: machine.tell("training a network to rank", done, total),
        )
    except DataError as error:  # the scan's verdict doesn't depend on the network
        return _unscored(list(FEATURE_DETECTORS), cohort, error), ""
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
    """Rank films by a network's features, from one forward pass.

    Args:
        network: a network that was trained on these films, or on similar films.
        cohort: the films with the network's preprocessing.
        losses: (epochs, n, k) losses of its training, see `train`; None if they weren't recorded.
        seed: seed of the detectors' random draws.
        machine: its progress is called.
    """
    from leadapron.detect.features import FEATURE_DETECTORS, extract

    names = [n for n in FEATURE_DETECTORS if n != "loss-dynamics" or losses is not None]
    try:
        features = extract(network, cohort, losses=losses, seed=seed)
    except DataError as error:  # the scan's verdict doesn't depend on the network
        return _unscored(names, cohort, error)
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


def _unscored(names: Sequence[str], cohort: Cohort, error: DataError) -> tuple[Ranking, ...]:
    """Rankings without scores, with the reason."""
    scores = np.full(len(cohort), np.nan)
    return tuple(
        Ranking(name=name, unit="", scores=scores, evidence=(), notes=(f"Can't tell: {error}.",))
        for name in names
    )
