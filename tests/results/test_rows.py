"""Rows on disk."""

from __future__ import annotations

import json

import pytest

from leadapron.errors import StoreError
from leadapron.results.rows import Row, read_rows, write_rows


def test_rows_come_back_and_undefined_is_null(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        Row(run="a", role="twin", stage="attack", metric="auroc", value=0.5, low=0.4, high=0.6),
        Row(run="a", role="twin", stage="attack", metric="auroc", value=float("nan")),
    ]
    write_rows(path, rows)
    first, second = read_rows(path)
    assert first == rows[0]
    assert second.value is None
    assert '"value": null' in path.read_text()


def test_rows_of_another_schema_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"schema": 2}\n')
    with pytest.raises(StoreError, match="schema 1"):
        read_rows(path)


@pytest.mark.parametrize(
    ("field", "value"), [("n", "many"), ("value", 10**400), ("finding", 3), ("low", True)]
)
def test_rows_hold_what_rows_hold(tmp_path, field, value):
    write_rows(tmp_path / "rows.jsonl", [Row(run="a", role="twin", stage="attack",
                                                   metric="auroc", value=0.5)])  # fmt: skip
    record = {**json.loads((tmp_path / "rows.jsonl").read_text()), field: value}
    (tmp_path / "rows.jsonl").write_text(json.dumps(record))
    with pytest.raises(StoreError, match=f"rows.jsonl holds {field} .*not made by leadapron"):
        read_rows(tmp_path / "rows.jsonl")
