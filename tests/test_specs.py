"""From plain values to dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import Patch
from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.jobs.scan import scan
from leadapron.models.foreign import open_model
from leadapron.report import write_report
from leadapron.sources import open_source
from leadapron.specs import build, first_difference, forgiving, grid, grids, merge, parameters
from leadapron.study.run import run_study


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
        ({"side": "x"}, UsageError, "`toy.side` x: "),
        ({"side": 1.5}, UsageError, r"`toy\.side` 1\.5: "),
        ({"side": 1, "place": "no"}, UsageError, "'here' or 'there'"),
        ({}, UsageError, "`toy.side` is missing"),
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


def test_text_and_paths_stand_for_each_other_and_for_nothing_else():
    @forgiving
    def call(
        source: str,
        out: Path | None = None,
        *,
        patch: Patch | None = None,
        names: Sequence[str] = (),
        either: str | Path = "",
        kind: Literal["a", "b"] = "a",
        missing: OnlyForTheTypeChecker = "c",  # noqa: F821
        **options: Any,
    ):
        """What it does."""
        return source, out, patch, names, either, kind, missing, options

    assert call(Path("nih:x"), "out", either=Path("e"), kind="b", count="3") == (
        "nih:x", Path("out"), None, (), Path("e"), "b", "c", {"count": "3"},
    )  # fmt: skip
    assert call("x", Path("out"), patch=Patch(), names=["a"])[1:4] == (Path("out"), Patch(), ["a"])
    assert call.__doc__ == "What it does."
    for given, words in (
        ({"patch": "patch"}, "call: patch is the text 'patch'; expected Patch"),
        ({"names": "Mass"}, r"call: names is the text 'Mass'; expected Sequence\[str\]"),
    ):
        with pytest.raises(UsageError, match=words):
            call("x", **given)


def test_the_functions_that_people_call_are_forgiving(tmp_path):
    with pytest.raises(UsageError, match="expected a trigger, as Patch"):
        Poisoning(trigger="patch", finding="Mass")
    with pytest.raises(UsageError, match="preprocessing is the text '64'; expected Preprocessing"):
        open_source("phantom:32", preprocessing="64")
    with pytest.raises(UsageError, match="poisoning is the text 'patch'; expected Poisoning or"):
        poison(None, "patch", np.random.default_rng(0))
    with pytest.raises(UsageError, match="findings is the text 'Mass'; expected Sequence"):
        open_model("x.pt", "Mass")
    with pytest.raises(UsageError, match=r"is the text .*; expected Mapping"):
        run_study("spec.yaml", "out")
    with pytest.raises(StoreError, match=f"{tmp_path} holds no study"):
        write_report(str(tmp_path))
    found = scan(Path("phantom:32"), count=60, out=str(tmp_path / "scan"))
    assert (tmp_path / "scan" / "scan.json").is_file()
    assert found.source == "phantom:32"


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b is 1, not 2"),
        ({"a": [{"b": 1}, {"b": 3}]}, {"a": [{"b": 1}, {"b": 4}]}, "a.1.b is 3, not 4"),
        ({"a": [1]}, {"a": [1, 2]}, "a is [1], not [1, 2]"),
        ({"a": 1}, {"a": 1, "b": "x"}, "b is None, not 'x'"),
        (None, {"a": 1}, "it is None, not {'a': 1}"),
    ],
)
def test_the_first_difference_of_two_trees_is_named(there, here, words):
    assert first_difference(there, here) == words


def test_a_difference_stays_one_short_line():
    words = first_difference({"cells": list(range(1000))}, {"cells": list(range(1001))})
    assert len(words) < 160
