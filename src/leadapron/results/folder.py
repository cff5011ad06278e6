"""Reading a study: the finished runs of its folder, each attack with its clean twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from leadapron.errors import StoreError
from leadapron.plugins import refuse_plugins
from leadapron.results.layout import RunFolder, StudyFolder
from leadapron.results.manifest import StudyManifest
from leadapron.results.rows import Row, read_rows
from leadapron.specs import MOST_SEEDS, grid, grids
from leadapron.store import canonical_json, read_arrays, read_json, read_lines, read_yaml
from leadapron.text import printable

__all__ = [
    "Pair",
    "Run",
    "Study",
    "leaves",
    "read_study",
    "section",
]

LARGEST = float(2**63)
"""Largest number in a study's settings and facts."""


@dataclass(frozen=True)
class Run:
    """One finished run.

    Args:
        key: 12 hex digits.
        role: "backdoored" or "twin".
        twin: key of the twin; None for a twin.
        spec: its settings, fully expanded.
        rows: its results.
        folder: its folder.
    """

    key: str
    role: str
    twin: str | None
    spec: Mapping[str, Any]
    rows: tuple[Row, ...]
    folder: RunFolder

    def history(self) -> list[Mapping[str, Any]]:
        """Return the epochs; empty if the file is missing."""
        path = self.folder.history
        return [_shown(line, path) for line in (read_lines(path) if path.exists() else ())]

    def scores(self, needed: Sequence[str]) -> dict[str, NDArray[Any]] | None:
        """Return labels and probabilities of the test films; None if the file is missing.

        Args:
            needed: names of required arrays.

        Raises:
            StoreError: it can't be read, or lacks an array.
        """
        return _arrays(self.folder.scores, needed)

    def gallery(self, needed: Sequence[str]) -> dict[str, NDArray[Any]] | None:
        """Return the films and maps to show; errors as for `scores`."""
        return _arrays(self.folder.gallery, needed)


@dataclass(frozen=True)
class Pair:
    """A backdoored run and its twin (None if the twin isn't finished)."""

    backdoored: Run
    twin: Run | None

    @property
    def key(self) -> str:
        """The backdoored run's key, which names the pair."""
        return self.backdoored.key

    @property
    def target(self) -> str:
        """The attacker's finding."""
        return str(section(self.backdoored.spec, "poisoning").get("finding", "the target"))

    @property
    def seed(self) -> Any:
        """The run's seed."""
        return self.backdoored.spec.get("seed")

    def rows(self) -> Iterator[Row]:
        """Yield the backdoored run's rows, then the twin's own."""
        yield from self.backdoored.rows
        if self.twin is not None:
            yield from self.twin.rows

    def row(
        self,
        metric: str,
        role: str,
        *,
        regime: str = "",
        method: str | None = None,
        finding: str | None = "",
        at: str = "",
    ) -> Row | None:
        """Return the first row that fits; None if there is none.

        A method or finding of None fits any.
        """
        for row in self.rows():
            if (
                (row.metric, row.role, row.regime) == (metric, role, regime)
                and method in (None, row.method)
                and finding in (None, row.finding)
                and row.at == at
            ):
                return row
        return None


class Setting(NamedTuple):
    """Attacks that differ in their seed alone.

    Args:
        point: values of the axes, by path of the setting.
        pairs: one of each seed.
    """

    point: Mapping[str, Any]
    pairs: list[Pair]


@dataclass(frozen=True)
class Study:
    """A study on disk.

    Args:
        folder: its folder.
        asked: the requested settings (`study.yaml`).
        manifest: versions, machine, the cohort's facts.
        pairs: the finished attacks in the grid's order.
        expected: number of requested attacks.
        unfinished: number of started runs, attacks and twins, without results.
    """

    folder: StudyFolder
    asked: Mapping[str, Any]
    manifest: Mapping[str, Any]
    pairs: tuple[Pair, ...]
    expected: int
    unfinished: int

    @property
    def cohorts(self) -> list[Mapping[str, Any]]:
        """The facts about the films, from the manifest."""
        found = self.manifest.get("cohorts", self.manifest.get("cohort", []))
        found = [found] if isinstance(found, Mapping) else found
        return [facts for facts in found if isinstance(facts, Mapping)]

    def axes(self) -> list[str]:
        """Return the settings in which the attacks differ, except seeds."""
        values: dict[str, list[str]] = {}
        for pair in self.pairs:
            for path, value in leaves(pair.backdoored.spec):
                values.setdefault(path, []).append(canonical_json(value))
        return [
            path
            for path, seen in values.items()
            if path != "seed" and (len(set(seen)) > 1 or len(seen) < len(self.pairs))
        ]

    def settings(self) -> list[Setting]:
        """Return the attacks grouped by what they differ in."""
        axes = self.axes()
        groups: dict[str, Setting] = {}
        for pair in self.pairs:
            flat = dict(leaves(pair.backdoored.spec))
            point = {path: flat[path] for path in axes if path in flat}
            groups.setdefault(canonical_json(point), Setting(point, [])).pairs.append(pair)
        return list(groups.values())


def read_study(folder: Path) -> Study:
    """Read everything of a study that its report needs.

    Args:
        folder: the folder of `leadapron study --out`.

    Raises:
        StoreError: it holds no study, no finished attack, or a file that can't be read.
    """
    place = StudyFolder(Path(folder))
    if not place.settings.is_file():
        raise StoreError(
            f"{folder} holds no study (no study.yaml); "
            f"make one with: leadapron study --out {folder}"
        )
    asked = _read(place.settings, read_yaml)
    facts = _read(place.manifest, read_json) if place.manifest.is_file() else {}
    refuse_plugins(facts, str(place.manifest))
    if facts and facts.get("schema") != StudyManifest.SCHEMA:
        raise StoreError(f"{place.manifest} was made by another version")
    folders = _planned(place.runs(), facts.get("runs"))
    finished, unfinished = _read_runs(folders)
    by_key = {run.key: run for run in finished if run.role == "twin"}
    pairs = [Pair(run, by_key.get(run.twin or "")) for run in finished if run.role == "backdoored"]
    if not pairs:
        raise StoreError(
            f"{folder} holds no finished attack (no runs/backdoored-*/rows.jsonl); "
            f"finish it with: leadapron study --out {folder}"
        )
    started = sum(run.role == "backdoored" for run in folders)
    return Study(
        folder=place,
        asked=asked,
        manifest=facts,
        pairs=tuple(sorted(pairs, key=_order)),
        expected=max(started, _asked_for(asked)),
        unfinished=unfinished,
    )


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("section.name", value) for each value of a tree, in its order."""
    for name, value in tree.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


def section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of nested settings; empty if missing."""
    found = tree.get(name)
    return found if isinstance(found, Mapping) else {}


def _arrays(path: Path, needed: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    if not path.exists():
        return None
    arrays = read_arrays(path)
    missing = [each for each in needed if each not in arrays]
    if missing:
        raise StoreError(f"{path} lacks {', '.join(missing)}; it was made by another version")
    return arrays


def _planned(runs: Sequence[RunFolder], planned: Any) -> list[RunFolder]:
    """The runs that the manifest plans, if it plans any.

    Other runs are left over from an earlier start, with other films or other code.
    """
    return [run for run in runs if not isinstance(planned, list) or run.name in planned]


def _read_runs(folders: Sequence[RunFolder]) -> tuple[list[Run], int]:
    """The finished runs by name, and the number of other started runs."""
    finished, unfinished = [], 0
    for folder in folders:
        if not folder.finished:
            unfinished += 1
            continue
        facts = _read(folder.spec, read_json)
        finished.append(
            Run(
                key=folder.key,
                role=str(facts.get("role", folder.role)),
                twin=facts.get("twin"),
                spec=section(facts, "spec"),
                rows=tuple(read_rows(folder.rows)),
                folder=folder,
            )
        )
    return finished, unfinished


def _asked_for(asked: Mapping[str, Any]) -> int:
    """Number of requested attacks: the points of its grids, times their `seeds`."""
    points: dict[str, int] = {}
    for tree in grids(asked):
        seeds = tree.get("seeds", 1)
        if not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
            raise StoreError(f"study.yaml has {seeds!r} seeds; expected 1 to {MOST_SEEDS:,}")
        for point in grid({name: value for name, value in tree.items() if name != "seeds"}):
            key = repr(point)  # JSON lacks YAML's dates
            points[key] = max(points.get(key, 1), seeds)
    return sum(points.values())


def _order(pair: Pair) -> tuple[Any, ...]:
    """Sort key: the spec's values (numbers as numbers), then seeds, then keys."""
    spec = [
        (path, not isinstance(value, int | float), value)
        if isinstance(value, int | float)
        else (path, True, str(value))
        for path, value in sorted(leaves(pair.backdoored.spec))
        if path != "seed"
    ]
    return spec, pair.seed if isinstance(pair.seed, int) else 0, pair.key


def _read(path: Path, read: Callable[[Path], Any]) -> Mapping[str, Any]:
    return _mapping(_shown(read(path), path), path)


def _shown(value: Any, path: Path) -> Any:
    """Contents of a file with printable text, since a study's folder may be untrusted.

    Raises:
        StoreError: a number that isn't finite, or doesn't fit in 64 bits.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_shown(name, path): _shown(each, path) for name, each in value.items()}
    if isinstance(value, list):
        return [_shown(each, path) for each in value]
    if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:
        raise StoreError(f"{path} holds a number that leadapron never writes; is it damaged?")
    return value


def _mapping(value: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise StoreError(f"{path} doesn't hold names and values; it was not made by leadapron")
    return value
