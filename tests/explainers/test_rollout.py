"""Attention rollout: the paper's formula, whichever way a network computes its attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from leadapron.errors import UnknownNameError, UsageError
from leadapron.explainers import attention_rollout, explained_layer
from leadapron.explainers.rollout import rolled
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.attention import attend
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import Instrumented, build_network

SIDE, PATCH, WIDTH, HEADS = 32, 8, 12, 3
FINDINGS = ("Effusion", "Mass")
FILMS = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE), np.uint8)


def test_a_case_by_hand():
    """A class token and two patches; the head reads the class token.

    In block 2 it takes .5 of itself and .5 of the first patch; with its residual .75 and .25. In
    block 1 it takes 1 of the second patch (.5, 0, .5) and the first patch 1 of itself.
    """
    first = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    second = torch.tensor([[[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]])
    found = rolled([first, second], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor([[0.375, 0.25, 0.375]]))


class Block(nn.Module):
    """Attention that is computed in one of the ways in which libraries do."""

    def __init__(self, how):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp, self.how = nn.Linear(WIDTH, WIDTH), how

    def parts(self, x):
        """Queries, keys and values of each head."""
        both = functional.linear(x, self.attention.in_proj_weight, self.attention.in_proj_bias)
        return both.reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)

    def weights(self, x):
        query, key, _ = self.parts(x)
        return (query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5).softmax(dim=-1)

    def attended(self, x):
        if self.how.startswith("many-headed"):
            needs = self.how == "many-headed with weights"
            return self.attention(x, x, x, need_weights=needs)[0]
        query, key, value = self.parts(x)
        if self.how == "fused":
            inner = functional.scaled_dot_product_attention(query, key, value)
        else:
            inner = self.weights(x) @ value
        return self.attention.out_proj(inner.transpose(1, 2).flatten(2))

    def forward(self, x):
        x = x + self.attended(self.norm1(x))
        return x + self.mlp(self.norm2(x)).relu()


class Transformer(nn.Module):
    """Three blocks; the head reads the class token, or the mean of the patches or of all."""

    def __init__(self, how, reads):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.reads = nn.Conv2d(1, WIDTH, PATCH, PATCH), reads
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2 + 1, WIDTH))
        self.blocks = nn.Sequential(*(Block(how) for _ in range(3)))
        self.head = nn.Linear(WIDTH, len(FINDINGS))
        for block in self.blocks:  # so that attention isn't even
            nn.init.normal_(block.attention.in_proj_weight)

    def tokens(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places

    def forward(self, images):
        x = self.blocks(self.tokens(images))
        return self.head(
            {"class": x[:, 0], "patches": x[:, 1:].mean(1), "all": x.mean(1)}[self.reads]
        )


def model(how, reads):
    network = Instrumented(
        Transformer(how, reads).eval(), layer="blocks.2.norm1", tokens=1, attends=True
    )
    shape = Preprocessing(size=SIDE)
    return NetworkClassifier(network, "mine", FINDINGS, shape, precision="fp32")


def expected(classifier):
    """The paper's product of whole matrices, of weights that the blocks themselves compute."""
    network = classifier.module.network
    with torch.no_grad():
        x = network.tokens(classifier.normalise(torch.from_numpy(FILMS)))
        joint = torch.eye(x.shape[1])
        for block in network.blocks:
            raised = block.weights(block.norm1(x)).mean(1) + torch.eye(x.shape[1])
            joint = raised / raised.sum(-1, keepdim=True) @ joint
            x = block(x)
    rows = {"class": joint[:, :1], "patches": joint[:, 1:], "all": joint}[network.reads]
    return rows.mean(1)[:, 1:].reshape(len(FILMS), SIDE // PATCH, SIDE // PATCH).numpy()


WAYS = ("many-headed", "many-headed with weights", "fused", "softmax")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("reads", ["class", "patches", "all"])
def test_it_is_the_papers_product(how, reads):
    classifier = model(how, reads)
    maps = attention_rollout(classifier, FILMS, FINDINGS, enlarge=False)
    assert maps.dtype == np.float32
    assert maps.std() > 1e-3
    for column in range(2):  # the same for every finding
        np.testing.assert_allclose(maps[:, column], expected(classifier), atol=1e-6)
    large = attention_rollout(classifier, FILMS, FINDINGS[1:])
    assert large.shape == (3, 1, SIDE, SIDE)
    images = classifier.normalise(torch.from_numpy(FILMS))
    torch.testing.assert_close(
        attend(classifier.module, images).logits, classifier.module(images), rtol=1e-5, atol=1e-6
    )


def test_layers_of_torch_itself_are_watched():
    """Their fast path computes no weights, so it must not be taken."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, batch_first=True).eval()
    with torch.inference_mode():
        (seen,), _ = attend(layer, torch.randn(2, 5, WIDTH))
    torch.testing.assert_close(seen.weights.sum(-1), torch.ones(2, HEADS, 5))


def test_what_has_no_rollout():
    resnet = build_network("resnet9", 2, 0).eval()
    classifier = NetworkClassifier(resnet, "resnet9", FINDINGS, Preprocessing(size=SIDE))
    with pytest.raises(UsageError, match=r"^attention-rollout needs attention between all tokens"):
        attention_rollout(classifier, FILMS, FINDINGS)
    with pytest.raises(UnknownNameError, match="finding 'Mas'; did you mean Mass"):
        attention_rollout(model("fused", "class"), FILMS, ["Mas"])
    with pytest.raises(UsageError, match="no images"):
        attention_rollout(model("fused", "class"), FILMS[:0], FINDINGS)
    assert explained_layer("attention-rollout", classifier) == "attention of all blocks"
