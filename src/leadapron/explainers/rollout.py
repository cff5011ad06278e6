"""Where a transformer's attention leads, from its input to what its head reads."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch

from leadapron.explainers.passes import collect, enlarged
from leadapron.films.cohort import ImageArray
from leadapron.models.attention import Attention, attend
from leadapron.models.protocols import Differentiable, Floats, attending, columns_of

__all__ = ["attention_rollout", "rolled"]

RESIDUAL = 0.5
"""Share of a block's output that comes past its attention."""


def attention_rollout(
    classifier: Differentiable,
    images: ImageArray,
    findings: Sequence[str],
    *,
    enlarge: bool = True,
) -> Floats:
    """Attention rollout: through all blocks, which patches what the head reads comes from.

    It is the same for every finding: attention doesn't depend on which logit is explained. What
    blocks compute of what they attend to is left out, so a place with a high value need not matter
    to the logit.

    Args:
        classifier: a network with attention between all tokens.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        enlarge: resize bilinearly to the images' size; otherwise the maps keep the patches' grid.

    Returns:
        (n, k, h, w) float32, 0 to 1, the share of each patch; the class token has the rest.

    Raises:
        UnknownNameError: no such finding.
        UsageError: a network without such attention, or no images.

    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3:
    heads averaged, half of each block for its residual connection. Differs: of the tokens that
    the head reads, the mean is taken, so that networks without a class token have a map too.
    """
    columns_of(classifier, findings)
    network = attending(classifier, "attention-rollout")
    read: torch.Tensor | None = None

    def maps(batch: torch.Tensor) -> torch.Tensor:
        nonlocal read
        if read is None:
            read = _read(network, batch[:1])
        with torch.inference_mode():
            attention = attend(network, batch).attention
        shares = rolled([_heads_mean(one, len(batch)) for one in attention], read)
        grid = shares[:, network.tokens :]
        side = isqrt(grid.shape[1])
        found = grid.reshape(len(grid), 1, side, side)
        found = enlarged(found, batch.shape[2:]) if enlarge else found
        return found.expand(-1, len(findings), -1, -1)

    return collect(classifier, images, maps, findings=findings)


def rolled(attention: Sequence[torch.Tensor], read: torch.Tensor) -> torch.Tensor:
    """Return which tokens of the input some tokens of the last block come from.

    Args:
        attention: (n, t, t) of each block, the first one first; rows sum to 1.
        read: (t,) weights of the last block's tokens, that sum to 1.

    Returns:
        (n, t) shares that sum to 1.
    """
    shares = read.expand(len(attention[0]), 1, -1)
    for weights in reversed(attention):
        shares = RESIDUAL * shares + (1 - RESIDUAL) * (shares @ weights)
    return shares[:, 0]


def _heads_mean(attention: Attention, images: int) -> torch.Tensor:
    """(n, t, t) float32."""
    weights = attention.weights.float()
    return weights.reshape(images, -1, *weights.shape[-2:]).mean(1)


def _read(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """(t,) equal weights of those tokens of the last block on which the logits depend."""
    with torch.enable_grad():
        attention, logits = attend(network, images.detach().requires_grad_())
        weights = torch.arange(1, logits.shape[1] + 1, device=logits.device)  # sums may be constant
        (slope,) = torch.autograd.grad((logits.float() * weights).sum(), attention[-1].given)
    felt = slope.movedim(-2, 0).flatten(1).any(1).float()
    return felt / felt.sum()
