"""A study's rows as a table, each with the settings of its run."""

from __future__ import annotations

import importlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leadapron.errors import StoreError
from leadapron.results.folder import leaves
from leadapron.results.layout import StudyFolder
from leadapron.results.rows import read_rows

__all__ = ["load_rows", "rows_with_settings"]


def load_rows(folder: str | os.PathLike[str]) -> Any:
    """Return all rows of a study, each with the settings of its run.

    Args:
        folder: the folder of `leadapron study --out` or `run_study`, finished or not.

    Returns:
        A pandas DataFrame with one line per row; a list of dictionaries if pandas isn't installed.
        Columns are those of `Row`, then settings by their names: "seed", "poisoning.fraction".

    Raises:
        StoreError: a folder without a finished run, or files that can't be read.
    """
    rows = rows_with_settings(Path(folder))
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def rows_with_settings(folder: Path) -> list[dict[str, object]]:
    """Return all rows of a study, each as a dictionary with the settings of its run.

    Args:
        folder: as `load_rows`.

    Raises:
        StoreError: as `load_rows`.
    """
    found: list[dict[str, object]] = []
    for run in StudyFolder(folder).runs():
        if run.finished:
            settings = dict(leaves(run.facts().spec))
            found += [{**asdict(row), **settings} for row in read_rows(run.rows)]
    if not found:
        raise StoreError(f"{folder} holds no finished run of a study")
    return found
