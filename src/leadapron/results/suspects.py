"""films.csv, a scan's suspected films: written for people, and read where films are dropped."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from leadapron.detect.films.document import Suspect
from leadapron.sources.tables import named_columns
from leadapron.store import write_atomically
from leadapron.text import plain_cell, quoted_cell

__all__ = ["read_suspects", "write_suspects"]


def write_suspects(path: Path, suspects: Sequence[Suspect]) -> None:
    """Write suspected films, one a row, without a cell that a spreadsheet takes for a formula.

    Args:
        path: of the table; a file of this name is replaced.
        suspects: the most suspicious first.

    Raises:
        StoreError: a file that can't be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["rank", "id", "path", "score", "finding", "row", "column", "reasons"])
    for one in suspects:
        place = ["" if each is None else each for each in (one.row, one.column)]
        words = [quoted_cell(each) for each in (one.id, one.path, one.finding)]
        reasons = quoted_cell("; ".join(one.reasons))
        table.writerow([one.rank, *words[:2], f"{one.score:.2f}", words[2], *place, reasons])
    with write_atomically(path) as file:
        # Paths that aren't UTF-8 can't be written as they are.
        file.write(text.getvalue().encode(errors="backslashreplace"))


def read_suspects(path: Path) -> list[str]:
    """Return the films' names, the column "id" of any table.

    Raises:
        DataError: a table that can't be read, or without this column.
    """
    return [plain_cell(each) for each in named_columns(path, {"id": ("id",)}, {})["id"]]
