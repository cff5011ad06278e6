"""Commands that audit a model, and screen the films that it reads."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from leadapron.cli.group import INTERRUPTED, fail
from leadapron.cli.options import (
    Written,
    film_options,
    json_option,
    machine_options,
    model_options,
    opening_of,
    own_and_source_settings,
    running,
    source_settings,
    sweep_of,
    sweep_options,
    trust_option,
)
from leadapron.cli.progress import showing_progress
from leadapron.types import Device, Machine

__all__ = ["audit_command", "calibrate_command", "screen_command"]


def audit_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "audit",
        params=[
            *model_options(),
            click.Option(
                ["--reference"],
                type=click.Path(path_type=Path),
                metavar="FOLDER",
                help="Clean models of the same kind; without them the answer is at most 'unusual'.",
            ),
            click.Option(
                ["--false-alarm"],
                type=float,
                default=0.05,
                show_default=True,
                help="Rate of clean models that may be called backdoored.",
            ),
            click.Option(
                ["--steps"],
                type=click.IntRange(0),
                default=80,
                show_default=True,
                help="Of trigger inversion, at most; 0 leaves it out.",
            ),
            click.Option(
                ["--films"],
                type=click.IntRange(20),
                default=256,
                show_default=True,
                help="Clean films that are looked at, at most.",
            ),
            click.Option(
                ["--no-statistics"],
                is_flag=True,
                help="Leave out the network's further statistics, the maximum margin among them, "
                "which is asked where no mark stands out: they take time, for each reference too.",
            ),
            click.Option(
                ["--out"], type=Written("folder"), help="A folder for report and pictures."
            ),
            *sweep_options(),
            *source_settings(),
            *machine_options(),
            *film_options(),
            json_option(),
        ],
        callback=_run_audit,
        help=(
            "Look for a backdoor in a MODEL: a file of weights, a TorchScript or ONNX file, or "
            "module:function. Marks are put on clean films, and what they move is compared with "
            "clean models. Exit code 1: backdoored, 3: can't tell."
        ),
    )


def _run_audit(
    model: str,
    clean: str,
    reference: Path | None,
    false_alarm: float,
    steps: int,
    no_statistics: bool,
    out: Path | None,
    as_json: bool,
    **given: Any,
) -> int:
    from leadapron.documents import dump
    from leadapron.jobs.audit import audit
    from leadapron.report import audit_lines, write_audit

    sweep = sweep_of(given)
    opening = opening_of(given)
    with running(given) as machine:
        found = audit(
            model,
            clean,
            reference=reference,
            false_alarm=false_alarm,
            sweep=sweep,
            steps=steps,
            statistics=not no_statistics,
            opening=opening,
            machine=machine,
            **own_and_source_settings(given),
        )
    page = None if out is None else write_audit(out, found)
    if as_json:
        facts = dump(found)
        click.echo(json.dumps({**facts, **({"page": str(page)} if page else {})}, indent=2))
    else:
        for line in audit_lines(found):
            click.echo(line)
        if page is not None:
            click.echo(f"Report: {page}")
    return found.verdict.exit_code


def calibrate_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "calibrate",
        params=[
            *model_options(),
            click.Option(
                ["--false-alarm"],
                type=float,
                default=0.01,
                show_default=True,
                help="Share of clean films that may be called suspicious.",
            ),
            click.Option(
                ["--out"],
                type=Written("file"),
                default="gate.json",
                show_default=True,
                help="The gate's file; its numbers go beside it.",
            ),
            *source_settings(),
            *machine_options(),
            *film_options(),
            json_option(),
        ],
        callback=_run_calibrate,
        help=(
            "Make a gate for a MODEL: detectors of triggered films are fitted on clean films, "
            "and the threshold keeps to a rate of false alarms. The gate holds patients' pixels."
        ),
    )


def _run_calibrate(
    model: str,
    clean: str,
    false_alarm: float,
    out: Path,
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.documents import dump
    from leadapron.jobs.calibrate import calibrate
    from leadapron.report import calibrate_lines

    opening = opening_of(given)
    with running(given) as machine:
        made = calibrate(
            model,
            clean,
            out,
            false_alarm=false_alarm,
            opening=opening,
            machine=machine,
            **own_and_source_settings(given),
        ).document()
    if as_json:
        click.echo(json.dumps(dump(made), indent=2))
        return
    for line in calibrate_lines(made):
        click.echo(line)


def screen_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "screen",
        params=[
            click.Argument(["gate"], type=click.Path(dir_okay=False, path_type=Path)),
            click.Argument(["files"], nargs=-1, required=True),
            click.Option(
                ["--out"],
                type=Written("folder"),
                help="A folder for report and pictures; they hold patients' pixels.",
            ),
            click.Option(
                ["--model"],
                type=click.Path(dir_okay=False, path_type=Path),
                help="Where the model lies now, if it was moved.",
            ),
            trust_option(),
            machine_options()[0],
            json_option(),
        ],
        callback=_run_screen,
        help=(
            "Say which films may carry a trigger. GATE is what calibrate wrote; FILES are PNG, "
            "JPEG or DICOM files, folders of them, or - for a list of paths on stdin. Exit code "
            "1: suspicious, 2: a file is missing, 3: can't tell; 0 is no proof of a clean film."
        ),
    )


def _run_screen(
    gate: Path,
    files: tuple[str, ...],
    out: Path | None,
    model: Path | None,
    trust_programs: bool,
    device: Device,
    as_json: bool,
) -> int:
    from dataclasses import replace

    from leadapron.detect.inputs.screening import ScreenedFilm, screening
    from leadapron.documents import dump, no_pixels
    from leadapron.jobs.screen import open_gate, screen
    from leadapron.report import (
        begin_screen,
        film_line,
        screen_lines,
        top_films,
        write_film,
        write_screen,
    )
    from leadapron.sources.listed import films_of

    films, others = films_of(files, sys.stdin.buffer if "-" in files else ())
    opened = open_gate(
        gate, model=model, trust_programs=trust_programs, machine=Machine(device=device)
    )
    if out is not None:
        begin_screen(out)
    done: list[ScreenedFilm] = []
    pictured: list[ScreenedFilm] = []
    interrupted = False
    try:
        # A bar would take the lines that are printed meanwhile to stderr; they show progress.
        with showing_progress() if as_json else contextlib.nullcontext() as progress:
            for batch in screen(opened, films):
                for film in batch:
                    if out is not None:
                        write_film(out, film)
                        pictured = top_films([*pictured, film])
                    if not as_json:
                        click.echo(film_line(film, heading=not done))
                    done.append(replace(film, image=no_pixels()))  # a day's don't fit into memory
                if progress is not None:
                    progress("films", len(done), len(films))
    except KeyboardInterrupt:
        interrupted = True
    found = screening(opened.stored, done, gate=str(gate), asked=len(films), others=others)
    page = None if out is None else write_screen(out, found, pictured)
    if as_json:
        facts = dump(found)
        click.echo(json.dumps({**facts, **({"page": str(page)} if page else {})}, indent=2))
    else:
        for line in screen_lines(found):
            click.echo(line)
        if page is not None:
            click.echo(f"Report: {page}")
    if interrupted:
        return fail("interrupted; what is named above was screened", INTERRUPTED)
    return found.exit_code
