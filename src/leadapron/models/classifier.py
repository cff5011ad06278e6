"""Classifiers made of a network: running, loading and saving them."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from leadapron.errors import DataError, LeadapronError, StoreError, UsageError
from leadapron.films.cohort import ImageArray
from leadapron.films.preprocessing import Preprocessing
from leadapron.models import networks
from leadapron.models.parsing.formats import MOST_FINDINGS
from leadapron.models.parsing.reading import Group, Weights, open_file, open_weights
from leadapron.models.protocols import (
    BlackBox,
    Differentiable,
    Floats,
    Outputs,
    WhiteBox,
    columns_of,
    pooled_head,
)
from leadapron.specs import build, forgiving
from leadapron.store import write_atomically
from leadapron.text import clean_names
from leadapron.types import Precision

__all__ = [
    "BlackBox",
    "Differentiable",
    "Floats",
    "NetworkClassifier",
    "Outputs",
    "WhiteBox",
    "autocast",
    "batch_size",
    "classifier_of",
    "in_batches",
    "load_classifier",
    "randomised",
    "refuse_not_finite",
    "resolve_device",
    "resolve_precision",
    "save_classifier",
    "squashed",
]


FORMAT = "leadapron classifier 1"
BATCH = 32
"""Batch size in images on a CPU, where larger batches outgrow the caches. With torch's own
allocator a resnet9 at 64 pixels was 1.35 times as fast as with a batch of 128 (one core, medians of
3), and equally fast with a tuned allocator. Other devices use four times as many."""

PIXELS = BATCH * 224**2
"""Most pixels in a batch, likewise: 32 films of 512 pixels took a resnet9 17 GB."""


@dataclass(frozen=True, eq=False)
class NetworkClassifier:
    """A network with the settings needed to run it; implements `Differentiable`.

    Args:
        module: the network, in evaluation mode: `networks.PooledLinear`, or any other as
            `networks.Instrumented`.
        architecture: its name; to be saved and loaded it must be in `networks.ARCHITECTURES`.
        findings: names of its outputs.
        preprocessing: how a film becomes its input.
        head: "sigmoid" for independent findings, or "softmax" for exclusive ones.
        mean, std: normalisation of grey levels scaled to 0 to 1.
        precision: "bf16" runs the convolutions in bfloat16; the logits are float32 always.
        operating_points: probability of each output that becomes 0.5, as in `squashed`; empty if
            none.

    Raises:
        UsageError: a module that isn't a `networks.Network`, or one of several channels with a mean
            or std other than this package's, which `networks.GreyChannels` expects; operating
            points other than one for each finding, or with a softmax head.
    """

    module: networks.Network
    architecture: str
    findings: tuple[str, ...]
    preprocessing: Preprocessing
    head: Literal["sigmoid", "softmax"] = "sigmoid"
    mean: float = networks.GREY_MEAN
    std: float = networks.GREY_STD
    precision: Literal["bf16", "fp32"] = "fp32"
    operating_points: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _refuse_points(self.operating_points, self.findings, self.head)
        if not isinstance(self.module, networks.Network):
            raise UsageError(
                f"a {type(self.module).__name__} as a network; name the layers to read: "
                "Instrumented(network, layer=NAME)"
            )
        scale = (networks.GREY_MEAN, networks.GREY_STD)
        if (self.mean, self.std) != scale and self.scales_itself:
            raise UsageError(
                f"mean {self.mean} and std {self.std} for a network with GreyChannels, which "
                f"normalises each channel itself; expected {scale[0]} and {scale[1]}"
            )

    @property
    def scales_itself(self) -> bool:
        """Whether the network normalises its channels by itself."""
        return any(isinstance(part, networks.GreyChannels) for part in self.module.modules())

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.module.parameters()).device

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, 1, h, w) float32 input of (n, h, w) uint8 or uint16 images, on the device."""
        top = 65535.0 if images.dtype == torch.uint16 else 255.0
        scaled = images.to(self.device).float()[:, None]
        return scaled.mul_(1 / (top * self.std)).sub_(self.mean / self.std)

    def outputs(self, images: ImageArray, findings: Sequence[str] = ()) -> Outputs:
        """Return logits, features and the class activation maps of some findings, in one pass.

        Raises:
            UnknownNameError: no such finding.
            UsageError: no images, or findings for a network without a pooled linear head.
        """
        weights: torch.Tensor | None = None
        if findings:
            head = pooled_head(self, "class-activation")
            weights = head.weight[self.columns(findings)].detach()  # (m, c)

        def run(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
            logits, features, last = self.look(batch)
            if weights is None:
                return logits, features, last[:, :0]
            return logits, features, torch.einsum("nchw,kc->nkhw", last.float(), weights)

        return Outputs(*in_batches(self, images, run))

    def answer(self, batch: torch.Tensor) -> torch.Tensor:
        """Return (n, k) logits of (n, 1, h, w) normalised images."""
        logits: torch.Tensor = self.module(batch)
        return logits

    def look(self, batch: torch.Tensor) -> networks.Look:
        """Return logits, features and last maps of (n, 1, h, w) normalised images."""
        return self.module.look(batch)

    def columns(self, findings: Sequence[str]) -> list[int]:
        """Return the columns of some findings; UnknownNameError where there is none."""
        return columns_of(self, findings)

    def logits(self, images: ImageArray) -> Floats:
        """Return (n, k) float32 logits of (n, h, w) images."""
        return in_batches(self, images, lambda x: (self.answer(x),))[0]

    def probabilities(self, images: ImageArray) -> Floats:
        """Return (n, k) float32 probabilities of (n, h, w) images."""
        if self.operating_points:
            logits = self.logits(images)
            return squashed(logits, self.head, self.operating_points).astype(np.float32)
        return in_batches(self, images, lambda x: (self.squash(self.answer(x)),))[0]

    def squash(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of (n, k) logits, before operating points."""
        return logits.sigmoid() if self.head == "sigmoid" else logits.softmax(1)

    def features(self, images: ImageArray) -> Floats:
        """Return (n, d) float32, what the last layer reads."""
        return self.outputs(images).features

    def activations(self, images: ImageArray) -> Floats:
        """Return (n, c, h', w') float32 last maps."""
        return in_batches(self, images, lambda x: (self.look(x).last,))[0]


def in_batches(
    classifier: Differentiable,
    images: ImageArray,
    run: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
) -> tuple[Floats, ...]:
    """Return the outputs of `run` for the normalised images, computed in batches, as float32.

    Args:
        classifier: its normalisation, device and precision are used.
        images: (n, h, w) uint8 or uint16.
        run: (b, 1, h, w) normalised float32 -> tensors of b rows.

    Raises:
        UsageError: no images.
    """
    out: tuple[Floats, ...] = ()
    n, size = images.shape[0], batch_size(images.shape)
    if classifier.device.type != "cpu":
        size *= 4
    with torch.inference_mode(), autocast(classifier.device, classifier.precision):
        for start in range(0, n, size):
            rows = np.arange(start, min(start + size, n))
            given = run(classifier.normalise(torch.from_numpy(images[rows])))
            parts = [part.float().cpu().numpy() for part in given]
            out = out or tuple(np.empty((n, *part.shape[1:]), np.float32) for part in parts)
            for whole, part in zip(out, parts, strict=True):
                whole[rows] = part
    if not out:
        raise UsageError("no images; expected at least one")
    return out


def batch_size(shape: Sequence[int]) -> int:
    """Return how many images of (n, h, w) are computed at once on a CPU, 1 or more."""
    return min(BATCH, max(1, PIXELS // math.prod(shape[1:])))


def squashed(
    logits: NDArray[Any], head: str, operating_points: Sequence[float] = ()
) -> NDArray[np.float64]:
    """Return the probabilities of (..., k) logits.

    Args:
        logits: of any precision.
        head: "sigmoid" or "softmax".
        operating_points: of each of the k outputs, the probability that becomes 0.5; those below
            and above it are scaled linearly to 0 to 0.5 and 0.5 to 1. NaN makes every probability
            of the output 0.5. Empty changes nothing.

    Source: torchxrayvision 1.5.7, `models.op_norm`.
    """
    plain = _plainly_squashed(logits, head)
    if not operating_points:
        return plain
    points = np.asarray(operating_points, np.float64)
    below, above = plain / (2 * points), 1 - (1 - plain) / (2 * (1 - points))
    scaled: NDArray[np.float64] = np.where(plain < points, below, above)
    return np.where(np.isnan(points), 0.5, scaled)


def _plainly_squashed(logits: NDArray[Any], head: str) -> NDArray[np.float64]:
    values = logits.astype(np.float64)
    if head == "softmax":
        with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, as intended
            each = np.exp(values - values.max(axis=-1, keepdims=True))
        shares: NDArray[np.float64] = each / each.sum(axis=-1, keepdims=True)
        return shares
    halves: NDArray[np.float64] = 0.5 * (1 + np.tanh(values / 2))
    return halves


def _refuse_points(points: Sequence[float], findings: Sequence[str], head: str) -> None:
    if not points:
        return
    inside = all(math.isnan(point) or 0 < point < 1 for point in points)
    if len(points) != len(findings) or not inside or head != "sigmoid":
        raise UsageError(
            f"operating points {', '.join(f'{point:g}' for point in points[:20])} for "
            f"{len(findings)} findings with a {head} head; expected one between 0 and 1 for each "
            "finding, or NaN, with a sigmoid head"
        )


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device of that name; "auto" is CUDA, else Apple's, else the processor.

    Raises:
        UsageError: a device that this machine doesn't have.
    """
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there()))
    if name not in available or not available[name]():
        raise UsageError(f"`device` {name}: not on this machine; expected auto, cpu, cuda or mps")
    return torch.device(name)


def resolve_precision(name: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """Return the precision of that name; "auto" is bf16 where the device is faster in it."""
    if name not in get_args(Precision):
        raise UsageError(f"`precision` {name}: expected auto, bf16 or fp32")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_gains_by_bf16() else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which convolutions run at `precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@cache
def _cpu_gains_by_bf16() -> bool:
    """Whether convolutions are faster in bfloat16 than in fp32, by the processor's flags.

    They are with AMX, and with AVX-512's instructions on AMD's processors (1.9 times on a Zen 5).
    Intel's processors have these too, but slow: 0.55 times on an Emerald Rapids whose AMX is
    hidden. Flags are used instead of timing, so that a resumed study computes as before.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        facts = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in facts or ("AuthenticAMD" in facts and "avx512_bf16" in facts)


@forgiving
def refuse_not_finite(
    finite: NDArray[np.bool_], findings: Sequence[str], what: str, films: str = "films"
) -> None:
    """Raise DataError if a model's outputs for films aren't finite, naming the findings.

    Args:
        finite: (..., n, k) whether an output is finite.
        findings: the k findings.
        what: "logits" or "maps".
        films: description of the films.
    """
    lost = ~finite.reshape(-1, finite.shape[-1])  # (m, k)
    if lost.any():
        names = ", ".join(n for n, each in zip(findings, lost.T, strict=True) if each.any())
        raise DataError(
            f"the model's {what} are not finite for {names}, on {lost.any(axis=1).sum():,} of "
            f"{len(lost):,} {films}"
        )


def save_classifier(classifier: NetworkClassifier, path: Path) -> None:
    """Write weights and the settings to run them as safetensors; nothing about training."""
    facts: dict[str, Any] = {
        "architecture": classifier.architecture,
        "findings": list(classifier.findings),
        "preprocessing": asdict(classifier.preprocessing),
        "head": classifier.head,
        "normalisation": {"mean": classifier.mean, "std": classifier.std},
    }
    if classifier.operating_points:
        known = [None if math.isnan(p) else p for p in classifier.operating_points]
        facts["operating_points"] = known
    state = {name: value.contiguous() for name, value in classifier.module.state_dict().items()}
    with write_atomically(path) as file:
        file.write(save(state, {FORMAT: json.dumps(facts, sort_keys=True)}))


@forgiving
def load_classifier(
    path: Path | str, *, device: str = "auto", precision: Precision = "auto"
) -> NetworkClassifier:
    """Return the classifier of a file that `save_classifier` wrote; no code in the file is run.

    Args:
        path: the .safetensors file.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "bf16" or "fp32".

    Raises:
        StoreError: no such file, or not one of this package's.
    """
    where = resolve_device(device)
    computed = resolve_precision(precision, where)
    with open_file(Path(path)) as file:
        if file.kind != "safetensors":
            raise StoreError(f"{file.name} is not a safetensors file; expected a classifier's")
        with open_weights(file) as weights:
            return classifier_of(weights, where, computed)


def classifier_of(
    weights: Weights, device: torch.device, precision: Literal["bf16", "fp32"]
) -> NetworkClassifier:
    """Return the classifier in a file that `save_classifier` wrote.

    Args:
        weights: the file's.
        device: the device to run on.
        precision: as `NetworkClassifier`.

    Raises:
        StoreError: not a file of this package, or one whose settings and weights don't fit.
    """
    if FORMAT not in weights.metadata:
        raise StoreError(f"{weights.name} was not saved by leadapron; expected format {FORMAT!r}")
    try:
        facts: dict[str, Any] = json.loads(weights.metadata[FORMAT])
        findings = _checked(facts, weights.groups[""])
        state = weights.take(weights.groups[""])
        if not all(bool(value.isfinite().all()) for value in state.values()):
            raise ValueError("weights not as expected")
        return NetworkClassifier(
            prepare(networks.filled(facts["architecture"], len(findings), state), device).eval(),
            facts["architecture"],
            findings,
            build(Preprocessing, facts["preprocessing"], "preprocessing"),
            facts["head"],
            float(facts["normalisation"]["mean"]),
            float(facts["normalisation"]["std"]),
            precision=precision,
            operating_points=tuple(
                math.nan if point is None else float(point)
                for point in facts.get("operating_points", ())
            ),
        )
    except (
        KeyError, ValueError, TypeError, RuntimeError, OverflowError, LeadapronError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0]
        raise StoreError(f"{weights.name} does not describe its own weights: {reason}") from error


def _checked(facts: dict[str, Any], tensors: Group) -> tuple[str, ...]:
    """The findings; ValueError if a file's settings or shapes aren't those of a classifier."""
    names, scale = facts["findings"], facts["normalisation"]
    mean, std = float(scale["mean"]), float(scale["std"])
    right = {
        "architecture": isinstance(facts["architecture"], str),
        "findings": isinstance(names, list)
        and 0 < len(names) == len(set(names)) <= MOST_FINDINGS
        and all(isinstance(name, str) for name in names),
        "preprocessing": isinstance(facts["preprocessing"], dict),
        "head": facts["head"] in ("sigmoid", "softmax"),
        "normalisation": math.isfinite(mean) and 0 < std < math.inf,
    }
    wrong = [name for name, fits in right.items() if not fits]
    if wrong:
        raise ValueError(f"{' and '.join(wrong)} not as expected")
    networks.refuse_shapes(
        facts["architecture"], len(names), {key: one.shape for key, one in tensors.items()}
    )
    return clean_names(names)


def randomised(
    classifier: NetworkClassifier, seed: int, *, head_only: bool = False
) -> NetworkClassifier:
    """Return a copy with untrained weights; the classifier is unchanged.

    Args:
        classifier: the classifier to copy.
        seed: seed of the new weights, 0 or more.
        head_only: replace only the last layer; otherwise all weights, and batch normalisation's
            running statistics.
    """
    module = networks.build_network(classifier.architecture, len(classifier.findings), seed)
    if head_only:
        kept = classifier.module.state_dict().items()
        last = f"{module.last_layer}."
        state = {name: value for name, value in kept if not name.startswith(last)}
        module.load_state_dict(state, strict=False)
    return replace(classifier, module=prepare(module, classifier.device).eval())


def prepare(module: networks.Network, device: torch.device) -> networks.Network:
    """Return the network on `device`, with the memory layout that is fastest for convolutions."""
    placed: networks.Network = module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed
