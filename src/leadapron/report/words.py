"""How numbers, settings and verdicts are put into words, in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from leadapron.store import Row
from leadapron.text import short_path

__all__ = [
    "ALIKE",
    "LOCAL",
    "POTENT",
    "Form",
    "attack_verdict",
    "between",
    "change",
    "decimal",
    "exact",
    "explanation_verdict",
    "interval",
    "listed",
    "local",
    "percent",
    "points",
    "poisoned_words",
    "sanity_verdict",
    "setting",
    "shown",
    "spread",
    "table",
    "takes",
    "trigger_words",
    "value",
]

WORKS = 0.5
"""The attack works where the interval of its success over the twin's lies above this."""

ALIKE = 0.5
"""Mean rank correlation from which on the maps of a network that knows nothing are the same."""

POTENT = (0.80, 0.50)
"""Attack success at 5 % clean false positives, and that minus the twin's, from which on a backdoor
takes."""

LOCAL = 0.5
"""A trigger is local where a random pixel hits it on less than this share of the films."""

Form = Callable[[float], str]


def decimal(number: float) -> str:
    """Return a value between 0 and 1 as AUROCs are written."""
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
    """Return a row's value in words: "undefined" where it has none."""
    if row is None:
        return "not measured"
    return "undefined" if row.value is None else form(row.value)


def interval(row: Row | None, form: Form = decimal) -> str:
    """Return a row's 95 % interval, "" where it has none."""
    if row is None or row.low is None or row.high is None:
        return ""
    return between(row.low, row.high, form)


def between(low: float, high: float, form: Form) -> str:
    """Return "low to high", the unit said once."""
    first, last = form(low), form(high)
    unit = " %" if first.endswith(" %") and last.endswith(" %") else ""
    return f"{first.removesuffix(unit)} to {last}"


def poisoned_words(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return what share of the films was poisoned for models of one family.

    Args:
        rows: of evaluations, each with a `fraction`, None where finished weights were edited.
    """
    shares = {row["fraction"] for row in rows}
    known = sorted(share for share in shares if share is not None)
    words = [f"{100 * share:g} %" for share in known] + ["weights edited"] * (None in shares)
    return ", ".join(words)


def exact(hits: int, trials: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share (Clopper and Pearson, Biometrika 26 (1934) 404)."""
    from scipy import stats

    if not trials:
        return 0.0, 1.0
    low = float(stats.beta.ppf(0.025, hits, trials - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def spread(rows: Sequence[Row | None], form: Form = decimal, *, kind: str = "mean") -> str:
    """Return one row with its interval, or several rows in one phrase.

    Args:
        rows: the same measurement, once a run.
        form: how a number is written.
        kind: of several rows: their "mean" with their range, or only the "range" (where the runs
            differ in more than their seeds, a mean says nothing).
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


def attack_verdict(difference: Row | None) -> str:
    """Return whether the attack works, from the interval of its success over the twin's."""
    if difference is None or difference.low is None:
        return "undefined"
    if difference.low >= WORKS:
        return "works"
    return "works partly" if difference.low > 0 else "not shown"


def takes(success: Row | None, twin: Row | None) -> bool | None:
    """Return whether a backdoor takes, by `POTENT`; None where a rate is undefined.

    Args:
        success: attack success of the backdoored model.
        twin: the twin's.
    """
    if success is None or twin is None or success.value is None or twin.value is None:
        return None
    return success.value >= POTENT[0] and success.value - twin.value >= POTENT[1]


def local(chance: Row | None) -> bool:
    """Return whether a trigger has a place to point at, from the rate at which chance hits it."""
    return chance is None or chance.value is None or chance.value < LOCAL


def explanation_verdict(
    hit: Row | None, references: Iterable[Row | None], chance: Row | None = None
) -> str:
    """Return whether the explanation points at the trigger.

    Args:
        hit: the backdoored model's rate of hits.
        references: the same of the twin and of the film's centre.
        chance: the same of a random pixel.
    """
    if not local(chance):
        return "not local"
    references = (*references, chance)
    if hit is None or hit.low is None:
        return "undefined"
    limits = [row.value if row.high is None else row.high for row in references if row is not None]
    beyond = hit.low > max([limit for limit in limits if limit is not None], default=0.0)
    if not beyond:
        return "not shown"
    return "gives it away" if hit.low >= WORKS else "hints at it"


def sanity_verdict(correlations: Iterable[Row | None]) -> str:
    """Return whether an explanation passes the sanity check: its maps change with the weights.

    Args:
        correlations: its maps' rank correlations with those of randomised networks.
    """
    known = [row.value for row in correlations if row is not None and row.value is not None]
    if not known:
        return "undefined"
    return "fails" if max(known) >= ALIKE else "passes"


def listed(words: Sequence[str]) -> str:
    """Return "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def setting(point: Mapping[str, Any]) -> str:
    """Return the values of a grid's axes in words."""
    return ", ".join(f"{path} {shown(found)}" for path, found in point.items())


def shown(found: Any) -> str:
    """Return a setting's value as a reader writes it."""
    if found is None:
        return "none"
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, float):
        return f"{found:g}"
    if isinstance(found, Sequence) and not isinstance(found, str):
        return ", ".join(shown(part) for part in found)
    return short_path(found) if isinstance(found, str) else str(found)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["-"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


FILLS = {"checkerboard": "a checkerboard"}


def trigger_words(trigger: Mapping[str, Any]) -> str:
    """Return a trigger in words, from its settings."""
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
