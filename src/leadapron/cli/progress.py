"""Progress of long work, on stderr."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["showing_progress"]

logger = logging.getLogger("leadapron")


@contextlib.contextmanager
def showing_progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """Show progress on stderr: a bar on a terminal, otherwise a line every 20 seconds."""
    if not logger.isEnabledFor(logging.INFO):
        yield None
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}
        reached: dict[str, int] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bars.update(task, visible=False)
                tasks[what] = bars.add_task(what, total=total)
            elif done < reached[what]:  # the same step for another model
                bars.reset(tasks[what], total=total)
            bars.update(tasks[what], completed=done)
            reached[what] = done

        yield show


def _lines() -> Callable[[str, int, int], None]:
    began: dict[str, tuple[float, int]] = {}
    reached: dict[str, int] = {}
    said = [time.monotonic()]

    def show(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < reached.get(what, 0):  # the same step for another model
            del began[what]
        reached[what] = done
        start, first = began.setdefault(what, (now, done))
        if done > first and (now - said[0] > 20 or done == total):
            left = (now - start) / (done - first) * (total - done)
            logger.info("%s: %d of %d, %.0f s left", what, done, total, left)
            said[0] = now

    return show
