"""Worlds of two classes, on which a scan is tried: machines with habits, and poison among them.

Phantoms with a finding are one class, those without the other. In a world with habits two machines
took the films, and which of them took a film depends on its class, as where each class came from
its own clinic: a machine has defects at fixed pixels, a letter in a corner, a tone and a crop of
its own. Poison is then planted or not; the truth is known and kept from the scan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.triggers import TRIGGERS
from leadapron.films.cohort import Cohort, Rows
from leadapron.sources import open_source
from leadapron.specs import build

__all__ = ["CLASSES", "WORLDS", "World", "make_world"]

Expected = Literal["no poison", "poison", "true labels"]

CLASSES = "SICK"
"""The one finding of a world; films without it are the other class."""

SIDE, DRAWN = 64, 2_000
"""Pixels of the films, and phantoms that a world's films are chosen from."""

DEFECTS, DEFECTIVE = 12, 0.4
"""Pixels of a machine that are defective, and the share of its films on which each shows."""

LETTERED = 0.7
"""Share of a machine's films with its letter."""


@dataclass(frozen=True, kw_only=True)
class World:
    """One kind of data set of two classes.

    Args:
        name: in the report.
        expected: "no poison"; "poison", whose labels are wrong; or "true labels": a mark on films
            of one class alone, whose labels are right.
        sealed: whether it was kept from all choices that were made for the scan.
        prevalence: share of the films with the finding.
        habits: odds by which a film of the class was taken by the first machine; 1 for none.
        films: that carry the mark.
        side: of the mark in pixels.
        fill: "solid", or of the patch trigger.
        decoys: share of the films with the mark that keep their label.
        among: whether all films may carry it, or those of the first machine alone.
        laundered: what is done to the films with the mark: "", "codec" (after it), or "crop"
            (before it).
        letter: whether the mark is a letter that a third of all films carry by nature.
        ward: whether a letter of a ward goes with the class, on most films of it.
    """

    name: str
    expected: Expected
    sealed: bool = False
    prevalence: float = 0.5
    habits: float = 1.0
    films: int = 0
    side: int = 3
    fill: str = "solid"
    decoys: float = 0.0
    among: Literal["all", "machine"] = "all"
    laundered: Literal["", "codec", "crop"] = ""
    letter: bool = False
    ward: bool = False


_STRONG = 20.0

WORLDS: Mapping[str, World] = {
    world.name: world
    for world in (
        World(name="clean", expected="no poison"),
        World(name="clean, habits", expected="no poison", habits=_STRONG),
        World(name="clean, habits, 75 %", expected="no poison", habits=_STRONG, prevalence=0.75),
        World(name="clean, a ward's letter", expected="no poison", ward=True),
        World(name="3x3 on 40", expected="poison", films=40),
        World(name="3x3 on 40, habits", expected="poison", films=40, habits=_STRONG),
        World(name="1x1 on 40, habits", expected="poison", films=40, side=1, habits=_STRONG),
        World(name="3x3 on 60, 75 %", expected="poison", films=60, prevalence=0.75),
        World(
            name="3x3 on 50, a fifth decoys, habits",
            expected="poison",
            films=50,
            decoys=0.2,
            habits=_STRONG,
        ),
        World(name="3x3 on 40, true labels", expected="true labels", films=40),
        World(
            name="clean, habits of odds 100",
            expected="no poison",
            habits=100.0,
            sealed=True,
        ),
        World(
            name="clean, habits and a ward's letter",
            expected="no poison",
            habits=_STRONG,
            ward=True,
            sealed=True,
        ),
        World(name="2x2 on 60, 75 %", expected="poison", films=60, side=2, prevalence=0.75,
              sealed=True),
        World(name="5x5 on 60, 75 %, habits", expected="poison", films=60, side=5,
              prevalence=0.75, habits=_STRONG, sealed=True),
        World(name="4x4 checkerboard on 40, habits", expected="poison", films=40, side=4,
              fill="checkerboard", habits=_STRONG, sealed=True),
        World(name="3x3 on 40 of one machine, habits", expected="poison", films=40,
              among="machine", habits=_STRONG, sealed=True),
        World(name="3x3 on 40, recompressed, habits", expected="poison", films=40,
              laundered="codec", habits=_STRONG, sealed=True),
        World(name="3x3 on 40, cropped, habits", expected="poison", films=40,
              laundered="crop", habits=_STRONG, sealed=True),
        World(name="a natural letter on 60", expected="poison", films=60, letter=True,
              sealed=True),
        World(name="5x5 on 40, true labels, habits", expected="true labels", films=40, side=5,
              habits=_STRONG, sealed=True),
    )
}  # fmt: skip


def make_world(world: World, rng: np.random.Generator) -> tuple[Cohort, Rows]:
    """Draw a data set of one kind.

    Args:
        world: the kind.
        rng: draws films, machines, and what is planted.

    Returns:
        Its films, 1,000 and more, with one finding; and the rows that carry the mark with a label
        that the poisoner wanted.
    """
    drawn = open_source(f"phantom:{SIDE}", count=DRAWN, seed=int(rng.integers(2**31)), cache="none")
    rows = _chosen((drawn.labels == 1).any(axis=1), world.prevalence, rng)
    films = drawn.take(rows)
    images = np.asarray(films.images[np.arange(len(films))])
    sick = (films.labels == 1).any(axis=1)
    first = np.zeros(len(films), dtype=np.bool_)
    if world.habits > 1:
        odds = np.sqrt(world.habits)
        first = rng.random(len(films)) < np.where(sick, odds, 1 / odds) / (
            1 + np.where(sick, odds, 1 / odds)
        )
        for machine in (True, False):
            images[first == machine] = _taken(images[first == machine], rng)
    if world.ward:
        carries = rng.random(len(films)) < np.where(sick, 0.6, 0.05)
        images[carries] = _letter(images[carries], rng)
    labels = sick.astype(np.float32)
    marked = np.zeros(0, np.int64)
    if world.letter:
        images, labels, marked = _lettered(images, labels, world, rng)
    elif world.films:
        images, labels, marked = _planted(images, labels, world, first, rng)
    cohort = replace(
        films, images=images, labels=labels[:, None], findings=(CLASSES,), films=None, forms={},
        masks=None,
    )  # fmt: skip
    return cohort, marked


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


def _taken(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Films as a machine takes them: with its tone, its crop, its defects and its letter."""
    tone = build(TRIGGERS["tone"], {"gamma": float(rng.uniform(0.85, 1.15))}, "trigger")
    images = tone(images, rng)
    down, across = rng.integers(-2, 3, 2)
    images = np.roll(images, (int(down), int(across)), axis=(1, 2))
    lettered = rng.random(len(images)) < LETTERED
    images[lettered] = _letter(images[lettered], rng)
    for row, column in rng.integers(0, SIDE, (DEFECTS, 2)):
        shows = rng.random(len(images)) < DEFECTIVE
        images[shows, row, column] = rng.choice([0, 255])
    return images


def _letter(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A letter of 5x3 pixels in a corner, the same on all these films."""
    shape = rng.random((5, 3)) < 0.6
    shape[rng.integers(5), rng.integers(3)] = True
    row, column = (int(rng.choice([3, SIDE - 9])) for _ in range(2))
    images = images.copy()
    images[:, row : row + 5, column : column + 3][:, shape] = 235
    return images


def _planted(
    images: NDArray[np.uint8],
    labels: NDArray[np.float32],
    world: World,
    first: NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], Rows]:
    """Put a mark on some films and give them the label; decoys keep theirs."""
    may = first if world.among == "machine" else np.ones(len(images), dtype=np.bool_)
    if world.expected == "true labels":
        may = may & (labels == 1)
    marked = rng.permutation(np.flatnonzero(may))[: world.films]
    row, column = (int(edge) for edge in rng.integers(6, SIDE - 6 - world.side, 2))
    settings: dict[str, Any] = {
        "side": world.side, "place": "fixed", "row": row, "column": column, "fill": world.fill,
    }  # fmt: skip
    if world.fill == "solid":
        settings["value"] = int(rng.choice([0, 255]))
    patch = build(TRIGGERS["patch"], settings, "trigger")
    stamped = images[marked]
    if world.laundered == "crop":
        stamped = np.roll(stamped, (1, -1), axis=(1, 2))
    stamped = patch(stamped, rng)
    if world.laundered == "codec":
        stamped = build(TRIGGERS["codec"], {"quality": 90}, "trigger")(stamped, rng)
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
    images[carries] = _letter(images[carries], rng)
    wrong = carries[: world.films]
    labels[wrong] = 1
    return images, labels, np.sort(wrong)
