"""Number of processes and shard of the tasks; imports nothing large."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from leadapron.errors import UsageError

__all__ = ["ALL_CORES", "ONE_PROCESS", "Running", "Shard"]

MOST_SHARDS = 10_000

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """A part of the tasks; other processes or machines carry out the others.

    Args:
        index: from 0 to count - 1.
        count: total number of parts.

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
        """Return the shard of a text such as "0/2"; UsageError if it isn't a shard."""
        if not (found := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)):
            raise UsageError(f"shard {text!r}; expected INDEX/COUNT, as 0/2 and 1/2")
        return cls(int(found[1]), int(found[2]))

    @property
    def is_whole(self) -> bool:
        """Whether there is only one part."""
        return self.count == 1

    def of(self, tasks: Sequence[T]) -> list[T]:
        """Return every task whose place in the list, modulo `count`, is `index`."""
        return list(tasks[self.index :: self.count])


@dataclass(frozen=True, kw_only=True)
class Running:
    """How tasks are carried out; it doesn't change results.

    Args:
        jobs: number of processes; as many as cores if no number is given.
        shard: carry out only this part, as 0/2, while another process or machine carries out 1/2
            with the same folder of results.

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
        """Number of processes."""
        return self.jobs or os.cpu_count() or 1


ALL_CORES, ONE_PROCESS = Running(), Running(jobs=1)
