"""Commands that audit, repair and gate a model, and screen its films."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leadapron.cli.generate import BACKEND, Answer, command, of_document, with_page
from leadapron.cli.group import INTERRUPTED, fail
from leadapron.cli.kinds import Written
from leadapron.cli.progress import showing_progress
from leadapron.cli.service import KEPT, kept
from leadapron.errors import UsageError
from leadapron.service.settings import KEEPING, Keeping
from leadapron.types import Machine

if TYPE_CHECKING:
    from leadapron.jobs.screen import OpenGate
    from leadapron.service.answers import FilmAnswer

__all__ = [
    "audit_command",
    "calibrate_command",
    "inspect_command",
    "repair_command",
    "screen_command",
]

SOURCE = {"metavar": "NAME:PATH"}


def audit_command() -> click.Command:
    """Make the command."""
    out = click.Option(["--out"], type=Written("folder"), help="Folder for report and pictures.")
    return command(
        "audit",
        "leadapron.jobs.audit:audit",
        _audited,
        more="Marks are stamped on clean films, and the change of the model's outputs is compared "
        "with clean reference models. Exit code 1: backdoored; 3: can't tell.",
        options=("clean",),
        how={
            "clean": SOURCE,
            "reference": {"metavar": "FOLDER"},
            "steps": {"type": click.IntRange(0)},
            "films": {"type": click.IntRange(20)},
        },
        machine=BACKEND,
        extra=[out],
    )


def _audited(found: Any, call: Mapping[str, Any]) -> Answer:
    from leadapron.report import audit_lines, write_audit

    page = None if call["out"] is None else write_audit(call["out"], found)
    lines = [*audit_lines(found), *([] if page is None else [f"Report: {page}"])]
    return of_document(found, lines, code=found.verdict.exit_code, page=page)


def inspect_command() -> click.Command:
    """Make the command."""
    page = click.Option(
        ["--page"],
        type=Written("file"),
        help="HTML file with the trials and the films as the network sees them; it holds patients' "
        "pixels.",
    )
    return command(
        "inspect",
        "leadapron.jobs.inspect:inspect",
        _inspected,
        how={
            "clean": SOURCE,
            "out": {"type": Written("file"), "metavar": "FILE.yaml"},
            "films": {"type": click.IntRange(20)},
        },
        extra=[page],
    )


def _inspected(found: Any, call: Mapping[str, Any]) -> Answer:
    from leadapron.report import inspect_lines, write_inspection

    page = None if call["page"] is None else write_inspection(call["page"], found)
    return of_document(found, with_page(inspect_lines(found), page), page=page)


def repair_command() -> click.Command:
    """Make the command."""
    return command(
        "repair",
        "leadapron.jobs.repair:repair",
        _repaired,
        more="Exit code 0: no longer found, or nothing to repair; 1: the backdoor remains; "
        "3: can't tell.",
        options=("clean", "out"),
        how={
            "clean": SOURCE,
            "out": {"type": Written("folder")},
            "method": {"metavar": "auto|NAME"},
            "audit": {"metavar": "FOLDER"},
            "reference": {"metavar": "FOLDER"},
            "films": {"type": click.IntRange(20)},
            "steps": {"type": click.IntRange(0)},
        },
    )


def _repaired(made: Any, call: Mapping[str, Any]) -> Answer:
    from leadapron.report import repair_lines

    page = call["out"] / "repair.html"
    lines = [*repair_lines(made), f"Report: {page}, {page.with_suffix('.md')}"]
    return of_document(made, lines, code=made.verdict.exit_code, page=page)


def calibrate_command() -> click.Command:
    """Make the command."""
    return command(
        "calibrate",
        "leadapron.jobs.calibrate:calibrate",
        _calibrated,
        more="Detectors of triggered films are fitted on clean films, and the threshold is set for "
        "a false-alarm rate. The gate holds patients' pixels. --extend GATE --clean SOURCE widens "
        "a gate by films of another clinic; MODEL is then left out, unless it was moved.",
        options=("clean", "out"),
        how={
            "model": {"required": False},
            "clean": SOURCE,
            "out": {"type": Written("file"), "default": "gate.json"},
            "extend": {"metavar": "GATE", "type": click.Path(dir_okay=False, path_type=Path)},
            "against": {"metavar": "GATE", "type": click.Path(dir_okay=False, path_type=Path)},
        },
        machine=BACKEND,
    )


def _calibrated(found: Any, _: Mapping[str, Any]) -> Answer:
    from leadapron.report import calibrate_lines

    document = found.document()
    return of_document(document, calibrate_lines(document))


def screen_command() -> click.Command:
    """Make the command."""
    file = click.Path(dir_okay=False, path_type=Path)
    return command(
        "screen",
        screen,
        more="Exit code 1: suspicious; 2: a file is missing; 3: can't tell; 0: nothing found, "
        "which doesn't prove that the films are clean.",
        how={
            "gate": {"type": file},
            "files": {"required": False},
            "model": {"type": file},
            "out": {"type": Written("folder")},
            "watch": {"type": click.Path(file_okay=False, path_type=Path)},
            **kept(),
        },
        machine=("device", "backend"),
        flat={"keeping": KEPT},
        progress=False,
    )


def screen(
    gate: Path,
    files: Sequence[str],
    *,
    out: Path | None = None,
    watch: Path | None = None,
    keeping: Keeping = KEEPING,
    model: Path | None = None,
    trust_programs: bool = False,
    machine: Machine,
    as_json: bool,
) -> int:
    """Screen films for triggers with a gate.

    Args:
        gate: the file that calibrate wrote.
        files: PNG, JPEG or DICOM files, folders of them, or - for a list of paths on stdin.
        out: folder for report and pictures; they hold patients' pixels.
        watch: folder whose films are screened as they come, until a signal ends it with code 0.
        keeping: where a watch keeps films and answers.
        model: path of the model, if it was moved.
        trust_programs: run TorchScript and ONNX even if the system can't isolate them from your
            files.
        machine: device and backend of the model.
        as_json: whether JSON is printed at the end; otherwise each film's line at once.
    """
    from dataclasses import replace

    from leadapron.detect.inputs.screening import ScreenedFilm, screening
    from leadapron.documents import no_pixels
    from leadapron.jobs.screen import open_gate
    from leadapron.jobs.screen import screen as screened
    from leadapron.report import (
        begin_screen,
        film_line,
        screen_lines,
        top_films,
        write_film,
        write_screen,
    )
    from leadapron.sources.listed import films_of

    if watch is not None:
        if files or out is not None:
            raise UsageError("`watch` takes no files, and no `out`: answers are in the spool")
        opened = open_gate(gate, model=model, trust_programs=trust_programs, machine=machine)
        return _watch(opened, watch, keeping, as_json=as_json)
    films, others = films_of(files, sys.stdin.buffer if "-" in files else ())
    opened = open_gate(gate, model=model, trust_programs=trust_programs, machine=machine)
    if out is not None:
        begin_screen(out)
    done: list[ScreenedFilm] = []
    pictured: list[ScreenedFilm] = []
    interrupted = False
    try:
        # A bar would redirect the films' lines to stderr; the lines themselves show progress.
        with showing_progress() if as_json else contextlib.nullcontext() as progress:
            for batch in screened(opened, films):
                for film in batch:
                    if out is not None:
                        write_film(out, film)
                        pictured = top_films([*pictured, film])
                    if not as_json:
                        click.echo(film_line(film, heading=not done))
                    done.append(replace(film, image=no_pixels()))  # a day's films exceed the memory
                if progress is not None:
                    progress("films", len(done), len(films))
    except KeyboardInterrupt:
        interrupted = True
    found = screening(opened.stored, done, gate=str(gate), asked=len(films), others=others)
    page = None if out is None else write_screen(out, found, pictured)
    lines = [*screen_lines(found), *([] if page is None else [f"Report: {page}"])]
    code = of_document(found, lines, code=found.exit_code, page=page).say(as_json)
    if interrupted:
        return fail("interrupted; the films listed above were screened", INTERRUPTED)
    return code


def _watch(opened: OpenGate, folder: Path, keeping: Keeping, *, as_json: bool) -> int:
    """Screen films that come into a folder, and print a line for each."""
    import json
    from itertools import count

    from leadapron.detect.inputs.screening import ScreenedFilm
    from leadapron.documents import dump
    from leadapron.report import film_line
    from leadapron.service.watching import until_stopped, watch

    numbers = count(1)

    def tell(name: str, answer: FilmAnswer) -> None:
        if as_json:
            click.echo(json.dumps({"file": name, **dump(answer)}))
        elif answer.decision is not None:
            number = next(numbers)
            film = ScreenedFilm.of(answer.decision, number=number, file=name)
            click.echo(film_line(film, heading=number == 1))
        sys.stdout.flush()

    with until_stopped() as stop:
        watch(opened, folder, keeping, tell, stop)
    return 0
