"""A gate's calibration and verdicts, in the terminal, as pictures, JSON and one HTML page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from leadapron.detect.inputs import rate_words
from leadapron.detect.inputs.calibration import CalibrationDocument
from leadapron.detect.inputs.screening import (
    CalibrationFilms,
    Quantiles,
    ScreenedFilm,
    Screening,
)
from leadapron.documents import dump, read
from leadapron.errors import StoreError
from leadapron.reading import read_regular
from leadapron.report.gallery import grey, grey_png
from leadapron.report.gate_comparison import comparison_lines
from leadapron.report.rendering import write_page
from leadapron.report.words import listed, percent
from leadapron.store import make_folder, reason, write_atomically, write_json
from leadapron.text import count, printable, short_path
from leadapron.types import Estimate, Place

__all__ = [
    "begin_screen",
    "calibrate_lines",
    "film_line",
    "overlay_png",
    "screen_lines",
    "top_films",
    "write_film",
    "write_screen",
]

SHOWN = 40
"""Most films that the page draws, the most suspicious first."""

ROWS = 1000
"""Most films in the page's table; all are in screen.json."""

LARGEST = 1 << 30
"""Most bytes of an earlier screen.json."""

DRAWN = 512
"""Least side of an overlay in pixels."""

FRAME = (79, 227, 255)

RANKS = {"suspicious": 0, "can't tell": 1, "pass": 2}

LONGEST_STEM = 60

LEGEND = (
    "p: share of clean films with as high a score. Drives: share whose region drives the reading "
    "as much. Unlike: share as unlike the other clean films. Read, without: the finding's "
    "probability, as read and with the region removed."
)


def calibrate_lines(made: CalibrationDocument) -> list[str]:
    """Return a calibration for the terminal, line by line.

    Args:
        made: the calibration.
    """
    said = [*_clinic_lines(made), _promise(made)]
    said += [
        f"WARNING: {mark.words} They are {mark.films_words}."
        for clinic in made.clinics
        for mark in clinic.shared
    ]
    if made.widened is not None:
        said.append(_widened(made))
    if made.compared is not None:
        said += comparison_lines(made.compared)
    said.append(
        f"Scores: {listed(made.scores)}; {made.passes} passes, {made.milliseconds:.1f} ms a film"
    )
    if made.left_out:
        said += [f"Left out: {name}, {why}" for name, why in made.left_out.items()]
    said += [f"Note: {note}" for note in made.notes]
    return [*said, made.statement, *([f"Gate: {made.gate}, {made.numbers}"] if made.gate else [])]


def _clinic_lines(made: CalibrationDocument) -> list[str]:
    found = []
    for number, clinic in enumerate(made.clinics, 1):
        who = "Calibrated on" if len(made.clinics) == 1 else f"{clinic_words(number, clinic.name)}:"
        found.append(
            f"{who} {clinic.films:,} films; {clinic.calibration_films:,} films of "
            f"{clinic.patients:,} patients set the threshold {clinic.threshold:.3f}"
        )
        if clinic.strata:
            found.append("Thresholds by what the model reads on a film:")
            found += [
                f"  {each.name}: {each.films:,} films of {each.patients:,} patients set the "
                f"threshold {each.threshold:.3f}"
                for each in clinic.strata
            ]
        if clinic.groups:
            found.append("Rates on groups of these films, each judged by other patients' films:")
            found += [
                f"  {group.kind} {group.name}, {group.suspicious.n:,} films: suspicious "
                f"{_exact(group.suspicious)}, can't tell {_exact(group.cant_tell)}"
                for group in clinic.groups
            ]
    return found


def _exact(rate: Estimate) -> str:
    """A rate with its interval."""
    return f"{100 * rate.value:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f} %)"


def clinic_words(number: int, name: str) -> str:
    """Return a clinic's number, from 1, and its name."""
    return f"Clinic {number} ({name})" if name else f"Clinic {number}"


def _promise(made: CalibrationDocument) -> str:
    """False alarms promised."""
    rate, (first, *others) = f"{100 * made.false_alarm:g} %", made.clinics
    if others:
        return (
            f"False alarms: of the clean films of each clinic at most {rate} are called suspicious "
            f'and at most {100 * made.cant_tell:g} % more get "can\'t tell", on average over '
            "calibrations (split conformal prediction, each threshold at half of the rate; not "
            "valid for films of other devices or another clinic)."
        )
    untypical = ' and at most as many more get "can\'t tell"' if made.cant_tell else ""
    return (
        f"False alarms: at most {rate} of clean films like these are called suspicious{untypical} "
        "(split conformal prediction; not valid for films of other devices or another clinic)."
        f"{rate_words(made.false_alarm, first.patients, first.likely_rates)}"
    )


def _widened(made: CalibrationDocument) -> str:
    """What another clinic changed, and what it costs."""
    assert made.widened is not None
    rises = listed([f"{each.alone:.3f} to {each.threshold:.3f}" for each in made.clinics])
    return (
        f"Widened: before, {made.widened.cant_tell:,} of the {made.widened.films:,} films of the "
        f'new clinic got "can\'t tell". Cost: thresholds at half of the rate rise from {rises}, so '
        "weaker triggers pass; a film that is typical of several clinics is suspicious only if "
        "each of them says so."
    )


def film_line(film: ScreenedFilm, *, heading: bool = False) -> str:
    """Return one film's line of the table, optionally with the table's head above it.

    Args:
        film: that was screened.
        heading: whether it is the first.
    """
    p, drives, unlike = map(_share, (film.p, film.drives, film.unlike))
    finding = before = after = place = "-"
    if film.finding is not None:
        reading = film.readings[0]
        finding, before = film.finding, f"{reading.probability:.2f}"
        after = f"{reading.without:.2f}"
    if film.region is not None:
        place = region_words(film.region)
    words = f": {film.reason}" if film.reason else ""
    named = f"{printable(film.file)}{words}"
    line = _row(film.verdict, p, drives, unlike, finding, before, after, place, named)
    if not heading:
        return line
    head = _row(
        "verdict", "p", "drives", "unlike", "finding", "read", "without",
        "region at row, column", "film",
    )  # fmt: skip
    return f"{head}\n{line}"


def screen_lines(screening: Screening) -> list[str]:
    """Return the lines below the table of films.

    Args:
        screening: what is said.
    """
    counts = ", ".join(f"{n:,} {verdict}" for verdict, n in screening.counts.items())
    found = [
        "",
        LEGEND,
        f"{count(len(screening.films), 'film')}: {counts}",
        screening.verdict.statement,
        *screening.verdict.untested,
    ]
    found += [f"Note: {printable(note)}" for note in screening.notes]
    return [*found, f"Next: {screening.verdict.next}"]


def region_words(region: Place) -> str:
    """Return a region's size, row and column in words."""
    return f"{region.height}x{region.width} at {region.row}, {region.column}"


def begin_screen(folder: Path) -> None:
    """Make the folder of a screening, or remove the last one's pages and pictures from it.

    Args:
        folder: created if missing, readable by its owner alone. The page, the JSON and the pictures
            of an earlier screening are removed; other files stay.

    Raises:
        StoreError: a folder that can't be made or emptied, or that has a screen.json of another
            kind.
    """
    _make_private(folder)
    listed = folder / "screen.json"
    if not listed.exists():
        return
    try:
        earlier = read(Screening, read_regular(listed, LARGEST))
        names = [f"{film_name(film)}.png" for film in earlier.films]
    except (OSError, StoreError) as error:
        raise StoreError(f"{listed} isn't from a screening; choose another --out") from error
    try:
        for name in (*names, "screen.html", "screen.json"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"can't empty {folder}: {reason(error)}") from error


def write_film(folder: Path, film: ScreenedFilm) -> Path | None:
    """Write the model's input, enlarged, with the region outlined; mode 0600.

    Args:
        folder: as `begin_screen` made it.
        film: that was screened.

    Returns:
        The PNG file, named by the film's number and its file's stem.

    Raises:
        StoreError: a file that can't be written.
    """
    if not film.image.size:
        return None
    path = folder / f"{film_name(film)}.png"
    with write_atomically(path) as file:
        file.write(overlay_png(film.image, film.region))
    return path


def film_name(film: ScreenedFilm) -> str:
    """Return a film's number and its file's stem, without characters invalid in file names."""
    stem = re.split(r"[/\\]", film.file)[-1].rpartition(".")
    kept = re.sub(r"[^\w.-]+", "_", stem[0] or stem[2], flags=re.ASCII)[:LONGEST_STEM]
    return f"{film.number:06d}-{kept}"


def top_films(films: Sequence[ScreenedFilm]) -> list[ScreenedFilm]:
    """Return the films that the page draws, the most suspicious first."""
    return sorted((film for film in films if film.image.size), key=_rank)[:SHOWN]


def write_screen(folder: Path, screening: Screening, pictured: Sequence[ScreenedFilm]) -> Path:
    """Write screen.json and screen.html, mode 0600.

    Args:
        folder: as `begin_screen` made it.
        screening: what is said.
        pictured: films with their images, as `top_films` returns them.

    Returns:
        The HTML file.

    Raises:
        StoreError: files that can't be written.
    """
    write_json(folder / "screen.json", dump(screening))
    return write_page(folder / "screen.html", "screen.html.j2", **_context(screening, pictured))


# --- words


def _row(*cells: str) -> str:
    verdict, p, drives, unlike, finding, before, after, place, film = cells
    shares = f"{p:>5}  {drives:>6}  {unlike:>6}"
    return f"{verdict:<10}  {shares}  {finding:<18}  {before:>4}  {after:>7}  {place:<21}  {film}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"


def _things(film: ScreenedFilm, screening: Screening) -> list[str]:
    """What the region does, how the film looks, and which films it looks most like."""
    said = []
    if film.drives is not None:
        so = film.drives <= screening.false_alarm
        said.append(
            f"{'This region drives' if so else 'No region drives'} the reading more than in clean "
            f"films (p {film.drives:.3f})."
        )
    if film.unlike is not None:
        looks = "like" if film.typical else "unlike"
        said.append(f"This film looks {looks} the calibration films (p {film.unlike:.3f}).")
    if film.nearest:
        names = "; ".join(map(short_path, film.nearest))
        said.append(f"Nearest films of the calibration: {names}.")
    if film.clinic is not None and len(screening.clinics) > 1:
        clinic = clinic_words(film.clinic, screening.clinics[film.clinic - 1].name)
        said.append(f"{'Judged by' if film.typical else 'Least unlike'} {clinic.lower()}.")
    return said


def _rank(film: ScreenedFilm) -> tuple[int, float, int]:
    score = -math.inf if film.score is None else film.score
    return RANKS[film.verdict], -score, film.number


# --- pictures


def _make_private(folder: Path) -> None:
    try:
        make_folder(folder)
    except OSError as error:
        raise StoreError(f"can't write {folder}: {reason(error)}") from error


def overlay_png(image: NDArray[Any], region: Place | None) -> bytes:
    """Return a model's input as a PNG file, enlarged, with a region outlined.

    Args:
        image: (h, w) uint8 or uint16.
        region: the region, in pixels of the image; None outlines nothing.
    """
    times = max(1, math.ceil(DRAWN / max(image.shape)))
    levels = grey(image, int(np.iinfo(image.dtype).max))
    size = (levels.shape[1] * times, levels.shape[0] * times)
    picture = Image.fromarray(levels).resize(size, Image.Resampling.NEAREST).convert("RGB")
    if region is not None:
        left, top = region.column * times, region.row * times
        right = left + region.width * times - 1
        bottom = top + region.height * times - 1
        draw = ImageDraw.Draw(picture)  # around the region, not over it
        draw.rectangle((left - 4, top - 4, right + 4, bottom + 4), outline=(0, 0, 0), width=4)
        draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline=FRAME, width=2)
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


# --- the page


def _context(screening: Screening, pictured: Sequence[ScreenedFilm]) -> dict[str, Any]:
    return {
        "title": "Do these films carry a trigger?",
        "facts": screening,
        "words": _words(screening),
        "cards": _cards(screening),
        "films": [_film(film, screening) for film in pictured],
        "rows": [
            (film_name(film), film.verdict, *map(_share, (film.p, film.drives, film.unlike)),
             film.finding or "",
             "" if film.region is None else region_words(film.region), film.reason)
            for film in sorted(screening.films, key=_rank)[:ROWS]
        ],
        "more": max(len(screening.films) - ROWS, 0),
        "groups": [
            (clinic_words(number, clinic.name), group.kind, group.name,
             f"{group.suspicious.n:,}", _exact(group.suspicious), _exact(group.cant_tell))
            for number, clinic in enumerate(screening.clinics, 1)
            for group in clinic.groups
        ],
    }  # fmt: skip


def _words(screening: Screening) -> str:
    n, films = screening.counts, count(len(screening.films), "film")
    return {
        "suspicious": f"{n['suspicious']:,} of {films}; don't rely on the model's reading of them",
        "can't tell": "some films can't be judged; none is suspicious",
        "pass": f"none of {films} is suspicious; that proves nothing",
    }[screening.verdict.word]


def _cards(screening: Screening) -> list[dict[str, Any]]:
    counts, films = screening.counts, len(screening.films)
    clinics = screening.clinics
    patients = sum(each.patients for each in clinics)
    thresholds = ", ".join(map(_thresholds, clinics))
    return [
        {
            "title": name.capitalize(),
            "under": under,
            "value": f"{n:,}",
            "facts": [("of the films", percent(n / films) if films else "-")],
        }
        for name, under, n in (
            ("suspicious", "score above the threshold", counts["suspicious"]),
            ("can't tell", "out of distribution, or unreadable", counts["can't tell"]),
            ("pass", "nothing found, which proves nothing", counts["pass"]),
        )
    ] + [
        {
            "title": "Calibration",
            "under": f"clean films of {patients:,} patients"
            + (f", {len(clinics)} clinics" if len(clinics) > 1 else ""),
            "value": f"{sum(each.films for each in clinics):,}",
            "facts": [
                ("false alarms", f"{100 * screening.false_alarm:g} % at most"),
                ("threshold", thresholds),
            ],
        }
    ]


def _thresholds(clinic: CalibrationFilms) -> str:
    """A clinic's threshold, or the range of those by what the model reads."""
    found = [each.threshold for each in clinic.strata] or [clinic.threshold]
    return " to ".join(f"{each:.3f}" for each in sorted({min(found), max(found)}))


def _film(film: ScreenedFilm, screening: Screening) -> dict[str, Any]:
    image = film.image
    return {
        "name": film_name(film),
        "verdict": film.verdict,
        "reason": film.reason,
        "p": _share(film.p),
        "things": _things(film, screening),
        "finding": film.finding,
        "height": image.shape[0],
        "width": image.shape[1],
        "picture": grey_png(image, int(np.iinfo(image.dtype).max)),
        "region": film.region,
        "place": "" if film.region is None else region_words(film.region),
        "readings": [
            (each.finding, 100 * each.probability, f"{each.probability:.2f}",
             100 * each.without, f"{each.without:.2f}")
            for each in film.readings
        ],
        "scores": [
            _score(name, value, screening.clinics[(film.clinic or 1) - 1].clean[name])
            for name, value in film.scores.items()
        ],
    }  # fmt: skip


def _score(name: str, value: float, clean: Quantiles) -> dict[str, Any]:
    """A score and clean films' quantiles, on a square-root scale from their minimum."""
    top = max(clean.most, clean.least if math.isnan(value) else value)

    def place(x: float) -> float:
        span = top - clean.least
        return 100 * math.sqrt(max(x - clean.least, 0) / span) if span > 0 else 0.0

    return {
        "name": name,
        "value": None if math.isnan(value) else f"{value:.3g}",
        "at": None if math.isnan(value) else place(value),
        "quantiles": [(words, f"{getattr(clean, key):.3g}", place(getattr(clean, key)))
                      for key, words in (("median", "median"), ("q95", "95 %"), ("q99", "99 %"))],
    }  # fmt: skip
