"""A new gate beside the one that it is to replace, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from leadapron.detect.inputs.comparison import CalledFilms, ClinicThresholds, GateComparison
from leadapron.text import count

__all__ = ["comparison_lines"]


def comparison_lines(made: GateComparison) -> list[str]:
    """Return two gates side by side, for the terminal, line by line.

    Args:
        made: the comparison.
    """
    old, new = made.old, made.new
    rows = [("", "old", "new")]
    for before, after in zip_longest(old.thresholds, new.thresholds):
        named = before or after
        which = f", {named.clinic}" if len(old.thresholds) > 1 else ""
        rows += [
            (f"suspicious above{which}", *_pair(before, after, "suspicious")),
            *_strata(before, after),
            (f"can't tell above{which}", *_pair(before, after, "cant_tell")),
        ]
    levels = [{each.score: each for each in gate.scores} for gate in (old, new)]
    for score in dict.fromkeys([*levels[0], *levels[1]]):
        first, second = (each.get(score) for each in levels)
        rows += [
            (f"{score}, median", *_pair(first, second, "median")),
            (f"{score}, 95th percentile", *_pair(first, second, "high")),
        ]
    for films in made.films:
        group = f"{films.kind} {films.name}".strip()
        rows += [
            (f"{group}, {films.films:,}: suspicious", *_share(films, "suspicious")),
            (f"{group}, {films.films:,}: can't tell", *_share(films, "cant_tell")),
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    said = [f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]
    n = made.films[0].films
    words = (
        f"Beside {old.gate} ({100 * old.false_alarm:g} %, now {100 * new.false_alarm:g} %); scores "
        f"on each gate's own calibration films, verdicts on the {count(n, 'film')} that set the "
        "new threshold, each judged by other patients' films:"
    )
    if made.held:
        said.append(
            f"{made.held:,} of these films are the old gate's own, so its counts are too low."
        )
    return [words, *said]


def _pair(old: object, new: object, name: str) -> tuple[str, str]:
    """A number of both gates; "-" where a gate has none."""
    values = [getattr(each, name, None) for each in (old, new)]
    first, second = ("-" if value is None else f"{value:.3f}" for value in values)
    return first, second


def _strata(
    old: ClinicThresholds | None, new: ClinicThresholds | None
) -> Iterator[tuple[str, str, str]]:
    """The thresholds of each reading that one of the gates has."""
    sides = [{each.name: each for each in gate.strata} if gate else {} for gate in (old, new)]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        first, second = (side.get(name) for side in sides)
        yield (f"  where it reads {name}", *_pair(first, second, "threshold"))


def _share(films: CalledFilms, name: str) -> tuple[str, str]:
    """Number and share of films that both gates call so."""
    numbers = [getattr(each, name) for each in (films.old, films.new)]
    first, second = (f"{n:,} ({100 * n / films.films:.1f} %)" for n in numbers)
    return first, second
