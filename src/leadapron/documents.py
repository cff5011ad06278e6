"""Documents: results as JSON on disk and in --json, dumped from dataclasses and read back.

A document is a frozen dataclass with `SCHEMA`, the version of its shape. Fields whose types JSON
lacks are annotated with the types of this module.
"""

from __future__ import annotations

import functools
import json
import math
import re
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from leadapron.errors import StoreError
from leadapron.text import short_path
from leadapron.types import Estimate

__all__ = [
    "Document",
    "Estimated",
    "Finite",
    "Floats",
    "Number",
    "Pixels",
    "ShownPath",
    "dump",
    "no_pixels",
    "parsed",
    "read",
    "schema",
]


class Document(Protocol):
    """A frozen dataclass whose values can be dumped.

    Attributes:
        SCHEMA: version of its shape; raise it when older documents can't be read any more.
    """

    SCHEMA: ClassVar[int]


D = TypeVar("D", bound=Document)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _lists(table: NDArray[Any]) -> list[Any]:
    plain = table.astype(object)
    plain[~np.isfinite(table)] = None
    lists: list[Any] = plain.tolist()
    return lists


def _estimate(facts: Any) -> Estimate:
    try:
        return facts if isinstance(facts, Estimate) else Estimate.parsed(facts)
    except (KeyError, TypeError) as error:
        raise ValueError("expected value, low, high, n and positives") from error


Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(_finite),
    WithJsonSchema({"type": ["number", "null"], "description": "null where it is undefined"}),
]
"""A number that may be NaN, which is null in JSON."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A finite number of an untrusted document, which excludes JSON's 1e999."""

Floats = Annotated[
    NDArray[np.float64],
    PlainValidator(lambda lists: np.array(lists, np.float64)),
    PlainSerializer(_lists),
    WithJsonSchema({
        "type": "array",
        "description": "numbers, a list within a list for each axis; null where one is undefined",
    }),
]  # fmt: skip
"""An array of numbers of any shape, with null for those that aren't finite."""

_ESTIMATE = {
    name: {"type": ["number", "null"]} if name in ("value", "low", "high") else {"type": "integer"}
    for name in Estimate._fields
}

Estimated = Annotated[
    Estimate,
    PlainValidator(_estimate),
    PlainSerializer(Estimate.plain),
    WithJsonSchema({
        "type": "object",
        "properties": _ESTIMATE,
        "required": list(_ESTIMATE),
        "description": "null where it is undefined",
    }),
]  # fmt: skip
"""An estimate as a mapping by name."""

Pixels = Annotated[
    NDArray[Any],
    PlainValidator(np.asarray),
    PlainSerializer(_lists),
    Field(exclude=True),
    WithJsonSchema({"type": "array"}),
]
"""An image. Documents hold none, so it is `no_pixels` after reading back."""

ShownPath = Annotated[str, PlainSerializer(short_path)]
"""A path, or a source with a path, dumped in its short form."""


def no_pixels() -> NDArray[Any]:
    """Return (0, 0) uint8, in place of an unknown image."""
    return np.empty((0, 0), np.uint8)


@functools.cache
def _adapter(kind: type[D]) -> pydantic.TypeAdapter[D]:
    return pydantic.TypeAdapter(kind)


def dump(document: Document) -> dict[str, Any]:
    """Return a document as plain JSON values: its version as "schema", then its fields.

    Args:
        document: the document.
    """
    text = _adapter(type(document)).dump_json(document, warnings="error")
    return {"schema": document.SCHEMA, **json.loads(text)}


def read(kind: type[D], text: str | bytes, name: str = "the document") -> D:
    """Return a document from JSON, the reverse of `dump`.

    Args:
        kind: the document's class.
        text: JSON.
        name: its name in messages.

    Raises:
        StoreError: invalid JSON, another version, or values with wrong names or types.
    """
    try:
        values = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        words = "nested too deeply" if isinstance(error, RecursionError) else error
        raise StoreError(f"{name} is not JSON: {words}") from error
    version = values.get("schema") if isinstance(values, dict) else None
    if version != kind.SCHEMA:
        raise StoreError(
            f"{name} isn't a {_words(kind)} of schema {kind.SCHEMA}: it states {version!r}"
        )
    try:
        return parsed(kind, text)
    except ValueError as error:
        raise StoreError(f"{name}, {error}") from error


def _words(kind: type[Any]) -> str:
    """A class's name as words: "gate document"."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).lower()


def parsed(kind: type[D], text: str | bytes) -> D:
    """Return the document in JSON, ignoring its version.

    Args:
        kind: the document's class.
        text: JSON.

    Raises:
        ValueError: values with wrong names or types; the message states the place and the error.
    """
    try:
        document: D = _adapter(kind).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}") from error
    return document


def schema(kind: type[Document]) -> dict[str, Any]:
    """Return the JSON schema of the documents of a class."""
    made = _adapter(kind).json_schema(mode="serialization")
    properties = {"schema": {"const": kind.SCHEMA}, **made.pop("properties")}
    required = ["schema", *made.pop("required", [])]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "properties": properties,
        "required": required,
    }


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} isn't a number")
