"""What the manual's table offers of each kind of file is what such files open to."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from foreign_models import (
    as_torchxrayvision,
    densenet,
    exported,
    of_library,
    onnx_file,
    resnet,
    traced,
)
from leadapron.errors import UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.architectures import OF_TRANSFORMERS
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.foreign import open_model
from leadapron.models.networks import build_network
from leadapron.models.protocols import lacking
from leadapron.repairs.plan import refuse_model

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "models.md"
FINDINGS = ("Effusion", "Mass", "Nodule")
SIZE = 64
FILMS = np.random.default_rng(3).integers(0, 256, (2, SIZE, SIZE), np.uint8)
COLUMNS = ("answers", "gradients, features", "exact maps", "attention rollout", "repair")


def table():
    """The table's rows: their cells by the first one, without the marks of code."""
    lines = PAGE.read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| file | library |"))
    assert lines[head].strip("| ").split(" | ")[3:] == list(COLUMNS)
    rows = {}
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip().replace("`", "") for cell in line.strip().split("|")[1:-1]]
        rows[cells[0]] = tuple(cells[3:])
    return rows


STATED = {"findings": FINDINGS, "size": SIZE}


def saved(state, place):
    torch.save(state, place / "model.pt")
    return place / "model.pt", STATED


def own(place, _):
    network = build_network("resnet9", 3, 0).eval()
    classifier = NetworkClassifier(network, "resnet9", FINDINGS, Preprocessing(size=SIZE))
    save_classifier(classifier, place / "own.safetensors")
    return place / "own.safetensors", {}


def densenet_of(names):
    return lambda place, _: saved(names(densenet().state_dict()), place)


def resnet_of(name):
    return lambda place, _: saved(resnet(name).state_dict(), place)


def lite(place, _):
    state = build_network("efficientnet_lite0", 3, 1).state_dict()
    theirs = OrderedDict()
    for key, value in state.items():
        if key.startswith("head."):
            theirs[key.replace("head.", "_fc.")] = value
        else:
            name = re.sub(r"^stages\.scale\d+\.(?:block(\d+)\.)?",
                          lambda m: f"_blocks.{m[1]}._" if m[1] else "_", key)  # fmt: skip
            theirs[name] = value
    return saved(theirs, place)


def whole(place, monkeypatch):
    network, *_ = of_library(monkeypatch, "torchvision.models.densenet")
    return saved(network().eval(), place)


def lightning(place, _):
    state = {f"net.{name}": value for name, value in resnet().state_dict().items()}
    return saved({"pytorch-lightning_version": "2.4.0", "state_dict": state}, place)


def pt2(place, _):
    exported(resnet("resnet18", 1).state_dict(), place / "model.pt2")
    return place / "model.pt2", STATED


def script(after):
    def make(place, _):
        traced(nn.Sequential(OrderedDict(net=resnet("resnet18"), after=after)).eval(),
               place / "model.pt", 3)  # fmt: skip
        return place / "model.pt", {**STATED, "architecture": "resnet18"}

    return make


def onnx(place, _):
    onnx_file(place / "model.onnx", {"findings": '["Effusion", "Mass"]'})
    return place / "model.onnx", {}


def of_timm(name, **settings):
    def make(place, _):
        network = pytest.importorskip("timm").create_model(name, num_classes=3, **settings)
        path, stated = saved(network.state_dict(), place)
        return path, {**stated, "architecture": f"timm:{name}"}

    return make


def of_transformers(kind, **small):
    def make(place, _):
        library = pytest.importorskip("transformers")
        config = library.CONFIG_MAPPING[kind](
            image_size=SIZE, id2label=dict(enumerate(FINDINGS)), **small
        )
        library.AutoModelForImageClassification.from_config(config).save_pretrained(place)
        return place, {"size": SIZE}

    return make


def keras_mobilenet(place, _):
    library = pytest.importorskip("keras")
    made = library.applications.MobileNet(
        weights=None, input_shape=(SIZE, SIZE, 3), classes=3, classifier_activation="sigmoid"
    )
    made.save(place / "model.keras")
    return place / "model.keras", STATED


def keras(place, _):
    library = pytest.importorskip("keras")
    inputs = library.Input((SIZE, SIZE, 1))
    inner = library.layers.GlobalAveragePooling2D()(library.layers.Conv2D(4, 3)(inputs))
    library.Model(inputs, library.layers.Dense(3)(inner)).save(place / "model.keras")
    return place / "model.keras", STATED


FUNCTIONS = """
from torch import nn

from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import Instrumented, build_network

def module():
    return build_network("resnet9", 3, 0)

def classifier():
    network = build_network("resnet9", 3, 0).eval()
    return NetworkClassifier(network, "resnet9", ("A", "B", "C"), Preprocessing(size=64))

class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.head = nn.Conv2d(1, 16, 16, 16), nn.Linear(16, 3)
        self.block = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens).mean(1))

def attending():
    network = Instrumented(Transformer().eval(), layer="block", attends=True)
    return NetworkClassifier(network, "mine", ("A", "B", "C"), Preprocessing(size=64))
"""


def function(name, **stated):
    def make(place, monkeypatch):
        (place / "offered_functions.py").write_text(FUNCTIONS)
        monkeypatch.syspath_prepend(place)
        return f"offered_functions:{name}", stated

    return make


NETWORKS = ".safetensors, or torch.save's"
MADE = {
    ".safetensors": [own],
    f"state dict of DenseNet-121: {NETWORKS}": [
        densenet_of(dict), densenet_of(as_torchxrayvision),
    ],
    "state dict of ResNet-18, 34, 50": [resnet_of(f"resnet{n}") for n in (18, 34, 50)],
    "state dict of EfficientNet-Lite0": [lite],
    "one of these networks whole, as torch.save(model) writes it; Lightning's checkpoints": [
        whole, lightning,
    ],
    "one of these networks' weights in torch.export's .pt2": [pt2],
    "TorchScript": [script(nn.Identity()), script(nn.Softplus())],
    "state dict of any network that timm registers, with --model.architecture timm:NAME "
    '(pip install "leadapron[timm]")': [
        of_timm("resnet10t"), of_timm("convnext_atto"),
        of_timm("vit_tiny_patch16_224", img_size=SIZE),
    ],
    f"folder with config.json and model.safetensors, of {len(OF_TRANSFORMERS)} types of network "
    '(pip install "leadapron[transformers]")': [
        of_transformers("resnet", hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1],
                        embedding_size=16, layer_type="basic"),
        of_transformers("vit", hidden_size=48, num_hidden_layers=2, num_attention_heads=3,
                        intermediate_size=96),
    ],
    '.onnx, and its files of weights (pip install "leadapron[onnx]")': [onnx],
    '.keras, .h5 (pip install "leadapron[keras]")': [keras, keras_mobilenet],
    "module:function": [
        function("module", **STATED, channels=1), function("classifier"), function("attending"),
    ],
}  # fmt: skip
"""Files of each row. Where a cell states a condition, one meets it and one doesn't."""


MARKS = {"timm": pytest.mark.timm, "transformers": pytest.mark.timm, "keras": pytest.mark.keras}
"""Of rows whose library has an environment of its own."""


def marks(row):
    return next((mark for name, mark in MARKS.items() if f"leadapron[{name}]" in row), ())


def offered(model):
    """The cells of an open model."""
    films = FILMS[:, : model.classifier.preprocessing.size, : model.classifier.preprocessing.size]
    logits = model.classifier.logits(films)
    try:
        refuse_model(model, "it")
        repair = True
    except UsageError:
        repair = False
    needs = ("gradients", "features")
    return (
        logits.shape == (2, len(model.classifier.findings)) and bool(np.isfinite(logits).all()),
        not any(lacking(model.classifier, need) for need in needs),
        not lacking(model.classifier, "pooled linear head"),
        not lacking(model.classifier, "attention"),
        repair,
    )


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras's own, of NumPy
@pytest.mark.parametrize("row", [pytest.param(row, marks=marks(row)) for row in MADE])
def test_a_row_says_what_its_files_offer(row, tmp_path, monkeypatch):
    cells = table()[row]
    found = set()
    for number, make in enumerate(MADE[row]):
        place = tmp_path / str(number)
        place.mkdir()
        path, stated = make(place, monkeypatch)
        model = open_model(
            path, **stated, device="cpu", precision="fp32", card=False, trust_programs=True
        )
        found.add(offered(model))
    for column, cell, values in zip(COLUMNS, cells, zip(*found, strict=True), strict=True):
        said = {"yes": {True}, "PooledLinear": {True}, "": {False}}.get(cell, {True, False})
        assert set(values) == said, column


def test_every_row_of_the_table_is_tested():
    assert list(table()) == list(MADE)
    assert all(len(cells) == len(COLUMNS) for cells in table().values())
