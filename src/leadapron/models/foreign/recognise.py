"""State dicts of torchvision, timm, torchxrayvision and MONAI as networks of this package.

`LAYOUTS` has the names of weights in each family, `MAKERS` the input that each library expects. A
new family needs one line in either.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeVar

import torch

from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.models import networks
from leadapron.models.foreign.classes import differences, unknown_classes
from leadapron.models.parsing.formats import MOST_FINDINGS, Module
from leadapron.models.parsing.reading import Group, Outline, Weights
from leadapron.text import count

__all__ = [
    "MAKERS",
    "NORMALISATIONS",
    "OUTERMOST",
    "SIZE",
    "TRAINING",
    "Given",
    "Listed",
    "Maker",
    "Normalisation",
    "Recognised",
    "SeveralError",
    "UnnamedError",
    "channel_weights",
    "findings_of",
    "likely",
    "networks_in",
    "recognise",
    "refuse_numbers",
    "to_own_grey",
    "trunk_of",
]

State = Mapping[str, torch.Tensor]
SIZE = 224
"""Side of the images in pixels that most networks are trained with."""
T = TypeVar("T")


class UnnamedError(UsageError):
    """A model's outputs have no names, or another number of them.

    Args:
        message: what to type.
        outputs: how many it has.
    """

    def __init__(self, message: str = "", outputs: int = 0) -> None:
        super().__init__(message)
        self.outputs = outputs


class SeveralError(UsageError):
    """A file holds several networks.

    Args:
        message: what to type.
        likeliest: key of the one that is usually deployed, or of the first.
    """

    def __init__(self, message: str = "", likeliest: str = "") -> None:
        super().__init__(message)
        self.likeliest = likeliest


@dataclass(frozen=True)
class Normalisation:
    """(grey level in 0 to 1 - mean) / std of each colour, or of the one channel.

    Args:
        mean: one number, or three for red, green and blue.
        std: as many as `mean`.

    Raises:
        UsageError: different counts, or a std that isn't above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean) or min(self.std) <= 0:
            raise UsageError(
                f"normalisation by mean {self.mean} and std {self.std}; expected one number each, "
                "or three, and std above 0"
            )

    @classmethod
    def parsed(cls, text: str) -> Normalisation:
        """Return the normalisation of a text MEAN/STD, which `str` gives."""
        mean, std = (tuple(map(float, part.split(","))) for part in text.split("/"))
        return cls(mean, std)

    @property
    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Means and standard deviations of red, green and blue."""
        mean, std = (part if len(part) == 3 else part * 3 for part in (self.mean, self.std))
        return mean, std

    def then(self, inner: Normalisation) -> Normalisation:
        """Return this normalisation and another after it as one."""
        count = max(len(self.mean), len(inner.mean))
        mean, std, after, by = (
            part if len(part) == count else part * count
            for part in (self.mean, self.std, inner.mean, inner.std)
        )
        return Normalisation(
            tuple(m + s * a for m, s, a in zip(mean, std, after, strict=True)),
            tuple(s * b for s, b in zip(std, by, strict=True)),
        )

    def __str__(self) -> str:
        return "/".join(",".join(map(repr, part)) for part in (self.mean, self.std))


NORMALISATIONS: Mapping[str, Normalisation] = {
    "imagenet": Normalisation(networks.IMAGENET_MEAN, networks.IMAGENET_STD),
    # -1024 for black to 1024 for white.
    "torchxrayvision": Normalisation((0.5,), (1 / 2048,)),
    "unit": Normalisation((0.0,), (1.0,)),
    "leadapron": Normalisation((networks.GREY_MEAN,), (networks.GREY_STD,)),
}
"""Normalisations of grey levels by name: ImageNet's, -1024 to 1024, 0 to 1, ours."""


@dataclass(frozen=True)
class Layout:
    """The names of weights in one family of networks.

    Args:
        family: name of the family.
        anchors: names that occur in every network of the family; text before them is a wrapper's
            prefix.
        rules: patterns and replacements, giving this package's names after "stages.<stage>.".
        heads: possible names of the last layer, without ".weight".
        architectures: candidates in `networks.ARCHITECTURES`; the first that fits is taken.
    """

    family: str
    anchors: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]
    heads: tuple[str, ...]
    architectures: tuple[str, ...]


LAYOUTS = (
    # features.denseblock1.denselayer2 is followed by norm1.weight in torchvision, timm and
    # torchxrayvision, norm.1.weight in files of 2017 and 2018, layers.norm1.weight in MONAI.
    Layout(
        "DenseNet-121",
        ("features.conv0.weight", "features.norm5.weight"),
        (
            (r"^features\.", ""),
            (r"(?<=\.)(norm|conv)\.(\d)(?=\.)", r"\1\2"),
            (r"(denselayer\d+)\.(?!layers)", r"\1.layers."),
        ),
        (
            "classifier",
            "classifier.0",
            "classifier.1",
            "class_layers.out",
            "head",
            "fc",
            "predictions",
        ),
        ("densenet121",),
    ),
    # One set of names for all four libraries.
    Layout(
        "ResNet",
        ("conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"),
        (),
        ("fc", "fc.0", "fc.1", "head.fc", "last_linear", "predictions"),
        ("resnet18", "resnet34", "resnet50"),
    ),
    # The names that `keras_weights` gives.
    Layout(
        "MobileNet",
        ("conv1.weight", "block1.depthwise_conv.weight", "block13.pointwise_conv.weight"),
        (),
        ("predictions",),
        ("mobilenet",),
    ),
    Layout(
        "Xception",
        ("conv1.weight", "conv2.weight", "block14.body.sepconv2.pointwise_conv.weight"),
        (),
        ("predictions",),
        ("xception-keras",),
    ),
    Layout(
        "EfficientNet-B0",
        ("conv_stem.weight", "block1a.se.reduce.weight", "block7a.project_conv.weight"),
        (),
        ("predictions",),
        ("efficientnet_b0-keras",),
    ),
    # The names of lukemelas' efficientnet_pytorch.
    Layout(
        "EfficientNet-Lite0",
        ("_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_conv_head.weight"),
        ((r"^_blocks\.(\d+)\._", r"block\1."), (r"^_", "")),
        ("_fc", "classifier", "fc"),
        ("efficientnet_lite0",),
    ),
)

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights")
"""Keys under which training loops keep the state dict."""

OF_TEXT = re.compile(r"(^|\.)(word_embeddings|embed_tokens|tok_embeddings|wte)\.weight$")
"""Tables of words."""

OF_MASKS = re.compile(
    r"(^|\.)(decode_head|segmentation_head|seg_layers|mask_decoder|mask_head|pixel_decoder)\."
)
"""Parts of networks that draw masks."""

TRAINING = re.compile(
    r"(^|\.)((criterion|loss|loss_fn|metrics?|\w+_metrics?|\w+_loss)\.|n_averaged$)"
)
"""Tensors that training loops keep in addition to the network."""

XRV_FINDINGS = (
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema",
    "Fibrosis", "Effusion", "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass",
    "Hernia", "Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum",
)  # fmt: skip
"""torchxrayvision's default_pathologies, the order of its own weights."""


@dataclass(frozen=True)
class Maker:
    """The input that a library's models expect, if a file shows its library.

    Args:
        name: the library.
        tells: whether a state dict without prefixes is from this library.
        packages: its packages, of which the class of a pickled network may be.
        normalisation: name in `NORMALISATIONS`, or a text MEAN/STD.
        aspect: `Preprocessing.aspect`.
        findings: names of the outputs, if the library fixes them.
        sizes: side of the images in pixels, by architecture; `SIZE` of all others.
        sure: whether `tells` is specific to this library.
    """

    name: str
    tells: Callable[[Group], bool]
    normalisation: str
    aspect: Literal["squash", "crop"] = "squash"
    findings: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    sure: bool = True
    packages: tuple[str, ...] = ()


def _first_channels(state: Group) -> int:
    names = ("features.conv0.weight", "conv1.weight", "_conv_stem.weight")
    first = next((state[name] for name in names if name in state), None)
    return first.shape[1] if first is not None and len(first.shape) == 4 else 0


MONAI_SIGNS = ("class_layers.out.weight", "layer2.0.downsample.0.bias")

XRV_SIZES: Mapping[str, int] = MappingProxyType({"resnet50": 512})

MAKERS = (
    Maker("torchxrayvision", lambda s: "op_threshs" in s, "torchxrayvision", "crop", XRV_FINDINGS,
          XRV_SIZES, packages=("torchxrayvision",)),
    Maker("Keras", lambda s: "predictions.weight" in s, "imagenet", packages=("keras",)),
    Maker("MONAI", lambda s: any(".layers." in n or n in MONAI_SIGNS for n in s), "unit",
          packages=("monai",)),
    Maker("efficientnet_lite_pytorch",
          lambda s: "_conv_stem.weight" in s and _first_channels(s) == 3, "imagenet", sure=False,
          packages=("efficientnet_lite_pytorch",)),
    Maker("torchvision or timm", lambda s: _first_channels(s) == 3, "imagenet", sure=False,
          packages=("torchvision", "timm")),
    Maker("torchxrayvision", lambda s: True, "torchxrayvision", "crop", sizes=XRV_SIZES,
          sure=False),
)  # fmt: skip
"""Libraries in order of precedence; the last ones are guesses and are reported as such."""
CHEXPERT = Maker("the CheXpert group", lambda _: False, "0.5/0.25", "crop",
                 sizes=MappingProxyType({"densenet121": 320}))  # fmt: skip
"""Of checkpoints with `formats.TASKS`; torchxrayvision gives them -2 for black to 2 for white."""
OF_CHEXPERT = 3
"""Outputs for each of its findings where it models uncertainty: uncertain, absent, present."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """Where a state dict holds a network's weights, so that others can be written in their place.

    Args:
        group: key of its dictionary in the file.
        architecture: name of the network.
        scale: the normalisation that its input expects.
        names: names in the file by this package's names.
        biases: names of convolutions' biases in the file, by this package's names of the running
            means that absorbed them.
        first: this package's names of the first convolution's weights, and of the running mean
            after it; None if the convolution is as in the file.
        colours: whether that convolution takes three channels in the file, and one here.
        others: tensors of the same dictionary that aren't weights of the network.
    """

    group: str
    architecture: str
    scale: Normalisation
    names: Mapping[str, str]
    biases: Mapping[str, str]
    first: tuple[str, str] | None
    colours: bool
    others: tuple[str, ...]


@dataclass(frozen=True)
class Recognised:
    """A network made from a state dict.

    Args:
        module: the network, in evaluation mode, for one channel.
        architecture: its name.
        maker: library whose conventions it follows.
        findings: names of its outputs.
        mean, std: normalisation of its single channel.
        size: side in pixels of the images that its library gives it.
        operating_points: as in `classifier.squashed`; empty if none.
        notes: assumptions and omissions, one sentence each.
        given: where the file holds its weights; None if its last layer is another here.
    """

    module: networks.Network
    architecture: str
    maker: Maker
    findings: tuple[str, ...]
    mean: float
    std: float
    size: int
    operating_points: tuple[float, ...]
    notes: tuple[str, ...]
    given: Given | None


@dataclass(frozen=True)
class _Part:
    """Tensors of a file that may be a network.

    Args:
        key: path of dictionaries and prefix, joined by dots.
        layout: layout of their names.
        inside: its tensors, without the prefix.
        beside: tensors of the same dictionary that belong to no such part.
        modules: parts of the dictionary's network, if it was pickled whole.
        prefix: the prefix of its names in the dictionary.
    """

    key: str
    layout: Layout
    inside: Group
    beside: Group
    modules: Mapping[str, Module]
    prefix: str


@dataclass(frozen=True)
class _Network:
    """A part whose tensors all fit a network; no values were read yet.

    Args:
        key: as the part's.
        architecture: name in `networks.ARCHITECTURES`.
        maker: library whose conventions it follows.
        trunk: its tensors by this package's names after "stages.<stage>.".
        biases: biases of convolutions before batch normalisation, by the running mean that absorbs
            them.
        head: "weight" and optionally "bias" of the last layer; empty if it has none and none is
            needed.
        thresholds: torchxrayvision's operating points.
        part: the part of the file that it is.
    """

    key: str
    architecture: str
    maker: Maker
    trunk: Group
    biases: Group
    head: Group
    thresholds: Outline | None
    part: _Part

    @property
    def outputs(self) -> int:
        """Number of findings."""
        return self.head["weight"].shape[0]


def recognise(
    weights: Weights,
    findings: tuple[str, ...] | None = None,
    normalisation: str | Normalisation | None = None,
    architecture: str | None = None,
    key: str | None = None,
) -> Recognised:
    """Return the network in a file.

    Args:
        weights: the file's.
        findings: names of the outputs; the file's own if left out.
        normalisation: name in `NORMALISATIONS` or numbers; its library's if left out.
        architecture: name in `networks.ARCHITECTURES`; the one that fits if left out.
        key: name of one of several networks; if left out, the error lists the names.

    Raises:
        StoreError: no known network, or weights that don't fit it.
        UsageError: settings that don't fit the file, or several networks and no `key`.
    """
    if architecture is not None:
        networks.ARCHITECTURES.find(architecture)
    notes: list[str] = []
    network = _chosen(weights, architecture, key, notes)
    if weights.tasks:
        network = replace(network, maker=CHEXPERT)
    outputs = network.outputs // (OF_CHEXPERT if _uncertain(weights, network) else 1)
    named = findings_of(weights, findings, outputs, network.maker, notes)
    return _assembled(weights, network, named, normalisation, architecture, notes)


def _uncertain(weights: Weights, network: _Network) -> bool:
    """Whether a network models uncertainty as the CheXpert group's do."""
    return weights.tasks and network.outputs == OF_CHEXPERT * len(weights.findings)


def trunk_of(weights: Weights, architecture: str, notes: list[str]) -> dict[str, torch.Tensor]:
    """Return all of a network's tensors in a file but the last layer's, to start training from.

    The first convolution is converted to one channel in this package's normalisation.

    Args:
        weights: the file's, of another library.
        architecture: name in `networks.ARCHITECTURES`.
        notes: gets what was assumed or changed, one sentence each.

    Returns:
        The tensors, by this package's names.

    Raises:
        StoreError: the file holds no such network.
        UsageError: it holds several.
    """
    network = _chosen(weights, architecture, None, notes, start=True)
    trunk = _taken(weights, network)
    maker, weight = network.maker, trunk[next(key for key in FIRST if key in trunk)]
    if weight.shape[1] == 1 and not maker.sure:
        notes.append("The first convolution takes one channel and was taken as it is.")
    else:
        scale = NORMALISATIONS[maker.normalisation]
        to_own_grey(trunk, *_to_one_channel(trunk, scale, weights.name, notes))
    return {_stages(architecture)[key]: value for key, value in trunk.items()}


def to_own_grey(trunk: dict[str, torch.Tensor], mean: float, std: float) -> None:
    """Convert the first convolution of one channel to this package's normalisation, in place.

    Args:
        trunk: the tensors, by the names after "stages.<stage>.".
        mean: mean of the channel that the convolution expects.
        std: its standard deviation.

    Raises:
        StoreError: another normalisation, and no known first convolution.
    """
    if (mean, std) == (networks.GREY_MEAN, networks.GREY_STD):
        return
    first = next((key for key in FIRST if key in trunk), None)
    if first is None:
        raise StoreError(f"they expect mean {mean:g} and std {std:g}, and can't be converted")
    weight = trunk[first].double()
    constant = weight.sum((1, 2, 3)) * ((networks.GREY_MEAN - mean) / std)
    trunk[first] = (weight * (networks.GREY_STD / std)).float()
    trunk[FIRST[first]] = (trunk[FIRST[first]].double() - constant).float()


def _chosen(
    weights: Weights,
    architecture: str | None,
    key: str | None,
    notes: list[str],
    *,
    start: bool = False,
) -> _Network:
    """The network of the file, or the named one of several; a start needs no last layer."""
    parts = _parts(weights)
    if key is not None:
        named = [part for part in parts if part.key == key] or [
            part for part in parts if part.key.startswith(f"{key}.")
        ]
        if not named:
            raise UnknownNameError("weights key", key, [part.key for part in parts])
    else:
        named = parts
    fitting: dict[str, _Network] = {}
    failures: dict[str, StoreError] = {}
    for part in parts:
        try:
            fitting[part.key] = _network(part, architecture, weights.name, start=start)
        except StoreError as error:
            failures[part.key] = error
    keys = [part.key for part in named if part.key in fitting]
    if not keys:
        raise failures[named[0].key]
    if len(keys) > 1:
        several = [fitting[one] for one in keys]
        raise SeveralError(
            _several(weights.name, several, start=start), _deployed(several) or keys[0]
        )
    if len(parts) > 1:
        others = [part.key for part in parts if part.key != keys[0]]
        whole = [f"{one} (another network)" if one in fitting else f"{one} (incomplete)"
                 for one in others]  # fmt: skip
        notes.append(f"The file's weights {keys[0]} were opened; left out: {', '.join(whole)}.")
    return fitting[keys[0]]


class Listed(NamedTuple):
    """A network in a file.

    Args:
        key: its key.
        architecture: its architecture.
        outputs: number of its outputs.
    """

    key: str
    architecture: str
    outputs: int


def networks_in(weights: Weights) -> tuple[Listed, ...]:
    """Return every known network in a file, the likeliest first; no values are read.

    Args:
        weights: the file's.

    Raises:
        StoreError: no tensors of a known network.
    """
    found = []
    for part in _parts(weights):
        with contextlib.suppress(StoreError):
            network = _network(part, None, weights.name)
            found.append(Listed(network.key, network.architecture, network.outputs))
    return tuple(found)


OUTERMOST = "."
"""The key of weights at the top level."""
AVERAGED = ("ema", "swa", "avg", "averag", "polyak", "shadow")
"""Beginnings of words that denote averaged weights."""


def _several(name: str, found: Sequence[_Network], *, start: bool) -> str:
    """The message about a file that holds several networks."""
    deployed = _deployed(found)
    shown = [
        f"{one.key} ({one.architecture}{', usually the deployed one' * (one.key == deployed)})"
        for one in found[:MOST_SHOWN]
    ]
    more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    choose = f"choose one with `model.weights_key` {deployed or found[0].key}"
    return (
        f"{name} holds {len(found)} networks: {', '.join(shown)}{more}; "
        f"{'save one of them alone' if start else choose}"
    )


MOST_SHOWN = 6


def _deployed(found: Sequence[_Network]) -> str:
    """The key of the network that is usually deployed; "" if unclear.

    Averaged weights are. A teacher of the student's architecture is the student's average; a
    teacher of another architecture only served to train the student.
    """
    alike = len({one.architecture for one in found}) == 1
    signs = (*AVERAGED, "teacher") if alike else (*AVERAGED, "student")
    told = [
        one.key
        for one in found
        if any(word.startswith(signs) for word in re.split(r"[^a-z]+", one.key.lower()))
    ]
    return told[0] if len(told) == 1 else ""


def _parts(weights: Weights) -> list[_Part]:
    """All candidate networks, the likeliest first."""
    order = {key: place for place, key in enumerate(likely(weights.groups))}
    found: list[tuple[tuple[int, int, int], _Part]] = []
    for group, tensors in weights.groups.items():
        marks = {
            key.removesuffix(layout.anchors[0]): layout
            for layout in reversed(LAYOUTS)
            for key in tensors
            if _is_prefix(key.removesuffix(layout.anchors[0]), key, layout, tensors)
        }
        homes = {tensor: _home(tensor, marks) for tensor in tensors}
        beside = {tensor: one for tensor, one in tensors.items() if homes[tensor] is None}
        modules = weights.modules.get(group, {})
        for prefix, layout in marks.items():
            inside = {
                tensor.removeprefix(prefix): one
                for tensor, one in tensors.items()
                if homes[tensor] == prefix
            }
            key = ".".join(part for part in (group, prefix.rstrip(".")) if part) or OUTERMOST
            rank = (LAYOUTS.index(layout), order[group], len(prefix))
            found.append((rank, _Part(key, layout, inside, beside, modules, prefix)))
    if found:
        return [part for _, part in sorted(found, key=lambda each: each[0])]
    known = " or ".join(layout.family for layout in LAYOUTS)
    tensors = weights.groups[min(order, key=lambda key: order[key])]
    if words := [name for name in tensors if OF_TEXT.search(name)]:
        raise StoreError(
            f"{weights.name} is a text model, since it holds {words[0][:160]}; expected a "
            "classifier of images"
        )
    shown = ", ".join(sorted(tensors)[:3])[:160]
    whole = weights.modules.get(min(order, key=lambda key: order[key]), {}).get("")
    what = "" if whole is None else f"a {whole.kind[:160]}, with "
    if _draws(tensors):
        raise StoreError(
            f"{weights.name} holds {what}{len(tensors)} tensors ({shown}, ...) of a network that "
            "draws masks, as far as its layers tell: a segmentation model; expected a classifier "
            "of findings (if it is one, export TorchScript or ONNX)"
        )
    raise StoreError(
        f"{weights.name} holds {what}{len(tensors)} tensors ({shown}, ...) that belong to no "
        f"{known}; for other networks export TorchScript or ONNX, or name a function: "
        "module:function"
    )


def _draws(tensors: Group) -> bool:
    """Whether tensors seem to be a segmentation model's: by name, or convolutions alone."""
    sides = {len(one.shape) for one in tensors.values()}
    return any(OF_MASKS.search(name) for name in tensors) or (max(sides) >= 4 and 2 not in sides)


def likely(groups: Iterable[str]) -> list[str]:
    """Return keys of dictionaries, those first that training loops use for a network's weights."""

    def rank(key: str) -> tuple[int, ...]:
        steps = key.split(".") if key else []
        last = len(WRAPPERS)
        return (*(WRAPPERS.index(one) if one in WRAPPERS else last for one in steps), -1)

    return sorted(groups, key=rank)


def _is_prefix(prefix: str, key: str, layout: Layout, tensors: Group) -> bool:
    """Whether tensors of a layout follow this prefix of its first anchor."""
    return (
        (prefix == "" or prefix.endswith("."))
        and prefix != key
        and all(prefix + anchor in tensors for anchor in layout.anchors)
    )


def _home(tensor: str, prefixes: Iterable[str]) -> str | None:
    """The longest of the prefixes of a name; None without any."""
    return max((one for one in prefixes if tensor.startswith(one)), key=len, default=None)


def _network(part: _Part, wanted: str | None, name: str, *, start: bool = False) -> _Network:
    """A part as a network; StoreError unless its tensors are those of a known one."""
    state, beside = dict(part.inside), dict(part.beside)
    if "op_threshs" in beside:  # torchxrayvision's ResNet is wrapped in another module
        state["op_threshs"] = beside.pop("op_threshs")
    maker = _maker(part, state)
    thresholds = state.pop("op_threshs", None)
    head = _head(part.layout, state, beside, name, needed=not start)
    trunk = _renamed(part.layout, state)
    biases = {}
    # The bias of a convolution right before batch normalisation only shifts its mean.
    for key in [k for k in trunk if k.endswith("downsample.0.bias")]:
        mean = key.replace("0.bias", "1.running_mean")
        if mean in trunk and trunk[mean].shape == trunk[key].shape:
            biases[mean] = trunk.pop(key)
    best = _architecture(part.layout, trunk, wanted, name)
    if start:
        return _Network(part.key, best, maker, trunk, biases, head, None, part)
    outputs, width = head["weight"].shape[0], networks.shapes(best)["head.weight"][1]
    biased = head.get("bias", None)
    if head["weight"].shape[1] != width or (biased and biased.shape != (outputs,)):
        raise StoreError(
            f"{name}: the last layer has weights {head['weight'].shape} and biases "
            f"{biased.shape if biased else 'none'}; {best} expects ({outputs}, {width}) and "
            f"({outputs},)"
        )
    if not 0 < outputs <= MOST_FINDINGS:
        raise StoreError(
            f"{name} has {outputs:,} outputs; expected 1 to {MOST_FINDINGS:,} findings"
        )
    if thresholds is not None and thresholds.shape != (outputs,):
        raise StoreError(f"{name}: op_threshs has shape {thresholds.shape}, expected ({outputs},)")
    return _Network(part.key, best, maker, trunk, biases, head, thresholds, part)


def _maker(part: _Part, state: Group) -> Maker:
    """The library whose class the network has, else the one that its tensors show."""
    own = part.modules.get(part.prefix.rstrip("."))
    package = own.kind.partition(".")[0] if own else ""
    for maker in MAKERS:
        if package in maker.packages:
            return maker
    return next(maker for maker in MAKERS if maker.tells(state))


def _head(
    layout: Layout, state: dict[str, Outline], beside: Group, name: str, *, needed: bool
) -> dict[str, Outline]:
    """Weight and bias of the last layer, removed from `state`, or stored next to it."""
    every = {**beside, **state}
    ends = [
        key
        for head in layout.heads
        for key in (*state, *beside)
        if f".{key}".endswith(f".{head}.weight") and len(every[key].shape) == 2
    ]
    if not ends and not needed:
        return {}
    keys = {"weight": ends[0], "bias": f"{ends[0].removesuffix('weight')}bias"} if ends else {}
    left = sorted(n for n in beside if n not in keys.values() and not TRAINING.search(n))
    if left:
        raise StoreError(
            f"{name} holds {len(left)} tensors that belong to no known network, first "
            f"{left[0][:80]}; leave them out, or name a function: module:function"
        )
    if not ends:
        raise StoreError(
            f"{name} is a {layout.family} without a last layer; expected one of "
            f"{', '.join(layout.heads)}. Features alone give no findings"
        )
    head = {part: every[key] for part, key in keys.items() if key in every}
    for key in keys.values():
        state.pop(key, None)
    return head


def _renamed(layout: Layout, state: Mapping[str, T]) -> dict[str, T]:
    trunk = {}
    for key, value in state.items():
        for pattern, becomes in layout.rules:
            key = re.sub(pattern, becomes, key)
        trunk[key] = value
    return trunk


@cache
def _stages(architecture: str) -> dict[str, str]:
    """Names of an architecture's tensors, by the part after "stages.<stage>."."""
    every = networks.shapes(architecture)
    return {name.split(".", 2)[2]: name for name in every if name.startswith("stages.")}


def _misfits(architecture: str, trunk: Group) -> list[str]:
    shapes = networks.shapes(architecture)
    own = {key: shapes[name] for key, name in _stages(architecture).items()}
    left_out = ("num_batches_tracked", *GREY)
    missing = [n for n in own if n not in trunk and not n.endswith(left_out)]
    odd = [f"{n} is missing" for n in missing]
    for key, value in trunk.items():
        shape = value.shape
        if key not in own:
            odd.append(f"{key[:80]} isn't one of its weights")
        elif key in FIRST and len(shape) == 4 and own[key] == (shape[0], 1, *shape[2:]):
            if shape[1] not in (1, 3):
                odd.append(f"{key} takes {shape[1]} channels, expected 1 or 3")
        elif own[key] != shape:
            odd.append(f"{key} has shape {shape}, expected {own[key]}")
    return odd


FIRST = {
    "conv0.weight": "norm0.running_mean",
    "conv1.weight": "bn1.running_mean",
    "conv_stem.weight": "bn0.running_mean",
}
"""The first convolution, and the mean of the batch normalisation after it."""
GREY = ("grey.mean", "grey.std")
"""What a network has whose first convolution takes three channels; see `networks.GreyChannels`."""


def _architecture(layout: Layout, trunk: Group, wanted: str | None, name: str) -> str:
    candidates = layout.architectures if wanted is None else (wanted,)
    misfits = {candidate: _misfits(candidate, trunk) for candidate in candidates}
    best = min(misfits, key=lambda candidate: len(misfits[candidate]))
    if misfits[best]:
        raise StoreError(
            f"the weights in {name} don't fit {' or '.join(candidates)}: "
            f"{misfits[best][0]} ({len(misfits[best])} misfits with {best})"
        )
    return best


def findings_of(
    weights: Weights,
    given: tuple[str, ...] | None,
    outputs: int,
    maker: Maker,
    notes: list[str],
) -> tuple[str, ...]:
    """Return the outputs' names: given, the file's own, or its library's; never guessed by count.

    Args:
        weights: the file's.
        given: by the caller.
        outputs: number of outputs.
        maker: the library.
        notes: gets what was assumed, one sentence each.

    Raises:
        StoreError: the file names another number.
        UnnamedError: no names, or another number of given ones.
    """
    stated = weights.findings
    if given is not None and stated and given != stated:
        notes.append(
            f"DOUBT: the file names its outputs {', '.join(stated)[:300]}; the given names were "
            "taken."
        )
    sources = {"given": given, "in the file": stated, "of torchxrayvision": maker.findings}
    for where, names in sources.items():
        if not names or (where == "of torchxrayvision" and len(names) != outputs):
            continue
        if len(names) != outputs or len(set(names)) != len(names) or not all(names):
            words = (
                f"{weights.name} has {count(outputs, 'output')} and {len(set(names))} different "
                f"names of findings {where}; expected {outputs}, in the order of the outputs: "
                "`model.findings` A,B,..."
            )
            raise UnnamedError(words, outputs) if where == "given" else StoreError(words)
        if where == "of torchxrayvision":
            notes.append("ASSUMED: findings in the order of torchxrayvision's default_pathologies.")
        return tuple(names)
    raise UnnamedError(
        f"{weights.name} doesn't name its {outputs} output{'s' * (outputs > 1)}; name them in "
        "order with `model.findings` A,B,...",
        outputs,
    )


def _assembled(
    weights: Weights,
    network: _Network,
    findings: tuple[str, ...],
    normalisation: str | Normalisation | None,
    wanted: str | None,
    notes: list[str],
) -> Recognised:
    """Read the values, whose shapes were checked, into the network."""
    trunk, head = _taken(weights, network), weights.take(network.head)
    refuse_numbers({f"the last layer's {n}": v for n, v in head.items()}, weights.name)
    uncertain = _uncertain(weights, network)
    if uncertain:
        # The softmax of absent and present is the sigmoid of their difference.
        three = {part: v.float().reshape(-1, OF_CHEXPERT, *v.shape[1:]) for part, v in head.items()}
        head = {part: value[:, 2] - value[:, 1] for part, value in three.items()}
        notes.append(
            "It has three outputs for each finding: uncertain, absent, present; the logit is "
            "present minus absent, as torchxrayvision takes it."
        )
    architecture = _disambiguated(network, wanted, weights.name, notes)
    scale = _normalisation(normalisation, network.maker, notes)
    if GREY[0] in _stages(architecture):
        trunk |= dict(zip(GREY, networks.GreyChannels(*scale.colours).buffers(), strict=True))
        grey = networks.GREY_MEAN, networks.GREY_STD
    else:
        grey = _to_one_channel(trunk, scale, weights.name, notes)
    state = {_stages(architecture)[key]: value for key, value in trunk.items()}
    state |= {f"head.{part}": value for part, value in head.items()}
    state.setdefault("head.bias", torch.zeros(len(findings)))
    module = networks.filled(architecture, len(findings), state)
    size = network.maker.sizes.get(architecture, SIZE)
    points = _operating_points(weights, network, findings, notes)
    given = None if uncertain else _given(weights, network, architecture, scale)
    return Recognised(
        module.eval(),
        architecture,
        network.maker,
        findings,
        *grey,
        size,
        points,
        tuple(notes),
        given,
    )


def _given(weights: Weights, network: _Network, architecture: str, scale: Normalisation) -> Given:
    """Where the file holds the network's weights."""
    stages = _stages(architecture)
    group, named = next(
        (key, names)
        for key, tensors in weights.groups.items()
        for names in ({one.number: name for name, one in tensors.items()},)
        if network.head["weight"].number in names
    )
    names = {stages[key]: named[one.number] for key, one in network.trunk.items()}
    names |= {f"head.{part}": named[one.number] for part, one in network.head.items()}
    biases = {stages[mean]: named[one.number] for mean, one in network.biases.items()}
    first = next(key for key in FIRST if key in network.trunk)
    taken = {*names.values(), *biases.values()}
    others = (
        name
        for number, name in named.items()
        if (network.thresholds is not None and number == network.thresholds.number)
        or (name not in taken and TRAINING.search(name))
    )
    return Given(
        group=group,
        architecture=architecture,
        scale=scale,
        names=names,
        biases=biases,
        first=(stages[first], stages[FIRST[first]]),
        colours=network.trunk[first].shape[1] == 3,
        others=tuple(others),
    )


def _taken(weights: Weights, network: _Network) -> dict[str, torch.Tensor]:
    """The values of a network's tensors but the last layer's, after checks."""
    trunk = weights.take(network.trunk)
    for key, bias in weights.take(network.biases).items():
        trunk[key] = trunk[key] - bias
    refuse_numbers(trunk, weights.name)
    return trunk


def _disambiguated(network: _Network, wanted: str | None, name: str, notes: list[str]) -> str:
    """The architecture among those with equal names and shapes; the assumption goes to `notes`."""
    best = network.architecture
    finer = f"{best}-stride1"
    if network.part.modules:
        alike = [best, finer] if wanted is None and finer in networks.ARCHITECTURES else [best]
        stated = _as_stated(network.part, alike, name, notes)
        if len(stated) == 1:
            return stated[0]
    if wanted is None and network.maker.name == "MONAI" and finer in networks.ARCHITECTURES:
        notes.append(
            "ASSUMED: a first convolution of stride 1, MONAI's default; the file doesn't state it. "
            f"For conv1_t_stride=2 name the architecture {best}."
        )
        return finer
    if network.maker.name not in ("MONAI", "Keras") and best.startswith("resnet"):
        notes.append(
            f"ASSUMED: plain strides and ReLU, as in torchvision's {best}; ResNets with blurred "
            "strides or other activations have the same names and shapes."
        )
    return best


def _as_stated(part: _Part, alike: Sequence[str], name: str, notes: list[str]) -> list[str]:
    """The architectures whose settings are those of a pickled network."""
    misfits = {one: list(_differences(part, one)) for one in alike}
    best = min(misfits, key=lambda one: len(misfits[one]))
    if misfits[best]:
        raise StoreError(
            f"the tensors in {name} fit {best}, but it computes something else: "
            f"{'; '.join(misfits[best][:3])[:300]}. For other networks export TorchScript or "
            "ONNX, or name a function: module:function"
        )
    unknown = unknown_classes(best, part.modules, part.prefix)
    if unknown:
        more = f" and {len(unknown) - MOST_SHOWN} more" if len(unknown) > MOST_SHOWN else ""
        plural = len(unknown) > 1
        notes.append(
            f"DOUBT: its tensors fit {best}; the class{'es' * plural} "
            f"{'are' if plural else 'is'} {', '.join(unknown[:MOST_SHOWN])}{more}, whose code "
            "isn't run and may compute something else."
        )
    return [one for one in alike if not misfits[one]]


def _differences(part: _Part, architecture: str) -> Iterator[str]:
    own = networks.unmade(architecture)
    short = {name.split(".", 2)[2]: name for name, _ in own.named_modules() if name.count(".") > 1}
    inside = {
        path.removeprefix(part.prefix): module
        for path, module in part.modules.items()
        if path.startswith(part.prefix)
    }
    renamed = {
        path: next(iter(_renamed(part.layout, {f"{path}.": None}))).rstrip(".") for path in inside
    }
    return differences(
        own, inside, {path: short[name] for path, name in renamed.items() if name in short}
    )


def _normalisation(
    wanted: str | Normalisation | None, maker: Maker, notes: list[str]
) -> Normalisation:
    if isinstance(wanted, Normalisation):
        return wanted
    if wanted is not None and wanted not in NORMALISATIONS:
        raise UnknownNameError("normalisation", wanted, NORMALISATIONS)
    if wanted is None:
        guess = "" if maker.sure else ", judging only by its shape"
        notes.append(
            f"ASSUMED: the normalisation {maker.normalisation!r}, since it looks like a model of "
            f"{maker.name}{guess}; the file doesn't state it."
        )
    name = wanted or maker.normalisation
    return NORMALISATIONS.get(name) or Normalisation.parsed(name)


def _to_one_channel(
    trunk: dict[str, torch.Tensor], scale: Normalisation, name: str, notes: list[str]
) -> tuple[float, float]:
    """Convert the first convolution to grey; return the mean and std of its channel.

    With grey level g in all three colours, the sum over c of w_c * (g - mean_c) / std_c is one
    convolution of g with the sum of the weights, each divided by its std, plus a constant for each
    output. The following batch normalisation absorbs the constant. At the edges, where the
    convolution meets padding, the two differ slightly.
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
    wide, (factors, shifts) = weight.double(), channel_weights(scale)
    constant = (wide * shifts).sum((1, 2, 3))  # (64,)
    grey = (wide * factors).sum(1, keepdim=True)
    trunk[first] = grey.float()
    trunk[FIRST[first]] = (trunk[FIRST[first]].double() - constant).float()
    notes.append(
        "The first convolution was summed over red, green and blue for grey films; exact except in "
        "the outermost three pixels."
    )
    return networks.GREY_MEAN, networks.GREY_STD


def channel_weights(scale: Normalisation) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what each colour of a first convolution counts for a grey film.

    Args:
        scale: normalisation of three colours.

    Returns:
        (3, 1, 1) float64 factors of the weights in their sum, and the weights of the constant.
    """
    means, stds = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in
                   (scale.mean, scale.std))  # fmt: skip
    return networks.GREY_STD / stds, (networks.GREY_MEAN - means) / stds


def _operating_points(
    weights: Weights, network: _Network, findings: tuple[str, ...], notes: list[str]
) -> tuple[float, ...]:
    """The op_threshs of torchxrayvision; empty without them."""
    if network.thresholds is None:
        return ()
    taken = weights.take({"op_threshs": network.thresholds})["op_threshs"]
    points = tuple(float(point) for point in taken.tolist())
    if wrong := [p for p in points if not (math.isnan(p) or 0 < p < 1)]:
        raise StoreError(
            f"{weights.name}: op_threshs holds {wrong[0]:g}; expected probabilities between 0 and "
            "1, or NaN"
        )
    notes.append(
        "Its operating points (op_threshs) are applied to the probabilities, as torchxrayvision "
        "does: 0.5 is the operating point. Logits are plain."
    )
    untrained = [f for f, point in zip(findings, points, strict=True) if math.isnan(point)]
    if untrained:
        notes.append(
            f"DOUBT: no operating point for {', '.join(untrained)}, so their probability is always "
            "0.5; torchxrayvision leaves it out where an output was never trained."
        )
    return points


def refuse_numbers(tensors: State, name: str) -> None:
    """Raise StoreError unless all weights are finite floats.

    Args:
        tensors: the weights by name.
        name: the file's, for the message.
    """
    for problem in _odd(tensors):
        raise StoreError(
            f"{name}: {problem}; such a network has no valid outputs. Get the file again"
        )


def _odd(tensors: State) -> Iterator[str]:
    broken = []
    for key, value in tensors.items():
        counter = key.endswith("num_batches_tracked")
        if not (value.is_floating_point() or counter):
            yield f"{key} is of type {str(value.dtype).removeprefix('torch.')}"
        elif not bool(value.isfinite().all()):
            broken.append(key)
        elif key.endswith("running_var") and bool((value < 0).any()):
            yield f"{key}, a variance, has negative values"
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        yield f"{broken[0]}{more} hold values that aren't finite (NaN, infinite)"
