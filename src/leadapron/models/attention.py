"""Attention of any network, recorded as it is computed.

Nothing is known of the network's classes: torch's own functions for attention and softmax are
watched while it runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Attended", "Attention", "attend", "between_all"]

SOFTMAX = (functional.softmax, torch.softmax, torch.Tensor.softmax)


class Attention(NamedTuple):
    """One attention of a network.

    Args:
        weights: (n, heads, t, s) or (n * heads, t, s): t tokens read s tokens; a row sums to 1.
        given: (..., t, d) of the graph that leads to the logits, by the token that read: the
            weights themselves, or the attention's output.
    """

    weights: torch.Tensor
    given: torch.Tensor


class Attended(NamedTuple):
    """One pass over n images.

    Args:
        attention: in the order in which it was computed.
        logits: (n, k).
    """

    attention: Sequence[Attention]
    logits: torch.Tensor


def attend(network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> Attended:
    """Run a network, and return its logits and its attention.

    Args:
        network: (n, 1, h, w) to (n, k) logits.
        images: (n, 1, h, w) normalised.
    """
    with _Watch() as watch:
        logits = network(images)
    return Attended(watch.seen, logits)


def between_all(attention: Sequence[Attention], images: int, tokens: int) -> bool:
    """Return whether a network has attention, all of it between all tokens of an image.

    Args:
        attention: of `attend`.
        images: number of images.
        tokens: number of tokens of an image.
    """

    def fits(weights: torch.Tensor) -> bool:
        whole = weights.shape[0] == images or (weights.ndim == 3 and not len(weights) % images)
        return whole and tuple(weights.shape[-2:]) == (tokens, tokens)

    return bool(attention) and all(fits(one.weights) for one in attention)


class _Watch(TorchFunctionMode):
    """Calls of torch's functions pass through; those of attention are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Attention] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        settings = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self._fused(*args, **settings)
        if func is functional.multi_head_attention_forward:
            return self._many_headed(args, settings)
        given = func(*args, **settings)
        if func in SOFTMAX and given.ndim in (3, 4):
            axis = settings["dim"] if "dim" in settings else args[1]
            if axis in (-1, given.ndim - 1):
                self.seen.append(Attention(given, given))
        return given

    def _fused(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *args: Any,
        **settings: Any,
    ) -> torch.Tensor:
        """The same in two steps. With the identity as values, its output is its weights."""
        each = torch.eye(key.shape[-2], dtype=value.dtype, device=value.device)
        each = each.expand(*value.shape[:-1], -1)
        weights = functional.scaled_dot_product_attention(query, key, each, *args, **settings)
        self.seen.append(Attention(weights, weights))
        if weights.ndim == value.ndim and weights.shape[-3] != value.shape[-3]:  # shared values
            value = value.repeat_interleave(weights.shape[-3] // value.shape[-3], -3)
        return weights @ value

    def _many_headed(self, args: Any, settings: Any) -> Any:
        wanted = {**settings, "need_weights": True, "average_attn_weights": False}
        output, weights = functional.multi_head_attention_forward(*args, **wanted)
        assert weights is not None
        given = output.transpose(0, 1)  # tokens come first there
        self.seen.append(Attention(weights, given))
        output = given.transpose(0, 1)
        if not settings.get("need_weights", True):
            return output, None
        return output, weights.mean(1) if settings.get("average_attn_weights", True) else weights
