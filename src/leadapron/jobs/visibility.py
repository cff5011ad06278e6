"""Visibility: how much of a square trigger on the film preprocessing leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from leadapron.attacks.triggers import Patch
from leadapron.errors import UsageError
from leadapron.films.preprocessing import Preprocessing

__all__ = ["GREY", "Visibility", "visibility"]

GREY = 128
"""Grey level of the uniform film that is stamped."""


@dataclass(frozen=True, kw_only=True)
class Visibility:
    """The remains of one trigger after one preprocessing.

    Args:
        side: side of the square on the film, in pixels.
        place: where it was stamped.
        interpolation: how the film was resized.
        pixels: (fewest, median, most) changed pixels of the image, over the draws.
        level: grey level of the most changed pixel, median over the draws in which one changed;
            None if no pixel ever changed.
        invisible: share of the draws in which no pixel changed.
        draws: number of random places; 1 if the place is fixed.
    """

    side: int
    place: str
    interpolation: str
    pixels: tuple[int, int, int]
    level: int | None
    invisible: float
    draws: int


def visibility(
    trigger: Patch,
    preprocessings: Sequence[Preprocessing],
    *,
    film: int,
    sides: Sequence[int],
    places: Sequence[str],
    draws: int,
    rng: np.random.Generator,
) -> Iterator[Visibility]:
    """Stamp a uniform grey film and preprocess it.

    Args:
        trigger: its value and margin are used.
        preprocessings: the preprocessings to compare.
        film: side of the film in pixels.
        sides: sides of the square in pixels.
        places: as `Patch.place`; "random" is drawn `draws` times.
        draws: 1 or more.
        rng: draws the places; the same places for every preprocessing.

    Yields:
        One result for each preprocessing, place and side.

    Raises:
        UsageError: a trigger with the film's grey level, or no draws.
        DataError: a square that doesn't fit the film.
    """
    if trigger.value == GREY:
        raise UsageError(f"a trigger of value {GREY} is invisible on a film of that grey level")
    if draws < 1:
        raise UsageError(f"`draws` {draws}: expected 1 or more")
    flat = np.full((1, film, film), GREY, np.uint8)
    seed = int(rng.integers(2**32))
    for preprocessing in preprocessings:
        clean = preprocessing(flat[0])
        for place in places:
            for side in sides:
                mark = Patch(side=side, value=trigger.value, place=place, margin=trigger.margin)  # type: ignore[arg-type]
                count = draws if place == "random" else 1
                here = np.random.default_rng([seed, side])
                changes = [
                    np.abs(preprocessing(mark(flat, here)[0]).astype(int) - clean)
                    for _ in range(count)
                ]
                seen = np.array([np.count_nonzero(change) for change in changes])
                most = [int(change.max()) for change in changes if change.any()]
                sign = 1 if trigger.value > GREY else -1
                yield Visibility(
                    side=side,
                    place=place,
                    interpolation=preprocessing.interpolation,
                    pixels=(int(seen.min()), int(np.median(seen)), int(seen.max())),
                    level=GREY + sign * int(np.median(most)) if most else None,
                    invisible=float(np.mean(seen == 0)),
                    draws=count,
                )
