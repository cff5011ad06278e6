"""The command line: parse, call one function, print. Imports are lazy, so `--help` is instant."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import traceback

import click

from leadapron import __version__
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
from leadapron.cli.group import FAILED, INTERRUPTED, USAGE, Commands, Lazy, fail
from leadapron.cli.models import audit_command, calibrate_command, screen_command
from leadapron.cli.studies import (
    explain_command,
    learn_trigger_command,
    recipe_command,
    report_command,
    reproduce_command,
    study_command,
    zoo_command,
)
from leadapron.errors import LeadapronError

__all__ = ["cli", "main", "tune_allocator"]

logger = logging.getLogger("leadapron")

COMMANDS: Lazy = {
    "study": ("Train a backdoored model and its clean twin, measure both, report.", study_command),
    "reproduce": ("Reproduce a paper, and put it to the test.", reproduce_command),
    "recipe": ("Carry out a published attack, its settings and ours told apart.", recipe_command),
    "report": ("Make a study's report again.", report_command),
    "explain": ("Draw what each explanation method shows, side by side.", explain_command),
    "prepare": ("Decode a source's films, once.", prepare_command),
    "cache": ("List or clear decoded films and sweeps.", cache_command),
    "describe": ("Say what a source holds: labels, copies, leaks.", describe_command),
    "scan": ("Say whether a data set is poisoned: which films, where, towards what.", scan_command),
    "clean": ("Write a data set without the films that a list names.", clean_command),
    "triggers": ("List the triggers.", triggers_command),
    "preview": ("Draw films with a trigger.", preview_command),
    "learn-trigger": ("Learn a trigger on a surrogate network.", learn_trigger_command),
    "evaluate": (
        "Measure what scans, audits and gates find, and miss.",
        evaluate_command,
    ),
    "audit": ("Look for a backdoor in a model.", audit_command),
    "calibrate": ("Make a gate that screens a model's films.", calibrate_command),
    "screen": ("Say which films may carry a trigger.", screen_command),
    "zoo": ("Train models of known truth, to measure defences on.", zoo_command),
    "visibility": ("Show what preprocessing leaves of a trigger.", visibility_command),
    "phantom": ("Draw a contact sheet of phantoms.", phantom_command),
}


@click.group(
    cls=Commands,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Research use: it audits, it does not diagnose.",
)
@click.version_option(__version__, prog_name="leadapron")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but the answer and errors.")
def cli(quiet: bool) -> None:
    """Backdoors in chest-radiograph classifiers: measured, found, screened out, repaired."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)


def main() -> None:
    """Run the command line and leave with its exit code."""
    tune_allocator()
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = fail("interrupted; the same command continues where it stopped", INTERRUPTED)
    except KeyboardInterrupt:
        code = fail("interrupted; the same command continues where it stopped", INTERRUPTED)
    except click.ClickException as error:
        hint = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        code = fail(f"{error.format_message()} {f'({hint} --help)' if hint else ''}", USAGE)
    except LeadapronError as error:
        code = fail(str(error), error.exit_code)
    except BrokenPipeError:
        code = FAILED
    except Exception as error:
        if os.environ.get("LEADAPRON_TRACEBACK"):
            traceback.print_exc()
        words = f"unexpected {type(error).__name__}: {error}"
        code = fail(f"{words} (LEADAPRON_TRACEBACK=1 shows where)", FAILED)
    sys.exit(code or 0)


def tune_allocator() -> None:
    """Let glibc keep large buffers: torch asks for the same ones at every step."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-2, 256 << 20)  # M_TOP_PAD
