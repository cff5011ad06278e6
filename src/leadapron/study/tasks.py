"""Tasks that don't depend on each other: several at a time, and a part of them on each machine."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from leadapron import store
from leadapron.errors import UsageError
from leadapron.plugins import worker_pool

__all__ = ["ALL_CORES", "ONE_PROCESS", "Reopening", "Running", "Shard", "carry_out", "holding"]

MOST_SHARDS = 10_000

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Shard:
    """A part of the tasks; other processes or machines carry out the rest.

    Args:
        index: from 0 to count - 1.
        count: parts in all.

    Raises:
        UsageError: an index or a count outside its range.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count <= MOST_SHARDS:
            raise UsageError(
                f"shard {self}; expected INDEX/COUNT with an index from 0 to COUNT - 1, as 0/2 "
                "and 1/2"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Return the shard that a text such as "0/2" names; UsageError where it names none."""
        if not (found := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)):
            raise UsageError(f"shard {text!r}; expected INDEX/COUNT, as 0/2 and 1/2")
        return cls(int(found[1]), int(found[2]))

    @property
    def is_whole(self) -> bool:
        """Whether there is one part alone."""
        return self.count == 1

    def of(self, tasks: Sequence[T]) -> list[T]:
        """Return every task whose place in the list, modulo `count`, is `index`."""
        return list(tasks[self.index :: self.count])


@dataclass(frozen=True, kw_only=True)
class Running:
    """How tasks are carried out; none of it changes a result.

    Args:
        jobs: processes; as many as there are cores for None.
        shard: the part of the tasks that is carried out here.

    Raises:
        UsageError: fewer than 1 process.
    """

    jobs: int | None = None
    shard: Shard = Shard()

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"jobs {self.jobs}; expected 1 or more")

    @property
    def processes(self) -> int:
        """How many there are."""
        return self.jobs or os.cpu_count() or 1


ALL_CORES, ONE_PROCESS = Running(), Running(jobs=1)


@contextlib.contextmanager
def holding(folder: Path, shard: Shard) -> Iterator[None]:
    """Hold the folder of some results while a shard is carried out.

    Different shards hold it together. Nobody else holds it beside one that is whole, and no two
    hold it for the same shard.

    Raises:
        StoreError: another process holds it, or it can't be written.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(store.lock(folder, shared=not shard.is_whole))
        if not shard.is_whole:
            name = f".shard-{shard.index}-of-{shard.count}.lock"
            held.enter_context(store.lock(folder, name=name))
        yield


class Reopening:
    """Base of dataclasses that open files when they need them.

    Another process gets the fields that the constructor takes, and opens the rest by itself.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        given = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)  # type: ignore[arg-type]
            if each.init
        }
        return functools.partial(type(self), **given), ()


def carry_out(work: Callable[[T], R], tasks: Sequence[T], jobs: int) -> Iterator[tuple[T, R]]:
    """Yield each task with what `work` makes of it, as soon as it is finished.

    Args:
        work: called in this process where `jobs` is 1, in their order; otherwise pickled once for
            each of as many fresh processes, which share the cores and torch's threads.
        tasks: pickled as well.
        jobs: processes.
    """
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, work(task)
        return
    with worker_pool(min(jobs, len(tasks)), _begin, (work, _threads(jobs))) as pool:
        try:
            started = {pool.submit(_carry_out_here, task): task for task in tasks}
            for finished in as_completed(started):
                yield started[finished], finished.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _threads(jobs: int) -> int:
    """Of torch, in each process: its part of the cores, and no more than there are in this one.

    Their number changes the last digits of what is trained, so the user's word counts.
    """
    part = max(1, (os.cpu_count() or 1) // jobs)
    if "torch" not in sys.modules:
        return part
    import torch

    return min(part, torch.get_num_threads())


_work: Callable[[Any], Any] | None = None
"""Of a process that carries out tasks: what it opened for one of them serves the next."""


def _begin(work: Callable[[Any], Any], threads: int) -> None:
    global _work
    _work = work
    if "torch" in sys.modules:  # else the work needs none
        import torch

        torch.set_num_threads(threads)


def _carry_out_here(task: Any) -> Any:
    assert _work is not None
    return _work(task)
