"""Cache of results that are slow to compute, such as a model's sweep.

    FOLDER/results/KEY.json    the result's inputs, the result, and the SHA-256 of both

A damaged or unreadable result is ignored.
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
"""Key of an entry of the cache."""

LONGEST_WORDS = 1000
"""Most characters of a description of a film, a source or a result."""

RESULTS = "results"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A cached result.

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
    """Store a result, replacing an older one.

    Args:
        folder: the cache's.
        facts: everything that determines the result, as plain values.
        value: the result, as plain finite values.
        about: description, for the cache's list.

    Raises:
        StoreError: a cache that can't be written.
    """
    make_private(folder / RESULTS)
    kept = {"about": about, "facts": facts, "value": value, "sha256": _digest([facts, value])}
    store.write_json(_result_file(folder, facts), kept)


def recall(folder: Path, facts: Mapping[str, Any]) -> Any:
    """Return the result stored for these facts; None if it is missing or damaged.

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
        os.utime(file)  # time of last use
    return value


def results(folder: Path) -> list[Result]:
    """Return a cache's results, the last used first."""
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
    """Return the files of all of a cache's results, including damaged ones."""
    return [path for path in (folder / RESULTS).glob("*.json") if KEY.fullmatch(path.stem)]


def make_private(folder: Path) -> None:
    """Create the cache's folder and an entry's, readable by the owner alone."""
    try:
        store.make_folder(folder)
    except (OSError, ValueError) as error:
        why = store.reason(error) if isinstance(error, OSError) else "invalid folder name"
        raise StoreError(
            f"can't write the cache {folder.parent}: {why}; choose another with "
            "`cache` FOLDER, or `cache` none to keep films in memory"
        ) from error


def _digest(value: Any) -> str:
    return hashlib.sha256(store.canonical_json(value).encode()).hexdigest()


def _result_file(folder: Path, facts: Mapping[str, Any]) -> Path:
    return folder / RESULTS / f"{_digest(facts)[:16]}.json"
