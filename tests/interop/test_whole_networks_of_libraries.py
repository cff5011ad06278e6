"""Networks that the libraries themselves made, saved in every form; `make test-xrv` runs it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from foreign_models import settled
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import open_model

xrv = pytest.importorskip("torchxrayvision")
torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")
pytestmark = pytest.mark.xrv

SIZE, OUTPUTS = 64, 18
FINDINGS = tuple(f"finding {i}" for i in range(OUTPUTS))
FILMS = np.random.default_rng(3).integers(0, 256, (3, SIZE, SIZE), np.uint8)


def of_torchvision(name):
    return lambda: (getattr(torchvision.models, name)(num_classes=OUTPUTS), 3)


def of_timm(name, channels):
    return lambda: (timm.create_model(name, num_classes=OUTPUTS, in_chans=channels), channels)


def of_monai(name, stride):
    from monai.networks.nets import resnet

    make = getattr(resnet, name)
    return lambda: (
        make(spatial_dims=2, n_input_channels=1, conv1_t_stride=stride, num_classes=OUTPUTS), 1
    )  # fmt: skip


def monai_densenet():
    from monai.networks.nets.densenet import DenseNet121

    return DenseNet121(2, 1, OUTPUTS), 1


def xrv_densenet():
    return xrv.models.DenseNet(num_classes=OUTPUTS), 1


RESNETS = ("resnet18", "resnet34", "resnet50")
MADE = {
    **{f"torchvision {name}": of_torchvision(name) for name in ("densenet121", *RESNETS)},
    **{f"timm {name}": of_timm(name, 3) for name in ("densenet121", *RESNETS)},
    "timm densenet121 grey": of_timm("densenet121", 1),
    **{f"MONAI {name} {stride}": of_monai(name, stride) for name in RESNETS for stride in (1, 2)},
    "MONAI densenet121": monai_densenet,
    "torchxrayvision densenet121": xrv_densenet,
}


def whole(network, path):
    torch.save(network, path)


def legacy(network, path):
    torch.save(network, path, _use_new_zipfile_serialization=False)


def parallel_in_a_checkpoint(network, path):
    torch.save({"epoch": 3, "model": torch.nn.DataParallel(network), "rate": 0.1}, path)


def of_lightning(network, path):
    state = {f"net.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"backbone": type(network)}}, path)


def script(network, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        channels = next(network.parameters()).shape[1]
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, channels, SIZE, SIZE)), path)


FORMS = (whole, legacy, parallel_in_a_checkpoint, of_lightning, script)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MADE)
def test_logits_are_the_librarys(name, form, tmp_path):
    torch.manual_seed(1)
    network, channels = MADE[name]()
    settled(network)
    path = tmp_path / "model.pt"
    form(network, path)
    stated = form in (whole, legacy, parallel_in_a_checkpoint)
    architecture = name.split(" ")[1] + ("-stride1" if name.endswith(" 1") else "")

    opened = open_model(
        path, FINDINGS, preprocessing=Preprocessing(size=SIZE), normalisation="unit",
        architecture=None if stated else architecture, device="cpu", precision="fp32",
    )  # fmt: skip

    assert isinstance(opened.classifier, NetworkClassifier)
    assert opened.classifier.architecture == architecture
    assert not [note for note in opened.notes if note.startswith("DOUBT")]
    grey = torch.from_numpy(FILMS.astype(np.float32) / 255)[:, None]
    with torch.inference_mode():
        expected = network(grey.expand(-1, channels, -1, -1)).numpy()
    np.testing.assert_allclose(
        opened.classifier.logits(FILMS), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )
