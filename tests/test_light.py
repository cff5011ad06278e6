"""Help, errors and scans of the command line load nothing that only other work needs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import click
import pytest

from leadapron.cli import cli
from leadapron.cli.group import USAGE

HEAVY = ("torch", "matplotlib", "jinja2", "pandas", "scipy.stats")

CALLED = """
import contextlib, io, json, sys
from leadapron.cli import run
for words in json.loads(sys.argv[1]):
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = run(words)
    loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    print(json.dumps([words, code, loaded, len(told.getvalue())]))
"""


def commands(group, above=()):
    """All commands, as words of the command line."""
    context = click.Context(group)
    for name in sorted(group.list_commands(context)):
        command = group.get_command(context, name)
        yield (*above, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))


def called(calls):
    words = [sys.executable, "-c", CALLED, json.dumps(calls), json.dumps(HEAVY)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_help_usage_errors_and_a_scan_without_page_load_no_library_that_they_do_not_need():
    helps = [[*words, "--help"] for words in ((), *commands(cli))]
    wrong = [
        *([*words, "--no-such-option"] for words in commands(cli)),
        ["study", "--out", "runs", "--training.epochs", "["],
        ["study", "--out", "runs", "--training.epoch", "3"],
        ["audit", "model.safetensors", "--clean", "phantom:64", "--sweep.sides", "x"],
        ["scan", "phantom:64", "--device", "abacus"],
        ["evaluate", "screen", "--zoo", "no-such-folder", "--out", "results"],
    ]
    scan = ["-q", "scan", "phantom:32", "--source.count", "60"]
    found = called([*helps, *wrong, scan])
    for words, code, loaded, said in found[: len(helps)]:
        assert (code, loaded) == (0, []), words
        assert said > 200, words
    for words, code, loaded, said in found[len(helps) : -1]:
        assert (code, loaded) == (USAGE, []), words
        assert said, words
    assert found[-1][1] in (0, 3)  # nothing found, or can't tell
    assert found[-1][2] == ["scipy.stats"]


@pytest.mark.parametrize(
    "package", ["detect.models", "detect.films", "explainers", "repairs", "repairs.proof"]
)
def test_what_a_package_loads_later_is_there(package):
    module = importlib.import_module(f"leadapron.{package}")
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing
