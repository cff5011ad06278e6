"""Scans of a data set that need no model."""

from __future__ import annotations

from leadapron.detect.films.observe import Observed, limits, observe
from leadapron.detect.films.scan import METHODS, Method, Scan, scan_films
from leadapron.detect.films.ties import OVERLAP

__all__ = ["METHODS", "OVERLAP", "Method", "Observed", "Scan", "limits", "observe", "scan_films"]
