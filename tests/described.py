"""Whether a document's schema describes what was dumped, down to the last name."""

from __future__ import annotations

from typing import Any

from leadapron.documents import schema


def assert_described(kind: type, facts: dict[str, Any]) -> None:
    """Every name is one of the schema's, none that is required is missing, all levels down."""
    whole = schema(kind)
    _check(whole, facts, whole["$defs"])


def _check(described: dict[str, Any], value: Any, known: dict[str, Any]) -> None:
    if "$ref" in described:
        described = known[described["$ref"].rpartition("/")[2]]
    objects = [
        each for each in described.get("anyOf", []) if "$ref" in each or "properties" in each
    ]
    if isinstance(value, dict) and objects:
        assert any(_holds(each, value, known) for each in objects), (value, objects)
    if isinstance(value, list) and isinstance(described.get("items"), dict):
        for each in value:
            _check(described["items"], each, known)
    if isinstance(value, dict) and "properties" in described:
        assert set(described.get("required", [])) <= set(value) <= set(described["properties"])
        for name, each in value.items():
            _check(described["properties"][name], each, known)


def _holds(described: dict[str, Any], value: Any, known: dict[str, Any]) -> bool:
    try:
        _check(described, value, known)
    except AssertionError:
        return False
    return True
