"""Scans of a data set without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leadapron.later import later

if TYPE_CHECKING:
    from leadapron.detect.films.marks import Repeated
    from leadapron.detect.films.method import FilmMethod, Films, Found, Mark, MarkMethod
    from leadapron.detect.films.methods import METHODS
    from leadapron.detect.films.observe import Observed
    from leadapron.detect.films.reader import FEWEST, Hidden, Look, SecondLook
    from leadapron.detect.films.repeats import Repeat
    from leadapron.detect.films.scan import Method, Scan, scan_films
    from leadapron.detect.films.ties import OVERLAP

__all__ = [
    "FEWEST",
    "METHODS",
    "OVERLAP",
    "FilmMethod",
    "Films",
    "Found",
    "Hidden",
    "Look",
    "Mark",
    "MarkMethod",
    "Method",
    "Observed",
    "Repeat",
    "Repeated",
    "Scan",
    "SecondLook",
    "scan_films",
]

__getattr__ = later(__name__)
