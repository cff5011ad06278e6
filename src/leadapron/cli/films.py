"""Commands that open films, draw them and put triggers on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from leadapron.cli.generate import FILMS, Answer, command, done, of_document, with_page
from leadapron.cli.kinds import Names, Written, comma_separated, whole_numbers
from leadapron.cli.settings import Settings
from leadapron.text import bytes_in_words, count
from leadapron.types import Machine

__all__ = [
    "describe_command",
    "phantom_command",
    "prepare_command",
    "preview_command",
    "triggers_command",
    "visibility_command",
]

PICTURE = {"type": Written("file")}
NATURAL = {"type": click.IntRange(0)}
FILMS_A_ROW = {"type": click.IntRange(1)}


def prepare_command() -> click.Command:
    """Make the command."""
    return command(
        "prepare",
        prepare,
        machine=FILMS,
        settings=Settings(sections=("source", "preprocessing"), shorthands=("size", "dtype")),
    )


def prepare(source: Sequence[str], *, settings: Mapping[str, Any], machine: Machine) -> Answer:
    """Decode the films of sources into the cache, once, for all later runs.

    After an interruption the same command continues.

    Args:
        source: where films come from, as nih:PATH; several are prepared in turn.
        settings: of the source and of preprocessing; several values are prepared in turn.
        machine: the cache, and how bad films are handled.
    """
    from leadapron.jobs.prepare import prepare as job

    found = [
        facts
        for name in source
        for facts in job(
            {**settings, "source": {**settings.get("source", {}), "name": name}}, machine=machine
        )
    ]

    def lines() -> Iterator[str]:
        for facts in found:
            side, seconds = facts["size"], facts["seconds"]
            yield (
                f"{count(facts['films'], 'film')} as {side}x{side} {facts['dtype']}, "
                f"{bytes_in_words(facts['bytes'])}, in {seconds:.1f} s: {facts['folder']}"
            )
            yield from facts["notes"]

    return done(lines(), prepared=found)


def phantom_command() -> click.Command:
    """Make the command."""
    return command(
        "phantom",
        "leadapron.jobs.phantom:phantom_sheet",
        _drawn,
        options=("out",),
        how={
            "out": PICTURE,
            "count": {"type": click.IntRange(1, 10_000)},
            "seed": NATURAL,
            "findings": {"type": Names(), "metavar": "NAME,NAME"},
        },
    )


def _drawn(captions: Any, call: Mapping[str, Any]) -> Answer:
    size, out = call["size"], call["out"]
    line = f"{call['count']} phantoms of {size}x{size} pixels: {out}"
    return done([line], file=str(out), findings=captions)


def describe_command() -> click.Command:
    """Make the command."""
    page = click.Option(
        ["--out"], type=Written("file"), help="HTML file for the whole description."
    )
    return command(
        "describe", "leadapron.jobs.describe:describe", _described, machine=FILMS, extra=[page]
    )


def _described(found: Any, call: Mapping[str, Any]) -> Answer:
    from leadapron.report import description_lines, write_description

    out = call["out"]
    if out is not None:
        write_description(out, found)

    return of_document(found, with_page(description_lines(found), out), page=out)


def triggers_command() -> click.Command:
    """Make the command."""
    return command("triggers", list_triggers, progress=False)


def list_triggers() -> Answer:
    """List the triggers with their sources and settings."""
    from leadapron.attacks.triggers.described import described_triggers

    found = described_triggers()

    def lines() -> Iterator[str]:
        width = max(len(each.name) for each in found)
        for each in found:
            yield f"{each.name:<{width}}  {each.what}"
            inside = ", ".join(f"{name} {value!r}" for name, value in each.settings.items())
            if inside:
                yield f"{'':<{width}}  {inside}"

    return done(lines(), triggers=[asdict(each) for each in found])


def preview_command() -> click.Command:
    """Make the command."""
    return command(
        "preview",
        "leadapron.jobs.preview:preview",
        _previewed,
        more="PSNR and SSIM are printed. Nothing is trained.",
        options=("out",),
        how={"out": PICTURE, "count": FILMS_A_ROW},
        machine=FILMS,
        settings=Settings(
            sections=("source", "preprocessing", "trigger", "poisoning.stage"),
            shorthands=("source", "trigger", "size"),
            seed="Chooses films and places triggers.",
        ),
    )


def _previewed(found: Any, call: Mapping[str, Any]) -> Answer:
    def lines() -> Iterator[str]:
        yield found.trigger
        for pixels, psnr, ssim in zip(found.visible_pixels, found.psnr_db, found.ssim, strict=True):
            yield f"{pixels} pixels changed, PSNR {psnr:.1f} dB, SSIM {ssim:.3f}"
        yield f"Picture: {call['out']}"

    return done(lines(), file=str(call["out"]), **asdict(found))


def visibility_command() -> click.Command:
    """Make the command."""
    return command(
        "visibility",
        visibility,
        how=dict.fromkeys(("film", "size", "value", "margin", "draws", "seed"), NATURAL),
        progress=False,
    )


def visibility(  # noqa: PLR0913 (settings, by keyword)
    *,
    film: int = 1024,
    size: int = 224,
    crop: float = 0.6,
    sides: str = "1-10",
    place: str = "centre",
    interpolation: str = "nearest",
    antialias: bool = False,
    value: int = 0,
    margin: int = 0,
    draws: int = 200,
    seed: int = 0,
) -> Answer:
    """Show how much of a square trigger on the film preprocessing leaves.

    It counts the changed pixels of the network's input. The defaults are those of arXiv
    2101.00008.

    Args:
        film: side of the film in pixels.
        size: side of the network's input in pixels.
        crop: central share of each side of the film that is kept.
        sides: sides of the square in pixels, as 1-5,8,10.
        place: centre, corner, random, or several.
        interpolation: nearest, nearest-tf1, bilinear, area, ...
        antialias: widen the bilinear and bicubic kernels when shrinking.
        value: grey level of the square; the film's is 128.
        margin: pixels between the square and the edges, for random, corner.
        draws: number of random places.
        seed: seed of the random places.
    """
    import numpy as np

    from leadapron.attacks.triggers import Patch
    from leadapron.films.preprocessing import Preprocessing
    from leadapron.jobs.visibility import visibility as job
    from leadapron.specs import build

    facts = {"size": size, "crop": crop, "antialias": antialias}
    ways = [
        build(Preprocessing, {**facts, "interpolation": name}, "")
        for name in comma_separated(interpolation)
    ]
    places = comma_separated(place)
    for name in places:
        build(Patch, {"place": name}, "")
    found = list(
        job(
            Patch(value=value, margin=margin),
            ways,
            film=film,
            sides=whole_numbers("--sides", sides),
            places=places,
            draws=draws,
            rng=np.random.default_rng(seed),
        )
    )

    def lines() -> Iterator[str]:
        yield "interpolation  place    side  pixels changed  most changed to  unseen"
        for row in found:
            fewest, median, most = row.pixels
            pixels = str(median) if fewest == most else f"{median} ({fewest} to {most})"
            level = "" if row.level is None else str(row.level)
            yield (
                f"{row.interpolation:<13}  {row.place:<7}  {row.side:>4}  {pixels:>14}  "
                f"{level:>15}  {row.invisible:>6.0%}"
            )

    return done(lines(), visibility=[asdict(row) for row in found])
