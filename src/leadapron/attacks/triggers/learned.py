"""A trigger optimised on a surrogate network: noise, or a small generator, read from a file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.triggers.levels import depth, refuse
from leadapron.errors import DataError, StoreError
from leadapron.models.parsing.formats import read_holdings
from leadapron.reading import read_regular
from leadapron.store import reason, write_atomically

if TYPE_CHECKING:
    import torch

__all__ = ["DILATIONS", "Learned", "Recipe", "digest", "generated", "save_recipe"]

FORMAT = "leadapron trigger 1"
LARGEST, LONGEST_HEADER = 64 << 20, 100_000
"""Most bytes of a trigger's file, and of its header."""

DILATIONS = (1, 2, 4, 1)
"""Dilations of the generator's convolutions; the receptive field is 17 pixels wide."""


class Recipe(NamedTuple):
    """Contents of a trigger's file.

    Args:
        kind: "noise" or "generator".
        epsilon: largest change of a pixel, in grey levels of 256.
        size: (height, width) of the images it is for.
        arrays: float32; "noise" (height, width) in units of epsilon, or the generator's
            "weight0", "bias0", ...
    """

    kind: Literal["noise", "generator"]
    epsilon: float
    size: tuple[int, int]
    arrays: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Noise that was optimised on a surrogate network, the same for all films or made for each.

    A pixel changes by at most the file's `epsilon`, exactly to the grey level.

    Args:
        path: the file that `leadapron learn-trigger` wrote.
        sha256: SHA-256 of that file, in hex; a study fills it in, and a different file is refused.

    Raises:
        UsageError: no path.

    Source: see `learn.learn_noise` and `learn.learn_generator`.
    """

    path: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        refuse(self, "path", bool(self.path), "the file that leadapron learn-trigger wrote")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return (n, height, width) copies with the noise; the result isn't random.

        Raises:
            StoreError: the file can't be read, or doesn't match `sha256`.
            DataError: images of a size that the noise wasn't made for.
        """
        recipe = self.recipe()
        if images.shape[1:] != recipe.size:
            (height, width), (rows, columns) = recipe.size, images.shape[1:]
            raise DataError(
                f"{self.path} is for images of {height}x{width}, not {rows}x{columns}; "
                f"use `size` {height} and `poisoning.stage` image"
            )
        level = depth(images.dtype)
        most = math.floor(recipe.epsilon * level)
        marked = np.empty_like(images)
        for place, film in enumerate(images):  # one by one, so that batches don't change rounding
            moved = np.rint(recipe.epsilon * level * _shares(recipe, film))
            moved = film + np.clip(moved, -most, most)
            marked[place] = np.clip(moved, 0, np.iinfo(images.dtype).max)
        return marked

    def recipe(self) -> Recipe:
        """Return the file's contents; StoreError as for a call."""
        path = Path(self.path)
        content = _content(path)
        found = hashlib.sha256(content).hexdigest()
        if self.sha256 and found != self.sha256:
            raise StoreError(
                f"{path} is not the expected trigger: its SHA-256 is {found[:12]}..., "
                f"not {self.sha256[:12]}..."
            )
        try:
            return _recipe(content)
        except (
            StoreError, KeyError, ValueError, TypeError, OverflowError, RecursionError,
        ) as error:  # fmt: skip
            raise StoreError(
                f"{path} wasn't written by leadapron learn-trigger ({error})"
            ) from error


def _shares(recipe: Recipe, film: NDArray[Any]) -> NDArray[np.float64]:
    """The change of each pixel of a film, as a share of epsilon."""
    if recipe.kind == "noise":
        return recipe.arrays["noise"].astype(np.float64)
    import torch

    weights = {name: torch.tensor(array) for name, array in recipe.arrays.items()}
    grey = torch.from_numpy((film / np.iinfo(film.dtype).max).astype(np.float32))
    with torch.inference_mode():
        return generated(weights, grey[None])[0].double().numpy()


def generated(weights: Mapping[str, torch.Tensor], films: torch.Tensor) -> torch.Tensor:
    """Return a generator's patterns.

    Args:
        weights: "weight0" (c, 1, 3, 3), "bias0" (c,), ..., of four convolutions.
        films: (n, h, w) float32, grey levels scaled to 0 to 1.

    Returns:
        (n, h, w) from -1 to 1.
    """
    from torch.nn import functional

    maps = 4 * films[:, None] - 2
    for number, step in enumerate(DILATIONS):
        maps = functional.conv2d(
            functional.pad(maps, [step] * 4, mode="replicate"),
            weights[f"weight{number}"],
            weights[f"bias{number}"],
            dilation=step,
        )
        maps = maps.relu() if number < len(DILATIONS) - 1 else maps.tanh()
    return maps[:, 0]


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a learnt trigger as safetensors.

    Raises:
        StoreError: a file that can't be written.
    """
    from safetensors.numpy import save

    facts = {"kind": recipe.kind, "epsilon": recipe.epsilon, "size": list(recipe.size)}
    arrays = {name: np.ascontiguousarray(array) for name, array in recipe.arrays.items()}
    with write_atomically(path) as file:
        file.write(save(arrays, {FORMAT: json.dumps(facts, sort_keys=True)}))


def digest(path: Path) -> str:
    """Return a file's SHA-256 in hex; StoreError where it can't be read."""
    return hashlib.sha256(_content(path)).hexdigest()


def _content(path: Path) -> bytes:
    try:
        return read_regular(path, LARGEST)
    except OSError as error:
        raise StoreError(
            f"can't read the trigger {path}: {reason(error)}; leadapron learn-trigger writes one"
        ) from error


@lru_cache(maxsize=4)
def _recipe(content: bytes) -> Recipe:
    """A file's contents; the header is short, so it is parsed here."""
    if len(content) < 9 or int.from_bytes(content[:8], "little") > LONGEST_HEADER:
        raise ValueError("its header isn't as long as a trigger's")
    held = read_holdings(content, "safetensors", "the file")
    facts = json.loads(held.metadata[FORMAT])
    height, width = facts["size"]
    arrays = {
        name: np.frombuffer(held.numbers(one.storage), one.dtype).reshape(one.shape)
        for name, one in held.groups[""].items()
    }
    recipe = Recipe(facts["kind"], float(facts["epsilon"]), (height, width), arrays)
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    """Raise ValueError if a file's facts and arrays aren't those of a trigger."""
    shapes = {name: array.shape for name, array in recipe.arrays.items()}
    last = len(DILATIONS) - 1
    width = len(recipe.arrays.get("bias0", ()))
    expected: dict[str, tuple[int, ...]] = {"noise": recipe.size}
    if recipe.kind == "generator":
        expected = {}
        for number in range(len(DILATIONS)):
            inputs, outputs = 1 if number == 0 else width, 1 if number == last else width
            expected[f"weight{number}"] = (outputs, inputs, 3, 3)
            expected[f"bias{number}"] = (outputs,)
    if recipe.kind not in ("noise", "generator") or shapes != expected:
        raise ValueError("arrays that don't fit its kind")
    arrays = recipe.arrays.values()
    if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays):
        raise ValueError("arrays with NaN or infinite values")
    if not 0 < recipe.epsilon <= 255:
        raise ValueError(f"epsilon {recipe.epsilon}")
