"""Networks: seeds, shapes, stages, ImageNet weights."""

from __future__ import annotations

import re
import urllib.error

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from leadapron.errors import LeadapronError, StoreError, UnknownNameError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models import networks
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.networks import ARCHITECTURES, GREY_STD, IMAGENET_STD, build_network
from leadapron.models.starts import load_start
from leadapron.store import sha256_of

SMALL = Preprocessing(size=64)
MEANS = torch.tensor([0.485, 0.456, 0.406])
OLD, NEW = r"\1.\2", r"\1\2"


def settled(network, seed=1):
    """The network in evaluation mode, its batch normalisation's statistics away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def donor():
    return settled(build_network("densenet121", 3, seed=5))


@pytest.fixture(scope="module")
def colours():
    return torch.randn(64, 3, 7, 7, generator=torch.Generator().manual_seed(2))


def torchvision_state(network, colours, names=NEW):
    """The network's weights as torchvision names them, with a first layer for three colours."""
    state = {}
    for name, value in network.state_dict().items():
        if name.startswith("head."):
            continue
        name = name.split(".", 2)[2].replace(".layers.", ".")
        # Only within the dense layers did older files split the names.
        name = re.sub(r"(?<=\.)(norm|conv)(\d)(?=\.)", names, name)
        state[f"features.{name}"] = value.clone()
    state["features.conv0.weight"] = colours.clone()
    state["classifier.weight"] = torch.zeros(1000, 1024)
    state["classifier.bias"] = torch.zeros(1000)
    return state


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_network_is_its_seed(name):
    before = torch.random.get_rng_state()
    first, again, other = (build_network(name, 3, seed) for seed in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    moved = build_network(name, 3, 4)
    torch.random.set_rng_state(before)
    one, rest = first.state_dict(), [again.state_dict(), moved.state_dict()]
    for state in rest:
        assert all(torch.equal(one[key], state[key]) for key in one)
    assert not torch.equal(one["head.weight"], other.state_dict()["head.weight"])


def test_unknown_networks_are_named():
    with pytest.raises(UnknownNameError, match="did you mean resnet9"):
        build_network("resnet", 3, 0)


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("resnet9", {"scale2": 32, "scale4": 16, "scale8": 8}),
        ("densenet121", {"denseblock1": 16, "denseblock2": 8, "denseblock3": 4, "denseblock4": 2}),
    ],
)
def test_stages_and_their_maps(name, maps):
    network = build_network(name, 5, 0).eval()
    x, sides = torch.zeros(2, 1, 64, 64), {}
    with torch.inference_mode():
        for stage, part in network.stages.items():
            x = part(x)
            sides[stage] = x.shape[-1]
        assert sides == maps
        assert x.min() >= 0  # a ReLU ends it
        last = network.features(torch.zeros(2, 1, 64, 64))
        assert torch.equal(last, x)
        logits = network(torch.zeros(2, 1, 64, 64))
    assert logits.shape == (2, 5)
    assert x.shape[1] == network.head.in_features


def test_logits_are_linear_in_the_last_maps_mean_and_float32():
    network = build_network("resnet9", 4, 0).eval()
    maps = torch.rand(3, 128, 4, 4)
    expected = maps.mean((2, 3)) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network.classify(maps), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.zeros(1, 1, 32, 32)).dtype == torch.float32


def test_densenet121_is_monais(donor):
    from monai.networks.nets.densenet import DenseNet121

    theirs = DenseNet121(2, in_channels=1, out_channels=3)
    state = {}
    for name, value in donor.state_dict().items():
        if name.startswith("stages."):
            state["features." + name.split(".", 2)[2]] = value
        else:
            state[name.replace("head.", "class_layers.out.")] = value
    theirs.load_state_dict(state)
    images = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, logits = theirs.eval()(images), donor(images)
    assert expected.std() > 1e-3
    assert (logits - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("names", "suffix"), [(NEW, ".safetensors"), (OLD, ".pth")])
def test_imagenet_weights(donor, colours, tmp_path, names, suffix):
    state = torchvision_state(donor, colours, names)
    assert ("features.denseblock1.denselayer1.norm.1.weight" in state) == (names == OLD)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    network = build_network("densenet121", 3, seed=8)
    head = network.head.weight.clone()
    notes = load_start(network, "densenet121", str(path))
    assert notes[0] == f"The last layer starts untrained; all others start from {path.name}."
    assert "summed over red, green and blue" in notes[1]
    theirs = donor.state_dict()
    for name, value in network.state_dict().items():
        # The first convolution, and the mean that absorbs the constant which its sum drops.
        if name.endswith(("conv0.weight", "norm0.running_mean")) or name.startswith("head."):
            continue
        assert torch.equal(value, theirs[name]), name
    assert torch.equal(network.head.weight, head)


def test_grey_weights_see_what_the_colours_saw(donor, colours, tmp_path):
    from leadapron.models.networks import GREY_MEAN, GREY_STD

    path = tmp_path / "weights.pth"
    torch.save(torchvision_state(donor, colours), path)
    network = build_network("densenet121", 3, seed=8)
    load_start(network, "densenet121", str(path))
    own = network.stages["denseblock1"].conv0.weight.detach().double()
    std = torch.tensor(IMAGENET_STD).double()[:, None, None]
    mean = MEANS.double()[:, None, None]
    convolve = torch.nn.functional.conv2d

    def both(grey):  # grey levels in 0 to 1, normalised in each package's way; no padding
        theirs = convolve((grey.expand(1, 3, -1, -1) - mean) / std, colours.double())
        return theirs, convolve((grey - GREY_MEAN) / GREY_STD, own)

    # On an image of one grey, v: sum of w_c (v - mean_c) / std_c, and their difference is the
    # same constant of a channel whatever the image shows.
    weights = colours.double().sum((2, 3))  # (64, 3)
    for level in (0.0, 0.3, 1.0):
        grey = torch.full((1, 1, 9, 9), level, dtype=torch.float64)
        theirs, ours = both(grey)
        by_hand = (weights * ((level - mean) / std).ravel()).sum(1)
        torch.testing.assert_close(theirs[0, :, 1, 1], by_hand)
        factor = (weights / std.ravel()).sum(1)
        torch.testing.assert_close(
            ours[0, :, 1, 1], factor * (level - GREY_MEAN), rtol=1e-5, atol=1e-5
        )
    theirs, ours = both(torch.rand(1, 1, 16, 16, dtype=torch.float64))
    lost = (theirs - ours)[0].flatten(1)
    constant = (weights * (GREY_MEAN - mean.ravel()) / std.ravel()).sum(1)
    np.testing.assert_allclose(lost, constant[:, None].expand_as(lost), atol=1e-4)
    stage = network.stages["denseblock1"]
    before = donor.stages["denseblock1"].norm0.running_mean.double()
    np.testing.assert_allclose(stage.norm0.running_mean.double(), before - constant, atol=1e-4)


def test_grey_weights_stay_as_they_are(donor, tmp_path):
    grey = donor.stages["denseblock1"].conv0.weight.detach()
    path = tmp_path / "weights.safetensors"
    save_file(torchvision_state(donor, grey), path)
    network = build_network("densenet121", 3, seed=8)
    load_start(network, "densenet121", str(path))
    assert torch.equal(network.stages["denseblock1"].conv0.weight, grey)


def test_other_weights_are_refused_and_the_network_stays(donor, colours, tmp_path):
    whole = torchvision_state(donor, colours)
    short = {name: value for name, value in whole.items() if name != "features.norm5.bias"}
    conv0 = "features.conv0.weight"
    refused = [
        (short, r"don't fit densenet121: norm5.bias is missing \(1 misfits"),
        ({}, "holds no tensors"),
        ({3: torch.zeros(3)}, "holds no tensors"),
        ({"features.norm5.bias": torch.zeros(3)}, "belong to no DenseNet-121"),
        ({"features.norm5.bias": "text", "a": torch.zeros(3)}, "belong to no DenseNet-121"),
        ({**whole, conv0: torch.zeros(64, 4, 7, 7)}, "takes 4 channels, expected 1 or 3"),
        ({**whole, conv0: torch.zeros(())}, r"conv0.weight has shape \(\), expected"),
        ({**whole, "features.extra.weight": torch.zeros(3)}, "extra.weight isn't one of its"),
        ({**whole, "features.norm5.bias": torch.full((1024,), torch.nan)}, "aren't finite"),
        (
            {"a": {"state_dict": whole}, "b": dict(whole)},
            "holds 2 networks: .*; save one of them alone",
        ),
    ]
    path = tmp_path / "weights.pth"
    network = build_network("densenet121", 3, seed=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for state, reason in refused:
        torch.save(state, path)
        with pytest.raises(LeadapronError, match=reason):
            load_start(network, "densenet121", str(path))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Payload:
    def __reduce__(self):
        return print, ("run",)


def test_files_that_are_no_weights_are_refused(tmp_path, capsys):
    network = build_network("densenet121", 3, seed=8)
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(Payload(), tmp_path / "code.pth")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(StoreError, match=f"can't start from {path.name}"):
            load_start(network, "densenet121", str(path))
    assert "run" not in capsys.readouterr().out
    with pytest.raises(UsageError, match="no such file"):
        load_start(network, "densenet121", str(tmp_path / "missing.pth"))


def test_another_networks_weights_are_refused(donor, colours, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(torchvision_state(donor, colours), path)
    with pytest.raises(StoreError, match=r"weights in weights.safetensors don't fit resnet9"):
        load_start(build_network("resnet9", 3, 0), "resnet9", str(path))


def same_trunk(one, other, but=()):
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return all(
        torch.equal(value, same)
        for (name, value), same in pairs
        if not name.startswith("head.") and not name.endswith(but)
    )


@pytest.mark.parametrize("name", ["resnet9", "efficientnet_lite0"])
def test_a_start_from_this_packages_own_file(name, tmp_path):
    trained = build_network(name, 5, 1)
    donor = NetworkClassifier(trained.eval(), name, ("A", "B", "C", "D", "E"), SMALL)
    save_classifier(donor, tmp_path / "own.safetensors")
    network = build_network(name, 2, 0)
    notes = load_start(network, name, str(tmp_path / "own.safetensors"))
    assert notes == ("The last layer starts untrained; all others start from own.safetensors.",)
    assert same_trunk(network, trained)
    other = build_network("plain4", 2, 0)
    with pytest.raises(StoreError, match=f"it holds a {name}; expected a plain4"):
        load_start(other, "plain4", str(tmp_path / "own.safetensors"))
    next(trained.parameters()).data[:] = torch.nan
    save_classifier(donor, tmp_path / "own.safetensors")
    with pytest.raises(StoreError, match="aren't finite"):
        load_start(network, name, str(tmp_path / "own.safetensors"))


def test_a_start_of_another_normalisation_sees_the_same(donor, tmp_path):
    """Inside the padding, a film's first maps are those of the donor in its own normalisation."""
    theirs = NetworkClassifier(donor, "densenet121", ("A", "B", "C"), SMALL, mean=0.5, std=1 / 2048)
    save_classifier(theirs, tmp_path / "own.safetensors")
    network = build_network("densenet121", 3, 0)
    load_start(network, "densenet121", str(tmp_path / "own.safetensors"))
    ours = NetworkClassifier(network.eval(), "densenet121", ("A", "B", "C"), SMALL)
    films = np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8)
    maps = []
    for each in (theirs, ours):
        stage = each.module.stages["denseblock1"]
        with torch.inference_mode():
            whole = stage.norm0(stage.conv0(each.normalise(torch.from_numpy(films))))
        maps.append(whole[..., 2:-2, 2:-2].numpy())
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-4 * np.abs(maps[0]).max())


def test_efficientnet_lite0_has_the_names_of_its_published_weights(tmp_path):
    """The names and shapes of efficientnet-lite0-57934424.pth, of lukemelas' package."""
    network = build_network("efficientnet_lite0", 1000, 1)
    blocks = {
        key: value for key, value in network.state_dict().items() if not key.startswith("head.")
    }
    state = {"_fc.weight": network.head.weight, "_fc.bias": network.head.bias}
    for key, value in blocks.items():
        name = re.sub(r"^stages\.scale\d+\.(?:block(\d+)\.)?", lambda m: (
            f"_blocks.{m[1]}._" if m[1] else "_"), key)  # fmt: skip
        state[name] = value
    assert len(state) == 296
    assert {
        "_conv_stem.weight", "_bn0.running_var", "_blocks.0._depthwise_conv.weight",
        "_blocks.1._expand_conv.weight", "_blocks.15._bn2.num_batches_tracked",
        "_conv_head.weight", "_bn1.weight",
    } <= set(state)  # fmt: skip
    assert state["_blocks.0._project_conv.weight"].shape == (16, 32, 1, 1)
    assert state["_blocks.1._depthwise_conv.weight"].shape == (96, 1, 3, 3)
    assert state["_conv_head.weight"].shape == (1280, 320, 1, 1)
    grey = state["_conv_stem.weight"]
    state["_conv_stem.weight"] = torch.cat([grey, torch.zeros(32, 2, 3, 3)], 1)
    torch.save(state, tmp_path / "lite0.pth")
    start = build_network("efficientnet_lite0", 3, 0)
    notes = load_start(start, "efficientnet_lite0", str(tmp_path / "lite0.pth"))
    assert "summed over red, green and blue" in notes[1]
    assert same_trunk(start, network, but=("conv_stem.weight", "scale2.bn0.running_mean"))
    red = torch.tensor(IMAGENET_STD[0] / GREY_STD)
    torch.testing.assert_close(start.stages["scale2"].conv_stem.weight * red, grey.detach())


def test_same_padding_is_tensorflows():
    """An even side loses its first column to none: one zero at the right, two for a kernel of 5."""
    for kernel, side, pads in ((3, 8, (0, 1)), (3, 7, (1, 1)), (5, 8, (1, 2)), (5, 7, (2, 2))):
        ours = networks._SamePadded(1, 1, kernel, 2, bias=False)
        x = torch.randn(1, 1, side, side)
        padded = torch.nn.functional.pad(x, (*pads, *pads))
        expected = torch.nn.functional.conv2d(padded, ours.weight, stride=2)
        torch.testing.assert_close(ours(x), expected)
        assert ours(x).shape[-1] == -(-side // 2)


def test_download(donor, colours, monkeypatch, tmp_path):
    state = torchvision_state(donor, colours)

    def fetch(url, path, *, hash_prefix, **options):
        assert url.rpartition("-")[2] == f"{hash_prefix}.pth"
        torch.save(state, path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    network = build_network("densenet121", 3, seed=8)
    with pytest.raises(StoreError, match="differs from the published file"):
        load_start(network, "densenet121", "imagenet")
    (file,) = tmp_path.rglob("*.pth")
    monkeypatch.setattr("leadapron.models.starts.IMAGENET_SHA256", sha256_of(file)[:8])
    load_start(network, "densenet121", "imagenet")
    bias = network.stages["denseblock4"].norm5.bias
    assert torch.equal(bias, donor.stages["denseblock4"].norm5.bias)

    def fail(*args, **options):
        raise urllib.error.URLError("no route")

    file.unlink()
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(StoreError, match="give a local file"):
        load_start(network, "densenet121", "imagenet")
