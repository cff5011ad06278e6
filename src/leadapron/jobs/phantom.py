"""Phantom sheet: a contact sheet of phantoms with their findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from leadapron.errors import UnknownNameError, UsageError
from leadapron.films.cohort import BLOCK, Rows
from leadapron.sources.phantom import FINDINGS, describe_rows, render
from leadapron.store import write_atomically

__all__ = ["phantom_sheet"]

GAP_PX = 4
MOST_PIXELS = 100_000_000


def phantom_sheet(
    out: Path, *, count: int = 24, size: int = 256, seed: int = 0, findings: Sequence[str] = ()
) -> list[str]:
    """Draw phantoms side by side, each above its findings, and write them as a PNG file.

    Captions name the drawn findings: the labels before label noise.

    Args:
        out: the file, ending in .png.
        count: number of films, 1 or more.
        size: side of each film in pixels.
        seed: seed of the collection.
        findings: only films that show at least one of these; all films if left out.

    Returns:
        The captions, in order.

    Raises:
        UsageError: another file ending, or a sheet of more than 100 megapixels.
        UnknownNameError: no such finding.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"`out` {out}: expected a file ending in .png")
    across = math.ceil(math.sqrt(count * 1.3))
    down = math.ceil(count / across)
    font_px = max(11, size // 20)
    step_x, step_y = size + GAP_PX, size + font_px + 5 + GAP_PX
    if across * step_x * down * step_y > MOST_PIXELS:
        raise UsageError(
            f"{count} films of {size} pixels are too large a sheet; use a smaller `count` or `size`"
        )
    films = render(_rows(count, seed, findings), size=size, seed=seed)
    sheet = Image.new("L", (across * step_x - GAP_PX, down * step_y - GAP_PX))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(font_px)
    captions = []
    for place, (film, truth) in enumerate(zip(films.images, films.truth, strict=True)):
        x, y = (place % across) * step_x, (place // across) * step_y
        sheet.paste(Image.fromarray(film), (x, y))
        present = [FINDINGS[j].replace("_", " ") for j in np.flatnonzero(truth)]
        captions.append(", ".join(present) or "No finding")
        pen.text((x + 2, y + size + 1), _shortened(captions[-1], font, size), 200, font)
    with write_atomically(out) as file:
        sheet.save(file, "PNG")
    return captions


def _rows(count: int, seed: int, findings: Sequence[str]) -> Rows:
    """The first `count` rows that show one of the findings."""
    for name in findings:
        if name not in FINDINGS:
            raise UnknownNameError("finding", name, FINDINGS)
    if not findings:
        return np.arange(count)
    columns = [FINDINGS.index(name) for name in findings]
    chosen: list[Rows] = []
    first = 0
    while sum(map(len, chosen)) < count:
        rows = np.arange(first, first + BLOCK)
        shown = describe_rows(rows, seed=seed).truth[:, columns].any(1)
        chosen.append(rows[shown])
        first += BLOCK
    return np.concatenate(chosen)[:count]


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
