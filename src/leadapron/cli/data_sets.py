"""Commands that scan a data set for poison, and remove films from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from leadapron.cli.generate import Answer, command, of_document
from leadapron.cli.kinds import Written

__all__ = ["clean_command", "scan_command"]

SEED = {"type": click.IntRange(0)}


def scan_command() -> click.Command:
    """Make the command."""
    return command(
        "scan",
        "leadapron.jobs.scan:scan",
        _scanned,
        more="Exit code 1: poisoned; 3: can't tell; 0: nothing found, which is no proof. The scan "
        "uses the films' original pixels, uncropped, at most 224 on a side. With --model or "
        "--train a network tests whether the labels of films with a mark contradict their "
        "anatomy; its rankings never change the verdict.",
        how={"out": {"type": Written("folder")}, "model": {"metavar": "FILE"}, "seed": SEED},
    )


def _scanned(found: Any, call: Mapping[str, Any]) -> Answer:
    from leadapron.report import scan_lines

    document = found.document()
    page = None if call["out"] is None else call["out"] / "scan.html"

    def lines() -> Iterator[str]:
        yield from scan_lines(document)
        if page is not None:
            pixels = ", with patients' pixels" if found.suspects else ""
            yield f"Films: {page.with_name('films.csv')}; page{pixels}: {page}"

    return of_document(document, lines(), code=found.verdict.exit_code, page=page)


def clean_command() -> click.Command:
    """Make the command."""
    return command(
        "clean",
        "leadapron.jobs.clean:clean",
        _cleaned,
        options=("drop", "out"),
        how={
            "drop": {"type": click.Path(exists=True, dir_okay=False, path_type=Path)},
            "out": {"type": Written("folder")},
            "seed": SEED,
        },
    )


def _cleaned(found: Any, _: Mapping[str, Any]) -> Answer:
    from leadapron.report import clean_lines

    return of_document(found, clean_lines(found))
