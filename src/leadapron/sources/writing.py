"""Write a cohort as a source that opens: a table of its files, or an archive of its pixels."""

from __future__ import annotations

import csv
import io
import os
import shlex
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from leadapron.errors import DataError, LeadapronError, StoreError
from leadapron.films.cohort import ATTRIBUTES, Cohort, Rows, blocks
from leadapron.sources.table import Reading, labelled
from leadapron.store import write_atomically
from leadapron.text import printable, quoted_cell
from leadapron.types import Machine

__all__ = ["Written", "shell_word", "write_films"]

FILMS_PER_BLOCK = 64


class Written(NamedTuple):
    """A source that was written.

    Args:
        file: a table, or an .npz file.
        opens: the source that it is, and options to open it with, as the command line takes them.
        note: what to know about it.
    """

    file: Path
    opens: str
    note: str


def write_films(folder: Path, cohort: Cohort, kept: Rows, machine: Machine) -> Written:
    """Write some films of a cohort: a table that points to them, or an .npz file of their pixels.

    Args:
        folder: for table.csv where each film is a file, else for films.npz.
        cohort: the films.
        kept: (m,) which of them.
        machine: says how far it is.

    Raises:
        DataError: names of files or findings that a table can't hold.
        StoreError: a file that can't be written or is there already.
    """
    paths = [cohort.path(int(row)) for row in kept]
    if all(paths):
        return _write_table(folder / "table.csv", cohort, kept, paths)
    return _write_arrays(folder / "films.npz", cohort, kept, machine)


def _refuse_old(path: Path) -> None:
    if path.exists():
        raise StoreError(f"{path} is there already; name another folder by `out`")


def _write_table(path: Path, cohort: Cohort, kept: Rows, paths: Sequence[str]) -> Written:
    """Write a table that points to films where they are, from the folder that holds them all."""
    _refuse_old(path)
    root = os.path.commonpath([os.path.dirname(os.path.abspath(each)) for each in paths])  # noqa: PTH100, PTH120
    columns: dict[str, list[str]] = {
        "path": [f"./{os.path.relpath(each, root)}".replace(os.sep, "/") for each in paths],
    }
    if (cohort.patients[kept] != cohort.ids[kept]).any():  # they are known
        columns["patient"] = cohort.patients[kept].tolist()
    for name in ATTRIBUTES:
        if name in cohort.attributes:
            columns[name] = [_cell(value) for value in cohort.attributes[name][kept].tolist()]
    labels = {
        quoted_cell(finding): ["" if np.isnan(v) else f"{v:.0f}" for v in column]
        for finding, column in zip(cohort.findings, cohort.labels[kept].T, strict=True)
    }
    read_by = _read_by(columns, labels)
    columns |= labels
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([quoted_cell(name) for name in columns])
    for cells in zip(*columns.values(), strict=True):
        table.writerow([quoted_cell(cell) for cell in cells])
    try:
        content = text.getvalue().encode()
    except UnicodeEncodeError:
        raise DataError(
            "a film's path is not UTF-8 and can't be written to a table; rename it"
        ) from None
    with write_atomically(path) as file:
        file.write(content)
    table_file = shell_word(f"table:{path.absolute()}")
    words = f"{table_file} --source.root {shell_word(root)}{read_by}"
    return Written(path, words, "The table points to the films where they are; none was copied.")


def _read_by(columns: Mapping[str, list[str]], labels: Mapping[str, list[str]]) -> str:
    """The option that a table needs to be read as it was written; none where names do.

    Raises:
        DataError: findings called like other columns, or like the word for no finding.
    """
    together = {**{n: cells for n, cells in columns.items() if n != "path"}, **labels}
    if not labels:
        return ""
    distinct = labels.keys().isdisjoint(columns)
    names = ",".join(labels)
    for reading, option in (
        (Reading(), ""),
        (Reading(findings=names), f" --source.findings {shell_word(names)}"),
    ):
        try:
            found = labelled(together, columns["path"], "table.csv", reading)
        except LeadapronError:
            continue
        if distinct and found.findings == tuple(labels):
            return option
    raise DataError(
        f"findings {names} can't be columns of a table, since one of them reads as something else "
        "there; rename it"
    )


def shell_word(text: str) -> str:
    """Return text as one word that a shell reads; of one line, whatever it holds."""
    if text.isprintable():
        return shlex.quote(text)
    inner = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(inner)}'"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:g}"
    return str(value)


def _write_arrays(path: Path, cohort: Cohort, kept: Rows, machine: Machine) -> Written:
    """Write pixels and labels into an .npz file, a block at a time."""
    _refuse_old(path)
    sizes = {(form.height, form.width) for form in cohort.forms}
    own = len(sizes) == 1 and cohort.films is not None
    columns: dict[str, NDArray[Any]] = {
        "labels": cohort.labels[kept],
        "findings": np.asarray(cohort.findings, dtype=np.str_),
        "ids": cohort.ids[kept],
        "patients": cohort.patients[kept],
    }
    columns |= {
        name: cohort.attributes[name][kept] for name in ATTRIBUTES if name in cohort.attributes
    }
    with write_atomically(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as held:
        with held.open("images.npy", "w", force_zip64=True) as stream:
            for number, pixels in enumerate(_films(cohort, kept, own)):
                if not number:
                    header = {
                        "descr": npy.dtype_to_descr(pixels.dtype),
                        "fortran_order": False,
                        "shape": (len(kept), *pixels.shape[1:]),
                    }
                    npy.write_array_header_1_0(stream, header)
                stream.write(np.ascontiguousarray(pixels).tobytes())
                done = min((number + 1) * FILMS_PER_BLOCK, len(kept))
                machine.tell("writing films", done, len(kept))
        for name, values in columns.items():
            with held.open(f"{name}.npy", "w") as stream:
                npy.write_array(stream, values, allow_pickle=False)
    height, width = cohort.images.shape[1:]
    what = "their own pixels" if own else f"the {width}x{height} pixels that were looked at"
    note = f"The source's films aren't files; {path.name} holds {what}."
    return Written(path, shell_word(f"npz:{path.absolute()}"), note)


def _films(cohort: Cohort, kept: Rows, own: bool) -> Iterator[NDArray[Any]]:
    for part in blocks(len(kept), FILMS_PER_BLOCK):
        rows = kept[part]
        if own and cohort.films is not None:
            yield np.stack([cohort.films[int(row)] for row in rows])
        else:
            yield cohort.images[rows]
