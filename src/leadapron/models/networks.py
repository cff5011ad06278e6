"""Architectures: convolutional features, average pooling, one linear layer.

That last step is what makes the exact one-pass class activation map possible.
"""

from __future__ import annotations

import copy
import itertools
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.models.parsing.reading import Group, Outline, open_file, open_weights

__all__ = [
    "ARCHITECTURES",
    "IMAGENET_SHA256",
    "PooledLinear",
    "build_network",
    "filled",
    "load_imagenet",
    "refuse_shapes",
    "shapes",
]

logger = logging.getLogger(__name__)

IMAGENET_URL = "https://download.pytorch.org/models/densenet121-a639ec97.pth"
IMAGENET_SHA256 = "a639ec97"
"""How the file's hash begins, as torch names its files."""
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


def _plain4(outputs: int) -> PooledLinear:
    """Four convolutions, each of which halves the image.

    A twentieth of resnet9's multiplications: enough for anatomy at large, too coarse for small
    triggers.
    """
    widths = (1, 16, 32, 64, 128)
    stages = {
        f"scale{2 << number}": _convolution(*pair, stride=2)
        for number, pair in enumerate(itertools.pairwise(widths))
    }
    return PooledLinear(stages, widths[-1], outputs)


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
    "plain4": _plain4,
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
    return {key: tuple(value.shape) for key, value in _unmade(name).state_dict().items()}


@cache
def _unmade(name: str) -> PooledLinear:
    """A network of one output, whose tensors have shapes and no numbers."""
    # Made on the device "meta", torch would first load a compiler, for 1.2 s.
    return build_network(name, 1, seed=0).to("meta")


def refuse_shapes(name: str, outputs: int, given: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError where tensors are not those of a network.

    Args:
        name: of the architecture.
        outputs: its number of findings.
        given: shapes by name. Counters of batches may be missing, as they are in old files.

    Raises:
        UnknownNameError: no such architecture.
        ValueError: other names or shapes; the words name one.
    """
    own = {
        key: (outputs, *shape[1:]) if key.startswith("head.") else shape
        for key, shape in shapes(name).items()
    }
    for key, shape in own.items():
        if key not in given and not key.endswith("num_batches_tracked"):
            raise ValueError(f"{key} is missing")
        if tuple(given.get(key, shape)) != shape:
            raise ValueError(f"{key} has shape {tuple(given[key])}, expected {shape}")
    if others := sorted(set(given) - set(own)):
        raise ValueError(f"{others[0]} is none of its weights")


def filled(name: str, state: Mapping[str, torch.Tensor]) -> PooledLinear:
    """Return a network of these weights, in float32; none is initialised first.

    Args:
        name: of the architecture.
        state: its tensors, as `refuse_shapes` takes their shapes.

    Raises:
        UnknownNameError, ValueError: as `refuse_shapes`.
    """
    outputs = len(state["head.weight"])
    refuse_shapes(name, outputs, {key: value.shape for key, value in state.items()})
    module = copy.deepcopy(_unmade(name))
    module.head = nn.Linear(module.head.in_features, outputs, device="meta")
    whole = {
        key: state[key].to(own.dtype) if key in state else torch.zeros((), dtype=own.dtype)
        for key, own in module.state_dict().items()
    }
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
    own = network.state_dict()
    # features.denseblock1.denselayer2.norm1.weight (older files: norm.1) is, in MONAI's network
    # and these stages, stages.denseblock1.denseblock1.denselayer2.layers.norm1.weight.
    stage_of = {name.split(".", 2)[2]: name for name in own if name.startswith("stages.")}
    path = _downloaded() if weights == "imagenet" else Path(weights)
    if not path.is_file():
        raise UsageError(f"--network.weights {weights}: no such file; expected it or 'imagenet'")
    try:
        with open_file(path) as file, open_weights(file) as held:
            if weights == "imagenet" and not held.sha256.startswith(IMAGENET_SHA256):
                raise StoreError(f"{path} is not what was published; delete it")
            chosen = _chosen(held.groups.get("", {}), own, stage_of, weights)
            loaded = held.take(chosen)
    except StoreError as error:
        raise StoreError(f"can't read weights from {path.name}: {error}") from error
    first = stage_of["conv0.weight"]
    if loaded[first].shape[1] == 3:
        scale = GREY_STD / torch.tensor(IMAGENET_STD)
        loaded[first] = (loaded[first] * scale[:, None, None]).sum(1, keepdim=True)
    network.load_state_dict({**own, **loaded})
    logger.info("ImageNet weights: first convolution summed over the colours, head untrained")


def _chosen(
    tensors: Group, own: Mapping[str, torch.Tensor], stage_of: Mapping[str, str], weights: str
) -> dict[str, Outline]:
    """The tensors of a DenseNet-121's stages in a file, by this package's names."""
    chosen: dict[str, Outline] = {}
    for name, one in tensors.items():
        if not name.startswith("features."):
            continue
        name = re.sub(r"\b(norm|conv)\.(\d)\b", r"\1\2", name.removeprefix("features."))
        name = re.sub(r"(denselayer\d+)\.(?!layers)", r"\1.layers.", name)
        colours = name == "conv0.weight" and one.shape == (64, 3, 7, 7)
        if name not in stage_of or not (colours or own[stage_of[name]].shape == one.shape):
            raise StoreError(f"{weights} has no DenseNet-121 weights: {name} does not fit")
        chosen[stage_of[name]] = one
    missing = {n for n in stage_of.values() if not n.endswith("num_batches_tracked")} - set(chosen)
    if missing:
        raise StoreError(f"{weights} has no DenseNet-121 weights: {len(missing)} tensors missing")
    return chosen


def _downloaded() -> Path:
    """The file of ImageNet weights in torch's cache; it is fetched where it isn't there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_URL.rpartition("/")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                IMAGENET_URL, str(path), hash_prefix=IMAGENET_SHA256, progress=False
            )
        except (OSError, RuntimeError) as error:  # the latter where the hash is another
            raise StoreError(
                f"can't download the ImageNet weights ({error}); give a local file by "
                "--network.weights FILE"
            ) from error
    return path
