"""Tasks in several processes, and shards of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest

from leadapron.errors import StoreError, UsageError
from leadapron.study.shards import Running, Shard
from leadapron.study.tasks import Reopening, carry_out, holding


def test_shards_are_every_task_once():
    tasks = list("abcdefg")
    parts = [Shard(index, 3).of(tasks) for index in range(3)]
    assert parts == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    assert Shard().of(tasks) == tasks
    assert Shard.parsed("2/3") == Shard(2, 3)
    assert str(Shard(2, 3)) == "2/3"


@pytest.mark.parametrize("text", ["", "1", "3/3", "-1/3", "0/0", "1/2/3", "0/99999999", "a/b"])
def test_what_is_no_shard(text):
    with pytest.raises(UsageError, match="INDEX/COUNT"):
        Shard.parsed(text)


def test_at_least_one_process():
    with pytest.raises(UsageError, match="jobs 0"):
        Running(jobs=0)
    assert Running(jobs=3).processes == 3
    assert Running().processes == os.cpu_count()


def test_shards_hold_a_folder_together_and_against_everyone_else(tmp_path):
    with holding(tmp_path, Shard(0, 2)):
        with holding(tmp_path, Shard(1, 2)):
            pass
        for other in (Shard(0, 2), Shard()):
            with pytest.raises(StoreError, match="in use"), holding(tmp_path, other):
                pass
    with (
        holding(tmp_path, Shard()),
        pytest.raises(StoreError, match="in use"),
        holding(tmp_path, Shard(0, 2)),
    ):
        pass
    assert not list(tmp_path.glob(".shard-*"))


@dataclass(frozen=True, kw_only=True)
class Squares(Reopening):
    plus: int
    opened: list[int] = field(default_factory=list, init=False)

    def __call__(self, task):
        self.opened.append(task)
        return task * task + self.plus, os.getpid(), len(self.opened)


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_is_carried_out_once(jobs):
    work = Squares(plus=1)
    work.opened.append(100)
    found = dict(carry_out(work, range(5), jobs))
    assert {task: value for task, (value, _, _) in found.items()} == {
        0: 1, 1: 2, 2: 5, 3: 10, 4: 17
    }  # fmt: skip
    here = {pid for _, pid, _ in found.values()} == {os.getpid()}
    assert here == (jobs == 1)
    # What was opened serves the next task; it doesn't travel.
    most = max(opened for _, _, opened in found.values())
    assert most == 6 if jobs == 1 else 2 <= most <= 5
