"""Classes and settings of pickled networks, compared with a network of this package.

A pickled network states which class each part has, and settings such as strides; the code of these
classes isn't in the file and isn't run. So a network is taken for one of this package's if its
tensors fit, if every setting that the file states is the same, and if all classes are known to
compute what this package's do. Unknown classes are reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from leadapron.models.parsing.formats import Module

__all__ = ["differences", "library_differences", "unknown_classes"]

TORCH = "torch.nn.modules."
LAYERS: Mapping[str, str] = {
    f"{TORCH}activation.ReLU": "ReLU",
    f"{TORCH}batchnorm.BatchNorm2d": "BatchNorm2d",
    f"{TORCH}conv.Conv2d": "Conv2d",
    f"{TORCH}linear.Linear": "Linear",
    f"{TORCH}pooling.AdaptiveAvgPool2d": "AdaptiveAvgPool2d",
    f"{TORCH}pooling.AvgPool2d": "AvgPool2d",
    f"{TORCH}pooling.MaxPool2d": "MaxPool2d",
    "timm.layers.norm_act.BatchNormAct2d": "BatchNorm2d",
    "timm.models.layers.norm_act.BatchNormAct2d": "BatchNorm2d",
}
"""Layers by their full names, and the layer of torch.nn that computes the same."""
ACTIVATIONS = re.compile(r"(^|\.)(relu|act)\d*$")
"""Paths of activations, which are ReLUs in all networks of this package."""

WRAPPERS = frozenset(
    {
        "torch._dynamo.eval_frame.OptimizedModule",
        "torch.nn.modules.container.ModuleDict",
        "torch.nn.modules.container.ModuleList",
        "torch.nn.modules.container.Sequential",
        "torch.nn.parallel.data_parallel.DataParallel",
        "torch.nn.parallel.distributed.DistributedDataParallel",
        "torch.optim.swa_utils.AveragedModel",
    }
)
"""Classes that run their parts and nothing else."""

SILENT = frozenset(
    {
        "timm.layers.adaptive_avgmax_pool.SelectAdaptivePool2d",
        "timm.models.layers.adaptive_avgmax_pool.SelectAdaptivePool2d",
        "torch.nn.modules.activation.Sigmoid",
        "torch.nn.modules.dropout.Dropout",
        "torch.nn.modules.flatten.Flatten",
        "torch.nn.modules.linear.Identity",
    }
)
"""Layers that change nothing in evaluation, only average and flatten the last map, or make the
logits probabilities."""

FAMILIES: Mapping[str, frozenset[str]] = {
    "densenet": frozenset(
        {
            *(f"torchvision.models.densenet.{name}" for name in
              ("DenseNet", "_DenseBlock", "_DenseLayer", "_Transition")),
            *(f"timm.models.densenet.{name}" for name in
              ("DenseBlock", "DenseLayer", "DenseNet", "DenseTransition")),
            *(f"torchxrayvision.models.{name}" for name in
              ("DenseNet", "_DenseBlock", "_DenseLayer", "_Transition")),
            *(f"monai.networks.nets.densenet.{name}" for name in
              ("DenseNet", "DenseNet121", "_DenseBlock", "_DenseLayer", "_Transition")),
        }
    ),
    "resnet": frozenset(
        {
            *(f"{library}.models.resnet.{name}" for library in ("torchvision", "timm")
              for name in ("BasicBlock", "Bottleneck", "ResNet")),
            *(f"monai.networks.nets.resnet.{name}" for name in
              ("ResNet", "ResNetBlock", "ResNetBottleneck")),
            "torchxrayvision.models.ResNet",
        }
    ),
}  # fmt: skip
"""Classes whose forward pass is that of this package's networks, by their names' beginning."""

SETTINGS = ("ceil_mode", "count_include_pad", "dilation", "eps", "groups", "kernel_size", "padding",
            "padding_mode", "stride", "track_running_stats")  # fmt: skip
"""Settings that change a layer's output."""


def differences(
    own: nn.Module, modules: Mapping[str, Module], names: Mapping[str, str]
) -> Iterator[str]:
    """Yield where a pickled network computes something else than one of this package.

    Args:
        own: the network of this package.
        modules: parts of the pickled one.
        names: the path in `own` of each part that has one, by its path in `modules`.
    """
    parts = dict(own.named_modules())
    for path, module in modules.items():
        pooled = module.settings.get("pool_type", "avg")
        if pooled != "avg":
            yield f"{path} pools by {pooled!r}, expected 'avg'"
        ours = parts.get(names.get(path, ""))
        leaf = ours is not None and next(ours.children(), None) is None
        expected = type(ours).__name__ if leaf else "ReLU" if ACTIVATIONS.search(path) else None
        kind = LAYERS.get(module.kind, module.kind.rpartition(".")[2])
        stated = module.kind in LAYERS or module.kind.startswith(TORCH)
        if expected is not None and stated and kind != expected:
            yield f"{path} is a {kind}, expected a {expected}"
        for setting in SETTINGS if leaf else ():
            if setting not in module.settings or not hasattr(ours, setting):
                continue
            theirs, own_value = module.settings[setting], getattr(ours, setting)
            if _sides(theirs) != _sides(own_value):
                yield f"{path} has {setting} {theirs}, expected {own_value}"


def library_differences(own: nn.Module, modules: Mapping[str, Module]) -> Iterator[str]:
    """Yield where a pickled network of a library isn't the one that the library builds.

    Args:
        own: the library's.
        modules: parts of the pickled one.
    """
    for path, ours in own.named_modules():
        theirs = modules.get(path)
        if theirs is None:
            continue
        # Releases move classes between modules, so that a package and a name decide.
        kind = f"{type(ours).__module__}.{type(ours).__qualname__}"
        alike = [(each.partition(".")[0], each.rpartition(".")[2]) for each in (theirs.kind, kind)]
        if alike[0] != alike[1] or theirs.changed:
            hooked = " with a forward pass or hooks of its own" * theirs.changed
            yield f"{path or 'the network'} is a {theirs.kind}{hooked}, expected a {kind}"
        for setting in SETTINGS:
            value = getattr(ours, setting, None)
            if setting in theirs.settings and isinstance(value, bool | int | float | str | tuple):
                stated = theirs.settings[setting]
                if _sides(stated) != _sides(value):
                    yield f"{path} has {setting} {stated}, expected {value}"


def _sides(value: Any) -> Any:
    """A setting with one number for both sides as two."""
    if isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return value


def unknown_classes(architecture: str, modules: Mapping[str, Module], prefix: str) -> list[str]:
    """Return the classes of a network, and around it, that may compute something else.

    Args:
        architecture: name of the network of this package that its tensors fit.
        modules: parts of the file's network, by their path.
        prefix: the path of the part that fits, with a dot after it; "" for all.
    """
    family = next((known for name, known in FAMILIES.items() if architecture.startswith(name)), ())
    known = {*LAYERS, *WRAPPERS, *SILENT, *family}
    found: dict[str, None] = {}
    for path, module in modules.items():
        inside = f"{path}.".startswith(prefix)
        around = prefix.startswith(f"{path}.") or path == ""
        if (inside or around) and (module.kind not in known or module.changed):
            hooked = " with a forward pass, hooks or many attributes of its own"
            found[f"{module.kind}{hooked * module.changed}"] = None
    return list(found)
