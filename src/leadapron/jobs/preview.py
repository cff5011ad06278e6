"""The command preview: open films, stamp a trigger on some, and draw them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leadapron.attacks.triggers import Nothing
from leadapron.errors import UsageError
from leadapron.report.preview import draw_preview
from leadapron.report.words import trigger_words
from leadapron.specs import forgiving
from leadapron.store import write_atomically
from leadapron.study.plan import plan
from leadapron.study.preview import Preview, preview_trigger
from leadapron.study.run import open_films
from leadapron.study.settings import complete
from leadapron.types import AUTO, Machine

__all__ = ["preview"]


@forgiving
def preview(
    tree: Mapping[str, Any],
    out: Path,
    *,
    count: int = 4,
    machine: Machine = AUTO,
) -> Preview:
    """Draw films with a trigger, as a PNG file.

    Columns show the clean film, the triggered film, ten times the difference, and the changed
    pixels.

    Args:
        tree: settings of a study with one trigger; training and evaluation don't matter.
        out: the file, ending in .png.
        count: number of films, one per row, 1 or more, chosen by the seed.
        machine: device, precision, cache and progress.

    Raises:
        UsageError: another file ending, several triggers, or a trigger without a mark.
        LeadapronError: films that can't be opened, or a trigger that doesn't fit.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"`out` {out}: expected a file ending in .png")
    runs = plan(complete(tree))
    if len(runs) != 1:
        raise UsageError(
            f"{len(runs)} combinations of settings; a preview shows one trigger: give no lists"
        )
    (run,) = runs
    if isinstance(run.poisoning.trigger, Nothing):
        raise UsageError("the trigger none makes no mark; there is nothing to show")
    trigger = run.tree["trigger"]
    previewed = preview_trigger(run, open_films(run, machine), count, trigger_words(trigger))
    sheet = draw_preview(trigger["name"], previewed)
    with write_atomically(out) as file:
        sheet.save(file, "PNG")
    return previewed.found
