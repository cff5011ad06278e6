"""Reconstructive neuron pruning: channels that don't help to relearn clean films are pruned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from leadapron import metrics
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.odds import log_odds
from leadapron.models.protocols import BlackBox, Capability
from leadapron.models.training import Closure
from leadapron.repairs.neuron_pruning import prune
from leadapron.repairs.noise import disturbed, normalisations
from leadapron.repairs.session import Batch, Optimisation, Session, begin
from leadapron.types import Progress

__all__ = ["ReconstructivePruning", "unlearn"]

STEEPEST = 20.0
"""Length of all gradients together, at most, while findings are unlearned."""


@dataclass(frozen=True, kw_only=True)
class ReconstructivePruning:
    """Findings are unlearned, and channels that don't help to relearn them are pruned (RNP).

    First the error on clean films is raised until their macro AUROC falls to `floor`: the backdoor
    remains. Then masks of batch normalisation, 0 to 1 for each channel, are trained to lower that
    network's error again: channels that prevent it get small masks. In the original model the
    weights of channels whose mask is at most a threshold become 0; the threshold is the largest
    that the guard's films accept.

    Args:
        floor: macro AUROC of the training films at which unlearning ends, above 0, below 1.
        unlearning: how findings are unlearned; the authors' rate, batches and at most their 20
            epochs.
        optimisation: of the masks; the authors' rate times their weight of the error, and epochs.

    Raises:
        UsageError: a floor outside its range.

    Source: Li et al., Reconstructive Neuron Pruning for Backdoor Defense, ICML 2023, arXiv
    2305.14876, with the authors' values. Differs: unlearning ends by macro AUROC, not by accuracy;
    gradients are clipped after they are taken (in the authors' code before, to no effect); the
    threshold is chosen on films of other patients; batch normalisation's statistics are kept;
    unlearning and masks each take half the film trainings at most.
    """

    floor: float = 0.6
    unlearning: Optimisation = field(
        default_factory=lambda: Optimisation(
            optimiser="sgd", learning_rate=0.01, epochs=20, batch_size=128, statistics="kept"
        )
    )
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            optimiser="sgd", learning_rate=0.04, epochs=20, statistics="kept"
        )
    )
    needs: Capability = field(default="batch normalisation", init=False)

    def __post_init__(self) -> None:
        if not 0 < self.floor < 1:
            raise UsageError(f"a floor of {self.floor}; expected above 0, below 1")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("unlearning findings", self.needs, classifier, clean, rng, progress)
        most = max(1, self.optimisation.most_films // 2)
        before = session.state()
        unlearn(session, replace(self.unlearning, most_films=most), self.floor)
        session.what = "reconstructive pruning"
        layers = normalisations(session.module)
        session.module.requires_grad_(False)
        masks = {
            name: nn.Parameter(torch.ones_like(layer.weight)) for name, layer in layers.items()
        }

        def objective(batch: Batch) -> torch.Tensor:
            return session.loss(
                session.answers(batch.images, disturbed(layers, {}, masks)), batch.labels
            )

        def stepped() -> None:
            with torch.no_grad():
                for mask in masks.values():
                    mask.clamp_(0, 1)

        for _ in session.epochs(
            replace(self.optimisation, most_films=most),
            objective,
            parameters=list(masks.values()),
            stepped=stepped,
        ):
            pass
        session.module.load_state_dict(before)
        prune(session, {name: mask.detach() for name, mask in masks.items()})
        return session.finish()


def unlearn(session: Session, optimisation: Optimisation, floor: float) -> None:
    """Make the error larger until the macro AUROC of the films learned from is at most `floor`.

    Args:
        session: its student is changed.
        optimisation: the settings.
        floor: see above; without a finding both present and absent, epochs end it.
    """
    weights = list(session.module.parameters())

    def clipped(closure: Closure) -> Closure:
        def taken() -> torch.Tensor:
            loss = closure()
            nn.utils.clip_grad_norm_(weights, STEEPEST)
            return loss

        return taken

    columns = np.flatnonzero(session.learnable())
    labels = session.learn.labels[:, columns]
    for _ in session.epochs(optimisation, lambda batch: -session.fit(batch), around=clipped):
        logits = torch.from_numpy(session.student.logits(session.learn.images))
        odds = log_odds(logits, session.student.head).numpy()[:, columns]
        if not np.isfinite(odds).all():
            return
        areas = [metrics.auroc(*each) for each in zip(labels.T, odds.T, strict=True)]
        if areas and np.mean(areas) <= floor:
            return
