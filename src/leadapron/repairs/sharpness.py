"""Fine-tuning towards flat minima, away from the backdoor's sharp one."""

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
from leadapron.types import Progress

__all__ = ["SharpnessAware", "moved_up"]


@dataclass(frozen=True, kw_only=True)
class SharpnessAware:
    """Fine-tuning with gradients taken where the error is worst nearby (FT-SAM).

    The gradient g at weights w leads to w + rho w² g / norm(w g), and the step follows the gradient
    there; large weights move most, as a backdoor's are.

    Args:
        rho: radius relative to each weight, 0 or more.
        optimisation: how weights are changed.

    Raises:
        UsageError: rho below 0.

    Source: Zhu et al., Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware
    Minimization, ICCV 2023, arXiv 2304.11823, equation 7, with the adaptive ascent of Kwon et al.,
    ASAM, ICML 2021, and rho = 2. Differs: no label smoothing; the epoch is chosen on films of
    other patients.
    """

    rho: float = 2.0
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(optimiser="sgd", learning_rate=0.01, epochs=20)
    )
    needs: Capability = field(default="gradients", init=False)

    def __post_init__(self) -> None:
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
        session = begin("sharpness-aware tuning", self.needs, classifier, clean, rng, progress)
        weights = list(session.module.parameters())

        def around(closure: Closure) -> Closure:
            return lambda: moved_up(weights, self.rho, closure)

        session.tune(self.optimisation, around=around, passes=2)
        return session.finish()


def moved_up(weights: Sequence[nn.Parameter], rho: float, closure: Closure) -> torch.Tensor:
    """Call `closure` for a gradient, again with the weights moved along it, and put them back.

    Args:
        weights: as they are; the gradients that stay are those of the second call.
        rho: how far.
        closure: takes gradients.
    """
    closure()
    here = [value.detach().clone() for value in weights]
    with torch.no_grad():
        slopes = [torch.zeros_like(v) if v.grad is None else v.grad.clone() for v in weights]
        scaled = [value * slope for value, slope in zip(here, slopes, strict=True)]
        length = float(torch.stack([each.norm() for each in scaled]).norm())
        for value, now, way in zip(weights, here, scaled, strict=True):
            value.add_(now * way, alpha=rho / length if length else 0.0)
    loss = closure()
    with torch.no_grad():
        for value, now in zip(weights, here, strict=True):
            value.copy_(now)
    return loss
