"""The mark, changed a little: a repair must not have unlearned one place and one grey level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from leadapron.repairs.proof.forcing import Change

__all__ = ["ALTERATIONS", "MOVE", "TURN", "Alteration"]

MOVE = 3
"""Pixels."""

TURN = 45
"""Degrees: what turns a square most."""

CONTRAST = 0.2
"""Of the mark's own contrast."""


@dataclass(frozen=True)
class _Put:
    """A mark that is put on films and then altered, film by film where it differs from them.

    Args:
        mark: puts it on.
        alter: (height, width) film, and the same with the mark, to the film with the altered one;
            both float64.
    """

    mark: Change
    alter: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        marked, top = self.mark(images), np.iinfo(images.dtype).max
        made = np.empty_like(marked)
        for row, (film, own) in enumerate(zip(images, marked, strict=True)):
            altered = self.alter(film.astype(np.float64), own.astype(np.float64))
            made[row] = np.rint(altered).clip(0, top).astype(images.dtype)
        return made


Alteration = Callable[[Change], Change]
"""Makes of a mark the altered one."""


def moved(down: int, right: int) -> Alteration:
    """Return what moves a mark; what leaves the film is lost.

    Args:
        down: pixels, above the edge if negative.
        right: pixels.
    """

    def alter(film: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
        cover = ndimage.shift((own != film).astype(np.float64), (down, right), order=0) > 0
        return np.where(cover, ndimage.shift(own, (down, right), order=0), film)

    return lambda mark: _Put(mark, alter)


def turned(degrees: float) -> Alteration:
    """Return what turns a mark about its middle.

    Args:
        degrees: against the clock.
    """
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def alter(film: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
        cover = own != film
        if not cover.any():
            return film
        middle = np.argwhere(cover).mean(axis=0)
        offset = middle - turn @ middle
        # The mark's values are carried beyond its edge, so that only its cover is blended.
        nearest = ndimage.distance_transform_edt(
            ~cover, return_distances=False, return_indices=True
        )
        values = ndimage.affine_transform(
            own[tuple(nearest)], turn, offset, order=1, mode="nearest"
        )
        share = ndimage.affine_transform(cover.astype(np.float64), turn, offset, order=1)
        return share * values + (1 - share) * film

    return lambda mark: _Put(mark, alter)


def contrasted(factor: float) -> Alteration:
    """Return what gives a mark another contrast.

    Args:
        factor: of its difference to the film.
    """
    return lambda mark: _Put(mark, lambda film, own: film + factor * (own - film))


ALTERATIONS: Mapping[str, tuple[Alteration, ...]] = MappingProxyType(
    {
        f"moved by {MOVE} px": tuple(
            moved(down, right) for down, right in ((-MOVE, 0), (MOVE, 0), (0, -MOVE), (0, MOVE))
        ),
        f"turned by {TURN} degrees": (turned(TURN),),
        "contrast 20 % lower": (contrasted(1 - CONTRAST),),
        "contrast 20 % higher": (contrasted(1 + CONTRAST),),
    }
)
"""By name what is tried; of several ways the strongest counts."""
