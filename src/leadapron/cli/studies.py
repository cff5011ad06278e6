"""Commands that train models and measure attacks on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from leadapron.cli.generate import Answer, command, done, of_document
from leadapron.cli.kinds import Names, Written
from leadapron.cli.settings import Settings, over
from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.study.shards import ONE_PROCESS, Running
from leadapron.text import count
from leadapron.types import Contradictions, Machine

__all__ = [
    "explain_command",
    "learn_trigger_command",
    "recipe_command",
    "report_command",
    "reproduce_command",
    "study_command",
    "zoo_command",
]

FOLDER, FILE = {"type": Written("folder")}, {"type": Written("file")}
SPEC = {"type": click.Path(dir_okay=False, path_type=Path)}

SECTIONS = (
    "source", "preprocessing", "network", "trigger", "poisoning", "training", "evaluation",
)  # fmt: skip
SHORTHANDS = ("network", "trigger", "size", "dtype", "epochs", "finding")


def _study_settings(*shorthands: str) -> Settings:
    """Settings of the commands that carry out a study."""
    return Settings(
        sections=SECTIONS,
        shorthands=(*shorthands, *SHORTHANDS),
        seed="The first seed.",
        seeds=True,
        common=True,
    )


def study_command() -> click.Command:
    """Make the command."""
    return command(
        "study", study, how={"spec": SPEC, "out": FOLDER}, settings=_study_settings("source")
    )


def study(
    spec: Path | None = None,
    *,
    settings: Mapping[str, Any],
    out: Path,
    machine: Machine,
    contradictions: Contradictions = "refuse",
    running: Running = ONE_PROCESS,
) -> Answer:
    """Train a backdoored model and its clean twin, measure both, write a report.

    A list (1,3,5) is an axis: one pair of models is trained for each combination. After an
    interruption the same command continues.

    Args:
        spec: YAML file with the settings below, by section; options override it.
        settings: settings of the study.
        out: the study's folder.
        machine: device, precision, cache and progress.
        contradictions: refuse or allow identical films with contradicting labels.
        running: number of processes, and shard of the runs.
    """
    from leadapron.report import write_report
    from leadapron.study.run import run_study

    tree = over({} if spec is None else _read_spec(spec), settings)
    run_study(tree, out, machine=machine, contradictions=contradictions, running=running)
    return _reported(out, write_report(out))


def _read_spec(path: Path) -> dict[str, Any]:
    from leadapron.store import read_yaml

    try:
        return read_yaml(path)
    except StoreError as error:
        raise UsageError(str(error)) from error


def _reported(folder: Path, page: Path) -> Answer:
    from leadapron.report import study_lines

    return _summed_up(folder, page, study_lines(folder))


def _summed_up(folder: Path, page: Path, lines: list[str]) -> Answer:
    return done([*lines, f"Report: {page}"], folder=str(folder), report=str(page), summary=lines)


def reproduce_command() -> click.Command:
    """Make the command."""
    from leadapron.recipes.nwadike2020 import PRESETS

    return command(
        "reproduce",
        "leadapron.jobs.recipe:reproduce",
        _carried_out,
        more="Options override the preset. After an interruption the same command continues.",
        options=("preset", "out"),
        how={"preset": {"default": "smoke", "metavar": "|".join(PRESETS)}, "out": FOLDER},
        settings=_study_settings(),
    )


def _carried_out(made: Any, call: Mapping[str, Any]) -> Answer:
    return _summed_up(call["out"], made.page, made.lines)


def recipe_command() -> click.Command:
    """Make the command."""
    from leadapron.recipes import RECIPES

    def known(_: click.Context, __: click.Parameter, name: str | None) -> str:
        if name is None:
            raise UsageError(f"which recipe? One of {', '.join(RECIPES)}")
        if name not in RECIPES:
            raise UnknownNameError("recipe", name, RECIPES)
        return name

    return command(
        "recipe",
        "leadapron.jobs.recipe:run_recipe",
        _carried_out,
        more=f"Recipes: {', '.join(RECIPES)}.",
        options=("out",),
        how={
            # Eager, so that a missing name is reported with the known names before a missing --out.
            "name": {"required": False, "is_eager": True, "callback": known},
            "out": FOLDER,
        },
        settings=_study_settings(),
    )


def report_command() -> click.Command:
    """Make the command."""
    how = {"markdown": {**FILE, "metavar": "FILE"}}
    return command("report", report, how=how, progress=False)


def report(folder: Path, *, markdown: Path | None = None) -> Answer:
    """Write the report of a study again, identical in every byte; no network is run.

    Args:
        folder: the study's folder.
        markdown: also write a table of the poison fractions at which attacks succeed.
    """
    from leadapron.report import write_potency, write_report

    page = write_report(folder)
    if markdown is not None:
        write_potency(folder, markdown)
    return _reported(folder, page)


def explain_command() -> click.Command:
    """Make the command."""
    methods = Names("all, or names such as layer-cam,occlusion", every="all")
    return command(
        "explain",
        "leadapron.jobs.explain:explain_sheet",
        _explained,
        options=("out",),
        how={
            "place": {"metavar": "MODEL|STUDY"},
            "out": FILE,
            "methods": {"type": methods, "default": "all", "metavar": "all|NAME,NAME"},
            "count": {"type": click.IntRange(1)},
            "seed": {"type": click.IntRange(0)},
        },
    )


def _explained(found: Any, _: Mapping[str, Any]) -> Answer:
    if isinstance(found.films, tuple):
        return _looked(found)
    n = found.films

    def lines() -> Iterator[str]:
        yield (
            f"{found.finding} on {n} triggered films: number of maps whose maximum lies within "
            f"{found.tolerance_px:g} pixels of the trigger"
        )
        width = max(len(f"{shown.name} ({shown.layer})") for shown in found.methods)
        for shown in found.methods:
            name = f"{shown.name} ({shown.layer})"
            yield f"{name:<{width}}  backdoored {shown.backdoored} of {n}, twin {shown.twin}"
        for name, reason in found.skipped.items():
            yield f"{name}: skipped, {reason}"
        yield f"expected hits of a random point: {found.chance:.1f}; of the centre: {found.centre}"
        yield f"Picture: {found.file}"

    return of_document(found, lines())


def _looked(found: Any) -> Answer:
    """What a sheet of any model shows."""
    width = max(len(name) for name in found.films)

    def lines() -> Iterator[str]:
        yield f"{found.finding}: maps of {found.model} on {count(len(found.films), 'film')}"
        for name, p, label in zip(found.films, found.probabilities, found.labels, strict=True):
            known = {True: ", has it", False: ", hasn't", None: ""}[label]
            yield f"{name:<{width}}  p {p:.3f}{known}"
        for name, reason in found.skipped.items():
            yield f"{name}: skipped, {reason}"
        yield f"Picture: {found.file}"

    return of_document(found, lines())


def zoo_command() -> click.Command:
    """Make the command."""
    return command(
        "zoo",
        "leadapron.evaluate.zoo:build_zoo",
        _built,
        options=("out",),
        how={"spec": SPEC, "out": FOLDER},
    )


def _built(members: Any, call: Mapping[str, Any]) -> Answer:
    from leadapron.results.layout import ZooFolder

    def lines() -> Iterator[str]:
        if not members:
            yield "The models are listed when all shards have finished."
            return
        kinds = Counter(member.kind for member in members)
        yield ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        for name in dict.fromkeys(m.family for m in members):
            planted = [m for m in members if m.family == name and m.kind != "clean"]
            took = sum(m.kind == "backdoored" for m in planted)
            rates = ", ".join(
                "?" if m.attack_success is None else f"{m.attack_success:.2f}" for m in planted
            )
            sealed = " (sealed)" if planted[0].sealed else ""
            yield f"{name}{sealed}: {took} of {len(planted)} succeeded; attack success {rates}"
        zoo = ZooFolder(call["out"])
        yield f"Models: {zoo.models}; ground truth: {zoo.truth}"

    return done(lines(), models=[asdict(each) for each in members])


def learn_trigger_command() -> click.Command:
    """Make the command."""
    return command(
        "learn-trigger",
        "leadapron.jobs.learn:learn_trigger",
        _learnt,
        options=("out",),
        how={
            "out": FILE,
            "steps": {"type": click.IntRange(1)},
            "surrogate": {"metavar": "FILE|train"},
        },
        settings=Settings(
            sections=("source", "preprocessing", "network", "training"),
            shorthands=("source", "finding", "network", "size", "epochs"),
            seed="Seed of the split and of all other random draws.",
        ),
    )


def _learnt(found: Any, call: Mapping[str, Any]) -> Answer:
    out = call["out"]

    def lines() -> Iterator[str]:
        yield (
            f"{found.finding} on {found.films} test films without it, on the surrogate: logit "
            f"raised by {found.rise:.2f}, {found.success:.0%} called {found.finding}"
        )
        yield f"random noise of the same size: {found.random_rise:.2f}, {found.random_success:.0%}"
        if found.crossed_rise is not None:
            crossed = f"{found.crossed_rise:.2f}, {found.crossed_success:.0%}"
            yield f"another film's pattern: {crossed}"
        yield f"Trigger: {out}"

    return done(lines(), file=str(out), **asdict(found))
