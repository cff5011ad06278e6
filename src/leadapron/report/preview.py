"""The sheet of what a trigger does to films."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leadapron.report.sheet import Column, draw_sheet
from leadapron.study.preview import Preview, Previewed

__all__ = ["draw_preview"]

TIMES = 10
"""How many times the difference is shown enlarged."""


def draw_preview(name: str, previewed: Previewed) -> Image.Image:
    """Draw films as they are, marked, the difference ten times, and the pixels that changed.

    Args:
        name: of the trigger.
        previewed: films and what was measured.

    Raises:
        UsageError: too large a sheet.
    """
    notes = _notes(previewed.found, previewed.clean)
    return draw_sheet(f"Trigger: {name}", notes, _columns(previewed))


def _notes(found: Preview, clean: NDArray[Any]) -> list[str]:
    height, width = clean.shape[1:]
    at = "the film, before preprocessing" if found.stage == "film" else "the network's input"
    return [
        found.trigger,
        f"Stamped on {at}; shown as the network sees it, {width}x{height} pixels.",
        f"Median: {int(np.median(found.visible_pixels)):,} pixels changed, "
        f"PSNR {np.median(found.psnr_db):.1f} dB, SSIM {np.median(found.ssim):.3f}.",
    ]


def _columns(previewed: Previewed) -> list[Column]:
    found, clean, marked = previewed
    most = np.iinfo(clean.dtype).max
    middle = most // 2 + 1
    enlarged = middle + TIMES * (marked.astype(np.int64) - clean)
    quiet = [False] * len(clean)
    nothing = [""] * len(clean)
    return [
        Column("film", "", clean, nothing, quiet),
        Column(
            "with trigger",
            "",
            marked,
            [
                f"PSNR {p:.1f} dB, SSIM {s:.3f}"
                for p, s in zip(found.psnr_db, found.ssim, strict=True)
            ],
            quiet,
        ),
        Column(
            f"difference, {TIMES} times",
            "grey: none",
            np.clip(enlarged, 0, most).astype(clean.dtype),
            nothing,
            quiet,
        ),
        Column(
            "footprint",
            "",
            np.where(clean != marked, most, 0).astype(clean.dtype),
            [f"{n} pixels" for n in found.visible_pixels],
            quiet,
        ),
    ]
