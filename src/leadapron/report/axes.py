"""Attack success over the axes of a grid: a heat map of two axes, otherwise curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from leadapron.report import figures
from leadapron.report.words import percent, setting, shown
from leadapron.results.folder import leaves
from leadapron.results.measured import Measured
from leadapron.results.names import ROLES
from leadapron.store import canonical_json

__all__ = ["over_axes"]


class _Point(NamedTuple):
    """A run's values of the axes, and attack success by model."""

    values: Mapping[str, Any]
    success: Mapping[str, float]


def over_axes(measured: Sequence[Measured], axes: Sequence[str]) -> dict[str, Any] | None:
    """Return the drawing of a grid, None if there is nothing to draw.

    Args:
        measured: the runs.
        axes: the settings in which they differ, except seeds.

    Returns:
        `heat`, a table of shares if two axes are crossed; otherwise `curves`, one for each axis
        along which runs differ in nothing else, with `words`, the fixed settings.
    """
    points = [point for each in measured if (point := _point(each, axes)).success]
    if len(axes) == 2 and (heat := _heat(points, axes)) is not None:
        return {"heat": heat, "curves": []}
    curves = [curve for axis in axes if (curve := _curve(points, axis, axes)) is not None]
    return {"heat": None, "curves": curves} if curves else None


def _point(each: Measured, axes: Sequence[str]) -> _Point:
    flat = dict(leaves(each.pair.backdoored.spec))
    rows = {role: each.success(role) for role in ROLES}
    success: dict[str, float] = {
        role: row.value for role, row in rows.items() if row and row.value is not None
    }
    return _Point({axis: flat.get(axis) for axis in axes}, success)


def _ordered(values: Sequence[Any]) -> list[Any]:
    """The distinct values; numbers sorted, others in order of appearance."""
    once = {canonical_json(value): value for value in values}
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in once.values())
    return sorted(once.values()) if numbers else list(once.values())


def _heat(points: Sequence[_Point], axes: Sequence[str]) -> dict[str, Any] | None:
    """Mean success by the values of two axes; None if most combinations are missing."""
    down, across = axes
    rows, columns = (_ordered([p.values[axis] for p in points]) for axis in axes)
    if len(rows) < 2 or len(columns) < 2:
        return None
    if len(columns) > len(rows):  # a narrow page has more height than width
        down, across, rows, columns = across, down, columns, rows
    cells = [
        [_cell([p for p in points if p.values[down] == r and p.values[across] == c])
         for c in columns]
        for r in rows
    ]  # fmt: skip
    filled = sum(cell is not None for row in cells for cell in row)
    if 2 * filled < len(rows) * len(columns):
        return None
    lines = [(shown(row), line) for row, line in zip(rows, cells, strict=True)]
    return {"down": down, "across": across, "columns": list(map(shown, columns)), "rows": lines}


def _cell(points: Sequence[_Point]) -> tuple[float, str, str] | None:
    """A cell's shade in per cent, the backdoored models' mean and the twins'."""
    means = {}
    for role in ROLES:
        known = [point.success[role] for point in points if role in point.success]
        means[role] = sum(known) / len(known) if known else None
    if (own := means["backdoored"]) is None:
        return None
    twin = "" if means["twin"] is None else f"twin {percent(means['twin'])}"
    return round(85 * own, 1), percent(own), twin


def _curve(points: Sequence[_Point], axis: str, axes: Sequence[str]) -> dict[str, str] | None:
    """Success along one axis, at the values of the others with the most runs."""
    groups: dict[str, list[_Point]] = {}
    for point in points:
        others = {name: value for name, value in point.values.items() if name != axis}
        groups.setdefault(canonical_json(others), []).append(point)
    most = max(groups.values(), key=lambda some: len(_ordered([p.values[axis] for p in some])))
    if len(_ordered([p.values[axis] for p in most])) < 2:
        return None
    held = {name: value for name, value in most[0].values.items() if name != axis}
    drawn: dict[str, list[tuple[Any, float]]] = {
        role: [(_plain(p.values[axis]), p.success[role]) for p in most if role in p.success]
        for role in ROLES
    }
    svg = figures.success_over(drawn, axis, name=f"over-{axes.index(axis)}")
    return {"svg": svg, "words": f"{axis}{f', at {setting(held)}' if held else ''}"}


def _plain(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number else shown(value)
