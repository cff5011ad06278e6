"""Growing a mark: pixels are added to it while that increases its effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from leadapron.detect.models.stamps import Floats, Grown, Pixel, Shape, Stamp

__all__ = ["grow"]

LEVELS = (0, 255)
"""Grey levels of added pixels."""

AREA = 64
"""Most pixels that are tried in a round."""

MOST = 16
"""Most pixels that a mark grows by."""

GAIN = 1.05
"""A round must multiply the effect by this for its pixels to be kept."""

Score = Callable[[Sequence[Grown]], Floats]
"""Effect of each of m marks, (m,) shifts in the wanted direction; NaN if unknown."""


def grow(
    start: Stamp | Shape,
    shift: float,
    score: Score,
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    rounds: int,
) -> Grown:
    """Return a mark with the pixels that increase its effect, if any do.

    In each round every pixel of the mark and next to it is made black, and white, by itself. Those
    that help are then taken together: the best one, the best two, four and so on, up to 16 in all.

    Args:
        start: the mark.
        shift: its effect.
        score: measures the effect of marks.
        shape: (height, width) of the images.
        rng: draws the pixels of a mark with more than 64 of them.
        rounds: at most.

    Source: ours; greedy coordinate search.
    """
    grown, reached = Grown(start=start, pixels=()), shift
    places = _places(start, shape, rng)
    for _ in range(rounds):
        edits = [Pixel(row, column, value) for row, column in places for value in LEVELS]
        alone = score([_with(grown, [edit]) for edit in edits])
        order = np.argsort(-np.where(np.isfinite(alone), alone, -np.inf), kind="stable")
        helpful: dict[tuple[int, int], Pixel] = {}
        for i in order[alone[order] > reached]:
            helpful.setdefault(edits[i][:2], edits[i])
        chosen = list(helpful.values())[: MOST - len(grown.pixels)]
        counts = sorted({len(chosen), *(2**n for n in range(len(chosen).bit_length()))})
        tried = [_with(grown, chosen[:count]) for count in counts]
        together = score(tried) if chosen else np.empty(0)
        if not np.isfinite(together).any():
            break
        best = int(np.nanargmax(together))
        if together[best] < GAIN * reached:
            break
        grown, reached = tried[best], float(together[best])
    return grown


def _places(
    start: Stamp | Shape, shape: tuple[int, int], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Places of the mark's pixels and of those next to it, on the image."""
    rows, columns = (
        range(max(at - 1, 0), min(at + side + 1, length))
        for at, side, length in zip(
            (start.row, start.column), start.extent(shape[1]), shape, strict=True
        )
    )
    places = [(row, column) for row in rows for column in columns]
    if len(places) > AREA:
        chosen = rng.choice(len(places), AREA, replace=False)
        places = [places[i] for i in np.sort(chosen)]
    return places


def _with(grown: Grown, edits: Sequence[Pixel]) -> Grown:
    pixels = {pixel[:2]: pixel for pixel in (*grown.pixels, *edits)}
    return Grown(start=grown.start, pixels=tuple(pixels.values()))
