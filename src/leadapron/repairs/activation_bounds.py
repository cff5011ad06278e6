"""Upper bounds on each channel's activation, as in UNIT."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.bounds import BOUNDED, Bounded, bounded, channel_axis, unbounded
from leadapron.models.classifier import NetworkClassifier, in_batches
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Batch, Optimisation, Session, begin
from leadapron.types import Progress

__all__ = ["ActivationBounds", "spread_bounds"]

SPREADS = 4.0
"""Initial bound, in standard deviations above the channel's mean."""

DEARER, CHEAPER = 2.0, 2.0**1.5
"""Factor by which the price of the bounds rises while they are accepted, and divisor otherwise."""


@dataclass(frozen=True, kw_only=True)
class ActivationBounds:
    """Each channel's activation gets an upper bound, as tight as clean films allow (UNIT).

    Bounds start at mean + 4 standard deviations on clean films. The loss is the error plus a price
    times the sum over layers of the mean bound; the price doubles after each epoch that the guard's
    films accept, and falls to 1 / 2.8 after each that they don't. The tightest accepted bounds are
    kept. Weights aren't changed, so the repair can be undone. The bounds are layers: the model's
    architecture is then called "... with bounds", and only this package's file format holds it.

    Args:
        price: initial weight of the bounds' size in the loss, above 0.
        optimisation: optimisation of the bounds, by Adam with the authors' moments.

    Raises:
        UsageError: a price that isn't above 0.

    Source: Cheng et al., UNIT: Backdoor Mitigation via Automated Neural Distribution Tightening,
    ECCV 2024, arXiv 2407.11372, with the authors' rate and price. Differs: a bound for each
    channel, not for each place of it; steps of a batch, not of all films; the budget is macro
    AUROC on films of other patients, not 3 % of accuracy; the price changes by epoch.
    """

    price: float = 1e-3
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(learning_rate=1e-3, epochs=100, statistics="kept")
    )
    needs: Capability = field(default="ReLU layers", init=False)

    def __post_init__(self) -> None:
        if not 0 < self.price < math.inf:
            raise UsageError(f"a price of {self.price}; expected above 0")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("activation bounds", self.needs, classifier, clean, rng, progress)
        session.module.requires_grad_(False)
        bounds = spread_bounds(session)
        for value in bounds:
            value.requires_grad_()
        price = self.price

        def size() -> torch.Tensor:
            return torch.stack([value.clamp(min=0).mean() for value in bounds]).sum()

        def objective(batch: Batch) -> torch.Tensor:
            return session.fit(batch) + price * size()

        best, kept = math.inf, session.state()
        for _ in session.epochs(
            self.optimisation,
            objective,
            parameters=bounds,
            optimizer=torch.optim.Adam(bounds, self.optimisation.learning_rate, (0.5, 0.9)),
        ):
            accepted = session.judge().accepted
            if accepted and (now := float(size().detach())) < best:
                best, kept = now, session.state()
            price = price * DEARER if accepted else price / CHEAPER
        session.module.load_state_dict(kept)
        for value in bounds:
            value.grad = None
            value.requires_grad_(False)
        repaired = session.finish()
        return replace(repaired, architecture=unbounded(repaired.architecture) + BOUNDED)


def spread_bounds(session: Session) -> list[torch.Tensor]:
    """Put bounds behind the student's ReLUs, at mean + 4 standard deviations on clean films.

    Returns:
        The (channels,) bounds, which are the student's.
    """
    some = torch.from_numpy(session.learn.images[:1])
    bounded(session.module, session.student.normalise(some))
    layers = [part for part in session.module.modules() if isinstance(part, Bounded)]
    sums = dict[torch.Tensor, torch.Tensor]()  # (3, channels): values, their sum, of squares

    def look(layer: nn.Module, _: Any, out: torch.Tensor) -> None:
        assert isinstance(layer, Bounded)
        channels = out.movedim(channel_axis(out), 0).flatten(1).double()  # (c, values)
        counts = torch.full_like(channels[:, 0], channels.shape[1])
        bound = layer.bounds()[len(channels)]
        found = torch.stack([counts, channels.sum(1), channels.square().sum(1)])
        sums[bound] = sums[bound] + found if bound in sums else found

    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        in_batches(session.student, session.learn.images, lambda x: (session.module(x),))
    finally:
        for hook in hooks:
            hook.remove()
    for bound, (count, total, squares) in sums.items():
        mean = total / count
        spread = (squares / count - mean.square()).clamp(min=0).sqrt()
        bound.copy_(bound.minimum((mean + SPREADS * spread).float()))
    return list(sums)
