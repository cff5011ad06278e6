"""Copies of networks."""

from __future__ import annotations

import copy

from leadapron.errors import UsageError
from leadapron.models import networks
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.protocols import Differentiable, operating_points_of

__all__ = ["copied_network"]


def copied_network(original: Differentiable, what: str) -> NetworkClassifier:
    """Return a copy of a network whose weights are its own, in evaluation mode.

    Args:
        original: the network, which stays as it is.
        what: what it is copied for, for the message.

    Raises:
        UsageError: a module that is no `Network`.
    """
    module = copy.deepcopy(original.module)
    if not isinstance(module, networks.Network):
        raise UsageError(f"{what}: a {type(module).__name__} as a network; expected a Network")
    return NetworkClassifier(
        module.eval(),
        original.architecture,
        original.findings,
        original.preprocessing,
        original.head,
        original.mean,
        original.std,
        original.precision,
        operating_points_of(original),
    )
