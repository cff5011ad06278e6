"""Phrases that sources share in notes and errors."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["AND", "LISTED", "OWN", "listed", "plain_reason"]

OWN = "source_"
"""May stand before a setting's name, to tell it from an argument of the same name."""

AND = " + "
"""Separator of sources that are joined into one."""

LISTED = 5
"""Most names in a list."""


def plain_reason(error: BaseException) -> str:
    """Return an error's reason in one line, without the file's path."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def listed(words: Sequence[str]) -> str:
    """Return the first five of some words, and the number of others."""
    more = f"; and {len(words) - LISTED:,} more" if len(words) > LISTED else ""
    return f"{'; '.join(words[:LISTED])}{more}"
