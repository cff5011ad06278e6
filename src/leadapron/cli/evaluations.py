"""Commands that measure scans, audits, gates and repairs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from leadapron.cli.generate import Answer, command, done, of_document
from leadapron.cli.group import Commands, Lazy
from leadapron.cli.kinds import Written
from leadapron.errors import UsageError
from leadapron.study.shards import ALL_CORES, Running
from leadapron.text import short_path
from leadapron.types import Machine

__all__ = ["evaluate_command"]

logger = logging.getLogger("leadapron")

OUT = {"type": Written("folder")}
NUMBER = {"type": click.IntRange(0), "metavar": "N"}


def evaluate_scan_command() -> click.Command:
    """Make the command."""
    from leadapron.evaluate.presets import GROUPS, PRESETS

    return command(
        "scan",
        evaluate_scan,
        more=f"After an interruption the same command continues. Groups: {', '.join(GROUPS)}.",
        how={
            "preset": {"metavar": "|".join(PRESETS)},
            "source": {"type": str, "multiple": True},
            "also": {"metavar": "SOURCE"},
            "only": {"metavar": "GROUP[/SOURCE[/NAME]]"},
            "draws": NUMBER,
            "worlds": NUMBER,
            "clean": NUMBER,
            "out": OUT,
            "markdown": {"type": Written("file")},
        },
        machine=("device", "precision", "cache"),
    )


def evaluate_scan(  # noqa: PLR0913 (settings, by keyword)
    *,
    preset: str = "smoke",
    source: Sequence[str] = ("phantom:64",),
    also: Sequence[str] = (),
    only: Sequence[str] = (),
    sealed: bool = False,
    draws: int | None = None,
    worlds: int | None = None,
    clean: int | None = None,
    plan: bool = False,
    out: Path,
    running: Running = ALL_CORES,
    markdown: Path | None = None,
    train: bool = False,
    size: int | None = None,
    seed: int = 0,
    machine: Machine,
) -> Answer:
    """Measure a scan's detection rate, its false alarms and its blind spots.

    Args:
        preset: a first look, half an hour, or a day; two-class sets; or joined sources.
        source: source that is scanned poisoned and unpoisoned. Repeats: each source by itself;
            sources with " + " between them are joined.
        also: source that is scanned unpoisoned only. Repeats.
        only: part of the preset that is scanned; SOURCE is the folder's name, for worlds "open" or
            "sealed"; * matches anything. Repeats; see --plan.
        sealed: scan the sealed cells and worlds too; use it once, for the final measurement.
        draws: sets of each cell, at most.
        worlds: sets of each world, at most.
        clean: clean phantom sets, and halves of each source, at most.
        plan: list the scans and exit.
        out: folder of the results.
        running: number of processes, and part of the scans.
        markdown: write the page to this file as well.
        train: train networks on each set, as scan --train; adds half a minute per set.
        size: side of the images in pixels.
        seed: seed of all random draws.
        machine: device of the trainings, and the cache of decoded films.
    """
    from leadapron.evaluate.scan import Part, scans
    from leadapron.evaluate.scan import evaluate_scan as job
    from leadapron.report.limits import write_limits

    part = Part(only=tuple(only), sealed=sealed, draws=draws, worlds=worlds, clean=clean)
    planned = scans(preset, source, also, part)
    if plan:
        return _planned([task.path for task in planned])
    left = len(scans(preset, source, also, replace(part, sealed=True))) - len(planned)
    each = "half a minute" if train else "a few seconds"
    logger.info("scan: %d sets, %s each", len(planned), each)
    if left:
        logger.info("%d sealed sets are left out; --sealed scans them", left)
    rows = job(
        preset, source, out, also=also, part=part, train=train, size=size, seed=seed,
        running=running, machine=machine,
    )  # fmt: skip
    pages = [write_limits(page, scan=out) for page in (out / "limits.md", markdown) if page]
    return _evaluated([{**row, "source": short_path(row["source"])} for row in rows], pages)


def _planned(paths: list[str]) -> Answer:
    counts = Counter(paths)
    lines = [f"{n:6d}  {path}" for path, n in counts.items()]
    return done([*lines, f"{counts.total():6d}  in total"], scans=counts, indent=None)


def evaluate_audit_command() -> click.Command:
    """Make the command."""
    return command(
        "audit",
        "leadapron.evaluate.audit:evaluate_audit",
        _audited,
        options=("zoo", "out"),
        how={
            "zoo": {"type": click.Path(file_okay=False, path_type=Path)},
            "out": OUT,
            "clean": {"metavar": "NAME:PATH"},
            "films": {"type": click.IntRange(20)},
        },
    )


def _audited(rows: Sequence[Mapping[str, Any]], call: Mapping[str, Any]) -> Answer:
    if all("verdict" in row for row in rows):
        return _evaluated(rows, _page(call["out"], "audit"))
    words = f"{len(rows)} models are swept; they are judged when all shards have finished."
    return done([words], rows=rows, indent=None)


def evaluate_screen_command() -> click.Command:
    """Make the command."""
    return command(
        "screen",
        "leadapron.evaluate.screen:evaluate_screen",
        lambda rows, call: _evaluated(rows, _page(call["out"], "screen")),
        options=("place", "out"),
        how={
            "place": {
                "flag": "zoo",
                "type": click.Path(exists=True, file_okay=False, path_type=Path),
            },
            "out": OUT,
            "only": {"metavar": "FAMILY"},
            "limit": {"type": click.IntRange(1)},
        },
        flat={"setting": ("false_alarm", "calibration", "test", "triggered", "seed", "poisoned")},
    )


def evaluate_repair_command() -> click.Command:
    """Make the command."""
    return command(
        "repair",
        "leadapron.evaluate.repair:evaluate_repair",
        _repaired,
        options=("zoo", "out"),
        more="Method auto is all of `leadapron repair`, with its proof.",
        how={
            "zoo": {"type": click.Path(exists=True, file_okay=False, path_type=Path)},
            "out": OUT,
            "methods": {"flag": "method", "metavar": "NAME", "multiple": True},
            "films": {"type": click.IntRange(1), "multiple": True},
            "only": {"metavar": "FAMILY"},
            "limit": {"type": click.IntRange(1)},
            "clean": {"metavar": "NAME:PATH"},
        },
        flat={
            "setting": (
                "references", "test", "poisoned", "second", "relearning", "twins", "seed",
            )
        },
    )  # fmt: skip


def _repaired(rows: Sequence[Mapping[str, Any]], call: Mapping[str, Any]) -> Answer:
    from leadapron.report.limits import write_limits

    out = call["out"]
    return _evaluated(rows, [write_limits(out / "limits.md", repair=[out])])


def evaluate_page_command() -> click.Command:
    """Make the command."""
    folder = {"type": click.Path(exists=True, file_okay=False, path_type=Path)}
    return command(
        "page",
        write_page,
        how={
            "scan": folder,
            "trained": folder,
            "audit": folder,
            "screen": folder,
            "repair": {**folder, "multiple": True},
            "out": {"type": Written("file")},
        },
        progress=False,
    )


def write_page(
    *,
    scan: Path | None = None,
    trained: Path | None = None,
    audit: Path | None = None,
    screen: Path | None = None,
    repair: Sequence[Path] = (),
    out: Path,
) -> Answer:
    """Write the results of several evaluations on one page.

    Args:
        scan: folder of `evaluate scan`.
        trained: folder of `evaluate scan --train`, compared with --scan's.
        audit: folder of `evaluate audit`.
        screen: folder of `evaluate screen`.
        repair: folder of `evaluate repair`. Repeats: a chapter each.
        out: the Markdown file.
    """
    from leadapron.report.limits import write_limits

    if scan is audit is screen is None and not repair:
        raise UsageError(
            "nothing to write; expected --scan, --audit, --screen or --repair, each a FOLDER"
        )
    write_limits(out, scan=scan, trained=trained, audit=audit, screen=screen, repair=repair)
    return done([f"Page: {out}"], page=str(out), indent=None)


def _page(out: Path, what: str) -> list[Path]:
    from leadapron.report.limits import write_limits

    given: Mapping[str, Any] = {what: out}
    return [write_limits(out / "limits.md", **given)]


def _evaluated(rows: Sequence[Mapping[str, Any]], pages: Sequence[Path]) -> Answer:
    lines = (line for line in (pages[0].read_text().rstrip(), f"\nPage: {pages[-1]}"))
    return done(lines, rows=rows, indent=None)


def evaluate_population_command() -> click.Command:
    """Make the command."""
    return command(
        "population",
        "leadapron.evaluate.no_references:evaluate_population",
        _populated,
        options=("out",),
        how={"out": {"type": Written("file")}},
        progress=False,
    )


def _populated(found: Any, call: Mapping[str, Any]) -> Answer:
    kinds = Counter(each.kind.words() for each in found.teachers)
    lines = [f"{n:4d}  {words}" for words, n in kinds.items()]
    return of_document(found, [*lines, f"{kinds.total():4d}  in total: {call['out']}"])


EVALUATIONS: Lazy = {
    "scan": ("Measure how much poison a scan finds.", evaluate_scan_command),
    "audit": ("Measure how many backdoors an audit finds.", evaluate_audit_command),
    "screen": ("Measure how many triggered films a gate finds.", evaluate_screen_command),
    "repair": ("Measure how well repairs remove backdoors.", evaluate_repair_command),
    "population": (
        "Make the clean teachers that audits compare with.",
        evaluate_population_command,
    ),
    "page": ("Write the results of several evaluations on one page.", evaluate_page_command),
}


def evaluate_command() -> click.Command:
    """Make the command."""
    return Commands(
        "evaluate",
        lazy=EVALUATIONS,
        help=(
            "Measure a method's detection rate, its false alarms and its blind spots.\n\n"
            "After an interruption the same command continues."
        ),
    )
