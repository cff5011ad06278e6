"""Words that sources share in notes and errors."""

from __future__ import annotations

__all__ = ["count", "plain_reason"]


def count(n: int, noun: str) -> str:
    """Return "1 film", "2,000 films"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def plain_reason(error: BaseException) -> str:
    """Return what went wrong in one line, without the file's path."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split()) or type(error).__name__
