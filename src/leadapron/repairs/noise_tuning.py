"""Fine-tuning under noise on batch normalisation, as BAN repairs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.noise import disturbed, normalisations, worst_noise
from leadapron.repairs.session import Batch, Optimisation, begin
from leadapron.types import Progress

__all__ = ["NoiseTuning"]


@dataclass(frozen=True, kw_only=True)
class NoiseTuning:
    """Fine-tuning on the error plus that under the worst noise on batch normalisation (BAN).

    Args:
        epsilon: largest noise relative to weights and biases, above 0.
        weight: of the error under noise, 0 or more.
        noise_steps: of the noise, 1 or more; each is one pass more.
        optimisation: how weights are changed; the authors' rate and 25 epochs.

    Raises:
        UsageError: a value outside its range.

    Source: Xu et al., BAN: Detecting Backdoors Activated by Adversarial Neuron Noise, NeurIPS
    2024, arXiv 2405.19928, section 4 (fine-tuning). Differs: noise is clipped at epsilon; no
    weight decay; the epoch is chosen on films of other patients.
    """

    epsilon: float = 0.3
    weight: float = 0.5
    noise_steps: int = 1
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(optimiser="sgd", learning_rate=0.005, epochs=25)
    )
    needs: Capability = field(default="batch normalisation", init=False)

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise UsageError(f"an epsilon of {self.epsilon}; expected above 0")
        if not 0 <= self.weight < math.inf:
            raise UsageError(f"a weight of {self.weight}; expected 0 or more")
        if self.noise_steps < 1:
            raise UsageError(f"noise_steps {self.noise_steps}; expected 1 or more")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("noise tuning", self.needs, classifier, clean, rng, progress)
        layers = normalisations(session.module)

        def objective(batch: Batch) -> torch.Tensor:
            noise = worst_noise(session, batch, self.epsilon, self.noise_steps, {})
            noisy = session.answers(batch.images, disturbed(layers, noise, {}))
            return session.fit(batch) + self.weight * session.loss(noisy, batch.labels)

        session.tune(self.optimisation, objective, passes=2 + self.noise_steps)
        return session.finish()
