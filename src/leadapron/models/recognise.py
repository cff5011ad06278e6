"""State dicts of torchvision, timm, torchxrayvision and MONAI as networks of this package.

`LAYOUTS` says how a family names its weights, `MAKERS` what its makers feed it. A new family is a
line in one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

from leadapron import networks
from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.models.files import Stored, refuse_numbers

__all__ = ["MAKERS", "NORMALISATIONS", "Maker", "Normalisation", "Recognised", "recognise"]

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Normalisation:
    """(grey level in 0 to 1 - mean) / std of each colour, or of the one channel.

    Args:
        mean: one number, or three of red, green and blue.
        std: as many.

    Raises:
        UsageError: other counts, or a std that isn't above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean) or min(self.std) <= 0:
            raise UsageError(
                f"normalisation by mean {self.mean} and std {self.std}; expected one number each, "
                "or three, and std above 0"
            )


NORMALISATIONS: Mapping[str, Normalisation] = {
    "imagenet": Normalisation(networks.IMAGENET_MEAN, networks.IMAGENET_STD),
    # -1024 for black to 1024 for white.
    "torchxrayvision": Normalisation((0.5,), (1 / 2048,)),
    "unit": Normalisation((0.0,), (1.0,)),
    "leadapron": Normalisation((networks.GREY_MEAN,), (networks.GREY_STD,)),
}
"""What a network's input is made of grey levels by: ImageNet's, -1024 to 1024, 0 to 1, ours."""


@dataclass(frozen=True)
class Layout:
    """How one family of networks names its weights.

    Args:
        family: in words.
        anchors: names that every one of them has; what stands before them is a wrapper's prefix.
        rules: patterns and what they become, to this package's names behind "stages.<stage>.".
        heads: names that the last layer goes by, without ".weight".
        architectures: candidates in `networks.ARCHITECTURES`; the first that fits is taken.
    """

    family: str
    anchors: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]
    heads: tuple[str, ...]
    architectures: tuple[str, ...]


LAYOUTS = (
    # Behind features.denseblock1.denselayer2 come norm1.weight in torchvision, timm and
    # torchxrayvision, norm.1.weight in files of 2017 and 2018, layers.norm1.weight in MONAI.
    Layout(
        "DenseNet-121",
        ("features.conv0.weight", "features.norm5.weight"),
        (
            (r"^features\.", ""),
            (r"(?<=\.)(norm|conv)\.(\d)(?=\.)", r"\1\2"),
            (r"(denselayer\d+)\.(?!layers)", r"\1.layers."),
        ),
        ("classifier", "classifier.0", "classifier.1", "class_layers.out", "head", "fc"),
        ("densenet121",),
    ),
    # One set of names for all four libraries.
    Layout(
        "ResNet",
        ("conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"),
        (),
        ("fc", "fc.0", "fc.1", "head.fc", "last_linear"),
        ("resnet18", "resnet34", "resnet50"),
    ),
)

TRAINING = re.compile(r"(^|\.)(criterion|loss|loss_fn|metrics?|\w+_metrics?|\w+_loss)\.")
"""Tensors that training loops keep beside the network."""

XRV_FINDINGS = (
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema",
    "Fibrosis", "Effusion", "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass",
    "Hernia", "Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum",
)  # fmt: skip
"""torchxrayvision's default_pathologies, the order of its own weights."""


@dataclass(frozen=True)
class Maker:
    """What a library's models are fed, so far as a file tells whose it is.

    Args:
        name: the library.
        tells: whether a state dict, its prefixes taken off, is one of theirs.
        normalisation: name in `NORMALISATIONS`.
        aspect: of `Preprocessing`.
        findings: names of the outputs where the library fixes them.
        sure: whether the sign is theirs alone.
    """

    name: str
    tells: Callable[[State], bool]
    normalisation: str
    aspect: Literal["squash", "crop"] = "squash"
    findings: tuple[str, ...] = ()
    sure: bool = True


def _first_channels(state: State) -> int:
    first = state.get("features.conv0.weight", state.get("conv1.weight"))
    return int(first.shape[1]) if first is not None and first.ndim == 4 else 0


MONAI_SIGNS = ("class_layers.out.weight", "layer2.0.downsample.0.bias")

MAKERS = (
    Maker("torchxrayvision", lambda s: "op_threshs" in s, "torchxrayvision", "crop", XRV_FINDINGS),
    Maker("MONAI", lambda s: any(".layers." in n or n in MONAI_SIGNS for n in s), "unit"),
    Maker("torchvision or timm", lambda s: _first_channels(s) == 3, "imagenet", sure=False),
    Maker("torchxrayvision", lambda s: True, "torchxrayvision", "crop", sure=False),
)
"""The first that tells is taken; the last are guesses and say so."""


@dataclass(frozen=True)
class Recognised:
    """A network made of a state dict.

    Args:
        module: the network, in evaluation mode, for one channel.
        architecture: its name.
        maker: whose conventions it follows.
        findings: names of its outputs.
        mean, std: of its one channel.
        notes: what was assumed or left out, a sentence each.
    """

    module: networks.PooledLinear
    architecture: str
    maker: Maker
    findings: tuple[str, ...]
    mean: float
    std: float
    notes: tuple[str, ...]


def recognise(
    stored: Stored,
    name: str,
    findings: tuple[str, ...] | None = None,
    normalisation: str | Normalisation | None = None,
    architecture: str | None = None,
) -> Recognised:
    """Return the network that a state dict holds.

    Args:
        stored: what `read_state` gives.
        name: the file's, for messages.
        findings: names of the outputs; the file's own if left out.
        normalisation: name in `NORMALISATIONS` or numbers; its maker's if left out.
        architecture: name in `networks.ARCHITECTURES`; what fits if left out.

    Raises:
        StoreError: no network that is known, or weights that can't be its.
        UsageError: names or numbers that don't fit the file.
    """
    layout, state, beside = _laid_out(stored.tensors, name)
    maker = next(maker for maker in MAKERS if maker.tells(state))
    thresholds = state.pop("op_threshs", None)
    head = _head(layout, state, beside, name)
    outputs = int(head["weight"].shape[0])
    trunk = _renamed(layout, state)
    notes: list[str] = []
    chosen = _architecture(layout, trunk, architecture, maker, name, notes)
    named = _findings(stored, findings, maker, outputs, name, notes)
    return _assembled(chosen, trunk, head, thresholds, maker, named, normalisation, name, notes)


def _laid_out(tensors: State, name: str) -> tuple[Layout, dict[str, torch.Tensor], State]:
    """The layout, the tensors behind its prefix (without it), and those beside it."""
    for layout in LAYOUTS:
        found = [key for key in tensors if key.endswith(layout.anchors[0])]
        for key in sorted(found, key=len):
            prefix = key.removesuffix(layout.anchors[0])
            if prefix and not prefix.endswith("."):
                continue
            if all(prefix + anchor in tensors for anchor in layout.anchors):
                inside = {k.removeprefix(prefix): v for k, v in tensors.items()
                          if k.startswith(prefix)}  # fmt: skip
                beside = {k: v for k, v in tensors.items() if not k.startswith(prefix)}
                if "op_threshs" in beside:  # torchxrayvision's ResNet is inside of another module
                    inside["op_threshs"] = beside.pop("op_threshs")
                return layout, inside, beside
    known = " or ".join(layout.family for layout in LAYOUTS)
    shown = ", ".join(sorted(tensors)[:3])[:160]
    raise StoreError(
        f"{name} holds {len(tensors)} tensors ({shown}, ...) that belong to no {known}; for other "
        "networks export TorchScript or ONNX, or name a function: module:function"
    )


def _head(
    layout: Layout, state: dict[str, torch.Tensor], beside: State, name: str
) -> dict[str, torch.Tensor]:
    """Weight and bias of the last layer, which are taken out of `state`; or lie beside it."""
    ends = [
        key
        for head in layout.heads
        for key in (*state, *beside)
        if f".{key}".endswith(f".{head}.weight") and _any(state, beside, key).ndim == 2
    ]
    if not ends:
        raise StoreError(
            f"{name} is a {layout.family} without a last layer; expected one of "
            f"{', '.join(layout.heads)}. Features alone can't be asked about findings"
        )
    weight_key = ends[0]
    bias_key = f"{weight_key.removesuffix('weight')}bias"
    weight = _any(state, beside, weight_key)
    there = bias_key in state or bias_key in beside
    bias = _any(state, beside, bias_key) if there else torch.zeros(len(weight))
    for key in (weight_key, bias_key):
        state.pop(key, None)
    _refuse_leftovers([key for key in beside if key not in (weight_key, bias_key)], name)
    return {"weight": weight, "bias": bias}


def _any(state: State, beside: State, key: str) -> torch.Tensor:
    return state[key] if key in state else beside[key]


def _refuse_leftovers(names: list[str], name: str) -> None:
    left = sorted(n for n in names if not TRAINING.search(n))
    if left:
        raise StoreError(
            f"{name} holds {len(left)} tensors that belong to no network that is known, the first "
            f"{left[0][:80]}; leave them out, or name a function: module:function"
        )


def _renamed(layout: Layout, state: State) -> dict[str, torch.Tensor]:
    trunk = {}
    for key, value in state.items():
        for pattern, becomes in layout.rules:
            key = re.sub(pattern, becomes, key)
        trunk[key] = value
    # The bias of a convolution right before batch normalisation moves its mean, and no more.
    for key in [k for k in trunk if k.endswith("downsample.0.bias")]:
        mean = key.replace("0.bias", "1.running_mean")
        if mean in trunk and trunk[mean].shape == trunk[key].shape:
            trunk[mean] = trunk[mean] - trunk.pop(key)
    return trunk


@cache
def _shapes(architecture: str) -> dict[str, tuple[str, torch.Size]]:
    """Name and shape of an architecture's tensors by what stands behind "stages.<stage>."."""
    with torch.device("meta"):
        network = networks.ARCHITECTURES[architecture](1)
    return {
        name.split(".", 2)[2]: (name, value.shape)
        for name, value in network.state_dict().items()
        if name.startswith("stages.")
    }


def _misfits(architecture: str, trunk: State) -> list[str]:
    own = _shapes(architecture)
    missing = [n for n in own if n not in trunk and not n.endswith("num_batches_tracked")]
    odd = [f"{n} is missing" for n in missing]
    for key, value in trunk.items():
        shape = tuple(value.shape)
        if key not in own:
            odd.append(f"{key[:80]} is none of its weights")
        elif key in FIRST and len(shape) == 4 and own[key][1] == (shape[0], 1, *shape[2:]):
            if shape[1] not in (1, 3):
                odd.append(f"{key} takes {shape[1]} channels, expected 1 or 3")
        elif own[key][1] != shape:
            odd.append(f"{key} has shape {shape}, expected {tuple(own[key][1])}")
    return odd


FIRST = {"conv0.weight": "norm0.running_mean", "conv1.weight": "bn1.running_mean"}
"""The first convolution, and the mean of the batch normalisation behind it."""


def _architecture(
    layout: Layout,
    trunk: State,
    wanted: str | None,
    maker: Maker,
    name: str,
    notes: list[str],
) -> str:
    if wanted is not None and wanted not in networks.ARCHITECTURES:
        raise UnknownNameError("architecture", wanted, networks.ARCHITECTURES)
    candidates = layout.architectures if wanted is None else (wanted,)
    misfits = {candidate: _misfits(candidate, trunk) for candidate in candidates}
    best = min(misfits, key=lambda candidate: len(misfits[candidate]))
    if misfits[best]:
        raise StoreError(
            f"{name} holds no {' or '.join(candidates)} of which all weights fit: "
            f"{misfits[best][0]} ({len(misfits[best])} misfits with {best})"
        )
    finer = f"{best}-stride1"
    if wanted is None and maker.name == "MONAI" and finer in networks.ARCHITECTURES:
        notes.append(
            "ASSUMED: a first convolution of stride 1, MONAI's default; the file doesn't tell. "
            f"For conv1_t_stride=2 name the architecture {best}."
        )
        return finer
    return best


def _findings(
    stored: Stored,
    given: tuple[str, ...] | None,
    maker: Maker,
    outputs: int,
    name: str,
    notes: list[str],
) -> tuple[str, ...]:
    """The outputs' names: given, the file's own, or its library's; never a guess by number."""
    if given is not None and stored.findings and tuple(given) != stored.findings:
        notes.append(
            f"DOUBT: the file calls its outputs {', '.join(stored.findings)[:300]}; the names "
            "given were taken."
        )
    sources = {"given": given, "in the file": stored.findings, "of torchxrayvision": maker.findings}
    for where, names in sources.items():
        if not names or (where == "of torchxrayvision" and len(names) != outputs):
            continue
        if len(names) != outputs or len(set(names)) != len(names) or not all(names):
            kind = UsageError if where == "given" else StoreError
            raise kind(
                f"{name} has {outputs} outputs and {len(set(names))} different names of findings "
                f"{where}; expected {outputs}, in the order of the outputs: --findings A,B,..."
            )
        if where == "of torchxrayvision":
            notes.append("ASSUMED: findings in the order of torchxrayvision's default_pathologies.")
        return tuple(names)
    raise UsageError(
        f"{name} doesn't name its {outputs} outputs; name them in their order by --findings A,B,..."
    )


def _assembled(
    architecture: str,
    trunk: dict[str, torch.Tensor],
    head: dict[str, torch.Tensor],
    thresholds: torch.Tensor | None,
    maker: Maker,
    findings: tuple[str, ...],
    normalisation: str | Normalisation | None,
    name: str,
    notes: list[str],
) -> Recognised:
    shapes = _shapes(architecture)
    module = networks.build_network(architecture, len(findings), seed=0)
    channels = head["weight"].shape[1]
    if channels != module.head.in_features or head["bias"].shape != (len(findings),):
        raise StoreError(
            f"{name}: the last layer has weights {tuple(head['weight'].shape)} and biases "
            f"{tuple(head['bias'].shape)}; {architecture} expects ({len(findings)}, "
            f"{module.head.in_features}) and ({len(findings)},)"
        )
    last = {f"the last layer's {part}": value for part, value in head.items()}
    refuse_numbers({**trunk, **last}, name)
    scale = _normalisation(normalisation, maker, notes)
    mean, std = _to_one_channel(trunk, scale, name, notes)
    state = {shapes[k][0]: v for k, v in trunk.items()}
    state.update({f"head.{part}": value for part, value in head.items()})
    try:
        module.load_state_dict({**module.state_dict(), **state})
    except RuntimeError as error:
        raise StoreError(f"{name}: {str(error).splitlines()[0]}") from error
    _say_thresholds(thresholds, findings, notes)
    return Recognised(module.eval(), architecture, maker, findings, mean, std, tuple(notes))


def _normalisation(
    wanted: str | Normalisation | None, maker: Maker, notes: list[str]
) -> Normalisation:
    if isinstance(wanted, Normalisation):
        return wanted
    if wanted is not None and wanted not in NORMALISATIONS:
        raise UnknownNameError("normalisation", wanted, NORMALISATIONS)
    if wanted is None:
        guess = "" if maker.sure else ", by its shape alone"
        notes.append(
            f"ASSUMED: the normalisation {maker.normalisation!r}, since it looks like one of "
            f"{maker.name}{guess}; the file doesn't tell."
        )
    return NORMALISATIONS[wanted or maker.normalisation]


def _to_one_channel(
    trunk: dict[str, torch.Tensor], scale: Normalisation, name: str, notes: list[str]
) -> tuple[float, float]:
    """Make the first convolution one for grey; return the mean and std of its channel.

    With grey level g in all three colours, the sum over c of w_c * (g - mean_c) / std_c is one
    convolution of g with the sum of the weights, each over its std, and a constant of each output.
    The batch normalisation behind it takes the constant. At the edges, where the convolution meets
    padding, the two differ a little.
    """
    first = next(key for key in FIRST if key in trunk)
    weight = trunk[first].float()  # (64, c, 7, 7)
    if weight.shape[1] == 1:
        if len(scale.mean) != 1:
            known = ", ".join(n for n, s in NORMALISATIONS.items() if len(s.mean) == 1)
            raise UsageError(
                f"{name} takes one channel, so its normalisation needs one mean and one std; "
                f"known by name: {known}"
            )
        return scale.mean[0], scale.std[0]
    if len(scale.mean) == 1:
        trunk[first] = weight.sum(1, keepdim=True)
        notes.append("The first convolution was summed over its three channels.")
        return scale.mean[0], scale.std[0]
    means, stds = (torch.tensor(v, dtype=torch.float64) for v in (scale.mean, scale.std))
    wide = weight.double()
    shift = ((networks.GREY_MEAN - means) / stds)[None, :, None, None]
    constant = (wide * shift).sum((1, 2, 3))  # (64,)
    grey = (wide * (networks.GREY_STD / stds)[:, None, None]).sum(1, keepdim=True)
    trunk[first] = grey.float()
    trunk[FIRST[first]] = (trunk[FIRST[first]].double() - constant).float()
    notes.append(
        "The first convolution was summed over red, green and blue for grey films; exact but for "
        "the outermost three pixels."
    )
    return networks.GREY_MEAN, networks.GREY_STD


def _say_thresholds(
    thresholds: torch.Tensor | None, findings: tuple[str, ...], notes: list[str]
) -> None:
    if thresholds is None:
        return
    notes.append(
        "Its operating points (op_threshs) are not applied: probabilities are plain sigmoids."
    )
    values: Any = thresholds.flatten().tolist()
    untrained = [f for f, value in zip(findings, values, strict=False) if value != value]
    if untrained:
        notes.append(
            f"DOUBT: no operating point for {', '.join(untrained)}; torchxrayvision leaves it out "
            "where an output was never trained."
        )
