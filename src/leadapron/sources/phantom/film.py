"""From what the beam meets to the grey values of a film."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from leadapron.sources.phantom import signs, texture, things
from leadapron.sources.phantom.anatomy import rays
from leadapron.sources.phantom.coordinates import Chest, ramp
from leadapron.sources.phantom.dice import Floats
from leadapron.sources.phantom.people import FINDINGS, People
from leadapron.sources.phantom.shape import Pose, Shape, anteroposterior

MASKS: Final[tuple[str, ...]] = ("heart", "lungs", *FINDINGS)
"""What the masks show, in this order."""

_ATTENUATION: Final = 0.2  # per cm of water, chest tube voltage
_BLUR: Final = 0.0022  # the detector's point spread, in film units (half the film's side)


def _exposed(people: People, thickness: Floats) -> Floats:
    """Return (n, h, w) log exposure (higher is denser) from cm of water: scatter and noise."""
    film = people.film
    size = thickness.shape[2]
    ap = anteroposterior(people)
    primary: Floats = np.exp(thickness * np.float32(-_ATTENUATION))
    veil = texture.scatter(np.minimum(primary, 0.18))
    veil *= film.column("scatter", 0.7, 1.3) + 0.5 * ap
    primary += veil
    grain = film.grain("grain", size, size)
    grain *= np.float32(0.0022 * (size / 64.0) ** 0.6) * film.column("dose", 0.7, 1.6)
    grain *= np.sqrt(primary)
    primary += grain
    np.maximum(primary, 1e-4, out=primary)
    np.log(primary, out=primary)
    np.negative(primary, out=primary)
    return primary


def _displayed(people: People, density: Floats) -> Floats:
    """Return (n, h, w) grey, 0 to 255, of the log exposure: window, curve, frame."""
    film = people.film
    size = density.shape[2]
    ap = anteroposterior(people)
    # The exposure is set by the patient's thickness, not quite perfectly.
    dose = 0.8 * (people.person.column("stout") - 0.5)
    low = film.column("window low", 0.6, 1.1) - 0.3 * ap + dose
    high = film.column("window high", 3.3, 3.7) + dose
    grey: Floats = density - low
    grey /= high - low
    np.clip(grey, 0.0, 1.0, out=grey)
    bend = film.column("curve", -0.25, 0.35)
    grey *= 1.0 + bend * (1.0 - grey)
    black, white = film.column("black", 0.0, 28.0), film.column("white", 236.0, 254.0)
    grey *= white - black
    grey += black

    # Collimation: strips along the edges, unexposed (white) or masked (black).
    side = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2.0 / size) - 1.0
    u, v = side[None, None, :], side[None, :, None]
    tilt = film.column("frame tilt", -0.03, 0.03)
    kind = film.column("frame", 0.0, 1.0)
    framed = (kind < 0.5).astype(np.float32)
    pale = np.where(kind < 0.3, film.column("pale", 225.0, 254.0), film.column("dark", 0.0, 12.0))
    window = np.full_like(grey, 9.0)
    for name, edge in (
        ("l", u + tilt * v),
        ("r", -u - tilt * v),
        ("t", v - tilt * u),
        ("b", tilt * u - v),
    ):
        margin = np.maximum(film.column(f"margin {name}", -0.10, 0.11), 0.0) * framed
        np.minimum(window, edge + (1.0 - margin) + 9.0 * (margin == 0.0), out=window)
    ring = ramp(window, max(0.012, 2.4 / size))
    grey *= ring
    grey += (1.0 - ring) * pale.astype(np.float32)
    return grey


class Batch:
    """Rows ready to be drawn: what is needed once for all of them.

    Args:
        people: the rows.
        size: side of the films in pixels.
    """

    def __init__(self, people: People, size: int) -> None:
        self.people, self.size = people, size
        self.shape, self.pose = Shape.of(people), Pose.of(people)
        self.devices = things.devices(people, self.shape, self.pose)
        self.markers = things.markers(people)

    def draw(
        self, start: int, stop: int, *, masks: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Return films start to stop, (n, size, size), and masks (n, 16, size, size) or None."""
        cut, size = slice(start, stop), self.size
        people, shape = self.people.pick(cut), self.shape.pick(cut)
        c = Chest.of(shape, self.pose.pick(cut), size)
        ray = rays(people, c)
        drawn = None
        if masks:
            drawn = np.zeros((len(people), len(MASKS), size, size), np.bool_)
            drawn[:, 0] = (c.heart() < 1.0) & (c.y < c.floor() + 0.03)
            drawn[:, 1][ray.window] = (ray.lungs > 0.5) & (ray.air > 3.5)
        signs.draw(people, c, ray, None if drawn is None else drawn[:, 2:])
        thickness = ray.solid
        thickness[ray.window] -= ray.air * ray.clear
        np.maximum(thickness, 0.0, out=thickness)
        self.devices.draw(thickness, start)
        spread = _BLUR * size / 2
        if spread > 0.4:
            ndimage.gaussian_filter(thickness, (0, spread, spread), output=thickness, truncate=3.0)
        grey = _displayed(people, _exposed(people, thickness))
        stamp = self.markers.draw(np.zeros_like(grey), start)
        np.clip(stamp, 0.0, 1.0, out=stamp)
        grey += stamp * (252.0 - grey)
        grey += 0.5
        np.clip(grey, 0.0, 255.0, out=grey)
        return grey.astype(np.uint8), drawn
