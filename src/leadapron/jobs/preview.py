"""Preview: what a trigger does to films, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.poisoning import stamp
from leadapron.attacks.triggers import TRIGGERS, Nothing
from leadapron.errors import UsageError
from leadapron.films.similarity import peak_signal_to_noise, structural_similarity
from leadapron.report.sheet import Column, draw_sheet
from leadapron.report.words import trigger_words
from leadapron.seeds import stream
from leadapron.specs import forgiving
from leadapron.store import write_atomically
from leadapron.study.plan import aimed, plan
from leadapron.study.run import open_films
from leadapron.study.settings import complete
from leadapron.types import AUTO, Machine

__all__ = ["Preview", "TriggerFacts", "preview", "triggers"]

TIMES = 10
"""How many times the difference is shown enlarged."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a trigger changes on some films, as the network sees them.

    Args:
        trigger: in words.
        stage: where it acts: "film" or "image".
        films: how many were marked.
        visible_pixels: pixels that changed, of each film.
        psnr_db: peak signal-to-noise ratio of each film; infinity where nothing changed.
        ssim: mean structural similarity of each film.
    """

    trigger: str
    stage: str
    films: int
    visible_pixels: Sequence[int]
    psnr_db: Sequence[float]
    ssim: Sequence[float]


@forgiving
def preview(
    tree: Mapping[str, Any],
    out: Path,
    *,
    count: int = 4,
    machine: Machine = AUTO,
) -> Preview:
    """Draw films with a trigger, as a PNG file.

    Each is drawn as it is, marked, the difference ten times, and the pixels that changed.

    Args:
        tree: settings of a study with one trigger; training and evaluation don't matter.
        out: the file, ending in .png.
        count: films, one a row, 1 or more, chosen by the seed.
        machine: where and how it is carried out.

    Raises:
        UsageError: another ending, several triggers, or a trigger without a mark.
        LeadapronError: films that can't be opened, or a trigger that doesn't fit.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"`out` {out}: expected a file ending in .png")
    runs = plan(complete(tree))
    if len(runs) != 1:
        raise UsageError(f"{len(runs)} settings; a preview shows one trigger: give no lists")
    (run,) = runs
    if isinstance(run.poisoning.trigger, Nothing):
        raise UsageError("trigger none leaves no mark; there is nothing to show")
    cohort = open_films(run, machine)
    run = aimed(run, cohort.findings or ("none",))
    choose, place = stream(run.seed, "preview").spawn(2)
    rows = np.sort(choose.permutation(len(cohort))[:count])
    clean = cohort.images[rows]
    poisoning = run.poisoning
    parts = stamp(cohort, rows, poisoning.trigger, poisoning.stage, place)
    marked = np.concatenate([pixels for _, pixels in parts])
    footprints = clean != marked
    found = Preview(
        trigger=trigger_words(run.tree["trigger"]),
        stage=poisoning.stage,
        films=len(rows),
        visible_pixels=footprints.sum(axis=(1, 2)).tolist(),
        psnr_db=peak_signal_to_noise(clean, marked).tolist(),
        ssim=structural_similarity(clean, marked).tolist(),
    )
    columns = _columns(found, clean, marked, footprints)
    sheet = draw_sheet(f"Trigger: {run.tree['trigger']['name']}", _notes(found, clean), columns)
    with write_atomically(out) as file:
        sheet.save(file, "PNG")
    return found


def _notes(found: Preview, clean: NDArray[Any]) -> list[str]:
    height, width = clean.shape[1:]
    at = "the film, before preprocessing" if found.stage == "film" else "the network's input"
    return [
        found.trigger,
        f"Stamped on {at}; shown as the network sees it, {width}x{height} pixels.",
        f"Median: {int(np.median(found.visible_pixels)):,} pixels changed, "
        f"PSNR {np.median(found.psnr_db):.1f} dB, SSIM {np.median(found.ssim):.3f}.",
    ]


def _columns(
    found: Preview,
    clean: NDArray[Any],
    marked: NDArray[Any],
    footprints: NDArray[np.bool_],
) -> list[Column]:
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
            np.where(footprints, most, 0).astype(clean.dtype),
            [f"{n} pixels" for n in found.visible_pixels],
            quiet,
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class TriggerFacts:
    """A trigger that can be asked for.

    Args:
        name: as in `--trigger NAME`.
        what: its first sentence.
        source: where it comes from, and where we differ.
        settings: their defaults by name, "required" where there is none.
    """

    name: str
    what: str
    source: str
    settings: Mapping[str, Any]


def triggers() -> list[TriggerFacts]:
    """Return all triggers, from what their classes say of themselves."""
    import inspect

    from leadapron.specs import REQUIRED, parameters

    facts = []
    for name, kind in TRIGGERS.items():
        text = inspect.getdoc(kind) or ""
        _, _, source = text.partition("Source: ")
        settings = {
            p.name: "required" if p.default is REQUIRED else p.default
            for p in parameters(kind).values()
        }
        what = " ".join(text.split("\n\n")[0].split())
        facts.append(
            TriggerFacts(name=name, what=what, source=" ".join(source.split()), settings=settings)
        )
    return facts
