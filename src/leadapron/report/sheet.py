"""A contact sheet as a picture: films in rows, overlaid maps in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from leadapron.errors import UsageError
from leadapron.report.gallery import circle, grey, palette, steps

__all__ = ["Column", "draw_sheet"]

CELL_PX = 184
"""Least side of a film on the sheet in pixels; films are enlarged by whole factors."""

MOST_PIXELS = 100_000_000
_EDGE, _GAP, _CAPTION, _LINE, _BAR = 20, 8, 24, 19, 8
_PAPER, _INK, _MUTED = (18, 20, 24), (236, 238, 241), (150, 156, 165)
_MARK, _PEAK = (255, 255, 255), (94, 230, 255)
_TEXT_PX, _SMALL_PX, _TITLE_PX = 15, 13, 22


@dataclass(frozen=True)
class Column:
    """A column of the sheet.

    Args:
        title, subtitle: headings above the column.
        films: (n, h, w) uint8 or uint16.
        captions: n captions, one under each film.
        strong: n, whether a caption is emphasised.
        maps: (n, h, w), overlaid on a scale from 0 to the highest value of all; None for none.
        footprints: (n, h, w) bool, circled if given.
    """

    title: str
    subtitle: str
    films: NDArray[Any]
    captions: Sequence[str]
    strong: Sequence[bool]
    maps: NDArray[np.float32] | None = None
    footprints: NDArray[np.bool_] | None = None


def draw_sheet(title: str, notes: Sequence[str], columns: Sequence[Column]) -> Image.Image:
    """Return the sheet.

    Args:
        title: the heading.
        notes: lines below it.
        columns: from left to right, of the same films.

    Raises:
        UsageError: a sheet of more than 100 megapixels.
    """
    n, height, width = columns[0].films.shape
    times = max(1, -(-CELL_PX // width))
    step = (width * times + _GAP, height * times + _CAPTION + _GAP)
    fonts = {px: ImageFont.load_default(px) for px in (_TITLE_PX, _TEXT_PX, _SMALL_PX)}
    titles = [_wrapped(column.title, fonts[_TEXT_PX], width * times) for column in columns]
    lines = max(len(words) for words in titles)
    top = _EDGE + _TITLE_PX + 10 + _LINE * len(notes) + 14
    first = top + _LINE * (lines + 1) + 2 * _BAR + _LINE
    size = (2 * _EDGE + len(columns) * step[0] - _GAP, first + n * step[1] + _EDGE - _GAP)
    if size[0] * size[1] > MOST_PIXELS:
        raise UsageError(
            f"{n} films in {len(columns)} columns are too large a sheet; use a smaller --count or "
            "fewer --methods"
        )
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_EDGE, _EDGE), title, _INK, fonts[_TITLE_PX])
    for line, note in enumerate(notes):
        pen.text((_EDGE, _EDGE + _TITLE_PX + 10 + _LINE * line), note, _MUTED, fonts[_SMALL_PX])
    for number, (column, words) in enumerate(zip(columns, titles, strict=True)):
        x = _EDGE + number * step[0]
        y = top + _LINE * (lines - len(words))
        for word in words:
            pen.text((x, y), word, _INK, fonts[_TEXT_PX])
            y += _LINE
        pen.text((x, y), column.subtitle, _MUTED, fonts[_SMALL_PX])
        highest = 0.0 if column.maps is None else max(0.0, float(column.maps.max()))
        if column.maps is not None:
            _bar(sheet, (x, y + _LINE + 2), highest, fonts[_SMALL_PX])
        for row in range(n):
            at = (x, first + row * step[1])
            sheet.paste(_cell(column, row, highest, times), at)
            colour = _INK if column.strong[row] else _MUTED
            place = (x + 1, at[1] + height * times + 4)
            pen.text(place, column.captions[row], colour, fonts[_SMALL_PX])
    return sheet


def _cell(column: Column, row: int, highest: float, times: int) -> Image.Image:
    film = column.films[row]
    top = int(np.iinfo(film.dtype).max)
    size = (film.shape[1] * times, film.shape[0] * times)
    cell = Image.fromarray(grey(film, top)).resize(size, Image.Resampling.NEAREST).convert("RGB")
    if column.maps is not None and highest > 0:
        colours = palette()[steps(column.maps[row] / highest)]
        over = Image.fromarray(colours, "RGBA").resize(size, Image.Resampling.NEAREST)
        cell.paste(over, mask=over)
    pen = ImageDraw.Draw(cell)
    mark = None if column.footprints is None else circle(column.footprints[row])
    if mark is not None:
        x, y, radius = (times * value for value in (mark.x, mark.y, mark.radius))
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, outline=_MARK, width=2 if column.maps is None else 1)
    if column.maps is not None and column.maps[row].max() > column.maps[row].min():
        place = np.unravel_index(int(np.argmax(column.maps[row])), film.shape)
        y, x = (times * (float(value) + 0.5) for value in place)
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):  # open in the middle, to show the peak
            pen.line((x + 4 * dx, y + 4 * dy, x + 9 * dx, y + 9 * dy), fill=_PEAK, width=1)
    return cell


def _bar(
    sheet: Image.Image,
    at: tuple[int, int],
    highest: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """The colour bar, with the value of its last colour."""
    colours = palette()[:, :3][None].repeat(_BAR, 0)
    sheet.paste(Image.fromarray(colours, "RGB"), (at[0], at[1] + 4))
    words = f"0 to {highest:.2g}"
    ImageDraw.Draw(sheet).text((at[0] + colours.shape[1] + 8, at[1]), words, _MUTED, font)


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    """The text in lines that fit, broken after hyphens."""
    lines = [""]
    for part in text.replace("-", "-\n").split("\n"):
        if lines[-1] and font.getlength(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines
