"""A sample of the models that `make hostile-models` tries, through the command line."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from types import SimpleNamespace

import pytest

from leadapron.cli import run
from loaded import benchmarks

FORMATS = ("Lightning", "leadapron", "MONAI bundle", "model card")
"""Of these, models are made in milliseconds."""
EACH = 8


@pytest.fixture(scope="module")
def benchmark():
    files, command = benchmarks("hostile_files", "hostile_models")
    return SimpleNamespace(files=files, command=command)


def test_the_canary_would_be_made(benchmark, tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(benchmark.files.RUNS["os.system"](str(canary))))
    assert canary.exists()


def test_a_sample_runs_nothing_and_takes_one_line(benchmark, tmp_path, monkeypatch, capfd):
    canary = tmp_path / "canary"
    ends = Counter()
    every = benchmark.files.hostile(str(canary), FORMATS)
    for number, each in enumerate(itertools.islice(every, 0, None, EACH)):
        folder = tmp_path / str(number)
        benchmark.files.write(each.model.files, folder)
        before = benchmark.command.listing(folder)
        monkeypatch.chdir(folder)
        code = run(["inspect", *each.model.typed])
        said = capfd.readouterr().err
        assert list(benchmark.command.wrong_words(code, said)) == [], each
        assert benchmark.command.listing(folder) == before, each
        assert not canary.exists(), each
        ends[code] += 1
    assert ends[2] >= 8
    assert ends.total() >= 12


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (1, "", "exit code 1"),
        (-9, "", "exit code -9"),
        (2, "one\ntwo\n", "2 lines"),
        (4, "", "0 lines"),
        (2, "a\x1b[2Jb\n", "control characters"),
    ],
)
def test_other_ends_are_findings(benchmark, code, said, words):
    assert words in "; ".join(benchmark.command.wrong_words(code, said))
    assert list(benchmark.command.wrong_words(2, "one line\n")) == []
