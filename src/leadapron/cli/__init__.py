"""The command line: parse, call one function, print. Imports are lazy, so `--help` is instant."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import traceback
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import click
from click.shell_completion import shell_complete

from leadapron import __version__
from leadapron.allocator import tune_allocator
from leadapron.cli.cache import cache_command
from leadapron.cli.data_sets import clean_command, scan_command
from leadapron.cli.evaluations import evaluate_command
from leadapron.cli.films import (
    describe_command,
    phantom_command,
    prepare_command,
    preview_command,
    triggers_command,
    visibility_command,
)
from leadapron.cli.group import (
    FAILED,
    INTERRUPTED,
    USAGE,
    Commands,
    Lazy,
    fail,
    load_named_plugins,
    plugin_option,
    quiet_option,
    with_flags,
)
from leadapron.cli.models import (
    audit_command,
    calibrate_command,
    inspect_command,
    repair_command,
    screen_command,
)
from leadapron.cli.schema import schema_command
from leadapron.cli.service import monthly_command, serve_command
from leadapron.cli.studies import (
    explain_command,
    learn_trigger_command,
    recipe_command,
    report_command,
    reproduce_command,
    study_command,
    zoo_command,
)
from leadapron.errors import LeadapronError, StoreError

__all__ = ["cli", "main"]

logger = logging.getLogger("leadapron")

NAME = "leadapron"

UNANSWERED = "can't write the result to standard output"

NO_MEMORY = (
    "not enough memory",  # torch on Windows and macOS
    "can't allocate memory",  # torch on Linux
    "cannot allocate memory",  # the system
    "out of memory",  # CUDA
    "could not create a primitive",  # oneDNN
    "failed to map segment",  # the system, loading a library
    "can't start new thread",  # each needs a stack
)
"""Texts by which errors of other kinds than MemoryError report a lack of memory."""

COMMANDS: Lazy = {
    "study": ("Train a backdoored model and its clean twin, measure both, report.", study_command),
    "reproduce": ("Reproduce a paper and check its claims.", reproduce_command),
    "recipe": ("Carry out a published attack.", recipe_command),
    "report": ("Write a study's report again.", report_command),
    "explain": ("Draw the saliency maps of all explainers side by side.", explain_command),
    "prepare": ("Decode a source's films once, into the cache.", prepare_command),
    "cache": ("List or clear decoded films and sweeps.", cache_command),
    "describe": ("Describe a data set: labels, copies of films, leakage.", describe_command),
    "scan": ("Scan a data set for poison.", scan_command),
    "clean": ("Write a data set without the listed films.", clean_command),
    "triggers": ("List the triggers.", triggers_command),
    "preview": ("Draw films with a trigger.", preview_command),
    "learn-trigger": ("Learn a trigger on a surrogate network.", learn_trigger_command),
    "evaluate": (
        "Measure how much scans, audits and gates detect.",
        evaluate_command,
    ),
    "inspect": ("Find out how a model reads films; write its card.", inspect_command),
    "audit": ("Look for a backdoor in a model.", audit_command),
    "repair": ("Remove a backdoor from a model, and verify the removal.", repair_command),
    "calibrate": ("Make a gate that screens a model's films.", calibrate_command),
    "screen": ("Screen films for triggers.", screen_command),
    "serve": ("Run a gate as a service: films in by HTTP or DICOM, verdicts out.", serve_command),
    "monthly": ("Show what a gate in service did in a month, and drift.", monthly_command),
    "zoo": ("Train clean and backdoored models to measure defences on.", zoo_command),
    "visibility": ("Show how much of a trigger preprocessing leaves.", visibility_command),
    "phantom": ("Draw a contact sheet of phantoms.", phantom_command),
    "schema": ("Print the JSON schema of a result or file.", schema_command),
}


@click.group(
    cls=Commands,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Research use: it audits, it does not diagnose.",
)
@click.version_option(__version__, prog_name=NAME)
def cli() -> None:
    """Measure, find and screen out backdoors in chest-radiograph classifiers."""


cli.params += [plugin_option(), quiet_option()]


def main() -> None:
    """Run the command line and exit with its code."""
    tune_allocator()
    keep_descriptors()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stdout is None:
        sys.exit(fail(f"{UNANSWERED}: it is closed", FAILED))
    if type(sys.stdout) is io.TextIOWrapper:  # not replaced by a test or notebook
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(Answer(sys.stdout.fileno(), "w", closefd=False)),
            encoding=sys.stdout.encoding,
            errors="backslashreplace",  # a path may hold bytes that no encoding allows
            line_buffering=sys.stdout.line_buffering,
        )
    sys.exit(run(sys.argv[1:]))


class Answer(io.FileIO):
    """Standard output; a failed write ends the command, and the rest is dropped."""

    lost = False

    def write(self, content: Any) -> int:
        """Write some of the bytes, and return how many; StoreError if that fails."""
        if self.lost:  # Python writes the remaining buffer when it exits
            return len(content)
        try:
            return super().write(content) or 0
        except OSError as error:
            self.lost = True
            raise StoreError(f"{UNANSWERED}: {error.strerror}") from error


def run(words: list[str]) -> int:
    """Carry out a command and return its exit code.

    Args:
        words: of the command line, without the program's name.
    """
    try:
        if completion := os.environ.get(f"_{NAME.upper()}_COMPLETE"):
            with contextlib.suppress(LeadapronError):  # an unknown command
                return shell_complete(cli, {}, NAME, f"_{NAME.upper()}_COMPLETE", completion)
            return FAILED
        load_named_plugins(words)
        # click's own `main` would end a closed pipe with exit code 1, which means "found".
        with cli.make_context(NAME, words) as context:
            code = cli.invoke(context) or 0
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        code = end.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt, EOFError):
        click.echo(err=True)  # ends the line of the terminal's ^C
        code = fail("interrupted; the same command continues where it stopped", INTERRUPTED)
    except click.ClickException as error:
        hint = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        code = fail(f"{error.format_message()} {f'({hint} --help)' if hint else ''}", USAGE)
    except LeadapronError as error:
        code = fail(with_flags(str(error)), error.exit_code)
    except Exception as error:
        if os.environ.get("LEADAPRON_TRACEBACK"):
            traceback.print_exc()
        code = fail(in_words(error), FAILED)
    return int(code)


def in_words(error: Exception) -> str:
    """Return the message for an error of another library or the system."""
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or any(sign in words.lower() for sign in NO_MEMORY):
        return "there is not enough memory; use fewer films or a smaller --size, or free some"
    if isinstance(error, BrokenExecutor):
        return "a worker process was killed, possibly for lack of memory; use fewer --jobs"
    if isinstance(error, OSError):
        return f"can't read or write {error.filename or 'a file'}: {error.strerror or words}"
    return f"unexpected {type(error).__name__}: {words} (LEADAPRON_TRACEBACK=1 shows where)"


def keep_descriptors() -> None:
    """Open the closed ones of the three standard files.

    Otherwise the next file that is opened would take the place of one of them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
