"""Grey levels of both dtypes, and the protocol of triggers."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import UsageError

__all__ = ["Trigger", "depth", "refuse", "rounded"]


class Trigger(Protocol):
    """A function that marks films."""

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
        """Return marked copies of (n, height, width) images."""
        ...


def depth(dtype: Any) -> int:
    """Return the step of one of 256 grey levels: 1 for uint8, 257 for uint16."""
    return 257 if dtype == np.uint16 else 1


def rounded(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return values as whole grey levels within the type's range; `values` is overwritten."""
    np.rint(values, out=values)
    np.clip(values, 0, np.iinfo(dtype).max, out=values)
    return values.astype(dtype)


def refuse(trigger: object, name: str, right: bool, expected: str) -> None:
    """Raise UsageError unless a trigger's setting is valid."""
    if not right:
        raise UsageError(f"a trigger's {name} of {getattr(trigger, name)!r}; expected {expected}")
