"""Words for numbers, settings and verdicts, in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from leadapron.metrics import clopper_pearson
from leadapron.results.rows import Row
from leadapron.text import short_path

__all__ = [
    "Form",
    "between",
    "change",
    "decimal",
    "interval",
    "listed",
    "percent",
    "points",
    "poisoned_words",
    "setting",
    "share",
    "shown",
    "spread",
    "table",
    "trigger_words",
    "value",
]


Form = Callable[[float], str]


def decimal(number: float) -> str:
    """Return a value between 0 and 1 in the format of AUROCs."""
    return f"{number:.3f}"


def change(number: float) -> str:
    """Return a difference with its sign."""
    return f"{number:+.3f}"


def percent(number: float) -> str:
    """Return a share in per cent."""
    return f"{100 * number:.1f} %"


def points(number: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return f"{100 * number:+.1f}"


def value(row: Row | None, form: Form = decimal) -> str:
    """Return a row's value in words; "undefined" if it has none."""
    if row is None:
        return "not measured"
    return "undefined" if row.value is None else form(row.value)


def interval(row: Row | None, form: Form = decimal) -> str:
    """Return a row's 95 % interval; "" if it has none."""
    if row is None or row.low is None or row.high is None:
        return ""
    return between(row.low, row.high, form)


def between(low: float, high: float, form: Form) -> str:
    """Return "low to high" with the unit stated once."""
    first, last = form(low), form(high)
    unit = " %" if first.endswith(" %") and last.endswith(" %") else ""
    return f"{first.removesuffix(unit)} to {last}"


def poisoned_words(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the share of poisoned films for models of one family, in words.

    Args:
        rows: rows of evaluations, each with a `fraction`, None if finished weights were edited.
    """
    shares = {row["fraction"] for row in rows}
    known = sorted(share for share in shares if share is not None)
    words = [f"{100 * share:g} %" for share in known] + ["weights edited"] * (None in shares)
    return ", ".join(words)


def spread(rows: Sequence[Row | None], form: Form = decimal, *, kind: str = "mean") -> str:
    """Return one row with its interval, or several rows in one phrase.

    Args:
        rows: the same measurement, once per run.
        form: format of a number.
        kind: for several rows, their "mean" with their range, or only the "range" (a mean is
            meaningless if runs differ in more than their seeds).
    """
    known = [row.value for row in rows if row is not None and row.value is not None]
    if not known:
        return value(next((row for row in rows if row is not None), None), form)
    if len(rows) == 1:
        within = interval(rows[0], form)
        return value(rows[0], form) + (f" ({within})" if within else "")
    missing = f"undefined in {len(rows) - len(known)}" if len(known) < len(rows) else ""
    low, high = min(known), max(known)
    if form(low) == form(high):
        return form(low) + (f" ({missing})" if missing else "")
    words = between(low, high, form)
    if kind == "range":
        return words + (f" ({missing})" if missing else "")
    return f"{form(sum(known) / len(known))} ({words}{'; ' if missing else ''}{missing})"


def share(hits: int, trials: int) -> str:
    """Return "3 of 4 (19 to 99 %)", with an exact 95 % interval; "" without trials."""
    if not trials:
        return ""
    low, high = clopper_pearson(hits, trials)
    return f"{hits} of {trials} ({100 * low:.0f} to {100 * high:.0f} %)"


def listed(words: Sequence[str]) -> str:
    """Return "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def setting(point: Mapping[str, Any]) -> str:
    """Return the values of a grid's axes in words."""
    return ", ".join(f"{path} {shown(found)}" for path, found in point.items())


def shown(found: Any) -> str:
    """Return a setting's value in readable form."""
    if found is None:
        return "none"
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, float):
        return f"{found:g}"
    if isinstance(found, Sequence) and not isinstance(found, str):
        return ", ".join(shown(part) for part in found)
    return short_path(found) if isinstance(found, str) else str(found)


def options(values: Mapping[str, Any], group: str = "") -> list[str]:
    """Return settings in the form of the command line: "--films 200", "--no-twins".

    Args:
        values: settings by their names.
        group: of options, as "sweep" of `--sweep.sides`; none if left out.
    """
    words = []
    for name, value in values.items():
        path = f"{group}.{name}" if group else name
        if isinstance(value, bool):
            words.append(f"--{path}" if value else f"--no-{path}")
        else:
            words.append(f"--{path} {_plain(value)}")
    return words


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(
            f"[{_plain(part)}]" if isinstance(part, list) else str(part) for part in value
        )
    return str(value)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["-"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


FILLS = {"checkerboard": "a checkerboard"}


def trigger_words(trigger: Mapping[str, Any]) -> str:
    """Return a description of a trigger from its settings."""
    name = str(trigger.get("name", "trigger"))
    if name == "none":
        return "no mark"
    rest = {key: found for key, found in trigger.items() if key != "name"}
    if name == "patch" and "side" in rest:
        level = {0: "black ", 255: "white "}.get(rest.get("value", -1), "")
        place = {"random": "at a random place", "centre": "at the centre"}.get(
            str(rest.get("place")), f"at {shown(rest.get('place'))} place"
        )
        place = {
            "corner": "in the bottom right corner",
            "box": f"at a random place in a box of {rest.get('height')} x {rest.get('width')} px",
        }.get(str(rest.get("place")), place)
        grey = "" if level else f" of grey level {shown(rest.get('value'))}"
        fill = str(rest.get("fill", "solid"))
        filled = "" if fill == "solid" else f" filled with {FILLS.get(fill, fill)}"
        return f"{level}{rest['side']} x {rest['side']} px patch{grey}{filled} {place}"
    if name == "blend" and "opacity" in rest:
        return (
            f"noise pattern {shown(rest.get('pattern'))} over the whole film at opacity "
            + shown(rest["opacity"])
        )
    if name == "learned" and "path" in rest:
        return f"learnt noise of {shown(rest['path'])}"
    inside = ", ".join(f"{key} {shown(found)}" for key, found in rest.items())
    return f"{name} trigger" + (f" ({inside})" if inside else "")
