"""Rows: the long table of measured values that every report is made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from leadapron.errors import StoreError
from leadapron.store import SCHEMA, read_lines, write_lines
from leadapron.text import printable

__all__ = ["Row", "read_rows", "write_rows"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured value, in the long table that every report is made from.

    Args:
        run: key of the run whose settings apply; `spec.json` there holds them.
        role: the model measured: "twin", "backdoored", or "difference" (backdoored - twin).
        regime: "clean" (clean films, clean labels), "triggered" (triggered films, the target as
            the only label), "triggered-clean-labels", "mixed" (a share of the films triggered), or
            "" where it does not apply.
        stage: what is measured: "training", "prediction", "attack", "explanation".
        method: the explanation or the averaging ("micro", "macro") where there is one.
        metric: "auroc", "separation", "attack success", "pointing hit", ...
        target: the attacker's finding.
        finding: the finding measured; "" for all together.
        at: the threshold, tolerance or share in words, where there is one.
        value, low, high: estimate and 95 % interval; None where undefined.
        n: number of films; positives: how many of them are positive, or for a macro value how
            many findings it averages.
    """

    run: str
    role: str
    regime: str = ""
    stage: str
    method: str = ""
    metric: str
    target: str = ""
    finding: str = ""
    at: str = ""
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    positives: int | None = None


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write result rows, schema 1; values that aren't finite become null (undefined)."""
    write_lines(path, ({"schema": SCHEMA, **_finite(row)} for row in rows))


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, their text fit to be shown; StoreError where it holds others."""
    names = {field.name for field in fields(Row)}
    rows = []
    for record in read_lines(path):
        if record.pop("schema", None) != SCHEMA or set(record) != names:
            raise StoreError(f"{path} is not of schema {SCHEMA}; it was made by another version")
        for name, value in record.items():
            _refuse_type(path, name, value)
            if isinstance(value, str):
                record[name] = printable(value)
        rows.append(Row(**record))
    return rows


def _refuse_type(path: Path, name: str, value: Any) -> None:
    """Raise StoreError where a row's field holds what `write_rows` never writes there."""
    kinds: tuple[type, ...] = (str,)
    if name in ("value", "low", "high"):
        kinds = (float, int, type(None))
    elif name in ("n", "positives"):
        kinds = (int,) if name == "n" else (int, type(None))
    number = isinstance(value, int | float)
    if type(value) not in kinds or (number and not -(2.0**63) <= value <= 2.0**63):
        raise StoreError(f"{path} holds {name} {str(value)[:40]!r}; it was not made by leadapron")


def _finite(row: Row) -> Mapping[str, str | float | int | None]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(row).items()
    }
