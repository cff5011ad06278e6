"""Where a chest's organs are: one number a film each, shape-changing disease included.

Anatomical coordinates: x to the right of the picture (the patient's left), y down, the unit
about 20 cm, the chest's middle near (0, 0). All columns are (n, 1, 1) float32.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from leadapron.sources.phantom.dice import Dice, Floats
from leadapron.sources.phantom.people import FINDINGS, People


def has(people: People, finding: str) -> Floats:
    """Return (n, 1, 1) in {0, 1}."""
    return people.truth[:, FINDINGS.index(finding), None, None]


def severity(people: People, finding: str) -> Floats:
    """Return (n, 1, 1) in [0, 1): how far advanced the finding is, alike in a patient's films."""
    shared = people.person.column(f"severity {finding}", 0.0, 0.5)
    return shared + people.film.column(f"severity {finding}", 0.0, 0.5)


def side_of(people: People, finding: str) -> Floats:
    """Return (n, 1, 1), -1 for the patient's right (left in the picture), 1 for the left."""
    return np.sign(people.person.column(f"side {finding}", -1.0, 1.0))


def anteroposterior(people: People) -> Floats:
    """Return (n, 1, 1), 1 for AP films, 0 for PA."""
    return people.ap.astype(np.float32)[:, None, None]


def _normal(dice: Dice, name: str, deviation: float) -> Floats:
    """Return (n, 1, 1) normal, within three deviations."""
    value = np.clip(dice.normal(name), -3.0, 3.0) * deviation
    return value.astype(np.float32)[:, None, None]


class _Columns:
    """A dataclass of columns, of which some films can be picked."""

    def pick(self, rows: slice | NDArray[np.intp]) -> Self:
        """Return some of the films."""
        columns = {item.name: getattr(self, item.name)[rows] for item in fields(self)}  # type: ignore[arg-type]
        return type(self)(**columns)


@dataclass(frozen=True, kw_only=True)
class Pose(_Columns):
    """How the patient lies on the film: turn (radians), scale, shifts."""

    turn: Floats
    scale: Floats
    shift_x: Floats
    shift_y: Floats

    @classmethod
    def of(cls, people: People) -> Pose:
        """Return the films' poses."""
        person, film = people.person, people.film
        return cls(
            turn=_normal(film, "turn", 0.026) * (1.0 + 0.5 * anteroposterior(people)),
            scale=person.column("build", 0.86, 0.99) * film.column("zoom", 0.94, 1.06),
            shift_x=_normal(film, "shift x", 0.035),
            shift_y=_normal(film, "shift y", 0.045),
        )

    def grid(self, size: int) -> tuple[Floats, Floats]:
        """Return anatomical x and y, (n, size, size), of the film's pixels."""
        side = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2.0 / size) - 1.0
        u, v = side[None, None, :], side[None, :, None]
        cos, sin = np.cos(self.turn) * self.scale, np.sin(self.turn) * self.scale
        return (u * cos - self.shift_x) + v * sin, (v * cos - self.shift_y) - u * sin

    def to_film(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return film coordinates, -1 to 1, of (n, m) anatomical ones."""
        across, down = x + self.shift_x[:, 0], y + self.shift_y[:, 0]
        cos, sin = np.cos(self.turn[:, 0]), np.sin(self.turn[:, 0])
        across, down = across / self.scale[:, 0], down / self.scale[:, 0]
        return across * cos - down * sin, down * cos + across * sin


@dataclass(frozen=True, kw_only=True)
class Shape(_Columns):
    """The organs' places and sizes.

    Args:
        width: largest half-width of the lungs.
        apex: height of the lungs' apices.
        base: height of the costophrenic angles.
        level: height of the right diaphragm's dome, before volume loss.
        curve: how far the diaphragm falls towards the wall.
        raised_right: how much volume loss lifts the right dome.
        raised_left: the left dome's height over the right one's.
        shift: the mediastinum's displacement, positive to the patient's left.
        bend: curvature of the spine.
        heart_x: middle of the heart, from the mediastinum's middle line.
        heart_y: middle of the heart.
        heart_width: half-width of the heart.
        heart_height: half-height of the heart.
        heart_tilt: how much the heart leans to the patient's left, downwards.
        hilum: height of the hila.
        stout: 0 (thin) to 1.
        old: 0 (up to 40 years) to 1 (85 and more).
    """

    width: Floats
    apex: Floats
    base: Floats
    level: Floats
    curve: Floats
    raised_right: Floats
    raised_left: Floats
    shift: Floats
    bend: Floats
    heart_x: Floats
    heart_y: Floats
    heart_width: Floats
    heart_height: Floats
    heart_tilt: Floats
    hilum: Floats
    stout: Floats
    old: Floats

    @classmethod
    def of(cls, people: People) -> Shape:
        """Return the films' shapes."""
        person, film = people.person, people.film
        ap = anteroposterior(people)
        swollen = has(people, "Emphysema") * (0.6 + 0.4 * severity(people, "Emphysema"))
        lost = has(people, "Atelectasis") * (0.5 + 0.5 * severity(people, "Atelectasis"))
        side = side_of(people, "Atelectasis")

        width = person.column("width", 0.66, 0.75)
        apex = person.column("apex", -0.74, -0.66) + 0.02 * ap
        breath = film.column("breath", -0.05, 0.05) - 0.07 * ap + 0.10 * swollen
        level = person.column("dome", 0.34, 0.44) + breath - 0.04 * has(people, "Fibrosis")
        curve = (person.column("curve", 0.11, 0.17) + 0.01 * ap) * (1.0 - 0.75 * swollen)
        drop = person.column("left dome", 0.005, 0.05) * (1.0 - swollen)

        # Cardiothoracic ratio, above 0.5 with cardiomegaly alone (AP films magnify the heart).
        large = has(people, "Cardiomegaly") > 0
        ratio = person.column("heart", 0.395, 0.47) - 0.08 * swollen
        ratio = np.where(large, 0.515 + 0.12 * severity(people, "Cardiomegaly"), ratio)
        half = ratio * width * (1.0 + 0.04 * ap)
        heart_y = level - 0.17 + 0.03 * swollen - 0.15 * (half - 0.3)
        age = np.clip((people.age[:, None, None] - 40) / 45.0, 0.0, 1.0)
        return cls(
            width=width,
            apex=apex,
            base=level + curve + 0.04,
            level=level,
            curve=curve,
            raised_right=lost * 0.14 * (side < 0),
            raised_left=lost * 0.14 * (side > 0) - drop,
            # Volume loss pulls the mediastinum to its side; rotation of the patient moves it too.
            shift=lost * side * 0.06 + _normal(film, "rotation", 0.012) * (1.0 + ap),
            bend=_normal(person, "scoliosis", 0.02),
            heart_x=0.035 + 0.22 * half,
            heart_y=heart_y,
            heart_width=half,
            heart_height=0.245 + 0.45 * (half - 0.3) + 0.02 * swollen,
            heart_tilt=person.column("heart tilt", 0.35, 0.6) * (1.0 - 0.3 * swollen),
            hilum=heart_y - person.column("hilum", 0.20, 0.26),
            stout=person.column("stout"),
            old=age.astype(np.float32),
        )
