"""The methods of a scan, by name: each has one line here and one module in this package."""

from __future__ import annotations

from functools import partial
from typing import Any

from leadapron.detect.films.association import Associations
from leadapron.detect.films.marks import Repeated
from leadapron.detect.films.method import FilmMethod
from leadapron.detect.films.repeats import anywhere, at_places, textures
from leadapron.detect.films.signatures import Signatures
from leadapron.plugins import Registry

__all__ = ["AT_A_PLACE", "METHODS"]

AT_A_PLACE = "marks at a place"


def _code(method: FilmMethod) -> Any:
    """What decides what a method does: of marks, how they are listed."""
    return method.listing if isinstance(method, Repeated) else method


METHODS: Registry[FilmMethod] = Registry(
    "film_method",
    {
        AT_A_PLACE: Repeated(at_places),
        "marks anywhere": Repeated(anywhere),
        "textures at a place": Repeated(partial(textures, placed=True)),
        "textures anywhere": Repeated(partial(textures, placed=False)),
        "signatures": Signatures(),
        "associations": Associations(),
    },
    _code,
)
"""All are tried, each on all places and findings at once. Each that a plugin adds makes the share
of the false-alarm rate that the others get smaller."""
