"""A study that is killed, anywhere and again and again, ends with the rows of one that was not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from leadapron import store
from leadapron.report import write_report
from leadapron.study.run import run_study

TREE = {
    "source": {"name": "phantom", "count": 240},
    "size": 32,
    "epochs": 3,
    "evaluation": {"resamples": 50, "explained": 20, "gallery": 2},
    "poisoning": {"fraction": 0.2, "finding": "Effusion"},
}


def carry_out(out: Path, die_at: int = 0, die_after: bool = False) -> None:
    """Run the study in a process of its own; die at a write, before or after it is in place."""
    import torch

    torch.set_num_threads(1)
    replace, writes = Path.replace, 0

    def counted(self, target):
        nonlocal writes
        writes += 1
        if writes == die_at and not die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = replace(self, target)
        if writes == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Path.replace = counted
    run_study(TREE, out)


@pytest.fixture(scope="module")
def start():
    # A server that has imported everything forks each process in no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["leadapron.study.run", "leadapron.report"])

    def begin(*given):
        process = context.Process(target=carry_out, args=given)
        process.start()
        return process

    return begin


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """The folder of a study that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    process = start(out)
    process.join()
    assert process.exitcode == 0
    return out


def same(out, whole):
    assert (out / "rows.jsonl").read_bytes() == (whole / "rows.jsonl").read_bytes()
    assert {path.name for path in (out / "runs").iterdir()} == {
        path.name for path in (whole / "runs").iterdir()
    }
    for run in (whole / "runs").iterdir():
        scores = [store.read_arrays(at / "runs" / run.name / "scores.npz") for at in (out, whole)]
        assert all(np.array_equal(scores[0][name], scores[1][name]) for name in scores[1])
    assert not [path for path in out.rglob("*") if path.suffix in (".part", ".pt")]
    assert write_report(out).exists()


def killed(process):
    return process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_at_random_moments(start, whole, tmp_path):
    began = time.perf_counter()
    start(tmp_path / "timed").join()
    seconds = time.perf_counter() - began
    rng = np.random.default_rng(0)
    kills, studies = 0, 0
    while kills < 40:
        out = tmp_path / str(studies)
        while True:
            process = start(out)
            # Long enough to finish an epoch now and then: continuing goes by epochs.
            process.join(rng.uniform(0.05, 0.7) * seconds)
            process.kill()
            process.join()
            if not killed(process):
                assert process.exitcode == 0
                break
            kills += 1
        same(out, whole)
        studies += 1
    assert studies >= 2


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_write(start, whole, tmp_path, after):
    at = 0
    while True:
        at += 1
        out = tmp_path / str(at)
        process = start(out, at, after)
        process.join()
        if not killed(process):
            break
        process = start(out)
        process.join()
        assert process.exitcode == 0, f"killed at write {at}"
        same(out, whole)
    assert at > 15


def test_killed_again_and_again_at_later_and_later_writes(start, whole, tmp_path):
    for at in range(2, 100, 4):
        process = start(tmp_path / "out", at, at % 2 == 0)
        process.join()
        if not killed(process):
            break
    assert process.exitcode == 0
    assert at > 5
    same(tmp_path / "out", whole)
