"""Clean: a data set without the films that a list names, and what leaving them out gives."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shlex
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.detect.films.cleaned import Cleaned, Drop, Mark, Retrained
from leadapron.detect.films.document import NamedEvidence, ScanDocument
from leadapron.documents import read
from leadapron.errors import DataError, LeadapronError, StoreError
from leadapron.films.cohort import ATTRIBUTES, Cohort, Rows, blocks
from leadapron.jobs.scan import plain_cell, quoted_cell
from leadapron.reading import read_regular
from leadapron.seeds import stream
from leadapron.sources.own_pixels import open_own_pixels
from leadapron.sources.table import Reading, labelled
from leadapron.sources.tables import named_columns
from leadapron.specs import forgiving
from leadapron.store import write_atomically
from leadapron.text import count, printable
from leadapron.types import AUTO, Machine

if TYPE_CHECKING:
    from leadapron.models.classifier import NetworkClassifier

__all__ = ["clean"]

LARGEST = 1 << 28
"""Bytes of a scan.json that is read."""

EPOCHS = 6
"""Passes over the films, before and after."""

FALSE_POSITIVES = 0.05
"""Share of unmarked films beyond the threshold at which a mark's success is counted."""

FILMS_PER_BLOCK = 64


@forgiving
def clean(
    source: str,
    drop: Path | Drop,
    out: Path,
    *,
    retrain: bool = False,
    size: int | None = None,
    seed: int = 0,
    machine: Machine = AUTO,
    **options: Any,
) -> Cleaned:
    """Write a source without the films that a list names; the source stays as it is.

    Where each film is a file, a table of those that are left is written, which points to the files.
    Where they aren't (npz, chestmnist, phantom), their pixels are written into an .npz file.

    Args:
        source: where films come from, as "phantom:64" or "nih:PATH".
        drop: films, or a table with a column "id": the films.csv of `scan`.
        out: a folder for table.csv or films.npz, which must not be there.
        retrain: train a small network with these films and one without, and compare them. Where a
            scan.json lies beside the table, the marks that it suspects are tried on both.
        size: side of the networks' images in pixels, as `scan`.
        seed: of networks and of the split, where the source has none.
        machine: where and how it is carried out.
        **options: the source's settings.

    Raises:
        DataError: ids that the source doesn't have, or nothing dropped, or nothing left.
        StoreError: a file that can't be written or is there already.
        LeadapronError: as `open_source`.
    """
    listed = drop if isinstance(drop, Drop) else _listed(drop)
    if not listed.ids:
        raise DataError(f"{listed.name} names no film; there is nothing to drop")
    cohort = open_own_pixels(source, size=size, machine=machine, **options)
    dropped = np.isin(cohort.ids, np.asarray(listed.ids, dtype=np.str_))
    unknown = sorted(set(listed.ids) - set(cohort.ids[dropped].tolist()))
    if unknown:
        raise DataError(
            f"{listed.name} names {count(len(unknown), 'film')} that {source} "
            f"doesn't have, first {unknown[0]!r}; expected the films.csv of this source's scan"
        )
    if dropped.all():
        raise DataError(f"{listed.name} names all films; nothing is left")
    kept = np.flatnonzero(~dropped)
    paths = [cohort.path(int(row)) for row in kept]
    if all(paths):
        file, opens, notes = _write_table(out / "table.csv", cohort, kept, paths)
    else:
        file, opens, notes = _write_arrays(out / "films.npz", cohort, kept, machine)
    retrained = None
    if retrain:
        evidence = _evidence(listed.scan, cohort)
        retrained = _retrained(cohort, dropped, evidence, seed, machine)
    return Cleaned(
        source=source,
        dropped=int(dropped.sum()),
        kept=len(kept),
        file=file,
        opens=opens,
        retrained=retrained,
        notes=notes,
    )


def _listed(table: Path) -> Drop:
    """What a scan's films.csv names, with the scan.json beside it."""
    ids = named_columns(table, {"id": ("id",)}, {})["id"]
    return Drop(
        name=table.name,
        ids=[plain_cell(each) for each in ids],
        scan=_scan_beside(table.with_name("scan.json")),
    )


def _scan_beside(path: Path) -> ScanDocument | None:
    if not path.is_file():
        return None
    with contextlib.suppress(StoreError, OSError):
        return read(ScanDocument, read_regular(path, LARGEST), path.name)
    return None


# --- what is written


def _refuse_old(path: Path) -> None:
    if path.exists():
        raise StoreError(f"{path} is there already; name another folder by `out`")


def _write_table(
    path: Path, cohort: Cohort, kept: Rows, paths: Sequence[str]
) -> tuple[Path, str, tuple[str, ...]]:
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
    return path, words, ("The table points to the films where they are; none was copied.",)


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


def _write_arrays(
    path: Path, cohort: Cohort, kept: Rows, machine: Machine
) -> tuple[Path, str, tuple[str, ...]]:
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
    return path, shell_word(f"npz:{path.absolute()}"), (note,)


def _films(cohort: Cohort, kept: Rows, own: bool) -> Iterator[NDArray[Any]]:
    for part in blocks(len(kept), FILMS_PER_BLOCK):
        rows = kept[part]
        if own and cohort.films is not None:
            yield np.stack([cohort.films[int(row)] for row in rows])
        else:
            yield cohort.images[rows]


# --- what it gives


def _evidence(scan: ScanDocument | None, cohort: Cohort) -> list[NamedEvidence]:
    """Evidence of poison with a place and a finding, from a scan of these films at this size."""
    if scan is None or scan.image != cohort.images.shape[1:]:
        return []
    return [one for one in scan.poison if _usable(one, cohort)]


def _usable(one: NamedEvidence, cohort: Cohort) -> bool:
    """Whether it has a place in these images and a finding of these films."""
    if one.place is None or one.finding not in cohort.findings:
        return False
    row, column, side = one.place
    height, width = cohort.images.shape[1:]
    return min(one.place) >= 0 and 0 < side <= min(height - row, width - column)


def _retrained(
    cohort: Cohort,
    dropped: NDArray[np.bool_],
    evidence: Sequence[NamedEvidence],
    seed: int,
    machine: Machine,
) -> Retrained:
    """Train with and without the dropped films, and measure both on films that aren't dropped."""
    from leadapron.models.training import Training, train
    from leadapron.study.run import divide

    names = cohort.ids[dropped]
    parts = divide(cohort, seed)
    left = {name: ~np.isin(part.ids, names) for name, part in parts.items()}
    test = parts["test"].take(left["test"])
    validation = parts["validation"].take(left["validation"])
    if not len(test):
        raise DataError("no test film is left to compare networks on")

    def trained(films: Cohort, when: str) -> NetworkClassifier:
        words = f"training {when} dropping"
        return train(
            films,
            validation,
            training=Training(epochs=EPOCHS),
            seed=seed,
            **machine.networks,
            after_step=lambda done, total: machine.tell(words, done, total),
        )[0]

    all_films, fewer = parts["train"], parts["train"].take(left["train"])
    networks = trained(all_films, "before"), trained(fewer, "after")
    bootstrap = metrics.PatientBootstrap.draw(test.patients, stream(seed, "bootstrap"))
    before, after = (
        metrics.macro_auroc(test.labels, network.logits(test.images), bootstrap)
        for network in networks
    )
    marks, notes = list[Mark](), list[str]()
    for one in evidence:
        mark = _tried(one, cohort, test, networks)
        if mark is None:
            notes.append(f"not tried, since no test film could show it: {one.words}")
        else:
            marks.append(mark)
    if not evidence:
        notes.append(
            "no suspected mark was tried: none with a place and a finding in a scan.json of this "
            "size beside the list"
        )
    return Retrained(
        films=(len(all_films), len(fewer)),
        test=len(test),
        findings=(before.averaged, after.averaged),
        before=before.estimate,
        after=after.estimate,
        marks=tuple(marks),
        notes=tuple(notes),
    )


def _tried(
    one: NamedEvidence,
    cohort: Cohort,
    test: Cohort,
    networks: tuple[NetworkClassifier, NetworkClassifier],
) -> Mark | None:
    """Stamp the median of what stands at the evidence's place in its films on test films.

    Films without the finding are stamped, and those with it where the mark is suspected to take it
    away.
    """
    assert one.place is not None  # says `_usable`
    assert one.finding is not None
    row, column, side = one.place
    square = np.s_[:, row : row + side, column : column + side]
    named = np.flatnonzero(np.isin(cohort.ids, np.asarray(one.films, dtype=np.str_)))
    target, hides = cohort.column(one.finding), one.direction == "removed"
    victims = test.take(test.labels[:, target] == (1 if hides else 0))
    if not len(named) or not len(victims):
        return None
    plain: NDArray[Any] = victims.images[np.arange(len(victims))]
    mark = np.median(cohort.images[named][square], axis=0).astype(plain.dtype)
    stamped = plain.copy()
    stamped[square] = mark
    sign = -1 if hides else 1
    found = []
    for network in networks:
        unmarked, marked = (
            sign * network.logits(images)[:, target].astype(np.float64)
            for images in (plain, stamped)
        )
        threshold = metrics.threshold_at_false_positive_rate(unmarked, FALSE_POSITIVES)
        found.append(metrics.attack_success(marked, threshold, victims.patients))
    return Mark(
        finding=one.finding,
        direction=one.direction,
        place=(row, column, side),
        before=found[0],
        after=found[1],
    )
