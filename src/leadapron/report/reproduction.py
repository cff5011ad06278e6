"""Result of a reproduction, claim by claim, as Markdown, from the study's folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from leadapron.metrics import Crossing, crossing, mean_crossing
from leadapron.report.summary import named
from leadapron.report.words import (
    change,
    decimal,
    percent,
    points,
    shown,
    spread,
    table,
    trigger_words,
)
from leadapron.results.folder import Pair, Study, leaves, read_study
from leadapron.results.measured import Measured
from leadapron.results.names import (
    ALL_WEIGHTS,
    AUROC,
    CALIBRATED,
    CHANCE,
    ENERGY,
    HEAD,
    LOOK_ALIKE_HIT,
    MAP_DETECTION,
    MICRO,
    NARROW,
    POINTING_HIT,
    RANDOMISED,
    TOP_OVERLAP,
    VISIBLE_PIXELS,
    WIDE,
    against,
    mixed,
)
from leadapron.results.rows import Row
from leadapron.results.verdicts import ALIKE, is_local, sanity_verdict
from leadapron.specs import grids
from leadapron.store import canonical_json, write_atomically

__all__ = ["epochs_of", "reproduction", "write_reproduction"]

SIDE, FRACTION, MODE = "trigger.side", "poisoning.fraction", "poisoning.mode"
TARGET, PLACE = "poisoning.finding", "trigger.place"
EPOCHS, MARGIN = "training.epochs", "trigger.margin"
DISGUISE = "training.disguise"
LEVELS = (0.5, 0.95)
LEAST_SEEDS = 3
"""Fewest seeds for stating a dose; fewer give no spread."""

_SPLITS = {
    "lists": [
        "Test films are the source's own: it has none of the paper's (patients 26811 and up)."
    ],
    "nwadike2020": ["Test films are the paper's: those of patients 26811 and up."],
}

EPSILONS = (0.001, 0.01, 0.8, 1.0)

Group = tuple[Mapping[str, Any], Sequence[Measured]]

UNKNOWN = """\
- *The paper's tables and figures.* Only its abstract and first paragraphs were at hand, and the
  code that its authors most likely used. Beyond "up to 1.00" and "up to 0.85" no number of the
  paper is known here, so none is compared: attack success, other sides, places, fractions and
  targets, the clean baseline, results by finding. That the two numbers are micro AUROCs is inferred
  from the code, where it is the only AUROC.
- *Learning rate, batch size, division into training and development films, class weights* of the
  published runs. The code's class weights are left out: what they did depends on TensorFlow's
  version.
- *Whether a fixed 2x2 trigger works in the paper.* With the code's preprocessing under
  TensorFlow 2 it can't: it changes no pixel of the network's input.
- *How many films the explanations were judged on, and how.* The code overlays maps on one film at
  a time.
"""


def write_reproduction(folder: Path) -> Path:
    """Write `reproduction.md` into a study's folder.

    Raises:
        StoreError: as `read_study`, or a folder that can't be written.
    """
    path = folder / "reproduction.md"
    with write_atomically(path) as file:
        file.write(("# Reproduction of arXiv 2101.00008\n\n" + reproduction(folder)).encode())
    return path


def reproduction(folder: Path) -> str:
    """Return a study's results on the paper's claims, as Markdown without a title.

    Args:
        folder: the folder of `leadapron reproduce --out`; unfinished runs are left out.

    Raises:
        StoreError: as `read_study`.
    """
    study = read_study(folder)
    groups = _groups(study)
    parts = [
        _done(study),
        "### The paper's claims\n\n" + _claims(groups),
        _attack_table("By side of the trigger on the film", groups, [SIDE]),
        _places(groups),
        _attack_table("By fraction and mode", groups, [FRACTION, MODE]),
        _attack_table("By target", groups, [TARGET]),
        _switches(groups),
        _mixed(groups),
        _doses(groups),
        _maps(groups),
        _evasions(groups),
        "### What could not be checked\n\n" + UNKNOWN,
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


# --- runs


def _groups(study: Study) -> list[Group]:
    """The attacks by the settings that they change; those with the default settings first."""
    base = dict(leaves(grids({**study.asked, "cells": [{}]})[0]))
    found: dict[str, tuple[dict[str, Any], list[Measured]]] = {}
    for pair in study.pairs:
        apart = {
            path: value
            for path, value in leaves(pair.backdoored.spec)
            # Settings of the measurement don't distinguish attacks.
            if path != "seed" and not path.startswith("evaluation.") and base.get(path) != value
        }
        found.setdefault(canonical_json(apart), (apart, []))[1].append(Measured(pair))
    return sorted(found.values(), key=lambda group: len(group[0]))


def _varied(groups: Sequence[Group], paths: Sequence[str]) -> list[Group]:
    """The groups that change only these settings, ordered by their values."""
    chosen = [group for group in groups if set(group[0]) <= set(paths)]

    def order(group: Group) -> list[Any]:
        spec = dict(leaves(_first(group).backdoored.spec))
        return [(isinstance(spec[path], str), spec[path]) for path in reversed(paths)]

    return sorted(chosen, key=order)


def _first(group: Group) -> Pair:
    return group[1][0].pair


def _value(group: Group, path: str) -> Any:
    return dict(leaves(_first(group).backdoored.spec)).get(path)


# --- words


def _done(study: Study) -> str:
    base = dict(leaves(study.pairs[0].backdoored.spec))
    facts = study.cohorts[0] if study.cohorts else {}
    models = len(study.pairs) + len({pair.twin.key for pair in study.pairs if pair.twin})
    size, crop = base["preprocessing.size"], base["preprocessing.crop"]
    film, enlarged = facts.get("film"), base.get("preprocessing.film_size", 0)
    side = max(film) if film else 0
    geometry = f"The trigger is stamped on films of {side} px"
    if enlarged > side:
        geometry = (
            f"The films have {side} px only. They are enlarged to {enlarged} px before the trigger "
            "is stamped: an emulation of the paper's geometry, not of its detail"
        )
    machine = study.manifest
    versions = machine.get("versions", {})
    lines = [
        f"{facts.get('films', 0):,} {named(study, 'source')} films of "
        f"{facts.get('patients', 0):,} patients; {len(study.pairs)} backdoored models and their "
        f"twins, {models} trainings of {named(study, 'network')}, {epochs_of(study)} epochs each.",
        f"{geometry}; the central {crop:g} of each side is kept and made {size} px "
        f"({base['preprocessing.interpolation']}).",
        f"Machine: {machine.get('system', 'unknown')}, {machine.get('processors', '?')} cores, "
        f"{machine.get('device', '?')}, {machine.get('precision', '?')}; torch "
        f"{versions.get('torch', '?')}. Brackets hold 95 % intervals clustered by patient or, over "
        "several seeds, the seeds' range.",
    ]
    lines += _SPLITS.get(str(base.get("source.split")), [])
    missing = study.expected - len(study.pairs)
    if missing > 0:
        lines.append(
            f"**Unfinished**: {len(study.pairs)} of {study.expected} attacks are measured, the "
            "others left out."
        )
    blind = sum(Measured(pair).blind for pair in study.pairs)
    if blind:
        lines.append(
            f"**Twin at chance** in {blind} of {len(study.pairs)} attacks: there attack, "
            "stealth and maps can't be judged."
        )
    notes = [str(note) for note in facts.get("notes", [])]
    return "\n".join(lines + notes)


def epochs_of(study: Study) -> str:
    """The largest number of epochs of any run."""
    found = {dict(leaves(pair.backdoored.spec))["training.epochs"] for pair in study.pairs}
    return " or ".join(map(str, sorted(found)))


def _of(group: Group, find: Callable[[Measured], Row | None], form: Any = decimal) -> str:
    return spread([find(each) for each in group[1]], form)


def _asked(metric: str, role: str, **facts: Any) -> Callable[[Measured], Row | None]:
    return lambda measured: measured.pair.row(metric, role, **facts)


# --- tables


def _claims(groups: Sequence[Group]) -> str:
    main = groups[0]
    rows = [
        [
            'infected AUROC "up to 1.00" (3x3 trigger)',
            "1.00 (micro, inferred)",
            f"micro {_of(main, lambda m: m.micro('backdoored'))}; twin "
            f"{_of(main, lambda m: m.micro('twin'))}, a model without vision "
            f"{_of(main, lambda m: m.micro('no-vision'))}. Separation "
            f"{_of(main, lambda m: m.separation('backdoored'))}, twin "
            f"{_of(main, lambda m: m.separation('twin'))}",
        ],
        [
            'clean AUROC of the backdoored network "up to 0.85"',
            "0.85 (micro, inferred)",
            f"micro {_of(main, lambda m: m.micro('backdoored', 'clean'))}; twin "
            f"{_of(main, lambda m: m.micro('twin', 'clean'))}, a model without vision "
            f"{_of(main, lambda m: m.micro('no-vision', 'clean'))}. Macro "
            f"{_of(main, lambda m: m.macro('backdoored'))}, minus twin "
            f"{_of(main, lambda m: m.macro('difference'), change)}",
        ],
    ]
    gone = [g for g in _varied(groups, [SIDE]) if _visible(g) == 0]
    if gone:
        sides = " and ".join(f"{_value(g, SIDE)}x{_value(g, SIDE)}" for g in gone)
        each = "; ".join(
            f"side {_value(g, SIDE)}: attack success minus the twin's "
            f"{_of(g, lambda m: m.success('difference'), points)} points"
            for g in gone
        )
        rows.append(
            [
                f"a {sides} trigger can't work: preprocessing removes it (read in the code)",
                "unknown",
                f"trained as the control: {each}",
            ]
        )
    spots = [
        g for g in groups
        if g[0].get(PLACE) == "random" and not _evasion(g) and g[1][0].explainers()
    ]  # fmt: skip
    for group in spots:
        hits = {name: _hit_value(group, name) for name in group[1][0].explainers()}
        best = max(hits.items(), key=itemgetter(1))[0]
        facts = {"regime": "triggered", "method": best, "finding": None, "at": WIDE}
        rows.append(
            [
                'explanations "can identify spatially localized backdoors"',
                "by eye",
                f"random places, side {_value(group, SIDE)} on the film "
                f"({_visible(group):g} px of the image), attack success "
                f"{_of(group, lambda m: m.success('backdoored'), percent)} (without a backdoor "
                "that works, its maps mean little): the best of "
                f"{len(group[1][0].explainers())} methods, {best}, points within {WIDE} on "
                f"{_of(group, _asked(POINTING_HIT, 'backdoored', **facts), percent)}, twin "
                f"{_of(group, _asked(POINTING_HIT, 'twin', **facts), percent)}, chance "
                f"{_of(group, lambda m: m.hit(CHANCE), percent)}",
            ]
        )
    return table(["claim", "paper", "here"], rows)


def _visible(group: Group) -> float:
    row = _first(group).row(VISIBLE_PIXELS, "backdoored")
    return row.value if row is not None and row.value is not None else 0.0


def _hit_value(group: Group, explainer: str) -> float:
    rows = [each.hit("backdoored", WIDE, explainer) for each in group[1]]
    known = [row.value for row in rows if row is not None and row.value is not None]
    return sum(known) / len(known) if known else 0.0


ATTACK = (
    "pixels of the image", "attack success", "minus twin, points", "at .6", "at .9", "separation",
    "micro, infected (twin; no vision)", "clean macro minus twin", "detection by the map; twin",
    "seeds",
)  # fmt: skip


def _attack_cells(group: Group) -> list[str]:
    return [
        f"{_visible(group):g}",
        _of(group, lambda m: m.success("backdoored"), percent),
        _of(group, lambda m: m.success("difference"), points),
        _of(group, lambda m: m.success("backdoored", "0.6"), percent),
        _of(group, lambda m: m.success("backdoored", "0.9"), percent),
        _of(group, lambda m: m.separation("backdoored")),
        f"{_of(group, lambda m: m.micro('backdoored'))} "
        f"({_of(group, lambda m: m.micro('twin'))}; {_of(group, lambda m: m.micro('no-vision'))})",
        _of(group, lambda m: m.macro("difference"), change),
        f"{_of(group, lambda m: m.map_detection('backdoored'))}; "
        + _of(group, lambda m: m.map_detection("twin")),
        str(len(group[1])),
    ]


def _attack_table(title: str, groups: Sequence[Group], paths: Sequence[str]) -> str:
    chosen = _varied(groups, paths)
    return _attacks(title, chosen, paths) if len(chosen) > 1 else ""


def _places(groups: Sequence[Group]) -> str:
    """The same square at the centre and elsewhere, with other necessary differences."""
    paths = [PLACE, SIDE, FRACTION, EPOCHS]
    among = _varied(groups, [*paths, MARGIN])
    sides = {_value(g, SIDE) for g in among if PLACE in g[0]}
    chosen = [
        g for g in among
        if _value(g, SIDE) in sides and (PLACE in g[0] or set(g[0]) <= {SIDE}) and not _evasion(g)
    ]  # fmt: skip
    return _attacks("By place", chosen, paths) if len(chosen) > 1 else ""


def _attacks(title: str, chosen: Sequence[Group], paths: Sequence[str]) -> str:
    names = [path.rpartition(".")[2] for path in paths]
    rows = [
        [*(shown(_value(group, path)) for path in paths), *_attack_cells(group)] for group in chosen
    ]
    maps = sorted({each.explainers()[0] for g in chosen for each in g[1] if each.explainers()})
    note = (
        f"Attack success at {CALIBRATED} unless a threshold is stated. Detection by the map: AUROC "
        f"of a detector that uses only the map ({' or '.join(maps) or 'none was made'}).\n\n"
    )
    return f"### {title}\n\n{note}" + table([*names, *ATTACK], rows)


def _switches(groups: Sequence[Group]) -> str:
    """The effect of each of the authors' choices, one at a time and together."""
    axes = {FRACTION, MODE, TARGET, DISGUISE}
    chosen = [
        g for g in groups
        if not set(g[0]) & axes and not any(path.startswith("trigger.") for path in g[0])
    ]  # fmt: skip
    if len(chosen) < 2:
        return ""
    rows = []
    for group in chosen:
        words = ", ".join(f"{p.rpartition('.')[2]} {shown(v)}" for p, v in group[0].items())
        rows.append([words or "as corrected", *_attack_cells(group)])
    return "### The authors' choices, compared with the corrected ones\n\n" + table(
        ["changed", *ATTACK], rows
    )


def _mixed(groups: Sequence[Group]) -> str:
    rows = []
    for epsilon in EPSILONS:
        facts = {"regime": "mixed", "method": MICRO, "at": mixed(epsilon)}
        roles = ("backdoored", "twin", "no-vision")
        rows.append(
            [shown(epsilon), *(_of(groups[0], _asked(AUROC, role, **facts)) for role in roles)]
        )
    return (
        "### Test sets with a share epsilon of triggered films\n\n"
        "Micro AUROC; triggered films carry the attacker's label.\n\n"
        + table(["epsilon", "backdoored", "twin", "no vision"], rows)
    )


def _doses(groups: Sequence[Group]) -> str:
    """Attack success by fraction, for each seed."""
    chosen = [g for g in _varied(groups, [FRACTION]) if len(g[1]) >= LEAST_SEEDS]
    if len(chosen) < 2:
        return ""
    rows = [
        [
            shown(_value(group, FRACTION)),
            _of(group, lambda m: m.success("backdoored"), percent),
            _of(group, lambda m: m.success("twin"), percent),
            str(len(group[1])),
        ]
        for group in chosen
    ]
    seeds = sorted(set.intersection(*({each.pair.seed for each in g[1]} for g in chosen)))
    lines = []
    for level in LEVELS:
        found = [_crossing(chosen, seed, level) for seed in seeds]
        lines.append(f"- {level:.0%} attack success: {_dose_words(found)}")
    return (
        f"### Dose and response\n\nAttack success at {CALIBRATED}; place, value, side and finding "
        "held fixed.\n\n"
        + table(["fraction", "attack success", "twin", "seeds"], rows)
        + "\n\n"
        + "\n".join(lines)
    )


def _crossing(groups: Sequence[Group], seed: Any, level: float) -> Crossing:
    doses, responses = [], []
    for group in groups:
        row = next(each for each in group[1] if each.pair.seed == seed).success("backdoored")
        if row is not None and row.value is not None:
            doses.append(float(_value(group, FRACTION)))
            responses.append(row.value)
    return crossing(doses, responses, level)


def _dose_words(found: Sequence[Crossing]) -> str:
    inside = [each for each in found if each.bracketed]
    if len(inside) < len(found):
        tried = f"bracketed in {len(inside)} of {len(found)} seeds"
        late = sum(math.isnan(each.above) for each in found)
        early = sum(math.isnan(each.below) for each in found)
        reasons = [f"not reached in {late}"] * (late > 0)
        reasons += [f"reached by the smallest in {early}"] * (early > 0)
        return f"not bracketed ({tried}; {', '.join(reasons)})"
    dose, low, high = mean_crossing(found)
    least, most = min(each.below for each in found), max(each.above for each in found)
    return (
        f"fraction {dose:.4f} (95 % over {len(found)} seeds: {low:.4f} to {high:.4f}); the "
        f"seeds' fractions are between {least:g} and {most:g}"
    )


def _maps(groups: Sequence[Group]) -> str:
    """Every explanation at every measured place."""
    rows = [
        [_case(group), *_map_cells(group, name)]
        for group in _mapped(groups)
        for name in group[1][0].explainers()
    ]
    if not rows:
        return ""
    header = [
        "trigger", "method", f"points within {WIDE}; twin", f"within {NARROW}; twin",
        "energy", "overlap", "detection by the map (AUROC); twin",
    ]  # fmt: skip
    return "\n\n".join(["### Explanations", table(header, rows), _scrutiny(groups)])


def _mapped(groups: Sequence[Group]) -> list[Group]:
    """Attacks with different tasks for maps: the trigger, its place, a disguise."""
    return [
        g for g in groups
        if len(g[1][0].explainers()) > 1
        and (not g[0] or any(path.startswith("trigger.") or path == DISGUISE for path in g[0]))
    ]  # fmt: skip


def _evasions(groups: Sequence[Group]) -> str:
    """Attackers who evade maps: their gain and cost."""
    rows = []
    for group in groups:
        kind = _evasion(group)
        if kind:
            rows.append([kind, _mark(group), *_attack_cells(group)])
    if not rows:
        return ""
    return (
        "### Attackers who evade the map\n\n"
        "The tables above show the effect on each method; if the attack fails, a "
        "map that misses means nothing. An attacker who disguises the map controls the training "
        "loss (after "
        "Noppel et al., IEEE S&P 2023), which is outside the paper's threat model, in which an "
        "attacker changes only data; the others are inside it."
        "\n\n" + table(["attacker", "trigger", *ATTACK], rows)
    )


def _evasion(group: Group) -> str:
    """Description of a group's attacker, "" for an ordinary one."""
    disguise = _value(group, DISGUISE) or 0
    if disguise > 0:
        return f"controls training: disguise {disguise:g}"
    if group[1][0].hit(CHANCE) is not None and not is_local(group[1][0].hit(CHANCE)):
        return "only data: no place"
    if _value(group, PLACE) == "box":
        return f"only data: on the anatomy of {_first(group).target}"
    return ""


def _scrutiny(groups: Sequence[Group]) -> str:
    """Sanity checks of maps, and maps of natural look-alikes."""
    rows = [
        [_case(group), *_scrutiny_cells(group, name)]
        for group in _mapped(groups)
        for name in group[1][0].explainers()
    ]
    header = [
        "trigger", "method", "correlation with an untrained head", "with an untrained network",
        "sanity check", "detection against letters; twin", "against leads; twin",
        "points at letters; twin; chance", "at leads; twin; chance",
    ]  # fmt: skip
    return (
        "Left: mean rank correlation of the backdoored model's maps of triggered films with those "
        f"of untrained networks (Adebayo et al. 2018); from {ALIKE:g} on in either, the "
        "method fails, since it shows the film, not the model. Right: the same films with a "
        "natural mark "
        "in place of the trigger.\n\n" + table(header, rows)
    )


def _scrutiny_cells(group: Group, explainer: str) -> list[str]:
    facts = {"method": explainer, "finding": None}
    alike = [
        _asked(RANDOMISED, "backdoored", regime="triggered", at=at, **facts)
        for at in (HEAD, ALL_WEIGHTS)
    ]
    verdicts = {sanity_verdict([find(each) for find in alike]) for each in group[1]}
    told = [
        [
            _asked(MAP_DETECTION, role, regime="triggered", at=at, **facts)
            for role in ("backdoored", "twin")
        ]
        for at in (against("letters"), against("leads"))
    ]
    hits = [
        [
            *(_asked(LOOK_ALIKE_HIT, role, regime="clean", at=at, **facts)
              for role in ("backdoored", "twin")),
            _asked(LOOK_ALIKE_HIT, "reference", regime="clean", at=at, method=CHANCE, finding=None),
        ]
        for at in ("letters", "leads")
    ]  # fmt: skip
    return [
        explainer,
        *(_of(group, find) for find in alike),
        " or ".join(sorted(verdicts)),
        *("; ".join(_of(group, find) for find in each) for each in told),
        *("; ".join(_of(group, find, percent) for find in each) for each in hits),
    ]


def _mark(group: Group) -> str:
    """The trigger, and its size in the network's input."""
    words = trigger_words(_first(group).backdoored.spec["trigger"])
    if _value(group, SIDE) is not None:
        words = f"{shown(_value(group, PLACE))}, side {_value(group, SIDE)}"
    return f"{words} ({_visible(group):g} px)"


def _case(group: Group) -> str:
    """The trigger, and the attacker if not an ordinary one."""
    kind = _evasion(group)
    return _mark(group) + (f"; {kind}" if kind else "")


def _map_cells(group: Group, explainer: str) -> list[str]:
    facts = {"regime": "triggered", "method": explainer, "finding": None}

    def both(metric: str, form: Any = decimal, at: str = "") -> str:
        roles = ("backdoored", "twin")
        found = [_of(group, _asked(metric, role, **facts, at=at), form) for role in roles]
        return "; ".join(found)

    places = ["not local"] * 4
    if is_local(group[1][0].hit(CHANCE)):
        places = [
            *(both(POINTING_HIT, percent, at) for at in (WIDE, NARROW)),
            _of(group, _asked(ENERGY, "backdoored", **facts)),
            _of(group, _asked(TOP_OVERLAP, "backdoored", **facts)),
        ]
    return [
        explainer,
        *places,
        both(MAP_DETECTION),
    ]
