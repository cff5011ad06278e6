"""Protocols of classifiers, and the capabilities that methods need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadapron.errors import UnknownNameError, UsageError
from leadapron.films.cohort import ImageArray
from leadapron.films.preprocessing import Preprocessing
from leadapron.models import networks

__all__ = [
    "OF_NETWORKS",
    "BlackBox",
    "Capability",
    "Differentiable",
    "Floats",
    "Outputs",
    "WhiteBox",
    "attending",
    "columns_of",
    "differentiable",
    "lacking",
    "layered",
    "network_lacks",
    "operating_points_of",
    "pooled_head",
    "staged",
]

Floats = NDArray[np.float32]


class Outputs(NamedTuple):
    """Outputs of one pass over n images, float32.

    Args:
        logits: (n, k).
        features: (n, d), input of the last layer.
        maps: (n, m, h', w') class activation maps of the m requested findings, in units of the
            logit, as large as the last map.
    """

    logits: Floats
    features: Floats
    maps: Floats


@runtime_checkable
class BlackBox(Protocol):
    """A classifier with outputs only. Images are (n, h, w) uint8 or uint16 of its preprocessing."""

    @property
    def findings(self) -> tuple[str, ...]:
        """The k findings, in the order of the outputs."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How a film becomes the classifier's input."""
        ...

    @property
    def head(self) -> Literal["sigmoid", "softmax"]:
        """The function from logits to probabilities."""
        ...

    def logits(self, images: ImageArray) -> Floats:
        """Return (n, k) float32."""
        ...

    def probabilities(self, images: ImageArray) -> Floats:
        """Return (n, k) float32 in 0 to 1."""
        ...


@runtime_checkable
class WhiteBox(BlackBox, Protocol):
    """A classifier with readable features and activations."""

    def outputs(self, images: ImageArray, findings: Sequence[str] = ()) -> Outputs:
        """Return logits and features of one pass, and class activation maps if it has them."""
        ...

    def features(self, images: ImageArray) -> Floats:
        """Return (n, d) float32, the last layer's input."""
        ...

    def activations(self, images: ImageArray) -> Floats:
        """Return (n, c, h', w') float32, the last map."""
        ...


@runtime_checkable
class Differentiable(WhiteBox, Protocol):
    """A classifier with gradients."""

    @property
    def module(self) -> nn.Module:
        """The network: normalised (n, 1, h, w) float32 to (n, k) logits."""
        ...

    @property
    def architecture(self) -> str:
        """Name of the network's architecture, such as a name in `networks.ARCHITECTURES`."""
        ...

    @property
    def mean(self) -> float:
        """Mean that is subtracted from grey levels in 0 to 1."""
        ...

    @property
    def std(self) -> float:
        """Standard deviation that grey levels are divided by."""
        ...

    @property
    def precision(self) -> Literal["bf16", "fp32"]:
        """Precision of the network's convolutions."""
        ...

    @property
    def device(self) -> torch.device:
        """The network's device."""
        ...

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, 1, h, w) float32 network input of (n, h, w) grey levels."""
        ...


Capability = Literal[
    "outputs",
    "features",
    "gradients",
    "named layers",
    "stages",
    "pooled linear head",
    "linear last layer",
    "batch normalisation",
    "ReLU layers",
    "attention",
]
"""A capability that a method needs of a model; `OF_NETWORKS` tests a network for it."""


def _has_layer(fits: Callable[[nn.Module], bool]) -> Callable[[nn.Module], bool]:
    return lambda module: any(fits(part) for part in module.modules())


def _normalises(part: nn.Module) -> bool:
    return isinstance(part, nn.BatchNorm2d) and part.affine and part.running_var is not None


def _ends_linear(module: nn.Module) -> bool:
    return isinstance(module, networks.Network) and isinstance(
        module.get_submodule(module.last_layer), nn.Linear
    )


def _is_pooled(module: nn.Module) -> bool:
    return isinstance(module, networks.Network) and module.pooled_head is not None


def _attends(module: nn.Module) -> bool:
    return isinstance(module, networks.Instrumented) and module.attends


def _has_stages(module: nn.Module) -> bool:
    return isinstance(module, networks.PooledLinear)


OF_NETWORKS: Mapping[Capability, tuple[Callable[[nn.Module], bool], str]] = MappingProxyType(
    {
        "gradients": (lambda _: True, "gradients"),
        "named layers": (
            lambda module: isinstance(module, networks.Network),
            "inner layers that can be read",
        ),
        "stages": (_has_stages, "stages that run one after another"),
        "pooled linear head": (_is_pooled, "average pooling and one linear layer at the end"),
        "linear last layer": (_ends_linear, "a linear last layer"),
        "batch normalisation": (_has_layer(_normalises), "batch normalisation with weights"),
        "ReLU layers": (_has_layer(lambda part: isinstance(part, nn.ReLU)), "ReLUs as layers"),
        "attention": (_attends, "attention between all tokens"),
    }
)
"""For each capability of a network, the test of a module and a description."""


def lacking(classifier: BlackBox, needs: Capability) -> str:
    """Return why a model lacks a capability, or "" if it has it.

    Args:
        classifier: the model.
        needs: the capability.

    Returns:
        Words that follow the method's name: "needs gradients; the model only gives outputs".
    """
    if needs == "outputs" or (needs == "features" and isinstance(classifier, WhiteBox)):
        return ""
    if needs != "features" and isinstance(classifier, Differentiable):
        return network_lacks(classifier.module, classifier.architecture, needs)
    words = needs if needs == "features" else OF_NETWORKS[needs][1]
    shown = "outputs and features" if isinstance(classifier, WhiteBox) else "outputs"
    return f"needs {words}; the model only gives {shown}"


def network_lacks(module: nn.Module, architecture: str, needs: Capability) -> str:
    """Return why a network lacks a capability, or "" if it has it.

    Args:
        module: the network.
        architecture: its name.
        needs: the capability.
    """
    if needs not in OF_NETWORKS:
        return ""
    has, words = OF_NETWORKS[needs]
    return "" if has(module) else f"needs {words}; {architecture} has none"


def differentiable(
    classifier: BlackBox, what: str, needs: Capability = "gradients"
) -> Differentiable:
    """Return a model as `Differentiable`, after testing it for one more capability.

    Args:
        classifier: the model.
        what: name of the method, for the start of the message.
        needs: the capability.

    Raises:
        UsageError: the model lacks one of the two.
    """
    if reason := lacking(classifier, needs):
        raise UsageError(f"{what} {reason}")
    if not isinstance(classifier, Differentiable):
        raise UsageError(f"{what} {lacking(classifier, 'gradients')}")
    return classifier


def layered(classifier: BlackBox, what: str) -> networks.Network:
    """Return a model's network, with named layers.

    Args:
        classifier: the model.
        what: name of the method, for the start of the message.

    Raises:
        UsageError: as `differentiable`.
    """
    module = differentiable(classifier, what, "named layers").module
    assert isinstance(module, networks.Network)
    return module


def pooled_head(classifier: BlackBox, what: str) -> nn.Linear:
    """Return the linear layer of a model that reads the mean of its last map.

    Args:
        classifier: the model.
        what: name of the method, for the start of the message.

    Raises:
        UsageError: as `differentiable`.
    """
    module = differentiable(classifier, what, "pooled linear head").module
    assert isinstance(module, networks.Network)
    head = module.pooled_head
    assert head is not None
    return head


def attending(classifier: BlackBox, what: str) -> networks.Instrumented:
    """Return a model's network, with attention between all tokens.

    Args:
        classifier: the model.
        what: name of the method, for the start of the message.

    Raises:
        UsageError: as `differentiable`.
    """
    module = differentiable(classifier, what, "attention").module
    assert isinstance(module, networks.Instrumented)
    return module


def staged(classifier: BlackBox, what: str) -> networks.PooledLinear:
    """Return a model's network, of stages that run one after another and a pooled linear head.

    Args:
        classifier: the model.
        what: name of the method, for the start of the message.

    Raises:
        UsageError: as `differentiable`.
    """
    module = differentiable(classifier, what, "stages").module
    assert isinstance(module, networks.PooledLinear)
    return module


def operating_points_of(classifier: BlackBox) -> tuple[float, ...]:
    """Return the operating points that a classifier applies, as in `squashed`; empty if none."""
    points: tuple[float, ...] = getattr(classifier, "operating_points", ())
    return points


def columns_of(classifier: BlackBox, findings: Sequence[str]) -> list[int]:
    """Return the columns of some findings.

    Raises:
        UnknownNameError: no such finding.
    """
    for finding in findings:
        if finding not in classifier.findings:
            raise UnknownNameError("finding", finding, classifier.findings)
    return [classifier.findings.index(finding) for finding in findings]
