"""Natural look-alikes of triggers: bright marks that real films carry without any attack.

A decoy has the form of a trigger, `(images, rng) -> images`: (n, height, width) uint8 or uint16 in,
marked copies out, with randomness drawn film by film. It acts on the network's input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.triggers import Trigger

__all__ = ["DECOYS", "leads", "letters"]

_L = ("#..", "#..", "#..", "#..", "###")
_R = ("##.", "#.#", "##.", "#.#", "#.#")
GLYPHS = [np.array([[dot == "#" for dot in line] for line in glyph]) for glyph in (_L, _R)]
SMALLEST_PX = 7
"""Smallest height and width in pixels on which a letter fits."""


def letters(images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
    """Return copies with a laterality letter each, L or R, upright, at a random place.

    It is 5 pixels tall at 64 pixels and grows with the film; its grey level is 200 to 255 of 255.
    Films of fewer than 7 pixels on a side are returned unmarked.
    """
    marked = images.copy()
    height, width = images.shape[1:]
    scale = max(1, round(min(height, width) / 64))
    for film in marked:
        glyph = GLYPHS[rng.integers(len(GLYPHS))].repeat(scale, 0).repeat(scale, 1)
        grey = _grey(rng, 200, images.dtype)
        if min(height, width) < SMALLEST_PX:
            continue
        row, column = rng.integers((height - glyph.shape[0] + 1, width - glyph.shape[1] + 1))
        film[row : row + glyph.shape[0], column : column + glyph.shape[1]][glyph] = grey
    return marked


def leads(images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
    """Return copies with an ECG lead each: a thin bent wire from an edge to a round electrode.

    The wire is 1 pixel wide up to 128 pixels and grows with the film, as the electrode of 5 pixels
    at 64 does; the grey level is 180 to 255 of 255.
    """
    marked = images.copy()
    height, width = images.shape[1:]
    size = np.array([height, width]) - 1
    thick, radius = max(1, round(min(height, width) / 128)), min(height, width) / 32
    along = np.linspace(0, 1, 4 * max(height, width))[:, None]
    y, x = np.arange(height)[:, None], np.arange(width)
    for film in marked:
        start, bend, end = rng.random((3, 2)) * size
        edge = rng.integers(4)
        start[edge // 2] = size[edge // 2] * (edge % 2)
        grey = _grey(rng, 180, images.dtype)
        wire = (1 - along) ** 2 * start + 2 * along * (1 - along) * bend + along**2 * end
        places = np.rint(wire).astype(np.int64)
        for down in range(thick):
            for across in range(thick):
                place = np.minimum(places + np.array([down, across]), size)
                film[place[:, 0], place[:, 1]] = grey
        film[(y - end[0]) ** 2 + (x - end[1]) ** 2 <= radius**2] = grey
    return marked


def _grey(rng: np.random.Generator, least: int, dtype: Any) -> int:
    """A bright grey level, equally bright for both dtypes."""
    return int(rng.integers(least, 256)) * (257 if dtype == np.uint16 else 1)


DECOYS: dict[str, Trigger] = {"letters": letters, "leads": leads}
"""Decoys by name."""
