"""Attacks that work, and the needed fraction, as Markdown, from a study's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from leadapron.report.summary import named
from leadapron.report.words import (
    change,
    decimal,
    listed,
    percent,
    points,
    shown,
    spread,
    table,
)
from leadapron.results.folder import Pair, Study, leaves, read_study
from leadapron.results.measured import Measured
from leadapron.results.names import CALIBRATED, POISONED_FILMS, VISIBLE_PIXELS
from leadapron.results.rows import Row
from leadapron.results.verdicts import BLIND, POTENT
from leadapron.specs import grids
from leadapron.store import canonical_json, write_atomically

__all__ = ["potency", "write_potency"]

FRACTION, LABELS = "poisoning.fraction", "poisoning.labels"

COLUMNS = (
    "trigger", "labels", "fraction", "films", "visible pixels", "attack success", "twin",
    "difference, points", "separation", "clean macro minus twin", "takes?",
)  # fmt: skip


class Attack(NamedTuple):
    """One line of the table: one setting with all of its seeds."""

    trigger: str
    labels: str
    fraction: float
    measured: Sequence[Measured]

    @property
    def verdicts(self) -> list[bool | None]:
        """Whether it works, by seed; None if undefined or the twin is at chance."""
        return [each.potent for each in self.measured]


def write_potency(folder: Path, page: Path) -> Path:
    """Write `potency` of a study's folder to a page, and return the page.

    Raises:
        StoreError: as `read_study`, or a page that can't be written.
    """
    text = potency(folder)
    with write_atomically(page) as file:
        file.write(text.encode())
    return page


def potency(folder: Path) -> str:
    """Return a Markdown page about which of a study's attacks work.

    Args:
        folder: the folder of `leadapron study --out`; unfinished runs are left out.

    Raises:
        StoreError: as `read_study`.
    """
    study = read_study(folder)
    attacks = _attacks(study)
    lines = table(COLUMNS, list(map(_line, attacks)))
    parts = ["# Which attacks take", _done(study), _lowest(attacks), lines, _full(study)]
    return "\n\n".join(parts) + "\n"


# --- attacks


def _attacks(study: Study) -> list[Attack]:
    """The requested settings, in the study's order, with ascending fractions."""
    asked = [dict(leaves(tree)) for tree in grids(study.asked)]
    base = dict(leaves({name: part for name, part in study.asked.items() if name != "cells"}))
    others = [
        path for path in study.axes()
        if not path.startswith("trigger.") and path not in (FRACTION, LABELS)
    ]  # fmt: skip
    names = _trigger_names(study)
    found = []
    for _, pairs in study.settings():
        spec = dict(leaves(pairs[0].backdoored.spec))
        apart = [
            f"{path.rpartition('.')[2]} {shown(spec[path])}"
            for path in others
            if path in spec and spec[path] != base.get(path)
        ]
        attack = Attack(
            names[_trigger_key(pairs[0])],
            ", ".join([shown(spec.get(LABELS)), *apart]),
            float(spec.get(FRACTION, 0.0)),
            [Measured(pair) for pair in pairs],
        )
        found.append((_place(asked, spec), attack))
    return [attack for _, attack in sorted(found, key=lambda each: (each[0], each[1].fraction))]


def _place(asked: Sequence[Mapping[str, Any]], spec: Mapping[str, Any]) -> int:
    """Index of the first of the study's cells that a run fits; the number of cells if none does."""

    def fits(cell: Mapping[str, Any]) -> bool:
        return all(
            path not in spec or spec[path] in (value if isinstance(value, list) else [value])
            for path, value in cell.items()
            if path != "seed" and value != ""  # a target that was left open is known by now
        )

    return next((place for place, cell in enumerate(asked) if fits(cell)), len(asked))


def _trigger_key(pair: Pair) -> str:
    return canonical_json(pair.backdoored.spec.get("trigger", {}))


def _trigger_names(study: Study) -> dict[str, str]:
    """Each trigger's name, with the settings that distinguish triggers of the same name."""
    triggers = {_trigger_key(pair): pair.backdoored.spec.get("trigger", {}) for pair in study.pairs}
    found = {}
    for key, trigger in triggers.items():
        alike = [each for each in triggers.values() if each.get("name") == trigger.get("name")]
        apart = [
            f"{name} {shown(value)}"
            for name, value in trigger.items()
            if any(each.get(name) != value for each in alike)
        ]
        found[key] = ", ".join([shown(trigger.get("name")), *apart])
    return found


# --- words


def _done(study: Study) -> str:
    facts = study.cohorts[0] if study.cohorts else {}
    spec = dict(leaves(study.pairs[0].backdoored.spec))
    seeds = list(dict.fromkeys(shown(pair.seed) for pair in study.pairs))
    twins = len({pair.twin.key for pair in study.pairs if pair.twin})
    trained = study.pairs[0].row(POISONED_FILMS, "backdoored")
    tested = Measured(study.pairs[0]).macro("backdoored")
    machine, versions = study.manifest, study.manifest.get("versions", {})
    epochs = spec.get("training.epochs")
    targets = list(dict.fromkeys(pair.target for pair in study.pairs))
    lines = [
        f"{facts.get('films', 0):,} {named(study, 'source')} films of "
        f"{facts.get('patients', 0):,} patients, {_count(trained)} to train on and "
        f"{_count(tested)} to test on; "
        f"{named(study, 'network')} at {spec.get('preprocessing.size')} px, "
        f"{epochs} epoch{'s' * (epochs != 1)}; target {listed(targets)}; "
        f"seed{'s' * (len(seeds) > 1)} {listed(seeds)}. {len(study.pairs)} backdoored models, "
        f"{twins} clean twin{'s' * (twins != 1)}.",
        f"Machine: {machine.get('system', 'unknown')}, {machine.get('processors', '?')} cores, "
        f"{machine.get('device', '?')}, {machine.get('precision', '?')}; torch "
        f"{versions.get('torch', '?')}.",
        f"Attack success at {CALIBRATED}: share of triggered test films without the target that "
        "are called the target (if it is to be hidden: of films with it that aren't). Brackets "
        + (
            "hold 95 % intervals clustered by patient: they cover sampling of the test films, not "
            "training's."
            if len(seeds) == 1
            else "hold the seeds' range."
        ),
        f"An attack *takes* where its success is {POTENT[0]:.2f} or more and at least "
        f"{POTENT[1]:.2f} above the twin's, as in the zoo.",
    ]
    missing = study.expected - len(study.pairs)
    if missing > 0:
        lines.append(
            f"**Unfinished**: {len(study.pairs)} of {study.expected} attacks are measured, the "
            "others left out."
        )
    return "\n".join([*lines, *(str(note) for note in facts.get("notes", []))])


def _count(row: Row | None) -> str:
    return "unknown" if row is None or row.n is None else f"{row.n:,}"


def _lowest(attacks: Sequence[Attack]) -> str:
    """The attacks by the lowest fraction at which they worked in all seeds."""
    by_name: dict[str, list[Attack]] = {}
    for attack in attacks:
        by_name.setdefault(f"{attack.trigger} ({attack.labels})", []).append(attack)
    groups: dict[float, list[str]] = {}
    for name, alike in by_name.items():
        taken = [each.fraction for each in alike if all(each.verdicts)]
        groups.setdefault(min(taken, default=float("inf")), []).append(name)
    return "\n".join(
        f"- {'Takes from ' + shown(fraction) if fraction <= 1 else 'Takes at no fraction tried'}: "
        f"{'; '.join(names)}."
        for fraction, names in sorted(groups.items())
    )


def _line(attack: Attack) -> list[str]:
    def of(find: Callable[[Measured], Row | None], form: Callable[[float], str]) -> str:
        return spread([find(each) for each in attack.measured], form)

    return [
        attack.trigger,
        attack.labels,
        shown(attack.fraction),
        of(lambda m: m.pair.row(POISONED_FILMS, "backdoored"), lambda n: f"{n:.0f}"),
        of(lambda m: m.pair.row(VISIBLE_PIXELS, "backdoored"), shown),
        of(lambda m: m.success("backdoored"), percent),
        of(lambda m: m.success("twin"), percent),
        of(lambda m: m.success("difference"), points),
        of(lambda m: m.separation("backdoored"), decimal),
        of(lambda m: m.macro("difference"), change),
        BLIND if any(each.blind for each in attack.measured) else _verdict(attack.verdicts),
    ]


def _verdict(verdicts: Sequence[bool | None]) -> str:
    if None in verdicts:
        return "undefined"
    if len(set(verdicts)) == 1:
        return "yes" if verdicts[0] else "no"
    return f"{sum(map(bool, verdicts))} of {len(verdicts)} seeds"


def _full(study: Study) -> str:
    """Every trigger with all of its settings."""
    names = _trigger_names(study)
    lines = []
    for key, name in sorted(names.items(), key=lambda each: each[1]):
        trigger = next(
            pair.backdoored.spec.get("trigger", {})
            for pair in study.pairs
            if _trigger_key(pair) == key
        )
        settings = ", ".join(f"{k} {shown(v)}" for k, v in trigger.items() if k != "name")
        lines.append(f"- **{name}**: {settings or 'no settings'}")
    return "## The triggers' settings\n\n" + "\n".join(lines)
