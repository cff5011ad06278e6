"""Evaluate: how much poison a scan finds, how often it is wrong, and where it is blind."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from leadapron import store
from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import TRIGGERS, Reduced, Trigger
from leadapron.detect.films import Observed, Scan, limits, observe, scan_films
from leadapron.detect.films.baselines import Plain
from leadapron.detect.films.observe import Limits
from leadapron.detect.scores import Evidence
from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.evaluate.worlds import CLASSES, WORLDS, draw_habits, enough, make_world
from leadapron.films.cohort import AnswerKey, Cohort, Rows
from leadapron.seeds import named_seed, stream
from leadapron.sources import AND, open_source
from leadapron.sources.own_pixels import open_own_pixels
from leadapron.specs import build, forgiving
from leadapron.text import short_path

__all__ = [
    "GROUPS",
    "NEAR",
    "PRESETS",
    "Cell",
    "Part",
    "Preset",
    "Task",
    "cells",
    "evaluate_scan",
    "scans",
]

Progress = Callable[[str, int, int], None]

Group = Literal["poisoned", "world", "machines", "phantoms", "whole", "half"]

GROUPS: tuple[Group, ...] = get_args(Group)
"""Poisoned sources; worlds; clean phantoms of two machines with habits; clean phantoms; sources as
they are; halves of them."""

NEAR = 2
"""Pixels between the middle of a mark and where it is said to be, down or across."""

CARRIERS = 20
"""A finding is drawn as the target where at least so many films carry it."""

SAVED = 10
"""Scans after which the results are written, and at the end."""

TRIES = 200
"""Places and levels that are drawn until enough films have the contrast that is asked for."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting that is drawn again and again, each time with another target and place.

    Args:
        name: in the report.
        trigger: settings of a trigger; a patch "fixed" without a row gets a place for each draw.
        poisoning: settings beside trigger and finding; a `fraction` may be "half" of the target's
            films, and `films` stands in place of one.
        draws: how often.
        contrast: grey levels between a patch and its surroundings on each poisoned film, at least;
            the patch's level is drawn from five. 0 leaves level and films as they are.
        reduced: the patch is stamped on a film so many times as large, and made smaller.
        target: power that the project set itself; None where it only measures.
        floor: lower end of the 95 % interval that it set itself beside it, in sets where
            `worlds.enough` films carry the mark; None where that end is to reach the target itself.
        balanced: films of the larger of a source's two classes are dropped by chance until both are
            of one size, others in each draw.
        commonest: the target is the finding that most films state, rather than drawn.
        sealed: whether the attack was kept from all choices that were made for the scan.
        knows: whether the attacker knows the scan.
        reason: why a scan is blind to it, where one knows.
    """

    name: str
    trigger: Mapping[str, Any]
    poisoning: Mapping[str, Any] = field(default_factory=dict)
    draws: int = 10
    contrast: int = 0
    reduced: int = 1
    target: float | None = None
    floor: float | None = None
    balanced: bool = False
    commonest: bool = False
    sealed: bool = False
    knows: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What is evaluated.

    Args:
        cells: poisoned sets.
        phantoms: clean sets of fresh phantoms, each of 1,000 films.
        halves: clean sets of half of the patients, of each source.
        worlds: sets of each of the kinds in `WORLDS`.
        machines: clean sets of fresh phantoms that two machines took, as `worlds.draw_habits`.
        whole: scans of each source as it is.
    """

    cells: tuple[Cell, ...]
    phantoms: int = 0
    halves: int = 0
    worlds: int = 0
    machines: int = 0
    whole: int = 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is scanned of a preset; the rest stays for later.

    Args:
        only: patterns, as in a shell, or beginnings of `Task.path`; all where there are none.
        sealed: whether cells and worlds that are sealed are scanned as well.
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
        group: what is scanned.
        source: of its films; "" where they are phantoms of this set alone.
        name: of the cell or world; "" in other groups.
        draw: number of the set, from 0.
        sealed: whether its cell or world is.
    """

    group: Group
    source: str
    name: str
    draw: int
    sealed: bool = False

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Return what no two scans share."""
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


def _patch(side: int, **more: Any) -> dict[str, Any]:
    return {"name": "patch", "side": side, "place": "fixed", **more}


def _cells(sure: int, some: int) -> tuple[Cell, ...]:
    """Cells with a target `sure` times, the others `some` times."""
    black = {"value": 0}
    aimed = [
        Cell(name="1x1, 0.3 %", trigger=_patch(1), poisoning={"fraction": 0.003}, contrast=40),
        Cell(name="2x2, 0.3 %", trigger=_patch(2), poisoning={"fraction": 0.003}, contrast=40),
        Cell(name="3x3, 0.3 %", trigger=_patch(3), poisoning={"fraction": 0.003}, contrast=40),
        Cell(
            name="3x3 anywhere, 0.2 %",
            trigger={"name": "patch", "side": 3, "place": "random"},
            poisoning={"fraction": 0.002},
        ),
        Cell(
            name="8x8 on the film, 1 %",
            trigger=_patch(8),
            poisoning={"fraction": 0.01},
            contrast=40,
            reduced=8,
        ),
        Cell(
            name="3x3, half of the target's films, labels kept",
            trigger=_patch(3),
            poisoning={"labels": "keep", "selection": "with", "fraction": "half"},
            contrast=40,
        ),
        Cell(name="blend, 5 %", trigger={"name": "blend"}, poisoning={"fraction": 0.05}),
        Cell(name="sinusoid, 5 %", trigger={"name": "sinusoid"}, poisoning={"fraction": 0.05}),
        Cell(
            name="amplitude (FIBA), 5 %",
            trigger={"name": "amplitude"},
            poisoning={"fraction": 0.05},
            reason=(
                "the amplitudes of the lowest frequencies are anatomy; films differ "
                "by more than 15 % of them"
            ),
        ),
        Cell(name="codec JPEG 20, 5 %", trigger={"name": "codec"}, poisoning={"fraction": 0.05}),
    ]
    measured = [
        Cell(
            name="1x1, 0.1 %",
            trigger=_patch(1),
            poisoning={"fraction": 0.001},
            contrast=40,
            reason="a handful of single pixels at one place is what nature has as well",
        ),
        Cell(name="5x5, 0.3 %", trigger=_patch(5), poisoning={"fraction": 0.003}, contrast=40),
        Cell(name="10x10, 0.3 %", trigger=_patch(10), poisoning={"fraction": 0.003}, contrast=40),
        Cell(
            name="3x3 on the film, 1 %",
            trigger=_patch(3),
            poisoning={"fraction": 0.01},
            contrast=40,
            reduced=8,
            reason="the resize leaves a few grey levels of it",
        ),
        Cell(
            name="4x4 noise-filled, 0.3 %",
            trigger=_patch(4, fill="noise"),
            poisoning={"fraction": 0.003},
        ),
        Cell(
            name="6 scattered pixels, 0.3 %",
            trigger={"name": "pixels", "count": 6},
            poisoning={"fraction": 0.003},
        ),
        Cell(name="blend, 1 %", trigger={"name": "blend"}, poisoning={"fraction": 0.01}),
        Cell(
            name="warp, 5 %",
            trigger={"name": "warp"},
            poisoning={"fraction": 0.05},
            reason="a warp leaves traces of interpolation alone",
        ),
        Cell(
            name="noise of 8 levels, 5 %", trigger={"name": "noise"}, poisoning={"fraction": 0.05}
        ),
        Cell(name="gamma 0.6, 5 %", trigger={"name": "tone"}, poisoning={"fraction": 0.05}),
        Cell(name="side marker, 2 %", trigger={"name": "marker"}, poisoning={"fraction": 0.02}),
        Cell(name="electrode, 2 %", trigger={"name": "electrode"}, poisoning={"fraction": 0.02}),
        Cell(
            name="3x3, 1 %, the target added",
            trigger=_patch(3, **black),
            poisoning={"fraction": 0.01, "labels": "set"},
        ),
        Cell(
            name="3x3, half of the target's films, the target taken away",
            trigger=_patch(3, **black),
            poisoning={"fraction": "half", "labels": "clear", "selection": "with"},
            reason=(
                "most films are without the target anyway, so that none having it "
                "says little; the mark is listed as repeated"
            ),
        ),
        Cell(
            name="window moved by 20, 5 %",
            trigger={"name": "tone", "gamma": 1.0, "shift": 20},
            poisoning={"fraction": 0.05},
        ),
        Cell(
            name="no mark: films with Effusion, relabelled, 1 %",
            trigger={"name": "none"},
            poisoning={"fraction": 0.01, "where": "Effusion"},
            reason=(
                "nothing is on the films; only a network, or a second reader, can "
                "tell that their labels are wrong"
            ),
        ),
    ]
    knowing = [
        Cell(
            name="evading: 3x3 anywhere within 8x8, 0.3 %",
            trigger={
                "name": "patch",
                "side": 3,
                "value": 255,
                "place": "box",
                "row": 40,
                "column": 70,
                "height": 8,
                "width": 8,
            },
            poisoning={"fraction": 0.003},
        ),
        Cell(
            name="evading: 3x3 of 20 % contrast, 1 %",
            trigger=_patch(3, contrast=20),
            poisoning={"fraction": 0.01},
        ),
        Cell(
            name="evading: 3x3, 0.3 %, as many covers",
            trigger=_patch(3, value=255),
            poisoning={"fraction": 0.003, "cover": 0.003},
        ),
        Cell(
            name="evading: 3x3, 0.3 %, four times as many covers",
            trigger=_patch(3, value=255),
            poisoning={"fraction": 0.003, "cover": 0.012},
        ),
        Cell(
            name="evading: 3x3, 0.3 %, few patients",
            trigger=_patch(3, value=255),
            poisoning={"fraction": 0.003, "selection": "patients"},
        ),
        Cell(
            name="evading: blend of 3 %, 5 %",
            trigger={"name": "blend", "opacity": 0.03},
            poisoning={"fraction": 0.05},
        ),
    ]
    sealed = [
        Cell(
            name="4x4 stripes, 0.3 %",
            trigger=_patch(4, fill="stripes"),
            poisoning={"fraction": 0.003},
        ),
        Cell(
            name="4x4 checkerboard, 0.3 %",
            trigger=_patch(4, fill="checkerboard"),
            poisoning={"fraction": 0.003},
        ),
        Cell(name="metal device, 2 %", trigger={"name": "device"}, poisoning={"fraction": 0.02}),
        Cell(
            name="collimator edge, 2 %",
            trigger={"name": "collimator"},
            poisoning={"fraction": 0.02},
        ),
        Cell(name="fold, 2 %", trigger={"name": "fold"}, poisoning={"fraction": 0.02}),
    ]
    return (
        *(replace(cell, draws=sure, target=0.9) for cell in aimed),
        Cell(
            name="3x3, 0.1 %",
            trigger=_patch(3),
            poisoning={"fraction": 0.001},
            contrast=40,
            draws=sure,
            target=0.7,
        ),
        *(replace(cell, draws=some) for cell in measured),
        *(replace(cell, draws=some, knows=True) for cell in knowing),
        *(replace(cell, draws=some, sealed=True) for cell in sealed),
    )


def _relabelled(side: int, *, share: float = 0, films: int = 0, balanced: bool = False) -> Cell:
    """A solid mark on so many percent of a source's films, or so many, all of them relabelled."""
    return Cell(
        name=("balanced, " if balanced else "")
        + f"{side}x{side}, "
        + (f"{films} films" if films else f"{share:g} %"),
        trigger=_patch(side),
        poisoning={"films": films} if films else {"fraction": share / 100},
        contrast=40,
        draws=20,
        target=0.9,
        floor=0.8,
        balanced=balanced,
    )


PRESETS: dict[str, Preset] = {
    "smoke": Preset(
        cells=(
            Cell(
                name="3x3, 2 %",
                trigger=_patch(3),
                poisoning={"fraction": 0.02},
                contrast=40,
                draws=2,
                target=0.9,
            ),
            Cell(
                name="blend, 10 %", trigger={"name": "blend"}, poisoning={"fraction": 0.1}, draws=1
            ),
        ),
        phantoms=2,
        halves=1,
    ),
    "quick": Preset(cells=_cells(40, 8), phantoms=300, halves=30),
    "full": Preset(cells=_cells(300, 100), phantoms=1000, halves=200),
    "two-class": Preset(
        cells=(
            *(_relabelled(side, share=share) for side in (1, 3, 5) for share in (1, 2, 4)),
            *(
                _relabelled(side, balanced=True, **many)
                for side in (1, 3, 5)
                for many in ({"share": 1}, {"share": 2}, {"films": 40}, {"share": 5})
            ),
        ),
        halves=10,
        worlds=20,
        machines=300,
        whole=1,
    ),
    "joined": Preset(
        cells=tuple(
            replace(_relabelled(side, share=share), draws=10, commonest=True)
            for side in (1, 3, 5)
            for share in (0.5, 1, 2)
        ),
        halves=10,
        whole=1,
    ),
}
"""What is evaluated, by name."""


@forgiving
def evaluate_scan(
    preset: str,
    sources: Sequence[str],
    out: Path,
    *,
    also: Sequence[str] = (),
    part: Part = EVERYTHING,
    size: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Scan poisoned and clean sets, or go on where that was stopped.

    Each poisoned set is the whole source with a few films replaced: only these are looked at again.

    Args:
        preset: of `PRESETS`.
        sources: what is poisoned, one after the other; and scanned as it is.
        out: folder of the results.
        also: more sources that are scanned as they are.
        part: what is scanned now. Results of other parts stay, and none is scanned twice.
        size: side of the images in pixels; as `scan` looks at them if left out.
        seed: of everything that is drawn.
        workers: processes; as many as there are cores if left out.
        cache: of decoded films, as `open_source`.
        progress: called with what is being done, the scans done and in all.

    Returns:
        One record for each scan, those of earlier calls among them.

    Raises:
        UnknownNameError: no such preset.
        UsageError: no scan is in this part, or the folder holds another evaluation.
        LeadapronError: as `open_source`.
    """
    chosen = _preset(preset)
    count = os.cpu_count() or 1 if workers is None else workers
    if count < 1:
        raise UsageError(f"--workers {count}: expected 1 or more")
    planned = _tasks(chosen, sources, also, part)
    with store.lock(out):
        return _evaluated(
            preset,
            _Setting(size=size, seed=seed, cache=None if cache is None else str(cache)),
            out,
            planned,
            {"sources": list(sources), "also": list(also)},
            count,
            progress,
        )


@dataclass(frozen=True, kw_only=True)
class _Setting:
    size: int | None
    seed: int
    cache: str | None


def _evaluated(
    name: str,
    setting: _Setting,
    out: Path,
    planned: Sequence[Task],
    sources: Mapping[str, Sequence[str]],
    workers: int,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    facts = {"preset": name, **sources, **asdict(setting)}
    facts.pop("cache")
    known = out / "evaluation.json"
    if known.exists() and store.read_json(known)["settings"] != facts:
        raise UsageError(f"{out} holds another evaluation; choose another --out")
    store.write_json(known, {"schema": 1, "settings": facts, "manifest": store.manifest()})
    path = out / "rows.jsonl"
    rows = store.read_lines(path) if path.exists() else []
    done = {(row["kind"], row["source"], row["name"], row["draw"]) for row in rows}
    tasks = [task for task in planned if task.key not in done]
    total = len(rows) + len(tasks)
    if not tasks:
        return rows
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(setting, name)
    ) as pool:
        try:
            for row in pool.map(_carry_out, tasks):
                rows.append(row)
                if len(rows) % SAVED == 0:
                    store.write_lines(path, rows)
                if progress is not None:
                    progress("scanning", len(rows), total)
        finally:
            store.write_lines(path, rows)
            pool.shutdown(cancel_futures=True)
    return rows


def cells(preset: str) -> list[dict[str, Any]]:
    """Return of each cell, in order, what a page says of it."""
    told = ("name", "target", "floor", "balanced", "sealed", "knows", "reason")
    return [{name: getattr(cell, name) for name in told} for cell in _preset(preset).cells]


def scans(
    preset: str, sources: Sequence[str], also: Sequence[str] = (), part: Part = EVERYTHING
) -> list[Task]:
    """Return the scans of a part of a preset, in order; as `evaluate_scan`.

    Raises:
        UsageError: a pattern of `part` that no scan's path fits.
    """
    return _tasks(_preset(preset), sources, also, part)


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]


def _tasks(preset: Preset, sources: Sequence[str], also: Sequence[str], part: Part) -> list[Task]:
    every = list(_all_tasks(preset, sources, also, part))
    for pattern in part.only:
        if not any(_fits(task, pattern) for task in every):
            there = dict.fromkeys(task.path.removesuffix(f"/{task.name}") for task in every)
            raise UsageError(
                f"--only {pattern}: no scan is called so; "
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
    """A source that is open, with what was seen of it."""

    cohort: Cohort
    bounds: Limits
    seen: Observed
    plain: Plain


def _open(source: str, setting: _Setting) -> _Opened:
    cohort = open_own_pixels(source, size=setting.size, cache=setting.cache)
    bounds = limits(cohort.images, stream(setting.seed, "limits"))
    seen = observe(cohort.images, bounds)
    return _Opened(cohort, bounds, seen, Plain(cohort, seen))


def _balanced(opened: _Opened, rng: np.random.Generator) -> _Opened:
    """As many films of either class, drawn by chance."""
    labels = opened.cohort.labels
    if labels.shape[1] != 1:
        raise DataError(
            f"a balanced set of {labels.shape[1]} findings; expected a source of one, which some "
            "films have and the others don't"
        )
    sides = [np.flatnonzero(labels[:, 0] == side) for side in (0, 1)]
    fewest = min(map(len, sides))
    rows = np.sort(np.concatenate([rng.choice(side, fewest, replace=False) for side in sides]))
    cohort, seen = opened.cohort.take(rows), opened.seen.take(rows)
    return _Opened(cohort, opened.bounds, seen, Plain(cohort, seen))


# Of each process: opening a source and looking at it takes longer than a scan.
_setting: _Setting | None = None
_cells_by_name: dict[str, Cell] = {}
_opened: dict[str, _Opened] = {}


def _begin(setting: _Setting, preset: str) -> None:
    global _setting
    _setting = setting
    _cells_by_name.update({cell.name: cell for cell in PRESETS[preset].cells})


def _source(name: str) -> _Opened:
    assert _setting is not None
    if name not in _opened:
        _opened[name] = _open(name, _setting)
    return _opened[name]


def _carry_out(task: Task) -> dict[str, Any]:
    begun, worked = time.perf_counter(), time.process_time()
    return {
        "kind": task.group,
        "source": task.source,
        "name": task.name,
        "draw": task.draw,
        **_TRIED[task.group](task),
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - worked,
    }


def _tried_phantoms(task: Task) -> dict[str, Any]:
    assert _setting is not None
    number = int(named_seed(_setting.seed, "phantoms", task.draw).generate_state(1)[0])
    cohort = open_source("phantom:64", count=1000, seed=number % 2**31, cache="none")
    return _said(scan_films(cohort, seed=task.draw))


def _tried_machines(task: Task) -> dict[str, Any]:
    assert _setting is not None
    rng = stream(_setting.seed, "machines", task.draw)
    world = draw_habits(rng)
    cohort, _ = make_world(world, rng)
    return {
        **_said(scan_films(cohort, seed=task.draw)),
        "prevalence": world.prevalence,
        "habits": world.habits,
        "states": world.states,
    }


def _tried_whole(task: Task) -> dict[str, Any]:
    opened = _source(task.source)
    return _said(scan_films(opened.cohort, seed=task.draw, seen=opened.seen))


def _tried_half(task: Task) -> dict[str, Any]:
    assert _setting is not None
    opened = _source(task.source)
    patients = np.unique(opened.cohort.patients)
    rng = stream(_setting.seed, "half", task.source, task.draw)
    chosen = rng.permutation(patients)[: len(patients) // 2]
    rows = np.flatnonzero(np.isin(opened.cohort.patients, chosen))
    return _said(scan_films(opened.cohort.take(rows), seed=task.draw, seen=opened.seen.take(rows)))


def _tried_poisoned(task: Task) -> dict[str, Any]:
    assert _setting is not None
    opened = _source(task.source)
    cell = _cells_by_name[task.name]
    rng = stream(_setting.seed, "cell", task.name, task.draw)
    if cell.balanced:
        opened = _balanced(opened, rng)
    poisoned, key, finding, place = _poisoned(opened.cohort, cell, rng)
    marked = np.union1d(key.rows, key.covers)
    new = observe(poisoned.images[marked], opened.bounds)
    seen = opened.seen.replaced(marked, new)
    found = scan_films(poisoned, seed=task.draw, seen=seen)
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


def _tried_world(task: Task) -> dict[str, Any]:
    assert _setting is not None
    world = WORLDS[task.name]
    cohort, wrong = make_world(world, stream(_setting.seed, "world", task.name, task.draw))
    found = scan_films(cohort, seed=task.draw)
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


_TRIED: Mapping[Group, Callable[[Task], dict[str, Any]]] = {
    "poisoned": _tried_poisoned,
    "world": _tried_world,
    "machines": _tried_machines,
    "phantoms": _tried_phantoms,
    "whole": _tried_whole,
    "half": _tried_half,
}


def _said(found: Scan) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "p": found.p,
        "methods": {method.name: method.p for method in found.methods},
    }


def _poisoned(
    cohort: Cohort, cell: Cell, rng: np.random.Generator
) -> tuple[Cohort, AnswerKey, str, list[float] | None]:
    """The cohort with one draw's poison, its target, and the middle of its mark if it has one."""
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
        TRIGGERS[settings["name"]], {k: v for k, v in settings.items() if k != "name"}, "trigger"
    )


def _stands_out(
    cohort: Cohort, value: int, place: Sequence[float], side: float, contrast: int
) -> NDArray[np.bool_]:
    """(n,) whether each pixel in and next to the square differs by so many grey levels."""
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
    """Films that it names."""
    films = [one.films for one in _poison_of(found)]
    return np.unique(np.concatenate(films)) if films else np.zeros(0, np.int64)


def _judged(
    found: Scan,
    key: AnswerKey,
    finding: str,
    place: Sequence[float] | None,
    cell: Cell,
) -> dict[str, Any]:
    """How right a scan is: finding, place, films."""
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
