"""Fine-tuning on clean films, the control for all other repairs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Optimisation, begin
from leadapron.types import Progress

__all__ = ["FineTuning"]


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Training continues on clean films only.

    Args:
        optimisation: how weights are changed.

    Source: Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018, section 3.2, as the weaker part
    of their method. Differs: binary cross-entropy by finding over stated labels; the epoch is
    chosen on films of other patients.
    """

    optimisation: Optimisation = field(default_factory=Optimisation)
    needs: Capability = field(default="gradients", init=False)

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("fine-tuning", self.needs, classifier, clean, rng, progress)
        session.tune(self.optimisation)
        return session.finish()
