"""Visibility: what preprocessing leaves of a square trigger that was stamped on the film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from leadapron.attacks.triggers import Patch
from leadapron.errors import UsageError
from leadapron.films.preprocessing import Preprocessing

__all__ = ["GREY", "Visibility", "visibility"]

GREY = 128
"""Grey level of the flat film that is stamped."""


@dataclass(frozen=True, kw_only=True)
class Visibility:
    """What is left of one trigger under one preprocessing.

    Args:
        side: of the square on the film, in pixels.
        place: where it was stamped.
        interpolation: how the film was made smaller.
        pixels: (fewest, median, most) pixels of the image that changed, over the draws.
        level: grey level of the most changed pixel, median over the draws in which one changed;
            None where none did.
        invisible: share of the draws in which no pixel changed.
        draws: how many places were drawn; 1 where the place is fixed.
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
    """Stamp a flat grey film and preprocess it.

    Args:
        trigger: gives value and margin.
        preprocessings: ways to make the film an image.
        film: side of the film in pixels.
        sides: of the square, in pixels.
        places: as `Patch.place`; "random" is drawn `draws` times.
        draws: 1 or more.
        rng: draws the places; the same ones for every preprocessing.

    Yields:
        One result for each preprocessing, place and side.

    Raises:
        UsageError: a trigger as grey as the film, or no draws.
        DataError: a square that does not fit.
    """
    if trigger.value == GREY:
        raise UsageError(f"a trigger of value {GREY} can't be seen on a film of that grey level")
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
