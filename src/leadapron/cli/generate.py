"""Commands generated from functions: the signature gives names, types, defaults and help."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import click

from leadapron.cli.kinds import Names, Parts, Values
from leadapron.cli.progress import showing_progress
from leadapron.cli.settings import Settings, sentence, setting_options, source_option

if typing.TYPE_CHECKING:
    from leadapron.specs import Parameter

__all__ = ["BACKEND", "FILMS", "MACHINE", "Answer", "command", "done", "of_document", "with_page"]

FILMS = ("cache", "on_bad")
MACHINE = ("device", "precision", *FILMS)
BACKEND = ("backend", *MACHINE)
"""Fields of `Machine` that are options: of all commands, of those that run networks, and of those
that audit or screen."""

RUNNING = {"running": ("jobs", "shard")}
"""Fields of `Running` that are options."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The output of a command.

    Args:
        facts: output for --json.
        lines: output for people; not computed for --json.
        code: the exit code.
        indent: indentation of the JSON; None for one line.
    """

    facts: Mapping[str, Any]
    lines: Iterable[str]
    code: int = 0
    indent: int | None = 2

    def say(self, as_json: bool) -> int:
        """Print it, and return the exit code."""
        if as_json:
            click.echo(json.dumps(self.facts, indent=self.indent))
        else:
            for line in self.lines:
                click.echo(line)
        return self.code


def done(lines: Iterable[str], *, indent: int | None = 2, **facts: Any) -> Answer:
    """Return the answer of a command that has no verdict."""
    whole = {"schema": 1, "verdict": "done", **facts}
    return Answer(facts=whole, lines=lines, indent=indent)


def of_document(document: Any, lines: Iterable[str], *, code: int = 0, page: Any = None) -> Answer:
    """Return a document as an answer, with the path of its page if it has one."""
    from leadapron.documents import dump

    facts = {**dump(document), **({} if page is None else {"page": str(page)})}
    return Answer(facts=facts, lines=lines, code=code)


def with_page(lines: Iterable[str], page: Any) -> Iterator[str]:
    """Yield the lines, then where the page is, if there is one."""
    yield from lines
    if page is not None:
        yield f"Page: {page}"


HOW: Mapping[str, Mapping[str, Any]] = {
    "cache": {"metavar": "FOLDER|none"},
    "jobs": {"type": click.IntRange(1, 1024), "metavar": "N"},
    "shard": {"type": Parts(), "metavar": "INDEX/COUNT"},
    "card": {"metavar": "FILE"},
    "model.normalisation": {"metavar": "NAME|MEAN/STD"},
    "model.weights_key": {"metavar": "NAME"},
    "model.architecture": {"metavar": "NAME"},
    "sweep.pitches": {"metavar": "[PIXELS,FILMS],..."},
}
"""Entries of a command's `how` for parameters that several commands share."""


def command(  # noqa: PLR0913 (what can't be generated, by keyword)
    name: str,
    job: str | Callable[..., Any],
    answer: Callable[[Any, Mapping[str, Any]], Answer] | None = None,
    *,
    more: str = "",
    options: Sequence[str] = (),
    how: Mapping[str, Mapping[str, Any]] | None = None,
    machine: Sequence[str] = MACHINE,
    flat: Mapping[str, Sequence[str]] | None = None,
    settings: Settings | None = None,
    extra: Sequence[click.Option] = (),
    progress: bool = True,
) -> click.Command:
    """Make the command that calls a function.

    Its positional parameters become arguments, the others options: a machine, settings of a study
    or of a source, how a model is opened, and dataclasses become several. Help is the docstring.

    Args:
        name: name of the command.
        job: the function, or "module:function".
        answer: makes the output from the function's result and arguments; left out if the
            function itself returns an answer or an exit code.
        more: help that only the command line needs, as exit codes.
        options: positional parameters that become options nevertheless.
        how: by parameter, further arguments for click, as the range of a number or the type of a
            path; and `flag`, if the option has another name.
        machine: fields of `Machine` that are options.
        flat: dataclasses whose fields are options by their own names, and which fields; fields of
            other dataclasses are named `--parameter.field`.
        settings: the settings of a study that the parameter `settings` takes.
        extra: options that only `answer` gets, as the path of a page.
        progress: whether progress is shown.
    """
    target = _stub(job) or _loaded(job) if isinstance(job, str) else job
    parts = _parts(
        target, options, how or {}, {**RUNNING, **(flat or {}), "machine": machine}, settings
    )

    def run(as_json: bool = False, **given: Any) -> int:
        function = _loaded(job)
        apart = {str(option.name): given.pop(str(option.name)) for option in extra}

        def called(shown: Any) -> dict[str, Any]:
            call: dict[str, Any] = {}
            for part in parts:
                call |= part.take(given)
            if "machine" in call:
                call["machine"] = dataclasses.replace(call["machine"], progress=shown)
            return call

        if progress:
            with showing_progress() as shown:
                call = called(shown)
                found = function(**call)
        else:
            call = called(None)
            found = function(**call, as_json=as_json) if _streams(target) else function(**call)
        said = found if answer is None else answer(found, {**call, **apart})
        return said if isinstance(said, int) else said.say(as_json)

    json_option = click.Option(
        ["--json", "as_json"], is_flag=True, help="Print the result as JSON."
    )
    return click.Command(
        name,
        params=[*(each for part in parts for each in part.params), *extra, json_option,
                *(settings.long_options() if settings else ())],
        callback=run,
        help=_help(target, parts, more),
    )  # fmt: skip


def _loaded(job: str | Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(job, str):
        return job
    module, _, name = job.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _stub(job: str) -> Callable[..., Any] | None:
    """A job's signature and docstring, read from its file: importing it may load torch and scipy.

    Only the names in the signature are imported. None if a name is neither imported by the module
    nor one of its constants.
    """
    module, _, name = job.partition(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_bytes()).body
    (function,) = (n for n in body if isinstance(n, ast.FunctionDef) and n.name == name)
    function.decorator_list, function.returns, function.body = [], None, function.body[:1]
    wanted = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    shown: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.ImportFrom):
            named = [each for each in node.names if (each.asname or each.name) in wanted]
            if named or node.module == "__future__":
                shown.append(ast.ImportFrom(node.module, named or node.names, 0))
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            shown.append(node)
    known: dict[str, Any] = {}
    whole = ast.fix_missing_locations(ast.Module([*shown, function], []))
    exec(compile(whole, spec.origin, "exec"), known)  # noqa: S102 (our own)
    stub: Callable[..., Any] = known[name]
    return stub if wanted <= {*known, *vars(builtins)} else None


def _streams(target: Callable[..., Any]) -> bool:
    """Whether a function prints while it works, and so needs to know the format."""
    return "as_json" in inspect.signature(target).parameters


def _help(target: Callable[..., Any], parts: Sequence[_Part], more: str) -> str:
    about = (inspect.getdoc(target) or "").partition("\nArgs:")[0].partition("\nReturns:")[0]
    about = about.partition("\nRaises:")[0]
    named = [
        f"{each.human_readable_name}: {part.about}"
        for part in parts
        for each in part.params
        if isinstance(each, click.Argument) and part.about
    ]
    return "\n\n".join(filter(None, [about.strip(), more, *named]))


# --- parts: from one parameter to options


@dataclass(frozen=True)
class _Part:
    """Options or an argument, and how their values become a function's arguments."""

    params: Sequence[click.Parameter]
    take: Callable[[dict[str, Any]], dict[str, Any]]
    """Removes the values from click's dict, and returns the function's arguments."""
    about: str = ""


def _parts(
    target: Callable[..., Any],
    options: Sequence[str],
    how: Mapping[str, Mapping[str, Any]],
    flat: Mapping[str, Sequence[str]],
    settings: Settings | None,
) -> list[_Part]:
    from leadapron.specs import parameters

    keyword = parameters(target)
    found = []
    for name, each in parameters(target, positional=True).items():
        positional = name not in keyword and name not in options
        if name == "as_json":
            continue
        kind, _ = _kind(each.annotation)
        if name in flat:
            chosen = {n: field for n, field in parameters(kind).items() if n in flat[name]}
            if isinstance(each.default, kind):  # the function's own defaults
                chosen = {
                    n: dataclasses.replace(field, default=getattr(each.default, n))
                    for n, field in chosen.items()
                }
            found.append(_built(name, chosen, kind, how))
        elif name == "opening":
            found.append(_opening({**HOW, **how}))
        elif dataclasses.is_dataclass(kind):
            found.append(_dotted(name, kind, {**HOW, **how}))
        elif settings is not None and typing.get_origin(kind) is Mapping:
            found.append(_tree(name, settings))
        elif name == "source" and not positional and kind is str and name not in how:
            found.append(_Part([source_option()], _joined))
        else:
            found.append(_one(each, positional, how.get(name, {})))
    if any(each.kind is each.VAR_KEYWORD for each in inspect.signature(target).parameters.values()):
        found.append(_of_source(set(parameters(target, positional=True))))
    return found


def _one(each: Parameter, positional: bool, how: Mapping[str, Any]) -> _Part:
    """One parameter, one option or argument."""
    param = _param(each, positional, how)

    def take(given: dict[str, Any]) -> dict[str, Any]:
        value = given.pop(each.name)
        return {each.name: value != each.default if _kind(each.annotation)[0] is bool else value}

    return _Part([param], take, sentence(each.description))


def _param(each: Parameter, positional: bool, how: Mapping[str, Any]) -> click.Parameter:
    from leadapron.specs import REQUIRED

    kind, several = _kind(each.annotation)
    given = dict(how)
    flag = given.pop("flag", each.name.replace("_", "-"))
    settings: dict[str, Any] = {"type": _type(kind)}
    if positional:
        settings |= {"nargs": -1 if several else 1, "required": each.default is REQUIRED}
        return click.Argument([each.name], **{**settings, **given})
    settings["help"] = sentence(each.description)
    if kind is bool:
        if each.default:
            flag, settings["help"] = f"no-{flag}", f"Leave out {each.description}"
        settings |= {"type": None, "is_flag": True}
    elif each.default is REQUIRED:
        settings["required"] = "default" not in given
    else:
        settings["default"] = each.default
    settings["multiple"] = several and not isinstance(given.get("type"), Names)
    shown = {**settings, **given}.get("default") not in (None, (), "")
    return click.Option([f"--{flag}", each.name], **{"show_default": shown, **settings, **given})


def _built(
    name: str,
    known: Mapping[str, Parameter],
    build: Callable[..., Any],
    how: Mapping[str, Mapping[str, Any]],
) -> _Part:
    """Several options, from which one argument is built."""
    settings = {**HOW, **how}
    parts = [_one(each, False, settings.get(each.name, {})) for each in known.values()]

    def take(given: dict[str, Any]) -> dict[str, Any]:
        return {name: build(**{k: v for part in parts for k, v in part.take(given).items()})}

    return _Part([param for part in parts for param in part.params], take)


def _opening(how: Mapping[str, Mapping[str, Any]]) -> _Part:
    """`--model.field` for all that can be stated of a model, and how it is opened."""
    from leadapron.models.stated import ModelSettings, Opening
    from leadapron.specs import parameters

    stated = _dotted("model", ModelSettings, how)
    rest = {n: each for n, each in parameters(Opening).items() if n != "model"}
    other = _built("opening", rest, dict, how)

    def take(given: dict[str, Any]) -> dict[str, Any]:
        return {"opening": Opening(**stated.take(given), **other.take(given)["opening"])}

    return _Part([*stated.params, *other.params], take)


def _dotted(name: str, kind: Any, how: Mapping[str, Mapping[str, Any]]) -> _Part:
    """`--name.field` for every field of a dataclass; fields left out have their defaults."""
    from leadapron.specs import build, parameters

    params = []
    for each in parameters(kind).values():
        own = how.get(f"{name}.{each.name}", {})
        settings = {**_form(each.annotation, own.get("metavar", "")), **own}
        params.append(
            click.Option(
                [f"--{name}.{each.name.replace('_', '-')}", f"{name}__{each.name}"],
                help=sentence(each.description),
                **settings,
            )
        )

    def take(given: dict[str, Any]) -> dict[str, Any]:
        values = {str(p.name): given.pop(str(p.name)) for p in params}
        chosen = {k.partition("__")[2]: v for k, v in values.items() if v is not None}
        return {name: build(kind, chosen, name)}

    return _Part(params, take)


def _form(annotation: Any, form: str = "") -> dict[str, Any]:
    """Type and metavar of a field: a number, a name, one of several words, or several of these.

    Args:
        annotation: the field's type.
        form: expected form of several numbers, if it has another metavar.
    """
    kind, several = _kind(annotation)
    if not several:
        return {"type": _type(kind), **({"metavar": FORMS[kind]} if kind in FORMS else {})}
    if kind is str:
        return {"type": Names("NAME,NAME"), "metavar": "NAME,NAME"}
    form = form or (f"{FORMS[kind]},{FORMS[kind]},..." if kind in FORMS else "[N,N],...")
    return {"type": Values(form), "metavar": form}


FORMS = {int: "N", float: "X"}
"""Metavars of numbers."""


def _tree(name: str, settings: Settings) -> _Part:
    return _Part(settings.options(), lambda given: {name: settings.tree(given)})


def _joined(given: dict[str, Any]) -> dict[str, Any]:
    from leadapron.sources import AND

    return {"source": AND.join(given.pop("source")) or None}


def _of_source(own: Container[str]) -> _Part:
    """`--source.name` for every setting of a source.

    Args:
        own: the function's own parameters, of which none is mistaken for a setting of that name.
    """
    from leadapron.sources import OWN, SOURCES
    from leadapron.specs import united

    params = setting_options({"source": united(SOURCES)})

    def take(given: dict[str, Any]) -> dict[str, Any]:
        values = {str(p.name): given.pop(str(p.name)) for p in params}
        chosen = {k.partition("__")[2]: v for k, v in values.items() if v is not None}
        return {f"{OWN}{name}" if name in own else name: v for name, v in chosen.items()}

    return _Part(params, take)


def _kind(annotation: Any) -> tuple[Any, bool]:
    """Type of a value, and whether the option takes several."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        annotation = str if str in kinds else kinds[0]
    if typing.get_origin(annotation) in (Sequence, tuple):
        return typing.get_args(annotation)[0], True
    return annotation, False


def _type(kind: Any) -> click.ParamType[Any] | type:
    if typing.get_origin(kind) is Literal:
        return click.Choice(typing.get_args(kind))
    if kind is Path:
        return click.Path(path_type=Path)
    return kind if kind in (int, float, str) else str
