"""Layers that methods read, found by running a network once."""

from __future__ import annotations

import pytest
import torch
from network_scenes import Convolutional, Transformer
from torch import nn

from leadapron.errors import UsageError
from leadapron.models.layers import instrumented

SIDE = 32


class Pooled(nn.Module):
    """Two stages and a head; `between` stands between the mean and the linear layer."""

    def __init__(self, between=None, last=False, distilled=False):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(6, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.norm = nn.LayerNorm(12) if last else nn.Identity()
        self.between = between or nn.Identity()
        self.fc = nn.Linear(12, 2)
        self.other = nn.Linear(12, 2) if distilled else None
        self.last = last

    def forward(self, images):
        deep = self.deep(self.stem(images))
        if self.last:
            deep = self.norm(deep.permute(0, 2, 3, 1))
        features = self.between(deep.mean((1, 2) if self.last else (2, 3)))
        logits = self.fc(features)
        return logits if self.other is None else (logits + self.other(features)) / 2


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Pooled, ("deep", "stem", "fc", 0, False, True)),
        (lambda: Pooled(last=True), ("norm", "norm", "fc", 0, True, True)),
        # Normalised means aren't the map's means, however near they are.
        (lambda: Pooled(nn.BatchNorm1d(12)), ("deep", "stem", "fc", 0, False, False)),
        (lambda: Pooled(nn.LayerNorm(12)), ("deep", "stem", "fc", 0, False, False)),
        (
            lambda: Transformer(2, False, SIDE),
            ("blocks.1.norm1", "blocks.1.norm1", "head", 1, False, False),
        ),
        (lambda: Transformer(2, True, SIDE), ("norm", "norm", "head", 0, False, True)),
        # Largest places alone count, so that gradients reach few of them.
        (lambda: Convolutional(2), ("late", "early", "head.2", 0, False, False)),
    ],
)
def test_what_is_found(make, expected):
    torch.manual_seed(0)
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    read = instrumented(network.eval(), SIDE)
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)
    assert (
        read.layer, read.fine, read.last, read.tokens, read.channels_last, read.pooled
    ) == expected  # fmt: skip
    x = torch.randn(3, 1, SIDE, SIDE)
    logits, features, last = read.look(x)
    torch.testing.assert_close(logits, network(x))
    assert last.ndim == 4
    assert last.shape[2] == last.shape[3]
    assert (read.pooled_head is not None) == read.pooled
    if read.pooled:
        maps = torch.einsum("nchw,kc->nkhw", last, read.pooled_head.weight)
        torch.testing.assert_close(maps.mean((2, 3)) + read.pooled_head.bias, logits)
        torch.testing.assert_close(features, last.mean((2, 3)))
    assert not any(part._forward_hooks for part in network.modules())
    assert read.attends == isinstance(network, Transformer)


class Windows(nn.Module):
    """Attention within the rows of a grid of patches, then a mean of all."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(1, 12, 8, 8), nn.LayerNorm(12)
        self.head = nn.Linear(12, 2)

    def forward(self, images):
        rows = self.patches(images).permute(0, 2, 3, 1).flatten(0, 1)  # (n * 4, 4, 12)
        inner = nn.functional.scaled_dot_product_attention(rows, rows, rows)
        return self.head(self.norm(inner.reshape(len(images), 16, 12)).mean(1))


def test_attention_within_windows_is_none_between_all_tokens():
    torch.manual_seed(0)
    read = instrumented(Windows().eval(), SIDE)
    assert (read.layer, read.attends) == ("norm", False)


def test_maps_with_channels_last_can_be_cut():
    torch.manual_seed(0)
    read = instrumented(Pooled(last=True).eval(), SIDE)
    inner, logits = read.cut(torch.randn(2, 1, SIDE, SIDE), read.map_layer)
    (slope,) = torch.autograd.grad(logits[:, 1].sum(), inner)
    expected = read.pooled_head.weight[1] / inner[0, 0].numel()
    torch.testing.assert_close(slope, expected[:, None, None].expand(2, -1, 8, 8))


def test_paths_behind_weights_of_zero_are_found():
    network = Pooled()
    with torch.no_grad():
        network.deep[1].weight.zero_()
        network.fc.weight.zero_()
    read = instrumented(network.eval(), SIDE)
    assert (read.layer, read.fine) == ("deep", "stem")
    assert not network.fc.weight.any()


def test_networks_that_can_not_be_read():
    with pytest.raises(UsageError, match=r"^two heads: no single layer gives its logits"):
        instrumented(Pooled(distilled=True).eval(), SIDE, "two heads")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Linear(12, 2))
    with pytest.raises(UsageError, match=r"^flat: no layer has a square map"):
        instrumented(flat.eval(), 8, "flat")
