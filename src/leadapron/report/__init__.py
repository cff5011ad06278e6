"""Reports: plain-language lines and HTML pages from results on disk; nothing is decided here.

It runs no networks and doesn't import torch; matplotlib and jinja2 are imported when something is
drawn.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Panel": "scan",
    "audit_lines": "audit",
    "begin_screen": "screen",
    "calibrate_lines": "screen",
    "clean_lines": "scan",
    "description_lines": "description",
    "film_line": "screen",
    "inspect_lines": "inspection",
    "repair_lines": "repair",
    "scan_lines": "scan",
    "screen_lines": "screen",
    "study_lines": "summary",
    "top_films": "screen",
    "write_audit": "audit",
    "write_description": "description",
    "write_film": "screen",
    "write_inspection": "inspection",
    "write_potency": "potency",
    "write_repair": "repair",
    "write_report": "page",
    "write_scan": "scan",
    "write_screen": "screen",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    # Imported lazily, since one command's lines don't need another's figures.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
