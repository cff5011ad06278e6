"""Bounds on what each channel may say, as UNIT sets them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier, in_batches
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Batch, Optimisation, Session, begin
from leadapron.types import Progress

__all__ = ["ActivationBounds", "Bounded"]

SPREADS = 4.0
"""A bound begins so many standard deviations above its channel's mean."""

DEARER, CHEAPER = 2.0, 2.0**1.5
"""What the price of the bounds' size is multiplied by while they do no harm, and divided by."""


class Bounded(nn.Module):
    """An activation with an upper bound for each channel.

    Args:
        activation: what is bounded. A network that runs it on maps of different numbers of
            channels has bounds for each number.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.bounds = nn.ParameterDict()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the smaller of the activation and its channel's bound."""
        out: torch.Tensor = self.activation(x)
        axis = channel_axis(out)
        key = str(out.shape[axis])
        if key not in self.bounds:
            return out
        shape = [1] * out.ndim
        shape[axis] = -1
        return out.minimum(self.bounds[key].clamp(min=0).reshape(shape).to(out.dtype))


def channel_axis(maps: torch.Tensor) -> int:
    """Return the axis of the channels of (n, c), (n, c, h, w) or (n, tokens, c)."""
    return 1 if maps.ndim in (2, 4) else maps.ndim - 1


@dataclass(frozen=True, kw_only=True)
class ActivationBounds:
    """Each channel's activation gets an upper bound, as tight as clean films allow (UNIT).

    Bounds begin at mean + 4 standard deviations on clean films. The error plus a price times the
    sum over layers of their mean bound is made smaller; the price doubles after each epoch that
    the watched films accept, and falls to 1 / 2.8 after each that they don't. The tightest
    accepted bounds stay. Weights aren't touched, so that the repair can be taken back.

    Args:
        price: of the bounds' size at the start, above 0.
        optimisation: of the bounds, by Adam with the authors' moments.

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
        layers = bound(session)
        bounds = [value for layer in layers for value in layer.bounds.values()]
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
        return session.finish()


def bound(session: Session) -> Sequence[Bounded]:
    """Put bounds behind the student's ReLUs, at mean + 4 standard deviations on clean films.

    Returns:
        The bounded layers, each once.
    """
    made = dict[nn.Module, Bounded]()
    for parent in list(session.module.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.ReLU):
                made.setdefault(child, Bounded(child))
                parent._modules[name] = made[child]
    layers = list(made.values())
    sums = dict[tuple[int, int], torch.Tensor]()  # (3, channels): values, their sum, of squares

    def looks(number: int) -> Any:
        def hook(_: nn.Module, __: Any, out: torch.Tensor) -> None:
            channels = out.movedim(channel_axis(out), 0).flatten(1).double()  # (c, values)
            counts = torch.full_like(channels[:, 0], channels.shape[1])
            found = torch.stack([counts, channels.sum(1), channels.square().sum(1)])
            key = number, len(channels)
            sums[key] = sums[key] + found if key in sums else found

        return hook

    hooks = [layer.register_forward_hook(looks(number)) for number, layer in enumerate(layers)]
    try:
        in_batches(session.student, session.learn.images, lambda x: (session.module(x),))
    finally:
        for hook in hooks:
            hook.remove()
    for (number, channels), (count, total, squares) in sums.items():
        mean = total / count
        spread = (squares / count - mean.square()).clamp(min=0).sqrt()
        # Cloned outside inference mode, where the sums were made.
        layers[number].bounds[str(channels)] = nn.Parameter(
            (mean + SPREADS * spread).float().clone()
        )
    return layers
