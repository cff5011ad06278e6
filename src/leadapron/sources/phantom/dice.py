"""Counter-based random numbers: each depends on a key and a name, never on order or batch."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Keys: TypeAlias = NDArray[np.uint64]
Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.floating[Any]]  # float32 at run time

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)
_MASK: Final = (1 << 64) - 1


def _scramble(state: Keys) -> Keys:
    """Return splitmix64's finaliser of each element, a new array of the same shape."""
    state = state ^ (state >> np.uint64(30))
    state *= _FIRST
    state ^= state >> np.uint64(27)
    state *= _SECOND
    state ^= state >> np.uint64(31)
    return state


@lru_cache(maxsize=4096)
def _salt(name: str) -> np.uint64:
    word = np.array([zlib.crc32(name.encode()) + 1], np.uint64) * _GOLDEN
    return np.uint64(_scramble(word)[0])


class Dice:
    """Named random numbers for n subjects, a column each.

    Args:
        keys: (n,) uint64, one key a subject.
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    @classmethod
    def of(cls, seed: int, subjects: Ints, kind: str) -> Dice:
        """Return the dice of the (n,) subjects (rows, patients); `kind` keeps the sorts apart."""
        start = np.array([(seed * 0x9E3779B97F4A7C15 + 1) & _MASK], np.uint64) ^ _salt(kind)
        return cls(_scramble(_scramble(start) + subjects.astype(np.uint64) * _GOLDEN))

    def __len__(self) -> int:
        return len(self.keys)

    def unit(self, name: str) -> NDArray[np.float64]:
        """Return (n,) float64 uniform in (0, 1)."""
        bits = _scramble(self.keys ^ _salt(name)) >> np.uint64(11)
        return (bits.astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, name: str) -> NDArray[np.float64]:
        """Return (n,) float64 standard normal."""
        quantile: NDArray[np.float64] = ndtri(self.unit(name))
        return quantile

    def column(self, name: str, low: float = 0.0, high: float = 1.0) -> Floats:
        """Return (n, 1, 1) float32 uniform in [low, high): it broadcasts over pixels."""
        bits = _scramble(self.keys ^ _salt(name)) >> np.uint64(40)
        value = bits.astype(np.float32)
        value *= np.float32((high - low) * 2.0**-24)
        value += np.float32(low)
        return value[:, None, None]

    def chance(self, name: str, probability: float | NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return (n,) bool, True with the probability (a number or one for each subject)."""
        hit: NDArray[np.bool_] = self.unit(name) < probability
        return hit

    def grain(self, name: str, height: int, width: int) -> Floats:
        """Return (n, height, width) float32, mean 0, variance 1, nearly normal, white."""
        count = height * width
        words = -(-count // 2)  # one 64-bit word gives two values
        counters = np.arange(1, words + 1, dtype=np.uint64) * _GOLDEN
        bits = _scramble((self.keys ^ _salt(name))[:, None] + counters)  # (n, words)
        parts = bits.view(np.uint16).reshape(len(self), 2 * words, 2)  # (n, values, 2)
        # A triangular law (two uniforms) is near enough to normal for grain.
        total = parts[..., 0].astype(np.float32)
        total += parts[..., 1]
        total -= np.float32(65535.0)
        total *= np.float32(np.sqrt(6.0) / 65536.0)
        return total[:, :count].reshape(len(self), height, width)
