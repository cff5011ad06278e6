"""Text for display. Text from files is made printable: it can't move, hide or break a line.

Names are cleaned once, where they are read (from a model, table, archive or file system), so that
later code may show them unchanged.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

__all__ = [
    "LONGEST_NAME",
    "bytes_in_words",
    "clean",
    "clean_names",
    "count",
    "local_path",
    "plain_cell",
    "printable",
    "quoted_cell",
    "short_path",
    "showing_paths",
]

_SHOWING_PATHS = ContextVar("showing paths", default=False)

LONGEST_NAME = 200
"""Most characters of a name; longer ones are cut, and end in "..."."""

# Printable for Python, but invisible: Unicode's Default_Ignorable_Code_Point.
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    r"""Return a text in one line with only visible characters.

    Control and escape characters, line ends, direction marks, zero-width characters and surrogates
    become Python's escapes ("\x1b", "\n", "\u202e"); other spaces become a space.
    """
    if text.isprintable() and (text.isascii() or not UNSEEN.search(text)):
        return text
    return "".join(_seen(character) for character in text)


def _seen(character: str) -> str:
    if unicodedata.category(character) == "Zs":
        return " "
    if character.isprintable() and not UNSEEN.match(character):
        return character
    return character.encode("unicode_escape").decode()


def clean(text: str, longest: int = LONGEST_NAME) -> str:
    """Return `printable` text of limited length, without surrounding spaces."""
    # Cut first as well, since a name may be as long as its file.
    seen = printable(text.strip()[: longest + 1])
    return seen if len(seen) <= longest else f"{seen[: longest - 3]}..."


def clean_names(names: Iterable[str], longest: int = LONGEST_NAME) -> tuple[str, ...]:
    """Return names, each made printable.

    Args:
        names: names from a file. Repeated names are kept; the caller handles them.
        longest: most characters of each.

    Raises:
        ValueError: two different names become equal; the message names them.
    """
    first: dict[str, str] = {}
    for name in names:
        seen = clean(name, longest)
        if first.setdefault(seen, name) != name:
            raise ValueError(f"two different names are both shown as {seen!r}")
    return tuple(clean(name, longest) for name in names)


def count(n: int, noun: str) -> str:
    """Return "1 film", "2,000 films"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


@contextlib.contextmanager
def showing_paths() -> Iterator[None]:
    """Make `short_path` return paths unchanged."""
    before = _SHOWING_PATHS.set(True)
    try:
        yield
    finally:
        _SHOWING_PATHS.reset(before)


def short_path(text: str) -> str:
    """Return a path, or sources and their paths, without the folders above an absolute path.

    Pages and JSON are shared, and folders may be named after patients. The result is printable,
    since a folder's name can contain a line end.

    Args:
        text: a path, or "NAME:PATH", or several joined by " + ".
    """
    if _SHOWING_PATHS.get():
        return printable(text)
    return printable(" + ".join(_short(part) for part in text.split(" + ")))


def _short(part: str) -> str:
    name, colon, place = part.partition(":")
    if "/" in name or not colon:  # a path, not a source
        name, colon, place = "", "", part
    if place[:1] not in ("/", "~"):
        return part
    return f"{name}{colon}{Path(place).name or place}"


def bytes_in_words(n: int) -> str:
    """Return a size as "1.5 GB", "20.0 MB" or "3 kB"."""
    if n >= 1e6:
        return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
    return f"{n / 1e3:.0f} kB" if n >= 1e3 else f"{n} bytes"


# --- cells of a table that a spreadsheet opens

STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def quoted_cell(text: str) -> str:
    """Return text that a spreadsheet doesn't take for a formula: with ' in front, where it would.

    Source: OWASP, CSV injection.
    """
    return f"'{text}" if text.startswith(STARTS_FORMULA) else text


def plain_cell(text: str) -> str:
    """Return what `quoted_cell` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(STARTS_FORMULA) else text


def local_path(path: str) -> str:
    """Return a path relative to the working folder, or its name if it lies elsewhere."""
    below = Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd())
    return str(Path(path).relative_to(Path.cwd())) if below else short_path(path)
