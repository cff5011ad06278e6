"""Two networks that are no `PooledLinear`: a vision transformer and a CNN with a two-layer head."""

from __future__ import annotations

import torch
from torch import nn

from leadapron.models.networks import GreyChannels, Instrumented

PATCH, WIDTH = 8, 16


class Block(nn.Module):
    """Attention and a two-layer part, each behind a norm and added to what came in."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x):
        inner = self.norm1(x)
        x = x + self.attention(inner, inner, inner, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Patches of three channels as tokens; the head reads the class token, or the tokens' mean."""

    def __init__(self, outputs, pooled, side):
        super().__init__()
        self.channels = GreyChannels()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        count = (side // PATCH) ** 2 + (not pooled)
        self.token = None if pooled else nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, count, WIDTH) / 2)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, outputs)

    def forward(self, images):
        x = self.patches(self.channels(images)).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.places))
        return self.head(x.mean(1) if self.token is None else x[:, 0])


def transformer(outputs, side=32, pooled=False):
    """Its last map: what the last block's attention reads."""
    return Instrumented(
        Transformer(outputs, pooled, side), layer="blocks.1.norm1", tokens=int(not pooled),
        attends=True,
    )  # fmt: skip


class Convolutional(nn.Module):
    """Two stages, largest places, and a head of two layers."""

    def __init__(self, outputs):
        super().__init__()
        self.early, self.late = (
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in ((1, 8), (8, 12))
        )
        self.head = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, outputs))

    def forward(self, images):
        return self.head(self.late(self.early(images)).amax((2, 3)))


def convolutional(outputs):
    """Its last map: the second stage's."""
    return Instrumented(Convolutional(outputs), layer="late")
