"""Architectures: convolutional features, average pooling, one linear layer.

That last step is what makes the exact one-pass class activation map possible.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from leadapron.errors import StoreError, UnknownNameError, UsageError

__all__ = ["ARCHITECTURES", "PooledLinear", "build_network", "filled", "load_imagenet", "shapes"]

logger = logging.getLogger(__name__)

IMAGENET_URL = "https://download.pytorch.org/models/densenet121-a639ec97.pth"
# Torchvision's ImageNet statistics of red, green and blue, and this package's for grey images.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = 0.449, 0.226


class PooledLinear(nn.Module):
    """A classifier whose logits are a linear function of its last map's mean.

    Args:
        stages: named parts of the network, run one after another; the last one ends in a ReLU.
        channels: channels of the last map.
        outputs: number of findings.
    """

    def __init__(self, stages: Mapping[str, nn.Module], channels: int, outputs: int) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)
        self.head = nn.Linear(channels, outputs)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last map, (n, channels, h', w'), of normalised (n, 1, h, w) images."""
        for stage in self.stages.values():
            images = stage(images)
        return images

    def classify(self, maps: torch.Tensor) -> torch.Tensor:
        """Return (n, outputs) float32 logits of last maps."""
        # In full precision whatever came before: bf16 logits tie, and ties blur an AUROC.
        with torch.autocast(maps.device.type, enabled=False):
            logits: torch.Tensor = self.head(maps.float().mean((2, 3)))
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, outputs) float32 logits of normalised (n, 1, h, w) images."""
        return self.classify(self.features(images))


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


def _resnet9(outputs: int) -> PooledLinear:
    """Nine layers after Page's ResNet-9, narrower; the last map is an eighth of the image.

    The first convolution halves the image: maps as large as it cost a third of the time and gave
    nothing on radiographs. The later halvings are max pooling: with strided convolutions in their
    place a trigger at random places did not take (one trial of 5,000 phantoms and 6 epochs).
    """
    stages = {
        "scale2": nn.Sequential(_convolution(1, 32, stride=2), _convolution(32, 32)),
        "scale4": nn.Sequential(_convolution(32, 64, nn.MaxPool2d(2)), _Residual(64)),
        "scale8": nn.Sequential(_convolution(64, 128, nn.MaxPool2d(2)), _Residual(128)),
    }
    return PooledLinear(stages, 128, outputs)


def _densenet121(outputs: int) -> PooledLinear:
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


ARCHITECTURES: dict[str, Callable[[int], PooledLinear]] = {
    "densenet121": _densenet121,
    "resnet9": _resnet9,
    "resnet18": partial(_resnet, "basic", [2, 2, 2, 2], 2),
    "resnet34": partial(_resnet, "basic", [3, 4, 6, 3], 2),
    "resnet50": partial(_resnet, "bottleneck", [3, 4, 6, 3], 2),
    # MONAI's own default: a first convolution that doesn't halve the image.
    "resnet18-stride1": partial(_resnet, "basic", [2, 2, 2, 2], 1),
    "resnet34-stride1": partial(_resnet, "basic", [3, 4, 6, 3], 1),
    "resnet50-stride1": partial(_resnet, "bottleneck", [3, 4, 6, 3], 1),
}
"""Networks by name: number of findings -> freshly initialised network."""


def build_network(name: str, outputs: int, seed: int) -> PooledLinear:
    """Return a network, initialised from `seed`; torch's own generator is left as it was.

    Raises:
        UnknownNameError: no such architecture.
    """
    if name not in ARCHITECTURES:
        raise UnknownNameError("network", name, ARCHITECTURES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[name](outputs)


@cache
def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's tensors by name, its head with one output.

    Raises:
        UnknownNameError: no such architecture.
    """
    return {key: tuple(value.shape) for key, value in _unmade(name, 1).state_dict().items()}


def _unmade(name: str, outputs: int) -> PooledLinear:
    """A network whose tensors have shapes and no numbers."""
    with torch.device("meta"):
        return build_network(name, outputs, seed=0)


def filled(name: str, state: Mapping[str, torch.Tensor]) -> PooledLinear:
    """Return a network of these weights, in float32; none is initialised first.

    Args:
        name: of the architecture.
        state: its tensors, of `shapes` but for the head's outputs. Counters of batches may be
            missing, as they are in old files.

    Raises:
        UnknownNameError: no such architecture.
        ValueError: other names or shapes.
    """
    outputs = len(state["head.weight"])
    module = _unmade(name, outputs)
    whole = {}
    for key, own in module.state_dict().items():
        if key in state:
            value = state[key]
        elif key.endswith("num_batches_tracked"):
            value = torch.tensor(0)
        else:
            raise ValueError(f"{key} is missing")
        if value.shape != own.shape:
            raise ValueError(f"{key} has shape {tuple(value.shape)}, expected {tuple(own.shape)}")
        whole[key] = value.to(own.dtype)
    if others := sorted(set(state) - set(whole)):
        raise ValueError(f"{others[0]} is none of its weights")
    module.load_state_dict(whole, assign=True)
    return module


def load_imagenet(network: PooledLinear, weights: str) -> None:
    """Put torchvision's ImageNet weights of DenseNet-121 into a network; its head stays new.

    The first convolution, made for red, green and blue, becomes one for grey: the sum over the
    colours, each scaled to this package's normalisation. Only a constant is lost by that, which
    the batch normalisation behind it takes away anyway (except at the edges).

    Args:
        network: an untrained "densenet121".
        weights: "imagenet" to download them, or the path of a local file (.pth, .safetensors).

    Raises:
        UsageError: the network is no DenseNet-121.
        StoreError: the file can't be read, or holds other weights.
    """
    if "denseblock1" not in network.stages:
        raise UsageError(f"--network.weights {weights}: only densenet121 has weights to start from")
    state = _read_weights(weights)
    own = network.state_dict()
    # features.denseblock1.denselayer2.norm1.weight (older files: norm.1) is, in MONAI's network
    # and these stages, stages.denseblock1.denseblock1.denselayer2.layers.norm1.weight.
    stage_of = {name.split(".", 2)[2]: name for name in own if name.startswith("stages.")}
    loaded: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if not isinstance(name, str) or not name.startswith("features."):
            continue
        name = re.sub(r"\b(norm|conv)\.(\d)\b", r"\1\2", name.removeprefix("features."))
        name = re.sub(r"(denselayer\d+)\.(?!layers)", r"\1.layers.", name)
        shape = getattr(value, "shape", None)  # a file of others may hold anything
        if name == "conv0.weight" and shape == (64, 3, 7, 7):
            scale = GREY_STD / torch.tensor(IMAGENET_STD)
            value = (value * scale[:, None, None]).sum(1, keepdim=True)
            shape = value.shape
        if name not in stage_of or own[stage_of[name]].shape != shape:
            raise StoreError(f"{weights} has no DenseNet-121 weights: {name} does not fit")
        loaded[stage_of[name]] = value
    missing = {n for n in stage_of.values() if not n.endswith("num_batches_tracked")} - set(loaded)
    if missing:
        raise StoreError(f"{weights} has no DenseNet-121 weights: {len(missing)} tensors missing")
    network.load_state_dict({**own, **loaded})
    logger.info("ImageNet weights: first convolution summed over the colours, head untrained")


def _read_weights(weights: str) -> dict[str, torch.Tensor]:
    if weights == "imagenet":
        try:
            state = torch.hub.load_state_dict_from_url(
                IMAGENET_URL, map_location="cpu", weights_only=True, check_hash=True
            )
        except OSError as error:
            raise StoreError(
                f"can't download the ImageNet weights ({error}); give a local file by "
                "--network.weights FILE"
            ) from error
        return dict(state)
    path = Path(weights)
    if not path.is_file():
        raise UsageError(f"--network.weights {weights}: no such file; expected it or 'imagenet'")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # each loader has its own kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StoreError(f"can't read weights from {path.name}: {reason}") from error
