"""Weights that a training starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from leadapron.errors import StoreError, UsageError
from leadapron.models.classifier import FORMAT
from leadapron.models.foreign.recognise import FIRST, to_own_grey, trunk_of
from leadapron.models.networks import Network
from leadapron.models.parsing.reading import Weights, open_file, open_weights

__all__ = ["IMAGENET_SHA256", "load_start"]

IMAGENET_URL = "https://download.pytorch.org/models/densenet121-a639ec97.pth"
IMAGENET_SHA256 = "a639ec97"
"""First digits of the file's SHA-256, as in torch's file names."""

OF_FIRST_CONVOLUTION = {*FIRST, *FIRST.values()}


def load_start(network: Network, name: str, weights: str) -> tuple[str, ...]:
    """Load weights into an untrained network, except for its last layer.

    The first convolution is converted to one channel in this package's normalisation: of three
    channels its weights are summed, each scaled; the constant that this drops goes into the mean of
    the batch normalisation after it.

    Args:
        network: the network; it stays as it is if an error is raised.
        name: of its architecture.
        weights: the path of a file, of the same network by this package or another library that
            `open_model` knows; or "imagenet" to download torchvision's of DenseNet-121.

    Returns:
        What was assumed or changed, one sentence each.

    Raises:
        UsageError: no such file, or one that holds several networks.
        StoreError: the file can't be read, or holds other weights.
    """
    path = _downloaded() if weights == "imagenet" else Path(weights)
    if not path.is_file():
        raise UsageError(
            f"`network.weights` {weights}: no such file; expected a file or 'imagenet'"
        )
    notes = [f"The last layer starts untrained; all others start from {path.name}."]
    try:
        with open_file(path) as file, open_weights(file) as held:
            if weights == "imagenet" and not held.sha256.startswith(IMAGENET_SHA256):
                raise StoreError(f"{path} differs from the published file; delete it")
            if held.program:
                raise StoreError("it is TorchScript; expected weights alone, as a state dict")
            own = FORMAT in held.metadata
            taken = _own(held, network, name) if own else trunk_of(held, name, notes)
    except StoreError as error:
        raise StoreError(f"can't start from {path.name}: {error}") from error
    state = network.state_dict()
    network.load_state_dict({**state, **taken})
    return tuple(notes)


def _own(weights: Weights, network: Network, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a file that `save_classifier` wrote, but the last layer's."""
    last = f"{network.last_layer}."
    expected = {
        key: tuple(value.shape)
        for key, value in network.state_dict().items()
        if not key.startswith(last)
    }
    try:
        facts: dict[str, Any] = json.loads(weights.metadata[FORMAT])
        architecture, scale = facts["architecture"], facts["normalisation"]
        mean, std = float(scale["mean"]), float(scale["std"])
        if not 0 < std < float("inf"):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise StoreError("it doesn't describe its own weights") from None
    outlines = {key: weights.groups[""].get(key) for key in expected}
    wrong = [key for key, one in outlines.items() if one is None or one.shape != expected[key]]
    if architecture != name or wrong:
        raise StoreError(f"it holds a {str(architecture)[:40]}; expected a {name}")
    taken = weights.take({key: one for key, one in outlines.items() if one is not None})
    if not all(bool(value.isfinite().all()) for value in taken.values()):
        raise StoreError("it holds weights that aren't finite (NaN, infinite)")
    first = {
        short: key for key in taken if (short := key.split(".", 2)[-1]) in OF_FIRST_CONVOLUTION
    }
    trunk = {short: taken[key] for short, key in first.items()}
    to_own_grey(trunk, mean, std)
    return taken | {first[short]: value for short, value in trunk.items()}


def _downloaded() -> Path:
    """The file of ImageNet weights in torch's cache, downloaded if missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_URL.rpartition("/")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                IMAGENET_URL, str(path), hash_prefix=IMAGENET_SHA256, progress=False
            )
        except (OSError, RuntimeError) as error:  # RuntimeError: a wrong hash
            raise StoreError(
                f"can't download the ImageNet weights ({error}); give a local file with "
                "`network.weights` FILE"
            ) from error
    return path
