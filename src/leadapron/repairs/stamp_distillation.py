"""Unlearning the marks that an audit found, with the model's own answers to the unmarked films."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.distillation import shifted
from leadapron.models.losses import distance
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.reinitialisation import reinitialise
from leadapron.repairs.session import Batch, Optimisation, begin
from leadapron.repairs.stamp_unlearning import Marking
from leadapron.types import Progress

__all__ = ["StampDistillation", "mixed"]


def mixed(images: NDArray[Any], share: float, rng: np.random.Generator) -> NDArray[Any]:
    """Return (n, h, w) films, about a share of them mixed with another film, in any proportion.

    Args:
        images: (n, h, w) pixels.
        share: of the films, 0 to 1.
        rng: source of randomness.
    """
    keeping = np.where(rng.random(len(images)) < share, rng.random(len(images)), 1)[:, None, None]
    both = keeping * images + (1 - keeping) * images[rng.permutation(len(images))]
    rounded: NDArray[Any] = both.round().astype(images.dtype)
    return rounded


@dataclass(frozen=True, kw_only=True)
class StampDistillation(Marking):
    """A partly re-initialised copy learns to answer marked films as the model does without marks.

    Labels say little where films are few: rare findings have a handful of films, and learning from
    these costs AUROC. The model's own answers say as much of every finding on every film, so that
    larger steps can be taken, and few films need be held out. Films are moved by a few pixels, and
    half of them are mixed with another film, so that there are more of them: the model answers
    these too.

    Unlearning alone leaves weights from which a few poisoned films bring the backdoor back. With a
    tenth of them re-initialised nothing is left to bring back, and the answers are learned again.

    Args:
        marks: those that the audit found; see `stamp_unlearning.marks_of`.
        share: of the films of a step that are marked, more than 0 and at most 1.
        jitter: pixels by which a square is moved at most.
        elsewhere: share of the marked films with the square elsewhere, as `Marking`.
        others: share of the marked films with another square, as `Marking`.
        shift: pixels by which a film is moved at most, 0 or more.
        mixed: share of the films that are mixed with another one, 0 to 1.
        restart: share of the entries of each layer's weights that is re-initialised, 0 to 1.
        learned: largest share of the patients whose films are learned from, as `session.begin`;
            films of the others only choose the epoch.
        optimisation: how weights are changed.

    Raises:
        UsageError: no marks, or a value outside its range.

    Source: ours; unlearning by the reversed trigger as in `StampUnlearning`, with the loss of
    Hinton, Vinyals and Dean, arXiv 1503.02531, by finding, in place of the labels'; partial
    re-initialisation as in `Reinitialisation`; mixed films after Zhang et al., mixup, ICLR 2018,
    arXiv 1710.09412, with the teacher's answers to them in place of mixed labels, as in Beyer et
    al., arXiv 2106.05237.
    """

    share: float = 0.5
    elsewhere: float = 0.4
    others: float = 0.2
    shift: int = 3
    mixed: float = 0.5
    restart: float = 0.1
    learned: float = 0.85
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(learning_rate=2e-3, epochs=50, statistics="learned")
    )
    needs: Capability = field(default="gradients", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shift < 0:
            raise UsageError(f"a shift of {self.shift}; expected 0 or more pixels")
        for name in ("mixed", "restart"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"`{name}` {getattr(self, name)}: expected 0 to 1")
        if not 0 < self.learned < 1:
            raise UsageError(f"`learned` {self.learned}: expected above 0 and below 1")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin(
            "stamp distillation", self.needs, classifier, clean, rng, progress, self.learned
        )
        reinitialise(session, self.restart)
        unmarked: NDArray[Any] = session.learn.images[:0]

        def show(films: NDArray[Any], chance: np.random.Generator) -> NDArray[Any]:
            nonlocal unmarked
            unmarked = mixed(shifted(films, self.shift, chance), self.mixed, chance)
            return self.mark(unmarked, chance)

        def objective(batch: Batch) -> torch.Tensor:
            images = session.student.normalise(torch.from_numpy(unmarked))
            wanted = session.taught(batch._replace(images=images))
            return distance(session.odds(session.answers(batch.images)), wanted, 1.0)

        session.tune(self.optimisation, objective, show=show)
        return session.finish()
