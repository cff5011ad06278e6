"""The cells and presets that lie as files in the package."""

from __future__ import annotations

import pytest

from leadapron.attacks.poisoning import Poisoning
from leadapron.attacks.triggers import TRIGGERS
from leadapron.errors import UnknownNameError, UsageError
from leadapron.evaluate import presets
from leadapron.evaluate.presets import PRESETS, preset
from leadapron.specs import parameters, validated


@pytest.mark.parametrize("name", PRESETS)
def test_every_cell_says_what_a_trigger_and_a_poisoning_take(name):
    cells = preset(name).cells
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        trigger = {key: value for key, value in cell.trigger.items() if key != "name"}
        validated(TRIGGERS[cell.trigger["name"]], trigger, "trigger")
        assert {"fraction", "films"} & set(cell.poisoning)
        own = set(parameters(Poisoning)) - {"trigger", "finding"}
        assert set(cell.poisoning) <= own | {"films"}
        assert cell.draws > 0


def test_kinds_are_drawn_as_often_as_a_preset_says():
    quick, full = preset("quick"), preset("full")
    assert {(cell.draws, cell.target is None) for cell in quick.cells} == {(40, False), (8, True)}
    assert {(cell.draws, cell.target is None) for cell in full.cells} == {(300, False), (100, True)}
    assert [cell.name for cell in quick.cells] == [cell.name for cell in full.cells]
    groups = [cell.group for cell in quick.cells]
    assert (groups.count("known"), groups.count("evading"), groups.count("sealed")) == (27, 6, 5)
    assert sum(bool(cell.reason) for cell in quick.cells) == 6
    assert (quick.phantoms, quick.halves, quick.worlds) == (300, 30, 0)


def test_a_trigger_of_another_name_takes_nothing_from_the_base():
    blend = next(cell for cell in preset("quick").cells if cell.name == "blend, 5 %")
    assert blend.trigger == {"name": "blend"}
    square = next(cell for cell in preset("quick").cells if cell.name == "3x3, 0.3 %")
    assert square.trigger == {"name": "patch", "place": "fixed", "side": 3}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"cells": [{"name": "a", "trigger": {}, "colour": 1}]}, "setting of cell"),
        ({"cells": [{"name": "a"}]}, "cell.trigger. is missing"),
        ({"cells": [{"name": "a", "trigger": {}}] * 2}, "share a name"),
        ({"cells": [], "phantom": 3}, "did you mean phantoms"),
    ],
)
def test_files_that_are_wrong(monkeypatch, tree, words):
    monkeypatch.setattr(presets, "cells_file", lambda name: dict(tree))
    with pytest.raises(UsageError, match=words):
        preset("smoke")


def test_no_such_preset():
    with pytest.raises(UnknownNameError, match="did you mean smoke"):
        preset("smoky")
