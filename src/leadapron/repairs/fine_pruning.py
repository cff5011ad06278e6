"""Fine-pruning: features that clean films don't use are pruned, then the model is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Optimisation, Session, begin
from leadapron.types import Progress

__all__ = ["FinePruning"]


@dataclass(frozen=True, kw_only=True)
class FinePruning:
    """The features that are least active on clean films are pruned, then the model is fine-tuned.

    A feature is the last layer's input from one channel of the last map. It is pruned by zeros in
    the last layer's weights, which stay zero. As many are pruned as the guard's films accept.

    Args:
        steps: largest number of evenly spaced counts of features that are tried, 1 or more.
        optimisation: settings of the fine-tuning.

    Raises:
        UsageError: fewer than 1 step, or a model whose last layer reads more than one vector of
            each film.

    Source: Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018, sections 3.1 to 3.3. Differs: the
    number is chosen by macro AUROC on films of other patients, not by accuracy on test films.
    """

    steps: int = 32
    optimisation: Optimisation = field(default_factory=Optimisation)
    needs: Capability = field(default="linear last layer", init=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"steps {self.steps}; expected 1 or more")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("fine-pruning", self.needs, classifier, clean, rng, progress)
        cut = torch.from_numpy(self._unused(session)).to(session.student.device)
        head = session.head

        def stepped() -> None:
            with torch.no_grad():
                head.weight[:, cut] = 0

        stepped()
        session.tune(self.optimisation, stepped=stepped)
        return session.finish()

    def _unused(self, session: Session) -> NDArray[np.int64]:
        """The features to prune; logits are computed from the features, without forward passes."""
        weight = session.head.weight.detach().cpu().numpy()
        logits, features, _ = session.student.outputs(session.guard.films.images)
        rest = logits - features @ weight.T  # the bias, the same for all films
        if not np.allclose(rest, rest[0], atol=1e-2 * (1 + float(np.abs(logits).max()))):
            raise UsageError("fine-pruning needs a last layer that reads one vector of each film")
        order = np.argsort(session.student.features(session.learn.images).mean(axis=0))
        cut = order[:0]
        for count in np.unique(np.linspace(0, len(order) - 1, self.steps + 1).round().astype(int)):
            kept = features.copy()
            kept[:, order[:count]] = 0
            if not session.guard.judge(kept @ weight.T + rest[0]).accepted:
                break
            cut = order[:count]
        return cut
