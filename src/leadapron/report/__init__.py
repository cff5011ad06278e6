"""From a study's folder to plain-language lines and one HTML page; no network passes, no torch."""

from leadapron.report.page import write_report
from leadapron.report.summary import summary

__all__ = ["summary", "write_report"]
