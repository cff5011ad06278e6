"""Results that take long, such as a model's sweep, kept for later runs in the cache's folder.

    FOLDER/results/KEY.json    what decides it, the result, and the SHA-256 of both

One that can't be read, or isn't what was written, is as if it weren't there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leadapron import store
from leadapron.errors import StoreError
from leadapron.text import clean

__all__ = ["KEY", "Result", "keep", "make_private", "recall", "result_files", "results"]

KEY = re.compile(r"[0-9a-f]{16}")
"""What names an entry of the cache."""

LONGEST_WORDS = 1000
"""Characters of what is said of a film, a source or a result."""

RESULTS = "results"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A result that is kept beside the films.

    Args:
        key: its file's name, without the ending.
        about: what it is, in words.
        size: bytes.
        used: seconds since 1970 when it was last read.
    """

    key: str
    about: str
    size: int
    used: float


def keep(folder: Path, facts: Mapping[str, Any], value: Any, about: str) -> None:
    """Keep a result, in place of an older one.

    Args:
        folder: the cache's.
        facts: all that decides the result, as plain values.
        value: the result, as plain finite values.
        about: what it is, in words, for the cache's list.

    Raises:
        StoreError: a cache that can't be written.
    """
    make_private(folder / RESULTS)
    kept = {"about": about, "facts": facts, "value": value, "sha256": _digest([facts, value])}
    store.write_json(_result_file(folder, facts), kept)


def recall(folder: Path, facts: Mapping[str, Any]) -> Any:
    """Return the result that was kept for these facts; None where there is none, or a broken one.

    Args:
        folder: the cache's.
        facts: as given to `keep`.
    """
    file = _result_file(folder, facts)
    try:
        kept = store.read_json(file)
        value = kept["value"]
        sound = kept["sha256"] == _digest([facts, value])
    except (StoreError, KeyError, TypeError, ValueError, RecursionError):
        sound = False
    if not sound:
        return None
    with contextlib.suppress(OSError):
        os.utime(file)  # says when it was last used
    return value


def results(folder: Path) -> list[Result]:
    """Return the results that a cache holds, the last used first."""
    found = []
    for path in result_files(folder):
        with contextlib.suppress(OSError, StoreError, KeyError, TypeError):
            about = clean(str(store.read_json(path)["about"]), LONGEST_WORDS)
            facts = path.stat()
            found.append(
                Result(key=path.stem, about=about, size=facts.st_size, used=facts.st_mtime)
            )
    return sorted(found, key=lambda result: -result.used)


def result_files(folder: Path) -> list[Path]:
    """Return the files of all results that a cache holds, broken ones too."""
    return [path for path in (folder / RESULTS).glob("*.json") if KEY.fullmatch(path.stem)]


def make_private(folder: Path) -> None:
    """Make the cache's folder and an entry's, for their owner's eyes alone."""
    try:
        store.make_folder(folder)
    except (OSError, ValueError) as error:
        why = store.reason(error) if isinstance(error, OSError) else "no folder can be called so"
        raise StoreError(
            f"can't write the cache {folder.parent}: {why}; name another by "
            "`cache` FOLDER, or `cache` none to keep films in memory"
        ) from error


def _digest(value: Any) -> str:
    return hashlib.sha256(store.canonical_json(value).encode()).hexdigest()


def _result_file(folder: Path, facts: Mapping[str, Any]) -> Path:
    return folder / RESULTS / f"{_digest(facts)[:16]}.json"
