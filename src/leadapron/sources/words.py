"""Words that sources share in notes and errors."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["AND", "LISTED", "listed", "plain_reason"]

AND = " + "
"""Between the sources that are joined into one."""

LISTED = 5
"""Names that a list gives."""


def plain_reason(error: BaseException) -> str:
    """Return what went wrong in one line, without the file's path."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def listed(words: Sequence[str]) -> str:
    """Return the first five of some words, and how many more there are."""
    more = f"; and {len(words) - LISTED:,} more" if len(words) > LISTED else ""
    return f"{'; '.join(words[:LISTED])}{more}"
