"""The runner of all evaluations: it goes on where one was stopped, and writes rows as they come.

DIR/evaluation.json    what is evaluated, its settings, and what made the results
rows.jsonl         the rows of all tasks that are finished, in the tasks' order
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from leadapron import store
from leadapron.errors import UsageError
from leadapron.study.shards import Running
from leadapron.study.tasks import carry_out, holding
from leadapron.types import Progress

__all__ = ["Evaluation", "Row"]

Row = dict[str, Any]

EVERY = 10.0
"""Seconds after which rows that came in are written; those of the last task always are."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Evaluation(Generic[T]):
    """What is evaluated, and where its results lie.

    Args:
        what: kind of the evaluation.
        out: folder of the results.
        settings: what decides the rows, as JSON takes it; a folder holds those of one.
        facts: what else evaluation.json says.
        order: keys of all tasks that there may ever be, in the order of their rows.
        key_of: the key of a task.
        key_in: the key of the task that a row is of.
        words: what is counted, for progress: "sets scanned".
    """

    what: Literal["scan", "audit", "screen"]
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
            work: carries out a task, maybe in another process.
            running: in how many processes, and which part.
            progress: called with what is counted, the tasks done and in all.
            rows_of: makes a task's rows of what `work` gave, in this process.
            finish: makes the rows that are written at last of all that there are; the same list
                where it leaves them.

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
            # Rows that stay as they are may have got others from another shard meanwhile.
            if finish is not None and (last := finish(rows)) is not rows:
                rows = last
                with self._locked():
                    self._write(rows)
        return rows

    def write_head(self, running: Running) -> None:
        """Write what is evaluated; UsageError where the folder holds another evaluation."""
        path = self.out / "evaluation.json"
        settings = json.loads(store.canonical_json(self.settings))  # lists for tuples, as on disk
        if path.exists() and (there := store.read_json(path).get("settings")) != settings:
            raise UsageError(
                f"{self.out} holds another evaluation{_difference(there, settings)}; "
                "choose another --out"
            )
        head = {
            "schema": 1,
            "what": self.what,
            "settings": settings,
            "manifest": {**store.manifest(), "jobs": running.processes},
            **self.facts,
        }
        store.write_json(path, head)

    def read(self) -> list[Row]:
        """Return the rows that are written."""
        return store.read_lines(self.rows) if self.rows.exists() else []

    def add(self, new: Sequence[Row]) -> list[Row]:
        """Write rows in place of those of the same tasks, among the others; return all."""
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


def _difference(there: Any, settings: Mapping[str, Any]) -> str:
    """Name a setting in which two evaluations differ, in brackets."""
    if not isinstance(there, Mapping):
        return ""
    name = next(name for name in {**settings, **there} if settings.get(name) != there.get(name))
    return f" ({name} is {there.get(name)!r}, not {settings.get(name)!r})"
