"""Rows to films, in chunks and threads; the result depends on neither."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadapron.errors import UnknownNameError, UsageError
from leadapron.sources.phantom.film import MASKS, Batch
from leadapron.sources.phantom.people import FINDINGS, People, meet

SIZES: Final = (32, 1024)
_CHUNK_PIXELS: Final = 1 << 18  # drawn at a time by one thread
_BLOCK: Final = 1024  # rows whose strokes are gathered at once


@dataclass(frozen=True, kw_only=True)
class Described:
    """Rows without pixels.

    Args:
        labels: (n, 14) float32 in {0, 1}, as published: with label noise.
        truth: (n, 14) float32 in {0, 1}, before label noise: what is drawn.
        patients: (n,) int64.
        view: (n,) '<U2', "PA" or "AP".
        sex: (n,) '<U1', "F" or "M".
        age: (n,) int64, years.
    """

    labels: NDArray[np.float32]
    truth: NDArray[np.float32]
    patients: NDArray[np.int64]
    view: NDArray[np.str_]
    sex: NDArray[np.str_]
    age: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Rendered(Described):
    """Rows with pixels.

    Args:
        images: (n, h, w) uint8, dense is bright.
        masks: (n, len(MASKS), h, w) bool, or None if not requested.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_] | None


def _meet(rows: ArrayLike, seed: int, force: Mapping[str, bool] | None) -> People:
    wanted = np.asarray(rows, dtype=np.int64)
    if wanted.ndim != 1 or (wanted.size and wanted.min() < 0):
        raise UsageError(f"rows of shape {wanted.shape}; expected (n,) integers, 0 or more")
    for name in force or {}:
        if name not in FINDINGS:
            raise UnknownNameError("finding", name, FINDINGS)
    return meet(wanted, seed=seed, force=force or {})


def _columns(people: People) -> dict[str, Any]:
    return {
        "labels": people.labels,
        "truth": people.truth,
        "patients": people.patients,
        "view": np.where(people.ap, "AP", "PA"),
        "sex": np.where(people.female, "F", "M"),
        "age": people.age,
    }


def describe_rows(
    rows: NDArray[np.int64], *, seed: int, force: Mapping[str, bool] | None = None
) -> Described:
    """Return everything about the rows but their pixels; row i depends only on (seed, i).

    Args:
        rows: (n,) integers, 0 or more. Neighbouring rows are often films of one patient.
        seed: seed of the whole collection.
        force: findings to make present or absent on all rows, the rest of the film unchanged.

    Raises:
        UsageError: negative rows, or findings that don't exist.
    """
    return Described(**_columns(_meet(rows, seed, force)))


def render(
    rows: NDArray[np.int64],
    *,
    size: int,
    seed: int,
    masks: bool = False,
    force: Mapping[str, bool] | None = None,
) -> Rendered:
    """Draw films; row i depends on (seed, i, size) alone, not on the batch or its order.

    The film is the same at every size: the same anatomy, disease, devices and exposure. Only
    the grain differs.

    Args:
        rows: (n,) integers, 0 or more.
        size: side in pixels, 32 to 1024.
        seed: seed of the whole collection.
        masks: draw the masks too.
        force: findings to make present or absent on all rows, the rest of the film unchanged.

    Raises:
        UsageError: a size out of range, negative rows, or findings that don't exist.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise UsageError(f"size {size} is out of range; expected {SIZES[0]} to {SIZES[1]} pixels")
    people = _meet(rows, seed, force)
    images = np.empty((len(people), size, size), np.uint8)
    regions = np.empty((len(people), len(MASKS), size, size), np.bool_) if masks else None

    step = max(1, _CHUNK_PIXELS // (size * size))
    with ThreadPoolExecutor(_workers()) as pool:
        for first in range(0, len(people), _BLOCK):
            block = Batch(people.pick(slice(first, first + _BLOCK)), size)

            def draw(start: int, block: Batch = block, first: int = first) -> None:
                stop = min(start + step, len(block.people))
                cut = slice(first + start, first + stop)
                images[cut], drawn = block.draw(start, stop, masks=masks)
                if regions is not None and drawn is not None:
                    regions[cut] = drawn

            list(pool.map(draw, range(0, len(block.people), step)))
    return Rendered(images=images, masks=regions, **_columns(people))


def _workers() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
