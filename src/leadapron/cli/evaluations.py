"""Commands that measure what scans, audits and gates find."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from leadapron.cli.generate import Answer, command, done
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
        more=f"The same command continues where it was stopped. Groups: {', '.join(GROUPS)}.",
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
    """Measure how much poison a scan finds, how often it is wrong, and where it is blind.

    Args:
        preset: a look, half an hour, a day; sets of two classes; or joined sources.
        source: what is poisoned, and scanned as it is. Repeats: each by itself; sources with
            " + " between them are joined.
        also: more sources that are scanned as they are. Repeats.
        only: a part of the preset; SOURCE is its folder's name, of worlds open or sealed; * stands
            for anything. Repeats; see --plan.
        sealed: scan sealed cells and worlds too; once, at last.
        draws: sets of each cell, at most.
        worlds: sets of each world, at most.
        clean: clean phantom sets, and halves of each source, at most.
        plan: name the scans and end.
        out: folder of the results.
        running: in how many processes, and which part.
        markdown: write the page there as well.
        train: let networks look at each set too, as scan --train; half a minute more a set.
        size: side of the images in pixels.
        seed: of everything that is drawn.
        machine: where networks are trained, and the cache of decoded films.
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
    return done([*lines, f"{counts.total():6d}  in all"], scans=counts, indent=None)


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
    if all("p" in row for row in rows):
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
        flat={"setting": ("false_alarm", "calibration", "test", "triggered", "seed")},
    )


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
    out: Path,
) -> Answer:
    """Write the results of several evaluations on one page.

    Args:
        scan: folder of `evaluate scan`.
        trained: folder of `evaluate scan --train`, compared with that of --scan.
        audit: folder of `evaluate audit`.
        screen: folder of `evaluate screen`.
        out: the Markdown file.
    """
    from leadapron.report.limits import write_limits

    if scan is audit is screen is None:
        raise UsageError("nothing to write; expected --scan, --audit or --screen, each a FOLDER")
    write_limits(out, scan=scan, trained=trained, audit=audit, screen=screen)
    return done([f"Page: {out}"], page=str(out), indent=None)


def _page(out: Path, what: str) -> list[Path]:
    from leadapron.report.limits import write_limits

    given: Mapping[str, Any] = {what: out}
    return [write_limits(out / "limits.md", **given)]


def _evaluated(rows: Sequence[Mapping[str, Any]], pages: Sequence[Path]) -> Answer:
    lines = (line for line in (pages[0].read_text().rstrip(), f"\nPage: {pages[-1]}"))
    return done(lines, rows=rows, indent=None)


EVALUATIONS: Lazy = {
    "scan": ("How much poison a scan finds.", evaluate_scan_command),
    "audit": ("How many backdoors audits find.", evaluate_audit_command),
    "screen": ("How many triggered films a gate finds.", evaluate_screen_command),
    "page": ("The results of several on one page.", evaluate_page_command),
}


def evaluate_command() -> click.Command:
    """Make the command."""
    return Commands(
        "evaluate",
        lazy=EVALUATIONS,
        help=(
            "Measure how much a method finds, how often it is wrong, and where it is blind.\n\n"
            "The same command continues where it was stopped."
        ),
    )
