"""Adversarial neuron pruning: channels that are sensitive to adversarial noise are pruned."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.noise import disturbed, normalisations, worst_noise
from leadapron.repairs.session import Batch, Optimisation, Session, begin
from leadapron.types import Progress

__all__ = ["NeuronPruning"]

THRESHOLDS = tuple(step / 20 for step in range(19))
"""Masks up to these are tried as cuts: 0, .05, ... .9."""


@dataclass(frozen=True, kw_only=True)
class NeuronPruning:
    """Channels are masked so that the worst noise on batch normalisation harms least (ANP).

    With m each channel's mask, alpha error(m) + (1 - alpha) error(m, worst noise) is made smaller;
    the weights of channels whose mask is at most a threshold become 0. The threshold is the
    largest that the guard's films accept.

    Args:
        epsilon: largest noise relative to weights and biases, above 0.
        alpha: weight of the error without noise, 0 to 1.
        noise_steps: of the noise, 1 or more; each is one pass more.
        optimisation: of the masks; the authors take 2,000 steps, which 36,000 film trainings don't
            reach (option `most_films`).

    Raises:
        UsageError: a value outside its range.

    Source: Wu and Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021,
    arXiv 2110.14430, equations 3 and 4, with the authors' values. Differs: the threshold is chosen
    by macro AUROC on films of other patients (a well-known reimplementation takes the one with the
    fewest successful attacks on test films); noise is clipped; batch normalisation's statistics
    are kept.
    """

    epsilon: float = 0.4
    alpha: float = 0.2
    noise_steps: int = 1
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            optimiser="sgd", learning_rate=0.2, epochs=200, statistics="kept"
        )
    )
    needs: Capability = field(default="batch normalisation", init=False)

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise UsageError(f"an epsilon of {self.epsilon}; expected above 0")
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"an alpha of {self.alpha}; expected 0 to 1")
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
        session = begin("neuron pruning", self.needs, classifier, clean, rng, progress)
        prune(session, self.masks(session))
        return session.finish()

    def masks(self, session: Session) -> dict[str, torch.Tensor]:
        """Return (channels,) masks in 0 to 1 by batch normalisation."""
        layers = normalisations(session.module)
        session.module.requires_grad_(False)
        masks = {
            name: nn.Parameter(torch.ones_like(layer.weight)) for name, layer in layers.items()
        }

        def objective(batch: Batch) -> torch.Tensor:
            noise = worst_noise(session, batch, self.epsilon, self.noise_steps, masks)
            plain, noisy = (
                session.loss(
                    session.answers(batch.images, disturbed(layers, some, masks)), batch.labels
                )
                for some in ({}, noise)
            )
            return self.alpha * plain + (1 - self.alpha) * noisy

        def stepped() -> None:
            with torch.no_grad():
                for mask in masks.values():
                    mask.clamp_(0, 1)

        for _ in session.epochs(
            self.optimisation,
            objective,
            parameters=list(masks.values()),
            stepped=stepped,
            passes=2 + self.noise_steps,
        ):
            pass
        return {name: mask.detach() for name, mask in masks.items()}


def prune(session: Session, masks: dict[str, torch.Tensor]) -> None:
    """Cut the channels with the smallest masks, as many as the watched films allow.

    Args:
        session: its student is changed.
        masks: (channels,) in 0 to 1 by batch normalisation.
    """
    layers = normalisations(session.module)
    kept, cut = session.state(), 0
    for threshold in THRESHOLDS:
        chosen = {name: mask <= threshold for name, mask in masks.items()}
        count = sum(int(some.sum()) for some in chosen.values())
        if count == cut:
            continue
        with torch.no_grad():
            for name, some in chosen.items():
                layers[name].weight[some] = 0
        cut = count
        if session.judge().accepted:
            kept = session.state()
    session.module.load_state_dict(kept)
