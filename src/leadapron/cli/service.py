"""The commands that run a gate as a service, and show what it did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from leadapron.cli.generate import Answer, command, of_document, with_page
from leadapron.cli.kinds import Names, Written

__all__ = ["KEPT", "kept", "monthly_command", "serve_command"]

KEPT = ("spool", "keep", "queue")
"""Fields of `Keeping` that are options."""

OPEN_TO = ("http", "token_file", "largest", "tls_cert", "tls_key", "no_tls", "ui")
"""Fields of `Listening` that are options."""

NODES = (
    "dicom", "callers", "results", "result_kinds", "dicom_ca", "orthanc", "orthanc_user_file",
    "orthanc_ca", "orthanc_backlog",
)  # fmt: skip
"""Fields of `Nodes` that are options."""


def kept() -> dict[str, Mapping[str, Any]]:
    """Return a command's `how` for the options of `KEPT`."""
    return {
        "spool": {"type": Written("folder")},
        "keep": {"metavar": "DAYS"},
        "queue": {"metavar": "FILMS"},
    }


def serve_command() -> click.Command:
    """Make the command."""
    file = {"type": click.Path(dir_okay=False, path_type=Path)}
    made = command(
        "serve",
        "leadapron.service.serving:serve",
        more="Research use: a pass never means healthy. A signal (SIGTERM, Ctrl-C) stops it with "
        "exit code 0; films that wait stay in the spool for the next start.",
        how={
            "gate": file,
            "model": file,
            "http": {"metavar": "HOST:PORT"},
            "token_file": file,
            "tls_cert": file,
            "tls_key": file,
            "dicom": {"metavar": "AET@HOST:PORT"},
            "callers": {"type": Names("AE titles"), "metavar": "AET,..."},
            "results": {"metavar": "AET@HOST:PORT"},
            "result_kinds": {"type": Names("sr,gsps"), "metavar": "KIND,..."},
            "dicom_ca": file,
            "orthanc": {"metavar": "URL"},
            "orthanc_user_file": file,
            "orthanc_ca": file,
            **kept(),
            "largest": {"metavar": "MB"},
        },
        machine=("device", "backend"),
        flat={"listening": OPEN_TO, "nodes": NODES, "keeping": KEPT},
        progress=False,
    )
    made.params = [each for each in made.params if each.name != "as_json"]  # it has no result
    return made


def monthly_command() -> click.Command:
    """Make the command."""
    page = click.Option(["--out"], type=Written("file"), help="HTML file for the month's page.")
    return command(
        "monthly",
        "leadapron.service.monthly:monthly",
        _month,
        how={
            "gate": {"type": click.Path(dir_okay=False, path_type=Path)},
            "spool": {"type": click.Path(file_okay=False, path_type=Path)},
            "month": {"metavar": "YEAR-MONTH"},
        },
        extra=[page],
        progress=False,
    )


def _month(made: Any, call: Mapping[str, Any]) -> Answer:
    from leadapron.service.monthly import month_lines, write_month

    out = call["out"]
    if out is not None:
        write_month(out, made)

    return of_document(made, with_page(month_lines(made), out), page=out)
