"""Description of a source, in the terminal and as one HTML page: numbers, never pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from leadapron.detect.films.description import (
    Counts,
    Description,
    Finding,
    Group,
    Range,
    Repeats,
    Together,
)
from leadapron.report.rendering import write_page
from leadapron.report.words import between, listed, percent
from leadapron.text import count, short_path
from leadapron.types import Estimate

__all__ = ["description_lines", "write_description"]

NOTABLE = 6
"""Most pairs of findings that the terminal shows."""

SHOWN = 5
"""Most groups of copies that the terminal lists."""

LISTED = 50
"""Most groups of copies that the page lists; all are in the JSON."""

SIZES = 6
"""Most sizes of films that are listed separately."""

Kind = Literal["identical", "near"]
KINDS: tuple[Kind, ...] = ("identical", "near")


def write_description(path: Path, facts: Description) -> Path:
    """Write the page of a description.

    Args:
        path: the HTML file; it is replaced.
        facts: the description.

    Returns:
        The path.

    Raises:
        StoreError: a file that can't be written.
    """
    return write_page(path, "description.html.j2", **_context(facts))


def description_lines(facts: Description) -> list[str]:
    """Return a description for the terminal, line by line.

    Args:
        facts: the description.
    """
    found = [*_warnings(facts), _films(facts), *_about(facts), "", *_finding_table(facts)]
    pairs = _notable(facts)
    if pairs:
        width = max(len(_pair_name(pair)) for pair in pairs)
        found += ["", f"{'Together':<{width}}   both  odds ratio"]
        found += [
            f"{_pair_name(pair):<{width}}  {pair.both:>5,}  {_ratio(pair.odds_ratio)}"
            for pair in pairs
        ]
    found.append("")
    for kind in KINDS:
        found.append(_copies(facts, kind))
        found += [f"  {_group_words(group)}" for group in _worst(_of(facts, kind).groups)[:SHOWN]]
    return [*found, *(f"Note: {note}" for note in facts.notes)]


def _of(facts: Description, kind: Kind) -> Repeats:
    return facts.identical if kind == "identical" else facts.near


# --- words


def _warnings(facts: Description) -> list[str]:
    """The warnings about leakage."""
    said = []
    if facts.shared_patients:
        said.append(
            f"LEAKAGE: {count(facts.shared_patients, 'patient')} on more than one side of the "
            "split; results on its test films would be too optimistic."
        )
    for repeats, words in (
        (facts.identical, "identical images"),
        (facts.near, "near duplicates"),
    ):
        crossing = repeats.across_split
        if crossing:
            said.append(
                f"LEAKAGE: {count(crossing, 'group')} of {words} on more than one side of the "
                "split."
            )
    return said


def _films(facts: Description) -> str:
    height, width = facts.image
    each = facts.films_per_patient
    return (
        f"{short_path(facts.source)}: {count(facts.films, 'film')} of "
        f"{count(facts.patients, 'patient')} (median {each.median:g} each, at most "
        f"{each.most:,}), examined at {width}x{height} {facts.dtype}"
    )


def _about(facts: Description) -> list[str]:
    """Split, columns, files and grey levels, one line each."""
    names, values = zip(*_about_pairs(facts), strict=True)
    width = max(map(len, names))
    return [f"{name:<{width}}  {value}" for name, value in zip(names, values, strict=True)]


def _about_pairs(facts: Description) -> list[tuple[str, str]]:
    pairs = [("Split", _split_words(facts))]
    pairs += [(column.name.replace("_", " ").capitalize(), _column_words(column))
              for column in facts.columns]  # fmt: skip
    pairs.append(("Files", _form_words(facts.forms)))
    if facts.findings:
        pairs.append(("Not stated", f"{percent(facts.unstated)} of the labels"))
    pairs.append(("Grey levels", _grey_words(facts)))
    return pairs


def _split_words(facts: Description) -> str:
    if not facts.split:
        return "none"
    parts = [
        f"{part.name or 'in no part'} {count(part.films, 'film')} of "
        f"{count(part.patients, 'patient')}"
        for part in facts.split
    ]
    shared = facts.shared_patients
    ends = f"{count(shared, 'patient') if shared else 'no patient'} in several parts"
    return f"{'; '.join(parts)}; {ends}"


def _column_words(column: Counts | Range) -> str:
    missing = f"{column.unstated:,} not stated" if column.unstated else ""
    if isinstance(column, Counts):
        parts = [f"{value} {films:,}" for value, films in column.values.items()]
        if column.others:
            parts.append(f"others {column.others:,}")
    elif math.isnan(column.low):
        parts = []
    else:
        parts = [f"{column.low:g} to {column.high:g}, median {column.median:g}"]
    return ", ".join([*parts, missing] if missing else parts)


def _form_words(forms: Mapping[str, Mapping[str, int]]) -> str:
    if not forms:
        return "unknown"
    parts = []
    for kind, words in (("formats", "{}"), ("bits", "{} bits"), ("sizes", "{}")):
        ranked = sorted(forms.get(kind, {}).items(), key=lambda item: (-item[1], item[0]))
        parts += [f"{words.format(value)} {films:,}" for value, films in ranked[:SIZES]]
        if len(ranked) > SIZES:
            rest = sum(films for _, films in ranked[SIZES:])
            parts.append(f"{len(ranked) - SIZES:,} other sizes {rest:,}")
    return ", ".join(parts)


def _grey_words(facts: Description) -> str:
    greys, n = facts.greys, facts.films
    return (
        f"{greys.constant:,} constant, {greys.nearly_black:,} nearly black; border brighter "
        f"than the centre {greys.border_brighter:,} ({percent(greys.border_brighter / n)}), "
        f"much brighter {greys.border_much_brighter:,}"
    )


def _estimate(found: Estimate) -> str:
    """A share with its interval."""
    if not found.defined:
        return "undefined"
    return f"{percent(found.value)} ({between(found.low, found.high, percent)})"


def _finding_table(facts: Description) -> list[str]:
    if not facts.findings:
        return ["No labels."]
    width = max(len("Finding"), *(len(each.name) for each in facts.findings))
    lines = [f"{'Finding':<{width}}  positive  negative  {'not stated':>16}  prevalence (95 %)"]
    lines += [
        f"{each.name:<{width}}  {each.positives:>8,}  {each.negatives:>8,}  "
        f"{_share(each.unstated, facts.films):>16}  {_estimate(each.prevalence)}"
        for each in facts.findings
    ]
    return lines


def _share(n: int, films: int) -> str:
    return f"{n:,} ({percent(n / films)})" if n else "0"


def _ratio(found: Estimate) -> str:
    if not found.defined:
        return "undefined"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _notable(facts: Description) -> list[Together]:
    """Pairs whose interval excludes 1, the strongest association first."""
    sure = []
    for pair in facts.together:
        found = pair.odds_ratio
        if found.defined and not found.low <= 1 <= found.high:
            nearer = found.low if found.low > 1 else found.high
            sure.append((abs(math.log(nearer)), pair))
    return [pair for _, pair in sorted(sure, key=lambda item: -item[0])][:NOTABLE]


def _pair_name(pair: Together) -> str:
    return f"{pair.first} + {pair.second}"


def _copies(facts: Description, kind: Kind) -> str:
    found = _of(facts, kind)
    name = {
        "identical": "Identical images",
        "near": f"Near duplicates (correlation {facts.correlation:g} or more)",
    }[kind]
    if not found.groups:
        return f"{name}: none"
    across = f"{found.across_split:,} across the split, " if facts.split else ""
    return (
        f"{name}: {count(found.films, 'film')} in {count(len(found.groups), 'group')}; "
        f"{found.across_patients:,} across patients, {across}"
        f"{found.labels_differ:,} with contradicting labels"
    )


def _worst(groups: Sequence[Group]) -> list[Group]:
    """Groups by their problems, then by size."""

    def weight(group: Group) -> tuple[bool, bool, bool, int]:
        parts, patients = len(group.parts) > 1, group.patients > 1
        return parts, patients, bool(group.differ), len(group.films)

    return sorted(groups, key=weight, reverse=True)


def _group_words(group: Group) -> str:
    films = group.films
    more = f" and {len(films) - 3:,} more" if len(films) > 3 else ""
    return f"{', '.join(films[:3])}{more}: {_wrong(group)}"


def _wrong(group: Group) -> str:
    parts = [count(group.patients, "patient")]
    if len(group.parts) > 1:
        parts.append(f"in {listed(group.parts)}")
    if group.differ:
        parts.append(f"labels differ on {listed(group.differ)}")
    return ", ".join(parts)


# --- the page


def _context(facts: Description) -> dict[str, Any]:
    findings = facts.findings
    return {
        "title": f"Description of {short_path(facts.source)}",
        "facts": facts,
        "warnings": [line.partition(": ")[2] for line in _warnings(facts)],
        "cards": _cards(facts),
        "about": _about_pairs(facts),
        "mean": " to ".join(f"{facts.greys.mean[i]:.2f}" for i in (0, 2)),
        "median": f"{facts.greys.mean[1]:.2f}",
        "findings": [
            (each, _share(each.unstated, facts.films), _estimate(each.prevalence))
            for each in findings
        ],
        "figure": _prevalence(findings) if findings else "",
        "matrix": _matrix(facts),
        "notable": [
            (_pair_name(pair), f"{pair.both:,}", _ratio(pair.odds_ratio))
            for pair in _notable(facts)
        ],
        "copies": [_copies_section(facts, kind) for kind in KINDS],
        "listed": LISTED,
    }


def _cards(facts: Description) -> list[dict[str, Any]]:
    """The four numbers at the top."""
    each, parts = facts.films_per_patient, facts.split
    near = list(facts.near.groups)
    altered = {film for group in near for film in group.films}
    # A near group also includes the identical copies of its members.
    copies = [g for g in facts.identical.groups if altered.isdisjoint(g.films)] + near
    return [
        {
            "title": "Films",
            "value": f"{facts.films:,}",
            "under": f"of {count(facts.patients, 'patient')}",
            "facts": [
                ("films of a patient, median", f"{each.median:g}"),
                ("at most", f"{each.most:,}"),
            ],
        },
        {
            "title": "Findings",
            "value": f"{len(facts.findings):,}",
            "under": "labelled, film by film",
            "facts": [
                ("labels not stated", percent(facts.unstated)),
                ("never positive", f"{sum(f.positives == 0 for f in facts.findings):,}"),
            ],
        },
        {
            "title": "Shared patients",
            "value": f"{facts.shared_patients:,}" if parts else "no split",
            "under": "in several parts of the split",
            "facts": [(p.name or "in no part", f"{p.films:,} films") for p in parts],
        },
        {
            "title": "Copies",
            "value": f"{sum(len(group.films) for group in copies):,}",
            "under": "films, identical or nearly so",
            "facts": [
                ("groups across patients", f"{sum(g.patients > 1 for g in copies):,}"),
                ("across the split", f"{sum(len(g.parts) > 1 for g in copies):,}"),
                ("with contradicting labels", f"{sum(bool(g.differ) for g in copies):,}"),
            ],
        },
    ]


def _prevalence(findings: Sequence[Finding]) -> str:
    from leadapron.report import figures

    lines = [
        figures.Interval(
            name=each.name.replace("_", " "),
            note=f"{each.positives:,}",
            share=each.prevalence,
        )
        for each in findings
    ]
    return figures.intervals(
        lines,
        name="prevalence",
        label="Prevalence of each finding with its interval; the table has the values.",
        axis="prevalence, with 95 % interval",
        note="positive films",
    )


def _matrix(facts: Description) -> list[list[tuple[str, str, int]]]:
    """Findings by findings as (text, description, shade in per cent).

    The diagonal counts positive films; above it are films with both, below it odds ratios.
    """
    names = [each.name for each in facts.findings]
    if len(names) < 2:
        return []
    place = {name: i for i, name in enumerate(names)}
    grid = [[("", "", 0)] * len(names) for _ in names]
    for each in facts.findings:
        i = place[each.name]
        grid[i][i] = (f"{each.positives:,}", f"{each.name}: {each.positives:,}", 0)
    for pair in facts.together:
        i, j = place[pair.first], place[pair.second]
        ratio, name = pair.odds_ratio, _pair_name(pair)
        grid[i][j] = (f"{pair.both:,}", f"{name}: {count(pair.both, 'film')}", 0)
        if not ratio.defined:
            grid[j][i] = ("\N{EN DASH}", f"{name}: undefined", 0)
            continue
        sure = not ratio.low <= 1 <= ratio.high
        shade = round(min(abs(math.log(ratio.value)) / math.log(10), 1) * 45) if sure else 0
        text = f"{ratio.value:.1f}" if ratio.value < 100 else f"{ratio.value:.0f}"
        grid[j][i] = (text, f"{name}: {_ratio(ratio)}", shade if ratio.value > 1 else -shade)
    return grid


def _copies_section(facts: Description, kind: Kind) -> dict[str, Any]:
    groups = _worst(_of(facts, kind).groups)
    return {
        "kind": kind,
        "words": _copies(facts, kind).partition(": "),
        "more": max(len(groups) - LISTED, 0),
        "groups": [
            {
                "films": ", ".join(group.films[:6])
                + (f" and {len(group.films) - 6:,} more" if len(group.films) > 6 else ""),
                "wrong": _wrong(group),
                "correlation": f"{group.correlation:.3f}",
            }
            for group in groups[:LISTED]
        ],
    }
