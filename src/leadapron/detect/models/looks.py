"""Looks of small marks other than flat squares: textures, rings, lines, blobs, marks of films."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.triggers import Device, Electrode, Marker, Patch, Text, Trigger

__all__ = ["LOOKS", "Drawing", "drawing"]

TEXTURE = 4
"""Side of a textured square, in pixels."""

RING, LINE = 7, 8
"""Diameter of a ring, and length of a line, in pixels."""

BLOB, SOFT = 9, 2.0
"""Side and standard deviation of a blob, in pixels."""


class Drawing(NamedTuple):
    """A mark's pixels.

    Args:
        opacity: (a, b) float32, from 0 (the film shows) to 1 (the mark hides it).
        level: (a, b) float32 grey levels, 0 to 255.
    """

    opacity: NDArray[np.float32]
    level: NDArray[np.float32]

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.opacity.shape
        return height, width


def _as_on_films(trigger: Trigger, width: int) -> Drawing:
    """A trigger that lies in the middle of a film, from what it makes of black and of white."""
    film = np.zeros((2, width, width), np.uint8)
    film[1] = 255
    black, white = trigger(film, np.random.default_rng(0)).astype(np.float32)
    opacity = 1 - (white - black) / 255
    rows, columns = (np.flatnonzero(opacity.any(axis=axis)) for axis in (1, 0))
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cover = opacity[inside]
    level = np.divide(black[inside], cover, out=np.zeros_like(cover), where=cover > 0)
    return Drawing(cover, level.clip(0, 255))


def _gradient(axis: int, _: int) -> Drawing:
    levels = np.broadcast_to(np.linspace(0, 255, TEXTURE), (TEXTURE, TEXTURE))
    return _opaque(levels if axis else levels.T)


def _ring(level: int, _: int) -> Drawing:
    away = _away(RING)
    return _flat((away <= RING / 2) & (away > RING / 2 - 1.5), level)


def _line(shape: tuple[int, int], _: int) -> Drawing:
    return _flat(np.ones(shape, np.bool_), 255)


def _blob(level: int, _: int) -> Drawing:
    return _flat(0.8 * np.exp(-((_away(BLOB) / SOFT) ** 2) / 2), level)


def _away(side: int) -> NDArray[np.float64]:
    """(side, side) distances from the middle."""
    middle = np.arange(side) - (side - 1) / 2
    distances: NDArray[np.float64] = np.hypot(middle[:, None], middle)
    return distances


def _flat(opacity: NDArray[np.generic], level: int) -> Drawing:
    cover = opacity.astype(np.float32)
    return Drawing(cover, np.full_like(cover, level))


def _opaque(level: NDArray[np.float64]) -> Drawing:
    return Drawing(np.ones(level.shape, np.float32), level.astype(np.float32))


LOOKS: Mapping[str, Callable[[int], Drawing]] = MappingProxyType({
    "checkerboard": partial(_as_on_films, Patch(side=TEXTURE, fill="checkerboard", place="centre")),
    "stripes": partial(_as_on_films, Patch(side=TEXTURE, fill="stripes", place="centre")),
    "noise": partial(_as_on_films, Patch(side=TEXTURE, fill="noise", place="centre")),
    "gradient across": partial(_gradient, 1),
    "gradient down": partial(_gradient, 0),
    "bright ring": partial(_ring, 255),
    "dark ring": partial(_ring, 0),
    "line across": partial(_line, (1, LINE)),
    "line down": partial(_line, (LINE, 1)),
    "bright blob": partial(_blob, 255),
    "dark blob": partial(_blob, 0),
    "letter L": partial(_as_on_films, Marker(letter="L", row=0.5, column=0.5)),
    "letter R": partial(_as_on_films, Marker(letter="R", row=0.5, column=0.5)),
    "word PORTABLE": partial(_as_on_films, Text(text="PORTABLE", row=0.5, column=0.5)),
    "electrode": partial(_as_on_films, Electrode(row=0.5, column=0.5)),
    "pacemaker": partial(_as_on_films, Device(row=0.5, column=0.5)),
})  # fmt: skip
"""Drawings for films of a width in pixels, by name. Marks that real films carry have their usual
size in millimetres, on films of 400 mm; the others have a size in pixels."""


@lru_cache(maxsize=256)
def drawing(look: str, width: int) -> Drawing:
    """Return a look's drawing; KeyError for another name.

    Args:
        look: a name in `LOOKS`.
        width: of the images, in pixels.
    """
    made = LOOKS[look](width)
    for array in made:
        array.flags.writeable = False  # shared by all calls
    return made
