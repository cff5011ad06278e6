"""An untrained student that is distilled from the model's outputs on clean films."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.distillation import shifted
from leadapron.models.fresh import untrained
from leadapron.models.losses import distance
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Batch, Optimisation, begin
from leadapron.types import Progress

__all__ = ["FreshStudent"]


@dataclass(frozen=True, kw_only=True)
class FreshStudent:
    """An untrained network with the same layers learns the model's outputs on clean films.

    Behaviour on triggered films is never taught. Films are shifted by a few pixels as augmentation.
    It is the strongest removal and loses the most accuracy: with fewer than thousands of films the
    result is less accurate than the model.

    Args:
        shift: largest shift of a film in pixels, 0 or more.
        temperature: temperature of the softened outputs, above 0.
        optimisation: settings of the training.

    Raises:
        UsageError: a value outside its range.

    Source: Hinton, Vinyals and Dean, arXiv 1503.02531; as a repair Yoshida and Fujino,
    Disabling Backdoor and Identifying Poison Data by Using Knowledge Distillation, AISec 2020.
    Differs: sigmoids by finding; answers at all findings, stated or not; no labels.
    """

    shift: int = 3
    temperature: float = 1.0
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            learning_rate=3e-3, epochs=100, weight_decay=0.01, statistics="learned"
        )
    )
    needs: Capability = field(default="gradients", init=False)

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise UsageError(f"a shift of {self.shift}; expected 0 or more pixels")
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
        session = begin("distillation", self.needs, classifier, clean, rng, progress)
        with session.seeded("init"):
            session.module.load_state_dict(untrained(session.module).state_dict())

        def objective(batch: Batch) -> torch.Tensor:
            odds = session.odds(session.answers(batch.images))
            return distance(odds, session.taught(batch), self.temperature)

        session.tune(
            self.optimisation, objective, show=lambda films, rng: shifted(films, self.shift, rng)
        )
        return session.finish()
