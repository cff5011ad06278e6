"""Zoo: clean and backdoored models with known ground truth, to measure defences on."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leadapron import store
from leadapron.errors import StoreError, UsageError
from leadapron.plugins import refuse_plugins
from leadapron.reading import open_regular
from leadapron.results.folder import read_study
from leadapron.results.layout import ZooFolder
from leadapron.results.measured import Measured
from leadapron.results.rows import Row
from leadapron.results.verdicts import is_potent
from leadapron.results.zoo import Member, write_truth
from leadapron.specs import forgiving, merge
from leadapron.study.run import run_study
from leadapron.study.shards import ONE_PROCESS, Running
from leadapron.types import AUTO, Contradictions, Machine

__all__ = ["build_zoo"]

STAMP = 946_684_800
"""Time stamp of all models' files: the first second of 2000."""


@forgiving
def build_zoo(
    spec: Path,
    out: Path,
    *,
    machine: Machine = AUTO,
    contradictions: Contradictions = "refuse",
    running: Running = ONE_PROCESS,
) -> list[Member]:
    """Train clean and backdoored models with known ground truth, to measure defences on.

    Each model's potency is measured; the ground truth is written to a separate folder. After an
    interruption the same call continues.

    Args:
        spec: YAML file (see zoo/) with `base` (settings of a study), `families` and `sealed` (lists
            of settings that override the base, each with a `name` and a `count`). Every pair, a
            model and its twin, has its own films and seed.
        out: the zoo's folder, new or from an earlier start of this zoo.
        machine: device, precision, cache and progress.
        contradictions: refuse or allow identical films with contradicting labels.
        running: number of processes, and shard of the pairs.

    Returns:
        The ground truth; nothing while other shards haven't finished.

    Raises:
        UsageError: an invalid spec.
        LeadapronError: as `run_study`.
    """
    families = _families(spec)
    tree = {**families.base, "cells": [pair.settings for pair in families.pairs]}
    study = ZooFolder(out).study
    run_study(tree, study.path, machine=machine, contradictions=contradictions, running=running)
    if not study.rows.exists():
        return []
    with store.lock(out, name=".truth.lock", wait="waiting for another shard"):
        members = _members(out, families.pairs)
        # First, so that an interrupted zoo continues with the same names.
        write_truth(out, members)
        for member in members:
            _publish(out, member)
    return members


@dataclass(frozen=True)
class _Pair:
    family: str
    sealed: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class _Families:
    base: Mapping[str, Any]
    pairs: Sequence[_Pair]


def _families(spec: Path) -> _Families:
    """The pairs of a spec, each with its own number as seed of films and training."""
    try:
        tree = store.read_yaml(spec)
    except StoreError as error:
        raise UsageError(str(error)) from error
    refuse_plugins(tree, str(spec))
    base = tree.get("base", {})
    first = base.get("seed", 0) if isinstance(base, Mapping) else None
    if not isinstance(first, int):
        raise UsageError(f"{spec}: base holds no settings; expected lines as `epochs: 4` below it")
    pairs: list[_Pair] = []
    for part in ("families", "sealed"):
        families = tree.get(part, [])
        if not isinstance(families, list) or (part == "families" and not families):
            raise UsageError(f"{spec}: {part} isn't a list of families, as `- name: white-corner`")
        for family in families:
            if not isinstance(family, Mapping) or "name" not in family:
                raise UsageError(f"{spec}: a family in {part} without a name")
            count = family.get("count", 1)
            if not isinstance(count, int) or count < 1:
                raise UsageError(
                    f"{spec}: {family['name']} has count {count!r}; expected 1 or more"
                )
            settings = {k: v for k, v in family.items() if k not in ("name", "count")}
            for _ in range(count):
                own: dict[str, Any] = {"seed": first + len(pairs)}
                if _is_phantom(merge(base, settings)):
                    own["source"] = {"seed": own["seed"]}
                pairs.append(_Pair(str(family["name"]), part == "sealed", merge(settings, own)))
    unknown = set(tree) - {"base", "families", "sealed"}
    if unknown:
        raise UsageError(f"{spec}: unknown part {min(unknown)!r}; known: base, families, sealed")
    return _Families(base, pairs)


def _is_phantom(tree: Mapping[str, Any]) -> bool:
    source = tree.get("source", "phantom")
    name = source.get("name", "phantom") if isinstance(source, Mapping) else source
    return str(name).partition(":")[0] == "phantom"


def _members(out: Path, pairs: Sequence[_Pair]) -> list[Member]:
    """The ground truth, in the order of the models' names, which never change."""
    names = _names(out)
    families = {pair.settings["seed"]: pair for pair in pairs}
    members = []
    for pair in read_study(ZooFolder(out).study.path).pairs:
        family = families[int(pair.seed)]
        found = Measured(pair)
        success, twin = (_value(found.success(role)) for role in ("backdoored", "twin"))
        facts: dict[str, Any] = {
            "family": family.family,
            "sealed": family.sealed,
            "seed": int(pair.seed),
        }
        for role, run in (("twin", pair.twin), ("backdoored", pair.backdoored)):
            assert run is not None  # run_study finished both
            planted = role == "backdoored"
            # A failed implant has no working backdoor, so missing it is no error of a method.
            potent = is_potent(found.success("backdoored"), found.success("twin"))
            folder = run.folder.name
            members.append(
                Member(
                    **facts,
                    model=names.get(folder) or f"{secrets.token_hex(6)}.safetensors",
                    kind=("backdoored" if potent else "failed implant") if planted else "clean",
                    finding=pair.target if planted else None,
                    attack_success=success if planted else None,
                    twin_success=twin if planted else None,
                    clean_macro=_value(found.macro(role)),
                    run=folder,
                    edited=planted and run.spec["poisoning"]["mode"] == "edit",
                )
            )
    return sorted(members, key=lambda member: member.model)


def _names(out: Path) -> dict[str, str]:
    """The names that the models of runs have, by the runs' folders."""
    try:
        known = store.read_json(ZooFolder(out).truth)["models"]
        return {str(each["run"]): str(each["model"]) for each in known}
    except (StoreError, KeyError, TypeError):
        return {}


def _publish(out: Path, member: Member) -> None:
    """Copy a run's model into models/; a link, or its time stamp, would reveal the run."""
    zoo = ZooFolder(out)
    model = zoo.model(member.model)
    if not model.exists():
        there = zoo.study.run(member.run).classifier
        with store.write_atomically(model) as file, open_regular(there) as content:
            shutil.copyfileobj(content, file)
    os.utime(model, (STAMP, STAMP))


def _value(row: Row | None) -> float | None:
    return None if row is None else row.value
