"""Options for the settings of a study, and the tree of settings that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from leadapron.cli.kinds import Setting, metavar

__all__ = ["COMMON", "Settings", "over", "sentence", "setting_options", "source_option"]

COMMON = (
    "source.count", "source.seed", "source.table", "source.findings", "source.patient",
    "source.split", "preprocessing.crop", "network.weights", "trigger.side", "trigger.value",
    "trigger.place", "trigger.row", "trigger.column", "poisoning.fraction", "poisoning.selection",
    "poisoning.mode", "poisoning.labels", "training.batch_size", "training.learning_rate",
    "evaluation.explainer",
)  # fmt: skip
"""Settings that --help shows for commands with over a hundred; --help-all shows all."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a study that a command takes.

    Args:
        sections: "section", or "section.name" for one setting of it.
        shorthands: short options: of `SHORTHANDS`, or "source", "network", "trigger".
        seed: help of --seed; "" for no such option.
        seeds: whether the command has --seeds.
        common: whether --help shows only the common settings.
    """

    sections: Sequence[str]
    shorthands: Sequence[str] = ()
    seed: str = ""
    seeds: bool = False
    common: bool = False

    def options(self) -> list[click.Parameter]:
        """Return the options, the short ones first."""
        options: list[click.Parameter] = [_shorthand(name) for name in self.shorthands]
        if self.seed:
            options.append(click.Option(["--seed"], type=int, help=self.seed))
        if self.seeds:
            words = "Number of seeds, counted from the first."
            options.append(click.Option(["--seeds"], type=int, help=words))
        return options

    def long_options(self) -> list[click.Parameter]:
        """Return an option for each setting, `--section.name`."""
        from leadapron.study.settings import settings

        known = settings()
        wanted = {
            section: {n: p for n, p in known[section].items() if name in ("", n)}
            for section, _, name in (each.partition(".") for each in self.sections)
        }
        options = setting_options(wanted)
        if self.common:
            for option in options:
                option.hidden = option.opts[0].removeprefix("--") not in COMMON
            options.append(_help_all_option())
        return [*options]

    def tree(self, given: dict[str, Any]) -> dict[str, Any]:
        """Remove the given settings from `given`, and return them as a tree."""
        from leadapron.sources import AND

        sections = {each.partition(".")[0] for each in self.sections}
        tree: dict[str, Any] = {}
        for name in list(given):
            section, _, setting = name.partition("__")
            if name not in (*self.shorthands, "seed", "seeds") and (
                not setting or section not in sections
            ):
                continue
            value = given.pop(name)
            if value in (None, ()):
                continue
            if setting or section in ("source", "network", "trigger"):
                # `--trigger patch` names the section that `--trigger.side 3` belongs to.
                value = AND.join(value) if name == "source" else value
                tree.setdefault(section, {})[setting or "name"] = value
            else:
                tree[section] = value
        return tree


def over(base: dict[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Override a file's settings with options; in the file a section may be only its name."""
    from leadapron.specs import merge

    whole = {
        name: {"name": value}
        if name in tree and isinstance(tree[name], Mapping) and not isinstance(value, Mapping)
        else value
        for name, value in base.items()
    }
    return merge(whole, tree)


def setting_options(sections: Mapping[str, Mapping[str, Any]]) -> list[click.Option]:
    """`--section.name` for every setting except `--download`, which has a short name."""
    options: list[click.Option] = []
    for section, known in sections.items():
        for name, parameter in known.items():
            into, text = f"{section}__{name}", parameter.description
            if name == "download":
                options.append(
                    click.Option(["--download", into], is_flag=True, default=None, help=text)
                )
            elif name != "name":
                kind = parameter.annotation
                option = click.Option(
                    [f"--{section}.{name}", into],
                    metavar=metavar(kind),
                    help=text,
                    type=Setting(kind),
                )
                options.append(option)
    return options


def source_option() -> click.Option:
    """Return --source, which may be repeated."""
    from leadapron.sources import SOURCES

    return click.Option(
        ["--source"],
        multiple=True,
        metavar="NAME:PATH",
        help=f"Where films come from: {', '.join(SOURCES)}; several are joined.",
    )


def _shorthand(name: str) -> click.Option:
    if name == "source":
        return source_option()
    if name == "network":
        from leadapron.models.architectures import ARCHITECTURES

        text, kind = f"Architecture: {', '.join(ARCHITECTURES)}.", str
    elif name == "trigger":
        from leadapron.attacks.triggers import TRIGGERS

        text, kind = f"Planted trigger: {', '.join(TRIGGERS)}.", str
    else:
        from leadapron.study.settings import SHORTHANDS, settings

        section, setting = SHORTHANDS[name]
        parameter = settings()[section][setting]
        text, kind = (
            f"{sentence(parameter.description)} ({section}.{setting})",
            parameter.annotation,
        )
    return click.Option([f"--{name}"], help=text, type=Setting(kind))


def _help_all_option() -> click.Option:
    def show(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            for option in context.command.params:
                if isinstance(option, click.Option):
                    option.hidden = False
            click.echo(context.get_help())
            context.exit()

    return click.Option(
        ["--help-all"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show every setting, over a hundred, and exit; --help shows the common ones.",
    )


def sentence(text: str) -> str:
    """Return a docstring's words on a parameter as a sentence."""
    return text[:1].upper() + text[1:]
