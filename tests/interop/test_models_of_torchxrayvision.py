"""Networks made by torchxrayvision itself, opened from their state dicts; `make test-xrv`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foreign_models import settled
from leadapron.errors import StoreError
from leadapron.models.foreign import open_model
from leadapron.sources import open_source

xrv = pytest.importorskip("torchxrayvision")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.xrv

PUBLISHED = {name: facts for name, facts in xrv.models.model_urls.items() if "res" in name}
"""The library's own facts of its published weights, by name."""


@pytest.fixture(scope="module")
def films():
    return {size: open_source(f"phantom:{size}", count=4).images[:] for size in (224, 512)}


def theirs(name, folder):
    """The library's network, as it is with published weights; the weights are drawn by chance."""
    torch.manual_seed(1)
    file = folder / PUBLISHED[name]["weights_url"].rpartition("/")[2]
    if name.startswith("resnet"):
        made = torchvision.models.resnet50(num_classes=18)
        made.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        torch.save(made.state_dict(), file)
    else:
        torch.save(xrv.models.DenseNet(weights=None), file)
    return settled(xrv.models.get_model(name, cache_dir=str(folder)))


def centred(network, images):
    """Scale the last layer so that probabilities lie on both sides of the operating points."""
    last = network.model.fc if isinstance(network, xrv.models.ResNet) else network.classifier
    points, network.op_threshs = network.op_threshs, None
    with torch.no_grad():
        given = network(images)
        last.weight.div_(given.std(0)[:, None])
        middle = (given - last.bias).mean(0) / given.std(0)
        last.bias.copy_(torch.logit(points.nan_to_num(0.5)) - middle)
        logits = network(images)
    network.op_threshs = points
    return logits.numpy()


@pytest.mark.parametrize("name", PUBLISHED)
def test_probabilities_are_the_librarys(name, films, tmp_path):
    network, size = theirs(name, tmp_path), PUBLISHED[name]["input_resolution"]
    images = torch.from_numpy(xrv.utils.normalize(films[size], 255)[:, None])
    logits = centred(network, images)
    with torch.inference_mode():
        expected = network(images).numpy()
    torch.save(network.state_dict(), tmp_path / "model.pt")

    model = open_model(tmp_path / "model.pt", device="cpu", precision="fp32").classifier

    assert model.preprocessing.size == size
    # The library leaves outputs that weren't trained unnamed.
    known = [said or own for said, own in zip(network.targets, model.findings, strict=True)]
    assert list(model.findings) == known
    trained = ~np.isnan(model.operating_points)
    assert (expected[:, trained].min(0) < 0.5).all()
    assert (expected[:, trained].max(0) > 0.5).all()
    np.testing.assert_allclose(model.probabilities(films[size]), expected, atol=1e-5)
    np.testing.assert_allclose(model.logits(films[size]), logits, atol=1e-4)


# --- its baselines


@pytest.mark.filterwarnings("ignore")  # the library's own, of torchvision's old arguments
@pytest.mark.parametrize("uncertain", [False, True])
def test_a_network_of_chexperts_ensemble(uncertain, tmp_path):
    from torchxrayvision.baseline_models.chexpert.model import DenseNet121

    tasks = {"Cardiomegaly": 1, "Pleural Effusion": 0}
    torch.manual_seed(1)
    network = settled(DenseNet121(tasks, uncertain, use_gpu=False))
    state = torch.nn.DataParallel(network).state_dict()
    file = {"ckpt_info": {}, "task_sequence": tasks, "model_state": state}
    torch.save(file, tmp_path / "iter_336000.pth.tar")
    images = open_source("phantom:320", count=2).images[:]
    # As the library's DenseNet shows them to each network of the ensemble.
    x = torch.from_numpy(xrv.utils.normalize(images, 255)[:, None]).repeat(1, 3, 1, 1) / 512
    with torch.inference_mode():
        given = [network.infer(one[None], tuple(tasks)) for one in x]
    opened = open_model(tmp_path / "iter_336000.pth.tar", device="cpu", precision="fp32")
    model = opened.classifier
    assert model.findings == ("Pleural Effusion", "Cardiomegaly")
    assert model.preprocessing.size == 320
    expected = [[float(one[finding]) for finding in model.findings] for one in given]
    np.testing.assert_allclose(model.probabilities(images), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_jfhealthcares_network_is_refused(tmp_path):
    """It has attention, two poolings and a normalisation for each finding behind a DenseNet-121."""
    from torchxrayvision.baseline_models import jfhealthcare

    facts = json.loads((Path(jfhealthcare.__file__).parent / "config/example.json").read_text())
    network = jfhealthcare.classifier.Classifier(SimpleNamespace(**{**facts, "pretrained": False}))
    torch.save(network.state_dict(), tmp_path / "jfhealthcare.pth")
    with pytest.raises(StoreError, match=r"tensors that belong to no known network, first attenti"):
        open_model(tmp_path / "jfhealthcare.pth")
