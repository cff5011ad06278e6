"""From plain values to dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from leadapron.errors import UnknownNameError, UsageError
from leadapron.specs import build, grid, grids, merge, parameters


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A toy.

    Args:
        side: its side,
            in pixels.
        place: where.
        share: how much.

    Raises:
        Nothing: ever.
    """

    side: int
    place: Literal["here", "there"] = "here"
    share: float = 0.5


def test_parameters_carry_types_defaults_and_descriptions():
    known = parameters(Toy)
    assert list(known) == ["side", "place", "share"]
    assert known["side"].description == "its side, in pixels."
    assert known["share"].default == 0.5


def test_values_become_their_types():
    assert build(Toy, {"side": "3", "share": 1}, "toy") == Toy(side=3, share=1.0)


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ({"sides": 3}, UnknownNameError, "setting of toy 'sides'; did you mean side"),
        ({"side": "x"}, UsageError, "--toy.side x: "),
        ({"side": 1.5}, UsageError, r"--toy\.side 1\.5: "),
        ({"side": 1, "place": "no"}, UsageError, "'here' or 'there'"),
        ({}, UsageError, "--toy.side is missing"),
    ],
)
def test_values_that_do_not_fit(values, kind, words):
    with pytest.raises(kind, match=words):
        build(Toy, values, "toy")


def test_merging_goes_section_by_section():
    base = {"a": {"x": 1, "y": 2}, "b": 3}
    assert merge(base, {"a": {"y": 5}, "c": 4}) == {"a": {"x": 1, "y": 5}, "b": 3, "c": 4}
    assert base["a"]["y"] == 2


def test_a_cell_that_renames_a_section_starts_it_afresh():
    tree = {
        "trigger": {"name": "patch", "side": 3},
        "seed": 1,
        "cells": [
            {"trigger": {"name": "blend"}},
            {"trigger": {"name": "patch", "value": 0}},
            {"trigger": {"side": 5}},
            {},
        ],
    }
    assert [each["trigger"] for each in grids(tree)] == [
        {"name": "blend"},
        {"name": "patch", "side": 3, "value": 0},
        {"name": "patch", "side": 5},
        {"name": "patch", "side": 3},
    ]


def test_lists_are_axes():
    points = list(grid({"a": {"x": [1, 2], "y": 3}, "b": ["p", "q"]}))
    assert points == [
        {"a": {"x": x, "y": 3}, "b": b} for x in (1, 2) for b in ("p", "q")
    ]  # fmt: skip


def test_an_empty_axis_is_refused():
    with pytest.raises(UsageError, match=r"trigger\.side is an empty list"):
        list(grid({"seed": 0, "trigger": {"side": []}}))
