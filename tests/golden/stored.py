"""Golden values as files: read, written, and compared within what processors differ by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["FOLDER", "Tolerance", "differences", "read", "tolerance", "write"]

FOLDER = Path(__file__).parent

DIGITS = 7
"""Of a number in a file: more than any tolerance asks for."""


class Tolerance(NamedTuple):
    """What a value may differ by.

    Args:
        relative: of a number with a fraction, as a share of the largest one in its list: rounding
            is relative to the terms of a sum, not to what is left of them.
        count: of a whole number.
    """

    relative: float
    count: int = 0


# Measured with torch, oneDNN, OpenBLAS and numpy held to AVX-512, to AVX2 and to SSE4, on 1 and 2
# threads. Numbers of networks that nothing trained differed by less than 1e-4 on AVX2, and on SSE4,
# which rounds every product, by 1e-4 mostly and by 3e-3 where a quantile falls between two films.
# What is computed without a network differed by 2e-7 at most.
TOLERANCES: dict[tuple[str, ...], Tolerance] = {
    (): Tolerance(1e-3),
    ("inputs",): Tolerance(5e-3),
    ("inputs", "p"): Tolerance(0.02),  # one of 74 clean films that swaps places with this one
    ("scans",): Tolerance(1e-4),
    # Adam's first steps go by the gradients' signs: up to 3e-3 of the largest logit, but of the
    # losses, which are means over films, 3e-4.
    ("training",): Tolerance(0.01),
    ("training", "loss"): Tolerance(1e-3),
    ("training", "validation loss"): Tolerance(1e-3),
    # Where rounding to grey levels is a tie, a pixel moves by one.
    ("triggers",): Tolerance(0, count=6),
    ("rows", "losses"): Tolerance(2e-4),
    # Two films that swap places move the AUROC of a finding with one positive film by 1/39.
    ("rows", "rows"): Tolerance(0.03),
    # One of 20 films whose map peaks elsewhere.
    ("rows", "explanation"): Tolerance(0.1, count=1),
}
"""By the first names of a value's path; the longest that fits holds."""


def tolerance(path: tuple[str, ...]) -> Tolerance:
    """Return what the value at a path, subject first, may differ by."""
    fitting = [start for start in TOLERANCES if path[: len(start)] == start]
    return TOLERANCES[max(fitting, key=len)]


def read(subject: str) -> dict[str, Any] | None:
    """Return {"results_version": int, "values": dict} of a subject; None where it has no file."""
    path = FOLDER / f"{subject}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def write(subject: str, version: int, values: dict[str, Any]) -> None:
    """Write a subject's values, a line for each dictionary without dictionaries."""
    text = _lines({"results_version": version, "values": _rounded(values)})
    (FOLDER / f"{subject}.json").write_text(text + "\n")


def differences(path: tuple[str, ...], stored: Any, found: Any, scale: float = 0) -> Iterator[str]:
    """Yield a line for each value that differs from the stored one.

    Args:
        path: of the value, its subject first.
        stored: as `read` gives it.
        found: as computed; tuples and numpy's numbers don't occur in it.
        scale: the largest size of a number that it stands beside.
    """
    where = "/".join(path)
    if isinstance(stored, dict) and isinstance(found, dict):
        for name in stored.keys() | found.keys():
            if name not in found:
                yield f"{where}/{name}: missing"
            elif name not in stored:
                yield f"{where}/{name}: new"
            else:
                yield from differences((*path, name), stored[name], found[name])
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        largest = max((abs(each) for each in stored if isinstance(each, float)), default=0.0)
        for number, (one, other) in enumerate(zip(stored, found, strict=True)):
            yield from differences((*path, str(number)), one, other, largest)
    elif type(stored) is not type(found) or not _near(stored, found, scale, tolerance(path)):
        yield f"{where}: {found!r}; expected {stored!r}"


def _near(stored: Any, found: Any, scale: float, allowed: Tolerance) -> bool:
    if isinstance(stored, float):
        most = allowed.relative * max(scale, abs(stored)) + 10.0**-DIGITS
        return abs(found - stored) <= most
    if isinstance(stored, int) and not isinstance(stored, bool):
        return abs(found - stored) <= allowed.count
    return bool(stored == found)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _lines(value: Any, indent: str = "") -> str:
    if not isinstance(value, dict) or not any(isinstance(v, dict) for v in value.values()):
        return json.dumps(value, allow_nan=False)
    inner = ",\n".join(
        f"{indent} {json.dumps(name)}: {_lines(each, indent + ' ')}" for name, each in value.items()
    )
    return f"{{\n{inner}\n{indent}}}"
