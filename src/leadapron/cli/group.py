"""Shared by all commands: exit codes, and groups whose commands are made when called."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import click

from leadapron.errors import UnknownNameError
from leadapron.text import showing_paths

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "USAGE",
    "Commands",
    "Lazy",
    "fail",
    "load_named_plugins",
    "plugin_option",
    "quiet_option",
    "with_flags",
]

FAILED, USAGE, INTERRUPTED = 2, 4, 130
"""Exit codes without a verdict; `detect.verdict` has those of verdicts."""


ARGUMENT = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*)`")

Lazy = Mapping[str, tuple[str, Callable[[], click.Command]]]


class Commands(click.Group):
    """Commands that are made, with what they import, only when they are called.

    Args:
        name: name of the group.
        lazy: by command, its short help and the function that makes it.
        **settings: as `click.Group`.
    """

    def __init__(self, name: str | None = None, *, lazy: Lazy, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were given."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Make the command with that name."""
        if cmd_name not in self.lazy:
            raise UnknownNameError("command", cmd_name, self.lazy)
        return _with_common(self.lazy[cmd_name][1]())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without making them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (text, _) in self.lazy.items()])


def quiet_option() -> click.Option:
    """Return --quiet, which may stand before a command too."""

    def be_quiet(_: click.Context, __: click.Parameter, quiet: bool) -> None:
        if quiet:
            logging.getLogger("leadapron").setLevel(logging.WARNING)

    return click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=be_quiet,
        help="Print only the result and errors.",
    )


def _show_paths_option() -> click.Option:
    def show(context: click.Context, _: click.Parameter, given: bool) -> None:
        if given:
            context.with_resource(showing_paths())

    return click.Option(
        ["--show-paths"],
        is_flag=True,
        expose_value=False,
        callback=show,
        help="Show full paths in pages and JSON; folder names may identify patients.",
    )


def plugin_option() -> click.Option:
    """Return --plugin, which may stand before a command too."""

    def load(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> None:
        if names:
            from leadapron.plugins import load_plugins

            load_plugins(names)

    return click.Option(
        ["--plugin"],
        multiple=True,
        expose_value=False,
        callback=load,
        metavar="FILE.py|NAME",
        help="Your own methods: a file, or an installed package's entry points. The code runs "
        "without isolation. Repeats.",
    )


def load_named_plugins(words: list[str]) -> None:
    """Load the plugins that --plugin names, before commands make options from them.

    Args:
        words: of the command line, without the program's name.
    """
    reader = click.Command(
        "",
        params=[plugin_option()],
        context_settings={
            "ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": [],
        },
    )  # fmt: skip
    reader.make_context("", list(words))


def _with_common(command: click.Command) -> click.Command:
    """Add the common options to a command, or to the commands of a group."""
    if isinstance(command, click.Group):
        if not isinstance(command, Commands):  # they do so themselves
            for below in command.commands.values():
                _with_common(below)
    else:
        command.params.append(_show_paths_option())
    command.params += [plugin_option(), quiet_option()]
    return command


def with_flags(message: str) -> str:
    """Return an error's message with options in place of arguments.

    The library names arguments, as `false_alarm` or `training.epochs`; a user of the command line
    knows them as --false-alarm and --training.epochs.
    """
    return ARGUMENT.sub(lambda found: f"--{_option(found[1])}", message)


def _option(argument: str) -> str:
    section, dot, _ = argument.partition(".")
    # Settings of a study are named as in its YAML file.
    return argument if dot and section != "model" else argument.replace("_", "-")


def fail(message: str, code: int) -> int:
    """Print the error in one line on stderr, and return the exit code."""
    with contextlib.suppress(OSError):  # stderr is closed
        click.echo("leadapron: " + " ".join(message.split()), err=True)
    return code
