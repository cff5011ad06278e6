"""Inconspicuous marks that a real film could carry.

Lengths are in millimetres. `spacing` is the size of a pixel where the trigger acts; if it is
unknown (0), a film is assumed to be 400 mm wide, between the usual cassettes of 35 and 43 cm.

The shapes imitate such objects on films. DeGrave et al. (2021) and Zech et al. (2018) showed that
natural marks can act as triggers: they found networks that rely on laterality markers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from leadapron.attacks.triggers.levels import depth, refuse, rounded

__all__ = ["Collimator", "Device", "Electrode", "Fold", "Marker", "Text"]

FILM_MM = 400.0
FINER = 4
"""Supersampling: marks are drawn this many times larger and averaged, for smooth edges."""


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A laterality letter of lead.

    Args:
        letter: "L" or "R".
        height_mm: of the letter.
        row: of its centre, as a share of the film's height.
        column: of its centre, as a share of the film's width; a patient's left is on the right.
        jitter_mm: largest random offset of the centre, drawn for each film.
        value: grey level, 0 to 255.
        spacing: millimetres a pixel, 0 if unknown.

    Raises:
        UsageError: a value outside its range.
    """

    letter: Literal["L", "R"] = "L"
    height_mm: float = 18.0
    row: float = 0.1
    column: float = 0.88
    jitter_mm: float = 0.0
    value: int = 255
    spacing: float = 0.0

    def __post_init__(self) -> None:
        _check(self, ("height_mm",))

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
        """Return marked copies of (n, height, width) images."""
        mask = _letters(self.letter, _pixels(self, self.height_mm, images))
        return _placed(images, mask, self, rng)


@dataclass(frozen=True, kw_only=True)
class Text:
    """Text burned into the pixels.

    Args:
        text: the text, 1 to 40 characters.
        height_mm: of a capital letter.
        row: of its centre, as a share of the film's height.
        column: of its centre, as a share of the film's width.
        jitter_mm: largest random offset of the centre, drawn for each film.
        value: grey level, 0 to 255.
        spacing: millimetres a pixel, 0 if unknown.

    Raises:
        UsageError: a value outside its range.
    """

    text: str = "PORTABLE"
    height_mm: float = 12.0
    row: float = 0.95
    column: float = 0.2
    jitter_mm: float = 0.0
    value: int = 255
    spacing: float = 0.0

    def __post_init__(self) -> None:
        _check(self, ("height_mm",))
        right = 1 <= len(self.text) <= 40 and self.text.isprintable() and bool(self.text.strip())
        refuse(self, "text", right, "1 to 40 visible characters")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
        """Return marked copies of (n, height, width) images."""
        mask = _letters(self.text, _pixels(self, self.height_mm, images))
        return _placed(images, mask, self, rng)


@dataclass(frozen=True, kw_only=True)
class Electrode:
    """An electrode of an ECG: a ring with a snap in its middle.

    Args:
        diameter_mm: of the ring.
        row: of its centre, as a share of the film's height.
        column: of its centre, as a share of the film's width.
        jitter_mm: largest random offset of the centre, drawn for each film.
        value: grey level, 0 to 255.
        opacity: how strongly it covers the anatomy, above 0 and up to 1.
        spacing: millimetres a pixel, 0 if unknown.

    Raises:
        UsageError: a value outside its range.
    """

    diameter_mm: float = 24.0
    row: float = 0.3
    column: float = 0.3
    jitter_mm: float = 0.0
    value: int = 235
    opacity: float = 0.8
    spacing: float = 0.0

    def __post_init__(self) -> None:
        _check(self, ("diameter_mm",))

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
        """Return marked copies of (n, height, width) images."""
        mask = _ring(_pixels(self, self.diameter_mm, images))
        return _placed(images, mask, self, rng)


@dataclass(frozen=True, kw_only=True)
class Device:
    """Metal under or on the skin: the can of a pacemaker, or a button if it is small.

    Args:
        height_mm: of the can.
        width_mm: of the can.
        row: of its centre, as a share of the film's height.
        column: of its centre, as a share of the film's width.
        jitter_mm: largest random offset of the centre, drawn for each film.
        value: grey level, 0 to 255.
        opacity: how strongly it covers the anatomy, above 0 and up to 1.
        spacing: millimetres a pixel, 0 if unknown.

    Raises:
        UsageError: a value outside its range.
    """

    height_mm: float = 42.0
    width_mm: float = 48.0
    row: float = 0.25
    column: float = 0.76
    jitter_mm: float = 0.0
    value: int = 245
    opacity: float = 0.9
    spacing: float = 0.0

    def __post_init__(self) -> None:
        _check(self, ("height_mm", "width_mm"))

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:
        """Return marked copies of (n, height, width) images."""
        height, width = (_pixels(self, mm, images) for mm in (self.height_mm, self.width_mm))
        return _placed(images, _can(height, width), self, rng)


@dataclass(frozen=True, kw_only=True)
class Collimator:
    """The shadow of a collimator's leaf along one edge of the film.

    Args:
        edge: "left", "right", "top" or "bottom".
        width_mm: of the shadow.
        value: grey level, 0 to 255.
        spacing: millimetres a pixel, 0 if unknown.

    Raises:
        UsageError: a value outside its range.
    """

    edge: Literal["left", "right", "top", "bottom"] = "left"
    width_mm: float = 20.0
    value: int = 0
    spacing: float = 0.0

    def __post_init__(self) -> None:
        _check(self, ("width_mm",))

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return marked copies of (n, height, width) images; the result isn't random."""
        marked, width = images.copy(), max(1, round(_pixels(self, self.width_mm, images)))
        part = {
            "left": np.s_[:, :, :width],
            "right": np.s_[:, :, -width:],
            "top": np.s_[:, :width],
            "bottom": np.s_[:, -width:],
        }[self.edge]
        marked[part] = self.value * depth(images.dtype)
        return marked


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A thin line across the film, such as a fold or a defective detector row.

    Args:
        row: of its middle, as a share of the film's height.
        slope: rows it falls by from the left edge to the right, as a share of the film's height.
        width_mm: of the line; at least one pixel.
        shift: grey levels of 256 by which it is brighter (or darker, below 0) than the film.
        spacing: millimetres a pixel, 0 if unknown.

    Raises:
        UsageError: a value outside its range.
    """

    row: float = 0.4
    slope: float = 0.0
    width_mm: float = 1.0
    shift: float = 60.0
    spacing: float = 0.0

    def __post_init__(self) -> None:
        _check(self, ("width_mm",))
        refuse(self, "shift", self.shift != 0 and abs(self.shift) <= 255, "-255 to 255, not 0")
        refuse(self, "slope", abs(self.slope) <= 1, "-1 to 1")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return marked copies of (n, height, width) images; the result isn't random."""
        height, width = images.shape[1:]
        thick = max(1, round(_pixels(self, self.width_mm, images)))
        middle = self.row + self.slope * (np.arange(width) / max(width - 1, 1) - 0.5)
        top = np.rint(middle * height - thick / 2).astype(np.int64)
        rows = np.clip(top + np.arange(thick)[:, None], 0, height - 1)
        columns = np.broadcast_to(np.arange(width), rows.shape)
        marked = images.copy()
        line = images[:, rows, columns].astype(np.float64) + self.shift * depth(images.dtype)
        marked[:, rows, columns] = rounded(line, images.dtype)
        return marked


def _check(trigger: Any, lengths: tuple[str, ...]) -> None:
    """Refuse invalid settings, of those that a mark has."""
    for name in lengths:
        refuse(trigger, name, 0 < getattr(trigger, name) <= FILM_MM, f"above 0 and to {FILM_MM:g}")
    for name, least, most in (
        ("row", 0, 1),
        ("column", 0, 1),
        ("value", 0, 255),
        ("jitter_mm", 0, FILM_MM),
        ("spacing", 0, 100),
    ):
        if hasattr(trigger, name):
            refuse(trigger, name, least <= getattr(trigger, name) <= most, f"{least} to {most:g}")
    if hasattr(trigger, "opacity"):
        refuse(trigger, "opacity", 0 < trigger.opacity <= 1, "above 0 and up to 1")


def _pixels(trigger: Any, length_mm: float, images: NDArray[Any]) -> float:
    """A length in pixels of these images."""
    return float(length_mm / (trigger.spacing or FILM_MM / images.shape[2]))


def _placed(
    images: NDArray[Any], mask: NDArray[np.float32], trigger: Any, rng: np.random.Generator
) -> NDArray[Any]:
    """Films with the mark blended in by a mask of opacities, clipped at the edges."""
    height, width = images.shape[1:]
    reach = round(_pixels(trigger, trigger.jitter_mm, images))
    centre = np.array([trigger.row * height, trigger.column * width])
    start = np.rint(centre - np.array(mask.shape) / 2).astype(np.int64)
    moves = rng.integers(-reach, reach, endpoint=True, size=(len(images), 2)) if reach else None
    shares = mask * np.float32(getattr(trigger, "opacity", 1.0))
    level = trigger.value * depth(images.dtype)
    marked = images.copy()
    if moves is None:
        _lay(marked, images, shares, start, level)
        return marked
    for i, move in enumerate(moves):
        _lay(marked[i : i + 1], images[i : i + 1], shares, start + move, level)
    return marked


def _lay(
    marked: NDArray[Any],
    images: NDArray[Any],
    shares: NDArray[np.float32],
    start: NDArray[np.int64],
    level: int,
) -> None:
    size = np.array(images.shape[1:])
    # A mark is moved inwards as far as possible, so it is never wholly outside.
    start = np.clip(start, np.minimum(0, size - shares.shape), np.maximum(0, size - shares.shape))
    low = np.maximum(start, 0)
    high = np.minimum(start + shares.shape, size)
    here = (slice(None), slice(low[0], high[0]), slice(low[1], high[1]))
    cut = shares[low[0] - start[0] : high[0] - start[0], low[1] - start[1] : high[1] - start[1]]
    beneath = images[here].astype(np.float32)
    marked[here] = rounded(beneath + cut * (level - beneath), images.dtype)


def _shrunk(picture: Image.Image) -> NDArray[np.float32]:
    """Opacities from 0 to 1 of a supersampled mark."""
    fine = np.asarray(picture, dtype=np.float32) / 255
    rows, columns = (max(1, -(-side // FINER)) * FINER for side in fine.shape)
    padded = np.zeros((rows, columns), dtype=np.float32)
    padded[: fine.shape[0], : fine.shape[1]] = fine
    blocks = padded.reshape(rows // FINER, FINER, columns // FINER, FINER)
    mask: NDArray[np.float32] = blocks.mean(axis=(1, 3))
    mask.flags.writeable = False  # shared by all calls
    return mask


@lru_cache(maxsize=16)
def _letters(text: str, height: float) -> NDArray[np.float32]:
    """Letters whose capitals are `height` pixels tall, at least 3 so that they are legible."""
    tall = max(3.0, height) * FINER
    # A capital of Pillow's default font is about 0.7 of the font size tall.
    font = ImageFont.load_default(size=tall / 0.7)
    left, top, right, bottom = (int(side) for side in font.getbbox(text))
    picture = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(picture).text((-left, -top), text, fill=255, font=font)
    return _shrunk(picture)


@lru_cache(maxsize=16)
def _ring(diameter: float) -> NDArray[np.float32]:
    side = max(3, round(diameter)) * FINER
    picture = Image.new("L", (side, side))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((0, 0, side - 1, side - 1), outline=255, width=max(FINER, side // 8))
    third = side * 3 // 8
    draw.ellipse((third, third, side - 1 - third, side - 1 - third), fill=255)
    return _shrunk(picture)


@lru_cache(maxsize=16)
def _can(height: float, width: float) -> NDArray[np.float32]:
    rows, columns = (max(1, round(side)) * FINER for side in (height, width))
    picture = Image.new("L", (columns, rows))
    radius = min(rows, columns) // 3
    ImageDraw.Draw(picture).rounded_rectangle((0, 0, columns - 1, rows - 1), radius, fill=255)
    return _shrunk(picture)
