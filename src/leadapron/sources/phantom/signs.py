"""The radiographic sign of each finding, drawn into what the beam meets.

Cardiomegaly, Emphysema and the volume loss of Atelectasis are shapes of the chest itself
(`anatomy.chest`); here are the opacities, the air and the regions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leadapron.sources.phantom import texture
from leadapron.sources.phantom.anatomy import Ray
from leadapron.sources.phantom.coordinates import (
    Chest,
    Window,
    dome,
    ellipse,
    inside,
    ramp,
    wall_at,
)
from leadapron.sources.phantom.dice import Floats
from leadapron.sources.phantom.people import FINDINGS, People
from leadapron.sources.phantom.shape import severity, side_of


@dataclass(kw_only=True)
class Mark:
    """What a finding does to m films, (m, h, w) float32 each.

    Args:
        region: 0 to 1, where the finding is.
        opacity: share of the lung's air that it takes, 0 to 1.
        void: share of the lung's vessels and tissue that it replaces by air, 0 to 1.
        solid: cm of water that it adds, negative for gas.
    """

    region: Floats
    opacity: Floats | None = None
    void: Floats | None = None
    solid: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Patients:
    """The films that have the finding: who, geometry, rays, size in pixels."""

    people: People
    chest: Chest
    lattice: Floats
    size: int
    window: Window
    name: str

    def lasting(self, name: str, low: float, high: float) -> Floats:
        """Return (m, 1, 1), alike in all films of a patient."""
        return self.people.person.column(f"{self.name} {name}", low, high)

    def passing(self, name: str, low: float, high: float) -> Floats:
        """Return (m, 1, 1), the film's own."""
        return self.people.film.column(f"{self.name} {name}", low, high)

    def severity(self) -> Floats:
        """Return (m, 1, 1) in [0, 1)."""
        return severity(self.people, self.name)

    def noise(self, knots: int) -> Floats:
        """Return (m, h, w) smooth noise, alike in all films of a patient."""
        whole = texture.smooth_noise(self.people.person, self.name, knots, self.size)
        return whole[self.window]

    def side(self) -> Floats:
        """Return (m, 1, 1), -1 on the left of the picture, 1 on the right."""
        return side_of(self.people, self.name)


def _half(p: Patients, other: float) -> Floats:
    """Return (m, h, w): 1 on the finding's side; on the other too in the share `other`."""
    both = (p.lasting("both", 0.0, 1.0) < other).astype(np.float32)
    return np.where(p.chest.x * p.side() > 0, np.float32(1.0), both)


def _blobs(
    p: Patients,
    count: int,
    spread: tuple[float, float],
    sigma: tuple[float, float],
    centre: tuple[float, float],
) -> Floats:
    """Return (m, h, w): the sum of soft round spots scattered about a place in the lung."""
    c = p.chest
    total = np.zeros_like(c.x)
    for spot in range(count):
        x = centre[0] * c.shape.width + p.lasting(f"x{spot}", -spread[0], spread[0])
        y = centre[1] + p.lasting(f"y{spot}", -spread[1], spread[1])
        width = p.lasting(f"s{spot}", *sigma)
        square = ellipse(c.x * p.side(), c.y, (x, y), (width, width * 0.85))
        total += np.exp(-0.5 * square)
    return total


def _atelectasis(p: Patients) -> Mark:
    c, s = p.chest, p.severity()
    along = c.x * p.side()
    total = np.zeros_like(c.x)
    for plate in range(3):
        present = (p.lasting(f"p{plate}", 0, 1) < (1.0, 0.6, 0.3)[plate]).astype(np.float32)
        slope = p.lasting(f"slope{plate}", -0.35, 0.15)
        x = p.lasting(f"x{plate}", 0.30, 0.42)
        y = c.floor() - p.passing(f"y{plate}", 0.05, 0.11) - 0.10 * plate
        reach = p.lasting(f"reach{plate}", 0.15, 0.27)
        thick = p.passing(f"thick{plate}", 0.014, 0.030)
        line = (c.y - y - slope * (along - x)) / np.hypot(thick, 0.6 * c.pixel)
        fade = (along - x) / reach
        plate_of = np.exp(-0.5 * line * line) * ramp(1.0 - np.abs(fade), 0.25)
        total += plate_of * present * np.minimum(1.0, thick / np.hypot(thick, 0.6 * c.pixel))
    # The collapsed base beside the heart.
    base = ramp(c.y - c.floor() + 0.20, 0.16) * ramp(0.40 - along, 0.22) * (along > 0)
    total = np.clip(total, 0.0, 1.0)
    return Mark(
        region=np.maximum(total, base),
        opacity=np.maximum(total * (0.45 + 0.3 * s), base * (0.25 + 0.4 * s)),
    )


def _cardiomegaly(p: Patients) -> Mark:
    return Mark(region=inside(p.chest.heart(), 0.28, p.chest.soft(0.016)))


def _effusion(p: Patients) -> Mark:
    c, s = p.chest, p.severity()
    u = np.minimum(c.far / np.maximum(c.wall(), 0.2), 1.0)
    u *= u
    second = (p.lasting("both", 0.0, 1.0) < 0.35) * p.passing("second", 0.3, 0.9)
    share = np.where(c.x * p.side() > 0, np.float32(1.0), second.astype(np.float32))
    height = (0.23 + 0.42 * s * s) * share
    level = c.shape.base + 0.02 - height * (0.45 + 0.55 * u * u)
    region = ramp(c.y - level, 0.04 + 0.6 * (height - 0.1).clip(0.0)) * (share > 0)
    supine = (p.people.ap & p.people.film.chance("supine", 0.4))[:, None, None]
    haze = ramp(c.y - level + 0.22, 0.6) * (share > 0)
    region = np.where(supine, np.maximum(haze * 0.7, region), region)
    return Mark(region=region, opacity=region * 0.93)


def _infiltration(p: Patients) -> Mark:
    s = p.severity()
    place = (0.52, 0.02)
    spots = _blobs(p, 5, (0.14, 0.34), (0.055, 0.11), place)
    patchy = np.clip(spots, 0.0, 1.2) * np.clip(0.75 + 0.35 * p.noise(26), 0.2, 1.4)
    both = (p.lasting("both", 0.0, 1.0) < 0.4).astype(np.float32)
    mirror = np.where(p.chest.x * p.side() > 0, np.float32(0.0), both)
    haze = ellipse(p.chest.far, p.chest.y, (0.35, 0.12), (0.16, 0.22))
    patchy += 0.6 * np.exp(-0.5 * haze) * mirror * np.clip(0.8 + 0.4 * p.noise(26), 0, 1.5)
    return Mark(region=np.clip(patchy, 0, 1), opacity=np.clip(patchy * (0.22 + 0.30 * s), 0, 0.8))


def _spot_place(p: Patients, spot: int) -> tuple[Floats, Floats]:
    """Return the middle (m, 1, 1) of a round opacity, well inside the lung, off the heart."""
    c = p.chest
    side = np.sign(p.lasting(f"side{spot}", -1.0, 1.0))
    down = p.lasting(f"down{spot}", 0.14, 0.80)
    wall = wall_at(c.shape, down)
    inner = 0.24 + 0.20 * np.clip(down - 0.45, 0.0, 1.0) * (side > 0)
    out = inner + p.lasting(f"out{spot}", 0.0, 1.0) * np.maximum(wall - 0.09 - inner, 0.0)
    y = c.shape.apex + down * (c.shape.base - c.shape.apex) - 0.10 * np.clip(down - 0.6, 0.0, 1.0)
    return side * out, y


def _ball(p: Patients, spot: int, radius: Floats, lumps: float) -> tuple[Floats, Floats]:
    """Return (m, h, w): region and chord (0 to 1) of a round, slightly lobed opacity."""
    c = p.chest
    x, y = _spot_place(p, spot)
    dx, dy = c.x - x, c.y - y
    square = dx * dx + dy * dy
    if lumps:
        angle = np.arctan2(dy, dx)
        wave = np.sin(3.0 * angle + p.lasting(f"lobe{spot}", 0.0, 6.28))
        wave += 0.6 * np.sin(5.0 * angle + p.lasting(f"lobes{spot}", 0.0, 6.28))
        square *= 1.0 + lumps * wave
    grown = np.hypot(radius, 0.45 * c.pixel)
    square /= grown * grown
    chord = dome(square * 0.9) * (radius * radius) / (grown * grown)
    return inside(square, grown, c.soft(0.012)), chord


def _mass(p: Patients) -> Mark:
    s = p.severity()
    radius = p.lasting("radius", 0.085, 0.11) + 0.07 * s
    region, chord = _ball(p, 0, radius, 0.09)
    return Mark(region=region, opacity=region * (0.35 + 0.25 * s) + 0.25 * chord * region)


def _nodule(p: Patients) -> Mark:
    s = p.severity()
    region, opacity = np.zeros_like(p.chest.x), np.zeros_like(p.chest.x)
    for spot, chance in enumerate((1.0, 0.5, 0.3)):
        present = (p.lasting(f"has{spot}", 0.0, 1.0) < chance).astype(np.float32)
        radius = p.lasting(f"radius{spot}", 0.034, 0.062) + 0.008 * s
        disc, chord = _ball(p, spot, radius, 0.0)
        np.maximum(region, np.maximum(disc, chord > 0.3) * present, out=region)
        np.maximum(opacity, np.minimum(disc, 1.2 * chord) * present, out=opacity)
    return Mark(region=region, opacity=opacity * (0.60 + 0.35 * s))


def _pneumonia(p: Patients) -> Mark:
    c, s = p.chest, p.severity()
    x, y = p.lasting("x", 0.36, 0.52), p.lasting("y", 0.02, 0.34)
    square = ellipse(
        c.x * p.side(), c.y, (x, y), (p.lasting("w", 0.13, 0.2), p.lasting("h", 0.12, 0.19))
    )
    cloud = np.exp(-0.5 * square * (1.0 + 0.25 * p.noise(16)).clip(0.3))
    return Mark(region=np.clip(cloud * 1.2, 0, 1), opacity=cloud * (0.42 + 0.33 * s))


def _pneumothorax(p: Patients) -> Mark:
    c, s = p.chest, p.severity()
    gap = 0.10 + 0.25 * s
    # The collapsed lung has the chest's shape, smaller, hanging at the hilum.
    down = np.clip(
        1.0 - (c.y - c.shape.apex - 0.9 * gap) / (c.shape.base - c.shape.apex - 0.9 * gap), 0.0, 1.0
    )
    shape = down * down
    shape *= shape
    edge = np.sqrt(1.0 - shape) * (c.shape.width - gap * (0.35 + 0.65 * down)) * (1.0 - 0.15 * down)
    side = c.x * p.side() > 0
    beyond = c.far - edge
    region = ramp(beyond, c.soft(0.008)) * side
    sharp = np.hypot(0.006, 0.5 * c.pixel)
    line = np.exp(-0.5 * (beyond / sharp) ** 2) * (0.006 / sharp) * side
    shrunk = (1.0 - region) * side * (0.10 + 0.15 * s)
    return Mark(region=region, opacity=np.clip(shrunk + 0.5 * line, 0, 1), void=region)


def _consolidation(p: Patients) -> Mark:
    c, s = p.chest, p.severity()
    upper = p.lasting("lobe", 0.0, 1.0) < 0.45
    fissure = c.shape.hilum + 0.03 + p.lasting("fissure", -0.05, 0.08) - 0.10 * (c.far - 0.35)
    sharp, blurred = c.soft(0.014), 0.18 + 0 * c.pixel
    high = ramp(fissure - c.y, sharp) * ramp(c.y - fissure + 0.34 + 0.1 * s, blurred)
    low = ramp(c.y - fissure - 0.08, blurred) * ramp(c.shape.base + 0.1 - c.y, sharp)
    low *= ramp(c.far - 0.20, blurred)
    lobe = np.where(upper, high, low) * (c.x * p.side() > 0)
    lobe = lobe * np.clip(0.95 + 0.12 * p.noise(14), 0.3, 1.1)
    bronchi = 1.0 - 0.55 * np.clip(p.lattice * 1.2, 0.0, 1.0)
    return Mark(
        region=np.clip(lobe, 0, 1), opacity=np.clip(lobe * bronchi * (0.55 + 0.3 * s), 0, 0.9)
    )


def _edema(p: Patients) -> Mark:
    c, s = p.chest, p.severity()
    wing = ellipse(c.far, c.y, (0.30, c.shape.hilum + 0.12), (0.17 + 0.04 * s, 0.27 + 0 * s))
    haze = np.exp(-0.5 * wing) * np.clip(1.0 + 0.22 * p.noise(24), 0.3, 1.6)
    vessels = np.clip(p.lattice, 0.0, 1.0) * 0.35
    general = 0.04 + 0.10 * s
    return Mark(
        region=np.clip(haze * 1.3, 0.0, 1.0),
        opacity=np.clip(haze * (0.30 + 0.32 * s) + general + vessels, 0.0, 0.9),
    )


def _emphysema(p: Patients) -> Mark:
    return Mark(region=np.ones_like(p.chest.x))


def _fibrosis(p: Patients) -> Mark:
    c, s = p.chest, p.severity()
    which = (p.people.person.unit("net") * texture.NETS).astype(np.intp)
    net = texture.sample(texture.bank("net", p.size), which, c.x, c.y)
    out = c.far / np.maximum(c.wall(), 0.1)
    weight = ramp(c.y - c.shape.hilum - 0.12, 0.5) * (0.35 + 0.65 * ramp(out - 0.55, 0.6))
    weight *= 0.65 + 0.35 * s
    return Mark(
        region=np.clip(weight * 1.1, 0, 1), opacity=np.clip(weight * (0.22 + 0.6 * net), 0, 0.85)
    )


def _pleural_thickening(p: Patients) -> Mark:
    c, s = p.chest, p.severity()
    apical = p.lasting("apical", 0.0, 1.0) < 0.5
    thick = (0.050 + 0.055 * s) * np.clip(1.0 + 0.25 * p.noise(18), 0.3, 1.8)
    cap = ramp(
        c.shape.apex + 2.0 * thick + 0.02 - c.y + 0.25 * np.maximum(c.far - 0.3, 0), c.soft(0.015)
    )
    down = p.lasting("down", 0.40, 0.72)
    span = ramp(0.30 + 0.1 * s - np.abs(c.depth() - down), 0.12)
    band = ramp(c.far - c.wall() + thick * 1.25, c.soft(0.012)) * span
    region = np.where(apical, cap, band) * _half(p, 0.3)
    return Mark(region=region, opacity=region * (0.70 + 0.22 * s))


def _hernia(p: Patients) -> Mark:
    c, s = p.chest, p.severity()
    x = p.lasting("x", 0.0, 0.12)
    radius = 0.115 + 0.065 * s
    y = c.shape.heart_y + 0.06 - 0.03 * s
    square = ellipse(c.middle, c.y, (x, y), (radius, radius * 0.92))
    sac = inside(square, radius, c.soft(0.012))
    level = y + p.passing("level", -0.15, 0.45) * radius
    gas = sac * ramp(level - c.y, c.soft(0.01))
    wall = sac * ramp(0.024 - (1.0 - np.sqrt(square)) * radius, c.soft(0.014))
    chord = dome(square)
    solid = 1.2 * wall + 0.8 * (sac - gas) - gas * chord * (3.5 + 2.5 * s)
    return Mark(region=sac, opacity=0.7 * (sac - gas) + 0.4 * gas, solid=solid)


SIGNS: Final[Mapping[str, Callable[[Patients], Mark]]] = {
    # Air first, so that fluid and opacities lie over it.
    "Pneumothorax": _pneumothorax,
    "Emphysema": _emphysema,
    "Atelectasis": _atelectasis,
    "Cardiomegaly": _cardiomegaly,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumonia": _pneumonia,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
    "Effusion": _effusion,
}

_OUTSIDE_LUNGS: Final = ("Cardiomegaly", "Hernia")


def draw(people: People, c: Chest, ray: Ray, masks: NDArray[np.bool_] | None) -> None:
    """Draw the true findings into the rays in place, and their regions into the masks.

    Args:
        people: the films.
        c: their geometry.
        ray: what the beam meets; `solid` and `clear` change.
        masks: (n, 14, h, w) bool, all False, or None.
    """
    for name, sign in SIGNS.items():
        column = FINDINGS.index(name)
        rows = np.flatnonzero(people.truth[:, column])
        if not len(rows):
            continue
        p = Patients(
            people=people.pick(rows),
            chest=c.part(ray.window).pick(rows),
            lattice=ray.lattice[rows],
            size=c.x.shape[1],
            window=ray.window,
            name=name,
        )
        mark = sign(p)
        clear = ray.clear[rows]
        if mark.void is not None:
            clear += mark.void * (1.22 - clear)
        if mark.opacity is not None:
            clear *= 1.0 - mark.opacity
        ray.clear[rows] = clear
        if mark.solid is not None:
            ray.solid[(rows, *ray.window[1:])] += mark.solid
        if masks is not None:
            region = mark.region if name in _OUTSIDE_LUNGS else mark.region * ray.lungs[rows]
            masks[(rows, column, *ray.window[1:])] = region > 0.35
