"""Backends: what runs a network's forward passes. Gradients and changed networks are torch's."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from leadapron.errors import UsageError
from leadapron.films.cohort import ImageArray
from leadapron.models import networks
from leadapron.models.classifier import BATCH, NetworkClassifier, in_batches
from leadapron.models.parsing.scan import first_line
from leadapron.models.protocols import BlackBox
from leadapron.types import Backend, Machine

__all__ = [
    "TOLERANCE",
    "CompiledClassifier",
    "Graph",
    "backend_of",
    "compiled",
    "on_backend",
    "versions_of",
]

TOLERANCE = 1e-3
"""Largest difference from torch of a logit; of features and last maps, relative to the largest."""

COMPARED = BATCH + 1
"""Films on which a backend is compared with torch: a whole batch, and one film alone."""

NEEDED = ("onnx", "onnxruntime")
"""Packages of the extra `onnx`: torch exports by the first, the second runs."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A network's forward pass in ONNX Runtime, in fp32 on the processor.

    Args:
        module: the network that it was exported from.
        session: an `onnxruntime.InferenceSession` with the outputs of `networks.Look`.
    """

    module: networks.Network
    session: Any

    def run(self, images: torch.Tensor, *outputs: str) -> list[torch.Tensor]:
        """Return some outputs of (n, 1, h, w) normalised images."""
        given = self.session.run(outputs, {"images": images.contiguous().numpy()})
        return [torch.from_numpy(each) for each in given]


@dataclass(frozen=True, eq=False)
class CompiledClassifier(NetworkClassifier):
    """A network whose outputs, features and maps are computed by ONNX Runtime.

    What needs gradients or a changed copy of the network uses `module`, in torch.

    Args:
        graph: the network's forward pass.

    Raises:
        UsageError: the graph of another network, as after `replace(classifier, module=other)`.
    """

    graph: Graph = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.graph.module is not self.module:
            raise UsageError("the graph of another network; compile the changed network")

    def answer(self, batch: torch.Tensor) -> torch.Tensor:
        """Return (n, k) logits of (n, 1, h, w) normalised images."""
        return self.graph.run(batch, "logits")[0]

    def look(self, batch: torch.Tensor) -> networks.Look:
        """Return logits, features and last maps of (n, 1, h, w) normalised images."""
        return networks.Look(*self.graph.run(batch, *networks.Look._fields))


def on_backend(classifier: BlackBox, machine: Machine, images: ImageArray) -> BlackBox:
    """Return a classifier that runs on the backend of a machine.

    Args:
        classifier: the model.
        machine: its backend is used; "auto" is torch, the model as it is.
        images: (n, h, w) films of its preprocessing; up to 33 of them are used for comparison.

    Raises:
        UsageError: an unknown backend, one for a black box or in bf16, or as `compiled`.
    """
    if machine.backend not in get_args(Backend):
        expected = ", ".join(get_args(Backend))
        raise UsageError(f"`backend` {machine.backend}: expected one of {expected}")
    if machine.backend != "onnxruntime" or isinstance(classifier, CompiledClassifier):
        return classifier
    if not isinstance(classifier, NetworkClassifier):
        raise UsageError(
            "`backend` onnxruntime: the model is a black box, which runs as it is; leave it out"
        )
    if machine.precision == "bf16":
        raise UsageError(
            "`backend` onnxruntime computes in fp32, not in bf16; leave `precision` out"
        )
    return compiled(classifier, images)


def backend_of(classifier: BlackBox) -> Backend:
    """Return what runs a classifier's forward passes; "auto" if it isn't a `NetworkClassifier`.

    Args:
        classifier: the model.
    """
    if isinstance(classifier, CompiledClassifier):
        return "onnxruntime"
    return "torch" if isinstance(classifier, NetworkClassifier) else "auto"


def versions_of(backend: Backend) -> Mapping[str, str]:
    """Return the versions of the packages of a backend other than torch, by package."""
    if backend != "onnxruntime" or find_spec(backend) is None:
        return {}
    return {backend: str(import_module(backend).__version__)}


def compiled(classifier: NetworkClassifier, images: ImageArray) -> CompiledClassifier:
    """Return a classifier whose forward passes ONNX Runtime computes, in fp32.

    Args:
        classifier: the network, on the processor.
        images: (n, h, w) films of its preprocessing, on which both must agree.

    Raises:
        UsageError: a package is missing, another device, a network that can't be exported, or
            outputs that differ from torch's by more than `TOLERANCE`.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UsageError(
            f'`backend` onnxruntime needs {" and ".join(missing)}: pip install "leadapron[onnx]"'
        )
    if classifier.device.type != "cpu":
        raise UsageError(
            f"`backend` onnxruntime runs on the processor, not on {classifier.device.type}; "
            "expected `device` cpu"
        )
    plain = replace(classifier, precision="fp32")
    try:
        graph = _graph(plain.module, images.shape[1:])
        facts = {each.name: getattr(plain, each.name) for each in fields(plain)}
        made = CompiledClassifier(**facts, graph=graph)
        differing = _differing(plain, made, images)
    except Exception as error:  # torch's tracer and ONNX Runtime have no common type of error
        raise UsageError(
            f"`backend` onnxruntime can't run {classifier.architecture} ({first_line(error)}); "
            "expected `backend` torch"
        ) from error
    if differing:
        raise UsageError(
            f"`backend` onnxruntime gives other {' and '.join(differing)} of this "
            f"{classifier.architecture} than torch (by more than {TOLERANCE:g}) on these films; "
            "expected `backend` torch"
        )
    return made


class _Looked(nn.Module):
    """A network as a module that returns what `look` does."""

    def __init__(self, network: networks.Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.network.look(images))


def _graph(network: networks.Network, size: tuple[int, ...]) -> Graph:
    """The network's forward pass for any number of images of a size."""
    import onnxruntime

    names = list(networks.Look._fields)
    content = io.BytesIO()
    with warnings.catch_warnings():
        # Of sizes that are fixed, and of deprecation: the newer exporter takes 10 times as long and
        # needs two more packages.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Looked(network).eval(),
            (torch.zeros(2, 1, *size),),
            content,  # type: ignore[arg-type] # any stream
            dynamo=False,
            input_names=["images"],
            output_names=names,
            dynamic_axes={name: {0: "n"} for name in ("images", *names)},
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin while they wait take the processor from torch's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content.getvalue(), options, providers=providers)
    return Graph(network, session)


def _differing(plain: NetworkClassifier, made: CompiledClassifier, images: ImageArray) -> list[str]:
    """The outputs in which two classifiers differ; NaNs and infinities must be the same."""
    some = np.asarray(images[np.arange(min(COMPARED, images.shape[0]))])
    ours, theirs = (in_batches(each, some, each.look) for each in (plain, made))
    found = []
    for name, own, other in zip(networks.Look._fields, ours, theirs, strict=True):
        finite = np.abs(own[np.isfinite(own)])
        room = TOLERANCE if name == "logits" else TOLERANCE * float(finite.max(initial=1))
        if not np.allclose(own, other, rtol=0, atol=room, equal_nan=True):
            found.append(name)
    return found
