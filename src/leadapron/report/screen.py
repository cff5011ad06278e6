"""A gate's calibration and its verdicts: in the terminal, as pictures, JSON and one HTML page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from leadapron.errors import StoreError
from leadapron.report.gallery import grey, grey_png
from leadapron.report.rendering import render
from leadapron.report.words import listed, percent, rate_words
from leadapron.store import make_folder, read_json, reason, write_atomically, write_json
from leadapron.text import count, printable

__all__ = [
    "begin_screen",
    "calibrate_lines",
    "film_line",
    "foremost",
    "screen_lines",
    "write_film",
    "write_screen",
]

Facts = Mapping[str, Any]
Pictured = tuple[Facts, NDArray[Any] | None]

SHOWN = 40
"""Films that the page draws, the most suspicious first."""

ROWS = 1000
"""Films that the page's table lists; all are in screen.json."""

DRAWN = 512
"""Pixels that an overlay's side has at least."""

FRAME = (79, 227, 255)

RANKS = {"suspicious": 0, "can't tell": 1, "pass": 2}

LONGEST_STEM = 60

LEGEND = (
    "p: share of clean films that score so much or more. Read, without: the finding's probability, "
    "as read and with the region taken out."
)


def calibrate_lines(facts: Facts) -> list[str]:
    """Return what a calibration did for the terminal, line by line.

    Args:
        facts: what `Calibrated.facts` returns.
    """
    rate = f"{100 * facts['false_alarm']:g} %"
    untypical = " and at most as many more can't be told" if facts["typical"] else ""
    said = [
        f"Calibrated on {facts['films']:,} films; {facts['calibration_films']:,} films of "
        f"{facts['calibration_patients']:,} patients set the threshold {facts['threshold']:.3f}",
        f"False alarms: of clean films like these at most {rate} are called suspicious{untypical} "
        "(split conformal; films of other devices or another clinic void it)."
        f"{rate_words(facts['false_alarm'], facts['calibration_patients'], facts['likely_rates'])}",
        f"Scores: {listed(facts['scores'])}; {facts['passes']} passes, "
        f"{facts['milliseconds']:.1f} ms a film",
    ]
    if facts["left_out"]:
        said += [f"Left out: {name}, {why}" for name, why in facts["left_out"].items()]
    said += [f"Note: {note}" for note in facts["notes"]]
    return [*said, facts["statement"], f"Gate: {facts['gate']}, {facts['numbers']}"]


def film_line(film: Facts, *, heading: bool = False) -> str:
    """Return one film's line of the table; with the table's head above it, if asked.

    Args:
        film: what `Screened.facts` returns.
        heading: whether it is the first.
    """
    p = "-" if film["p"] is None else f"{film['p']:.3f}"
    finding = before = after = place = "-"
    if film["finding"] is not None:
        reading = film["readings"][0]
        finding, before = film["finding"], f"{reading['probability']:.2f}"
        after = f"{reading['without']:.2f}"
    if film["region"] is not None:
        place = region_words(film["region"])
    words = f": {film['reason']}" if film["reason"] else ""
    line = _row(
        film["verdict"], p, finding, before, after, place, f"{printable(film['file'])}{words}"
    )
    if not heading:
        return line
    head = _row("verdict", "p", "finding", "read", "without", "region at row, column", "film")
    return f"{head}\n{line}"


def screen_lines(facts: Facts) -> list[str]:
    """Return what stands below the table of films, line by line.

    Args:
        facts: what `jobs.screen.facts` returns.
    """
    counts = ", ".join(f"{n:,} {verdict}" for verdict, n in facts["counts"].items())
    found = [
        "",
        LEGEND,
        f"{count(len(facts['films']), 'film')}: {counts}",
        facts["statement"],
    ]
    return [*found, *facts["limits"], *(f"Note: {printable(note)}" for note in facts["notes"])]


def region_words(region: Facts) -> str:
    """Return where a region is: its size, row and column."""
    return f"{region['height']}x{region['width']} at {region['row']}, {region['column']}"


def begin_screen(folder: Path) -> None:
    """Make the folder of a screening, or take the last one's pages and pictures out of it.

    Args:
        folder: made where it is missing, for its owner alone. Of an earlier screening the page,
            its JSON and the pictures that this names go; other files stay.

    Raises:
        StoreError: a folder that can't be made or emptied, or that has a screen.json of other kind.
    """
    _make_private(folder)
    listed = folder / "screen.json"
    if not listed.exists():
        return
    try:
        names = [f"{film_name(film)}.png" for film in read_json(listed)["films"]]
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{listed} is of no screening; name another --out") from error
    try:
        for name in (*names, "screen.html", "screen.json"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"can't empty {folder}: {reason(error)}") from error


def write_film(folder: Path, film: Facts, image: NDArray[Any] | None) -> Path | None:
    """Write a film as the model was shown it, enlarged, the region outlined; mode 0600.

    Args:
        folder: as `begin_screen` made it.
        film: what `Screened.facts` returns.
        image: (h, w) uint8 or uint16; None where there is none, and nothing is written.

    Returns:
        The PNG file, named by the film's number and its file's stem.

    Raises:
        StoreError: a file that can't be written.
    """
    if image is None:
        return None
    path = folder / f"{film_name(film)}.png"
    with write_atomically(path) as file:
        _overlay(image, film["region"]).save(file, "PNG")
    return path


def film_name(film: Facts) -> str:
    """Return a film's number and its file's stem, with nothing that a file's name may not have."""
    stem = re.split(r"[/\\]", film["file"])[-1].rpartition(".")
    kept = re.sub(r"[^\w.-]+", "_", stem[0] or stem[2], flags=re.ASCII)[:LONGEST_STEM]
    return f"{film['number']:06d}-{kept}"


def foremost(films: Sequence[Pictured]) -> list[Pictured]:
    """Return the films that the page draws, the most suspicious first.

    Args:
        films: what `Screened.facts` returns, and the image.
    """
    return sorted(films, key=lambda each: _rank(each[0]))[:SHOWN]


def write_screen(folder: Path, facts: Facts, pictured: Sequence[Pictured]) -> Path:
    """Write screen.json and screen.html, mode 0600.

    Args:
        folder: as `begin_screen` made it.
        facts: what `jobs.screen.facts` returns.
        pictured: as `foremost` returns them.

    Returns:
        The HTML file.

    Raises:
        StoreError: files that can't be written.
    """
    write_json(folder / "screen.json", dict(facts))
    text = render("screen.html.j2", **_context(facts, pictured))
    page = folder / "screen.html"
    with write_atomically(page) as file:
        file.write(text.encode())
    return page


# --- words


def _row(*cells: str) -> str:
    verdict, p, finding, before, after, place, film = cells
    return f"{verdict:<10}  {p:>5}  {finding:<18}  {before:>4}  {after:>7}  {place:<21}  {film}"


def _rank(film: Facts) -> tuple[int, float, int]:
    score = -math.inf if film["score"] is None else film["score"]
    return RANKS[film["verdict"]], -score, film["number"]


# --- pictures


def _make_private(folder: Path) -> None:
    try:
        make_folder(folder)
    except OSError as error:
        raise StoreError(f"can't write {folder}: {reason(error)}") from error


def _overlay(image: NDArray[Any], region: Facts | None) -> Image.Image:
    times = max(1, math.ceil(DRAWN / max(image.shape)))
    levels = grey(image, int(np.iinfo(image.dtype).max))
    size = (levels.shape[1] * times, levels.shape[0] * times)
    picture = Image.fromarray(levels).resize(size, Image.Resampling.NEAREST).convert("RGB")
    if region is not None:
        left, top = region["column"] * times, region["row"] * times
        right = left + region["width"] * times - 1
        bottom = top + region["height"] * times - 1
        draw = ImageDraw.Draw(picture)  # around the region, not over it
        draw.rectangle((left - 4, top - 4, right + 4, bottom + 4), outline=(0, 0, 0), width=4)
        draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline=FRAME, width=2)
    return picture


# --- the page


def _context(facts: Facts, pictured: Sequence[Pictured]) -> dict[str, Any]:
    return {
        "title": "Do these films carry a trigger?",
        "facts": facts,
        "words": _words(facts),
        "cards": _cards(facts),
        "films": [_film(film, image, facts) for film, image in pictured if image is not None],
        "rows": [
            (film_name(film), film["verdict"], "" if film["p"] is None else f"{film['p']:.3f}",
             film["finding"] or "",
             "" if film["region"] is None else region_words(film["region"]), film["reason"])
            for film in sorted(facts["films"], key=_rank)[:ROWS]
        ],
        "more": max(len(facts["films"]) - ROWS, 0),
    }  # fmt: skip


def _words(facts: Facts) -> str:
    n, films = facts["counts"], count(len(facts["films"]), "film")
    return {
        "suspicious": f"{n['suspicious']:,} of {films}; don't rely on how the model reads them",
        "can't tell": "some films can't be told; none is suspicious",
        "pass": f"none of {films} is suspicious; that is no proof",
    }[facts["verdict"]]


def _cards(facts: Facts) -> list[dict[str, Any]]:
    counts, films = facts["counts"], len(facts["films"])
    calibration = facts["calibration"]
    return [
        {
            "title": name.capitalize(),
            "under": under,
            "value": f"{counts[name]:,}",
            "facts": [("of the films", percent(counts[name] / films) if films else "-")],
        }
        for name, under in (
            ("suspicious", "score above the threshold"),
            ("can't tell", "untypical, or no film that can be read"),
            ("pass", "nothing seen; no proof that there is nothing"),
        )
    ] + [
        {
            "title": "Calibration",
            "under": f"clean films of {calibration['patients']:,} patients",
            "value": f"{calibration['films']:,}",
            "facts": [
                ("false alarms", f"{100 * facts['false_alarm']:g} % at most"),
                ("threshold", f"{facts['threshold']:.3f}"),
            ],
        }
    ]


def _film(film: Facts, image: NDArray[Any] | None, facts: Facts) -> dict[str, Any]:
    assert image is not None  # the page leaves others out
    return {
        "name": film_name(film),
        "verdict": film["verdict"],
        "reason": film["reason"],
        "p": f"{film['p']:.3f}",
        "finding": film["finding"],
        "height": image.shape[0],
        "width": image.shape[1],
        "picture": grey_png(image, int(np.iinfo(image.dtype).max)),
        "region": film["region"],
        "place": "" if film["region"] is None else region_words(film["region"]),
        "readings": [
            (each["finding"], 100 * each["probability"], f"{each['probability']:.2f}",
             100 * each["without"], f"{each['without']:.2f}")
            for each in film["readings"]
        ],
        "scores": [
            _score(name, value, facts["clean"][name]) for name, value in film["scores"].items()
        ],
    }  # fmt: skip


def _score(name: str, value: float | None, clean: Facts) -> dict[str, Any]:
    """A score beside clean films' quantiles, on a scale of square roots from their least up."""
    top = max(clean["most"], clean["least"] if value is None else value)

    def place(x: float) -> float:
        span = top - clean["least"]
        return 100 * math.sqrt(max(x - clean["least"], 0) / span) if span > 0 else 0.0

    return {
        "name": name,
        "value": None if value is None else f"{value:.3g}",
        "at": None if value is None else place(value),
        "quantiles": [(words, f"{clean[key]:.3g}", place(clean[key]))
                      for key, words in (("median", "median"), ("q95", "95 %"), ("q99", "99 %"))],
    }  # fmt: skip
