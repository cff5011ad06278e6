"""Evaluate: how much poison a scan finds, how often it is wrong, and where it is blind."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

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
from leadapron.films.cohort import AnswerKey, Cohort, Rows
from leadapron.jobs.scan import open_own_pixels
from leadapron.jobs.worlds import WORLDS, make_world
from leadapron.seeds import named_seed, stream
from leadapron.sources import open_source
from leadapron.specs import build, forgiving

__all__ = ["NEAR", "PRESETS", "Cell", "Preset", "cells", "evaluate_scan", "scans"]

Progress = Callable[[str, int, int], None]

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
        poisoning: settings beside trigger and finding.
        draws: how often.
        contrast: grey levels between a patch and its surroundings on each poisoned film, at least;
            the patch's level is drawn from five. 0 leaves level and films as they are.
        reduced: the patch is stamped on a film so many times as large, and made smaller.
        target: power that the project set itself; None where it only measures.
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
    """

    cells: tuple[Cell, ...]
    phantoms: int
    halves: int
    worlds: int = 0


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
        cells=tuple(
            Cell(
                name=f"{side}x{side}, {share:g} %",
                trigger=_patch(side),
                poisoning={"fraction": share / 100},
                contrast=40,
                draws=10,
            )
            for side in (1, 3, 5)
            for share in (1, 2, 4)
        ),
        phantoms=0,
        halves=10,
        worlds=5,
    ),
}
"""What is evaluated, by name."""


@forgiving
def evaluate_scan(
    preset: str,
    source: str,
    out: Path,
    *,
    also: Sequence[str] = (),
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
        source: what is poisoned.
        out: folder of the results.
        also: more sources whose halves are scanned as they are.
        size: side of the images in pixels; as `scan` looks at them if left out.
        seed: of everything that is drawn.
        workers: processes; as many as there are cores if left out.
        cache: of decoded films, as `open_source`.
        progress: called with what is being done, the scans done and in all.

    Returns:
        One record for each scan.

    Raises:
        UnknownNameError: no such preset.
        LeadapronError: as `open_source`.
    """
    chosen = _preset(preset)
    count = os.cpu_count() or 1 if workers is None else workers
    if count < 1:
        raise UsageError(f"--workers {count}: expected 1 or more")
    with store.lock(out):
        return _evaluated(
            chosen,
            preset,
            _Setting(
                source=source, size=size, seed=seed, cache=None if cache is None else str(cache)
            ),
            out,
            also,
            count,
            progress,
        )


@dataclass(frozen=True, kw_only=True)
class _Setting:
    source: str
    size: int | None
    seed: int
    cache: str | None


@dataclass(frozen=True)
class _Task:
    kind: str
    name: str
    draw: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.kind, self.name, self.draw


def _evaluated(
    preset: Preset,
    name: str,
    setting: _Setting,
    out: Path,
    also: Sequence[str],
    workers: int,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    facts = {"preset": name, **asdict(setting), "also": list(also)}
    facts.pop("cache")
    known = out / "evaluation.json"
    if known.exists() and store.read_json(known)["settings"] != facts:
        raise UsageError(f"{out} holds another evaluation; choose another --out")
    store.write_json(known, {"schema": 1, "settings": facts, "manifest": store.manifest()})
    path = out / "rows.jsonl"
    rows = store.read_lines(path) if path.exists() else []
    done = {(row["kind"], row["name"], row["draw"]) for row in rows}
    tasks = [task for task in _tasks(preset, setting, also) if task.key not in done]
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
    told = ("name", "target", "sealed", "knows", "reason")
    return [{name: getattr(cell, name) for name in told} for cell in _preset(preset).cells]


def scans(preset: str, sources: int) -> int:
    """Return how many scans a preset makes with so many sources."""
    chosen = _preset(preset)
    poisoned = sum(cell.draws for cell in chosen.cells)
    return poisoned + chosen.phantoms + chosen.halves * sources + chosen.worlds * len(WORLDS)


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]


def _tasks(preset: Preset, setting: _Setting, also: Sequence[str]) -> Iterator[_Task]:
    for cell in preset.cells:
        for draw in range(cell.draws):
            yield _Task("poisoned", cell.name, draw)
    for name in WORLDS:
        for draw in range(preset.worlds):
            yield _Task("world", name, draw)
    for draw in range(preset.phantoms):
        yield _Task("phantoms", "phantom:64", draw)
    for source in (setting.source, *also):
        for draw in range(preset.halves):
            yield _Task("half", source, draw)


class _Opened:
    """A source that is open, with what was seen of it."""

    def __init__(self, setting: _Setting, source: str) -> None:
        self.cohort = open_own_pixels(source, size=setting.size, cache=setting.cache)
        self.bounds: Limits = limits(self.cohort.images, stream(setting.seed, "limits"))
        self.seen: Observed = observe(self.cohort.images, self.bounds)
        self.plain = Plain(self.cohort, self.seen)


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
        _opened[name] = _Opened(_setting, name)
    return _opened[name]


def _carry_out(task: _Task) -> dict[str, Any]:
    assert _setting is not None
    begun = time.perf_counter()
    facts: dict[str, Any] = {"kind": task.kind, "name": task.name, "draw": task.draw}
    if task.kind == "phantoms":
        number = int(named_seed(_setting.seed, "phantoms", task.draw).generate_state(1)[0])
        cohort = open_source(task.name, count=1000, seed=number % 2**31, cache="none")
        found = scan_films(cohort, seed=task.draw)
        return {**facts, **_said(found), "seconds": time.perf_counter() - begun}
    if task.kind == "world":
        return {**facts, **_tried_world(task), "seconds": time.perf_counter() - begun}
    if task.kind == "half":
        opened = _source(task.name)
        patients = np.unique(opened.cohort.patients)
        rng = stream(_setting.seed, "half", task.name, task.draw)
        chosen = rng.permutation(patients)[: len(patients) // 2]
        rows = np.flatnonzero(np.isin(opened.cohort.patients, chosen))
        found = scan_films(opened.cohort.take(rows), seed=task.draw, seen=opened.seen.take(rows))
        return {**facts, **_said(found), "seconds": time.perf_counter() - begun}
    opened = _source(_setting.source)
    cell = _cells_by_name[task.name]
    rng = stream(_setting.seed, "cell", task.name, task.draw)
    poisoned, key, finding, place = _poisoned(opened.cohort, cell, rng)
    marked = np.union1d(key.rows, key.covers)
    new = observe(poisoned.images[marked], opened.bounds)
    seen = opened.seen.replaced(marked, new)
    scanned = time.perf_counter()
    found = scan_films(poisoned, seed=task.draw, seen=seen)
    seconds = time.perf_counter() - scanned
    return {
        **facts,
        **_said(found),
        "finding": finding,
        "place": place,
        "films": len(key.rows),
        **_judged(found, key, finding, place, cell),
        "baselines": opened.plain.found(poisoned, seen, marked, finding, place),
        "seconds": seconds,
    }


def _tried_world(task: _Task) -> dict[str, Any]:
    assert _setting is not None
    world = WORLDS[task.name]
    cohort, wrong = make_world(world, stream(_setting.seed, "world", task.name, task.draw))
    found = scan_films(cohort, seed=task.draw)
    named = _named(found)
    hits = len(np.intersect1d(named, wrong))
    return {
        **_said(found),
        "expected": world.expected,
        "sealed": world.sealed,
        "films": len(wrong),
        "precision": hits / len(named) if len(named) else None,
        "recall": hits / len(wrong) if len(wrong) else None,
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
        fraction = cell.poisoning.get("fraction", 0.01)
        if fraction == "half":
            fraction = carriers[cohort.column(finding)] / 2 / len(cohort)
        attack = Poisoning(
            **{
                **cell.poisoning,
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
