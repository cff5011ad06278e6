"""The runner of all evaluations: it continues interrupted ones, and writes rows as they come.

DIR/evaluation.json    the evaluation's kind, settings and software versions
rows.jsonl         the rows of all tasks that are finished, in the tasks' order
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from leadapron import store
from leadapron.errors import UsageError
from leadapron.specs import first_difference
from leadapron.study.shards import Running
from leadapron.study.tasks import carry_out, holding
from leadapron.types import Progress

__all__ = ["Evaluation", "Row", "unusual"]

Row = dict[str, Any]

EVERY = 10.0
"""Seconds between writes of new rows; the rows of the last task are always written."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Evaluation(Generic[T]):
    """An evaluation and its folder of results.

    Args:
        what: kind of the evaluation.
        out: folder of the results.
        settings: JSON values that affect the rows; a folder holds rows of one set of settings.
        facts: further content of evaluation.json.
        order: keys of all possible tasks, in the order of their rows.
        key_of: returns the key of a task.
        key_in: returns the key of a row's task.
        words: counted objects, for progress: "sets scanned".
    """

    what: Literal["scan", "audit", "screen", "repair"]
    out: Path
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    order: Sequence[Hashable]
    key_of: Callable[[T], Hashable]
    key_in: Callable[[Row], Hashable]
    words: str

    @property
    def rows(self) -> Path:
        """The file of the rows."""
        return self.out / "rows.jsonl"

    def resumed(
        self,
        tasks: Sequence[T],
        work: Callable[[T], R],
        running: Running,
        progress: Progress | None,
        *,
        rows_of: Callable[[R], Iterable[Row]],
        finish: Callable[[list[Row]], list[Row]] | None = None,
    ) -> list[Row]:
        """Carry out the tasks that have no rows yet, and return all rows in order.

        Args:
            tasks: those of `running.shard` are carried out.
            work: carries out a task, possibly in another process.
            running: number of processes, and shard of the tasks.
            progress: called with `words`, the tasks done and their total.
            rows_of: converts a result of `work` to the task's rows, in this process.
            finish: converts all rows to the final rows; returns the same list if nothing changes.

        Raises:
            UsageError: `out` holds another evaluation.
            StoreError: another process evaluates there, or nothing can be written.
        """
        with holding(self.out, running.shard):
            self.write_head(running)
            rows = self.read()
            done = {self.key_in(row) for row in rows}
            own = running.shard.of(tasks)
            left = [task for task in own if self.key_of(task) not in done]
            finished = len(own) - len(left)
            tell = progress or (lambda *_: None)
            tell(self.words, finished, len(own))
            new: list[Row] = []
            written = time.monotonic()
            try:
                for _, found in carry_out(work, left, running.processes):
                    new += rows_of(found)
                    finished += 1
                    tell(self.words, finished, len(own))
                    if time.monotonic() - written > EVERY:
                        rows, written = self.add(new), time.monotonic()
            finally:
                rows = self.add(new)
            # Another shard may have added rows in the meantime.
            if finish is not None and (last := finish(rows)) is not rows:
                rows = last
                with self._locked():
                    self._write(rows)
        return rows

    def write_head(self, running: Running) -> None:
        """Write evaluation.json; UsageError if the folder holds another evaluation."""
        path = self.out / "evaluation.json"
        settings = json.loads(store.canonical_json(self.settings))  # lists for tuples, as on disk
        there = store.read_json(path).get("settings") if path.exists() else settings
        if found := first_difference(there, settings):
            raise UsageError(f"{self.out} holds another evaluation ({found}); choose another --out")
        head = {
            "schema": 1,
            "what": self.what,
            "settings": settings,
            "manifest": {**store.manifest(), "jobs": running.processes},
            **self.facts,
        }
        store.write_json(path, head)

    def read(self) -> list[Row]:
        """Return the rows in the file."""
        return store.read_lines(self.rows) if self.rows.exists() else []

    def add(self, new: Sequence[Row]) -> list[Row]:
        """Add rows, replacing those of the same tasks, write the file, and return all rows."""
        with self._locked():
            own = {self.key_in(row) for row in new}
            rows = [*(row for row in self.read() if self.key_in(row) not in own), *new]
            place = {key: number for number, key in enumerate(self.order)}
            rows.sort(key=lambda row: place.get(self.key_in(row), len(place)))
            self._write(rows)
        return rows

    def _locked(self) -> AbstractContextManager[None]:
        return store.lock(self.out, name=".rows.lock", wait="waiting for another shard's rows")

    def _write(self, rows: Sequence[Row]) -> None:
        if rows or self.rows.exists():
            store.write_lines(self.rows, rows)


def unusual(setting: Any) -> Row:
    """Return the fields of settings whose values aren't the defaults; a page names these.

    Args:
        setting: an instance of a dataclass whose fields all have defaults.
    """
    usual = asdict(type(setting)())
    return {name: each for name, each in asdict(setting).items() if each != usual[name]}
