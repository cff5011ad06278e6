"""What lies on the patient and on the film: tubes, lines, electrodes, letters, arrows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from leadapron.sources.phantom import texture
from leadapron.sources.phantom.dice import Floats
from leadapron.sources.phantom.people import People
from leadapron.sources.phantom.shape import Pose, Shape, side_of

Points: TypeAlias = Sequence[tuple[Floats | float, Floats | float]]

_STEPS: Final = 14  # straight pieces of a curve

_FONT: Final = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "B": "11110 10001 10001 11110 10001 10001 11110",
    "D": "11110 10001 10001 10001 10001 10001 11110",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "I": "01110 00100 00100 00100 00100 00100 01110",
    "J": "00111 00010 00010 00010 00010 10010 01100",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "M": "10001 11011 10101 10101 10001 10001 10001",
    "N": "10001 11001 10101 10011 10001 10001 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "U": "10001 10001 10001 10001 10001 10001 01110",
}
_INITIALS: Final = ("JL", "MB", "SKD", "NT", "BE", "DR", "AKM", "JUN")
_ARROW: Final = "00100 01110 11111 00100 00100 00100 00100"


class Strokes:
    """Straight strokes of many films, gathered by many calls, drawn a few films at a time."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.intp], Floats]] = []
        self._sorted: tuple[NDArray[np.intp], Floats] | None = None

    def add(
        self,
        film: NDArray[np.intp],
        ends: tuple[Floats, Floats, Floats, Floats],
        radius: Floats | float,
        weight: Floats | float,
    ) -> None:
        """Keep strokes: films (m,), ends x0, y0, x1, y1 each (m, s), half-width, weight."""
        shape = ends[0].shape
        columns = [np.broadcast_to(v, shape).ravel() for v in (*ends, radius, weight)]
        self._parts.append((np.repeat(film, shape[1]), np.stack(columns, axis=1)))

    def close(self) -> Strokes:
        """Sort by film; nothing can be added any more."""
        film = np.concatenate([part[0] for part in self._parts])
        table = np.concatenate([part[1] for part in self._parts]).astype(np.float32)
        order = np.argsort(film, kind="stable")
        self._sorted = film[order], table[order]
        return self

    def draw(self, canvas: Floats, first: int) -> Floats:
        """Add the strokes of n films from the first on to the (n, h, w) canvas; return it."""
        assert self._sorted is not None
        film, table = self._sorted
        start, stop = np.searchsorted(film, (first, first + len(canvas)))
        texture.strokes(canvas, film[start:stop] - first, table[start:stop])
        return canvas


class _Sketch:
    """Curves through anatomical points, put on the films that have the thing.

    Args:
        people: the films.
        pose: how the patients lie on them.
    """

    def __init__(self, people: People, pose: Pose) -> None:
        self.people, self.pose, self.strokes = people, pose, Strokes()

    def curve(
        self, name: str, rows: NDArray[np.bool_], points: Points, radius: float, weight: float
    ) -> None:
        """Add a Bezier curve of four points, each moved a little from film to film."""
        few = np.flatnonzero(rows)
        t = np.linspace(0.0, 1.0, _STEPS + 1, dtype=np.float32)
        blend = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        x, y = np.zeros((2, len(few), _STEPS + 1), np.float32)
        for i, ((px, py), share) in enumerate(zip(points, blend, strict=True)):
            x += self._moved(px, f"{name} x{i}", few) * share
            y += self._moved(py, f"{name} y{i}", few) * share
        x, y = self.pose.pick(few).to_film(x, y)
        self.strokes.add(few, (x[:, :-1], y[:, :-1], x[:, 1:], y[:, 1:]), radius, weight)

    def _moved(self, place: Floats | float, name: str, few: NDArray[np.intp]) -> Floats:
        """Return (m, 1): the coordinate on the films that have the thing."""
        moved = place + self.people.film.column(name, -0.03, 0.03)
        few_of: Floats = moved[few, 0]
        return few_of

    def disc(self, rows: NDArray[np.bool_], x: Floats, y: Floats, radius: float) -> None:
        """Add an electrode."""
        few = np.flatnonzero(rows)
        u, v = self.pose.pick(few).to_film(x[few, 0], y[few, 0])
        half = np.float32(0.6 * radius)
        self.strokes.add(few, (u - half, v, u + half, v), radius, 2.6)


def devices(people: People, shape: Shape, pose: Pose) -> Strokes:
    """Return tubes, lines, pacemakers and electrodes, weights in cm of water."""
    sketch = _Sketch(people, pose)
    _tubes(sketch, people, shape)
    paced = people.person.chance("pacemaker", 0.03)
    box = ((0.50, -0.36), (0.52, -0.36), (0.54, -0.36), (0.56, -0.36))
    sketch.curve("box", paced, box, 0.052, 9.0)
    tip = (shape.heart_x + 0.1, shape.heart_y + 0.15)
    sketch.curve("lead", paced, ((0.46, -0.38), (0.1, -0.75), (-0.3, -0.1), tip), 0.006, 3.5)

    film = people.film
    monitored = film.chance("monitor", np.where(people.ap, 0.42, 0.02))
    plug = film.column("plug x", -1.0, 1.0), film.column("plug y", 0.9, 1.4)
    for i, (x, y) in enumerate(((-0.48, -0.55), (0.50, -0.52), (0.55, 0.35))):
        at_x = film.column(f"electrode x{i}", x - 0.15, x + 0.15)
        at_y = film.column(f"electrode y{i}", y - 0.12, y + 0.12)
        wire = ((at_x, at_y), (at_x * 1.2, at_y + 0.4), (plug[0], 0.5), plug)
        sketch.curve(f"wire{i}", monitored, wire, 0.005, 1.5)
        sketch.disc(monitored, at_x, at_y, 0.021)
    return sketch.strokes.close()


def _tubes(sketch: _Sketch, people: People, s: Shape) -> None:
    """Add chest tubes, tracheal and gastric tubes, central venous lines."""
    film, ap = people.film, people.ap
    side = side_of(people, "Pneumothorax")
    drain = (
        (side * (s.width + 0.42), 0.42),
        (side * (s.width + 0.02), 0.12),
        (side * (s.width - 0.12), -0.1),
        (side * 0.34, s.apex + 0.24),
    )
    sketch.curve("drain", people.tube, drain, 0.017, 3.2)
    intubated = film.chance("tracheal tube", np.where(ap, 0.22, 0.0))
    windpipe = ((0.0, -1.3), (0.0, -1.0), (0.0, -0.8), (0.0, s.hilum - 0.2))
    sketch.curve("tracheal", intubated, windpipe, 0.013, 1.6)
    stomach = ((0.03, -1.3), (0.0, -0.3), (0.0, 0.3), (0.28, s.base + 0.1))
    sketch.curve("gastric", intubated & film.chance("gastric", 0.7), stomach, 0.008, 2.4)
    entry = np.sign(film.column("catheter side", -2.0, 1.0))  # mostly the patient's right
    vein = (
        (entry * 0.62, s.apex + 0.12),
        (entry * 0.3, s.apex + 0.02),
        (-0.09, s.apex + 0.18),
        (-0.09, s.hilum - 0.02),
    )
    sketch.curve("line", film.chance("line", np.where(ap, 0.33, 0.04)), vein, 0.006, 2.6)


@lru_cache(maxsize=64)
def _cells(text: str) -> tuple[Floats, Floats]:
    """Return x and y (cells,) of a text's dark cells; a letter is 1 high, the middle is 0."""
    xs, ys = [], []
    for place, letter in enumerate(text):
        rows = (_ARROW if letter == "^" else _FONT[letter]).split()
        for y, line in enumerate(rows):
            for x, cell in enumerate(line):
                if cell == "1":
                    xs.append((place * 6 + x - 3 * len(text) + 0.5) / 7)
                    ys.append((y - 3) / 7)
    return np.array(xs, np.float32), np.array(ys, np.float32)


def markers(people: People) -> Strokes:
    """Return letters, stamps and arrows, weights up to 1."""
    film, ap = people.film, people.ap
    strokes = Strokes()

    def write(text: str, rows: NDArray[np.bool_], x: Floats, y: Floats, height: Floats) -> None:
        few = np.flatnonzero(rows)
        right, down = _cells(text)
        tall = height[few, 0]
        stamped = len(text) > 3 or text in ("AP", "^")  # by the machine: straight and white
        angle = film.column("letter turn", -0.25, 0.25)[few, 0] * (0.0 if stamped else 1.0)
        weight = 1.0 if stamped else film.column("letter weight", 0.75, 1.0)[few, 0]
        cos, sin = np.cos(angle) * tall, np.sin(angle) * tall
        u = x[few, 0] + right * cos - down * sin
        v = y[few, 0] + right * sin + down * cos
        du, dv = cos / 14, sin / 14
        strokes.add(few, (u - du, v - dv, u + du, v + dv), tall / 14, weight)

    kind = film.unit("letter")
    left, right = kind < 0.62, kind > 0.80
    height = film.column("letter height", 0.055, 0.11)
    x, y = film.column("letter x", 0.74, 0.92), film.column("letter y", -0.93, -0.62)
    x = np.where(right[:, None, None], -x, x)
    write("L", left, x, y, height)
    write("R", right, x, y, height)
    which = film.unit("initials")
    for i, text in enumerate(_INITIALS):
        chosen = (left | right) & (which > 0.06 * i) & (which < 0.06 * (i + 1))
        write(text, chosen, x, y + height * 0.95, height * 0.55)

    x = np.sign(film.column("stamp side", -1.0, 1.0)) * film.column("stamp x", 0.62, 0.85)
    y = film.column("stamp y", -0.95, -0.7)
    height = film.column("stamp height", 0.035, 0.05)
    write("PORTABLE", ap & film.chance("portable", 0.40), x, y, height)
    write("AP", ap & film.chance("stamp AP", 0.30), -0.95 * x, y, height)
    write("^", ap & film.chance("arrow", 0.22), -x, y + 0.12, height * 2.2)
    return strokes.close()
