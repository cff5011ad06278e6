"""Types of option values, in addition to click's own."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any, Literal

import click

from leadapron.errors import StoreError, UsageError

__all__ = [
    "Names",
    "Parts",
    "Setting",
    "Values",
    "Written",
    "comma_separated",
    "metavar",
    "whole_numbers",
]

LONGEST_NUMBER, MOST_NUMBERS = 10, 1000
"""Most digits of a number in `whole_numbers`, and most numbers that it returns."""


class Written(click.Path):
    """Path of a file or folder that is written; it may exist already.

    A device, a pipe or a socket is refused before any work is done.

    Args:
        kind: file or folder.
    """

    def __init__(self, kind: Literal["file", "folder"]) -> None:
        super().__init__(
            file_okay=kind == "file", dir_okay=kind == "folder", path_type=Path, resolve_path=False
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        from leadapron.store import refuse_odd

        path = Path(str(super().convert(value, param, ctx)))
        if not path.is_dir():
            try:
                refuse_odd(path)
            except StoreError as error:
                self.fail(str(error), param, ctx)
        return path


class Names(click.ParamType[Any]):
    """Names separated by commas.

    Args:
        example: an expected value, for the error message of an empty list.
        every: a word for all names, which gives an empty list; "" if there is none.
    """

    name = "names"

    def __init__(self, example: str = "", every: str = "") -> None:
        self.example, self.every = example, every

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a list."""
        if not isinstance(value, str):
            return value
        names = [] if value == self.every else comma_separated(value)
        if not names and value != self.every and self.example:
            option = param.opts[0] if param else ""
            raise click.UsageError(f"{option} holds no name; expected {self.example}", ctx)
        return names


class Setting(click.ParamType[Any]):
    """A value of a spec, or several separated by commas: an axis of the grid."""

    name = "value"

    def __init__(self, annotation: Any) -> None:
        self.text = annotation is str or typing.get_origin(annotation) is Literal

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value parsed as YAML; text stays unchanged."""
        if not isinstance(value, str):
            return value
        name = (param.name or "") if param is not None else ""
        # Paths, expressions and lists of columns hold commas; they aren't axes of a study.
        whole = name in ("network__weights", "trigger__path") or (
            self.text and name[:8] == "source__"
        )
        parts = [value] if whole else value.strip("[]").split(",")
        from leadapron.store import parse_yaml

        if not self.text and not all(part.strip() for part in parts):
            self.fail(f"{value[:80]!r} can't be read as a value", param, ctx)
        try:
            values = [p.strip() if self.text else parse_yaml(p) for p in parts]
        except ValueError:
            self.fail(f"{value[:80]!r} can't be read as a value", param, ctx)
        return values if len(values) > 1 else values[0]


class Parts(click.ParamType[Any]):
    """A shard of the tasks, as INDEX/COUNT."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the shard."""
        from leadapron.study.shards import Shard

        if not isinstance(value, str):
            return value
        try:
            return Shard.parsed(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


def metavar(annotation: Any) -> str:
    """Return the placeholder for a value of a type in the help."""
    if typing.get_origin(annotation) is Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    return {int: "N", float: "X", bool: "true|false"}.get(annotation, "TEXT")


class Values(click.ParamType[Any]):
    """Several numbers, or lists of numbers, separated by commas, as YAML.

    Args:
        form: the expected form, as "N,N,...", "X,X,..." or "[N,N],...".
    """

    name = "values"

    def __init__(self, form: str) -> None:
        self.form = form

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a list."""
        from leadapron.store import parse_yaml

        try:
            values = parse_yaml(f"[{value}]")
        except ValueError:
            values = None
        if not isinstance(values, list):  # as of "1]: [2"
            values = [None]
        kinds: dict[str, tuple[type, ...]] = {"[": (list,), "X": (int, float)}
        if not all(type(each) in kinds.get(self.form[0], (int,)) for each in values):
            self.fail(f"{value!r}; expected {self.form}", param, ctx)
        return values


def comma_separated(text: str) -> list[str]:
    """Return the words between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def whole_numbers(option: str, text: str) -> list[int]:
    """Return the whole numbers of a text such as "1-5,8"."""
    numbers: list[int] = []
    for part in comma_separated(text):
        first, _, last = part.partition("-")
        ends = [first, last or first]
        if not all(end.isascii() and end.isdecimal() and len(end) < LONGEST_NUMBER for end in ends):
            raise UsageError(f"{option} {text}: expected whole numbers, as 1-5,8")
        named = range(int(first), int(last or first) + 1)
        if len(numbers) + len(named) > MOST_NUMBERS:
            raise UsageError(f"{option} {text}: expected whole numbers, {MOST_NUMBERS} at most")
        numbers += named
    return numbers
