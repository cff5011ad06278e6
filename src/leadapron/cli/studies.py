"""Commands that train models and measure attacks on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click

from leadapron.cli.options import (
    Setting,
    Written,
    comma_separated,
    contradictions_option,
    film_options,
    jobs_options,
    json_option,
    machine_options,
    number_option,
    running,
    running_of,
    setting_options,
    source_option,
    text_option,
    with_options,
)
from leadapron.errors import StoreError, UnknownNameError, UsageError

__all__ = [
    "explain_command",
    "learn_trigger_command",
    "recipe_command",
    "report_command",
    "reproduce_command",
    "study_command",
    "zoo_command",
]


def study_command() -> click.Command:
    """Make the command."""
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
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.report import study_lines, write_report
    from leadapron.study.run import run_study

    contradictions, shared = given.pop("contradictions"), running_of(given)
    with running(given) as machine:
        run_study(
            with_options(_read_spec(spec) if spec else {}, given),
            out,
            machine=machine,
            contradictions=contradictions,
            running=shared,
        )
    page = write_report(out)
    _answer(out, page, study_lines(out), as_json)


def _study_options() -> list[click.Parameter]:
    """What every command that carries out a study takes."""
    from leadapron.attacks.triggers import TRIGGERS
    from leadapron.models.networks import ARCHITECTURES
    from leadapron.study.plan import SHORTHANDS, settings

    named = {
        "network": f"Architecture: {', '.join(ARCHITECTURES)}.",
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
        source_option(),
        *(
            click.Option([f"--{name}"], help=text, type=Setting(int if name in numbers else str))
            for name, text in {**named, **shorts}.items()
        ),
        click.Option(["--seed"], type=int, help="The first seed."),
        click.Option(["--seeds"], type=int, help="How many seeds, counted from the first."),
        click.Option(["--out"], required=True, type=Written("folder"), help="The study's folder."),
        *jobs_options(),
        *machine_options(),
        *film_options(),
        contradictions_option(),
        json_option(),
        *_common_first(setting_options(settings())),
        _help_all_option(),
    ]


COMMON = (
    "source.count", "source.seed", "source.table", "source.findings", "source.patient",
    "source.split", "preprocessing.crop", "network.weights", "trigger.side", "trigger.value",
    "trigger.place", "trigger.row", "trigger.column", "poisoning.fraction", "poisoning.selection",
    "poisoning.mode", "poisoning.labels", "training.batch_size", "training.learning_rate",
    "evaluation.explainer",
)  # fmt: skip
"""Settings that --help shows; --help-all shows all."""


def _common_first(options: list[click.Parameter]) -> list[click.Parameter]:
    """Hide the options of settings that are set rarely."""
    for option in options:
        if isinstance(option, click.Option):
            option.hidden = option.opts[0].removeprefix("--") not in COMMON
    return options


def _help_all_option() -> click.Option:
    def show(context: click.Context, _: click.Parameter, asked: bool) -> None:
        if asked:
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


def _read_spec(path: Path) -> dict[str, Any]:
    from leadapron.store import read_yaml

    try:
        return read_yaml(path)
    except StoreError as error:
        raise UsageError(str(error)) from error


def reproduce_command() -> click.Command:
    """Make the command."""
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
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.reproduce import reproduce
    from leadapron.report import study_lines
    from leadapron.sources import AND

    contradictions, shared = given.pop("contradictions"), running_of(given)
    with running(given) as machine:
        settings = with_options({}, given)
        name = AND.join(source) or None
        page = reproduce(
            paper,
            preset,
            out,
            source=name,
            settings=settings,
            machine=machine,
            contradictions=contradictions,
            running=shared,
        )
    _answer(out, page, study_lines(out), as_json)


ENHANCEMENT = "rosenblatt2023"
"""The recipe that has no trigger, so no study's report."""


def recipe_command() -> click.Command:
    """Make the command."""
    from leadapron.jobs.recipes import RECIPES

    names = [*RECIPES, ENHANCEMENT]

    def known(_: click.Context, __: click.Parameter, name: str | None) -> str:
        if name is None:
            raise UsageError(f"which recipe? One of {', '.join(names)}")
        if name not in names:
            raise UnknownNameError("recipe", name, names)
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
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.enhancement import lines, run_enhancement
    from leadapron.jobs.recipes import run_recipe
    from leadapron.report import study_lines
    from leadapron.sources import AND
    from leadapron.study.tasks import ONE_PROCESS

    contradictions, shared = given.pop("contradictions"), running_of(given)
    if name == ENHANCEMENT and shared != ONE_PROCESS:
        raise UsageError(f"--jobs and --shard: {ENHANCEMENT} is no study of several runs")
    with running(given) as machine:
        settings = with_options({}, given)
        films = AND.join(source) or None
        if name == ENHANCEMENT:
            page = run_enhancement(out, source=films, settings=settings, machine=machine)
        else:
            page = run_recipe(
                name,
                out,
                source=films,
                settings=settings,
                machine=machine,
                contradictions=contradictions,
                running=shared,
            )
    _answer(out, page, lines(out) if name == ENHANCEMENT else study_lines(out), as_json)


def report_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "report",
        params=[
            click.Argument(["folder"], type=click.Path(path_type=Path)),
            click.Option(
                ["--markdown"],
                type=Written("file"),
                metavar="FILE",
                help="Also write which attacks take, at which fraction, as one table.",
            ),
            json_option(),
        ],
        callback=_run_report,
        help="Make the report of a study's FOLDER again, byte by byte; no network is run.",
    )


def _run_report(folder: Path, markdown: Path | None, as_json: bool) -> None:
    from leadapron.report import study_lines, write_potency, write_report

    page = write_report(folder)
    if markdown is not None:
        write_potency(folder, markdown)
    _answer(folder, page, study_lines(folder), as_json)


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


def explain_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "explain",
        params=[
            click.Argument(["study"], type=click.Path(path_type=Path)),
            click.Option(
                ["--finding"], help="Finding to explain; the attacker's target if left out."
            ),
            text_option("--methods", "all", "all, or names as layer-cam,occlusion."),
            click.Option(
                ["--count"],
                type=click.IntRange(1),
                default=4,
                show_default=True,
                help="Films, one a row.",
            ),
            number_option("--seed", 0, "Chooses films and places triggers."),
            click.Option(["--out"], required=True, type=Written("file"), help="The PNG file."),
            *machine_options(),
            *film_options(),
            json_option(),
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
    as_json: bool,
    **given: Any,
) -> None:
    from dataclasses import asdict

    from leadapron.jobs.explain import explain_sheet

    methods = [] if given["methods"] == "all" else comma_separated(given["methods"])
    if not methods and given["methods"] != "all":
        raise UsageError("--methods names none; expected all, or names as layer-cam,occlusion")
    with running(given) as machine:
        found = explain_sheet(
            study,
            out,
            finding=given["finding"],
            methods=methods,
            count=given["count"],
            seed=given["seed"],
            machine=machine,
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


def zoo_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "zoo",
        params=[
            click.Argument(["spec"], type=click.Path(dir_okay=False, path_type=Path)),
            click.Option(
                ["--out"], required=True, type=Written("folder"), help="The zoo's folder."
            ),
            *jobs_options(),
            *machine_options(),
            *film_options(),
            contradictions_option(),
            json_option(),
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
    as_json: bool,
    **given: Any,
) -> None:
    from collections import Counter
    from dataclasses import asdict

    from leadapron.evaluate.zoo import build_zoo
    from leadapron.results.layout import ZooFolder

    shared = running_of(given)
    with running(given) as machine:
        members = build_zoo(spec, out, machine=machine, running=shared, **given)
    if as_json:
        facts = {"schema": 1, "verdict": "done", "models": [asdict(each) for each in members]}
        click.echo(json.dumps(facts, indent=2))
        return
    if not members:
        click.echo("The models are named when all shards have finished.")
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
    zoo = ZooFolder(out)
    click.echo(f"Models: {zoo.models}; the truth: {zoo.truth}")


def learn_trigger_command() -> click.Command:
    """Make the command."""
    from leadapron.study.plan import settings

    known = {name: settings()[name] for name in ("source", "preprocessing", "network", "training")}
    return click.Command(
        "learn-trigger",
        params=[
            source_option(),
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
                type=Written("file"),
                help="The .safetensors file, for --trigger learned --trigger.path FILE.",
            ),
            *machine_options(),
            *film_options(),
            json_option(),
            *setting_options(known),
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
    as_json: bool,
    **given: Any,
) -> None:
    from dataclasses import asdict

    from leadapron.jobs.learn import learn_trigger

    with running(given) as machine:
        found = learn_trigger(
            with_options({}, given),
            out,
            kind=kind,
            epsilon=epsilon,
            steps=steps,
            surrogate=surrogate,
            machine=machine,
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
