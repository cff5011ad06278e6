"""The tours of the manual, carried out."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from leadapron.cli import run

START = Path(__file__).parents[1] / "docs" / "start"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "tour", ["data-steward", pytest.param("hospital", marks=pytest.mark.slow), "researcher"]
)
def test_a_tour_does_what_it_shows(tour, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEADAPRON_CACHE", "none")
    names = {}
    code = 0
    blocks = BLOCK.findall((START / f"{tour}.md").read_text())
    assert {language for language, _ in blocks} == {"python", "console"}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, tour, "exec"), names)
            said = capsys.readouterr().out.splitlines()
            assert said == re.findall(r"^print\(.*\)  # (.*)", block, re.MULTILINE)
            continue
        lines = block.replace("\\\n", " ")
        for command, shown in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", lines, re.MULTILINE):
            if command == "echo $?":
                assert code == int(shown)
                code = 0
                continue
            assert code == 0, "a page shows each exit code but 0"
            program, *words = shlex.split(command)
            assert program == "leadapron"
            code = run(words)
            assert_shown(shown, capsys.readouterr().out)
    assert code == 0, "a page shows each exit code but 0"


def assert_shown(shown, said):
    """Where the page has "...", the command may say anything."""
    pattern = re.escape(shown.strip()).replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern, said.strip(), re.DOTALL), f"page:\n{shown}\ncommand:\n{said}"
