"""Threads that the service can't do without: the end of one is noticed."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

__all__ = ["Part"]

logger = logging.getLogger(__name__)


class Part(threading.Thread):
    """A part of the service in a thread of its own, which works until the service stops.

    An error ends it. The log then names the error's kind and place, and nothing of what it is
    about: its words may quote a film.

    Args:
        what: what it does, in words for the log and for readiness, as "the DICOM door".
        work: does it.
    """

    def __init__(self, what: str, work: Callable[[], None]) -> None:
        super().__init__(name=f"leadapron: {what}", daemon=True)
        self.what, self._work = what, work

    def run(self) -> None:
        """Work."""
        try:
            self._work()
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            logger.critical(
                "%s has ended (%s in %s, line %d): the service is no longer ready; start it again",
                self.what, type(error).__name__, Path(place.filename).name, place.lineno or 0,
            )  # fmt: skip
