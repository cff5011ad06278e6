"""Unlearning the marks that an audit found, with the model's own answers to the unmarked films."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.distillation import shifted
from leadapron.models.losses import taught_loss
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.reinitialisation import reinitialise
from leadapron.repairs.session import Batch, Optimisation, begin
from leadapron.repairs.stamp_unlearning import Marking
from leadapron.types import Progress

__all__ = ["Mixture", "StampDistillation"]


class Mixture(NamedTuple):
    """Films mixed with others.

    Args:
        kept: (n,) float32 share of each film that is kept, 0 to 1.
        partner: (n,) the film that the rest is from.
    """

    kept: NDArray[np.float32]
    partner: NDArray[np.int64]

    @classmethod
    def drawn(cls, films: int, share: float, rng: np.random.Generator) -> Mixture:
        """Return a mixture in which about a share of the films is mixed, in any proportion.

        Args:
            films: number of films.
            share: 0 to 1.
            rng: source of randomness.
        """
        kept = np.where(rng.random(films) < share, rng.random(films), 1).astype(np.float32)
        return cls(kept, rng.permutation(films))

    def images(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return (n, h, w) mixed pixels, of the same dtype."""
        kept = self.kept[:, None, None]
        both = kept * images + (1 - kept) * images[self.partner]
        rounded: NDArray[Any] = both.round().astype(images.dtype)
        return rounded

    def labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Return (n, k) mixed labels; not stated where either of the two isn't."""
        kept = torch.from_numpy(self.kept).to(labels.device)[:, None]
        mixed = kept * labels + (1 - kept) * labels[torch.from_numpy(self.partner)]
        return torch.where(kept == 1, labels, mixed)  # NaN times 0 is NaN


class _Shown(NamedTuple):
    """A step's films before they were marked, and how they were mixed."""

    unmarked: NDArray[Any]
    mixture: Mixture


@dataclass(frozen=True, kw_only=True)
class StampDistillation(Marking):
    """A partly re-initialised copy learns the labels of marked films, and the model's own answers.

    The loss is (1 - teaching) error + teaching x distance from the model's softened answers to the
    same films without the mark. Labels alone say little where films are few: rare findings have a
    handful of films, and learning from these costs AUROC. The model's own answers say as much of
    every finding on every film, but teach nothing that it doesn't know. Films are moved by a few
    pixels, and half of them are mixed with another film, so that there are more of them.

    Unlearning alone leaves weights from which a few poisoned films bring the backdoor back. With a
    tenth of them re-initialised nothing is left to bring back, and the answers are learned again.

    Args:
        marks: those that the audit found; see `stamp_unlearning.marks_of`.
        share: of the films of a step that are marked, more than 0 and at most 1.
        jitter: pixels by which a square is moved at most.
        elsewhere: share of the marked films with the square elsewhere, as `Marking`.
        recoloured: share of the marked films with another grey level, as `Marking`.
        others: share of the marked films with another square, as `Marking`.
        shift: pixels by which a film is moved at most, 0 or more.
        mixed: share of the films that are mixed with another one, 0 to 1.
        teaching: weight of the distance from the model's own answers, 0 to 1.
        temperature: temperature of the softened answers, above 0.
        restart: share of the entries of each layer's weights that is re-initialised, 0 to 1.
        learned: largest share of the patients whose films are learned from, as `session.begin`;
            films of the others only choose the epoch.
        optimisation: how weights are changed.

    Raises:
        UsageError: no marks, or a value outside its range.

    Source: ours; unlearning by the reversed trigger as in `StampUnlearning`, with the loss of
    Hinton, Vinyals and Dean, arXiv 1503.02531, by finding; partial re-initialisation and both
    losses as in `Reinitialisation`; mixed films and labels after Zhang et al., mixup, ICLR 2018,
    arXiv 1710.09412, with the teacher's answers to mixed films as in Beyer et al., arXiv
    2106.05237.
    """

    share: float = 0.5
    elsewhere: float = 0.3
    recoloured: float = 0.1
    others: float = 0.2
    shift: int = 3
    mixed: float = 0.5
    teaching: float = 0.5
    temperature: float = 2.0
    restart: float = 0.1
    learned: float = 0.85
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(learning_rate=2e-3, epochs=80, statistics="learned")
    )
    needs: Capability = field(default="gradients", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shift < 0:
            raise UsageError(f"a shift of {self.shift}; expected 0 or more pixels")
        if not self.temperature > 0:
            raise UsageError(f"a temperature of {self.temperature}; expected above 0")
        for name in ("mixed", "teaching", "restart"):
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
        shown: _Shown | None = None

        def show(films: NDArray[Any], chance: np.random.Generator) -> NDArray[Any]:
            nonlocal shown
            mixture = Mixture.drawn(len(films), self.mixed, chance)
            shown = _Shown(mixture.images(shifted(films, self.shift, chance)), mixture)
            return self.mark(shown.unmarked, chance)

        def objective(batch: Batch) -> torch.Tensor:
            assert shown is not None  # `show` comes first
            images = session.student.normalise(torch.from_numpy(shown.unmarked))
            wanted = session.taught(batch._replace(images=images))
            odds = session.odds(session.answers(batch.images))
            labels = shown.mixture.labels(batch.labels)
            return taught_loss(odds, labels, wanted, self.teaching, self.temperature)

        session.tune(self.optimisation, objective, show=show)
        return session.finish()
