"""Stamping and poisoning beside ART, the Adversarial Robustness Toolbox: time, memory, same pixels.

`make bench-peers` runs it in .venv-peers, which has both. Each line has two fresh processes that
take turns, and who goes first alternates. Neither has the command line's allocator settings: a
caller of ART has none either. Before a line is timed, a third process does both sides' work and
counts the values that differ.

    python benchmarks/peers.py                            100,000 films, printed only
    python benchmarks/peers.py --films 20000 --repeats 3 pattern    fewer, the lines so named
    python benchmarks/peers.py --out docs/results/peers.md

At 100,000 films a line beside ART's float32 needs 8 GB of memory.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from explanations import processor
from speed import Worker, cell, memory

SIZE, FINDINGS, TARGET = 64, 14, 0
FRACTION = 0.1
SEED = 0
BATCH = 64

Done = tuple[Any, NDArray[np.float32] | None]
"""Images and, where the task changes them, labels."""


# --- what both sides get


@functools.cache
def films(count: int, dtype: str) -> NDArray[Any]:
    """(count, 64, 64) noise: a copy takes as long whatever it shows. float32 spans 0 to 1."""
    rng = np.random.default_rng(SEED)
    images = np.empty((count, SIZE, SIZE), dtype)
    for block in range(0, count, 1000):
        grey = rng.integers(0, 256, images[block : block + 1000].shape, np.uint8)
        images[block : block + 1000] = grey if dtype == "uint8" else grey / np.float32(255)
    return images


@functools.cache
def labels(count: int) -> NDArray[np.float32]:
    return (np.random.default_rng(SEED).random((count, FINDINGS)) < 0.1).astype(np.float32)


@functools.cache
def reading_order(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(SEED + 1).permutation(count)


def read(images: Any, count: int) -> None:
    """Every film once, in random batches, as an epoch of training does."""
    order = reading_order(count)
    for start in range(0, count, BATCH):
        images[order[start : start + BATCH]]


# --- ours


class Pattern:
    """The four pixels of ART's add_pattern_bd, as a trigger that a user would write."""

    def __call__(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:  # noqa: ARG002
        stamped = images.copy()
        stamped[:, (62, 61, 62, 60), (62, 61, 60, 62)] = 255
        return stamped


def our_trigger(mark: str) -> Any:
    from leadapron.attacks.triggers import Patch

    if mark == "pattern":
        return Pattern()
    return Patch(side=3, value=255, place="fixed", row=60, column=60)  # around those four pixels


@functools.cache
def cohort(count: int) -> Any:
    from leadapron.films.cohort import Cohort
    from leadapron.films.preprocessing import Preprocessing

    names = np.char.mod("%d", np.arange(count))
    findings = tuple(f"finding {i}" for i in range(FINDINGS))
    images = films(count, "uint8")
    return Cohort(images, labels(count), findings, names, names, Preprocessing(size=SIZE))


def stamp_ours(mark: str, count: int, dtype: str) -> Done:
    return our_trigger(mark)(films(count, dtype), np.random.default_rng(SEED)), None


def poison_ours(mark: str, count: int, dtype: str) -> Done:  # noqa: ARG001
    from leadapron.attacks.poisoning import Poisoning, poison

    how = Poisoning(trigger=our_trigger(mark), finding=f"finding {TARGET}", fraction=FRACTION)
    poisoned, _ = poison(cohort(count), how, np.random.default_rng(SEED))
    return poisoned.images, poisoned.labels


def read_ours(mark: str, count: int, dtype: str) -> Done:
    done = poison_ours(mark, count, dtype)
    read(done[0], count)
    return done


# --- ART's


def square(images: NDArray[Any], value: int) -> NDArray[Any]:
    """A perturbation of our own: ART has none for a square. In place, as ART has copied already."""
    images[:, 60:63, 60:63] = value
    return images


def art_attack(mark: str, dtype: str) -> Any:
    from art.attacks.poisoning import PoisoningAttackBackdoor
    from art.attacks.poisoning.perturbations import add_pattern_bd

    white = 255 if dtype == "uint8" else 1
    if mark == "pattern":
        return PoisoningAttackBackdoor(partial(add_pattern_bd, pixel_value=white))
    return PoisoningAttackBackdoor(partial(square, value=white))


def target_row() -> NDArray[np.float32]:
    return np.eye(FINDINGS, dtype=np.float32)[TARGET]


def stamp_art(mark: str, count: int, dtype: str) -> Done:
    attack = art_attack(mark, dtype)
    return attack.poison(films(count, dtype), y=target_row(), broadcast=True)[0], None


def poison_art(mark: str, count: int, dtype: str) -> Done:
    """Choose the films that poison() chooses, mark them, write them into a copy of the set."""
    chance, *_ = np.random.default_rng(SEED).spawn(3)
    chosen = np.sort(chance.permutation(count)[: int(FRACTION * count + 1e-9)])
    images, stated = films(count, dtype).copy(), labels(count).copy()
    images[chosen], stated[chosen] = art_attack(mark, dtype).poison(
        images[chosen], y=target_row(), broadcast=True
    )
    return images, stated


def read_art(mark: str, count: int, dtype: str) -> Done:
    done = poison_art(mark, count, dtype)
    read(done[0], count)
    return done


# --- the contests


class Contest(NamedTuple):
    what: str
    ours: Callable[[str, int, str], Done]
    art: Callable[[str, int, str], Done]
    marks: tuple[str, str]  # ours, ART's
    dtype: str  # of ART's films; ours are uint8


CONTESTS = [
    Contest(f"{what}, {' / '.join(dict.fromkeys(marks))}", ours, art, marks, dtype)
    for what, ours, art, all_marks in (
        (
            "stamp all",
            stamp_ours,
            stamp_art,
            [("pattern", "pattern"), ("square", "pattern"), ("square", "square")],
        ),
        ("poison 10 %", poison_ours, poison_art, [("pattern", "pattern"), ("square", "square")]),
        ("poison 10 %, read all once", read_ours, read_art, [("square", "square")]),
    )
    for marks in all_marks
    for dtype in ("float32", "uint8")
]


class Took(NamedTuple):
    elapsed: float  # seconds
    worked: float  # the processor's, which other work on the machine hardly changes


class Line(NamedTuple):
    contest: Contest
    ours: list[Took]
    art: list[Took]
    ours_memory: float  # MB
    art_memory: float
    differing: int


def seconds(do: Callable[[str, int, str], Done], mark: str, count: int, dtype: str) -> Took:
    began, started = time.perf_counter(), time.process_time()
    done = do(mark, count, dtype)
    took = Took(time.perf_counter() - began, time.process_time() - started)
    del done  # giving the memory back isn't timed
    return took


def prepare(do: Callable[[str, int, str], Done], mark: str, count: int, dtype: str) -> float:
    """Imports and inputs."""
    do(mark, 10, dtype)
    films(count, dtype), labels(count), reading_order(count)
    if do in (poison_ours, read_ours):
        cohort(count)
    return memory()


def differing(contest: Contest, count: int) -> int:
    """Number of pixels and labels in which the two sides' results are not the same."""
    mine, my_labels = contest.ours(contest.marks[0], count, "uint8")
    theirs, their_labels = contest.art(contest.marks[1], count, contest.dtype)
    assert mine.shape == theirs.shape
    assert theirs.dtype == contest.dtype
    n = 0
    for start in range(0, count, 1000):
        rows = np.arange(start, min(start + 1000, count))
        images = theirs[rows]
        if contest.dtype == "float32":
            images = np.rint(images * 255).astype(np.uint8)
        n += int(np.count_nonzero(mine[rows] != images))
    if my_labels is not None:
        n += int(np.count_nonzero(my_labels != their_labels))
    return n


def hold(contest: Contest, count: int, repeats: int) -> Line:
    judge = Worker(False, "")
    wrong = judge(differing, contest, count)
    leave(judge)
    us, them = Worker(False, ""), Worker(False, "")
    sides = (
        (us, (contest.ours, contest.marks[0], count, "uint8")),
        (them, (contest.art, contest.marks[1], count, contest.dtype)),
    )
    grown = []
    for worker, given in sides:
        before = worker(prepare, *given)
        worker(seconds, *given)  # warms up
        grown.append(worker(memory) - before)
    times: tuple[list[Took], list[Took]] = ([], [])
    for repeat in range(repeats):
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            worker, given = sides[side]
            times[side].append(worker(seconds, *given))
    leave(us), leave(them)
    line = Line(contest, *times, *grown, wrong)
    print(row(line), flush=True)
    return line


def leave(worker: Worker) -> None:
    worker.process.kill()
    worker.process.join()  # its memory is gone before the next one asks for some


# --- the page

HEAD = """| ours / ART's | ART's films | ours, s | ART, s | times faster | times less work | MB more | differ |
|-|-|-|-|-|-|-|-|"""  # noqa: E501

INTRO = """# Beside ART

`make bench-peers` writes this page: {count:,} films of {size} px, noise, stamped and poisoned by
leadapron and by `PoisoningAttackBackdoor` of ART (Adversarial Robustness Toolbox), in memory.
Median and range of {repeats} repeats; two fresh processes a line take turns. *Times faster* is the
median and range of the pairs' ratios, above 1 where ours is faster; *times less work* the same of
the processor's seconds, the steadier number where other work shares the machine (both sides use one
thread). *MB more* is the most that the call adds to what its inputs take. *Differ* counts pixels
and labels that are not the same on both sides, after ART's float32 is turned back to grey levels.

Our films are always uint8. ART's are float32 from 0 to 1, as its classifiers want them, or uint8.
On float32 much of the lead is the type: ours has a quarter of the bytes. Conversion is not timed.

- *pattern*: the four pixels of ART's `add_pattern_bd`. `Patch` can't make them, so our side is a
  trigger of a few lines, as a user would write it. ART copies the films three times: in `poison`,
  in the perturbation, and in its last `astype`.
- *square*: 3x3 pixels at one place, our `Patch`. ART has none, so its side is a perturbation of one
  line, in place, since `poison` has copied the films: the leanest that ART can be.
- *square / pattern*: our `Patch` beside ART's `add_pattern_bd`, nine pixels beside four in one
  place, so five a film differ (fewer where the noise is white already).
- *stamp all*: all films are marked, in one call; the result is a new array.
- *poison 10 %*: a tenth is chosen at random, the same rows on both sides, and marked; its labels
  become the target alone. Ours is `poison`, which keeps only the marked films beside the clean
  array; with ART a caller selects, calls `poison`, and writes the result into copies of images and
  labels.
- *read all once*: the same, and then every film is read once in random batches of {batch}, where
  our side pays for keeping no copy.
"""


def row(line: Line) -> str:
    cells = [
        line.contest.what,
        line.contest.dtype,
        cell([took.elapsed for took in line.ours]),
        cell([took.elapsed for took in line.art]),
        ratios([art.elapsed / ours.elapsed for ours, art in pairs(line)]),
        ratios([art.worked / ours.worked for ours, art in pairs(line)]),
        f"{line.ours_memory:,.0f} / {line.art_memory:,.0f}",
        f"{line.differing:,}",
    ]
    return "| " + " | ".join(cells) + " |"


def pairs(line: Line) -> list[tuple[Took, Took]]:
    return list(zip(line.ours, line.art, strict=True))


def ratios(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def machine(peer: str = "adversarial-robustness-toolbox") -> str:
    names = ("numpy", peer, "leadapron")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, shared with other work (load "
        f"{os.getloadavg()[0]:.1f}); Python {platform.python_version()}, {versions}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="lines whose name has one of these; all if none")
    parser.add_argument("--films", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="markdown file to write the page to")
    given = parser.parse_args()
    chosen = [c for c in CONTESTS if not given.parts or any(p in c.what for p in given.parts)]
    about = machine()
    print(f"{about}\n{HEAD}", flush=True)
    lines = [hold(contest, given.films, given.repeats) for contest in chosen]
    if given.out:
        intro = INTRO.format(count=given.films, size=SIZE, repeats=given.repeats, batch=BATCH)
        table = "\n".join([HEAD, *map(row, lines)])
        given.out.write_text(f"{intro}\n{about}.\n\n{table}\n")


if __name__ == "__main__":
    main()
