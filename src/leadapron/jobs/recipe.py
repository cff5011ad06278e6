"""The commands recipe and reproduce: carry out published attacks, and write their pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leadapron import store
from leadapron.errors import UnknownNameError, UsageError
from leadapron.recipes import ENHANCEMENT, RECIPES
from leadapron.recipes.nwadike2020 import PAPERS, PRESETS
from leadapron.recipes.page import recipe_page
from leadapron.recipes.rosenblatt2023.folder import run_enhancement
from leadapron.recipes.rosenblatt2023.page import audit_lines, audit_page
from leadapron.recipes.settings import preset_settings, recipe_settings
from leadapron.report import study_lines, write_report
from leadapron.report.reproduction import write_reproduction
from leadapron.results.folder import read_study
from leadapron.specs import forgiving
from leadapron.study.run import run_study
from leadapron.study.shards import ONE_PROCESS, Running
from leadapron.types import AUTO, Contradictions, Machine

__all__ = ["CarriedOut", "reproduce", "run_recipe"]


@dataclass(frozen=True, kw_only=True)
class CarriedOut:
    """A published attack that was carried out.

    Args:
        page: the results, as Markdown.
        lines: the results for a terminal.
    """

    page: Path
    lines: list[str]


@forgiving
def run_recipe(
    name: str,
    out: Path,
    *,
    source: str | None = None,
    settings: Mapping[str, Any] | None = None,
    machine: Machine = AUTO,
    contradictions: Contradictions = "refuse",
    running: Running = ONE_PROCESS,
) -> CarriedOut:
    """Carry out a published attack with its controls and clean twins.

    recipe.md states which settings are the paper's, which are ours, and what was left out. Options
    override the recipe's settings. After an interruption the same command continues.

    Args:
        name: name of the recipe.
        out: the study's folder.
        source: where films come from; phantoms if left out.
        settings: settings that override the recipe's.
        machine: device, precision, cache and progress.
        contradictions: refuse or allow identical films with contradicting labels.
        running: number of processes, and shard of the runs.

    Raises:
        UnknownNameError: no such recipe.
        UsageError: settings, or processes, that a recipe without a trigger doesn't use.
        LeadapronError: as `run_study`.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    page = out / "recipe.md"
    if name == ENHANCEMENT:
        if running != ONE_PROCESS:
            raise UsageError(f"--jobs and --shard: {name} is not a study of several runs")
        tree, facts = run_enhancement(
            RECIPES[name],
            out,
            source,
            settings or {},
            machine=machine,
            contradictions=contradictions,
        )
        words, lines = audit_page(name, RECIPES[name], tree, facts), audit_lines(facts)
    else:
        tree = recipe_settings(RECIPES[name], source, settings)
        run_study(tree, out, machine=machine, contradictions=contradictions, running=running)
        write_report(out)
        words = recipe_page(name, RECIPES[name], tree, read_study(out).pairs)
        lines = study_lines(out)
    with store.write_atomically(page) as file:
        file.write(words.encode())
    return CarriedOut(page=page, lines=lines)


@forgiving
def reproduce(
    paper: str,
    preset: str,
    out: Path,
    *,
    source: str | None = None,
    settings: Mapping[str, Any] | None = None,
    machine: Machine = AUTO,
    contradictions: Contradictions = "refuse",
    running: Running = ONE_PROCESS,
) -> CarriedOut:
    """Reproduce a paper and check its claims: the methods of its code, and corrected ones.

    Every cell has a clean twin.

    Args:
        paper: one of `PAPERS`, as "nwadike2020".
        preset: size of the reproduction: "smoke", minutes on phantoms; "quick", less than an hour
            on a few thousand films; or "full", the whole grid on a larger machine.
        out: the study's folder, new or from an earlier start of this study.
        source: where films come from; the preset's if left out.
        settings: settings that override the preset's, as of `leadapron study`; the preset's axes
            can't be changed.
        machine: device, precision, cache and progress.
        contradictions: refuse or allow identical films with contradicting labels.
        running: number of processes, and shard of the runs; as `run_study`.

    Returns:
        `reproduction.md` in the folder; `report.html` is written next to it.

    Raises:
        UnknownNameError: no such paper or preset.
        LeadapronError: as `run_study`.
    """
    if paper not in PAPERS:
        raise UnknownNameError("paper", paper, PAPERS)
    if preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    tree = preset_settings(PRESETS[preset], source, settings or {})
    run_study(tree, out, machine=machine, contradictions=contradictions, running=running)
    write_report(out)
    return CarriedOut(page=write_reproduction(out), lines=study_lines(out))
