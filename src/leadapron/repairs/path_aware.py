"""Path-aware minimisation: unlearning that also holds on the path to the backdoored weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.protocols import BlackBox, Capability
from leadapron.models.training import Closure
from leadapron.repairs.session import Optimisation, begin
from leadapron.repairs.stamp_unlearning import Marking
from leadapron.types import Progress

__all__ = ["PathAware", "moved_back"]


@dataclass(frozen=True, kw_only=True)
class PathAware(Marking):
    """Stamp unlearning with gradients taken on the path to the backdoored weights (PAM).

    The loss at weights w is the error at w + rho (w0 - w) / norm(w0 - w), with the original weights
    w0, so that training on a few poisoned films can't restore the backdoor (relearning).

    Args:
        marks: those that the audit found; see `stamp_unlearning.marks_of`.
        share: of the films of a step that are marked, more than 0 and at most 1.
        jitter: pixels by which a square is moved at most.
        elsewhere: share of the marked films with the square elsewhere, as `Marking`.
        recoloured: share of the marked films with another grey level, as `Marking`.
        others: share of the marked films with another square, as `Marking`.
        rho: how far back the gradient is taken, a distance of all weights together, 0 or more.
        optimisation: how weights are changed.

    Raises:
        UsageError: no marks, or a value outside its range.

    Source: Min et al., Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor
    Defense, NeurIPS 2024, arXiv 2410.09838, section 5. Differs: the audit's marks in place of a
    generator's pictures; at most half of the way back, since near w0 all gradients would be those
    of w0 itself, and lead too far; AdamW.
    """

    rho: float = 0.5
    optimisation: Optimisation = field(default_factory=lambda: Optimisation(epochs=8))
    needs: Capability = field(default="gradients", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho < math.inf:
            raise UsageError(f"a rho of {self.rho}; expected 0 or more")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("path-aware unlearning", self.needs, classifier, clean, rng, progress)
        weights = list(session.module.parameters())
        start = [value.detach().clone() for value in weights]

        def around(closure: Closure) -> Closure:
            return lambda: moved_back(weights, start, self.rho, closure)

        session.tune(self.optimisation, show=self.mark, around=around)
        return session.finish()


def moved_back(
    weights: Sequence[nn.Parameter], start: Sequence[torch.Tensor], rho: float, closure: Closure
) -> torch.Tensor:
    """Call `closure` with the weights moved by rho towards where they started, and put them back.

    Args:
        weights: as they are.
        start: as they were.
        rho: the distance, at most half of the way.
        closure: takes gradients.
    """
    here = [value.detach().clone() for value in weights]
    with torch.no_grad():
        ways = [before - now for before, now in zip(start, here, strict=True)]
        length = float(torch.stack([way.norm() for way in ways]).norm())
        for value, way in zip(weights, ways, strict=True):
            value.add_(way, alpha=min(0.5, rho / length) if length else 0.0)
    loss = closure()
    with torch.no_grad():
        for value, now in zip(weights, here, strict=True):
            value.copy_(now)
    return loss
