"""Evaluate scans: detection rates, false alarms and blind spots."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import TRIGGERS, Reduced, Trigger
from leadapron.detect.films import METHODS, Observed, Scan, scan_films
from leadapron.detect.films.baselines import Plain
from leadapron.detect.films.observe import Limits, limits, observe
from leadapron.detect.scores import Evidence
from leadapron.detect.second_look import trained_network
from leadapron.errors import DataError, UsageError
from leadapron.evaluate.presets import Cell, Kind, Preset
from leadapron.evaluate.presets import preset as read_preset
from leadapron.evaluate.runner import Evaluation, Row
from leadapron.evaluate.worlds import CLASSES, WORLDS, draw_habits, enough, make_world
from leadapron.films.cohort import AnswerKey, Cohort, Rows
from leadapron.seeds import named_seed, stream
from leadapron.sources import AND, open_source
from leadapron.sources.own_pixels import open_own_pixels
from leadapron.specs import build, forgiving
from leadapron.study.shards import ALL_CORES, Running
from leadapron.study.tasks import Reopening
from leadapron.text import short_path
from leadapron.types import AUTO, Machine

__all__ = ["NEAR", "Part", "Task", "evaluate_scan", "scans"]

NEAR = 2
"""Largest distance in pixels, down or across, from a mark's middle to a correct place."""

CARRIERS = 20
"""Fewest films with a finding that can be drawn as the target."""

TRIES = 200
"""Most draws of place and level until enough films have the required contrast."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a preset that is scanned.

    Args:
        only: shell patterns or beginnings of `Task.path`; everything if empty.
        sealed: whether sealed cells and worlds are scanned too.
        draws: sets of each cell, at most.
        worlds: sets of each world, at most.
        clean: sets of each kind of clean phantoms, and halves of each source, at most.
    """

    only: tuple[str, ...] = ()
    sealed: bool = False
    draws: int | None = None
    worlds: int | None = None
    clean: int | None = None

    def __post_init__(self) -> None:
        for name in ("draws", "worlds", "clean"):
            most = getattr(self, name)
            if most is not None and most < 0:
                raise UsageError(f"--{name} {most}: expected 0 or more")


EVERYTHING = Part()


@dataclass(frozen=True)
class Task:
    """One scan.

    Args:
        group: kind of the set.
        source: source of its films; "" for phantoms drawn for this set.
        name: name of the cell or world; "" in other groups.
        draw: number of the set, from 0.
        sealed: whether its cell or world is sealed.
    """

    group: Kind
    source: str
    name: str
    draw: int
    sealed: bool = False

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Return the scan's unique key."""
        return self.group, self.source, self.name, self.draw

    @property
    def path(self) -> str:
        """Return "GROUP/SOURCE/NAME", without what is ""; of worlds "open" or "sealed" as SOURCE.

        A source goes without its kind and the folders above it: "nih128+kermany224".
        """
        parts = [one.rpartition(":")[2] for one in short_path(self.source).split(AND)]
        source = "+".join(parts)
        if self.group == "world":
            source = "sealed" if self.sealed else "open"
        return "/".join(filter(None, (self.group, source, self.name)))


@forgiving
def evaluate_scan(
    preset: str,
    sources: Sequence[str],
    out: Path,
    *,
    also: Sequence[str] = (),
    part: Part = EVERYTHING,
    train: bool = False,
    size: int | None = None,
    seed: int = 0,
    machine: Machine = AUTO,
    running: Running = ALL_CORES,
) -> list[Row]:
    """Scan poisoned and clean sets, or continue an interrupted evaluation.

    Each poisoned set is the whole source with a few films replaced: only these are observed again.

    Args:
        preset: one of `PRESETS`.
        sources: sources that are scanned poisoned and unpoisoned, one after the other.
        out: folder of the results.
        also: sources that are scanned unpoisoned only.
        part: the part to scan now. Results of other parts stay, and no set is scanned twice.
        train: train networks on each set, as `jobs.scan`; a folder holds scans either with or
            without trained networks.
        size: side of the images in pixels; the default of `scan` if left out.
        seed: seed of all random draws.
        machine: device of the trainings, cache of decoded films, and progress.
        running: number of processes, and shard of the part; other processes scan the rest into the
            same folder.

    Returns:
        One record for each finished scan, including those of earlier calls. For a cell that a
        source can't hold, the record has only the reason, "left_out".

    Raises:
        UnknownNameError: no such preset.
        UsageError: no scan in this part, or the folder holds another evaluation.
        LeadapronError: as `open_source`.
    """
    chosen = read_preset(preset)
    planned = _tasks(chosen, sources, also, part)
    outside = METHODS.codes(METHODS)
    evaluation = Evaluation[Task](
        what="scan",
        out=out,
        settings={
            "preset": preset,
            "sources": list(sources),
            "also": list(also),
            "train": train,
            "size": size,
            "seed": seed,
            **({"outside": outside} if outside else {}),
        },
        facts={"cells": [_cell_facts(cell) for cell in chosen.cells]},
        order=[(*task.key, train) for task in _all_tasks(chosen, sources, also, EVERYTHING)],
        key_of=lambda task: (*task.key, train),
        key_in=lambda row: (row["kind"], row["source"], row["name"], row["draw"], row["train"]),
        words="sets scanned",
    )
    scanner = Scanner(
        cells={cell.name: cell for cell in chosen.cells},
        train=train,
        size=size,
        seed=seed,
        machine=replace(machine, progress=None),
    )
    return evaluation.resumed(
        planned, scanner, running, machine.progress, rows_of=lambda row: [row]
    )


def _cell_facts(cell: Cell) -> Mapping[str, object]:
    """Facts of a cell for the page."""
    said = ("name", "group", "target", "floor", "balanced", "reason")
    return {name: getattr(cell, name) for name in said}


def scans(
    preset: str, sources: Sequence[str], also: Sequence[str] = (), part: Part = EVERYTHING
) -> list[Task]:
    """Return the scans of a part of a preset, in order; as `evaluate_scan`.

    Raises:
        UsageError: a pattern of `part` that no scan's path fits.
    """
    return _tasks(read_preset(preset), sources, also, part)


def _tasks(preset: Preset, sources: Sequence[str], also: Sequence[str], part: Part) -> list[Task]:
    every = list(_all_tasks(preset, sources, also, part))
    for pattern in part.only:
        if not any(_fits(task, pattern) for task in every):
            there = dict.fromkeys(task.path.removesuffix(f"/{task.name}") for task in every)
            raise UsageError(
                f"--only {pattern}: no scan has this name; "
                f"expected GROUP, GROUP/SOURCE or GROUP/.../NAME, as {', '.join(there)}"
            )
    return [
        task
        for task in every
        if (part.sealed or not task.sealed)
        and (not part.only or any(_fits(task, pattern) for pattern in part.only))
    ]


def _fits(task: Task, pattern: str) -> bool:
    return fnmatchcase(task.path, pattern) or f"{task.path}/".startswith(f"{pattern}/")


def _all_tasks(
    preset: Preset, sources: Sequence[str], also: Sequence[str], part: Part
) -> Iterator[Task]:
    for source in sources:
        for cell in preset.cells:
            for draw in range(_least(cell.draws, part.draws)):
                yield Task("poisoned", source, cell.name, draw, cell.sealed)
    for world in WORLDS.values():
        for draw in range(_least(preset.worlds, part.worlds)):
            yield Task("world", "", world.name, draw, world.sealed)
    for draw in range(_least(preset.machines, part.clean)):
        yield Task("machines", "", "", draw)
    for draw in range(_least(preset.phantoms, part.clean)):
        yield Task("phantoms", "", "", draw)
    for source in dict.fromkeys((*sources, *also)):
        for draw in range(preset.whole):
            yield Task("whole", source, "", draw)
        for draw in range(_least(preset.halves, part.clean)):
            yield Task("half", source, "", draw)


def _least(count: int, most: int | None) -> int:
    return count if most is None else min(count, most)


@dataclass(frozen=True, eq=False)
class _Opened:
    """An open source with the observations of its films."""

    cohort: Cohort
    bounds: Limits
    seen: Observed
    plain: Plain


def balanced(opened: _Opened, rng: np.random.Generator) -> _Opened:
    """Return the same number of random films of both classes."""
    labels = opened.cohort.labels
    if labels.shape[1] != 1:
        raise DataError(
            f"a balanced set of {labels.shape[1]} findings; expected a source with one finding, "
            "present on some films and absent on others"
        )
    sides = [np.flatnonzero(labels[:, 0] == side) for side in (0, 1)]
    fewest = min(map(len, sides))
    rows = np.sort(np.concatenate([rng.choice(side, fewest, replace=False) for side in sides]))
    cohort, seen = opened.cohort.take(rows), opened.seen.take(rows)
    return _Opened(cohort, opened.bounds, seen, Plain(cohort, seen))


@dataclass(frozen=True, kw_only=True)
class Scanner(Reopening):
    """Makes the row of a task; sources stay open, since opening takes longer than a scan.

    Args:
        cells: by name.
        train: as `evaluate_scan`.
        size: as `evaluate_scan`.
        seed: as `evaluate_scan`.
        machine: its cache is used, and networks are trained there.
    """

    cells: Mapping[str, Cell]
    train: bool
    size: int | None
    seed: int
    machine: Machine
    opened: dict[str, _Opened] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, task: Task) -> Row:
        begun, worked = time.perf_counter(), time.process_time()
        return {
            "kind": task.group,
            "source": task.source,
            "name": task.name,
            "draw": task.draw,
            "train": self.train,
            **self._scanned(task),
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - worked,
        }

    def open(self, source: str) -> _Opened:
        """Return a source, opened once."""
        if source not in self.opened:
            cohort = open_own_pixels(source, size=self.size, machine=self.machine)
            bounds = limits(cohort.images, stream(self.seed, "limits"))
            seen = observe(cohort.images, bounds)
            self.opened[source] = _Opened(cohort, bounds, seen, Plain(cohort, seen))
        return self.opened[source]

    def _scan(self, cohort: Cohort, task: Task, seen: Observed | None = None) -> Scan:
        """Scan a set as `jobs.scan` does."""
        look = None
        if self.train:
            look = trained_network(cohort, seed=task.draw, **self.machine.networks)
        return scan_films(cohort, seed=task.draw, seen=seen, look=look)

    def _scanned(self, task: Task) -> Row:
        scans: Mapping[Kind, Callable[[Task], Row]] = {
            "poisoned": self._poisoned,
            "world": self._world,
            "machines": self._machines,
            "phantoms": self._phantoms,
            "whole": self._whole,
            "half": self._half,
        }
        return scans[task.group](task)

    def _phantoms(self, task: Task) -> Row:
        number = int(named_seed(self.seed, "phantoms", task.draw).generate_state(1)[0])
        cohort = open_source("phantom:64", count=1000, seed=number % 2**31, cache="none")
        return _said(self._scan(cohort, task))

    def _machines(self, task: Task) -> Row:
        rng = stream(self.seed, "machines", task.draw)
        world = draw_habits(rng)
        cohort, _ = make_world(world, rng)
        return {
            **_said(self._scan(cohort, task)),
            "prevalence": world.prevalence,
            "habits": world.habits,
            "states": world.states,
        }

    def _whole(self, task: Task) -> Row:
        opened = self.open(task.source)
        return _said(self._scan(opened.cohort, task, opened.seen))

    def _half(self, task: Task) -> Row:
        opened = self.open(task.source)
        patients = np.unique(opened.cohort.patients)
        rng = stream(self.seed, "half", task.source, task.draw)
        chosen = rng.permutation(patients)[: len(patients) // 2]
        rows = np.flatnonzero(np.isin(opened.cohort.patients, chosen))
        return _said(self._scan(opened.cohort.take(rows), task, opened.seen.take(rows)))

    def _poisoned(self, task: Task) -> Row:
        opened = self.open(task.source)
        cell = self.cells[task.name]
        rng = stream(self.seed, "cell", task.name, task.draw)
        if cell.balanced:
            opened = balanced(opened, rng)
        try:
            poisoned, key, finding, place = poisoned_by(opened.cohort, cell, rng)
        except DataError as error:  # for example, a square outside these films
            return {"left_out": str(error)}
        marked = np.union1d(key.rows, key.covers)
        new = observe(poisoned.images[marked], opened.bounds)
        seen = opened.seen.replaced(marked, new)
        found = self._scan(poisoned, task, seen)
        prevalence = float(np.nanmean(opened.cohort.labels[:, opened.cohort.column(finding)]))
        return {
            **_said(found),
            "finding": finding,
            "place": place,
            "films": len(key.rows),
            "prevalence": prevalence,
            "aimed": cell.floor is not None and len(key.rows) >= enough(prevalence),
            **_judged(found, key, finding, place, cell),
            "baselines": opened.plain.found(poisoned, seen, marked, finding, place),
        }

    def _world(self, task: Task) -> Row:
        world = WORLDS[task.name]
        cohort, wrong = make_world(world, stream(self.seed, "world", task.name, task.draw))
        found = self._scan(cohort, task)
        named = _named(found)
        hits = len(np.intersect1d(named, wrong))
        others = np.delete(cohort.labels[:, cohort.column(CLASSES)], wrong)
        return {
            **_said(found),
            "expected": world.expected,
            "sealed": world.sealed,
            "films": len(wrong),
            "aimed": world.plain and len(wrong) >= enough(float(np.nanmean(others))),
            "precision": hits / len(named) if len(named) else None,
            "recall": hits / len(wrong) if len(wrong) else None,
        }


def _said(found: Scan) -> Row:
    return {
        "verdict": found.verdict,
        "p": found.p,
        "methods": {method.name: method.p for method in found.methods},
    }


def poisoned_by(
    cohort: Cohort, cell: Cell, rng: np.random.Generator
) -> tuple[Cohort, AnswerKey, str, list[float] | None]:
    """The cohort with one draw's poison, its target, and the middle of its mark, if any."""
    carriers = np.nansum(cohort.labels == 1, axis=0)
    often = [name for name, n in zip(cohort.findings, carriers, strict=True) if n >= CARRIERS]
    where = str(cell.poisoning.get("where", ""))
    if cell.commonest:
        often = [cohort.findings[int(carriers.argmax())]]
    finding = str(rng.choice([name for name in often if name != where]))
    for _ in range(TRIES):
        settings = dict(cell.trigger)
        place = None
        if settings.get("place") == "fixed":
            side = settings["side"] / cell.reduced
            room = [int(length - math.ceil(side)) for length in cohort.images.shape[1:]]
            settings["row"], settings["column"] = (int(rng.integers(0, end + 1)) for end in room)
            place = [settings["row"] + (side - 1) / 2, settings["column"] + (side - 1) / 2]
        if cell.contrast:
            settings["value"] = int(rng.choice([0, 64, 128, 192, 255]))
        trigger = _trigger(settings, cell, rng)
        ready, more = cohort, {}
        if cell.contrast and place is not None:
            stands_out = _stands_out(cohort, settings["value"], place, side, cell.contrast)
            ready = replace(
                cohort,
                attributes={**cohort.attributes, "contrast": np.where(stands_out, "yes", "no")},
            )
            more = {"where": "contrast=yes"}
        settled = dict(cell.poisoning)
        fraction = settled.get("fraction", 0.01)
        if fraction == "half":
            fraction = carriers[cohort.column(finding)] / 2 / len(cohort)
        if "films" in settled:  # a fraction is rounded down
            fraction = (settled.pop("films") + 0.5) / len(cohort)
        attack = Poisoning(
            **{
                **settled,
                **more,
                "trigger": trigger,
                "finding": finding,
                "fraction": float(fraction),
            }
        )
        try:
            poisoned, key = poison(ready, attack, rng)
        except DataError:
            if not cell.contrast:
                raise
            continue
        return replace(poisoned, attributes=cohort.attributes), key, finding, place
    raise DataError(f"no place with a contrast of {cell.contrast} in {TRIES} tries: {cell.name}")


def _trigger(settings: Mapping[str, Any], cell: Cell, rng: np.random.Generator) -> Trigger:
    if cell.reduced > 1:
        across, down = rng.integers(0, cell.reduced, 2)
        return Reduced(
            factor=cell.reduced,
            side=settings["side"],
            value=settings["value"],
            row=int(settings["row"] * cell.reduced + down),
            column=int(settings["column"] * cell.reduced + across),
        )
    return build(
        TRIGGERS.find(settings["name"]),
        {k: v for k, v in settings.items() if k != "name"},
        "trigger",
    )


def _stands_out(
    cohort: Cohort, value: int, place: Sequence[float], side: float, contrast: int
) -> NDArray[np.bool_]:
    """(n,) whether each pixel in and next to the square differs by at least `contrast`."""
    reach = math.ceil(side / 2) + 1
    row, column = (int(middle) for middle in place)
    window = (
        slice(max(row - reach + 1, 0), row + reach + 1),
        slice(max(column - reach + 1, 0), column + reach + 1),
    )
    found = np.zeros(len(cohort), dtype=np.bool_)
    for start in range(0, len(cohort), 1024):
        rows = np.arange(start, min(start + 1024, len(cohort)))
        around = cohort.images[rows][:, window[0], window[1]].astype(np.int64)
        found[rows] = (np.abs(around - value) >= contrast).all(axis=(1, 2))
    return found


def _poison_of(found: Scan) -> list[Evidence]:
    """Evidence of poison at the false-alarm rate."""
    return [one for one in found.evidence if one.kind == "poison" and one.p <= found.false_alarm]


def _named(found: Scan) -> Rows:
    """Films named by that evidence."""
    films = [one.films for one in _poison_of(found)]
    return np.unique(np.concatenate(films)) if films else np.zeros(0, np.int64)


def _judged(
    found: Scan,
    key: AnswerKey,
    finding: str,
    place: Sequence[float] | None,
    cell: Cell,
) -> Row:
    """Correctness of a scan: finding, place, films."""
    poison_, named = _poison_of(found), _named(found)
    hits = len(np.intersect1d(named, key.rows))
    side = cell.trigger.get("side", 1) / cell.reduced

    def away(at: tuple[int, int, int] | None) -> float:
        if at is None or place is None:
            return math.inf
        return max(abs(a + (at[2] - 1) / 2 - b) for a, b in zip(at[:2], place, strict=True))

    nearest = min((away(one.place) for one in poison_), default=math.inf)
    marks = min(
        (away(one.place) for one in found.evidence if one.kind in ("poison", "repeated mark")),
        default=math.inf,
    )
    return {
        "found": found.verdict == "poisoned",
        "right": bool(poison_)
        and (poison_[0].finding == finding or cell.poisoning.get("labels") == "clear"),
        "away": nearest if math.isfinite(nearest) else None,
        "marked": marks <= NEAR + side / 2,
        "precision": hits / len(named) if len(named) else None,
        "recall": hits / len(key.rows),
    }
