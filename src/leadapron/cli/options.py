"""Options that several commands have, and what they are made of."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from leadapron.cli.progress import showing_progress
from leadapron.errors import StoreError, UsageError

if TYPE_CHECKING:
    from leadapron.study.tasks import Running
    from leadapron.types import Machine

__all__ = [
    "Setting",
    "Written",
    "cache_option",
    "comma_separated",
    "film_options",
    "jobs_options",
    "json_option",
    "machine_options",
    "metavar",
    "model_options",
    "number_option",
    "opening_of",
    "opening_options",
    "own_and_source_settings",
    "own_size_option",
    "results_options",
    "running",
    "running_of",
    "setting_options",
    "source_option",
    "source_settings",
    "sweep_of",
    "sweep_options",
    "text_option",
    "trust_option",
    "whole_numbers",
    "with_options",
]

LONGEST_NUMBER, MOST_NUMBERS = 10, 1000
"""Digits of a whole number that `whole_numbers` takes, and how many it names at most."""


class Written(click.Path):
    """A path that is written: a file, or a folder, that is there already or not.

    A device, a pipe or a socket is refused before any work is done.

    Args:
        kind: which of both.
    """

    def __init__(self, kind: Literal["file", "folder"]) -> None:
        super().__init__(
            file_okay=kind == "file", dir_okay=kind == "folder", path_type=Path, resolve_path=False
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        from leadapron.store import refuse_odd

        path = Path(str(super().convert(value, param, ctx)))
        if not path.is_dir():
            try:
                refuse_odd(path)
            except StoreError as error:
                self.fail(str(error), param, ctx)
        return path


def with_options(tree: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Lay options over a spec's settings."""
    from leadapron.sources import AND
    from leadapron.specs import merge

    for name, value in given.items():
        if value in (None, ()):
            continue
        if name == "source":
            value = AND.join(value)
        section, _, setting = name.partition("__")
        if setting or section in ("source", "network", "trigger"):
            # `--trigger patch` names the section that `--trigger.side 3` belongs to.
            below = tree.get(section, {})
            tree[section] = below if isinstance(below, Mapping) else {"name": below}
            tree = merge(tree, {section: {setting or "name": value}})
        else:
            tree[section] = value
    return tree


@contextlib.contextmanager
def running(given: dict[str, Any]) -> Iterator[Machine]:
    """Show progress, and yield what `machine_options` and `film_options` were given.

    Args:
        given: a command's options; those are taken out.
    """
    from leadapron.types import Machine

    names = [name for name in ("device", "precision", "cache", "on_bad") if name in given]
    taken = {name: given.pop(name) for name in names}
    with showing_progress() as progress:
        yield Machine(**taken, progress=progress)


def model_options() -> list[click.Parameter]:
    """Return MODEL, the films without a trigger, and how a model is opened that doesn't say it."""
    return [
        click.Argument(["model"]),
        click.Option(
            ["--clean"],
            required=True,
            metavar="NAME:PATH",
            help="Films without a trigger, that the model wasn't trained on.",
        ),
        *opening_options(),
    ]


def opening_options() -> list[click.Parameter]:
    """Return what is said about a model whose file doesn't say it; see `opening_of`."""
    return [
        click.Option(["--findings"], help="Names of the model's outputs, with commas between."),
        click.Option(["--architecture"], help="Of a state dict that fits several."),
        click.Option(["--normalisation"], help="How the model scales grey levels."),
        click.Option(
            ["--weights-key"],
            metavar="NAME",
            help="Which network of a file that holds several, as plain and averaged weights.",
        ),
        trust_option(),
    ]


def opening_of(given: dict[str, Any]) -> dict[str, Any]:
    """Options of `open_model`, of a command with `opening_options`; they are taken out."""
    names = ("findings", "architecture", "normalisation", "weights_key", "trust_programs")
    opening = {name: given.pop(name) for name in names}
    if opening["findings"] is not None:
        opening["findings"] = comma_separated(opening["findings"])
    return opening


def trust_option() -> click.Parameter:
    """Return --trust-programs."""
    return click.Option(
        ["--trust-programs"],
        is_flag=True,
        help="Run TorchScript and ONNX even where the system can't keep them from your files.",
    )


def results_options() -> list[click.Parameter]:
    """Return --out, --jobs and --shard of an evaluation; see `running_of`."""
    return [
        click.Option(
            ["--out"],
            type=Written("folder"),
            required=True,
            help="Folder of the results.",
        ),
        *jobs_options(None),
    ]


def jobs_options(usual: int | None = 1) -> list[click.Parameter]:
    """Return --jobs and --shard; see `running_of`.

    Args:
        usual: how many processes there are if nothing is said; None for one a core.
    """
    words = "one a core" if usual is None else usual
    return [
        click.Option(
            ["--jobs"],
            type=click.IntRange(1, 1024),
            default=usual,
            help=f"Processes; {words} if left out.",
        ),
        click.Option(
            ["--shard"],
            metavar="INDEX/COUNT",
            help="Carry out this part alone, as 0/2, while another process or machine carries out "
            "1/2 with the same --out.",
        ),
    ]


def running_of(given: dict[str, Any]) -> Running:
    """Return what `jobs_options` were given.

    Args:
        given: a command's options; those are taken out.
    """
    from leadapron.study.tasks import Running, Shard

    jobs, shard = given.pop("jobs"), given.pop("shard")
    return Running(jobs=jobs, shard=Shard() if shard is None else Shard.parsed(shard))


def own_size_option() -> click.Parameter:
    """Return --size of the images that only this command looks at."""
    return click.Option(
        ["--size"],
        type=int,
        help="Side of the images; the films' own, up to 224, if left out.",
    )


def source_settings() -> list[click.Parameter]:
    """Return `--source.name` for every setting of a source."""
    from leadapron.sources import SOURCES
    from leadapron.specs import united

    return setting_options({"source": united(SOURCES)})


def own_and_source_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """A command's own options, and those of its source that were given, by their names."""
    return {
        name.removeprefix("source__"): value
        for name, value in given.items()
        if value is not None or not name.startswith("source__")
    }


def comma_separated(text: str) -> list[str]:
    """Return the words between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def whole_numbers(option: str, text: str) -> list[int]:
    """Return what "1-5,8" names."""
    numbers: list[int] = []
    for part in comma_separated(text):
        first, _, last = part.partition("-")
        ends = [first, last or first]
        if not all(end.isascii() and end.isdecimal() and len(end) < LONGEST_NUMBER for end in ends):
            raise UsageError(f"{option} {text}: expected whole numbers, as 1-5,8")
        named = range(int(first), int(last or first) + 1)
        if len(numbers) + len(named) > MOST_NUMBERS:
            raise UsageError(f"{option} {text}: expected whole numbers, {MOST_NUMBERS} at most")
        numbers += named
    return numbers


class Setting(click.ParamType[Any]):
    """A value of a spec, or several with commas between: an axis of the grid."""

    name = "value"

    def __init__(self, annotation: Any) -> None:
        self.text = annotation is str or typing.get_origin(annotation) is Literal

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what YAML makes of it; text stays as it is."""
        if not isinstance(value, str):
            return value
        name = (param.name or "") if param is not None else ""
        # Paths, expressions and lists of columns hold commas; nobody varies them in one study.
        whole = name in ("network__weights", "trigger__path") or (
            self.text and name[:8] == "source__"
        )
        parts = [value] if whole else value.strip("[]").split(",")
        from leadapron.store import parse_yaml

        if not self.text and not all(part.strip() for part in parts):
            self.fail(f"{value[:80]!r} can't be read as a value", param, ctx)
        try:
            values = [p.strip() if self.text else parse_yaml(p) for p in parts]
        except ValueError:
            self.fail(f"{value[:80]!r} can't be read as a value", param, ctx)
        return values if len(values) > 1 else values[0]


def metavar(annotation: Any) -> str:
    """Return what stands for a value of a type in the help."""
    if typing.get_origin(annotation) is Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    return {int: "N", float: "X", bool: "true|false"}.get(annotation, "TEXT")


def machine_options() -> list[click.Parameter]:
    """Return --device and --precision."""
    return [
        click.Option(
            ["--device"],
            type=click.Choice(["auto", "cpu", "cuda", "mps"]),
            default="auto",
            show_default=True,
            help="Where networks run.",
        ),
        click.Option(
            ["--precision"],
            type=click.Choice(["auto", "bf16", "fp32"]),
            default="auto",
            show_default=True,
            help="auto: bf16 where it is faster.",
        ),
    ]


class Values(click.ParamType[Any]):
    """Several numbers, or lists of them, with commas between, as YAML.

    Args:
        form: what is expected, as "N,N,..." or "[N,N],...".
    """

    name = "values"

    def __init__(self, form: str) -> None:
        self.form = form

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a list."""
        from leadapron.store import parse_yaml

        try:
            values = parse_yaml(f"[{value}]")
        except ValueError:
            values = None
        if not isinstance(values, list):  # as of "1]: [2"
            values = [None]
        kind = list if self.form.startswith("[") else int
        if not all(type(each) is kind for each in values):
            self.fail(f"{value!r}; expected {self.form}", param, ctx)
        return values


def sweep_options() -> list[click.Parameter]:
    """`--sweep.name` for every setting of a sweep; what is left out has its default."""
    from leadapron.detect.models import StampSweep
    from leadapron.specs import parameters

    return [
        click.Option(
            [f"--sweep.{name}", f"sweep__{name}"],
            type=int if each.annotation is int else Values(SEVERAL[name]),
            metavar=metavar(each.annotation) if each.annotation is int else SEVERAL[name],
            help=each.description,
        )
        for name, each in parameters(StampSweep).items()
    ]


SEVERAL = {"sides": "N,N,...", "values": "N,N,...", "pitches": "[PIXELS,FILMS],..."}


def sweep_of(given: dict[str, Any]) -> Any:
    """Return the sweep of the options, which are taken out of `given`."""
    from leadapron.detect.models import StampSweep
    from leadapron.specs import build

    settings = {
        name.removeprefix("sweep__"): given.pop(name)
        for name in list(given)
        if name[:7] == "sweep__"
    }
    return build(StampSweep, {n: v for n, v in settings.items() if v is not None}, "sweep")


def setting_options(sections: Mapping[str, Mapping[str, Any]]) -> list[click.Parameter]:
    """`--section.name` for every setting, but `--download`, which one wants to see at once."""
    options: list[click.Parameter] = []
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


def contradictions_option() -> click.Parameter:
    """Return --contradictions of what trains."""
    return click.Option(
        ["--contradictions"],
        type=click.Choice(["refuse", "allow"]),
        default="refuse",
        show_default=True,
        help="Identical films whose labels contradict each other: refuse them, or allow them.",
    )


def cache_option() -> click.Parameter:
    """Return --cache."""
    return click.Option(
        ["--cache"],
        metavar="FOLDER|none",
        help="Where films and sweeps are kept; LEADAPRON_CACHE or the system's cache if left out.",
    )


def source_option() -> click.Parameter:
    """Return --source, which may come again."""
    from leadapron.sources import SOURCES

    return click.Option(
        ["--source"],
        multiple=True,
        metavar="NAME:PATH",
        help=f"Where films come from: {', '.join(SOURCES)}; several are joined.",
    )


def film_options() -> list[click.Parameter]:
    """Return --cache and --on-bad, of commands that open films."""
    return [
        cache_option(),
        click.Option(
            ["--on-bad"],
            type=click.Choice(["stop", "skip"]),
            default="stop",
            show_default=True,
            help="At a film that is missing or can't be decoded; skipped ones are listed.",
        ),
    ]


def number_option(name: str, default: int, text: str) -> click.Parameter:
    """Return an option for a whole number, 0 or more."""
    return click.Option(
        [name], type=click.IntRange(0), default=default, show_default=True, help=text
    )


def text_option(name: str, default: str, text: str) -> click.Parameter:
    """Return an option for words."""
    return click.Option([name], default=default, show_default=True, help=text)


def json_option() -> click.Option:
    """Return --json."""
    return click.Option(["--json", "as_json"], is_flag=True, help="Answer in JSON.")
