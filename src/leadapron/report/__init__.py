"""From facts on disk to plain-language lines and HTML pages; no network passes, no torch."""

from leadapron.report.audit import audit_lines, write_audit
from leadapron.report.description import description_lines, write_description
from leadapron.report.page import write_report
from leadapron.report.potency import write_potency
from leadapron.report.scan import Panel, clean_lines, scan_lines, write_scan
from leadapron.report.screen import (
    begin_screen,
    calibrate_lines,
    film_line,
    screen_lines,
    top_films,
    write_film,
    write_screen,
)
from leadapron.report.summary import summary

__all__ = [
    "Panel",
    "audit_lines",
    "begin_screen",
    "calibrate_lines",
    "clean_lines",
    "description_lines",
    "film_line",
    "scan_lines",
    "screen_lines",
    "summary",
    "top_films",
    "write_audit",
    "write_description",
    "write_film",
    "write_potency",
    "write_report",
    "write_scan",
    "write_screen",
]
