"""Scans of a data set that need no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leadapron.later import later

if TYPE_CHECKING:
    from leadapron.detect.films.observe import Observed, limits, observe
    from leadapron.detect.films.reader import FEWEST, Hidden, Look, SecondLook
    from leadapron.detect.films.scan import METHODS, Method, Scan, scan_films
    from leadapron.detect.films.ties import OVERLAP

__all__ = [
    "FEWEST",
    "METHODS",
    "OVERLAP",
    "Hidden",
    "Look",
    "Method",
    "Observed",
    "Scan",
    "SecondLook",
    "limits",
    "observe",
    "scan_films",
]

__getattr__ = later(__name__)
