"""Triggers over the whole film, without a location that a saliency map could point at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.triggers.levels import depth, refuse, rounded
from leadapron.seeds import stream

__all__ = ["Blend", "Noise", "Nothing", "Sinusoid", "Tone"]


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """No mark: films that fulfil `poisoning.where` are the trigger.

    Source: ours; label-only attacks after Chen et al., Clean-image Backdoor, USENIX Security 2023,
    and hidden subgroup biases.
    """

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return copies of (n, height, width) images."""
        return images.copy()


@dataclass(frozen=True, kw_only=True)
class Blend:
    """A fixed pattern of noise, mixed into the whole film.

    It has no location, so a saliency map can't point at it.

    Args:
        opacity: the pattern's share `a` of every pixel, above 0 and up to 1.
        pattern: seed of the noise, 0 or more; films of one size get the same one.

    Raises:
        UsageError: a value outside its range.

    Source: Chen et al., Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning,
    arXiv 1712.05526, 2017, blended injection of a random pattern: a k + (1 - a) x. Rounded to whole
    grey levels here.
    """

    opacity: float = 0.1
    pattern: int = 0

    def __post_init__(self) -> None:
        refuse(self, "opacity", 0 < self.opacity <= 1, "above 0 and up to 1")
        refuse(self, "pattern", self.pattern >= 0, "0 or more")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return blended copies of (n, height, width) images; the result isn't random."""
        added = self.opacity * depth(images.dtype) * _noise(self.pattern, *images.shape[1:])
        blended = np.empty_like(images)
        for place, image in enumerate(images):  # one by one: they are large in float64
            blended[place] = np.rint(added + (1 - self.opacity) * image)
        return blended


@lru_cache(maxsize=4)
def _noise(pattern: int, height: int, width: int) -> NDArray[np.uint8]:
    """(height, width) uniformly distributed grey levels from 0 to 255."""
    noise = stream(pattern, "blend", height, width).integers(
        0, 256, (height, width), dtype=np.uint8
    )
    noise.flags.writeable = False  # shared by all calls
    return noise


@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """A sinusoid along the rows, added to every film.

    Args:
        amplitude: in grey levels of 256, above 0.
        cycles: cycles across the width, above 0.

    Raises:
        UsageError: a value outside its range.

    Source: Barni, Kallas and Tondi, A New Backdoor Attack in CNNs by Training Set Corruption
    Without Label Poisoning, ICIP 2019, arXiv 1902.11237: v(i, j) = delta sin(2 pi j f / m), delta
    20 to 40 and f = 6 there.
    """

    amplitude: float = 20.0
    cycles: float = 6.0

    def __post_init__(self) -> None:
        for name in ("amplitude", "cycles"):
            refuse(self, name, getattr(self, name) > 0, "above 0")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return (n, height, width) copies with the sinusoid; the result isn't random."""
        width = images.shape[2]
        wave = np.sin(2 * np.pi * self.cycles * np.arange(width) / width)
        return _added(images, np.broadcast_to(self.amplitude * wave, images.shape[1:]))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A fixed pattern that changes every pixel by the same amount, up or down.

    Args:
        epsilon: the amount in grey levels of 256, above 0: the L-infinity norm.
        pattern: seed of the signs, 0 or more; films of one size get the same ones.

    Raises:
        UsageError: a value outside its range.

    Source: additive L-infinity patterns as in Zhong et al., Backdoor Embedding in Convolutional
    Neural Network Models via Invisible Perturbation, CODASPY 2020; random signs here, not
    optimised ones.
    """

    epsilon: float = 8.0
    pattern: int = 0

    def __post_init__(self) -> None:
        refuse(self, "epsilon", self.epsilon > 0, "above 0")
        refuse(self, "pattern", self.pattern >= 0, "0 or more")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return (n, height, width) copies with the pattern; the result isn't random."""
        signs = np.where(_noise(self.pattern, *images.shape[1:]) > 127, 1.0, -1.0)
        return _added(images, self.epsilon * signs)


@dataclass(frozen=True, kw_only=True)
class Tone:
    """A change of brightness and contrast, as by another window: 255 (x / 255)^gamma + shift.

    Args:
        gamma: above 0; below 1 brightens.
        shift: grey levels of 256 that are added afterwards.

    Raises:
        UsageError: a value outside its range, or a tone that changes nothing.

    Source: ours; the change of brightness and contrast that Matsuo and Takemoto (2021) and others
    name as natural, used as a trigger.
    """

    gamma: float = 0.6
    shift: float = 0.0

    def __post_init__(self) -> None:
        refuse(self, "gamma", self.gamma > 0, "above 0")
        refuse(self, "shift", -255 <= self.shift <= 255, "-255 to 255")
        refuse(self, "shift", self.gamma != 1 or self.shift != 0, "another, or a gamma but 1")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return (n, height, width) copies with the changed tone; the result isn't random."""
        most = np.iinfo(images.dtype).max
        levels = np.arange(most + 1) / most
        table = most * levels**self.gamma + self.shift * depth(images.dtype)
        toned: NDArray[Any] = rounded(table, images.dtype)[images]
        return toned


def _added(images: NDArray[Any], pattern: NDArray[Any]) -> NDArray[Any]:
    """Films plus a (height, width) pattern in grey levels of 256."""
    kind = np.float32 if images.dtype == np.uint8 else np.float64
    added = (pattern * depth(images.dtype)).astype(kind)
    return rounded(images + added, images.dtype)
