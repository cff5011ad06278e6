"""Commands that measure what scans, audits and gates find."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from leadapron.cli.group import Commands, Lazy
from leadapron.cli.options import (
    Written,
    cache_option,
    film_options,
    json_option,
    machine_options,
    results_options,
    running,
    running_of,
    sweep_of,
    sweep_options,
)
from leadapron.errors import UsageError
from leadapron.text import short_path

__all__ = ["evaluate_command"]

logger = logging.getLogger("leadapron")


def evaluate_scan_command() -> click.Command:
    """Make the command."""
    from leadapron.evaluate.presets import PRESETS
    from leadapron.evaluate.scan import GROUPS

    return click.Command(
        "scan",
        params=[
            click.Option(
                ["--preset"],
                default="smoke",
                show_default=True,
                metavar="|".join(PRESETS),
                help="A look, half an hour, a day; sets of two classes; or joined sources.",
            ),
            click.Option(
                ["--source"],
                multiple=True,
                default=("phantom:64",),
                show_default=True,
                help="What is poisoned, and scanned as it is. Repeats: each by itself; sources "
                'with " + " between them are joined.',
            ),
            click.Option(
                ["--also"],
                multiple=True,
                metavar="SOURCE",
                help="More sources that are scanned as they are. Repeats.",
            ),
            click.Option(
                ["--only"],
                multiple=True,
                metavar="GROUP[/SOURCE[/NAME]]",
                help=f"A part of the preset: {', '.join(GROUPS)}; SOURCE is its folder's "
                "name, of worlds open or sealed; * stands for anything. Repeats; see --plan.",
            ),
            click.Option(
                ["--sealed"], is_flag=True, help="Scan sealed cells and worlds too; once, at last."
            ),
            *(
                click.Option([f"--{name}"], type=click.IntRange(0), metavar="N", help=words)
                for name, words in (
                    ("draws", "Sets of each cell, at most."),
                    ("worlds", "Sets of each world, at most."),
                    ("clean", "Clean phantom sets, and halves of each source, at most."),
                )
            ),
            click.Option(["--plan"], is_flag=True, help="Name the scans and end."),
            *results_options(),
            click.Option(
                ["--markdown"],
                type=Written("file"),
                help="Write the page there as well.",
            ),
            click.Option(["--size"], type=int, help="Side of the images in pixels."),
            click.Option(["--seed"], type=int, default=0, help="Of everything that is drawn."),
            cache_option(),
            json_option(),
        ],
        callback=_run_evaluate_scan,
        help=(
            "Measure how much poison a scan finds, how often it is wrong, and where it is "
            "blind.\n\nThe same command continues where it was stopped."
        ),
    )


def _run_evaluate_scan(
    preset: str,
    source: tuple[str, ...],
    also: tuple[str, ...],
    plan: bool,
    out: Path,
    markdown: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.evaluate.scan import Part, evaluate_scan, scans
    from leadapron.report.limits import write_limits
    from leadapron.specs import parameters

    shared = running_of(given)
    part = Part(**{name: given.pop(name) for name in parameters(Part)})
    planned = scans(preset, source, also, part)
    if plan:
        _answer_plan([task.path for task in planned], as_json)
        return
    left = len(scans(preset, source, also, replace(part, sealed=True))) - len(planned)
    logger.info("scan: %d sets, a few seconds each", len(planned))
    if left:
        logger.info("%d sealed sets are left out; --sealed scans them", left)
    with running(given) as machine:
        rows = evaluate_scan(
            preset,
            source,
            out,
            also=also,
            part=part,
            running=shared,
            machine=machine,
            **given,
        )
    pages = [write_limits(page, scan=out) for page in (out / "limits.md", markdown) if page]
    shown = [{**row, "source": short_path(row["source"])} for row in rows]
    _answer_evaluation(shown, pages, as_json)


def _answer_plan(paths: list[str], as_json: bool) -> None:
    counts = Counter(paths)
    if as_json:
        click.echo(json.dumps({"schema": 1, "verdict": "done", "scans": counts}))
        return
    for path, n in counts.items():
        click.echo(f"{n:6d}  {path}")
    click.echo(f"{counts.total():6d}  in all")


def evaluate_audit_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "audit",
        params=[
            click.Option(
                ["--zoo"],
                type=click.Path(file_okay=False, path_type=Path),
                required=True,
                help="Folder of models of known truth, that `leadapron zoo` made.",
            ),
            click.Option(
                ["--clean"],
                metavar="NAME:PATH",
                help="Films that no model was trained on; fresh phantoms, or the test films of "
                "each model's run, if left out.",
            ),
            click.Option(
                ["--films"],
                type=click.IntRange(20),
                default=256,
                show_default=True,
                help="Films that a model is swept on, at most.",
            ),
            click.Option(["--sealed"], is_flag=True, help="Look at sealed families too."),
            click.Option(
                ["--no-statistics"],
                is_flag=True,
                help="Leave out the networks' further statistics.",
            ),
            *results_options(),
            *sweep_options(),
            *machine_options(),
            *film_options(),
            json_option(),
        ],
        callback=_run_evaluate_audit,
        help=(
            "Measure how many of a zoo's backdoors audits find, whether they name the target, and "
            "how many clean models they accuse.\n\nThe same command continues where it was stopped."
        ),
    )


def _run_evaluate_audit(
    zoo: Path,
    out: Path,
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.evaluate.audit import evaluate_audit
    from leadapron.report.limits import write_limits

    sweep, shared = sweep_of(given), running_of(given)
    statistics = not given.pop("no_statistics")
    with running(given) as machine:
        rows = evaluate_audit(
            zoo,
            out,
            sweep=sweep,
            statistics=statistics,
            machine=machine,
            running=shared,
            **given,
        )
    finished = all("p" in row for row in rows)
    pages = [write_limits(out / "limits.md", audit=out)] if finished else []
    _answer_evaluation(rows, pages, as_json)


def evaluate_screen_command() -> click.Command:
    """Make the command."""
    from leadapron.evaluate.screen import Setting

    usual = Setting()
    return click.Command(
        "screen",
        params=[
            click.Option(
                ["--zoo"],
                type=click.Path(exists=True, file_okay=False, path_type=Path),
                required=True,
                help="Folder that `leadapron zoo` made, or a finished study's.",
            ),
            *results_options(),
            click.Option(["--only"], multiple=True, metavar="FAMILY", help="Repeats."),
            click.Option(["--limit"], type=click.IntRange(1), help="Backdoored models at most."),
            click.Option(["--sealed"], is_flag=True, help="Look at sealed families too."),
            click.Option(
                ["--false-alarm"],
                type=float,
                default=usual.false_alarm,
                show_default=True,
                help="Share of clean films that a gate may call suspicious.",
            ),
            *(
                click.Option(
                    [f"--{name}"],
                    type=int,
                    default=getattr(usual, name),
                    show_default=True,
                    help=words,
                )
                for name, words in (
                    ("calibration", "Fresh phantoms that set the threshold."),
                    ("test", "Fresh phantoms that are judged."),
                    ("triggered", "Films with the trigger, at most."),
                    ("seed", "Of everything that is drawn."),
                )
            ),
            *machine_options(),
            *film_options(),
            json_option(),
        ],
        callback=_run_evaluate_screen,
        help=(
            "Measure how many triggered films a gate finds on models of known truth, and how many "
            "clean ones it accuses.\n\nThe same command continues where it was stopped."
        ),
    )


def _run_evaluate_screen(
    zoo: Path,
    out: Path,
    only: tuple[str, ...],
    limit: int | None,
    sealed: bool,
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.evaluate.screen import Setting, evaluate_screen
    from leadapron.report.limits import write_limits

    shared = running_of(given)
    with running(given) as machine:
        rows = evaluate_screen(
            zoo,
            out,
            only=only,
            limit=limit,
            sealed=sealed,
            setting=Setting(**given),
            machine=machine,
            running=shared,
        )
    _answer_evaluation(rows, [write_limits(out / "limits.md", screen=out)], as_json)


def evaluate_page_command() -> click.Command:
    """Make the command."""
    folder = click.Path(exists=True, file_okay=False, path_type=Path)
    return click.Command(
        "page",
        params=[
            click.Option(["--scan"], type=folder, help="Folder of `evaluate scan`."),
            click.Option(["--audit"], type=folder, help="Folder of `evaluate audit`."),
            click.Option(["--screen"], type=folder, help="Folder of `evaluate screen`."),
            click.Option(
                ["--out"],
                type=Written("file"),
                required=True,
                help="The Markdown file.",
            ),
            json_option(),
        ],
        callback=_run_evaluate_page,
        help="Write the results of several evaluations on one page.",
    )


def _run_evaluate_page(
    scan: Path | None, audit: Path | None, screen: Path | None, out: Path, as_json: bool
) -> None:
    from leadapron.report.limits import write_limits

    if scan is audit is screen is None:
        raise UsageError("nothing to write; expected --scan, --audit or --screen, each a FOLDER")
    write_limits(out, scan=scan, audit=audit, screen=screen)
    if as_json:
        click.echo(json.dumps({"schema": 1, "verdict": "done", "page": str(out)}))
    else:
        click.echo(f"Page: {out}")


def _answer_evaluation(rows: list[dict[str, Any]], pages: list[Path], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"schema": 1, "verdict": "done", "rows": rows}))
        return
    if not pages:
        click.echo(f"{len(rows)} models are swept; they are judged when all shards are finished.")
        return
    click.echo(pages[0].read_text().rstrip())
    click.echo(f"\nPage: {pages[-1]}")


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
