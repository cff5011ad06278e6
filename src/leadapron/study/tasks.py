"""Independent tasks, carried out by several processes and machines."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any, TypeVar

from leadapron import store
from leadapron.plugins import worker_pool
from leadapron.study.shards import Shard

__all__ = ["Reopening", "carry_out", "holding"]

T = TypeVar("T")
R = TypeVar("R")


@contextlib.contextmanager
def holding(folder: Path, shard: Shard) -> Iterator[None]:
    """Lock a folder of results while a shard is carried out.

    Different shards can hold the lock at the same time. An undivided start holds it alone, and each
    shard holds it once.

    Raises:
        StoreError: another process holds the lock, or the folder can't be written.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(store.lock(folder, shared=not shard.is_whole))
        if not shard.is_whole:
            name = f".shard-{shard.index}-of-{shard.count}.lock"
            held.enter_context(store.lock(folder, name=name))
        yield


class Reopening:
    """Base of dataclasses that open files when they need them.

    Another process gets the fields of the constructor, and opens the files by itself.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        given = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)  # type: ignore[arg-type]
            if each.init
        }
        return functools.partial(type(self), **given), ()


def carry_out(work: Callable[[T], R], tasks: Sequence[T], jobs: int) -> Iterator[tuple[T, R]]:
    """Yield each task with the result of `work`, as soon as it is finished.

    Args:
        work: called in this process, in the tasks' order, if `jobs` is 1; otherwise pickled once
            for each new process; the processes share the cores and torch's threads.
        tasks: pickled as well.
        jobs: number of processes.
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
    """Threads of torch in each process: its share of the cores, no more than in this process.

    The number changes the last digits of trained weights, so the user's setting is a limit.
    """
    part = max(1, (os.cpu_count() or 1) // jobs)
    if "torch" not in sys.modules:
        return part
    import torch

    return min(part, torch.get_num_threads())


_work: Callable[[Any], Any] | None = None
"""The worker process's function; files that it opened for a task are reused for the next."""


def _begin(work: Callable[[Any], Any], threads: int) -> None:
    global _work
    _work = work
    if "torch" in sys.modules:  # else the work needs none
        import torch

        torch.set_num_threads(threads)


def _carry_out_here(task: Any) -> Any:
    assert _work is not None
    return _work(task)
