"""Architectures, and the interface of networks: last map, features and inner layers.

`PooledLinear` (convolutional features, average pooling, one linear layer) allows exact class
activation maps in one pass. `Instrumented` is any other network with named layers.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import nn

from leadapron.errors import UnknownNameError, UsageError
from leadapron.models.architectures import ARCHITECTURES, library_of
from leadapron.models.bounds import bounded, unbounded

__all__ = [
    "ARCHITECTURES",
    "GreyChannels",
    "Instrumented",
    "Look",
    "Network",
    "PooledLinear",
    "build_network",
    "filled",
    "refuse_shapes",
    "shapes",
    "unmade",
]

# Torchvision's ImageNet statistics of red, green and blue, and this package's for grey images.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = 0.449, 0.226


class Look(NamedTuple):
    """Outputs of one pass over n images.

    Args:
        logits: (n, k) float32.
        features: (n, d) float32, input of the last layer.
        last: (n, c, h', w'), the last map.
    """

    logits: torch.Tensor
    features: torch.Tensor
    last: torch.Tensor


class Network(nn.Module, ABC):
    """A network with readable inner layers; a call returns (n, k) float32 logits.

    Images are normalised (n, 1, h, w). A network of several channels begins with `GreyChannels`.
    """

    side: int = 64
    """Side of images in pixels that it takes; most networks take others too."""

    @property
    @abstractmethod
    def last_layer(self) -> str:
        """Name of the submodule that gives the logits and reads the features."""

    @property
    @abstractmethod
    def map_layer(self) -> str:
        """Name of the layer whose output is the last map, as for `cut`."""

    @property
    def pooled_head(self) -> nn.Linear | None:
        """The last layer, if it is linear and reads the last map's mean; else None.

        With it, class activation maps are exact.
        """
        return None

    @abstractmethod
    def fine_layer(self, side: int) -> str:
        """Return the name of the finest layer with a spatial map, for images of this side."""

    @abstractmethod
    def look(self, images: torch.Tensor) -> Look:
        """Return logits, features and last map of one pass."""

    @abstractmethod
    def cut(self, images: torch.Tensor, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's map, and the logits as a function of it.

        Returns:
            (n, c, h', w'), a leaf that requires a gradient, and the (n, k) logits computed from it.

        Raises:
            UnknownNameError: no such layer.
            UsageError: a layer whose output isn't a map.
        """


class PooledLinear(Network):
    """A classifier whose logits are a linear function of its last map's mean.

    Args:
        stages: named parts of the network, run one after another; the last one ends in a ReLU.
        channels: channels of the last map.
        outputs: number of findings.
    """

    last_layer = "head"

    def __init__(self, stages: Mapping[str, nn.Module], channels: int, outputs: int) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)
        self.head = nn.Linear(channels, outputs)

    @property
    def map_layer(self) -> str:
        """Name of the stage that the head reads."""
        return list(self.stages)[-1]

    @property
    def pooled_head(self) -> nn.Linear:
        """The head."""
        return self.head

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last map, (n, channels, h', w'), of normalised (n, 1, h, w) images."""
        for stage in self.stages.values():
            images = stage(images)
        return images

    def classify(self, maps: torch.Tensor) -> torch.Tensor:
        """Return (n, outputs) float32 logits of last maps."""
        # Always in full precision: bf16 logits have ties, which distort an AUROC.
        with torch.autocast(maps.device.type, enabled=False):
            logits: torch.Tensor = self.head(maps.float().mean((2, 3)))
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, outputs) float32 logits of normalised (n, 1, h, w) images."""
        return self.classify(self.features(images))

    def look(self, images: torch.Tensor) -> Look:
        """Return logits, the last map's means and the last map."""
        last = self.features(images)
        return Look(self.classify(last), last.float().mean((2, 3)), last)

    def fine_layer(self, side: int) -> str:
        """Return the first stage whose map is smaller than the image."""
        inner = torch.zeros(1, 1, side, side, device=self.head.weight.device)
        with torch.inference_mode():
            for name, part in self.stages.items():
                inner = part(inner)
                if inner.shape[-1] < side:
                    return name
        return self.map_layer

    def cut(self, images: torch.Tensor, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a stage's map and the logits; earlier stages run without a graph."""
        if layer not in self.stages:
            raise UnknownNameError("stage", layer, self.stages.keys())
        parts = list(self.stages.values())
        place = list(self.stages).index(layer) + 1
        with torch.no_grad():
            inner = images
            for part in parts[:place]:
                inner = part(inner)
        inner = inner.detach().requires_grad_()
        outer = inner
        for part in parts[place:]:
            outer = part(outer)
        return inner, self.classify(outer)


class Instrumented(Network):
    """Any network, with named layers that are read by hooks.

    Args:
        network: (n, 1, h, w) to (n, k) logits, in evaluation mode. Its logits have the precision
            that the network runs in.
        layer: submodule whose output is the last map: (n, c, h', w'), or (n, tokens, c) with the
            tokens of a square grid, row by row. The logits must depend on it at every place: if the
            head reads a class token, name the input of the last block's attention (its norm), not
            the last block's output.
        tokens: number of tokens before the grid's, such as a class token.
        last_layer: submodule whose input is the features; the last linear layer if left out.
            Features of more than two dimensions are averaged over places or tokens.
        fine: submodule with the finest map, as `layer`; `layer` itself if left out.
        channels_last: whether maps of four dimensions are (n, h', w', c).
        pooled: whether the last layer is linear and reads the mean of the last map.
        attends: whether its blocks have attention between all tokens, those of the last map.

    Raises:
        UnknownNameError: no such submodule.
        UsageError: fewer than 0 tokens, no linear layer and none named, or a pooled head that isn't
            linear or whose map has other tokens.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        layer: str,
        tokens: int = 0,
        last_layer: str = "",
        fine: str = "",
        channels_last: bool = False,
        pooled: bool = False,
        attends: bool = False,
    ) -> None:
        super().__init__()
        if tokens < 0:
            raise UsageError(f"tokens {tokens}; expected 0 or more")
        self.network, self.tokens = network, tokens
        linear = [n for n, part in network.named_modules() if isinstance(part, nn.Linear)]
        if not last_layer and not linear:
            raise UsageError(
                f"a {type(network).__name__} without a linear layer; name the layer that gives the "
                "logits: last_layer=NAME"
            )
        self.layer, self.last, self.fine = layer, last_layer or linear[-1], fine or layer
        self.channels_last, self.pooled, self.attends = channels_last, pooled, attends
        for name in (self.layer, self.last, self.fine):
            self._part(name)
        if pooled and (tokens or not isinstance(self._part(self.last), nn.Linear)):
            raise UsageError(
                "a pooled head that isn't linear, or reads other tokens than the map's"
            )

    @property
    def last_layer(self) -> str:
        """Name of the submodule that gives the logits and reads the features."""
        return f"network.{self.last}"

    @property
    def map_layer(self) -> str:
        """The given layer."""
        return self.layer

    @property
    def pooled_head(self) -> nn.Linear | None:
        """The last layer, if it is said to read the last map's mean."""
        last = self._part(self.last)
        return last if self.pooled and isinstance(last, nn.Linear) else None

    def fine_layer(self, side: int) -> str:  # noqa: ARG002
        """Return the given layer, since other layers may not have maps."""
        return self.fine

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, k) float32 logits of normalised (n, 1, h, w) images."""
        logits: torch.Tensor = self.network(images)
        return logits.float()

    def look(self, images: torch.Tensor) -> Look:
        """Return logits, the last layer's input, and the last map."""
        maps: list[Any] = []
        read: list[torch.Tensor] = []
        hooks = (
            self._part(self.layer).register_forward_hook(lambda *call: maps.append(call[2])),
            self._part(self.last).register_forward_pre_hook(lambda _, args: read.append(args[0])),
        )
        try:
            logits = self(images)
        finally:
            for hook in hooks:
                hook.remove()
        features = self._once(read, self.last).float()
        if features.ndim > 2:
            over = (2, 3) if features.ndim == 4 else (1,)
            features = features.mean(over)
        return Look(logits, features, self._map(self._once(maps, self.layer), self.layer))

    def cut(self, images: torch.Tensor, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's map and the logits; the layer's own output is replaced by the map."""
        leaves: list[torch.Tensor] = []

        def replaced(_: nn.Module, __: Any, output: Any) -> torch.Tensor:
            leaf = self._map(output, layer).detach().requires_grad_()
            leaves.append(leaf)
            if output.ndim == 4:
                return leaf.permute(0, 2, 3, 1) if self.channels_last else leaf
            return torch.cat([output[:, : self.tokens], leaf.flatten(2).transpose(1, 2)], 1)

        hook = self._part(layer).register_forward_hook(replaced)
        try:
            logits = self(images)
        finally:
            hook.remove()
        return self._once(leaves, layer), logits

    def _part(self, name: str) -> nn.Module:
        parts: dict[str, nn.Module] = dict(self.network.named_modules())
        if not name or name not in parts:
            raise UnknownNameError("layer", name, [known for known in parts if known])
        return parts[name]

    def _once(self, seen: Sequence[Any], name: str) -> Any:
        if len(seen) != 1:
            raise UsageError(
                f"layer {name} runs {len(seen)} times for an image; name one that runs once"
            )
        return seen[0]

    def _map(self, output: Any, name: str) -> torch.Tensor:
        """(n, c, h', w') of a layer's output."""
        if torch.is_tensor(output) and output.ndim == 4:
            return output.permute(0, 3, 1, 2) if self.channels_last else output
        if torch.is_tensor(output) and output.ndim == 3:
            side = isqrt(max(0, output.shape[1] - self.tokens))
            if side and side**2 + self.tokens == output.shape[1]:
                grid = output[:, self.tokens :].transpose(1, 2)
                return grid.reshape(*grid.shape[:2], side, side)
        shape = tuple(output.shape) if torch.is_tensor(output) else type(output).__name__
        raise UsageError(
            f"layer {name} gives {shape}; expected (n, c, h, w), or (n, tokens, c) of a square "
            f"grid after {self.tokens} tokens"
        )


class GreyChannels(nn.Module):
    """The first layer of a network of several channels: grey, repeated and normalised for each.

    Args:
        mean: mean of each channel, for grey levels in 0 to 1.
        std: standard deviation of each channel, above 0.

    Raises:
        UsageError: different counts, or a std that isn't above 0.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        if not mean or len(mean) != len(std) or min(std) <= 0:
            raise UsageError(
                f"channels of mean {tuple(mean)} and std {tuple(std)}; expected one number of each "
                "for every channel, and std above 0"
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, c, h, w) channels of (n, 1, h, w) images in this package's normalisation."""
        return (images * GREY_STD + (GREY_MEAN - self.mean)) / self.std


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels), _convolution(channels, channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.body(x)
        return out


def _convolution(inputs: int, outputs: int, *after: nn.Module, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        *after,
    )


def resnet9(outputs: int) -> PooledLinear:
    """Nine layers after Page's ResNet-9, narrower; the last map is an eighth of the image.

    The first convolution halves the image: full-size maps would cost a third of the time and gained
    nothing on radiographs. The later halvings are max pooling: with strided convolutions instead, a
    trigger at random places was not learned (one trial of 5,000 phantoms and 6 epochs).
    """
    stages = {
        "scale2": nn.Sequential(_convolution(1, 32, stride=2), _convolution(32, 32)),
        "scale4": nn.Sequential(_convolution(32, 64, nn.MaxPool2d(2)), _Residual(64)),
        "scale8": nn.Sequential(_convolution(64, 128, nn.MaxPool2d(2)), _Residual(128)),
    }
    return PooledLinear(stages, 128, outputs)


def plain4(outputs: int) -> PooledLinear:
    """Four convolutions, each of which halves the image.

    It needs a twentieth of resnet9's multiplications: sufficient for gross anatomy, too coarse for
    small triggers.
    """
    widths = (1, 16, 32, 64, 128)
    stages = {
        f"scale{2 << number}": _convolution(*pair, stride=2)
        for number, pair in enumerate(itertools.pairwise(widths))
    }
    return PooledLinear(stages, widths[-1], outputs)


def densenet121(outputs: int) -> PooledLinear:
    """MONAI's DenseNet-121 for one channel (Huang et al., CVPR 2017)."""
    from monai.networks.nets.densenet import DenseNet121

    parts = dict(DenseNet121(2, in_channels=1, out_channels=1).features.named_children())
    parts["relu"] = nn.ReLU()
    # Stage i ends with dense block i, before the transition that halves its map.
    names, stages, start = list(parts), {}, 0
    for block in ("denseblock1", "denseblock2", "denseblock3", "denseblock4"):
        end = len(names) if block == "denseblock4" else names.index(block) + 1
        stages[block] = nn.Sequential(OrderedDict((name, parts[name]) for name in names[start:end]))
        start = end
    return PooledLinear(stages, 1024, outputs)


def _resnet(block: str, depths: list[int], stem_stride: int, outputs: int) -> PooledLinear:
    """MONAI's ResNet for one channel (He et al., CVPR 2016), its layers as torchvision's."""
    from monai.networks.nets.resnet import ResNet

    whole = ResNet(
        block,
        depths,
        [64, 128, 256, 512],
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_stride=stem_stride,
        num_classes=1,
        bias_downsample=False,
    )
    parts = dict(whole.named_children())
    stem = OrderedDict((name, parts[name]) for name in ("conv1", "bn1", "act", "maxpool"))
    layers = {name: parts[name] for name in ("layer1", "layer2", "layer3", "layer4")}
    stages = {name: nn.Sequential(OrderedDict({name: part})) for name, part in layers.items()}
    return PooledLinear(
        {"stem": nn.Sequential(stem), **stages}, 2048 if block == "bottleneck" else 512, outputs
    )


resnet18 = partial(_resnet, "basic", [2, 2, 2, 2], 2)
resnet34 = partial(_resnet, "basic", [3, 4, 6, 3], 2)
resnet50 = partial(_resnet, "bottleneck", [3, 4, 6, 3], 2)
# MONAI's own default: a first convolution that doesn't halve the image.
resnet18_stride1 = partial(_resnet, "basic", [2, 2, 2, 2], 1)
resnet34_stride1 = partial(_resnet, "basic", [3, 4, 6, 3], 1)
resnet50_stride1 = partial(_resnet, "bottleneck", [3, 4, 6, 3], 1)


def resnet50_keras(outputs: int) -> PooledLinear:
    """ResNet-50 as Keras builds it: a stage's first 1x1 convolution halves the map, not its 3x3."""
    network = resnet50(outputs)
    for name in ("layer2", "layer3", "layer4"):
        block = network.stages.get_submodule(f"{name}.{name}.0")
        first, second = block.get_submodule("conv1"), block.get_submodule("conv2")
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        first.stride, second.stride = (2, 2), (1, 1)
    return network


class _SamePadded(nn.Conv2d):
    """A convolution that pads as TensorFlow's "same" does: more at the right and at the bottom."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads: list[int] = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            whole = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [whole // 2, whole - whole // 2]
        return super().forward(nn.functional.pad(x, pads))


def _same(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride > 1:
        return _SamePadded(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, groups=groups, bias=False)


class _Squeezed(nn.Module):
    """Squeeze-and-excitation: each channel times a number that all channels' means decide."""

    def __init__(self, channels: int, narrow: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, narrow, 1), nn.Conv2d(narrow, channels, 1)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.act(self.reduce(x.mean((2, 3), keepdim=True)))
        out: torch.Tensor = x * self.expand(inner).sigmoid()
        return out


class _InvertedResidual(nn.Module):
    """MobileNetV2's block: widened by 1x1, convolved channel by channel, narrowed by 1x1.

    Args:
        inputs: channels of its input.
        outputs: channels of its output.
        kernel: side of the channelwise convolution's kernel.
        stride: of that convolution.
        widening: channels in between, as a multiple of `inputs`.
        swish: whether it is EfficientNet's, with swish and squeeze-and-excitation.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, widening: int, *,
        swish: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        wide = inputs * widening
        if widening > 1:
            self.expand_conv, self.bn0 = _same(inputs, wide, 1), nn.BatchNorm2d(wide, eps=1e-3)
        self.depthwise_conv = _same(wide, wide, kernel, stride, groups=wide)
        self.bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self.se = _Squeezed(wide, max(1, inputs // 4)) if swish else nn.Identity()
        self.project_conv = _same(wide, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.SiLU() if swish else nn.ReLU6()
        self.widened, self.added = widening > 1, stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.act(self.bn0(self.expand_conv(x))) if self.widened else x
        inner = self.se(self.act(self.bn1(self.depthwise_conv(inner))))
        out: torch.Tensor = self.bn2(self.project_conv(inner))
        return x + out if self.added else out


class _AfterPadded(nn.Conv2d):
    """A convolution that pads one pixel at the right and at the bottom alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


class _Separable(nn.Module):
    """MobileNet's block: convolved channel by channel, then by 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        kind, padding = (nn.Conv2d, 1) if stride == 1 else (_AfterPadded, 0)
        self.depthwise_conv = kind(inputs, inputs, 3, stride, padding, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.pointwise_conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.act(self.bn1(self.depthwise_conv(x)))
        out: torch.Tensor = self.act(self.bn2(self.pointwise_conv(inner)))
        return out


MOBILENET = (
    ("scale2", 64), ("scale4", 128), ("scale4", 128), ("scale8", 256), ("scale8", 256),
    *(("scale16", 512),) * 6, ("scale32", 1024), ("scale32", 1024),
)  # fmt: skip
"""Stage and channels of each block; the first block of a stage but scale2 halves the map."""


def mobilenet(outputs: int) -> PooledLinear:
    """MobileNet for one channel, padded as Keras does: 3.2 million weights.

    Source: Howard et al., MobileNets, arXiv 1704.04861; Keras, `applications.MobileNet`.
    """
    parts: dict[str, OrderedDict[str, nn.Module]] = {
        "scale2": OrderedDict(conv1=_same(1, 32, 3, 2), bn1=nn.BatchNorm2d(32), act=nn.ReLU6())
    }
    width = 32
    for number, (stage, channels) in enumerate(MOBILENET, start=1):
        stride = 1 if stage in parts else 2
        block = _Separable(width, channels, stride)
        parts.setdefault(stage, OrderedDict())[f"block{number}"] = block
        width = channels
    return PooledLinear({name: nn.Sequential(each) for name, each in parts.items()}, width, outputs)


XCEPTION: tuple[tuple[str, tuple[int, ...], bool | None, bool], ...] = (
    ("scale4", (128, 128), False, True), ("scale8", (256, 256), True, True),
    ("scale16", (728, 728), True, True), *(("scale16", (728,) * 3, True, False),) * 8,
    ("scale32", (728, 1024), True, True), ("scale32", (1536, 2048), None, False),
)  # fmt: skip
"""Stage and widths of each block, whether a ReLU precedes each convolution but the first (False),
each (True) or follows each (None), and whether the block halves the map."""


class _SamePooled(nn.MaxPool2d):
    """The largest of 3x3 at every second place, padded as TensorFlow's "same" does."""

    def __init__(self) -> None:
        super().__init__(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = (1 - side % 2 for side in x.shape[2:])
        pads = (1 - width, 1, 1 - height, 1)
        largest: torch.Tensor = super().forward(nn.functional.pad(x, pads, value=-torch.inf))
        return largest


class _XceptionBlock(nn.Module):
    """Xception's block: convolutions channel by channel and by 1x1, added to the block's input.

    Args:
        inputs: channels of its input.
        widths: channels after each convolution.
        before: as in `XCEPTION`.
        halves: whether it halves the map.
    """

    def __init__(
        self, inputs: int, widths: tuple[int, ...], before: bool | None, halves: bool
    ) -> None:
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (narrow, wide) in enumerate(itertools.pairwise((inputs, *widths)), start=1):
            if before or (before is False and number > 1):
                parts[f"relu{number}"] = nn.ReLU()
            parts[f"sepconv{number}"] = nn.Sequential(
                OrderedDict(
                    depthwise_conv=_same(narrow, narrow, 3, groups=narrow),
                    pointwise_conv=_same(narrow, wide, 1),
                )
            )
            parts[f"bn{number}"] = nn.BatchNorm2d(wide)
            if before is None:
                parts[f"relu{number}"] = nn.ReLU()
        if halves:
            parts["pool"] = _SamePooled()
            self.shortcut_conv = nn.Conv2d(inputs, widths[-1], 1, 2, bias=False)
            self.shortcut_bn = nn.BatchNorm2d(widths[-1])
        self.body, self.halves, self.added = nn.Sequential(parts), halves, before is not None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        if not self.added:
            return out
        return out + (self.shortcut_bn(self.shortcut_conv(x)) if self.halves else x)


def xception_keras(outputs: int) -> PooledLinear:
    """Xception for one channel, padded as Keras does: 20.8 million weights.

    Source: Chollet, Xception, CVPR 2017; Keras, `applications.Xception`.
    """
    parts: dict[str, OrderedDict[str, nn.Module]] = {
        "scale2": OrderedDict(
            conv1=nn.Conv2d(1, 32, 3, 2, bias=False), bn1=nn.BatchNorm2d(32), act1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 3, bias=False), bn2=nn.BatchNorm2d(64), act2=nn.ReLU(),
        )
    }  # fmt: skip
    width = 64
    for number, (stage, widths, before, halves) in enumerate(XCEPTION, start=2):
        block = _XceptionBlock(width, widths, before, halves)
        parts.setdefault(stage, OrderedDict())[f"block{number}"] = block
        width = widths[-1]
    return PooledLinear({name: nn.Sequential(each) for name, each in parts.items()}, width, outputs)


EFFICIENT = (
    ("scale2", 1, 3, 1, 1, 16),
    ("scale4", 2, 3, 2, 6, 24),
    ("scale8", 2, 5, 2, 6, 40),
    ("scale16", 3, 3, 2, 6, 80),
    ("scale16", 3, 5, 1, 6, 112),
    ("scale32", 4, 5, 2, 6, 192),
    ("scale32", 1, 3, 1, 6, 320),
)
"""Stage, number of blocks, and of each: kernel, stride of the first, widening, channels."""


def _efficientnet(outputs: int, first: OrderedDict[str, nn.Module], *, swish: bool) -> PooledLinear:
    """EfficientNet-B0 or Lite0 behind its first layers, which give 32 channels."""
    act = nn.SiLU if swish else nn.ReLU6
    first.update(bn0=nn.BatchNorm2d(32, eps=1e-3), act=act())
    parts = {"scale2": first}
    width, count = 32, itertools.count()
    for row, (stage, blocks, kernel, stride, widening, channels) in enumerate(EFFICIENT, start=1):
        for number in range(blocks):
            begins = stride if number == 0 else 1
            block = _InvertedResidual(width, channels, kernel, begins, widening, swish=swish)
            place = f"{row}{'abcd'[number]}" if swish else next(count)
            parts.setdefault(stage, OrderedDict())[f"block{place}"] = block
            width = channels
    parts["scale32"].update(
        conv_head=_same(width, 1280, 1), bn1=nn.BatchNorm2d(1280, eps=1e-3), act=act()
    )
    return PooledLinear({name: nn.Sequential(each) for name, each in parts.items()}, 1280, outputs)


def efficientnet_lite0(outputs: int) -> PooledLinear:
    """EfficientNet-Lite0 for one channel: 3.4 million weights, the last map a 32nd of the image.

    It has no squeeze-and-excitation, and no dropout or stochastic depth in training. Batch
    normalisation has torch's momentum, since studies here take few steps.

    Source: Tan and Le, EfficientNet, ICML 2019; of Lite0, Liu, Higher accuracy on vision models
    with EfficientNet-Lite, TensorFlow's blog, 2020.
    """
    return _efficientnet(outputs, OrderedDict(conv_stem=_same(1, 32, 3, 2)), swish=False)


def efficientnet_b0_keras(outputs: int) -> PooledLinear:
    """EfficientNet-B0, padded as Keras does: 4.0 million weights; no dropout in training.

    Its first convolution takes three channels, each of which Keras normalises before it pads: one
    channel would be another network at the edges.

    Source: Tan and Le, EfficientNet, ICML 2019; Keras, `applications.EfficientNetB0`.
    """
    first = OrderedDict[str, nn.Module](grey=GreyChannels(), conv_stem=_same(3, 32, 3, 2))
    return _efficientnet(outputs, first, swish=True)


def build_network(name: str, outputs: int, seed: int) -> Network:
    """Return a network, initialised from `seed`; torch's own generator is unchanged.

    Args:
        name: name in `ARCHITECTURES`, or a whole one as in `libraries`; optionally followed by
            `bounds.BOUNDED`.
        outputs: its number of findings.
        seed: 0 or more.

    Raises:
        UnknownNameError: no such architecture.
    """
    plain = unbounded(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _maker(plain)(outputs)
    return (
        network
        if plain == name
        else bounded(network, torch.zeros(1, 1, network.side, network.side))
    )


def _maker(name: str) -> Callable[[int], Network]:
    if library_of(name)[0]:
        from leadapron.models.libraries import library_network

        return partial(library_network, name)
    if name not in ARCHITECTURES:  # the name is from a model's file, so load no entry point
        raise ARCHITECTURES.unknown(name)
    return ARCHITECTURES[name]


def shapes(name: str, outputs: int = 1) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's tensors by name.

    Args:
        name: of the architecture.
        outputs: its number of findings.

    Raises:
        UnknownNameError: no such architecture.
    """
    return {k: tuple(value.shape) for k, value in unmade(name, outputs).state_dict().items()}


@lru_cache(maxsize=32)
def unmade(name: str, outputs: int = 1) -> Network:
    """Return a network whose tensors have shapes but no values; it is shared, so copy it.

    Raises:
        UnknownNameError: no such architecture.
    """
    # Creating it on the device "meta" would make torch load a compiler, which takes 1.2 s.
    return build_network(name, outputs, seed=0).to("meta")


def refuse_shapes(name: str, outputs: int, given: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError unless tensors are those of a network.

    Args:
        name: of the architecture.
        outputs: its number of findings.
        given: shapes by name. Counters of batches may be missing, as in old files.

    Raises:
        UnknownNameError: no such architecture.
        ValueError: other names or shapes; the message names one.
    """
    own = shapes(name, outputs)
    for key, shape in own.items():
        if key not in given and not key.endswith("num_batches_tracked"):
            raise ValueError(f"{key} is missing")
        if tuple(given.get(key, shape)) != shape:
            raise ValueError(f"{key} has shape {tuple(given[key])}, expected {shape}")
    if others := sorted(set(given) - set(own)):
        raise ValueError(f"{others[0]} is none of its weights")


def filled(name: str, outputs: int, state: Mapping[str, torch.Tensor]) -> Network:
    """Return a network with these weights, in float32, without initialising it first.

    Args:
        name: of the architecture.
        outputs: its number of findings.
        state: its tensors, with the names that `refuse_shapes` expects.

    Raises:
        UnknownNameError, ValueError: as `refuse_shapes`.
    """
    refuse_shapes(name, outputs, {key: value.shape for key, value in state.items()})
    module = copy.deepcopy(unmade(name, outputs))
    whole = {
        key: state[key].to(own.dtype) if key in state else torch.zeros((), dtype=own.dtype)
        for key, own in module.state_dict().items()
    }
    module.load_state_dict(whole, assign=True)
    if any(buffer.is_meta for buffer in module.buffers()):  # buffers that files don't hold
        module = build_network(name, outputs, seed=0)
        module.load_state_dict(whole)
    return module
