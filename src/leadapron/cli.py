"""The command line: parse, call one function, print. Imports are lazy, so `--help` is instant."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import sys
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import click

from leadapron import __version__
from leadapron.errors import LeadapronError, UnknownNameError, UsageError

__all__ = ["main"]

logger = logging.getLogger("leadapron")

FOUND, FAILED, CANT_TELL, USAGE, INTERRUPTED = 1, 2, 3, 4, 130

LARGEST_SPEC = 1_000_000
"""Bytes of a YAML file that are read; a study's settings take two thousand."""


class Commands(click.Group):
    """Commands that import what they need only when they are called."""

    lazy: typing.ClassVar[dict[str, tuple[str, Callable[[], click.Command]]]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a user meets them."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Make the command of that name."""
        if cmd_name not in self.lazy:
            raise UnknownNameError("command", cmd_name, self.lazy)
        return self.lazy[cmd_name][1]()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without making them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (text, _) in self.lazy.items()])


@click.group(
    cls=Commands,
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
        code = _fail("interrupted; the same command continues where it stopped", INTERRUPTED)
    except KeyboardInterrupt:
        code = _fail("interrupted; the same command continues where it stopped", INTERRUPTED)
    except click.ClickException as error:
        hint = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        code = _fail(f"{error.format_message()} {f'({hint} --help)' if hint else ''}", USAGE)
    except LeadapronError as error:
        code = _fail(str(error), error.exit_code)
    except BrokenPipeError:
        code = FAILED
    except Exception as error:
        if os.environ.get("LEADAPRON_TRACEBACK"):
            traceback.print_exc()
        words = f"unexpected {type(error).__name__}: {error}"
        code = _fail(f"{words} (LEADAPRON_TRACEBACK=1 shows where)", FAILED)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> int:
    click.echo("leadapron: " + " ".join(message.split()), err=True)
    return code


def tune_allocator() -> None:
    """Let glibc keep large buffers: torch asks for the same ones at every step."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-2, 256 << 20)  # M_TOP_PAD


# --- study


def _study() -> click.Command:
    return click.Command(
        "study",
        params=[
            click.Argument(
                ["spec"], required=False, type=click.Path(dir_okay=False, path_type=Path)
            ),
            *_study_options(),
        ],
        callback=_run_study,
        help=(
            "Train a backdoored model and its clean twin, measure both, write a report.\n\n"
            "SPEC is a YAML file with the settings below, by section; options come on top. "
            "A list (1,3,5) is an axis: one pair of models for each combination. The same "
            "command continues a study that was stopped."
        ),
    )


def _run_study(
    spec: Path | None,
    out: Path,
    device: str,
    precision: Literal["auto", "bf16", "fp32"],
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.report import summary, write_report
    from leadapron.study import Options, run_study

    tree = _with_options(_read_spec(spec) if spec else {}, given)
    with _progress() as progress:
        options = Options(
            device=device, precision=precision, cache=cache, progress=progress, on_bad=on_bad
        )
        run_study(tree, out, options)
    page = write_report(out)
    _answer(out, page, summary(out), as_json)


def _study_options() -> list[click.Parameter]:
    """What every command that carries out a study takes."""
    from leadapron.plan import SHORTHANDS, settings
    from leadapron.triggers import TRIGGERS

    named = {
        "network": "Architecture: resnet9, densenet121.",
        "trigger": f"What is planted: {', '.join(TRIGGERS)}.",
    }
    shorts = {
        "size": "Side of the network's input in pixels (preprocessing.size).",
        "dtype": "uint8 or uint16 (preprocessing.dtype).",
        "epochs": "Most passes over the films (training.epochs).",
        "finding": "The attacker's target (poisoning.finding); the source's first if left out.",
    }
    assert set(shorts) == set(SHORTHANDS)
    numbers = ("size", "epochs")
    return [
        _source_option(),
        *(
            click.Option([f"--{name}"], help=text, type=Setting(int if name in numbers else str))
            for name, text in {**named, **shorts}.items()
        ),
        click.Option(["--seed"], type=int, help="The first seed."),
        click.Option(["--seeds"], type=int, help="How many seeds, counted from the first."),
        click.Option(
            ["--out"], required=True, type=click.Path(path_type=Path), help="The study's folder."
        ),
        *_machine_options(),
        *_film_options(),
        _json_option(),
        *_setting_options(settings()),
    ]


def _read_spec(path: Path) -> dict[str, Any]:
    import yaml

    try:
        if path.stat().st_size > LARGEST_SPEC:
            raise UsageError(f"{path} is larger than {LARGEST_SPEC} bytes; expected settings")
        tree = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{path} holds no settings; expected lines as `seed: 1`")
    return tree


def _with_options(tree: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
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


# --- reproduce


def _reproduce() -> click.Command:
    from leadapron.jobs.reproduce import PAPERS, PRESETS

    return click.Command(
        "reproduce",
        params=[
            click.Argument(["paper"]),
            click.Option(
                ["--preset"],
                default="smoke",
                show_default=True,
                metavar="|".join(PRESETS),
                help="How much of it: minutes on phantoms, less than an hour on a few thousand "
                "films, or the whole grid on a machine for it.",
            ),
            *_study_options(),
        ],
        callback=_run_reproduce,
        help=(
            f"Reproduce a PAPER ({', '.join(PAPERS)}) and put it to the test: its code's ways "
            "beside corrected ones, every cell beside a clean twin. Options come on top of the "
            "preset. The same command continues where it was stopped."
        ),
    )


def _run_reproduce(
    paper: str,
    preset: str,
    source: tuple[str, ...],
    out: Path,
    device: str,
    precision: Literal["auto", "bf16", "fp32"],
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.reproduce import reproduce
    from leadapron.report import summary
    from leadapron.sources import AND
    from leadapron.study import Options

    with _progress() as progress:
        options = Options(
            device=device, precision=precision, cache=cache, progress=progress, on_bad=on_bad
        )
        settings = _with_options({}, given)
        name = AND.join(source) or None
        page = reproduce(paper, preset, out, source=name, settings=settings, options=options)
    _answer(out, page, summary(out), as_json)


# --- recipe

ENHANCEMENT = "rosenblatt2023"
"""The recipe that has no trigger, so no study's report."""


def _recipe() -> click.Command:
    from leadapron.jobs.recipes import RECIPES

    names = [*RECIPES, ENHANCEMENT]

    def known(_: click.Context, __: click.Parameter, name: str | None) -> str:
        if name not in names:
            raise UnknownNameError("recipe", name or "", names)
        return name

    return click.Command(
        "recipe",
        params=[
            # Eager, so that a missing name is answered with the names, not with a missing --out.
            click.Argument(["name"], required=False, is_eager=True, callback=known),
            *_study_options(),
        ],
        callback=_run_recipe,
        help=(
            f"Carry out a published attack ({', '.join(names)}) beside its controls and clean "
            "twins, on phantoms unless told otherwise.\n\n"
            "recipe.md says which settings are the paper's, which ours, and what was left out. "
            "Options come on top. The same command continues where it was stopped."
        ),
    )


def _run_recipe(
    name: str,
    source: tuple[str, ...],
    out: Path,
    device: str,
    precision: Literal["auto", "bf16", "fp32"],
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.enhancement import lines, run_enhancement
    from leadapron.jobs.recipes import run_recipe
    from leadapron.report import summary
    from leadapron.sources import AND
    from leadapron.study import Options

    with _progress() as progress:
        options = Options(
            device=device, precision=precision, cache=cache, progress=progress, on_bad=on_bad
        )
        settings = _with_options({}, given)
        films = AND.join(source) or None
        if name == ENHANCEMENT:
            page = run_enhancement(out, source=films, settings=settings, options=options)
        else:
            page = run_recipe(name, out, source=films, settings=settings, options=options)
    _answer(out, page, lines(out) if name == ENHANCEMENT else summary(out), as_json)


# --- report


def _report() -> click.Command:
    return click.Command(
        "report",
        params=[
            click.Argument(["folder"], type=click.Path(path_type=Path)),
            click.Option(
                ["--markdown"],
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Also write which attacks take, at which fraction, as one table.",
            ),
            _json_option(),
        ],
        callback=_run_report,
        help="Make the report of a study's FOLDER again, byte by byte; no network is run.",
    )


def _run_report(folder: Path, markdown: Path | None, as_json: bool) -> None:
    from leadapron.report import summary, write_potency, write_report

    page = write_report(folder)
    if markdown is not None:
        write_potency(folder, markdown)
    _answer(folder, page, summary(folder), as_json)


def _answer(folder: Path, page: Path, lines: list[str], as_json: bool) -> None:
    if as_json:
        facts = {
            "schema": 1,
            "verdict": "done",
            "folder": str(folder),
            "report": str(page),
            "summary": lines,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    for line in lines:
        click.echo(line)
    click.echo(f"Report: {page}")


# --- explain


def _explain() -> click.Command:
    return click.Command(
        "explain",
        params=[
            click.Argument(["study"], type=click.Path(path_type=Path)),
            click.Option(
                ["--finding"], help="Finding to explain; the attacker's target if left out."
            ),
            _text("--methods", "all", "all, or names as layer-cam,occlusion."),
            click.Option(
                ["--count"],
                type=click.IntRange(1),
                default=4,
                show_default=True,
                help="Films, one a row.",
            ),
            _number("--seed", 0, "Chooses films and places triggers."),
            click.Option(
                ["--out"], required=True, type=click.Path(path_type=Path), help="The PNG file."
            ),
            *_machine_options(),
            *_film_options(),
            _json_option(),
        ],
        callback=_run_explain,
        help=(
            "Draw what each explanation method shows of a backdoored model on triggered test "
            "films, and count how often its map points at the trigger, beside the clean twin.\n\n"
            "STUDY is the folder of a study (its first backdoored run is taken), of one of its "
            "backdoored runs, or the classifier.safetensors in one."
        ),
    )


def _run_explain(
    study: Path,
    out: Path,
    device: str,
    precision: Literal["auto", "bf16", "fp32"],
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
    **given: Any,
) -> None:
    from dataclasses import asdict

    from leadapron.jobs.explain import explain_sheet
    from leadapron.study import Options

    methods = [] if given["methods"] == "all" else _names(given["methods"])
    if not methods and given["methods"] != "all":
        raise UsageError("--methods names none; expected all, or names as layer-cam,occlusion")
    with _progress() as progress:
        found = explain_sheet(
            study,
            out,
            finding=given["finding"],
            methods=methods,
            count=given["count"],
            seed=given["seed"],
            options=Options(
                device=device, precision=precision, cache=cache, progress=progress, on_bad=on_bad
            ),
        )
    if as_json:
        facts = {"schema": 1, "verdict": "done", "file": str(out), **asdict(found)}
        click.echo(json.dumps(facts, indent=2))
        return
    n = found.films
    click.echo(
        f"{found.finding} on {n} triggered films: maps whose highest point lies within "
        f"{found.tolerance_px:g} pixels of the trigger"
    )
    width = max(len(f"{shown.name} ({shown.layer})") for shown in found.methods)
    for shown in found.methods:
        name = f"{shown.name} ({shown.layer})"
        click.echo(f"{name:<{width}}  backdoored {shown.backdoored} of {n}, twin {shown.twin}")
    for name, reason in found.skipped.items():
        click.echo(f"{name}: skipped, {reason}")
    click.echo(f"a random point would hit {found.chance:.1f}, the centre {found.centre}")
    click.echo(f"Picture: {out}")


# --- prepare, cache


def _prepare() -> click.Command:
    from leadapron.plan import settings

    known = {name: settings()[name] for name in ("source", "preprocessing")}
    return click.Command(
        "prepare",
        params=[
            click.Argument(["source"], nargs=-1, required=True),
            click.Option(
                ["--size"],
                type=Setting(int),
                help="Side of the images in pixels (preprocessing.size), or several: 64,224.",
            ),
            click.Option(
                ["--dtype"], type=Setting(str), help="uint8 or uint16 (preprocessing.dtype)."
            ),
            *_setting_options(known),
            *_film_options(),
            _json_option(),
        ],
        callback=_run_prepare,
        help=(
            "Decode a SOURCE's films into the cache, once, for all later runs. Broken off, the "
            "same command goes on."
        ),
    )


def _run_prepare(
    source: tuple[str, ...],
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.prepare import prepare

    with _progress() as progress:
        done = [
            facts
            for name in source
            for facts in prepare(
                _with_options({}, {**given, "source": (name,)}),
                cache=cache,
                progress=progress,
                on_bad=on_bad,
            )
        ]
    if as_json:
        click.echo(json.dumps({"schema": 1, "verdict": "done", "prepared": done}, indent=2))
        return
    for facts in done:
        side, seconds = facts["size"], facts["seconds"]
        click.echo(
            f"{facts['films']:,} film{'s' * (facts['films'] != 1)} as {side}x{side} "
            f"{facts['dtype']}, "
            f"{_bytes(facts['bytes'])}, in {seconds:.1f} s: {facts['folder']}"
        )
        for note in facts["notes"]:
            click.echo(note)


def _cache() -> click.Command:
    show = click.Command(
        "list",
        params=[
            click.Option(["--verify"], is_flag=True, help="Read all of it, compare checksums."),
            _cache_option(),
            _json_option(),
        ],
        callback=_run_cache_list,
        help="List the films and sweeps that the cache holds; exit code 2 if films are damaged.",
    )
    remove = click.Command(
        "clear",
        params=[
            click.Argument(["keys"], nargs=-1),
            _cache_option(),
            _json_option(),
        ],
        callback=_run_cache_clear,
        help="Remove films and sweeps: those with the KEYS that `list` shows, or all.",
    )
    return click.Group("cache", [show, remove], help="The cache of decoded films and of sweeps.")


def _run_cache_list(verify: bool, cache: str | None, as_json: bool) -> int:
    from dataclasses import asdict

    from leadapron.cache import entries, results

    folder = _cache_folder(cache)
    found, kept = entries(folder), results(folder)
    damaged = {entry.folder.name: entry.damaged() if verify else 0 for entry in found}
    if as_json:
        listed = [
            {
                "key": entry.folder.name,
                **entry.facts,
                "done": entry.done,
                "bytes": entry.size,
                "used": entry.used,
                "damaged_blocks": damaged[entry.folder.name] if verify else None,
            }
            for entry in found
        ]
        answer = {"schema": 1, "verdict": "done", "folder": str(folder), "entries": listed}
        answer["results"] = [asdict(result) for result in kept]
        click.echo(json.dumps(answer, indent=2))
        return FAILED if any(damaged.values()) else 0
    for entry in found:
        facts, key = entry.facts, entry.folder.name
        done = "" if entry.complete else f"{entry.done / facts['films']:.0%} of "
        used = time.strftime("%Y-%m-%d", time.localtime(entry.used))
        wrong = f", DAMAGED: leadapron cache clear {key}" if damaged[key] else ""
        click.echo(
            f"{key}  {done}{facts['films']:,} films  {facts['size']}x{facts['size']} "
            f"{facts['dtype']}  {_bytes(entry.size)}  used {used}  {facts['source']}{wrong}"
        )
    for result in kept:
        used = time.strftime("%Y-%m-%d", time.localtime(result.used))
        click.echo(f"{result.key}  {_bytes(result.size)}  used {used}  {result.about}")
    held = sum(entry.size for entry in found) + sum(result.size for result in kept)
    click.echo(f"{_bytes(held)} in {folder}")
    return FAILED if any(damaged.values()) else 0


def _run_cache_clear(keys: tuple[str, ...], cache: str | None, as_json: bool) -> None:
    from leadapron.cache import clear

    folder = _cache_folder(cache)
    removed = clear(folder, keys)
    if as_json:
        click.echo(json.dumps({"schema": 1, "verdict": "done", "removed": removed}, indent=2))
    else:
        click.echo(f"removed {len(removed)} from {folder}")


def _cache_folder(given: str | None) -> Path:
    from leadapron.cache import default_folder

    folder = default_folder(given)
    if folder is None:
        raise UsageError("--cache none: there is no cache; expected a folder")
    return folder


def _bytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


# --- phantom


def _phantom() -> click.Command:
    return click.Command(
        "phantom",
        params=[
            click.Option(
                ["--count"],
                type=click.IntRange(1, 10_000),
                default=24,
                show_default=True,
                help="Number of films.",
            ),
            click.Option(
                ["--size"],
                type=int,
                default=256,
                show_default=True,
                help="Side of each in pixels, 32 to 1024.",
            ),
            click.Option(
                ["--seed"],
                type=click.IntRange(0),
                default=0,
                show_default=True,
                help="Seed of the collection.",
            ),
            click.Option(
                ["--findings"],
                metavar="NAME,NAME",
                default="",
                help="Only films that show at least one of these.",
            ),
            click.Option(
                ["--out"], required=True, type=click.Path(path_type=Path), help="The PNG file."
            ),
            _json_option(),
        ],
        callback=_run_phantom,
        help="Draw a contact sheet of phantoms with their findings.",
    )


def _run_phantom(count: int, size: int, seed: int, findings: str, out: Path, as_json: bool) -> None:
    from leadapron.jobs.phantom import phantom_sheet

    names = [name.strip() for name in findings.split(",") if name.strip()]
    captions = phantom_sheet(out, count=count, size=size, seed=seed, findings=names)
    if as_json:
        facts = {"schema": 1, "verdict": "done", "file": str(out), "findings": captions}
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(f"{count} phantoms of {size}x{size} pixels: {out}")


# --- describe


def _describe() -> click.Command:
    from leadapron.sources import SOURCES
    from leadapron.specs import united

    return click.Command(
        "describe",
        params=[
            click.Argument(["source"]),
            click.Option(
                ["--size"],
                type=int,
                help="Side of the images that are looked at; the source's own way, mostly 224, if "
                "left out.",
            ),
            click.Option(
                ["--out"],
                type=click.Path(dir_okay=False, path_type=Path),
                help="An HTML file, for all of it on one page.",
            ),
            *_setting_options({"source": united(SOURCES)}),
            *_film_options(),
            _json_option(),
        ],
        callback=_run_describe,
        help=(
            "Say what a SOURCE holds: films, patients, labels and how they come together, copies "
            "of films, and what leaks from one side of the split to the other."
        ),
    )


def _run_describe(
    source: str,
    size: int | None,
    out: Path | None,
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.describe import describe

    settings = {
        name.removeprefix("source__"): value for name, value in given.items() if value is not None
    }
    with _progress() as progress:
        found = describe(
            source, size=size, cache=cache, progress=progress, on_bad=on_bad, **settings
        )
    facts = found.facts()
    if out is not None:
        from leadapron.report import write_description

        write_description(out, facts)
    if as_json:
        page = {} if out is None else {"page": str(out)}
        click.echo(json.dumps({**facts, **page}, indent=2))
        return
    from leadapron.report import description_lines

    for line in description_lines(facts):
        click.echo(line)
    if out is not None:
        click.echo(f"Page: {out}")


# --- scan, clean

VERDICTS = {"clean": 0, "poisoned": FOUND, "suspicious": CANT_TELL, "can't tell": CANT_TELL}


def _scan() -> click.Command:
    return click.Command(
        "scan",
        params=[
            click.Argument(["source"]),
            _own_size_option(),
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
                help="A network that was trained on these films; its features are ranked as well.",
            ),
            click.Option(
                ["--train"],
                is_flag=True,
                help="Train a small network on these films for that purpose.",
            ),
            click.Option(
                ["--out"],
                type=click.Path(file_okay=False, path_type=Path),
                help="A folder for films.csv, scan.json and the page scan.html.",
            ),
            _number("--seed", 0, "Of all that is drawn by chance."),
            *_source_settings(),
            *_machine_options(),
            *_film_options(),
            _json_option(),
        ],
        callback=_run_scan,
        help=(
            "Say whether a SOURCE's films are poisoned: which, where in them, towards which "
            "finding.\n\n"
            "Exit code 1 where they are, 3 where it can't tell, 0 where nothing was found, which "
            "is no proof. Films are looked at with their own pixels, uncropped, up to 224 of them "
            "on a side. What a network adds never changes the verdict."
        ),
    )


def _run_scan(
    source: str,
    out: Path | None,
    device: str,
    precision: Literal["auto", "bf16", "fp32"],
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
    **given: Any,
) -> int:
    from leadapron.jobs.scan import scan

    with _progress() as progress:
        found = scan(
            source,
            out=out,
            device=device,
            precision=precision,
            cache=cache,
            progress=progress,
            on_bad=on_bad,
            **_own_and_source_settings(given),
        )
    facts, page = found.facts(), None if out is None else out / "scan.html"
    if as_json:
        click.echo(json.dumps({**facts, **({} if page is None else {"page": str(page)})}, indent=2))
        return VERDICTS[found.verdict]
    from leadapron.report import scan_lines

    for line in scan_lines(facts):
        click.echo(line)
    if page is not None:
        click.echo(f"Films: {page.with_name('films.csv')}; page, with patients' pixels: {page}")
    return VERDICTS[found.verdict]


def _clean() -> click.Command:
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
                type=click.Path(file_okay=False, path_type=Path),
                help="A folder for what is left.",
            ),
            click.Option(
                ["--retrain"],
                is_flag=True,
                help="Train a small network with these films and one without, and compare them.",
            ),
            _own_size_option(),
            _number("--seed", 0, "Of the networks, and of the split where there is none."),
            *_source_settings(),
            *_machine_options(),
            *_film_options(),
            _json_option(),
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
    device: str,
    precision: Literal["auto", "bf16", "fp32"],
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.clean import clean

    with _progress() as progress:
        done = clean(
            source,
            drop,
            out,
            device=device,
            precision=precision,
            cache=cache,
            progress=progress,
            on_bad=on_bad,
            **_own_and_source_settings(given),
        )
    facts = done.facts()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    from leadapron.report import clean_lines

    for line in clean_lines(facts):
        click.echo(line)


def _own_size_option() -> click.Parameter:
    return click.Option(
        ["--size"],
        type=int,
        help="Side of the images; the films' own, up to 224, if left out.",
    )


def _source_settings() -> list[click.Parameter]:
    from leadapron.sources import SOURCES
    from leadapron.specs import united

    return _setting_options({"source": united(SOURCES)})


def _own_and_source_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """A command's own options, and those of its source that were given, by their names."""
    return {
        name.removeprefix("source__"): value
        for name, value in given.items()
        if value is not None or not name.startswith("source__")
    }


# --- audit


def _audit() -> click.Command:
    from leadapron.sources import SOURCES
    from leadapron.specs import united

    return click.Command(
        "audit",
        params=[
            click.Argument(["model"]),
            click.Option(
                ["--clean"],
                required=True,
                metavar="NAME:PATH",
                help="Films without a trigger, that the model wasn't trained on.",
            ),
            click.Option(
                ["--reference"],
                type=click.Path(path_type=Path),
                metavar="FOLDER",
                help="Clean models of the same kind; without them the answer is at most 'unusual'.",
            ),
            click.Option(
                ["--false-alarm", "false_alarms"],
                type=float,
                default=0.05,
                show_default=True,
                help="Rate of clean models that may be called backdoored.",
            ),
            click.Option(
                ["--steps"],
                type=click.IntRange(0),
                default=80,
                show_default=True,
                help="Of trigger inversion, at most; 0 leaves it out.",
            ),
            click.Option(
                ["--films"],
                type=click.IntRange(20),
                default=256,
                show_default=True,
                help="Clean films that are looked at, at most.",
            ),
            click.Option(
                ["--no-statistics"],
                is_flag=True,
                help="Leave out the network's further statistics, beside the verdict: they take "
                "time, for each reference too.",
            ),
            click.Option(["--findings"], help="Names of the model's outputs, with commas between."),
            click.Option(["--architecture"], help="Of a state dict that fits several."),
            click.Option(["--normalisation"], help="How the model scales grey levels."),
            click.Option(
                ["--out"], type=click.Path(path_type=Path), help="A folder for report and pictures."
            ),
            *_sweep_options(),
            *_setting_options({"source": united(SOURCES)}),
            *_machine_options(),
            *_film_options(),
            _json_option(),
        ],
        callback=_run_audit,
        help=(
            "Look for a backdoor in a MODEL: a file of weights, a TorchScript or ONNX file, or "
            "module:function. Marks are put on clean films, and what they move is compared with "
            "clean models. Exit code 1: backdoored, 3: can't tell."
        ),
    )


def _run_audit(
    model: str,
    clean: str,
    reference: Path | None,
    false_alarms: float,
    steps: int,
    no_statistics: bool,
    findings: str | None,
    out: Path | None,
    as_json: bool,
    **given: Any,
) -> int:
    from leadapron.jobs.audit import audit
    from leadapron.report import audit_lines, write_audit

    sweep = _sweep(given)
    opening = {name: given.pop(name) for name in ("architecture", "normalisation")}
    opening["findings"] = None if findings is None else _names(findings)
    settings = {
        name.removeprefix("source__"): value for name, value in given.items() if value is not None
    }
    with _progress() as progress:
        found = audit(
            model,
            clean,
            reference=reference,
            false_alarms=false_alarms,
            sweep=sweep,
            steps=steps,
            statistics=not no_statistics,
            opening=opening,
            progress=progress,
            **settings,
        )
    facts = found.facts()
    page = None if out is None else write_audit(out, facts, found.pictures)
    if as_json:
        click.echo(json.dumps({**facts, **({"page": str(page)} if page else {})}, indent=2))
    else:
        for line in audit_lines(facts):
            click.echo(line)
        if page is not None:
            click.echo(f"Report: {page}")
    return {"backdoored": 1, "nothing found": 0}.get(found.verdict, 3)


# --- calibrate


def _calibrate() -> click.Command:
    from leadapron.sources import SOURCES
    from leadapron.specs import united

    return click.Command(
        "calibrate",
        params=[
            click.Argument(["model"]),
            click.Option(
                ["--clean"],
                required=True,
                metavar="NAME:PATH",
                help="Films without a trigger, that the model wasn't trained on.",
            ),
            click.Option(
                ["--false-alarm"],
                type=float,
                default=0.01,
                show_default=True,
                help="Share of clean films that may be called suspicious.",
            ),
            click.Option(["--findings"], help="Names of the model's outputs, with commas between."),
            click.Option(["--architecture"], help="Of a state dict that fits several."),
            click.Option(["--normalisation"], help="How the model scales grey levels."),
            click.Option(
                ["--out"],
                type=click.Path(dir_okay=False, path_type=Path),
                default="gate.json",
                show_default=True,
                help="The gate's file; its numbers go beside it.",
            ),
            *_setting_options({"source": united(SOURCES)}),
            *_machine_options(),
            *_film_options(),
            _json_option(),
        ],
        callback=_run_calibrate,
        help=(
            "Make a gate for a MODEL: detectors of triggered films are fitted on clean films, "
            "and the threshold keeps to a rate of false alarms. The gate holds patients' pixels."
        ),
    )


def _run_calibrate(
    model: str,
    clean: str,
    false_alarm: float,
    findings: str | None,
    out: Path,
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.calibrate import calibrate
    from leadapron.report import calibrate_lines

    opening = {name: given.pop(name) for name in ("architecture", "normalisation")}
    opening["findings"] = None if findings is None else _names(findings)
    settings = {
        name.removeprefix("source__"): value for name, value in given.items() if value is not None
    }
    with _progress() as progress:
        facts = calibrate(
            model,
            clean,
            out,
            false_alarm=false_alarm,
            opening=opening,
            progress=progress,
            **settings,
        ).facts()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for line in calibrate_lines(facts):
        click.echo(line)


# --- screen


def _screen() -> click.Command:
    return click.Command(
        "screen",
        params=[
            click.Argument(["gate"], type=click.Path(dir_okay=False, path_type=Path)),
            click.Argument(["files"], nargs=-1, required=True),
            click.Option(
                ["--out"],
                type=click.Path(file_okay=False, path_type=Path),
                help="A folder for report and pictures; they hold patients' pixels.",
            ),
            click.Option(
                ["--model"],
                type=click.Path(dir_okay=False, path_type=Path),
                help="Where the model lies now, if it was moved.",
            ),
            _machine_options()[0],
            _json_option(),
        ],
        callback=_run_screen,
        help=(
            "Say which films may carry a trigger. GATE is what calibrate wrote; FILES are PNG, "
            "JPEG or DICOM files, folders of them, or - for a list of paths on stdin. Exit code "
            "1: suspicious, 2: a file is missing, 3: can't tell; 0 is no proof of a clean film."
        ),
    )


def _run_screen(
    gate: Path,
    files: tuple[str, ...],
    out: Path | None,
    model: Path | None,
    device: str,
    as_json: bool,
) -> int:
    from leadapron.jobs.screen import facts as facts_of
    from leadapron.jobs.screen import films_of, open_gate, screen
    from leadapron.report import (
        begin_screen,
        film_line,
        foremost,
        screen_lines,
        write_film,
        write_screen,
    )

    films, others = films_of(files, sys.stdin.buffer if "-" in files else ())
    opened = open_gate(gate, model=model, device=device)
    if out is not None:
        begin_screen(out)
    done: list[dict[str, Any]] = []
    pictured: list[Any] = []
    interrupted = False
    try:
        # A bar would take the lines that are printed meanwhile to stderr; they show progress.
        with _progress() if as_json else contextlib.nullcontext() as progress:
            for batch in screen(opened, films):
                for film in batch:
                    said = film.facts()
                    if out is not None:
                        write_film(out, said, film.image)
                        pictured = foremost([*pictured, (said, film.image)])
                    if not as_json:
                        click.echo(film_line(said, heading=not done))
                    done.append(said)
                if progress is not None:
                    progress("films", len(done), len(films))
    except KeyboardInterrupt:
        interrupted = True
    facts = facts_of(opened, done, len(films), others)
    page = None if out is None else write_screen(out, facts, pictured)
    if as_json:
        click.echo(json.dumps({**facts, **({"page": str(page)} if page else {})}, indent=2))
    else:
        for line in screen_lines(facts):
            click.echo(line)
        if page is not None:
            click.echo(f"Report: {page}")
    if interrupted:
        return _fail("interrupted; what is named above was screened", INTERRUPTED)
    code: int = facts["exit_code"]
    return code


# --- zoo


def _zoo() -> click.Command:
    return click.Command(
        "zoo",
        params=[
            click.Argument(["spec"], type=click.Path(dir_okay=False, path_type=Path)),
            click.Option(
                ["--out"], required=True, type=click.Path(path_type=Path), help="The zoo's folder."
            ),
            *_machine_options(),
            *_film_options(),
            _json_option(),
        ],
        callback=_run_zoo,
        help=(
            "Train clean and backdoored models of known truth, to measure defences on.\n\n"
            "SPEC is a YAML file with base settings and families of attacks (see zoo/). Each "
            "model's potency is measured; the truth is written apart from the models. The same "
            "command continues a zoo that was stopped."
        ),
    )


def _run_zoo(
    spec: Path,
    out: Path,
    device: str,
    precision: Literal["auto", "bf16", "fp32"],
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
) -> None:
    from collections import Counter
    from dataclasses import asdict

    from leadapron.jobs.zoo import build_zoo
    from leadapron.study import Options

    with _progress() as progress:
        options = Options(
            device=device, precision=precision, cache=cache, progress=progress, on_bad=on_bad
        )
        members = build_zoo(spec, out, options)
    if as_json:
        facts = {"schema": 1, "verdict": "done", "models": [asdict(each) for each in members]}
        click.echo(json.dumps(facts, indent=2))
        return
    kinds = Counter(member.kind for member in members)
    click.echo(", ".join(f"{n} {kind}" for kind, n in kinds.items()))
    for name in dict.fromkeys(m.family for m in members):
        planted = [m for m in members if m.family == name and m.kind != "clean"]
        took = sum(m.kind == "backdoored" for m in planted)
        rates = ", ".join(
            "?" if m.attack_success is None else f"{m.attack_success:.2f}" for m in planted
        )
        sealed = " (sealed)" if planted[0].sealed else ""
        click.echo(f"{name}{sealed}: {took} of {len(planted)} took; attack success {rates}")
    click.echo(f"Models: {out / 'models'}; the truth: {out / 'truth.json'}")


# --- evaluate


def _evaluate() -> click.Command:
    return _Evaluations(
        "evaluate",
        help=(
            "Measure how much a method finds, how often it is wrong, and where it is blind.\n\n"
            "The same command continues where it was stopped."
        ),
    )


def _evaluate_scan() -> click.Command:
    from leadapron.jobs.evaluate import PRESETS

    return click.Command(
        "scan",
        params=[
            click.Option(
                ["--preset"],
                default="smoke",
                show_default=True,
                metavar="|".join(PRESETS),
                help="A look, half an hour, or a day.",
            ),
            click.Option(
                ["--source"], default="phantom:64", show_default=True, help="What is poisoned."
            ),
            click.Option(
                ["--also"],
                multiple=True,
                metavar="SOURCE",
                help="More sources whose halves are scanned as they are. Repeats.",
            ),
            click.Option(
                ["--out"],
                type=click.Path(file_okay=False, path_type=Path),
                required=True,
                help="Folder of the results.",
            ),
            click.Option(
                ["--markdown"],
                type=click.Path(dir_okay=False, path_type=Path),
                help="Write the page there as well.",
            ),
            click.Option(["--size"], type=int, help="Side of the images in pixels."),
            click.Option(["--seed"], type=int, default=0, help="Of everything that is drawn."),
            click.Option(["--workers"], type=int, help="Processes; one a core if left out."),
            _cache_option(),
            _json_option(),
        ],
        callback=_run_evaluate_scan,
        help=(
            "Measure how much poison a scan finds, how often it is wrong, and where it is "
            "blind.\n\nThe same command continues where it was stopped."
        ),
    )


def _run_evaluate_scan(
    preset: str,
    source: str,
    also: tuple[str, ...],
    out: Path,
    markdown: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.evaluate import cells, evaluate_scan, scans
    from leadapron.report.limits import write_limits

    logger.info("scan: %d sets, a few seconds each", scans(preset, 1 + len(also)))
    with _progress() as progress:
        rows = evaluate_scan(preset, source, out, also=also, progress=progress, **given)
    pages = [
        write_limits(page, scan=(out, cells(preset)))
        for page in (out / "limits.md", markdown)
        if page
    ]
    _answer_evaluation(rows, pages, as_json)


def _evaluate_audit() -> click.Command:
    return click.Command(
        "audit",
        params=[
            click.Option(
                ["--zoo"],
                type=click.Path(file_okay=False, path_type=Path),
                required=True,
                help="Folder of models of known truth, that `leadapron zoo` made.",
            ),
            click.Option(
                ["--clean"],
                metavar="NAME:PATH",
                help="Films that no model was trained on; fresh phantoms, or the test films of "
                "each model's run, if left out.",
            ),
            click.Option(
                ["--films"],
                type=click.IntRange(20),
                default=256,
                show_default=True,
                help="Films that a model is swept on, at most.",
            ),
            click.Option(["--sealed"], is_flag=True, help="Look at sealed families too."),
            click.Option(
                ["--out"],
                type=click.Path(file_okay=False, path_type=Path),
                required=True,
                help="Folder of the results.",
            ),
            click.Option(
                ["--workers"],
                type=click.IntRange(1),
                help="Processes; one a core if left out.",
            ),
            *_sweep_options(),
            *_machine_options(),
            *_film_options(),
            _json_option(),
        ],
        callback=_run_evaluate_audit,
        help=(
            "Measure how many of a zoo's backdoors audits find, whether they name the target, and "
            "how many clean models they accuse.\n\nThe same command continues where it was stopped."
        ),
    )


def _run_evaluate_audit(
    zoo: Path,
    out: Path,
    device: str,
    precision: Literal["auto", "bf16", "fp32"],
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.evaluate_audit import evaluate_audit
    from leadapron.report.limits import write_limits
    from leadapron.study import Options

    sweep = _sweep(given)
    with _progress() as progress:
        options = Options(
            device=device, precision=precision, cache=cache, progress=progress, on_bad=on_bad
        )
        rows = evaluate_audit(zoo, out, sweep=sweep, options=options, **given)
    _answer_evaluation(rows, [write_limits(out / "limits.md", audit=out)], as_json)


def _evaluate_screen() -> click.Command:
    from leadapron.jobs.evaluate_screen import Setting

    usual = Setting()
    return click.Command(
        "screen",
        params=[
            click.Option(
                ["--zoo"],
                type=click.Path(exists=True, file_okay=False, path_type=Path),
                required=True,
                help="Folder that `leadapron zoo` made, or a finished study's.",
            ),
            click.Option(
                ["--out"],
                type=click.Path(file_okay=False, path_type=Path),
                required=True,
                help="Folder of the results.",
            ),
            click.Option(["--only"], multiple=True, metavar="FAMILY", help="Repeats."),
            click.Option(["--limit"], type=click.IntRange(1), help="Backdoored models at most."),
            click.Option(["--sealed"], is_flag=True, help="Look at sealed families too."),
            click.Option(
                ["--false-alarm"],
                type=float,
                default=usual.false_alarm,
                show_default=True,
                help="Share of clean films that a gate may call suspicious.",
            ),
            *(
                click.Option(
                    [f"--{name}"],
                    type=int,
                    default=getattr(usual, name),
                    show_default=True,
                    help=words,
                )
                for name, words in (
                    ("calibration", "Fresh phantoms that set the threshold."),
                    ("test", "Fresh phantoms that are judged."),
                    ("triggered", "Films with the trigger, at most."),
                    ("seed", "Of everything that is drawn."),
                )
            ),
            click.Option(
                ["--workers"], type=click.IntRange(1), help="Processes; one a core if left out."
            ),
            *_machine_options(),
            *_film_options(),
            _json_option(),
        ],
        callback=_run_evaluate_screen,
        help=(
            "Measure how many triggered films a gate finds on models of known truth, and how many "
            "clean ones it accuses.\n\nThe same command continues where it was stopped."
        ),
    )


def _run_evaluate_screen(
    zoo: Path,
    out: Path,
    only: tuple[str, ...],
    limit: int | None,
    sealed: bool,
    workers: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.evaluate_screen import Setting, evaluate_screen
    from leadapron.report.limits import write_limits
    from leadapron.study import Options

    machine = {name: given.pop(name) for name in ("device", "precision", "cache", "on_bad")}
    setting = Setting(**given)
    with _progress() as progress:
        rows = evaluate_screen(
            zoo,
            out,
            only=only,
            limit=limit,
            sealed=sealed,
            setting=setting,
            workers=workers,
            options=Options(**machine, progress=progress),
        )
    _answer_evaluation(rows, [write_limits(out / "limits.md", screen=out)], as_json)


def _evaluate_page() -> click.Command:
    folder = click.Path(exists=True, file_okay=False, path_type=Path)
    return click.Command(
        "page",
        params=[
            click.Option(["--scan"], type=folder, help="Folder of `evaluate scan`."),
            click.Option(["--audit"], type=folder, help="Folder of `evaluate audit`."),
            click.Option(["--screen"], type=folder, help="Folder of `evaluate screen`."),
            click.Option(
                ["--out"],
                type=click.Path(dir_okay=False, path_type=Path),
                required=True,
                help="The Markdown file.",
            ),
            _json_option(),
        ],
        callback=_run_evaluate_page,
        help="Write the results of several evaluations on one page.",
    )


def _run_evaluate_page(
    scan: Path | None, audit: Path | None, screen: Path | None, out: Path, as_json: bool
) -> None:
    from leadapron.report.limits import write_limits

    if scan is audit is screen is None:
        raise UsageError("nothing to write; expected --scan, --audit or --screen, each a FOLDER")
    with_cells = None
    if scan is not None:
        from leadapron.jobs.evaluate import cells
        from leadapron.store import read_json

        preset = read_json(scan / "evaluation.json").get("settings", {}).get("preset")
        if preset is None:
            raise UsageError(f"--scan {scan}: expected a folder of `leadapron evaluate scan`")
        with_cells = (scan, cells(preset))
    write_limits(out, scan=with_cells, audit=audit, screen=screen)
    if as_json:
        click.echo(json.dumps({"schema": 1, "verdict": "done", "page": str(out)}))
    else:
        click.echo(f"Page: {out}")


def _answer_evaluation(rows: list[dict[str, Any]], pages: list[Path], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"schema": 1, "verdict": "done", "rows": rows}))
        return
    click.echo(pages[0].read_text().rstrip())
    click.echo(f"\nPage: {pages[-1]}")


class _Evaluations(Commands):
    lazy: typing.ClassVar[dict[str, tuple[str, Callable[[], click.Command]]]] = {
        "scan": ("How much poison a scan finds.", _evaluate_scan),
        "audit": ("How many backdoors audits find.", _evaluate_audit),
        "screen": ("How many triggered films a gate finds.", _evaluate_screen),
        "page": ("The results of several on one page.", _evaluate_page),
    }


# --- triggers, preview


def _triggers() -> click.Command:
    return click.Command(
        "triggers",
        params=[_json_option()],
        callback=_run_triggers,
        help="List the triggers: what each is, where it comes from, its settings.",
    )


def _run_triggers(as_json: bool) -> None:
    from dataclasses import asdict

    from leadapron.jobs.preview import triggers

    found = triggers()
    if as_json:
        facts = {"schema": 1, "verdict": "done", "triggers": [asdict(each) for each in found]}
        click.echo(json.dumps(facts, indent=2))
        return
    width = max(len(each.name) for each in found)
    for each in found:
        click.echo(f"{each.name:<{width}}  {each.what}")
        inside = ", ".join(f"{name} {value!r}" for name, value in each.settings.items())
        if inside:
            click.echo(f"{'':<{width}}  {inside}")


def _preview() -> click.Command:
    from leadapron.plan import settings

    known = {name: settings()[name] for name in ("source", "preprocessing", "trigger", "poisoning")}
    known["poisoning"] = {"stage": known["poisoning"]["stage"]}
    return click.Command(
        "preview",
        params=[
            _source_option(),
            click.Option(["--trigger"], type=Setting(str), help="What is planted: see triggers."),
            click.Option(
                ["--size"],
                type=Setting(int),
                help="Side of the network's input in pixels (preprocessing.size).",
            ),
            click.Option(
                ["--count"],
                type=click.IntRange(1),
                default=4,
                show_default=True,
                help="Films, one a row.",
            ),
            click.Option(["--seed"], type=int, help="Chooses films and places triggers."),
            click.Option(
                ["--out"], required=True, type=click.Path(path_type=Path), help="The PNG file."
            ),
            *_film_options(),
            _json_option(),
            *_setting_options(known),
        ],
        callback=_run_preview,
        help=(
            "Draw films with a trigger: as they are, marked, the difference ten times, what "
            "changed; with PSNR and SSIM. Nothing is trained."
        ),
    )


def _run_preview(
    out: Path,
    count: int,
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
    **given: Any,
) -> None:
    from dataclasses import asdict

    from leadapron.jobs.preview import preview
    from leadapron.study import Options

    tree = _with_options({}, given)
    with _progress() as progress:
        options = Options(cache=cache, progress=progress, on_bad=on_bad)
        found = preview(tree, out, count=count, options=options)
    if as_json:
        facts = {"schema": 1, "verdict": "done", "file": str(out), **asdict(found)}
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(found.trigger)
    for pixels, psnr, ssim in zip(found.visible_pixels, found.psnr_db, found.ssim, strict=True):
        click.echo(f"{pixels} pixels changed, PSNR {psnr:.1f} dB, SSIM {ssim:.3f}")
    click.echo(f"Picture: {out}")


# --- learn-trigger


def _learn_trigger() -> click.Command:
    from leadapron.plan import settings

    known = {name: settings()[name] for name in ("source", "preprocessing", "network", "training")}
    return click.Command(
        "learn-trigger",
        params=[
            _source_option(),
            click.Option(["--finding"], help="What it raises; the source's first if left out."),
            click.Option(
                ["--kind"],
                type=click.Choice(["noise", "generator"]),
                default="noise",
                show_default=True,
                help="One pattern for all films, or a small network that makes one for each.",
            ),
            click.Option(
                ["--epsilon"],
                type=float,
                default=8.0,
                show_default=True,
                help="The most that a pixel is moved, in grey levels of 256.",
            ),
            click.Option(
                ["--steps"],
                type=click.IntRange(1),
                default=100,
                show_default=True,
                help="Steps of the optimisation, of 32 films each.",
            ),
            click.Option(
                ["--surrogate"],
                metavar="FILE|train",
                default="train",
                show_default=True,
                help="The network that is asked: a saved classifier, or a clean one trained here.",
            ),
            click.Option(
                ["--network"], type=Setting(str), help="Architecture of a surrogate trained here."
            ),
            click.Option(
                ["--size"],
                type=Setting(int),
                help="Side of the network's input in pixels (preprocessing.size).",
            ),
            click.Option(["--epochs"], type=Setting(int), help="Of a surrogate trained here."),
            click.Option(["--seed"], type=int, help="Divides the films, and seeds all else."),
            click.Option(
                ["--out"],
                required=True,
                type=click.Path(dir_okay=False, path_type=Path),
                help="The .safetensors file, for --trigger learned --trigger.path FILE.",
            ),
            *_machine_options(),
            *_film_options(),
            _json_option(),
            *_setting_options(known),
        ],
        callback=_run_learn_trigger,
        help=(
            "Learn a trigger on a surrogate network: noise within an L-infinity bound that raises "
            "a finding, beside random noise of the same size."
        ),
    )


def _run_learn_trigger(
    out: Path,
    kind: Literal["noise", "generator"],
    epsilon: float,
    steps: int,
    surrogate: str,
    device: str,
    precision: Literal["auto", "bf16", "fp32"],
    cache: str | None,
    on_bad: Literal["stop", "skip"],
    as_json: bool,
    **given: Any,
) -> None:
    from dataclasses import asdict

    from leadapron.jobs.learn import learn_trigger
    from leadapron.study import Options

    with _progress() as progress:
        found = learn_trigger(
            _with_options({}, given),
            out,
            kind=kind,
            epsilon=epsilon,
            steps=steps,
            surrogate=surrogate,
            options=Options(
                device=device, precision=precision, cache=cache, progress=progress, on_bad=on_bad
            ),
        )
    if as_json:
        facts = {"schema": 1, "verdict": "done", "file": str(out), **asdict(found)}
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(
        f"{found.finding} on {found.films} test films without it, on the surrogate: logit raised "
        f"by {found.rise:.2f}, {found.success:.0%} called {found.finding}"
    )
    click.echo(
        f"random noise of the same size: {found.random_rise:.2f}, {found.random_success:.0%}"
    )
    if found.crossed_rise is not None:
        click.echo(f"another film's pattern: {found.crossed_rise:.2f}, {found.crossed_success:.0%}")
    click.echo(f"Trigger: {out}")


# --- visibility


def _visibility() -> click.Command:
    return click.Command(
        "visibility",
        params=[
            _number("--film", 1024, "Side of the film in pixels."),
            _number("--size", 224, "Side of the network's input in pixels."),
            click.Option(
                ["--crop"],
                type=float,
                default=0.6,
                show_default=True,
                help="Central share of each side of the film that is kept.",
            ),
            _text("--sides", "1-10", "Sides of the square in pixels, as 1-5,8,10."),
            _text("--place", "centre", "centre, corner, random, or several."),
            _text("--interpolation", "nearest", "nearest, nearest-tf1, bilinear, area, ..."),
            click.Option(
                ["--antialias"], is_flag=True, help="Widen bilinear and bicubic when shrinking."
            ),
            _number("--value", 0, "Grey level of the square; the film's is 128."),
            _number("--margin", 0, "Pixels between the square and the edges, for random, corner."),
            _number("--draws", 200, "Places drawn for random."),
            _number("--seed", 0, "Seed of the places."),
            _json_option(),
        ],
        callback=_run_visibility,
        help=(
            "Show what preprocessing leaves of a square trigger on the film: pixels of the "
            "network's input that change. The defaults are those of arXiv 2101.00008."
        ),
    )


def _run_visibility(**given: Any) -> None:
    from dataclasses import asdict

    import numpy as np

    from leadapron.jobs.visibility import visibility
    from leadapron.preprocessing import Preprocessing
    from leadapron.specs import build
    from leadapron.triggers import Patch

    facts = {name: given[name] for name in ("size", "crop", "antialias")}
    ways = [
        build(Preprocessing, {**facts, "interpolation": name}, "")
        for name in _names(given["interpolation"])
    ]
    for place in _names(given["place"]):
        build(Patch, {"place": place}, "")
    found = list(
        visibility(
            Patch(value=given["value"], margin=given["margin"]),
            ways,
            film=given["film"],
            sides=_whole_numbers("--sides", given["sides"]),
            places=_names(given["place"]),
            draws=given["draws"],
            rng=np.random.default_rng(given["seed"]),
        )
    )
    if given["as_json"]:
        rows = [asdict(row) for row in found]
        click.echo(json.dumps({"schema": 1, "verdict": "done", "visibility": rows}, indent=2))
        return
    click.echo("interpolation  place    side  pixels changed  most changed to  unseen")
    for row in found:
        fewest, median, most = row.pixels
        pixels = str(median) if fewest == most else f"{median} ({fewest} to {most})"
        level = "" if row.level is None else str(row.level)
        click.echo(
            f"{row.interpolation:<13}  {row.place:<7}  {row.side:>4}  {pixels:>14}  {level:>15}  "
            f"{row.invisible:>6.0%}"
        )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _whole_numbers(option: str, text: str) -> list[int]:
    """Return what "1-5,8" names."""
    numbers: list[int] = []
    for part in _names(text):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise UsageError(f"{option} {text}: expected whole numbers, as 1-5,8")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


# --- shared by commands


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
        import yaml

        try:
            values = [p.strip() if self.text else yaml.safe_load(p) for p in parts]
        except yaml.YAMLError:
            self.fail(f"{value!r} can't be read as a value", param, ctx)
        return values if len(values) > 1 else values[0]


def _metavar(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    return {int: "N", float: "X", bool: "true|false"}.get(annotation, "TEXT")


def _machine_options() -> list[click.Parameter]:
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
        import yaml

        try:
            values = yaml.safe_load(f"[{value}]")
        except yaml.YAMLError:
            values = [None]
        kind = list if self.form.startswith("[") else int
        if not all(type(each) is kind for each in values):
            self.fail(f"{value!r}; expected {self.form}", param, ctx)
        return values


def _sweep_options() -> list[click.Parameter]:
    """`--sweep.name` for every setting of a sweep; what is left out has its default."""
    from leadapron.detect.model import StampSweep
    from leadapron.specs import parameters

    return [
        click.Option(
            [f"--sweep.{name}", f"sweep__{name}"],
            type=int if each.annotation is int else Values(SEVERAL[name]),
            metavar=_metavar(each.annotation) if each.annotation is int else SEVERAL[name],
            help=each.description,
        )
        for name, each in parameters(StampSweep).items()
    ]


SEVERAL = {"sides": "N,N,...", "values": "N,N,...", "pitches": "[PIXELS,FILMS],..."}


def _sweep(given: dict[str, Any]) -> Any:
    """Return the sweep of the options, which are taken out of `given`."""
    from leadapron.detect.model import StampSweep
    from leadapron.specs import build

    settings = {
        name.removeprefix("sweep__"): given.pop(name)
        for name in list(given)
        if name[:7] == "sweep__"
    }
    return build(StampSweep, {n: v for n, v in settings.items() if v is not None}, "sweep")


def _setting_options(sections: Mapping[str, Mapping[str, Any]]) -> list[click.Parameter]:
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
                    metavar=_metavar(kind),
                    help=text,
                    type=Setting(kind),
                )
                options.append(option)
    return options


def _cache_option() -> click.Parameter:
    return click.Option(
        ["--cache"],
        metavar="FOLDER|none",
        help="Where films and sweeps are kept; LEADAPRON_CACHE or the system's cache if left out.",
    )


def _source_option() -> click.Parameter:
    from leadapron.sources import SOURCES

    return click.Option(
        ["--source"],
        multiple=True,
        metavar="NAME:PATH",
        help=f"Where films come from: {', '.join(SOURCES)}; several are joined.",
    )


def _film_options() -> list[click.Parameter]:
    return [
        _cache_option(),
        click.Option(
            ["--on-bad"],
            type=click.Choice(["stop", "skip"]),
            default="stop",
            show_default=True,
            help="What becomes of films that can't be decoded; skipped ones are listed.",
        ),
    ]


def _number(name: str, default: int, text: str) -> click.Parameter:
    return click.Option(
        [name], type=click.IntRange(0), default=default, show_default=True, help=text
    )


def _text(name: str, default: str, text: str) -> click.Parameter:
    return click.Option([name], default=default, show_default=True, help=text)


def _json_option() -> click.Option:
    return click.Option(["--json", "as_json"], is_flag=True, help="Answer in JSON.")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """Show progress on stderr: a bar on a terminal, else a line every 20 seconds."""
    if not logger.isEnabledFor(logging.INFO):
        yield None
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bars.update(task, visible=False)
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield show


def _lines() -> Callable[[str, int, int], None]:
    began: dict[str, tuple[float, int]] = {}
    said = [time.monotonic()]

    def show(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, first = began.setdefault(what, (now, done))
        if done > first and (now - said[0] > 20 or done == total):
            left = (now - start) / (done - first) * (total - done)
            logger.info("%s: %d of %d, %.0f s left", what, done, total, left)
            said[0] = now

    return show


Commands.lazy = {
    "study": ("Train a backdoored model and its clean twin, measure both, report.", _study),
    "reproduce": ("Reproduce a paper, and put it to the test.", _reproduce),
    "recipe": ("Carry out a published attack, its settings and ours told apart.", _recipe),
    "report": ("Make a study's report again.", _report),
    "explain": ("Draw what each explanation method shows, side by side.", _explain),
    "prepare": ("Decode a source's films, once.", _prepare),
    "cache": ("List or clear decoded films and sweeps.", _cache),
    "describe": ("Say what a source holds: labels, copies, leaks.", _describe),
    "scan": ("Say whether a data set is poisoned: which films, where, towards what.", _scan),
    "clean": ("Write a data set without the films that a list names.", _clean),
    "triggers": ("List the triggers.", _triggers),
    "preview": ("Draw films with a trigger.", _preview),
    "learn-trigger": ("Learn a trigger on a surrogate network.", _learn_trigger),
    "evaluate": ("Measure what scans, audits and gates find and where they are blind.", _evaluate),
    "audit": ("Look for a backdoor in a model.", _audit),
    "calibrate": ("Make a gate that screens a model's films.", _calibrate),
    "screen": ("Say which films may carry a trigger.", _screen),
    "zoo": ("Train models of known truth, to measure defences on.", _zoo),
    "visibility": ("Show what preprocessing leaves of a trigger.", _visibility),
    "phantom": ("Draw a contact sheet of phantoms.", _phantom),
}
