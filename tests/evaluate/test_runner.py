"""The runner of all evaluations, on tasks that are numbers."""

from __future__ import annotations

import pytest

from leadapron import store
from leadapron.errors import UsageError
from leadapron.evaluate.runner import Evaluation
from leadapron.study.shards import ONE_PROCESS, Running, Shard


def evaluation(out, **settings):
    return Evaluation(
        what="scan",
        out=out,
        settings={"seed": 0, "sides": (1, 2), **settings},
        facts={"chosen": "all"},
        order=range(10),
        key_of=lambda task: task,
        key_in=lambda row: row["task"],
        words="numbers",
    )


def rows_of(task):
    return [{"task": task, "part": part} for part in range(1 + task % 2)]


def run(out, tasks, running=ONE_PROCESS, work=rows_of, progress=None, **more):
    return evaluation(out).resumed(tasks, work, running, progress, rows_of=list, **more)


@pytest.fixture
def whole(tmp_path):
    return run(tmp_path / "whole", range(7))


def content(out):
    return (out / "rows.jsonl").read_bytes()


def test_rows_come_in_the_tasks_order(whole, tmp_path):
    assert [row["task"] for row in whole] == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6]
    assert store.read_lines(tmp_path / "whole" / "rows.jsonl") == whole
    head = store.read_json(tmp_path / "whole" / "evaluation.json")
    assert (head["what"], head["settings"]["sides"], head["chosen"]) == ("scan", [1, 2], "all")
    assert head["manifest"]["jobs"] == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_shards_and_processes_make_the_same_file(whole, tmp_path, order):
    for index in order:
        rows = run(tmp_path / "shards", range(7), Running(jobs=1, shard=Shard(index, 2)))
    assert rows == whole
    assert content(tmp_path / "shards") == content(tmp_path / "whole")
    if order == (0, 1):
        run(tmp_path / "two", range(7), Running(jobs=2))
        assert content(tmp_path / "two") == content(tmp_path / "whole")


def test_it_goes_on_where_it_was_stopped(whole, tmp_path):
    def stopped(task):
        if task == 4:
            raise KeyboardInterrupt
        return rows_of(task)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", range(7), work=stopped)
    assert [row["task"] for row in store.read_lines(tmp_path / "out" / "rows.jsonl")] == [
        0, 1, 1, 2, 3, 3
    ]  # fmt: skip
    seen, done = [], []

    def work(task):
        done.append(task)
        return rows_of(task)

    run(tmp_path / "out", range(7), work=work, progress=lambda *at: seen.append(at))
    assert done == [4, 5, 6]
    assert seen == [("numbers", n, 7) for n in (4, 5, 6, 7)]
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_parts_add_up_whatever_came_first(whole, tmp_path):
    run(tmp_path / "out", [6, 1])
    rows = run(tmp_path / "out", range(7), work=rows_of)
    assert rows == whole


def test_what_is_made_of_all_rows_at_last(tmp_path):
    def last(rows):
        return [{**row, "of": len(rows)} for row in rows if row["task"]]

    rows = run(tmp_path, range(3), finish=last)
    assert rows == store.read_lines(tmp_path / "rows.jsonl")
    assert [(row["task"], row["of"]) for row in rows] == [(1, 4), (1, 4), (2, 4)]


def test_a_folder_holds_one_evaluation(whole, tmp_path):
    other = evaluation(tmp_path / "whole", seed=1)
    with pytest.raises(UsageError, match=r"another evaluation \(seed is 0, not 1\)"):
        other.resumed([0], rows_of, ONE_PROCESS, None, rows_of=list)
