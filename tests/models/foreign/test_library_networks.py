"""Networks that another library builds, with the library replaced by a small one of its interface.

`make test-timm` runs the true libraries.
"""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.explainers import EXPLAINERS
from leadapron.models.classifier import load_classifier, save_classifier
from leadapron.models.foreign import SeveralError, open_model
from leadapron.models.foreign.returning import read_back, write_as_given
from leadapron.models.libraries import stored
from leadapron.models.networks import shapes, unmade

FINDINGS = ("Effusion", "Mass", "Nodule")
FILMS = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)


class Small(nn.Module):
    """Convolutions, average pooling and a linear layer, or patches with places of one side."""

    def __init__(self, num_classes, in_chans, img_size=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(6, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.places = img_size and nn.Parameter(torch.randn(1, 12, img_size // 4, img_size // 4))
        self.head = nn.Linear(12, num_classes)

    def forward(self, images):
        deep = self.deep(self.stem(images))
        if self.places is not None:
            assert deep.shape[2:] == self.places.shape[2:], "wrong side"
            deep = deep + self.places
        return self.head(deep.mean((2, 3)))


def pooled(num_classes, in_chans):
    return Small(num_classes, in_chans)


def placed(num_classes, in_chans, img_size=32):
    return Small(num_classes, in_chans, img_size)


def broken(num_classes, in_chans):
    raise KeyError("a part")


MADE = {"pooled": pooled, "placed": placed, "broken": broken}


@pytest.fixture(autouse=True)
def timm(monkeypatch):
    """A library of timm's interface."""
    module = ModuleType("timm")
    module.is_model = MADE.__contains__
    module.list_models = lambda: list(MADE)
    module.get_pretrained_cfg = lambda name, allow_unregistered: SimpleNamespace(
        input_size=(3, 32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
    )
    module.create_model = lambda name, pretrained, **settings: MADE[name](**settings)
    monkeypatch.setitem(sys.modules, "timm", module)
    yield
    unmade.cache_clear()
    stored.cache_clear()


def network(name="pooled", channels=3, **settings):
    torch.manual_seed(2)
    made = MADE[name](3, channels, **settings).eval()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return made


def saved(made, path, wrap=lambda state: state):
    torch.save(wrap(made.state_dict()), path)
    return path


def opened(path, name="timm:pooled", **settings):
    return open_model(path, FINDINGS, architecture=name, device="cpu", precision="fp32", **settings)


def theirs(made, mean, std):
    """The library's own logits of the films, each colour normalised."""
    grey = torch.from_numpy(FILMS / np.float32(255))[:, None]
    scaled = (grey - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.inference_mode():
        return made(scaled).numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"model": {f"net.{n}": v for n, v in s.items()}}]
)
def test_logits_are_the_librarys_behind_any_prefix(tmp_path, channels, wrap):
    made = network(channels=channels)
    found = opened(saved(made, tmp_path / "a.pt", wrap))
    model = found.classifier
    assert model.architecture == f"timm:pooled:{channels}x32"
    mean, std = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)) if channels == 3 else ((0.4,), (0.3,))
    np.testing.assert_allclose(model.logits(FILMS), theirs(made, mean, std), rtol=1e-5, atol=1e-6)
    assert model.preprocessing.size == 32
    assert any(note.startswith("ASSUMED: the normalisation 0.") for note in found.notes)
    assert any(
        note == f"timm:pooled:{channels}x32 has exact class activation maps, since its linear last "
        "layer reads the mean of deep."
        for note in found.notes
    )


def test_stated_normalisation_channels_and_size(tmp_path):
    made = network("placed", img_size=64)
    path = saved(made, tmp_path / "a.pt")
    model = opened(path, "timm:placed", size=64, normalisation="unit", channels=3).classifier
    assert model.architecture == "timm:placed:3x64"
    assert model.preprocessing.size == 64
    with pytest.raises(UsageError, match=r"timm:placed:3x64 takes no images of 32 pixels \(wrong"):
        model.logits(FILMS)
    with pytest.raises(
        StoreError, match=r"don't fit timm:placed:3x32: places has shape \(1, 12, 16"
    ):
        opened(path, "timm:placed")
    with pytest.raises(StoreError, match=r"don't fit timm:pooled:1x32: stem.0.weight has shape"):
        opened(saved(network(), tmp_path / "b.pt"), channels=1)
    with pytest.raises(UsageError, match="needs one mean and one std"):
        opened(saved(network(channels=1), tmp_path / "c.pt"), normalisation="imagenet")


def test_maps_gradients_and_files_of_its_own(tmp_path):
    found = opened(saved(network(), tmp_path / "a.pt"), normalisation="imagenet")
    model = found.classifier
    maps = EXPLAINERS["class-activation"](model, FILMS, FINDINGS, enlarge=False)
    bias = model.module.pooled_head.bias.detach().numpy()
    np.testing.assert_allclose(maps.mean((2, 3)) + bias, model.logits(FILMS), rtol=1e-4, atol=1e-5)
    assert EXPLAINERS["layer-cam"](model, FILMS, FINDINGS).std() > 0

    save_classifier(model, tmp_path / "own.safetensors")
    again = load_classifier(tmp_path / "own.safetensors", device="cpu", precision="fp32")
    assert again.architecture == model.architecture
    np.testing.assert_array_equal(again.logits(FILMS), model.logits(FILMS))
    with torch.no_grad():
        model.module.network.body.head.weight.mul_(2)
    written = write_as_given(
        found.given, found.content, tmp_path / "a.pt", model.module, tmp_path / "b"
    )
    assert torch.load(written).keys() == network().state_dict().keys()
    back = read_back(found.given, written, FINDINGS)
    x = model.normalise(torch.from_numpy(FILMS))
    torch.testing.assert_close(back(x), model.module(x))


def test_whole_networks_are_compared_with_the_librarys(tmp_path):
    made = network()
    torch.save(made, tmp_path / "a.pt")
    np.testing.assert_allclose(
        opened(tmp_path / "a.pt", normalisation="unit").classifier.logits(FILMS),
        theirs(made, (0.0,) * 3, (1.0,) * 3), rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    made.stem[0].stride = (1, 1)
    made.deep[2] = nn.GELU()
    torch.save(made, tmp_path / "b.pt")
    words = (
        "fit timm:pooled:3x32, but it computes something else: stem.0 has stride .*; deep.2 is a "
        "torch.nn.modules.activation.GELU, exp"
    )
    with pytest.raises(StoreError, match=words):
        opened(tmp_path / "b.pt")


def test_one_of_several_networks(tmp_path):
    plain, other = network(), network()
    with torch.no_grad():
        other.head.bias.add_(1)
    path = tmp_path / "two.pt"
    torch.save({"model": plain.state_dict(), "ema": other.state_dict()}, path)
    with pytest.raises(SeveralError, match="holds 2 networks: model, ema; choose one with"):
        opened(path)
    logits = [opened(path, weights_key=key).classifier.logits(FILMS) for key in ("model", "ema")]
    np.testing.assert_allclose(logits[1] - logits[0], 1, rtol=1e-4)
    with pytest.raises(UnknownNameError, match="weights key 'emma'; did you mean ema"):
        opened(path, weights_key="emma")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s | {"extra.weight": torch.ones(2)}, "extra.weight isn't one of its weights"),
        (lambda s: {n: v for n, v in s.items() if n != "deep.1.bias"}, "deep.1.bias is missing"),
        (lambda s: s | {"stem.1.bias": torch.full((6,), torch.nan)}, "aren't finite"),
        (lambda s: {"weight": torch.ones(3)}, "aren't those of timm:pooled:3x32"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, words):
    with pytest.raises(StoreError, match=words):
        opened(saved(network(), tmp_path / "a.pt", change))


def test_names_that_are_wrong(tmp_path, monkeypatch):
    path = saved(network(), tmp_path / "a.pt")
    with pytest.raises(UnknownNameError, match="network of timm 'poled'; did you mean pooled"):
        opened(path, "timm:poled")
    with pytest.raises(UnknownNameError, match="network of timm 'hf-hub:a/b'"):
        opened(path, "timm:hf-hub:a/b")
    with pytest.raises(UsageError, match=r"timm:broken can't be built \(KeyError: 'a part'\)"):
        opened(path, "timm:broken")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r'need timm: pip install "leadapron\[timm\]"'):
        opened(path)
    with pytest.raises(UnknownNameError, match="network of transformers 'bert'"):
        opened(path, "transformers:bert")
    with pytest.raises(
        UsageError, match="transformers:vit: expected its settings as a JSON object"
    ):
        opened(path, "transformers:vit [1]")


def test_a_network_too_large_is_not_built(tmp_path, monkeypatch):
    monkeypatch.setattr("leadapron.models.libraries.MOST_WEIGHTS", 100)
    with pytest.raises(
        UsageError, match=r"timm:pooled:3x32 has [\d,]+ weights; expected at most 100"
    ):
        shapes("timm:pooled:3x32", 3)


# --- folders of Hugging Face


def folder(tmp_path, made=None, **facts):
    (tmp_path / "config.json").write_text(json.dumps(facts))
    torch.save((made or network()).state_dict(), tmp_path / "pytorch_model.bin")
    return tmp_path


def test_a_folder_of_timms_opens_without_options(tmp_path):
    trained = {"input_size": [3, 32, 32], "mean": [0.0] * 3, "std": [1.0] * 3}
    made = network()
    path = folder(
        tmp_path, made, architecture="pooled", pretrained_cfg=trained, label_names=FINDINGS
    )
    model = open_model(path, device="cpu", precision="fp32").classifier
    assert model.architecture == "timm:pooled:3x32"
    assert model.findings == FINDINGS
    np.testing.assert_allclose(
        model.logits(FILMS), theirs(made, (0.0,) * 3, (1.0,) * 3), rtol=1e-5, atol=1e-6
    )


def test_code_of_a_folder_is_not_run(tmp_path):
    path = folder(tmp_path, model_type="vit", auto_map={"AutoModel": "evil.Net"})
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    words = "^pytorch_model.bin needs code of its own .evil.Net, by auto_map in config.json."
    with pytest.raises(UsageError, match=words):
        open_model(path, FINDINGS)
