"""Networks that torch.save pickled whole: read as data, compared with their own forward pass."""

from __future__ import annotations

import argparse
import enum

import numpy as np
import pytest
import torch
from torch import nn

from foreign_models import densenet, exported, named, of_library, resnet, settled, traced
from leadapron.errors import StoreError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import open_model

FINDINGS = ("Effusion", "Mass", "Nodule")
SIZE = 64
SIDES = Preprocessing(size=SIZE)
FILMS = np.random.default_rng(3).integers(0, 256, (3, SIZE, SIZE), np.uint8)


def their_logits(network, films=FILMS, channels=1):
    grey = torch.from_numpy(films.astype(np.float32) / 255)[:, None].expand(-1, channels, -1, -1)
    with torch.no_grad():
        return network(grey).numpy()


def opened(path, findings=FINDINGS, normalisation="unit", **settings):
    return open_model(
        path, findings, preprocessing=SIDES, normalisation=normalisation, device="cpu",
        precision="fp32", **settings,
    )  # fmt: skip


def assert_agrees(model, network, channels=1):
    assert isinstance(model.classifier, NetworkClassifier)
    theirs = their_logits(network, channels=channels)
    np.testing.assert_allclose(
        model.classifier.logits(FILMS), theirs, rtol=0, atol=1e-5 * np.abs(theirs).max()
    )


def doubts(model):
    return [note for note in model.notes if note.startswith("DOUBT")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


LIBRARIES = {
    "torchvision": ("torchvision.models.densenet", {}, 3),
    "timm": (
        "timm.models.densenet",
        {"layer": "DenseLayer", "block": "DenseBlock", "transition": "DenseTransition"},
        3,
    ),
    "torchxrayvision": ("torchxrayvision.models", {}, 1),
}


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("library", LIBRARIES)
def test_densenets_of_the_libraries(path, monkeypatch, library, zipped):
    package, names, channels = LIBRARIES[library]
    kinds = of_library(monkeypatch, package, **names)
    network = kinds[0](channels, 3, *kinds[1:]).eval()
    torch.save(network, path, _use_new_zipfile_serialization=zipped)

    model = opened(path)

    assert_agrees(model, network, channels)
    assert library in model.origin
    assert not doubts(model)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("zipped", [True, False])
def test_monai_says_its_stride(path, stride, zipped):
    network = resnet("resnet18", channels=1, stride=stride, bias=True)
    torch.save(network, path, _use_new_zipfile_serialization=zipped)
    model = opened(path)
    assert_agrees(model, network)
    assert model.classifier.architecture == ("resnet18-stride1" if stride == 1 else "resnet18")
    assert not [note for note in model.notes if "stride" in note]


def test_monai_densenet_with_what_it_is_trained_by(path):
    network = densenet()

    class Stage(enum.Enum):
        TRAINING = "training"

    with pytest.MonkeyPatch.context() as patch:
        named(patch, {"vendor.stages.Stage": Stage})
        torch.save(
            {"network": network, "stage": Stage.TRAINING, "labels": list(FINDINGS),
             "arguments": argparse.Namespace(rate=0.1, loss=nn.BCEWithLogitsLoss()),
             "optimizer": torch.optim.Adam(network.parameters()).state_dict()},
            path,
        )  # fmt: skip
    model = opened(path, findings=None)
    assert_agrees(model, network)
    assert model.classifier.findings == FINDINGS


def test_an_unknown_class_is_reported(path, monkeypatch):
    class Vendor(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.densenet121 = inner

        def forward(self, x):
            return -self.densenet121(x)

    named(monkeypatch, {"vendor.nets.Vendor": Vendor})
    torch.save(Vendor(densenet()), path)
    (doubt,) = doubts(opened(path))
    assert doubt == (
        "DOUBT: its tensors fit densenet121; the class is vendor.nets.Vendor, whose code isn't run "
        "and may compute something else."
    )


def test_a_wrapper_that_is_known_is_not_reported(path):
    network = densenet()
    torch.save(nn.DataParallel(network), path)
    model = opened(path)
    assert_agrees(model, network)
    assert not doubts(model)


def silu(network):
    network.features.denseblock1.denselayer1.layers.relu1 = nn.SiLU()


def linear(network):
    network.features.denseblock1.denselayer1.layers.relu2 = nn.Identity()


def strided(network):
    network.features.conv0.stride = (1, 1)


def dilated(network):
    network.features.denseblock2.denselayer3.layers.conv2.dilation = (2, 2)


def sharper(network):
    network.features.norm5.eps = 1e-2


def wider(network):
    network.features.pool0.kernel_size = 5


def hidden(network):
    network.features.conv0.stride = (np.int64(1), np.int64(1))  # torch takes these


def buried(network):
    """A stride behind more attributes than are read."""
    part = network.features.conv0
    del part.stride
    for number in range(200):
        setattr(part, f"more{number}", number)
    part.stride = (1, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (hidden, r"features\.conv0 has stride a value that isn't plain, expected \(2, 2\)"),
        (strided, r"features\.conv0 has stride \(1, 1\), expected \(2, 2\)"),
        (dilated, r"denselayer3\.layers\.conv2 has dilation \(2, 2\)"),
        (sharper, r"features\.norm5 has eps 0\.01"),
        (wider, r"features\.pool0 has kernel_size 5"),
        (silu, r"layers\.relu1 is a SiLU, expected a ReLU"),
        (linear, r"layers\.relu2 is a Identity, expected a ReLU"),
    ],
)
def test_other_settings_are_another_network(path, change, words):
    network = densenet()
    change(network)
    torch.save(network, path)
    with pytest.raises(StoreError, match=f"fit densenet121, but it computes something.*{words}"):
        opened(path)


def test_settings_behind_many_others_are_in_doubt(path):
    network = densenet()
    buried(network)
    torch.save(network, path)
    assert any("torch.nn.modules.conv.Conv2d with" in note for note in doubts(opened(path)))


def test_activations_that_tensors_do_not_show(path):
    network = resnet("resnet18")
    network.layer2[0].act = nn.LeakyReLU()
    torch.save(network, path)
    with pytest.raises(StoreError, match=r"layer2\.0\.act is a LeakyReLU, expected a ReLU"):
        opened(path)


def test_a_sigmoid_at_the_end_makes_the_same_probabilities(path, monkeypatch):
    kinds = of_library(monkeypatch, "torchvision.models.densenet")
    network = kinds[0](1, 3, *kinds[1:]).eval()
    network.classifier = nn.Sequential(network.classifier, nn.Sigmoid())
    torch.save(network, path)
    model = opened(path)
    assert not doubts(model)
    np.testing.assert_allclose(
        model.classifier.probabilities(FILMS), their_logits(network), rtol=1e-5
    )


def test_hooks_are_reported(path):
    network = densenet()
    network.features.register_forward_hook(torch.nn.functional.relu)
    torch.save(network, path)
    assert (
        "Sequential with a forward pass, hooks or many attributes of its own"
        in doubts(opened(path))[0]
    )
    network = densenet()
    network.features.conv0._conv_forward = torch.nn.functional.relu
    torch.save(network, path)
    assert "Conv2d with a forward pass" in doubts(opened(path))[0]
    network = densenet()
    network.forward = torch.nn.functional.relu
    torch.save(network, path)
    assert "DenseNet121 with a forward pass" in doubts(opened(path))[0]


def test_attributes_name_the_findings(path):
    network = densenet()
    network.pathologies = list(FINDINGS)
    network.register_buffer("scratch", torch.zeros(7), persistent=False)
    torch.save(network, path)
    model = opened(path, findings=None)
    assert_agrees(model, network)
    assert model.classifier.findings == FINDINGS


def test_several_networks_in_one_file(path):
    network = densenet()
    torch.save({"student": network, "average": {"net": settled(densenet(), 5)}}, path)
    with pytest.raises(Exception, match=r"holds 2 networks: student .*average"):
        opened(path)
    assert_agrees(opened(path, weights_key="student"), network)


def test_lightning(path, monkeypatch):
    """What LightningModule's checkpoints hold: a state dict beside objects of any class."""

    class Configuration(dict):
        pass

    class Loss(nn.Module):
        pass

    named(monkeypatch, {"omegaconf.dictconfig.DictConfig": Configuration, "vendor.Loss": Loss})
    network = densenet()
    settings = Configuration(rate=0.1, findings=[*FINDINGS])
    torch.save(
        {
            "epoch": 3,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": {f"net.{name}": value for name, value in network.state_dict().items()},
            "hyper_parameters": {"loss": Loss(), "labels": [*FINDINGS], "config": settings},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best": torch.tensor(0.5)}},
        },
        path,
    )
    model = opened(path, findings=None)
    assert_agrees(model, network)
    assert model.classifier.findings == FINDINGS


class Outputs(nn.Module):
    """A network and what a vendor's program does with its outputs."""

    def __init__(self, network, after):
        super().__init__()
        self.net, self.after = network, after

    def forward(self, x):
        return self.after(self.net(x))


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (nn.Identity(), "gives that network's logits"),
        (nn.Sigmoid(), "gives that network's probabilities"),
    ],
)
def test_a_script_is_the_network_that_it_agrees_with(path, after, words):
    network = resnet("resnet18", channels=3)
    traced(Outputs(network, after).eval(), path, 3)
    model = opened(path, architecture="resnet18")
    assert_agrees(model, network, 3)
    assert any(words in note for note in model.notes)
    assert model.content


def test_a_script_that_does_something_else_stays_a_black_box(path):
    network = Outputs(resnet("resnet18", channels=3), nn.Softplus()).eval()
    traced(network, path, 3)
    model = opened(path, architecture="resnet18")
    np.testing.assert_allclose(
        model.classifier.logits(FILMS), their_logits(network, channels=3), rtol=1e-5
    )
    assert not isinstance(model.classifier, NetworkClassifier)
    assert "fit resnet18, but its outputs for 4 random images differ" in doubts(model)[0]


def test_exported_weights_are_read_and_the_graph_is_not(path):
    network = densenet()
    exported(network.state_dict(), path)
    model = opened(path)
    assert_agrees(model, network)
    assert "ExportedProgram, whose code isn't run" in doubts(model)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_pickle": True}, "a tensor that is pickled"),
        ({"path_name": "weight_9"}, "the values of a are missing"),
        ({"path_name": "../../../etc/passwd"}, "the values of a are missing"),
        ({"tensor_meta": {}}, "doesn't say where"),
        ({"tensor_meta": None}, "doesn't say where"),
        ({"tensor_meta": {"dtype": 7, "sizes": [{"as_int": 4}], "strides": [{"as_int": 9}],
                          "storage_offset": {"as_int": 0}}}, "a is larger than its storage"),
        ({"tensor_meta": {"dtype": 7, "sizes": [{"as_int": -4}], "strides": [{"as_int": 1}],
                          "storage_offset": {"as_int": 0}}}, "without a shape"),
        ({"tensor_meta": {"dtype": 99, "sizes": [], "strides": [],
                          "storage_offset": {"as_int": 0}}}, "doesn't say where"),
    ],
)  # fmt: skip
def test_exports_that_lie(path, changes, words):
    exported({"a": torch.zeros(4)}, path, **changes)
    with pytest.raises(StoreError, match=words):
        opened(path)


@pytest.mark.slow
def test_what_torch_export_writes(path):
    network = resnet("resnet18", channels=1, bias=True)
    path = path.with_suffix(".pt2")
    torch.export.save(torch.export.export(network, (torch.zeros(1, 1, SIZE, SIZE),)), path)
    assert_agrees(opened(path, architecture="resnet18"), network)
