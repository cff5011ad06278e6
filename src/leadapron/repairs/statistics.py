"""Statistics of batch normalisation, computed again on clean films."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier, autocast
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Session, begin
from leadapron.types import Progress

__all__ = ["Restatistics", "measure_again"]


@dataclass(frozen=True, kw_only=True)
class Restatistics:
    """Means and variances of batch normalisation are computed again on clean films.

    In a backdoored network they include triggered films. No weight is changed and no label is used.

    Args:
        batch_size: films at a time, each batch normalised by itself, 2 or more.

    Raises:
        UsageError: a batch of fewer than 2.

    Source: Li et al., Adaptive Batch Normalization for practical domain adaptation, Pattern
    Recognition 80 (2018), arXiv 1603.04779; with backdoors Zheng et al., Pre-activation
    Distributions Expose Backdoor Neurons, NeurIPS 2022. Differs: the plain mean over batches. It
    is returned even if the guard's films don't accept it, since it has no parameter to choose.
    """

    batch_size: int = 128
    needs: Capability = field(default="batch normalisation", init=False)

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise UsageError(f"a batch_size of {self.batch_size}; expected 2 or more")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("batch statistics", self.needs, classifier, clean, rng, progress)
        measure_again(session, self.batch_size)
        return session.finish()


def measure_again(session: Session, batch_size: int) -> None:
    """Set the student's running means and variances to the films' that are learned from.

    Args:
        session: its student is changed.
        batch_size: films at a time, 2 or more; each batch counts as much.
    """
    norms = [part for part in session.module.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, not one that forgets
        norm.train()
    rows = np.array_split(np.arange(len(session.learn)), -(-len(session.learn) // batch_size))
    with torch.no_grad(), autocast(session.student.device, session.student.precision):
        for done, some in enumerate(rows, start=1):
            images = torch.from_numpy(session.learn.images[some])
            session.module(session.student.normalise(images))
            session.tell(done, len(rows))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    session.module.eval()
