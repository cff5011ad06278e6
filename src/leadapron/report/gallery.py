"""The gallery: films, the trigger's place and both models' maps on a common scale."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Film", "Gallery", "Mark", "circle", "gallery", "grey", "grey_png", "palette", "steps"]

_COLOURS = 64
_OPAQUE = 0.85  # opacity of the map's highest value


@dataclass(frozen=True)
class Mark:
    """A place on a film, in pixels of the film: (x, y), and a radius for a circle."""

    x: float
    y: float
    radius: float = 0.0


@dataclass(frozen=True)
class Film:
    """One film of the gallery.

    Args:
        clean, triggered: PNG data URIs of the film.
        maps: PNG data URIs of each model's map, transparent where it is low.
        peaks: position of each map's maximum.
        trigger: circle around the trigger; None if it covers most of the film or nothing.
        probabilities: of the target: (regime, model) -> value.
    """

    clean: str
    triggered: str
    maps: Mapping[str, str]
    peaks: Mapping[str, Mark]
    trigger: Mark | None
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class Gallery:
    """Films on a common scale.

    Args:
        films: in the order of the file.
        height, width: of the films, in pixels.
        scale: the maps' highest value, the end of the colour scale.
        bar: PNG data URI of the colours from 0 to `scale`.
        total: number of films in the file.
    """

    films: tuple[Film, ...]
    height: int
    width: int
    scale: float
    bar: str
    total: int


def gallery(arrays: Mapping[str, NDArray[Any]], *, most: int) -> Gallery | None:
    """Return the drawing of a `gallery.npz`; None if it holds no films.

    Args:
        arrays: the file's arrays.
        most: most films to draw; the scale is that of all films.
    """
    films = arrays["films"]
    if not len(films):
        return None
    maps = {model: arrays[f"{model}_maps"] for model in ("twin", "backdoored")}
    scale = max(float(np.max(values, initial=0.0)) for values in maps.values())
    top = int(np.iinfo(films.dtype).max) if films.dtype.kind == "u" else 255
    shown = [_film(arrays, maps, row, (scale, top)) for row in range(min(most, len(films)))]
    ramp = np.linspace(0, 1, 4 * _COLOURS)[None].repeat(12, axis=0)
    height, width = films.shape[1:]
    return Gallery(tuple(shown), height, width, scale, _colour_png(ramp), len(films))


def _film(
    arrays: Mapping[str, NDArray[Any]],
    maps: Mapping[str, NDArray[Any]],
    row: int,
    scales: tuple[float, int],
) -> Film:
    scale, top = scales
    names = ("twin clean", "twin triggered", "backdoored clean", "backdoored triggered")
    peaks = {}
    for model, values in maps.items():
        y, x = np.unravel_index(int(np.argmax(values[row])), values[row].shape)
        peaks[model] = Mark(float(x) + 0.5, float(y) + 0.5)
    return Film(
        clean=grey_png(arrays["films"][row], top),
        triggered=grey_png(arrays["triggered"][row], top),
        maps={
            model: _colour_png(values[row] / scale if scale > 0 else np.zeros_like(values[row]))
            for model, values in maps.items()
        },
        peaks=peaks,
        trigger=circle(arrays["footprints"][row]),
        probabilities=dict(zip(names, map(float, arrays["probabilities"][row]), strict=True)),
    )


def circle(footprint: NDArray[Any]) -> Mark | None:
    """Return a circle around an (h, w) footprint; None if it covers nothing or most of the film."""
    ys, xs = np.nonzero(footprint)
    if not ys.size:
        return None
    tall, wide = (int(values.max() - values.min()) + 1 for values in (ys, xs))
    height, width = footprint.shape
    if tall > height / 2 or wide > width / 2:
        return None
    radius = math.hypot(tall, wide) / 2 + 0.035 * max(height, width)
    return Mark(float(xs.min()) + wide / 2, float(ys.min()) + tall / 2, round(radius, 2))


def grey(film: NDArray[Any], top: int) -> NDArray[np.uint8]:
    """Return a film whose white is `top` as (h, w) of 0 to 255."""
    scaled = film if top == 255 else np.rint(film.astype(np.float64) * (255 / top))
    levels: NDArray[np.uint8] = scaled.astype(np.uint8)
    return levels


def palette() -> NDArray[np.uint8]:
    """Return the maps' (colours, 4) red, green, blue and opacity, from low to high."""
    import matplotlib as mpl

    share = np.linspace(0, 1, _COLOURS)
    colours = mpl.colormaps["plasma"](share)
    colours[:, 3] = _OPAQUE * share**0.8
    levels: NDArray[np.uint8] = np.rint(255 * colours).astype(np.uint8)
    return levels


def steps(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return each value's index in the palette, for values from 0 to 1; lower ones get 0."""
    shares = np.clip(np.nan_to_num(values), 0, 1)
    places: NDArray[np.uint8] = np.rint(shares * (_COLOURS - 1)).astype(np.uint8)
    return places


def grey_png(film: NDArray[Any], top: int) -> str:
    """Return a film whose white is `top` as a PNG data URI."""
    return _data_uri(Image.fromarray(grey(film, top)))


def _colour_png(values: NDArray[Any]) -> str:
    """A map from 0 to 1 in a small palette with increasing opacity."""
    places, colours = steps(values), palette()
    picture = Image.frombytes("P", (places.shape[1], places.shape[0]), places.tobytes())
    picture.putpalette(colours[:, :3].tobytes())
    return _data_uri(picture, transparency=colours[:, 3].tobytes())


def _data_uri(picture: Image.Image, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
