"""Partial re-initialisation, then fine-tuning with the original as a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.fresh import untrained
from leadapron.models.losses import taught_loss
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Batch, Optimisation, Session, begin
from leadapron.types import Progress

__all__ = ["Reinitialisation"]


@dataclass(frozen=True, kw_only=True)
class Reinitialisation:
    """A share of the weights is re-initialised, then all are tuned with the original as teacher.

    The loss is (1 - teaching) error + teaching x distance to the original's softened outputs, on
    clean films. Single entries of weights with two or more dimensions are re-initialised.

    Args:
        share: share of the entries of each layer's weights that is re-initialised, more than 0, at
            most 1.
        teaching: weight of the distance, 0 to 1.
        temperature: temperature of the softened outputs, above 0.
        optimisation: settings of the training.

    Raises:
        UsageError: a value outside its range.

    Source: Lee et al., Defending against Clean-Image Backdoor Attack in Multi-Label
    Classification, ICASSP 2024 (partial initialisation, fine-tuning, distillation over a few
    iterations); their settings aren't public: share and drawing by number after Pang et al.,
    Backdoor Cleansing with Unlabeled Data, CVPR 2023, arXiv 2211.12044. Differs: clean films,
    where they reuse the poisoned ones; sigmoids by finding.
    """

    share: float = 0.2
    teaching: float = 0.5
    temperature: float = 2.0
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(learning_rate=1e-3, epochs=20)
    )
    needs: Capability = field(default="gradients", init=False)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"a share of {self.share}; expected more than 0, at most 1")
        if not 0 <= self.teaching <= 1:
            raise UsageError(f"teaching {self.teaching}; expected 0 to 1")
        if not self.temperature > 0:
            raise UsageError(f"a temperature of {self.temperature}; expected above 0")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("re-initialisation", self.needs, classifier, clean, rng, progress)
        reinitialise(session, self.share)

        def objective(batch: Batch) -> torch.Tensor:
            odds = session.odds(session.answers(batch.images))
            return taught_loss(
                odds, batch.labels, session.taught(batch), self.teaching, self.temperature
            )

        session.tune(self.optimisation, objective)
        return session.finish()


def reinitialise(session: Session, share: float) -> None:
    """Re-initialise a share of the student's weights, drawn entry by entry.

    Args:
        session: of the repair; its seed draws entries and values.
        share: of the entries of each weight with two or more dimensions, 0 to 1.
    """
    with session.seeded("init"), torch.no_grad():
        fresh = untrained(session.module)
        for value, new in zip(session.module.parameters(), fresh.parameters(), strict=True):
            if value.ndim > 1:
                drawn = torch.rand(value.shape).to(value.device) < share
                value.copy_(torch.where(drawn, new, value))
