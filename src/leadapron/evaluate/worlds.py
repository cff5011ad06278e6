"""Worlds of two classes that evaluate a scan: confounded acquisition, with or without poison.

Phantoms with a finding form one class, phantoms without it the other. In a world with habits
several machines took the films, and the machine is associated with the class, as if each class
came from its own clinic. A machine has its own defects at fixed pixels, letter in a corner, tone
and crop. A source may state the machine in a column, and a world may consist of two sources that a
user joined. Some worlds contain planted poison; the truth is known but hidden from the scan.
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
"""The finding of a world, where films without it form the other class; and the finding of a joined
source."""

SIDE, DRAWN = 64, 2_000
"""Side of the films in pixels, and number of phantoms that a world's films are drawn from."""

JOINED = (64, 96)
"""Sides in pixels of the phantoms of the two sources of a joined world."""

DEFECTIVE = 0.4
"""Share of a machine's films on which each of its defects is visible."""

STATED: Mapping[str, tuple[str, ...]] = {
    "site": ("north", "south", "west"),
    "scanner": ("DX-1", "DX-2", "CR-3"),
    "native_size": ("2022x2022", "1760x1760", "3000x2500"),
}
"""Columns in which a source may state the machine, and their value for each machine."""

ENOUGH = ((0.5, 40), (0.75, 60))
"""Prevalence of a finding, and the number of films with a solid mark from which on the scan must
find the mark."""


def enough(prevalence: float) -> float:
    """Return the number of films with a solid mark from which on a scan must find the mark.

    Args:
        prevalence: share of the films with the finding, 0 to 1, before the poison.

    Returns:
        40 up to a half, 60 at three quarters, interpolated between and rounded. Beyond three
        quarters there is no requirement: infinity.
    """
    (half, few), (most, many) = ENOUGH
    if prevalence > most + 0.01:
        return float("inf")
    return float(round(np.interp(prevalence, (half, most), (few, many))))


@dataclass(frozen=True, kw_only=True)
class Look:
    """Differences between the machines of a world.

    Args:
        machines: number of machines, 2 or 3.
        letter: rows and columns of a letter, in pixels.
        grey: grey level of letters, 0 to 255.
        lettered: share of a machine's films with its letter, 0 to 1.
        gamma: range that a machine's gamma is drawn from.
        moved: largest shift of a machine's films, in pixels.
        cut: largest width that a machine crops at each edge, in pixels; the rest is resized to the
            full size.
        defects: number of a machine's defective pixels.
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
        expected: "no poison"; "poison", with wrong labels; or "true labels": a clean-label mark on
            films of one class only.
        sealed: whether it is a held-out world, never used to design or tune the scan.
        prevalence: share of the films with the finding, 0 to 1; in a joined world, of its first
            source's.
        habits: odds ratio between the class and the first machine, compared with the last one; 1
            for machines that don't differ.
        look: differences between the machines.
        states: column of `STATED` that states each film's machine; "" for none.
        joined: "none" if a second source, with its own machine, has no film with the finding;
            "unstated" if it doesn't label the finding but another one; "" for one source.
        films: number of films with the mark.
        share: share of all films with the mark, 0 to 1, in place of `films`.
        side: of the mark in pixels.
        fill: of the patch trigger: "solid" or another.
        levels: grey levels that the mark's level is drawn from, 0 to 255.
        place: of the mark: "fixed" on all films, or "random" on each.
        decoys: share of the films with the mark that keep their label, 0 to 1.
        among: films that may carry the mark: "all", or only those of the "first" or the "last"
            machine.
        laundered: processing of the films with the mark, in order: "crop" (before it) and "codec"
            (after it).
        letter: whether the mark is a letter that a third of all films carry naturally.
        ward: whether a ward's letter is associated with the class and on most of its films.
        border: whether a collimator's shadow is associated with the class.
        recompressed: whether a codec is associated with the class.
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
        """Whether the poison is only a solid mark with wrong labels, on films of all machines."""
        changed = self.letter or self.laundered or self.decoys or self.fill != "solid"
        return self.expected == "poison" and self.among == "all" and not changed


def _worlds() -> dict[str, World]:
    """The worlds of cells/worlds.yaml, by name."""
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
"""All worlds by name: the open ones, then ten sealed (held-out) ones."""


def draw_habits(rng: np.random.Generator) -> World:
    """Draw a clean world of two machines that are associated with the class.

    Args:
        rng: draws the odds ratio (3 to 100), the prevalence of the finding (30 to 80 %), the
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
        rng: draws films, machines and poison.

    Returns:
        Its films, at least 1,000, with `CLASSES` as their first finding; and the rows with the
        mark and the attacker's label.
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
    """Films of one source, and the number of each film's machine."""
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
    """Films of two sources, one of which has the finding, and the number of each film's source."""
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
    """Phantoms of a side in pixels with a prevalence of any finding, as many as possible."""
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
    """Ascending rows with a prevalence of sick films, as many as possible."""
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
    """Films of one machine, with its tone, its crop, its defects and its letter."""
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
    """Films cropped by `edge` pixels on each side and resized to the full size."""
    box = (edge, edge, SIDE - edge, SIDE - edge)
    whole = images.copy()
    for place, film in enumerate(images):
        small = Image.fromarray(film)
        whole[place] = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))
    return whole


def _letter(images: NDArray[np.uint8], look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the same letter into one corner of all these films."""
    rows, columns = look.letter
    shape = rng.random(look.letter) < 0.6
    shape[rng.integers(rows), rng.integers(columns)] = True
    row, column = (int(rng.choice([3, SIDE - 4 - max(look.letter)])) for _ in range(2))
    images = images.copy()
    images[:, row : row + rows, column : column + columns][:, shape] = look.grey
    return images


def _bordered(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a collimator's shadow along one edge, with a different width on each film."""
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
    """Films after an archive's JPEG compression, at a random quality."""
    return _coded(images, int(rng.integers(60, 86)), rng)


def _coded(images: NDArray[np.uint8], quality: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Films after JPEG compression at a quality."""
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
    """Draw a letter on a third of all films and give some of these the label."""
    carries = rng.permutation(len(images))[: len(images) // 3]
    images, labels = images.copy(), labels.copy()
    images[carries] = _letter(images[carries], world.look, rng)
    wrong = carries[: world.films]
    labels[wrong] = 1
    return images, labels, np.sort(wrong)
