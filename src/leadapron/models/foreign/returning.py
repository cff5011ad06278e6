"""Changed weights written back as the state dict that they came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from leadapron.errors import StoreError
from leadapron.models.foreign.library_weights import network_in
from leadapron.models.foreign.opening import file_of
from leadapron.models.foreign.recognise import Given, channel_weights
from leadapron.models.parsing.reading import open_file, open_weights
from leadapron.store import write_atomically

__all__ = ["as_given", "read_back", "write_as_given"]

State = Mapping[str, torch.Tensor]


def as_given(given: Given, before: State, after: State) -> dict[str, torch.Tensor]:
    """Return weights under the names, shapes and types of the state dict that they came from.

    A first convolution of three channels gets the smallest change of its weights with which it
    gives a grey film the new answers; so weights that weren't changed come back as they were.

    Args:
        given: where the state dict holds them.
        before: the state dict's tensors; those that are no weights stay as they are.
        after: this package's weights and statistics, by its names.

    Raises:
        StoreError: a bias of the last layer, for which the state dict has no place.
    """
    if given.first is not None and "head.bias" not in given.names and after["head.bias"].any():
        raise StoreError("the state dict has no place for the last layer's bias")
    state = dict(before)
    new = {name: value.detach().cpu() for name, value in after.items()}
    first, mean = given.first or ("", "")
    constant = torch.zeros(1, dtype=torch.float64)
    if given.colours:
        wide, constant = _three_channels(given, before[given.names[first]], new[first])
        new |= {first: wide}
    for name, theirs in given.names.items():
        value = new[name]
        if name == mean:
            value = value.double() + constant
        if name in given.biases:
            value = value.double() + before[given.biases[name]].double()
        state[theirs] = value.to(before[theirs].dtype).contiguous()
    return state


def _three_channels(
    given: Given, old: torch.Tensor, grey: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of three channels, in their type, and the constant that each output loses by them."""
    if len(given.scale.mean) == 1:
        factors, shifts = torch.ones(3, 1, 1).double(), torch.zeros(3, 1, 1).double()
        before = old.float().sum(1, keepdim=True)
    else:
        factors, shifts = channel_weights(given.scale)
        before = (old.double() * factors).sum(1, keepdim=True).float()  # (64, 1, 7, 7)
    change = (grey - before).double() * factors / (factors**2).sum()  # (64, 3, 7, 7)
    wide = (old.double() + change).to(old.dtype)
    return wide, (wide.double() * shifts).sum((1, 2, 3))


def write_as_given(given: Given, content: str, source: Path, module: nn.Module, file: Path) -> Path:
    """Write a changed network as the state dict of another library that it was opened from.

    Args:
        given: where that state dict holds the weights.
        content: SHA-256 of its file, when it was opened.
        source: the file.
        module: the network, of the same layers.
        file: without an ending: .safetensors is added where the source is of that kind, with its
            metadata; .pt elsewhere, for torch.save's, which then holds the tensors alone.

    Returns:
        The file that was written.

    Raises:
        StoreError: a source that was changed, weights for which it has no place, or a file that
            can't be written.
    """
    with open_file(file_of(source)) as opened, open_weights(opened) as weights:
        if weights.sha256 != content:
            raise StoreError(f"{weights.name} was changed since it was opened")
        group = weights.groups[given.group]
        kept = {*given.names.values(), *given.biases.values(), *given.others}
        before = weights.take({name: one for name, one in group.items() if name in kept})
        kind, metadata = opened.kind, dict(weights.metadata)
    state = as_given(given, before, module.state_dict())
    if kind == "safetensors":
        from safetensors.torch import save

        file = file.with_name(f"{file.name}.safetensors")
        with write_atomically(file) as stream:
            stream.write(save(state, metadata or None))
    else:
        file = file.with_name(f"{file.name}.pt")
        with write_atomically(file) as stream:
            torch.save(state, stream)
    return file


def read_back(given: Given, file: Path, findings: tuple[str, ...]) -> nn.Module:
    """Return the network of a file that `write_as_given` wrote.

    Args:
        given: as there.
        file: the file.
        findings: names of its outputs.

    Raises:
        StoreError: as `network_in`.
    """
    with open_file(file) as opened, open_weights(opened) as weights:
        return network_in(weights, findings, given.scale, given.architecture).module
