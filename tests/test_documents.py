"""Documents: dumped from dataclasses, read back, with a schema that holds for what was dumped."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

from leadapron.cli import cli
from leadapron.cli.schema import DOCUMENTS
from leadapron.documents import (
    Floats,
    Number,
    Pixels,
    ShownPath,
    dump,
    no_pixels,
    read,
    schema,
)
from leadapron.errors import StoreError


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    value: Number
    table: Floats
    image: Pixels = field(default_factory=no_pixels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Whole:
    SCHEMA: ClassVar[int] = 7

    path: ShownPath
    parts: tuple[Part, ...]
    most: float | None = None


WHOLE = Whole(
    path="/data/of/someone/film.png",
    parts=(
        Part(value=math.nan, table=np.array([[1.5, np.nan], [np.inf, -2]]), image=np.ones((2, 2))),
        Part(value=0.1, table=np.empty((0, 2))),
    ),
)


def test_what_was_dumped_is_read_back():
    facts = dump(WHOLE)
    first, second = facts["parts"]
    assert list(facts) == ["schema", "path", "parts", "most"]
    assert (facts["schema"], facts["path"], facts["most"]) == (7, "film.png", None)
    assert first == {"value": None, "table": [[1.5, None], [None, -2.0]]}
    assert second == {"value": 0.1, "table": []}
    again = read(Whole, json.dumps(facts, allow_nan=False))
    assert dump(again) == facts
    assert math.isnan(again.parts[0].value)
    assert again.parts[0].table.dtype == np.float64
    assert np.isnan(again.parts[0].table[1, 0])
    assert again.parts[0].image.size == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 8}, "isn't a whole of schema 7: it states 8"),
        ({"parts": [{"value": "x", "table": []}]}, r"parts\.0\.value: .*valid number"),
        ({"parts": [{"value": 1}]}, r"parts\.0\.table: Field required"),
    ],
)
def test_other_documents_are_refused_with_the_place(change, words):
    with pytest.raises(StoreError, match=words):
        read(Whole, json.dumps({**dump(WHOLE), **change}), "whole.json")


@pytest.mark.parametrize("text", ["{", "[1]", '{"schema": NaN}', "[" * 100_000])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(StoreError, match=r"whole\.json"):
        read(Whole, text, "whole.json")


def test_the_schema_names_what_is_dumped():
    made, facts = schema(Whole), dump(WHOLE)
    assert list(made["properties"]) == list(facts)
    assert made["properties"]["schema"] == {"const": 7}
    part = made["$defs"]["Part"]["properties"]
    assert list(part) == list(facts["parts"][0])
    assert part["value"]["type"] == ["number", "null"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_schemas_by_the_command_line(name):
    result = CliRunner().invoke(cli, ["schema", name], standalone_mode=False)
    made = json.loads(result.stdout)
    versions = {"audit": 4, "screen": 4, "repair": 3, "gate": 5, "calibrate": 4}
    assert made["properties"]["schema"] == {"const": versions.get(name, 1)}
    assert made["type"] == "object"
    assert set(made["required"]) <= set(made["properties"])
