"""Commands that open films, draw them and put triggers on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from leadapron.cli.options import (
    Setting,
    Written,
    comma_separated,
    film_options,
    json_option,
    number_option,
    own_and_source_settings,
    running,
    setting_options,
    source_option,
    source_settings,
    text_option,
    whole_numbers,
    with_options,
)
from leadapron.text import bytes_in_words, count

__all__ = [
    "describe_command",
    "phantom_command",
    "prepare_command",
    "preview_command",
    "triggers_command",
    "visibility_command",
]


def prepare_command() -> click.Command:
    """Make the command."""
    from leadapron.study.plan import settings

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
            *setting_options(known),
            *film_options(),
            json_option(),
        ],
        callback=_run_prepare,
        help=(
            "Decode a SOURCE's films into the cache, once, for all later runs. Broken off, the "
            "same command goes on."
        ),
    )


def _run_prepare(
    source: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.jobs.prepare import prepare

    with running(given) as machine:
        done = [
            facts
            for name in source
            for facts in prepare(with_options({}, {**given, "source": (name,)}), machine=machine)
        ]
    if as_json:
        click.echo(json.dumps({"schema": 1, "verdict": "done", "prepared": done}, indent=2))
        return
    for facts in done:
        side, seconds = facts["size"], facts["seconds"]
        click.echo(
            f"{count(facts['films'], 'film')} as {side}x{side} {facts['dtype']}, "
            f"{bytes_in_words(facts['bytes'])}, in {seconds:.1f} s: {facts['folder']}"
        )
        for note in facts["notes"]:
            click.echo(note)


def phantom_command() -> click.Command:
    """Make the command."""
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
            click.Option(["--out"], required=True, type=Written("file"), help="The PNG file."),
            json_option(),
        ],
        callback=_run_phantom,
        help="Draw a contact sheet of phantoms with their findings.",
    )


def _run_phantom(count: int, size: int, seed: int, findings: str, out: Path, as_json: bool) -> None:
    from leadapron.jobs.phantom import phantom_sheet

    names = comma_separated(findings)
    captions = phantom_sheet(out, count=count, size=size, seed=seed, findings=names)
    if as_json:
        facts = {"schema": 1, "verdict": "done", "file": str(out), "findings": captions}
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(f"{count} phantoms of {size}x{size} pixels: {out}")


def describe_command() -> click.Command:
    """Make the command."""
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
                type=Written("file"),
                help="An HTML file, for all of it on one page.",
            ),
            *source_settings(),
            *film_options(),
            json_option(),
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
    as_json: bool,
    **given: Any,
) -> None:
    from leadapron.documents import dump
    from leadapron.jobs.describe import describe

    with running(given) as machine:
        found = describe(
            source,
            size=size,
            machine=machine,
            **own_and_source_settings(given),
        )
    if out is not None:
        from leadapron.report import write_description

        write_description(out, found)
    if as_json:
        page = {} if out is None else {"page": str(out)}
        click.echo(json.dumps({**dump(found), **page}, indent=2))
        return
    from leadapron.report import description_lines

    for line in description_lines(found):
        click.echo(line)
    if out is not None:
        click.echo(f"Page: {out}")


def triggers_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "triggers",
        params=[json_option()],
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


def preview_command() -> click.Command:
    """Make the command."""
    from leadapron.study.plan import settings

    known = {name: settings()[name] for name in ("source", "preprocessing", "trigger", "poisoning")}
    known["poisoning"] = {"stage": known["poisoning"]["stage"]}
    return click.Command(
        "preview",
        params=[
            source_option(),
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
            click.Option(["--out"], required=True, type=Written("file"), help="The PNG file."),
            *film_options(),
            json_option(),
            *setting_options(known),
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
    as_json: bool,
    **given: Any,
) -> None:
    from dataclasses import asdict

    from leadapron.jobs.preview import preview

    with running(given) as machine:
        found = preview(with_options({}, given), out, count=count, machine=machine)
    if as_json:
        facts = {"schema": 1, "verdict": "done", "file": str(out), **asdict(found)}
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(found.trigger)
    for pixels, psnr, ssim in zip(found.visible_pixels, found.psnr_db, found.ssim, strict=True):
        click.echo(f"{pixels} pixels changed, PSNR {psnr:.1f} dB, SSIM {ssim:.3f}")
    click.echo(f"Picture: {out}")


def visibility_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "visibility",
        params=[
            number_option("--film", 1024, "Side of the film in pixels."),
            number_option("--size", 224, "Side of the network's input in pixels."),
            click.Option(
                ["--crop"],
                type=float,
                default=0.6,
                show_default=True,
                help="Central share of each side of the film that is kept.",
            ),
            text_option("--sides", "1-10", "Sides of the square in pixels, as 1-5,8,10."),
            text_option("--place", "centre", "centre, corner, random, or several."),
            text_option("--interpolation", "nearest", "nearest, nearest-tf1, bilinear, area, ..."),
            click.Option(
                ["--antialias"], is_flag=True, help="Widen bilinear and bicubic when shrinking."
            ),
            number_option("--value", 0, "Grey level of the square; the film's is 128."),
            number_option(
                "--margin", 0, "Pixels between the square and the edges, for random, corner."
            ),
            number_option("--draws", 200, "Places drawn for random."),
            number_option("--seed", 0, "Seed of the places."),
            json_option(),
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

    from leadapron.attacks.triggers import Patch
    from leadapron.films.preprocessing import Preprocessing
    from leadapron.jobs.visibility import visibility
    from leadapron.specs import build

    facts = {name: given[name] for name in ("size", "crop", "antialias")}
    ways = [
        build(Preprocessing, {**facts, "interpolation": name}, "")
        for name in comma_separated(given["interpolation"])
    ]
    for place in comma_separated(given["place"]):
        build(Patch, {"place": place}, "")
    found = list(
        visibility(
            Patch(value=given["value"], margin=given["margin"]),
            ways,
            film=given["film"],
            sides=whole_numbers("--sides", given["sides"]),
            places=comma_separated(given["place"]),
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
