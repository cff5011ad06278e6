"""Files as other libraries write them, made of MONAI's networks by renaming."""

from __future__ import annotations

import json
import re
import sys
import warnings
import zipfile
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest
import torch

from leadapron.models.parsing import formats

GENUINE = {
    # torchvision since 0.4, timm 0.x to 1.x and torchxrayvision 1.x.
    "torchvision": (
        "features.conv0.weight",
        "features.norm0.running_mean",
        "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock4.denselayer16.conv2.weight",
        "features.transition1.norm.bias",
        "features.transition3.conv.weight",
        "features.norm5.num_batches_tracked",
        "classifier.weight",
        "classifier.bias",
    ),
    # densenet121-a639ec97.pth as it is served, of 2017.
    "torchvision 2017": (
        "features.denseblock1.denselayer1.norm.1.weight",
        "features.denseblock4.denselayer16.conv.2.weight",
        "features.transition1.norm.bias",
        "classifier.weight",
    ),
    # The CheXNet re-implementations' model.pth.tar.
    "CheXNet": (
        "module.densenet121.features.conv0.weight",
        "module.densenet121.features.denseblock1.denselayer1.norm.1.weight",
        "module.densenet121.classifier.0.weight",
        "module.densenet121.classifier.0.bias",
    ),
    "torchxrayvision": ("features.denseblock1.denselayer1.norm1.weight", "op_threshs"),
    "MONAI": (
        "features.denseblock1.denselayer1.layers.norm1.weight",
        "features.transition1.norm.bias",
        "class_layers.out.weight",
    ),
    "ResNet": (
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.conv1.weight",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.running_mean",
        "layer4.1.bn2.bias",
        "fc.weight",
        "fc.bias",
    ),
}
"""Names that stand in the libraries' own sources and files, so that the renaming is theirs."""


def settled(network, seed=1):
    """The network in evaluation mode, its batch normalisation's statistics away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def densenet(channels=1, outputs=3):
    from monai.networks.nets.densenet import DenseNet121

    torch.manual_seed(3)
    return settled(DenseNet121(2, in_channels=channels, out_channels=outputs))


def resnet(name="resnet18", channels=3, outputs=3, stride=2, bias=False):
    from monai.networks.nets import resnet as nets

    torch.manual_seed(3)
    options = {"spatial_dims": 2, "n_input_channels": channels, "num_classes": outputs}
    return settled(getattr(nets, name)(conv1_t_stride=stride, bias_downsample=bias, **options))


def as_torchvision(state):
    out = {}
    for name, value in state.items():
        name = name.replace(".layers.", ".").replace("class_layers.out.", "classifier.")
        out[name] = value
    return out


def as_2017(state):
    names = (
        (re.sub(r"(?<=denselayer)(\d+)\.(norm|conv)(\d)", r"\1.\2.\3", n), v)
        for n, v in as_torchvision(state).items()
    )
    return {n: v for n, v in names if not n.endswith("num_batches_tracked")}


def as_chexnet(state):
    return {
        f"module.densenet121.{n.replace('classifier.', 'classifier.0.')}": v
        for n, v in as_2017(state).items()
    }


def as_torchxrayvision(state, thresholds=(0.1, 0.2, 0.3)):
    return {**as_torchvision(state), "op_threshs": torch.tensor(thresholds)}


# --- whole networks, of classes with the names that their libraries give them


class DenseLayer(torch.nn.Module):
    """As torchvision's, timm's and torchxrayvision's."""

    def __init__(self, parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        x = self.conv1(self.relu1(self.norm1(x)))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(torch.nn.ModuleDict):
    def forward(self, x):
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x


class Transition(torch.nn.Sequential):
    pass


class DenseNet(torch.nn.Module):
    """A DenseNet-121 whose parts are MONAI's, under torchvision's names."""

    def __init__(self, channels=3, outputs=3, layer=DenseLayer, block=DenseBlock,
                 transition=Transition):  # fmt: skip
        super().__init__()
        whole = densenet(channels, outputs)
        self.features = torch.nn.Sequential()
        for name, part in whole.features.named_children():
            if name.startswith("denseblock"):
                part = block({
                    each: layer(dict(inner.layers.named_children()))
                    for each, inner in part.named_children()
                })  # fmt: skip
            elif name.startswith("transition"):
                part = transition(OrderedDict(part.named_children()))
            self.features.add_module(name, part)
        self.classifier = whole.class_layers.out

    def forward(self, x):
        x = torch.relu(self.features(x)).mean((2, 3))
        return self.classifier(x)


def named(monkeypatch, classes):
    """Have classes pickled under other names, such as "torchvision.models.densenet.DenseNet"."""
    for name, kind in classes.items():
        place, _, last = name.rpartition(".")
        for path in (place.partition(".")[0], place):
            monkeypatch.setitem(sys.modules, path, sys.modules.get(path) or ModuleType(path))
        kind.__module__, kind.__qualname__ = place, last  # for good: kinds are a test's own
        monkeypatch.setattr(sys.modules[place], last, kind, raising=False)


def of_library(monkeypatch, package, layer="_DenseLayer", block="_DenseBlock", top="DenseNet",
               transition="_Transition"):  # fmt: skip
    """Classes of a DenseNet, fresh, under the names that a library gives them."""
    kinds = [type(kind.__name__, (kind,), {}) for kind in
             (DenseNet, DenseLayer, DenseBlock, Transition)]  # fmt: skip
    names = (top, layer, block, transition)
    named(monkeypatch, {f"{package}.{name}": kind for name, kind in zip(names, kinds, strict=True)})
    return kinds


# --- files of other kinds


def traced(network, path, channels=1, size=64):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, channels, size, size)), path)


def exported(state, path, **changes):
    """An archive as torch.export.save writes it, without the graph."""
    numbers = {torch.float32: 7, torch.int64: 5, torch.float16: 6}
    config = {
        name: {
            "path_name": f"weight_{i}",
            "is_param": True,
            "use_pickle": False,
            "tensor_meta": {
                "dtype": numbers[value.dtype],
                "sizes": [{"as_int": side} for side in value.shape],
                "strides": [{"as_int": step} for step in value.stride()],
                "storage_offset": {"as_int": 0},
            },
            **changes,
        }
        for i, (name, value) in enumerate(state.items())
    }
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/archive_format", "pt2")
        file.writestr(f"m/{formats.WEIGHTS}model{formats.CONFIG}", json.dumps({"config": config}))
        for i, value in enumerate(state.values()):
            file.writestr(f"m/data/weights/weight_{i}", value.numpy().tobytes())


def onnx_file(path, metadata=None, batch=None, dtype="FLOAT", last=False, extra=False, **options):
    """The mean and the maximum of the image; with `extra`, four features as an earlier output."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    sides = [batch or "n", 16, 16, 1] if last else [batch or "n", 1, 16, 16]
    kind, size = getattr(TensorProto, dtype), batch or "n"
    turned = helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2])
    ones = np.eye(2, dtype=np.float16 if dtype == "FLOAT16" else np.float32)
    graph = helper.make_graph(
        [
            turned if last else helper.make_node("Identity", ["x"], ["first"]),
            helper.make_node("GlobalAveragePool", ["first"], ["mean"]),
            helper.make_node("GlobalMaxPool", ["first"], ["max"]),
            helper.make_node("Concat", ["mean", "max"], ["both"], axis=1),
            helper.make_node("Flatten", ["both"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["y"]),
            helper.make_node("Concat", ["y", "y"], ["features"], axis=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", kind, sides)],
        [
            *([helper.make_tensor_value_info("features", kind, [size, 4])] if extra else []),
            helper.make_tensor_value_info("y", kind, [size, 2]),
        ],
        [numpy_helper.from_array(ones, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path, **options)
