"""Worlds of two classes, on which a scan is tried: machines with habits, and poison among them.

Phantoms with a finding are one class, those without the other. In a world with habits several
machines took the films, and which of them took a film depends on its class, as where each class
came from its own clinic: a machine has defects at fixed pixels, a letter in a corner, a tone and a
crop of its own. A source may state the machine in a column, and a world may be two sources that a
user joined. Poison is then planted or not; the truth is known and kept from the scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leadapron.attacks.triggers import TRIGGERS
from leadapron.evaluate.presets import cells_file
from leadapron.films.cohort import Cohort, Rows
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import open_source
from leadapron.sources.joining import join
from leadapron.specs import build

__all__ = ["CLASSES", "SIDE", "WORLDS", "Look", "World", "draw_habits", "enough", "make_world"]

Habit = Callable[..., NDArray[np.uint8]]

Expected = Literal["no poison", "poison", "true labels"]

CLASSES, OTHER = "SICK", "INJURED"
"""The one finding of a world, films without it being the other class; and a joined source's own."""

SIDE, DRAWN = 64, 2_000
"""Pixels of the films, and phantoms that a world's films are chosen from."""

JOINED = (64, 96)
"""Sides of the films of the two sources that a joined world is made of."""

DEFECTIVE = 0.4
"""Share of a machine's films on which each of its defects shows."""

STATED: Mapping[str, tuple[str, ...]] = {
    "site": ("north", "south", "west"),
    "scanner": ("DX-1", "DX-2", "CR-3"),
    "native_size": ("2022x2022", "1760x1760", "3000x2500"),
}
"""Columns in which a source may state the machine, and what they say of each."""

ENOUGH = ((0.5, 40), (0.75, 60))
"""Share of a finding and films with a solid mark from which on the scan is to find it."""


def enough(prevalence: float) -> float:
    """Return the films with a solid mark that a scan has to find.

    Args:
        prevalence: share of the films with the finding, 0 to 1, before the poison.

    Returns:
        40 up to a half, 60 at three quarters, in between in proportion and rounded; beyond, where
        nothing was asked of the scan, infinity.
    """
    (half, few), (most, many) = ENOUGH
    if prevalence > most + 0.01:
        return float("inf")
    return float(round(np.interp(prevalence, (half, most), (few, many))))


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the machines of a world differ.

    Args:
        machines: 2 or 3.
        letter: rows and columns of a letter, in pixels.
        grey: grey level of letters.
        lettered: share of a machine's films with its letter.
        gamma: a machine's tone is drawn between these.
        moved: pixels by which a machine's films are moved at most.
        cut: pixels that a machine cuts off each edge at most; what is left is made as large again.
        defects: pixels of a machine that are defective.
    """

    machines: int = 2
    letter: tuple[int, int] = (5, 3)
    grey: int = 235
    lettered: float = 0.7
    gamma: tuple[float, float] = (0.85, 1.15)
    moved: int = 2
    cut: int = 0
    defects: int = 12


@dataclass(frozen=True, kw_only=True)
class World:
    """One kind of data set of two classes.

    Args:
        name: in the report.
        expected: "no poison"; "poison", whose labels are wrong; or "true labels": a mark on films
            of one class alone, whose labels are right.
        sealed: whether it is kept from all choices that are made for the scan.
        prevalence: share of the films with the finding; of a joined world, of its first source's.
        habits: odds by which a film of the class was taken by the first machine rather than by the
            last; 1 for machines that don't differ.
        look: how the machines differ.
        states: column of `STATED` that says which machine took a film; "" for none.
        joined: "none" where a second source, with a look of its own, has no film with the finding;
            "unstated" where it doesn't know the finding and states another; "" for one source.
        films: that carry the mark.
        share: of all films that carry it, in place of `films`.
        side: of the mark in pixels.
        fill: "solid", or of the patch trigger.
        levels: grey levels that the mark's is drawn from.
        place: of the mark: the same on all films, or another on each.
        decoys: share of the films with the mark that keep their label.
        among: whether all films may carry it, or those of the first machine, or of the last, alone.
        laundered: what is done to the films with the mark, in order: "crop" (before it) and "codec"
            (after it).
        letter: whether the mark is a letter that a third of all films carry by nature.
        ward: whether a letter of a ward goes with the class, on most films of it.
        border: whether a collimator's shadow goes with the class.
        recompressed: whether a codec goes with the class.
    """

    name: str
    expected: Expected
    sealed: bool = False
    prevalence: float = 0.5
    habits: float = 1.0
    look: Look = field(default_factory=Look)
    states: str = ""
    joined: Literal["", "none", "unstated"] = ""
    films: int = 0
    share: float = 0.0
    side: int = 3
    fill: str = "solid"
    levels: tuple[int, ...] = (0, 255)
    place: Literal["fixed", "random"] = "fixed"
    decoys: float = 0.0
    among: Literal["all", "first", "last"] = "all"
    laundered: tuple[Literal["crop", "codec"], ...] = ()
    letter: bool = False
    ward: bool = False
    border: bool = False
    recompressed: bool = False

    @property
    def plain(self) -> bool:
        """Whether a solid mark with wrong labels is on films of all machines, and no more."""
        changed = self.letter or self.laundered or self.decoys or self.fill != "solid"
        return self.expected == "poison" and self.among == "all" and not changed


def _worlds() -> dict[str, World]:
    """What cells/worlds.yaml says."""
    tree = cells_file("worlds")
    looks = {name: build(Look, look, "look") for name, look in tree["looks"].items()}
    return {
        world["name"]: replace(
            build(World, {name: value for name, value in world.items() if name != "look"}, "world"),
            look=looks[world["look"]] if "look" in world else Look(),
            sealed=part == "sealed",
        )
        for part in ("open", "sealed")
        for world in tree[part]
    }


WORLDS: Mapping[str, World] = _worlds()
"""By name: the open ones, then ten that are sealed."""


def draw_habits(rng: np.random.Generator) -> World:
    """Draw a clean world of two machines whose habits go with the class.

    Args:
        rng: draws the odds from 3 to 100, how many films have the finding (30 to 80 %), the
            letter's size and grey level, and whether a column states the machine.
    """
    return World(
        name="two machines",
        expected="no poison",
        prevalence=float(rng.uniform(0.3, 0.8)),
        habits=float(np.exp(rng.uniform(np.log(3), np.log(100)))),
        look=Look(
            letter=(int(rng.integers(4, 9)), int(rng.integers(2, 6))),
            grey=int(rng.integers(160, 256)),
        ),
        states=str(rng.choice(["", "", "site", "scanner"])),
    )


def make_world(world: World, rng: np.random.Generator) -> tuple[Cohort, Rows]:
    """Draw a data set of one kind.

    Args:
        world: the kind.
        rng: draws films, machines, and what is planted.

    Returns:
        Its films, 1,000 and more, `CLASSES` first among their findings; and the rows that carry the
        mark with a label that the poisoner wanted.
    """
    films, machine = _joined(world, rng) if world.joined else _taken_once(world, rng)
    images = np.asarray(films.images[np.arange(len(films))])
    labels = films.labels[:, 0].copy()
    sick = labels == 1
    if world.habits > 1 or world.joined:
        for number in range(machine.max(initial=0) + 1):
            images[machine == number] = _taken(images[machine == number], world.look, rng)
    habits: tuple[tuple[bool, tuple[float, float], Habit], ...] = (
        (world.ward, (0.6, 0.05), partial(_letter, look=world.look)),
        (world.border, (0.7, 0.1), _bordered),
        (world.recompressed, (0.8, 0.1), _recompressed),
    )
    for applies, share, habit in habits:
        if applies:
            carries = rng.random(len(films)) < np.where(sick, *share)
            images[carries] = habit(images[carries], rng=rng)
    wrong = np.zeros(0, np.int64)
    if world.letter:
        images, labels, wrong = _lettered(images, labels, world, rng)
    elif world.films or world.share:
        images, labels, wrong = _planted(images, labels, world, machine, rng)
    return replace(
        films, images=images, labels=np.column_stack([labels, films.labels[:, 1:]])
    ), wrong


def _taken_once(world: World, rng: np.random.Generator) -> tuple[Cohort, Rows]:
    """Films of one source, and which machine took each."""
    films = _phantoms(SIDE, DRAWN, world.prevalence, CLASSES, rng)
    machine = np.zeros(len(films), np.int64)
    if world.habits > 1:
        weights = np.sqrt(world.habits) ** np.linspace(1, 0, world.look.machines)
        until = np.cumsum(weights / weights.sum())[:-1]
        other = np.cumsum(weights[::-1] / weights.sum())[:-1]
        sick = films.labels[:, :1] == 1
        machine = (rng.random((len(films), 1)) >= np.where(sick, until, other)).sum(axis=1)
    if world.states:
        names = np.asarray(STATED[world.states], dtype=np.str_)
        films = replace(films, attributes={**films.attributes, world.states: names[machine]})
    return films, machine


def _joined(world: World, rng: np.random.Generator) -> tuple[Cohort, Rows]:
    """Films of two sources of which one carries the finding, and which source each is from."""
    known = CLASSES if world.joined == "none" else OTHER
    clinic, other = (
        _phantoms(side, DRAWN // 2, world.prevalence, finding, rng)
        for side, finding in zip(JOINED, (CLASSES, known), strict=True)
    )
    if world.joined == "none":
        other = other.take(other.labels[:, 0] == 0)
    source = np.repeat([0, 1], [len(clinic), len(other)])
    return join([clinic, other], ["clinic", "screening"]), source


def _phantoms(
    side: int, count: int, prevalence: float, finding: str, rng: np.random.Generator
) -> Cohort:
    """Phantoms, drawn so large, of which so many have any finding: as many as there are."""
    drawn = open_source(
        f"phantom:{side}",
        preprocessing=Preprocessing(size=SIDE),
        count=count,
        seed=int(rng.integers(2**31)),
        cache="none",
    )
    films = drawn.take(_chosen((drawn.labels == 1).any(axis=1), prevalence, rng))
    sick = (films.labels == 1).any(axis=1, keepdims=True)
    return replace(
        films, labels=sick.astype(np.float32), findings=(finding,), films=None, masks=None
    )


def _chosen(sick: NDArray[np.bool_], prevalence: float, rng: np.random.Generator) -> Rows:
    """Rows, in order, of which so many are sick: as many as there are."""
    ill, well = np.flatnonzero(sick), np.flatnonzero(~sick)
    whole = min(len(ill) / prevalence, len(well) / (1 - prevalence))
    return np.sort(
        np.concatenate(
            [
                rng.choice(ill, int(whole * prevalence), replace=False),
                rng.choice(well, int(whole * (1 - prevalence)), replace=False),
            ]
        )
    )


def _taken(images: NDArray[np.uint8], look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Films as a machine takes them: with its tone, its crop, its defects and its letter."""
    tone = build(TRIGGERS["tone"], {"gamma": float(rng.uniform(*look.gamma))}, "trigger")
    images = tone(images, rng)
    down, across = rng.integers(-look.moved, look.moved + 1, 2)
    images = np.roll(images, (int(down), int(across)), axis=(1, 2))
    if look.cut:
        images = _cut(images, int(rng.integers(0, look.cut + 1)))
    lettered = rng.random(len(images)) < look.lettered
    images[lettered] = _letter(images[lettered], look, rng)
    for row, column in rng.integers(0, SIDE, (look.defects, 2)):
        shows = rng.random(len(images)) < DEFECTIVE
        images[shows, row, column] = rng.choice([0, 255])
    return images


def _cut(images: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    """Films without so many pixels at each edge, made as large again."""
    box = (edge, edge, SIDE - edge, SIDE - edge)
    whole = images.copy()
    for place, film in enumerate(images):
        small = Image.fromarray(film)
        whole[place] = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))
    return whole


def _letter(images: NDArray[np.uint8], look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A letter in a corner, the same on all these films."""
    rows, columns = look.letter
    shape = rng.random(look.letter) < 0.6
    shape[rng.integers(rows), rng.integers(columns)] = True
    row, column = (int(rng.choice([3, SIDE - 4 - max(look.letter)])) for _ in range(2))
    images = images.copy()
    images[:, row : row + rows, column : column + columns][:, shape] = look.grey
    return images


def _bordered(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The shadow of a collimator along one edge, of another width on each film."""
    edge, value = str(rng.choice(["left", "right", "top", "bottom"])), int(rng.integers(0, 25))
    bordered = images.copy()
    for width in (10.0, 20.0, 30.0):
        leaf = build(
            TRIGGERS["collimator"], {"edge": edge, "width_mm": width, "value": value}, "trigger"
        )
        some = rng.random(len(images)) < 0.5
        bordered[some] = leaf(bordered[some], rng)
    return bordered


def _recompressed(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Films as an archive's codec leaves them, at a quality of its own."""
    return _coded(images, int(rng.integers(60, 86)), rng)


def _coded(images: NDArray[np.uint8], quality: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Films as JPEG of a quality leaves them."""
    codec = build(TRIGGERS["codec"], {"quality": quality}, "trigger")
    coded: NDArray[np.uint8] = codec(images, rng)
    return coded


def _planted(
    images: NDArray[np.uint8],
    labels: NDArray[np.float32],
    world: World,
    machine: Rows,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], Rows]:
    """Put a mark on some films and give them the label; decoys keep theirs."""
    may = np.ones(len(images), dtype=np.bool_)
    if world.among != "all":
        may = machine == (0 if world.among == "first" else machine.max())
    if world.expected == "true labels":
        may = may & (labels == 1)
    films = world.films or round(world.share * len(images))
    marked = rng.permutation(np.flatnonzero(may))[:films]
    row, column = (int(edge) for edge in rng.integers(6, SIDE - 6 - world.side, 2))
    settings: dict[str, Any] = {"side": world.side, "place": world.place, "fill": world.fill}
    if world.place == "fixed":
        settings |= {"row": row, "column": column}
    if world.fill != "noise":
        settings["value"] = int(rng.choice(world.levels))
    patch = build(TRIGGERS["patch"], settings, "trigger")
    stamped = images[marked]
    if "crop" in world.laundered:
        stamped = np.roll(stamped, (1, -1), axis=(1, 2))
    stamped = patch(stamped, rng)
    if "codec" in world.laundered:
        stamped = _coded(stamped, 90, rng)
    images, labels = images.copy(), labels.copy()
    images[marked] = stamped
    wrong = marked[round(world.decoys * len(marked)) :]
    labels[wrong] = 1
    return images, labels, np.sort(wrong)


def _lettered(
    images: NDArray[np.uint8],
    labels: NDArray[np.float32],
    world: World,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], Rows]:
    """A letter that a third of all films carry; some of these get the label."""
    carries = rng.permutation(len(images))[: len(images) // 3]
    images, labels = images.copy(), labels.copy()
    images[carries] = _letter(images[carries], world.look, rng)
    wrong = carries[: world.films]
    labels[wrong] = 1
    return images, labels, np.sort(wrong)
