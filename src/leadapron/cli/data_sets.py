"""Commands that look for poison in a data set, and take films out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from leadapron.cli.options import (
    Written,
    film_options,
    json_option,
    machine_options,
    number_option,
    opening_of,
    opening_options,
    own_and_source_settings,
    own_size_option,
    running,
    source_settings,
)

__all__ = ["clean_command", "scan_command"]


def scan_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "scan",
        params=[
            click.Argument(["source"]),
            own_size_option(),
            click.Option(
                ["--false-alarm"],
                type=float,
                default=0.01,
                show_default=True,
                help="Chance that is granted of calling a clean set poisoned.",
            ),
            click.Option(
                ["--model"],
                metavar="FILE",
                help="A network that was trained on these films: it looks at marks, ranks films.",
            ),
            *opening_options(),
            click.Option(
                ["--train"],
                is_flag=True,
                help="Train small networks on these films for both purposes.",
            ),
            click.Option(
                ["--out"],
                type=Written("folder"),
                help="A folder for films.csv, scan.json and the page scan.html.",
            ),
            number_option("--seed", 0, "Of all that is drawn by chance."),
            *source_settings(),
            *machine_options(),
            *film_options(),
            json_option(),
        ],
        callback=_run_scan,
        help=(
            "Say whether a SOURCE's films are poisoned: which, where in them, towards which "
            "finding.\n\n"
            "Exit code 1 where they are, 3 where it can't tell, 0 where nothing was found, which "
            "is no proof. Films are looked at with their own pixels, uncropped, up to 224 of them "
            "on a side. With --model or --train a network looks whether the labels of films with a "
            "mark contradict their anatomy; its rankings never change the verdict."
        ),
    )


def _run_scan(
    source: str,
    out: Path | None,
    as_json: bool,
    **given: Any,
) -> int:
    from leadapron.documents import dump
    from leadapron.jobs.scan import scan

    opening = opening_of(given)
    with running(given) as machine:
        found = scan(
            source,
            opening=opening,
            out=out,
            machine=machine,
            **own_and_source_settings(given),
        )
    document, page = found.document(), None if out is None else out / "scan.html"
    if as_json:
        facts = {**dump(document), **({} if page is None else {"page": str(page)})}
        click.echo(json.dumps(facts, indent=2))
        return found.verdict.exit_code
    from leadapron.report import scan_lines

    for line in scan_lines(document):
        click.echo(line)
    if page is not None:
        pixels = ", with patients' pixels" if found.suspects else ""
        click.echo(f"Films: {page.with_name('films.csv')}; page{pixels}: {page}")
    return found.verdict.exit_code


def clean_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "clean",
        params=[
            click.Argument(["source"]),
            click.Option(
                ["--drop"],
                required=True,
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="A table with a column id: the films.csv of scan.",
            ),
            click.Option(
                ["--out"],
                required=True,
                type=Written("folder"),
                help="A folder for what is left.",
            ),
            click.Option(
                ["--retrain"],
                is_flag=True,
                help="Train a small network with these films and one without, and compare them.",
            ),
            own_size_option(),
            number_option("--seed", 0, "Of the networks, and of the split where there is none."),
            *source_settings(),
            *machine_options(),
            *film_options(),
            json_option(),
        ],
        callback=_run_clean,
        help=(
            "Write a SOURCE without the films that a list names: a table that points to the "
            "others, or an .npz file where films aren't files. The source stays as it is."
        ),
    )


def _run_clean(
    source: str,
    drop: Path,
    out: Path,
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.documents import dump
    from leadapron.jobs.clean import clean

    with running(given) as machine:
        done = clean(
            source,
            drop,
            out,
            machine=machine,
            **own_and_source_settings(given),
        )
    if as_json:
        click.echo(json.dumps(dump(done), indent=2))
        return
    from leadapron.report import clean_lines

    for line in clean_lines(done):
        click.echo(line)
