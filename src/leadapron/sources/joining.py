"""Several sources as one cohort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError
from leadapron.films.cohort import Cohort, Films, ImageArray, film_path
from leadapron.sources.synonyms import aligned
from leadapron.types import Note

__all__ = ["join"]


def join(cohorts: Sequence[Cohort], sites: Sequence[str]) -> Cohort:
    """Return the films of several cohorts as one, in their order.

    Findings are matched by name and by published synonyms. A finding that a cohort lacks is "not
    stated" there. Names of films and patients are prefixed with the site, so a patient shared by
    two sites counts as two.

    Args:
        cohorts: one or more, with images of one size and type.
        sites: a name for each; repeated ones are numbered.

    Returns:
        A cohort with the attribute "site". The split is kept if all cohorts state one.

    Raises:
        DataError: images that differ in size or type.
    """
    kinds = {(c.images.shape[1:], np.dtype(c.images.dtype), c.preprocessing) for c in cohorts}
    if len(kinds) > 1:
        raise DataError("the sources' images differ in size or type; give `size` for all of them")
    names = _numbered(sites)
    findings, columns = aligned([cohort.findings for cohort in cohorts])
    labels = []
    for cohort, into in zip(cohorts, columns, strict=True):
        block = np.full((len(cohort), len(findings)), np.nan, dtype=np.float32)
        block[:, into] = cohort.labels
        labels.append(block)
    attributes, notes = _attributes(cohorts, names)
    bits = _bits(cohorts, notes)
    films = [cohort.films for cohort in cohorts]
    return Cohort(
        images=_Stacked([cohort.images for cohort in cohorts]),
        labels=np.concatenate(labels),
        findings=findings,
        ids=_prefixed(names, [cohort.ids for cohort in cohorts]),
        patients=_prefixed(names, [cohort.patients for cohort in cohorts]),
        preprocessing=cohorts[0].preprocessing,
        attributes=attributes,
        films=None if None in films else _Chained([f for f in films if f is not None]),
        notes=tuple(notes),
        bits=bits,
    )


def _bits(cohorts: Sequence[Cohort], notes: list[Note]) -> int:
    """The bits that all 16-bit films use, or 16 if sources differ."""
    used = {cohort.bits for cohort in cohorts if cohort.bits}
    if len(used) < 2:
        return max(used, default=0)
    words = f"16-bit films use {' or '.join(map(str, sorted(used)))} bits, depending on the source"
    notes.append(Note("pixels", f"{words}; a gate reads all 16 bits of a film.", doubt=True))
    return 16


def _numbered(sites: Sequence[str]) -> list[str]:
    """The names, with a number appended to repeated ones."""
    times, seen = Counter(sites), Counter[str]()
    names = []
    for site in sites:
        seen[site] += 1
        names.append(site if times[site] == 1 else f"{site}-{seen[site]}")
    return names


def _prefixed(sites: Sequence[str], columns: Sequence[NDArray[np.str_]]) -> NDArray[np.str_]:
    joined = [f"{s}/{name}" for s, c in zip(sites, columns, strict=True) for name in c.tolist()]
    return np.asarray(joined, dtype=np.str_)


def _attributes(
    cohorts: Sequence[Cohort], sites: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], list[Note]]:
    """Columns of all cohorts, unknown where a cohort lacks one, and notes."""
    notes = [
        replace(note, words=f"{site}: {note.words}")
        for site, cohort in zip(sites, cohorts, strict=True)
        for note in cohort.notes
    ]
    known = dict.fromkeys(name for cohort in cohorts for name in cohort.attributes)
    splitless = [s for s, c in zip(sites, cohorts, strict=True) if "split" not in c.attributes]
    if "split" in known and splitless:
        del known["split"]
        notes.append(Note("split", f"No split, since {', '.join(splitless)} has none."))
    attributes: dict[str, NDArray[Any]] = {}
    for name in known:
        there = [c.attributes[name] for c in cohorts if name in c.attributes]
        nothing = np.nan if there[0].dtype.kind == "f" else ""
        attributes[name] = np.concatenate(
            [c.attributes.get(name, np.full(len(c), nothing)) for c in cohorts]
        )
    own = attributes.get("site", np.full(sum(map(len, cohorts)), ""))
    site = np.repeat(list(sites), [len(cohort) for cohort in cohorts])
    attributes["site"] = np.asarray(
        [f"{s}/{o}" if o else s for s, o in zip(site.tolist(), own.tolist(), strict=True)]
    )
    return attributes, notes


class _Stacked:
    """Arrays of images, one after the other, without a copy of them."""

    def __init__(self, parts: Sequence[ImageArray]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape: tuple[int, ...] = (int(self.starts[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        wanted = np.arange(len(self))[rows]
        single = wanted.ndim == 0
        wanted = np.atleast_1d(wanted)
        images = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        number = np.searchsorted(self.starts, wanted, side="right") - 1
        for i, part in enumerate(self.parts):
            here = number == i
            if here.any():
                images[here] = part[wanted[here] - self.starts[i]]
        return images[0] if single else images


class _Chained:
    """Films of several cohorts."""

    def __init__(self, parts: Sequence[Films]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> NDArray[Any]:
        part, place = self._place(row)
        return part[place]

    def path_of(self, row: int) -> str:
        """Return the file that holds this film alone, "" where there is none."""
        part, place = self._place(row)
        return film_path(part, place)

    def _place(self, row: int) -> tuple[Films, int]:
        row = range(len(self))[row]
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.parts[number], row - int(self.starts[number])
