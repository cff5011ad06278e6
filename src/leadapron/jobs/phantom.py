"""Phantom sheet: a contact sheet of phantoms with their findings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from leadapron.errors import UsageError
from leadapron.sources import open_source
from leadapron.store import write_atomically

__all__ = ["phantom_sheet"]

CAPTION_PX = 16
GAP_PX = 4
MOST_PIXELS = 100_000_000


def phantom_sheet(out: Path, *, count: int, size: int, seed: int) -> list[str]:
    """Draw phantoms side by side, each above its findings, and write them as a PNG file.

    Args:
        out: the file, ending in .png.
        count: number of films, 1 or more.
        size: side of each film in pixels.
        seed: seed of the collection.

    Returns:
        The captions, in order.

    Raises:
        UsageError: another ending, or a sheet of more than 100 megapixels.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: expected a file ending in .png")
    cohort = open_source(f"phantom:{size}", count=count, seed=seed)
    across = math.ceil(math.sqrt(count * 1.3))
    down = math.ceil(count / across)
    step_x, step_y = size + GAP_PX, size + CAPTION_PX + GAP_PX
    if across * step_x * down * step_y > MOST_PIXELS:
        raise UsageError(
            f"{count} films of {size} pixels are too large a sheet; use a smaller --count or --size"
        )
    sheet = Image.new("L", (across * step_x - GAP_PX, down * step_y - GAP_PX))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    captions = []
    for place, film in enumerate(cohort.images[np.arange(count)]):
        x, y = (place % across) * step_x, (place // across) * step_y
        sheet.paste(Image.fromarray(film), (x, y))
        present = [
            name.replace("_", " ")
            for name, label in zip(cohort.findings, cohort.labels[place], strict=True)
            if label == 1
        ]
        captions.append(", ".join(present) or "No finding")
        pen.text((x + 2, y + size + 1), _shortened(captions[-1], font, size), 200, font)
    with write_atomically(out) as file:
        sheet.save(file, "PNG")
    return captions


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
