"""Which attacks take: the page made from a study's folder alone."""

from __future__ import annotations

import re

import pytest
from study_folder import Plan, write_study

from leadapron.errors import StoreError
from leadapron.report.potency import potency, write_potency
from leadapron.study.run import run_study
from leadapron.types import Machine

GRID = {
    "source": {"name": "phantom:32", "count": 160, "seed": 3},
    "size": 32,
    "epochs": 1,
    "evaluation": {"resamples": 20, "explained": 2, "gallery": 0},
    "poisoning": {"finding": "Effusion", "fraction": [0.2, 0.1]},
    "cells": [
        {"trigger": {"name": "warp"}},
        {"trigger": {"name": "patch", "side": 3, "place": "corner"}},
        {"trigger": {"name": "patch", "side": 5, "place": "corner"}},
        {
            "trigger": {"name": "patch", "side": 3, "place": "corner"},
            "poisoning": {"fraction": 0.05, "labels": "clear", "selection": "with"},
        },
    ],
}


def rows(text):
    """The table's lines, first cells to last ones, without its head."""
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:1] == "|"]
    return found[2:]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    out = tmp_path_factory.mktemp("potency") / "out"
    return run_study(GRID, out, machine=Machine(cache="none"))


def test_lines_follow_the_cells_and_fractions_rise(grid):
    assert [tuple(line[:3]) for line in rows(potency(grid))] == [
        ("warp", "one-hot", "0.1"),
        ("warp", "one-hot", "0.2"),
        ("patch, side 3", "one-hot", "0.1"),
        ("patch, side 3", "one-hot", "0.2"),
        ("patch, side 5", "one-hot", "0.1"),
        ("patch, side 5", "one-hot", "0.2"),
        ("patch, side 3", "clear, selection with", "0.05"),
    ]


def test_a_line_holds_what_the_rows_say(grid):
    text = potency(grid)
    trained = int(re.findall(r"(\d+) to train on", text)[0])
    for line in rows(text):
        films, pixels = line[3:5]
        assert films == f"{int(trained * float(line[2]))}"
        if line[0].startswith("patch"):
            assert pixels == f"{int(line[0][-1]) ** 2}"
    assert "7 backdoored models, 1 clean twin." in text
    assert "seed 0." in text
    assert "nan" not in text
    assert "- **warp**: grid 4, pattern 0, strength 0.5" in text


def test_the_page_is_the_folders_alone(grid, tmp_path):
    page = write_potency(grid, tmp_path / "page.md")
    assert page.read_text() == potency(grid)


def test_several_seeds_share_a_line(tmp_path):
    study = write_study(tmp_path / "study", Plan(seeds=(0, 1), sides=(3, 9), success=0.9))
    text = potency(study)
    (small, large) = rows(text)
    assert (small[0], small[-1]) == ("patch, side 3", "no")  # 30 %
    assert (large[0], large[-1]) == ("patch, side 9", "yes")
    assert large[5] == "90.0 %"
    assert "seeds 0 and 1" in text
    assert "hold the seeds' range" in text
    assert "- Takes from 0.05: patch, side 9 (one-hot)." in text
    assert "- Takes at no fraction tried: patch, side 3 (one-hot)." in text


def test_an_unfinished_study_is_said_to_be(tmp_path):
    study = write_study(tmp_path / "study", Plan(seeds=(0,), sides=(3, 9)))
    first, *_ = (study / "runs").glob("backdoored-*")
    (first / "rows.jsonl").unlink()
    assert "**Unfinished**: 1 of 2 attacks" in potency(study)


def test_no_study_no_page(tmp_path):
    with pytest.raises(StoreError, match="holds no study"):
        write_potency(tmp_path, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()
