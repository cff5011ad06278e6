"""Last step of every source of films in files: decode them, leave out unreadable ones, check."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UsageError
from leadapron.films.cache import Cache, Decoded, decode
from leadapron.films.cohort import Cohort, Reordered
from leadapron.films.preprocessing import FEWEST, FULL, Preprocessing
from leadapron.sources.tables import LabelTable
from leadapron.sources.words import listed
from leadapron.text import count
from leadapron.types import Form, Note, Odd

__all__ = ["Leakage", "assemble", "doubts_of"]

Leakage = Literal["refuse", "allow"]

FEW = 0.05
"""Share of films that may use fewer bits than the others without a warning: dark films."""


def assemble(
    films: Any,
    table: LabelTable,
    *,
    source: str,
    preprocessing: Preprocessing,
    cache: Cache | None,
    leakage: Leakage = "refuse",
    bits: int = 0,
) -> Cohort:
    """Decode films and return their cohort.

    Args:
        films: (n) a `Decodable` that is also `Films`, and has `of_bits` as `FilmFiles`.
        table: labels, patients and attributes, row by row.
        source: name of the films in the cache.
        preprocessing: film to image.
        cache: which films are decoded, where images are kept, and whether an unreadable film stops;
            all, in memory and yes if left out.
        leakage: what to do about patients with films on both sides of the source's split.
        bits: number of bits in use in 16-bit films, 8 to 16; 0 takes the bits of their highest
            value.

    Raises:
        UsageError: bits out of range.
        DataError: films that can't be decoded, or a split that leaks.
        StoreError: as `decode`.
    """
    table = table.cleaned()
    notes = list(table.notes)
    _refuse_repeats(table)
    _refuse_leaks(table.patients, table.attributes.get("split"), leakage, notes)
    if bits and not FEWEST <= bits <= 16:
        raise UsageError(f"`source.bits` {bits}: expected {FEWEST} to 16")
    kept = cache or Cache()
    if kept.choose is not None:
        rows = kept.choose(len(table))
        films, table = _Chosen(films, rows), table.take(rows)
        kept = kept if len(rows) else Cache()  # nothing to keep
    films = films.of_bits(bits) if bits else films
    decoded = decode(films, preprocessing, kept, source)
    lengths = _lengths(decoded.forms)
    used, said = _used(lengths, bits)
    if not bits and used != 16 and lengths:
        films = films.of_bits(used)
        decoded = decode(films, preprocessing, kept, source)
    cohort = Cohort(
        images=decoded.images,
        labels=table.labels,
        findings=table.findings,
        ids=table.ids,
        patients=table.patients,
        preprocessing=preprocessing,
        attributes=table.attributes,
        films=films,
        notes=(
            *notes,
            *said,
            *_form_notes(decoded.forms),
            *_bad_notes(decoded.bad),
            *_contradictions(table, decoded),
        ),
        bits=used if lengths else 0,
    )
    good = np.setdiff1d(np.arange(len(table)), list(decoded.bad))
    cohort = cohort if len(good) == len(table) else cohort.take(good)
    return replace(cohort, forms=dict(decoded.forms))  # without unreadable films


class _Chosen(Reordered):
    """Some of the films of a source: `Decodable` and `Films`."""

    @property
    def paths(self) -> list[str]:
        """The films' files: one each, or the files that all films of the source share."""
        paths = self.base.paths
        shared = len(paths) != len(self.base)
        return list(paths) if shared else [paths[row] for row in self.order]

    @property
    def decoder(self) -> str:
        """The source's decoder; if films share a file, the chosen rows too."""
        rows = hashlib.sha256(np.ascontiguousarray(self.order).tobytes()).hexdigest()
        return f"{self.base.decoder}, rows {rows[:16]}"

    def image(self, row: int, preprocessing: Preprocessing) -> tuple[NDArray[Any], Form]:
        """Return a film's image and its form."""
        made: tuple[NDArray[Any], Form] = self.base.image(int(self.order[row]), preprocessing)
        return made

    def of_bits(self, bits: int) -> Self:
        """Return the same films with another number of bits in use."""
        return type(self)(self.base.of_bits(bits), self.order)


def _lengths(forms: Mapping[Form, int]) -> Counter[int]:
    """Number of 16-bit pictures and arrays by the bits that they use."""
    lengths = Counter[int]()
    for form, n in forms.items():
        if form.used:
            lengths[form.used] += n
    return lengths


def _used(lengths: Mapping[int, int], stated: int) -> tuple[int, list[Note]]:
    """The bits in use in a set of 16-bit films, and notes about them.

    Many sets have a highest value of half the possible one; few have a quarter.
    """
    if not lengths or stated:
        return stated, []
    most, films = max(lengths), sum(lengths.values())
    lower = {used: n for used, n in lengths.items() if used < most - 1}
    notes = []
    if most < FEWEST:
        words = f"Nearly black: {count(films, '16-bit film')} with values below {1 << most}."
        return 16, [Note("pixels", words, doubt=True)]
    if most == FULL:
        words = (
            "The films have 16 bits a pixel, and none is brighter than half. If their values have "
            "15 bits, use --source.bits 15."
        )
        notes.append(Note("pixels", words, doubt=True))
        most = 16
    elif most < FULL:
        words = (
            f"The films have 16 bits a pixel, but none uses more than {most}: these were spread "
            "over all "
            f"levels, as --source.bits {most} does."
        )
        notes.append(Note("pixels", words))
    if sum(lower.values()) > FEW * films:
        words = (
            f"{count(sum(lower.values()), 'film')} of {films:,} with 16 bits use at most "
            f"{max(lower)} of them, where others use {most}. They appear darker if they come from "
            "another device or program; open them separately, with --source.bits."
        )
        notes.append(Note("pixels", words, doubt=True))
    return most, notes


def _refuse_repeats(table: LabelTable) -> None:
    """Before anything is decoded."""
    names, counts = np.unique(table.ids, return_counts=True)
    repeated = names[counts > 1]
    if len(repeated):
        raise DataError(
            f"{table.name} names {count(len(repeated), 'film')} more than once, first "
            f"{str(repeated[0])!r}"
        )


def _refuse_leaks(
    patients: NDArray[np.str_], split: NDArray[Any] | None, leakage: Leakage, notes: list[Note]
) -> None:
    if split is None:
        return
    parts = [np.unique(patients[split == name]) for name in ("train", "validation", "test")]
    names, seen = np.unique(np.concatenate(parts), return_counts=True)
    shared = names[seen > 1]
    if not len(shared):
        return
    words = f"{count(len(shared), 'patient')} on more than one side of the split"
    if leakage == "refuse":
        raise DataError(
            f"{words}: results would be too optimistic; correct the split, or use "
            "`source.leakage` allow"
        )
    said = f"{words}; results on its test films are too optimistic."
    notes.append(Note("split", said, doubt=True))


def _contradictions(table: LabelTable, decoded: Decoded) -> list[Note]:
    groups = _contradicting(table.labels, decoded)
    if not groups:
        return []
    first = groups[0]
    both = (table.labels[first] == 1).any(axis=0) & (table.labels[first] == 0).any(axis=0)
    finding = table.findings[int(np.argmax(both))]
    words = (
        f"{count(sum(map(len, groups)), 'film')} in {count(len(groups), 'group')} of identical "
        f"films have contradictory labels, first in {finding}; leadapron describe lists "
        "them."
    )
    return [Note("copies", words, doubt=True)]


def _contradicting(labels: NDArray[np.float32], decoded: Decoded) -> list[NDArray[np.int64]]:
    """Groups of rows with equal images and contradictory labels, except blank films."""
    good = np.setdiff1d(np.arange(len(labels)), list(decoded.bad))
    # The first half of a digest is enough to find groups, and sorts ten times as fast.
    half = decoded.digests.view(np.uint64)[::2][good]
    order = np.argsort(half, kind="stable")
    alike = half[order][1:] == half[order][:-1]
    if not alike.any():
        return []
    copies = good[np.sort(order[np.append(alike, False) | np.append(False, alike)])]
    _, group = np.unique(decoded.digests[copies], return_inverse=True)
    present = np.zeros((group.max() + 1, labels.shape[1]), dtype=np.bool_)
    absent = present.copy()
    np.logical_or.at(present, group, labels[copies] == 1)
    np.logical_or.at(absent, group, labels[copies] == 0)
    wrong = np.flatnonzero((present & absent).any(axis=1))
    groups = [copies[group == number] for number in wrong.tolist()]
    return sorted(
        (rows for rows in groups if np.ptp(decoded.images[rows[0]]) > 0),
        key=lambda rows: int(rows[0]),
    )


_ODD: Mapping[Odd, tuple[str, bool]] = {
    "colour": (
        "Converted to grey: {} in colour, with transparency or in black and white.",
        False,
    ),
    "colour of 16 bits": (
        "{} in 16-bit colour, of which the upper 8 bits were read, so they are dark. Grey ones "
        "are read "
        "whole.",
        True,
    ),
    "turned": ("Rotated to their EXIF orientation: {}.", False),
    "may be turned": ("{} with an unreadable EXIF orientation.", True),
    "not square": (
        "Enlarged along one side because their pixels aren't square: {}.",
        False,
    ),
    "contradicts its presentation": (
        "{} whose photometric interpretation and presentation LUT shape contradict each other.",
        True,
    ),
    "looks inverted": (
        "{} brighter in the upper corners than inside; the photometric interpretation may be "
        "wrong, or unexposed areas are white.",
        True,
    ),
    "exceeds its bits": (
        "{} with values that need more bits than the header states; all bits were read "
        "where the values jump without the upper ones.",
        True,
    ),
    "has its bits elsewhere": (
        "{} whose values are in the lower bits of their words, not in the upper bits as the header "
        "states; the lower bits were read.",
        True,
    ),
    "has the other sign": (
        "{} whose values jump with the sign that the header states; the other sign was used.",
        True,
    ),
    "has a table of other bits": (
        "{} with a lookup table of another number of bits than it states; the table's actual range "
        "was used.",
        True,
    ),
    "is beside its window": (
        "{} with a window or table in the header that shows nothing; the next one was used, or the "
        "lowest to the highest value. See --source.window.",
        True,
    ),
    "loses its greys": (
        "{} displayed nearly all black or white, or in two greys, although the stored values "
        "vary; the "
        "window or table may be wrong. See --source.window.",
        True,
    ),
}
"""The note for each irregularity of a film, and whether it is a warning."""


def doubts_of(form: Form) -> list[str]:
    """Return the warnings about the grey levels of one film."""
    said = [_ODD[odd] for odd in form.odd]
    return [str(Note("pixels", words.format("a film"), doubt)) for words, doubt in said if doubt]


def _is(odd: Odd, form: Form) -> bool:
    return odd in form.odd


def _form_notes(forms: Mapping[Form, int]) -> list[Note]:
    """Notes about the films' formats."""

    def said(which: Callable[[Form], bool], words: str, doubt: bool = False) -> list[Note]:
        films = sum(n for form, n in forms.items() if which(form))
        return [Note("pixels", words.format(count(films, "film")), doubt)] if films else []

    notes = [
        *said(lambda form: form.bits == 16, "16 bits a pixel: {}."),
        *said(lambda form: form.photometric == "MONOCHROME1", "MONOCHROME1, inverted: {}."),
    ]
    for odd, (words, doubt) in _ODD.items():
        notes += said(partial(_is, odd), words, doubt)
    windows = Counter[str]()
    for form, n in forms.items():
        if form.window:
            windows[form.window] += n
    if windows:
        notes.append(Note("pixels", f"Windows: {_window_words(windows)}."))
    return notes


_WINDOWS = {
    "table": "the header's VOI table",
    "film": "lowest to highest value of the film",
    "full": "full range of the stored bits",
}


def _window_words(windows: Counter[str]) -> str:
    parts = [
        f"{words} ({count(windows[k], 'film')})" for k, words in _WINDOWS.items() if windows[k]
    ]
    pairs = {value: n for value, n in windows.items() if "/" in value}
    if pairs:
        numbers = np.array([[float(x) for x in value.split("/")] for value in pairs])
        ends = [
            f"{low:g}" if low == high else f"{low:g} to {high:g}"
            for low, high in zip(numbers.min(axis=0), numbers.max(axis=0), strict=True)
        ]
        parts.insert(0, f"centre {ends[0]}, width {ends[1]} ({count(sum(pairs.values()), 'film')})")
    return "; ".join(parts)


def _bad_notes(bad: Mapping[int, str]) -> list[Note]:
    if not bad:
        return []
    said = listed([bad[row] for row in sorted(bad)])
    return [Note("files", f"Left out: {count(len(bad), 'film')} that can't be decoded: {said}.")]
