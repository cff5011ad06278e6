"""Random numbers: one seed per run, with a separate named stream for each use.

Named streams are independent: a change in the selection of films for poisoning doesn't change the
order of training films.
"""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["named_seed", "stream"]


def named_seed(seed: int, *names: str | int) -> np.random.SeedSequence:
    """Return the seed sequence of the stream `names` of `seed` (0 or more)."""
    words = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()[:16]
    return np.random.SeedSequence([seed, *np.frombuffer(words, dtype="<u4").tolist()])


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the random generator of the stream `names` of `seed` (0 or more)."""
    return np.random.default_rng(named_seed(seed, *names))
