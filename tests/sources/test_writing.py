"""What a written source says of how it is opened."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest

from leadapron.errors import DataError
from leadapron.sources import writing


@pytest.mark.parametrize(
    ("findings", "option"),
    [(("Edema", "Mass"), []), (("labels", "7"), ["--source.findings", "labels,7"])],
)
def test_what_is_left_is_read_as_it_was_written(tmp_path, findings, option):
    columns = {"path": ["./a.png", "./b.png"], "view": ["PA", "AP"]}
    labels = {name: ["1", ""] for name in findings}
    assert shlex.split(writing._read_by(columns, labels)) == option
    for odd in ("view", "No Finding", "path", "Patient ID", "sex"):
        with pytest.raises(DataError, match="can't be columns of a table"):
            writing._read_by(columns, {"Mass": ["1", "0"], odd: ["1", "0"]})


@pytest.mark.parametrize("text", ["/a b", "it's", "a\nCLEAN: x", "\\n'\x1b[2K\u202e", "ü"])
def test_what_to_type_is_one_line_that_a_shell_reads(text):
    word = writing.shell_word(text)
    assert word.isprintable()
    call = ["bash", "-c", f"printf %s {word}"]
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    said = subprocess.run(call, capture_output=True, check=True, env=env)
    assert said.stdout.decode() == text
