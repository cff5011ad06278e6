"""The command that prints JSON schemas of results and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module

import click

__all__ = ["schema_command"]

DOCUMENTS: Mapping[str, tuple[str, str]] = {
    "describe": ("leadapron.detect.films.description", "Description"),
    "scan": ("leadapron.detect.films.document", "ScanDocument"),
    "clean": ("leadapron.detect.films.cleaned", "Cleaned"),
    "audit": ("leadapron.detect.models.audit", "Audit"),
    "repair": ("leadapron.repairs.proof.document", "Repaired"),
    "calibrate": ("leadapron.detect.inputs.calibration", "CalibrationDocument"),
    "screen": ("leadapron.detect.inputs.screening", "Screening"),
    "gate": ("leadapron.detect.inputs.gate_file", "GateDocument"),
    "serve": ("leadapron.service.answers", "FilmAnswer"),
    "monthly": ("leadapron.service.monthly", "Month"),
    "inspect": ("leadapron.models.inspection.document", "Inspected"),
    "card": ("leadapron.models.card", "ModelCard"),
    "study": ("leadapron.results.manifest", "StudyManifest"),
    "run": ("leadapron.results.layout", "RunFacts"),
    "explain": ("leadapron.study.explained", "Explanations"),
    "explain-model": ("leadapron.explainers.document", "MapsOfModel"),
    "maps": ("leadapron.explainers.document", "Explained"),
}
"""Module and class of each document; a module is imported only when its document is requested."""


def schema_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "schema",
        params=[click.Argument(["document"], type=click.Choice(list(DOCUMENTS)))],
        callback=_run_schema,
        help="Print the JSON schema of a DOCUMENT: the output of --json, or a file.",
    )


def _run_schema(document: str) -> None:
    from leadapron.documents import schema

    module, name = DOCUMENTS[document]
    click.echo(json.dumps(schema(getattr(import_module(module), name)), indent=2))
