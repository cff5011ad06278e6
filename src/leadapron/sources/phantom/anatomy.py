"""The chest along the rays: thickness of tissue, and of air in the lungs, in cm of water.

Every organ is drawn in the part of the film where it can be (`Chest.window`), vectorised over
films; edges are never sharper than a pixel, so that all sizes show the same film.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leadapron.sources.phantom import texture
from leadapron.sources.phantom.coordinates import (
    THORAX,
    Chest,
    Window,
    dome,
    ellipse,
    inside,
    ramp,
    wall_at,
)
from leadapron.sources.phantom.dice import Floats
from leadapron.sources.phantom.people import People
from leadapron.sources.phantom.shape import anteroposterior, has, severity


@dataclass(kw_only=True)
class Ray:
    """Thickness that the beam passes through; float32.

    Args:
        solid: (n, size, size) cm of water, everything but the lungs' air.
        window: the part of the films that holds the lungs; the other arrays cover that part.
        air: cm of water that the lungs' air takes away where they are clear.
        clear: share of that air that is present: vessels and disease lower it.
        lungs: 0 to 1, the lungs' region.
        lattice: 0 to about 1, the vessel tree.
    """

    solid: Floats
    window: Window
    air: Floats
    clear: Floats
    lungs: Floats
    lattice: Floats


def _body(people: People, c: Chest) -> Floats:
    """Return (n, h, w) cm of water: trunk, neck, shoulders and arms without bones and lungs."""
    person, s = people.person, c.shape
    ap = anteroposterior(people)
    girth = s.width + 0.07 + 0.13 * s.stout
    taper = np.clip(c.y + 0.3, 0.0, 0.9)
    taper *= np.float32(0.05)
    taper += 0.97 * girth
    trunk: Floats = c.far / taper
    trunk *= trunk
    trunk *= trunk
    trunk = dome(trunk)
    neck = person.column("neck", 0.21, 0.27)
    top = c.far - neck
    np.maximum(top, 0.0, out=top)
    top *= person.column("slope", 0.22, 0.34) - 0.08 * ap
    outer = c.far - np.float32(0.85)
    np.maximum(outer, 0.0, out=outer)
    outer *= outer
    outer *= np.float32(2.2)
    top += outer
    above = c.y - (s.apex - 0.22 + 0.02 * ap)
    above -= top  # below the shoulders' outline
    np.maximum(above, 0.0, out=above)
    rise = np.minimum(above * np.float32(2.6), 1.0)
    np.sqrt(rise, out=rise)
    trunk *= rise
    trunk *= 17.5 + 5.0 * s.stout

    above *= np.float32(5.0)
    np.minimum(above, 1.0, out=above)
    np.sqrt(above, out=above)
    above *= 9.5 + 3.0 * s.stout
    above *= ramp(person.column("armpit", -0.20, -0.06) - c.y, 0.30)
    np.maximum(trunk, above, out=trunk)

    head = c.window((-0.6, 0.6), (-2.0, -0.4))
    throat: Floats = c.middle[head] / neck
    throat *= throat
    throat = dome(throat)
    throat *= (10.5 + 2.5 * s.stout) * ramp(s.apex + 0.10 - c.y[head], 0.25)
    np.maximum(trunk[head], throat, out=trunk[head])

    spread = people.film.column("arms", 0.12, 0.5) * (1.0 - 0.75 * ap)
    arm: Floats = c.far - (girth + 0.13 + 0.25 * spread)
    arm -= spread * c.y
    arm /= 0.15 + 0.04 * s.stout
    arm *= arm
    bone = inside(arm * np.float32(12.0), 0.05, c.soft(0.02))
    arm = dome(arm)
    arm *= 9.0 + 2.0 * s.stout
    bone *= np.float32(2.0)
    arm += bone
    arm *= ramp(c.y + np.float32(0.38), 0.35)
    return np.maximum(trunk, arm, out=trunk)


def _breasts(people: People, c: Chest) -> Floats:
    """Return (n, h, w) cm of water: breast shadows (women) or pectoral muscles (men)."""
    female = people.female.astype(np.float32)[:, None, None]
    full = people.person.column("breast") * female
    radius = 0.24 + 0.10 * full
    height = 0.16 + 0.16 * full - 0.12 * (1.0 - female)
    shadow = dome(ellipse(c.far, c.y, (0.38 + 0.05 * full, height), (radius * 1.05, radius)))
    shadow *= 0.6 + female * (1.2 + 3.0 * full)
    return shadow


def _ribs(people: People, c: Chest, depth: Floats, wall: Floats) -> Floats:
    """Return (n, h, w) cm of water: ribs behind (arched), in front (sloping), at the edge."""
    person, s = people.person, c.shape
    pitch = person.column("rib pitch", 0.118, 0.135)
    turn = np.float32(2.0 * np.pi) / pitch
    out = np.minimum(c.far / s.width, 1.15)
    square = out * out
    quick = square * square
    quick *= square  # sixth power: the ribs turn down near the wall
    weak = np.exp(-0.5 * (1.7 * c.pixel / pitch) ** 2)
    soft = np.maximum(0.35, 4.5 * c.pixel / pitch)

    phase = np.clip(depth, 0.0, 1.0)
    phase *= np.float32(-0.14)
    phase -= np.float32(0.05)
    phase *= square
    phase += c.y
    quick *= np.float32(0.13)
    phase -= quick
    phase += np.float32(0.16) * out
    phase *= turn
    phase += person.column("rib phase", 0.0, 6.28)
    wave = np.cos(phase, out=phase)
    behind = ramp(wave - np.float32(0.1), soft)
    behind -= np.float32(0.3) * ramp(wave - np.float32(0.72), soft)
    behind *= ramp(out - np.float32(0.17), 0.12)

    phase = out * np.float32(0.42)
    phase += c.y
    quick *= np.float32(0.8)
    phase -= quick
    phase *= turn * np.float32(1.0 / 1.12)
    phase += person.column("front phase", 0.0, 6.28)
    wave = np.cos(phase, out=phase)
    front = ramp(wave - np.float32(0.25), soft)
    front *= ramp(out - np.float32(0.50), 0.3)
    front *= np.float32(0.55)
    behind += front
    behind *= weak

    outward = c.far - wall
    # Near the wall the ribs are seen edge on.
    rim = ramp(outward + np.float32(0.012), c.soft(0.03))
    rim *= np.float32(0.5)
    behind += rim
    behind *= ramp(np.float32(0.03) - outward, c.soft(0.015))
    behind *= ramp(depth - np.float32(0.01), 0.04)
    behind *= ramp(np.float32(1.0) - depth, 0.10)
    behind *= 1.9 * person.column("bone", 0.7, 1.2)
    return behind


def _shoulder_bones(people: People, c: Chest) -> Floats:
    """Return (n, h, w) cm of water: clavicles, scapulae and heads of the humerus."""
    person, film, s = people.person, people.film, c.shape
    ap = anteroposterior(people)
    lift = film.column("clavicle lift", -0.03, 0.05) - 0.03 * ap
    run = c.far - np.float32(0.07)
    line = np.float32(0.25) * run
    line -= np.float32(0.28)
    line *= run
    line -= np.float32(0.04) * np.sin(run * np.float32(6.0))
    line += s.apex + 0.145 - lift
    np.subtract(c.y, line, out=line)
    line /= 0.026
    line *= line
    collar = inside(line, 0.026, c.soft(0.010))
    line *= np.float32(2.6)
    collar -= np.float32(0.3) * inside(line, 0.016, c.soft(0.012))
    collar *= ramp(run + np.float32(0.02), 0.04)
    collar *= ramp(np.float32(0.66) - run, 0.08)
    collar *= np.float32(3.0)

    inner = film.column("scapula", 0.02, 0.12) - 0.16 * ap + s.width
    edge = c.far - (inner - 0.07)
    edge += c.y * np.float32(0.28)
    blade = ramp(edge, c.soft(0.02))
    rim = blade * ramp(np.float32(0.04) - edge, c.soft(0.03))
    blade *= ramp(inner + 0.26 - c.far, 0.1)
    blade += rim
    blade *= ramp(c.y - (s.apex + 0.10), 0.06)
    lower = np.float32(0.4) * (c.far - inner)
    lower -= c.y
    blade *= ramp(lower, 0.10)
    collar += blade

    square = ellipse(c.far, c.y, (s.width + 0.24, s.apex + 0.24), (0.105, 0.115))
    head = dome(square)
    head *= np.float32(2.8)
    collar += head
    collar *= person.column("bone", 0.7, 1.2)
    return collar


def _spine(c: Chest, knob_y: Floats) -> Floats:
    """Return (n, h, w) cm of water: vertebrae, descending aorta, minus the windpipe's air."""
    s = c.shape
    side = np.abs(c.middle)
    disc = np.cos(c.y * np.float32(2.0 * np.pi / 0.115))
    column = ramp(np.float32(0.086) - side + np.float32(0.005) * disc, c.soft(0.025))
    disc *= np.float32(0.30)
    disc += np.float32(2.3)
    column *= disc
    aorta = ramp(0.115 + 0.02 * s.old - np.abs(c.middle - np.float32(0.02)), c.soft(0.02))
    aorta *= ramp(c.y - knob_y, 0.1)
    column += aorta
    carina = s.hilum - 0.10
    branch = np.maximum(c.y - carina, 0.0)
    tube = np.abs(side - branch)
    windpipe = ramp(np.float32(0.034) - tube, c.soft(0.02))
    windpipe *= ramp(carina + 0.09 - c.y, 0.06)
    windpipe *= np.float32(2.4)
    column -= windpipe
    return column


def _vessels(people: People, c: Chest, knob_y: Floats) -> tuple[Floats, Floats]:
    """Return (n, h, w): cm of water of the aortic arch; share of lung that is pushed away."""
    person, s = people.person, c.shape
    soft = c.soft(0.03)
    # Vena cava on the patient's right, aortic arch and pulmonary trunk on the left.
    flare = np.clip(np.float32(-0.52) - c.y, 0.0, 0.3)
    flare *= np.float32(0.35)
    flare += person.column("pedicle", 0.105, 0.14) + 0.02 * s.old
    flare -= np.abs(c.middle - np.float32(0.005))
    pushed = ramp(flare, soft)
    radius = person.column("knob", 0.075, 0.095) + 0.03 * s.old
    square = ellipse(c.middle, c.y, (0.062 + 0.03 * s.old, knob_y), (radius, radius * 1.15))
    np.maximum(pushed, inside(square, radius, c.soft(0.015)), out=pushed)
    arch = dome(square)
    arch *= np.float32(1.5)
    square = ellipse(c.middle, c.y, (0.06, s.hilum + 0.03), (0.125, 0.16))
    np.maximum(pushed, inside(square, 0.12, soft), out=pushed)
    # Between heart and diaphragm there is no lung.
    low = ramp(np.float32(0.17) - np.abs(c.middle - np.float32(0.03)), 0.08)
    low *= ramp(c.y - s.heart_y - 0.05, 0.1)
    np.maximum(pushed, low, out=pushed)
    return arch, pushed


def _gas(people: People, c: Chest) -> Floats:
    """Return (n, h, w) cm of water taken away by gas in stomach and bowel."""
    person, film = people.person, people.film
    across = person.column("bubble", 0.08, 0.17)
    below = c.y - c.floor()
    below -= np.float32(0.035)
    width = (c.x - person.column("bubble x", 0.24, 0.42)) / across
    width *= width
    gas = dome(width)
    bottom = gas * np.float32(0.14)
    bottom -= below
    gas *= ramp(bottom, c.soft(0.02))
    gas *= ramp(below, c.soft(0.015))
    gas *= np.maximum(film.column("gas", -1.5, 5.0), 0.0)
    place = film.column("loop x", -0.5, 0.5), film.column("loop y", 0.72, 0.92)
    loop = dome(ellipse(c.x, c.y, place, (across, 0.6 * across)))
    loop *= np.maximum(film.column("loop gas", -3.0, 3.5), 0.0)
    gas += loop
    return gas


def rays(people: People, c: Chest) -> Ray:
    """Return the thickness that the beam passes through in a chest without disease of the lungs."""
    person, s = people.person, c.shape
    size = c.x.shape[1]
    solid = _body(people, c)
    flesh = texture.smooth_noise(person, "flesh", 12, size)
    flesh *= np.float32(0.035)
    flesh += np.float32(1.0)
    solid *= flesh

    knob_y = s.hilum - 0.20
    thorax = c.window(*THORAX)
    chest = c.part(thorax)
    depth = chest.depth()
    wall = wall_at(s, depth)
    floor = chest.floor()
    solid[thorax] += _ribs(people, chest, depth, wall)
    lungs, air = _lungs(people, chest, (depth, wall, floor))

    view = c.window((-0.85, 1.0), (-0.6, 0.95))
    heart = c.part(view).heart()
    chord = dome(heart)
    chord *= np.float32(1.6)
    solid[view] += chord
    whole = np.zeros_like(solid)
    whole[view] = np.float32(0.84) * inside(heart, 0.28, c.soft(0.016))
    centre = c.window((-0.50, 0.55), (-0.95, 0.9))
    arch, vessels = _vessels(people, c.part(centre), knob_y)
    solid[centre] += arch
    np.maximum(whole[centre], vessels, out=whole[centre])
    pushed = whole[thorax]
    pushed *= np.float32(-0.84)
    pushed += np.float32(1.0)
    air *= pushed

    strip = c.window((-0.42, 0.42), (-2.0, 2.0))
    # Bones count where there is a body at all; the trunk covers the other organs' windows.
    spine = _spine(c.part(strip), knob_y)
    spine *= np.minimum(solid[strip] * np.float32(0.2), 1.0)
    solid[strip] += spine
    top = c.window((-2.0, 2.0), (-0.85, 0.25))
    bones = _shoulder_bones(people, c.part(top))
    bones *= np.minimum(solid[top] * np.float32(0.2), 1.0)
    solid[top] += bones
    bust = c.window((-0.85, 0.85), (-0.35, 0.75))
    solid[bust] += _breasts(people, c.part(bust))
    belly = c.window((-0.75, 0.75), (-0.05, 1.2))
    solid[belly] -= _gas(people, c.part(belly))

    lattice, clear = _tissue(people, chest, thorax, size)
    return Ray(solid=solid, window=thorax, air=air, clear=clear, lungs=lungs, lattice=lattice)


def _lungs(people: People, c: Chest, lines: tuple[Floats, Floats, Floats]) -> tuple[Floats, Floats]:
    """Return (n, h, w): the lungs' region; cm of water that their air takes away."""
    depth, wall, floor = lines
    s = c.shape
    lungs = ramp(wall - c.far, c.soft(0.012))
    above = floor - c.y
    lungs *= ramp(above, c.soft(0.014))
    # Each apex is a dome of its own.
    apex = np.float32(0.30) - c.far
    np.maximum(apex, 0.0, out=apex)
    apex *= apex
    apex *= np.float32(-2.2)
    apex += c.y
    apex -= s.apex
    lungs *= ramp(apex, 0.03)
    out = c.far / np.maximum(wall, 0.01)
    out *= out
    out *= np.float32(0.93)
    air = dome(out)
    depth = np.clip(depth * np.float32(1.1) + np.float32(0.62), 0.0, 1.0)
    air *= depth
    above *= np.float32(1.6)
    above += np.float32(0.72)
    air *= np.clip(above, 0.0, 1.0, out=above)
    air *= lungs
    swollen = has(people, "Emphysema") * (0.10 + 0.14 * severity(people, "Emphysema"))
    most = people.person.column("air", 10.8, 12.6) - 1.0 * anteroposterior(people)
    air *= most * (1.0 + swollen)
    return lungs, air


def _tissue(people: People, c: Chest, window: Window, size: int) -> tuple[Floats, Floats]:
    """Return (n, h, w): the vessel tree, 0 to about 1; share of the lungs' air that is there."""
    person, s = people.person, c.shape
    which = (person.unit("tree") * texture.TREES).astype(np.intp)
    sway = np.sin(c.y * np.float32(4.0) + person.column("sway", 0.0, 6.28))
    sway *= np.float32(0.03)
    sway += c.middle
    sway *= 0.72 / s.width
    height = c.y - s.hilum
    height *= person.column("stretch", 0.9, 1.1)
    lattice = texture.sample(texture.bank("tree", size), which, sway, height)
    thin = person.column("markings", 0.45, 0.75) * (1.0 - 0.4 * has(people, "Emphysema"))
    clear = lattice * -thin
    hila = ellipse(np.abs(c.middle), c.y, (0.17, s.hilum + 0.02), (0.13 * thin, 0.20 * thin))
    np.negative(hila, out=hila)
    np.exp(hila, out=hila)
    hila *= np.float32(0.32)
    clear -= hila
    mottle = texture.smooth_noise(people.film, "mottle", 22, size)[window]
    mottle *= np.float32(0.02)
    clear += mottle
    clear += np.float32(1.0)
    return lattice, np.clip(clear, 0.05, 1.3, out=clear)
