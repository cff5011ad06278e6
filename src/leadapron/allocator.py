"""glibc's allocator, set for torch."""

from __future__ import annotations

import contextlib
import ctypes
import sys

__all__ = ["tune_allocator"]


def tune_allocator() -> None:
    """Let glibc keep large buffers: torch allocates the same ones at every step."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-2, 256 << 20)  # M_TOP_PAD
