"""Parser of specs: plain values (a YAML file, options) to frozen dataclasses."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
import math
import os
import re
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, ParamSpec, TypeVar

import pydantic

from leadapron.errors import UnknownNameError, UsageError

__all__ = [
    "MOST_SEEDS",
    "Parameter",
    "build",
    "first_difference",
    "forgiving",
    "grid",
    "grids",
    "merge",
    "parameters",
    "united",
    "validated",
]

MOST_POINTS, MOST_SEEDS = 100_000, 10_000
"""Most combinations of a grid's lists, and most seeds of each."""

MOST_SHOWN = 60
"""Most characters of a setting in a message."""

T = TypeVar("T")
P = ParamSpec("P")

Tree = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A keyword parameter of a dataclass or function.

    Args:
        name: its name.
        annotation: its type.
        default: its default, or `REQUIRED`.
        description: its text in the docstring's "Args:".
    """

    name: str
    annotation: Any
    default: Any
    description: str


REQUIRED = inspect.Parameter.empty


def parameters(target: Callable[..., Any], *, positional: bool = False) -> dict[str, Parameter]:
    """Return the keyword-only parameters of a dataclass or function, by name, in order.

    Args:
        target: the dataclass or function.
        positional: whether to include positional parameters.
    """
    # A dataclass's `__init__` would resolve the types of its bases in the wrong module.
    own = inspect.isfunction(target) or dataclasses.is_dataclass(target)
    hints = typing.get_type_hints(target if own else target.__init__)
    described = _described(inspect.getdoc(target) or "")
    return {
        name: Parameter(name, hints[name], parameter.default, described.get(name, ""))
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
        or (positional and parameter.kind is parameter.POSITIONAL_OR_KEYWORD)
    }


def united(kinds: Mapping[str, Callable[..., Any]]) -> dict[str, Parameter]:
    """Return the combined keyword-only parameters of several dataclasses or functions, by name.

    Args:
        kinds: each with its name, which is shown if their descriptions of a parameter differ.
    """
    takers: dict[str, dict[Parameter, list[str]]] = {}
    for kind, target in kinds.items():
        for parameter in parameters(target).values():
            takers.setdefault(parameter.name, {}).setdefault(parameter, []).append(kind)
    return {name: _merged(alike) for name, alike in takers.items()}


def _merged(takers: Mapping[Parameter, Sequence[str]]) -> Parameter:
    """One parameter that merges those with the same name, each with the kinds that have it."""
    first, *others = takers
    if not others:
        return first
    words = [f"{', '.join(kinds)}: {each.description}" for each, kinds in takers.items()]
    same = all(each.annotation == first.annotation for each in others)
    return dataclasses.replace(
        first, annotation=first.annotation if same else str, description=" ".join(words)
    )


def validated(
    target: Callable[..., Any], values: Tree, section: str, *, elsewhere: Collection[str] = ()
) -> dict[str, Any]:
    """Return `values` converted to the types of `target`'s keyword parameters.

    Args:
        target: a dataclass or function.
        values: plain values by name.
        section: the user's name of this part, for messages ("trigger"); "" for plain options.
        elsewhere: parameters that aren't in `values`.

    Raises:
        UnknownNameError: a name that `target` doesn't have.
        UsageError: a missing value, or one of the wrong type.
    """
    known = {n: p for n, p in parameters(target).items() if n not in elsewhere}
    above = f"{section}." if section else ""
    result = {}
    for name, value in values.items():
        if name not in known:
            raise UnknownNameError(f"setting of {section}", str(name), known)
        try:
            adapter = pydantic.TypeAdapter(known[name].annotation)
            result[name] = adapter.validate_python(value)
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UsageError(f"`{above}{name}` {value}: {reason[0].lower()}{reason[1:]}") from None
        if isinstance(result[name], float) and not math.isfinite(result[name]):
            raise UsageError(f"`{above}{name}` {value}: expected a finite number")
    missing = [n for n, p in known.items() if p.default is REQUIRED and n not in result]
    if missing:
        raise UsageError(f"`{above}{missing[0]}` is missing")
    return result


def build(kind: Callable[..., T], values: Tree, section: str) -> T:
    """Return `kind(**values)` with the values validated; raises as `validated` does."""
    return kind(**validated(kind, values, section))


def merge(base: Tree, over: Tree) -> dict[str, Any]:
    """Return `base` updated with the values of `over`, section by section."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def forgiving(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function accept text in place of a path, and a path in place of text.

    If something else is expected, such as a `Poisoning` or several names, text raises a UsageError
    that names the expected type.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            if isinstance(value, str | os.PathLike) and kind is not inspect.Parameter.VAR_KEYWORD:
                words = signature.parameters[name].annotation
                # Names imported only for the type checker are literal types, such as a precision.
                with contextlib.suppress(NameError):
                    hint = eval(words, function.__globals__) if isinstance(words, str) else words  # noqa: S307
                    bound.arguments[name] = _fitting(value, hint, f"{function.__name__}: {name}")
        return function(*bound.args, **bound.kwargs)

    return call


def _fitting(value: str | os.PathLike[str], hint: Any, name: str) -> Any:
    """Text or a path, converted to the expected one of the two."""
    united = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [kind for kind in (typing.get_args(hint) if united else [hint]) if kind is not NoneType]
    if any(kind is Any or typing.get_origin(kind) is Literal for kind in kinds):
        return value
    if str in kinds:
        return value if Path in kinds else os.fspath(value)
    if Path in kinds:
        return Path(value)
    due = " or ".join(inspect.formatannotation(kind, "leadapron") for kind in kinds)
    due = re.sub(r"(?:\w+\.)+(?=\w)", "", due)
    raise UsageError(f"{name} is the text {os.fspath(value)!r}; expected {due}")


def grid(tree: Tree) -> Iterator[dict[str, Any]]:
    """Yield one tree for each combination of the lists in `tree`; a list is an axis.

    Raises:
        UsageError: a list without values, or too many combinations.
    """
    leaves = list(_leaves(tree))
    for path, value in leaves:
        if value == []:
            raise UsageError(f"{'.'.join(path)} is an empty list; expected a value, or several")
    axes = [value if isinstance(value, list) else [value] for _, value in leaves]
    if (points := math.prod(map(len, axes))) > MOST_POINTS:
        raise UsageError(f"{points:,} combinations of settings; expected at most {MOST_POINTS:,}")
    for path_values in itertools.product(*axes):
        point: dict[str, Any] = {}
        for (path, _), value in zip(leaves, path_values, strict=True):
            node = point
            for name in path[:-1]:
                node = node.setdefault(name, {})
            node[path[-1]] = value
        yield point


def grids(tree: Tree) -> list[dict[str, Any]]:
    """Return the trees of a tree with "cells": each cell merged into the rest.

    If a cell changes the name in a section, the section starts empty, since a patch's side doesn't
    apply to a blend.

    Raises:
        UsageError: "cells" isn't a list of trees.
    """
    cells = tree.get("cells", [{}])
    if not isinstance(cells, list) or not cells or not all(map(_is_cell, cells)):
        raise UsageError("cells: expected a list of settings, each merged into the others")
    base = {name: value for name, value in tree.items() if name != "cells"}
    return [merge(_less_renamed(base, cell), cell) for cell in cells]


def _is_cell(value: Any) -> bool:
    return isinstance(value, Mapping) and "cells" not in value


def _less_renamed(base: Tree, cell: Tree) -> dict[str, Any]:
    """`base` without the sections to which `cell` gives another name."""

    def renamed(name: str) -> bool:
        below, value = base[name], cell.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        return both and value.get("name", below.get("name")) != below.get("name")  # type: ignore[union-attr]

    return {name: value for name, value in base.items() if not renamed(name)}


def _leaves(tree: Tree, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _described(docstring: str) -> dict[str, str]:
    """The lines under "Args:" by name, joined."""
    _, _, arguments = docstring.partition("Args:\n")
    arguments = re.split(r"\n(?=\S)", arguments)[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", arguments, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).strip() for name, text in found}


def first_difference(there: Any, here: Any, path: str = "") -> str:
    """Return the first setting in which two trees of settings differ, in words.

    Args:
        there: plain values, as of YAML or JSON.
        here: the other ones.
        path: of both in a larger tree.

    Returns:
        "cells.4.trigger.side is 4, not 3", with both values shortened; "" for equal ones.
    """
    if there == here:
        return ""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        pairs = [(name, there.get(name), here.get(name)) for name in {**here, **there}]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(number, *both) for number, both in enumerate(zip(there, here, strict=True))]
    else:
        was, now = (textwrap.shorten(repr(each), MOST_SHOWN) for each in (there, here))
        return f"{path or 'it'} is {was}, not {now}"
    for name, first, second in pairs:
        if found := first_difference(first, second, f"{path}.{name}" if path else str(name)):
            return found
    return ""
