"""Feature shift tuning: the last layer is re-initialised and pushed away from its old weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Batch, Optimisation, Session, begin
from leadapron.types import Progress

__all__ = ["FeatureShift", "keep_norms", "overlap"]


def overlap(weight: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the mean inner product of (m, d) rows with their original values."""
    return (weight * before).sum(1).mean()


def keep_norms(weight: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return (m, d) rows scaled to the norms that they had before."""
    norms, wanted = (rows.square().sum(1, keepdim=True).sqrt() for rows in (weight, before))
    return weight * (wanted / norms.clamp(min=1e-12))


@dataclass(frozen=True, kw_only=True)
class FeatureShift:
    """Fine-tuning with a re-initialised last layer that is kept away from its old weights (FST).

    The loss is the error plus alpha times the mean inner product of each finding's weights with
    its original weights; after each step they are scaled to their original norm.

    Args:
        alpha: weight of the inner product, 0 or more.
        optimisation: how weights are changed; the authors' rate and epochs.

    Raises:
        UsageError: alpha below 0.

    Source: Min et al., Towards Stable Backdoor Purification through Feature Shift Tuning, NeurIPS
    2023, arXiv 2310.01875, equation 1. Differs: norm and inner product by finding, not of the
    whole layer; the bias begins where the mean logit fits the finding's prevalence; findings that
    the films don't hold both present and absent keep their weights, since nothing could bring them
    back.
    """

    alpha: float = 0.2
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(optimiser="sgd", learning_rate=0.01)
    )
    needs: Capability = field(default="linear last layer", init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise UsageError(f"an alpha of {self.alpha}; expected 0 or more")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("feature shift tuning", self.needs, classifier, clean, rng, progress)
        head = session.head
        rows = torch.from_numpy(np.flatnonzero(session.learnable())).to(head.weight.device)
        before = head.weight.detach()[rows].clone()
        if len(rows):
            self._redraw(session, rows, before)

        def objective(batch: Batch) -> torch.Tensor:
            error = session.fit(batch)
            return error + self.alpha * overlap(head.weight[rows], before) if len(rows) else error

        def stepped() -> None:
            with torch.no_grad():
                head.weight[rows] = keep_norms(head.weight[rows], before)

        session.tune(self.optimisation, objective, stepped=stepped)
        return session.finish()

    def _redraw(self, session: Session, rows: torch.Tensor, before: torch.Tensor) -> None:
        head, labels = session.head, session.learn.labels[:, rows.cpu().numpy()]
        reach = before.shape[1] ** -0.5
        with session.seeded("head"), torch.no_grad():
            drawn = torch.empty(before.shape).uniform_(-reach, reach).to(before)
            head.weight[rows] = keep_norms(drawn, before)
            if head.bias is not None:
                features = torch.from_numpy(session.student.features(session.learn.images))
                usual = features.mean(0).to(before) @ head.weight[rows].T
                shares = torch.from_numpy(np.nanmean(labels, axis=0)).to(before)
                head.bias[rows] = shares.logit() - usual
