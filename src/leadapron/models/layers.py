"""Layers of any network that methods read, found by running it once.

Nothing is known of the network's class: hooks see which tensors each layer takes and gives, and
gradients see which places of a map the last layer's input depends on.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import nn

from leadapron.errors import UsageError
from leadapron.models.attention import Attended, attend, between_all
from leadapron.models.networks import Instrumented

__all__ = ["instrumented"]

MOST_TOKENS = 16
"""Most tokens before those of the grid."""
SAME = 1e-5
"""Largest difference between features and a map's mean, relative to the largest feature."""


class _Call(NamedTuple):
    """A layer that ran, in the order in which they ended."""

    name: str
    layer: nn.Module
    taken: Any
    given: Any


class _Map(NamedTuple):
    """A layer's output that has a spatial map."""

    place: int
    name: str
    output: torch.Tensor
    side: int
    tokens: int
    channels_last: bool

    def grid(self, values: torch.Tensor) -> torch.Tensor:
        """(n, places, c) of a tensor shaped like the output."""
        if values.ndim == 3:
            return values[:, self.tokens :]
        return (values if self.channels_last else values.permute(0, 2, 3, 1)).flatten(1, 2)


def instrumented(
    network: nn.Module, size: int, name: str = "network", seed: int = 0
) -> Instrumented:
    """Return a network with its last layer, its last map and its finest map, found by one run.

    - The last layer is the one that gives the logits.
    - The last map is the last output with places on which the features depend everywhere: of
      those of the last resolution, one with as many channels as there are features if there is one.
    - The finest map is the last output of the finest resolution below the image's.
    - It attends if all of its attention is between all tokens of an image.
    - The head is pooled if the features are the mean of the last map, and no layer with weights
      lies between the two.

    Args:
        network: (n, 1, h, w) to (n, k) logits, in evaluation mode, on the processor.
        size: side of its images in pixels.
        name: for messages.
        seed: of the random images that are run.

    Raises:
        UsageError: no single linear layer or convolution gives its logits, or no layer has a map.
    """
    generator = torch.Generator().manual_seed(seed)
    with _woken(network, generator):
        return _found(network, size, name, generator)


def _found(network: nn.Module, size: int, name: str, generator: torch.Generator) -> Instrumented:
    images = torch.randn(2, 1, size, size, generator=generator).requires_grad_()
    calls, attended = _calls(network, images)
    last = next((call for call in reversed(calls) if _gives(call, attended.logits)), None)
    if last is None:
        raise UsageError(
            f"{name}: no single layer gives its logits, so its layers can't be read; export "
            "TorchScript or ONNX"
        )
    features = _features(last.taken[0])
    maps = _maps(calls[: calls.index(last)], size)
    grown = torch.randn(features.shape, generator=generator)
    # The images, so that there is something to differentiate if there are no maps.
    slopes = torch.autograd.grad(
        (features * grown).sum(), [*(one.output for one in maps), images], allow_unused=True
    )[:-1]
    felt = [(one, slope) for one, slope in zip(maps, slopes, strict=True) if slope is not None]
    whole = [one for one, slope in felt if bool((one.grid(slope).abs().sum(2) > 0).all())]
    seen = whole or [one for one, slope in felt if bool(slope.any())]
    if not seen:
        raise UsageError(f"{name}: no layer has a square map that its logits depend on")
    chosen = _shared(_last(seen, features.shape[1]), seen, calls)
    alike = [one for one, slope in felt if one.channels_last == chosen.channels_last]
    finest = max(one.side for one in alike)
    fine = chosen if finest == chosen.side else [one for one in alike if one.side == finest][-1]
    return Instrumented(
        network,
        layer=chosen.name,
        tokens=chosen.tokens,
        last_layer=last.name,
        fine=fine.name,
        channels_last=chosen.channels_last,
        pooled=_is_pooled(chosen, last, calls, features),
        attends=chosen.output.ndim == 3
        and between_all(attended.attention, len(images), chosen.output.shape[1]),
    ).eval()


@contextlib.contextmanager
def _woken(network: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """A network without weights of 0, with which some start and which hide what lies before."""
    asleep = {name: one for name, one in network.named_parameters() if not bool(one.any())}
    with torch.no_grad():
        for one in asleep.values():
            one.copy_(0.1 * torch.randn(one.shape, generator=generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for one in asleep.values():
                one.zero_()


def _calls(network: nn.Module, images: torch.Tensor) -> tuple[list[_Call], Attended]:
    """The layers that ran once, and the logits with all attention."""
    calls: list[_Call] = []

    def watch(name: str) -> Any:
        return lambda layer, taken, given: calls.append(_Call(name, layer, taken, given))

    hooks = [part.register_forward_hook(watch(name)) for name, part in network.named_modules()
             if name]  # fmt: skip
    try:
        with torch.enable_grad():
            attended = attend(network, images)
    finally:
        for hook in hooks:
            hook.remove()
    runs = Counter(call.name for call in calls)
    return [call for call in calls if runs[call.name] == 1], attended


def _gives(call: _Call, logits: torch.Tensor) -> bool:
    """Whether a layer's output is the logits, perhaps flattened."""
    return (
        isinstance(call.layer, nn.Linear | nn.Conv2d)
        and torch.is_tensor(call.given)
        and call.given.data_ptr() == logits.data_ptr()
        and call.given.numel() == logits.numel()
    )


def _features(taken: torch.Tensor) -> torch.Tensor:
    """(n, d) of the last layer's input, as `Instrumented` reads it."""
    if taken.ndim == 2:
        return taken
    return taken.mean((2, 3)) if taken.ndim == 4 else taken.mean(1)


def _maps(calls: Sequence[_Call], size: int) -> list[_Map]:
    """Outputs that are maps; resolution only falls, so that other squares aren't taken for one."""
    found: list[_Map] = []
    side = size - 1
    for place, call in enumerate(calls):
        one = _map(place, call, side, first_map=not found)
        if one is not None:
            found.append(one)
            side = one.side
    return found


def _map(place: int, call: _Call, largest: int, *, first_map: bool) -> _Map | None:
    output = call.given
    if not torch.is_tensor(output) or not output.requires_grad or len(output) != 2:
        return None
    if output.ndim == 4:
        _, first, second, third = output.shape
        last = first == second != third
        side = second if second == third or last else 0
        return _Map(place, call.name, output, side, 0, last) if 1 < side <= largest else None
    if output.ndim == 3:
        # The tokens of the last grid or of one merged by whole factors, after few others.
        side = min(largest, isqrt(output.shape[1]))
        tokens = output.shape[1] - side**2
        merged = first_map or largest % side == 0 or -(-largest // 2) == side
        if side > 1 and tokens <= MOST_TOKENS and merged:
            return _Map(place, call.name, output, side, tokens, channels_last=False)
    return None


def _last(seen: Sequence[_Map], width: int) -> _Map:
    """The last map; of those of its resolution, one with as many channels as features."""
    coarsest = [one for one in seen if one.side == seen[-1].side]
    wide = [one for one in coarsest if one.grid(one.output).shape[2] == width]
    return (wide or coarsest)[-1]


def _shared(chosen: _Map, seen: Sequence[_Map], calls: Sequence[_Call]) -> _Map:
    """What an attention's projections read, if the last map is one of them; else that map."""
    call = calls[chosen.place]
    source, parent = call.taken[0], call.name.rpartition(".")[0]
    readers = [
        other for other in calls
        if isinstance(other.layer, nn.Linear) and other.taken[0] is source
        and other.name.rpartition(".")[0] == parent
    ]  # fmt: skip
    if not isinstance(call.layer, nn.Linear) or len(readers) < 2:
        return chosen
    return next((one for one in seen if one.output is source), chosen)


def _is_pooled(chosen: _Map, last: _Call, calls: Sequence[_Call], features: torch.Tensor) -> bool:
    between = calls[chosen.place + 1 : calls.index(last)]
    weighted = [
        call for call in between
        if any(True for _ in call.layer.parameters()) or any(True for _ in call.layer.buffers())
    ]  # fmt: skip
    # A part around the map's layer ends after it, and has its weights.
    inside = [call for call in weighted if not chosen.name.startswith(f"{call.name}.")]
    if inside or chosen.tokens or not isinstance(last.layer, nn.Linear) or last.taken[0].ndim != 2:
        return False
    mean = chosen.grid(chosen.output).mean(1)
    largest = features.abs().max()
    return mean.shape == features.shape and bool((mean - features).abs().max() <= SAME * largest)
