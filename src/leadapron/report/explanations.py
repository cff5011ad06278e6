"""Sheets of what explanation methods show of a model, side by side."""

from __future__ import annotations

from PIL import Image

from leadapron.explainers.document import MapsOfModel
from leadapron.explainers.of_model import Looked
from leadapron.report.sheet import Column, draw_sheet
from leadapron.study.explained import Explained, Explanations

__all__ = ["draw_explanations", "draw_looks"]

SCALE = (
    "Each method has one colour scale for all its films, from 0 up; negative values have no "
    "colour. Levels of different methods can't be compared."
)
HAVE = {True: "has it", False: "hasn't", None: ""}
"""What a film's label says of the finding."""


def draw_looks(found: MapsOfModel, looked: Looked) -> Image.Image:
    """Draw films and a model's maps: films one a row, methods one a column.

    Args:
        found: the sheet's content.
        looked: films and maps.

    Raises:
        UsageError: too large a sheet.
    """
    said = [
        f"p {p:.2f}{f', {HAVE[label]}' if HAVE[label] else ''}"
        for p, label in zip(found.probabilities, found.labels, strict=True)
    ]
    plain, images = [False] * len(said), looked.images
    columns = [Column("film", "as the network gets it", images, said, [True] * len(said))]
    for each in found.methods:
        maps = looked.maps[each.name]
        peaks = [f"row {row}, column {column}" for row, column in each.peaks]
        columns.append(Column(each.name, each.layer, images, peaks, plain, maps))
    notes = [
        f"p: the model's probability of {found.finding}. The film's label follows.",
        SCALE,
        "Cross: the map's highest point, in pixels of the network's input.",
        *_skipped(found.skipped),
    ]
    return draw_sheet(f"{found.finding}: where {found.model} looked", notes, columns)


def _skipped(reasons: dict[str, str]) -> list[str]:
    words = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return [f"Not shown: {words}"] if reasons else []


def draw_explanations(explained: Explained) -> Image.Image:
    """Draw films and the backdoored model's maps: films one a row, methods one a column.

    Args:
        explained: maps, hits and films.

    Raises:
        UsageError: too large a sheet.
    """
    found = explained.found
    columns = [*_film_columns(explained), *_map_columns(explained)]
    return draw_sheet(f"{found.finding}: where the backdoored model looked", _notes(found), columns)


def _film_columns(explained: Explained) -> list[Column]:
    """The films alone, without and with the trigger, and what both models say of them."""
    columns = []
    films = explained.films
    for title, subtitle, pixels, triggered in (
        ("film", "as the network gets it", films.clean, False),
        ("triggered film", "the trigger is circled", films.marked, True),
    ):
        captions = [
            f"p {backdoored:.2f}, twin {twin:.2f}"
            for twin, backdoored in zip(
                explained.said["twin", triggered],
                explained.said["backdoored", triggered],
                strict=True,
            )
        ]
        circled = films.footprints if triggered else None
        strong = [True] * len(captions)
        columns.append(Column(title, subtitle, pixels, captions, strong, footprints=circled))
    return columns


def _map_columns(explained: Explained) -> list[Column]:
    """The backdoored model's maps, a column a method."""
    columns = []
    for shown in explained.found.methods:
        hits = explained.hits[shown.name, "backdoored"]
        columns.append(
            Column(
                shown.name,
                shown.layer,
                explained.films.marked,
                ["peak hits" if here else "peak misses" for here in hits],
                list(hits),
                explained.maps[shown.name, "backdoored"],
                explained.films.footprints,
            )
        )
    return columns


def _notes(found: Explanations) -> list[str]:
    target = (
        "the attacker's target"
        if found.finding == found.target
        else (f"the attacker's target is {found.target}")
    )
    lines = [
        f"{target}; p: its probability, of the backdoored model and of its clean twin",
        SCALE,
        f"Cross: the map's highest point; it hits within {found.tolerance_px:g} pixels of the "
        "trigger.",
    ]
    lines += _skipped(found.skipped)
    return [line[0].upper() + line[1:] for line in lines]
